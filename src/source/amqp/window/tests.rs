//! Tests of the window: by hand, and by property against a model of a server. They open no connection.

use proptest::prelude::*;

use super::*;

fn print(text: &str) -> Print {
    Print::of(None, [b"c", b"", text.as_bytes()])
}

fn with_id(id: &str) -> Print {
    Print::of(Some(id), [b"c", b"", b""])
}

/// A window that has taken `texts`, of which the first `acked` were acknowledged.
fn window(texts: &[&str], acked: usize) -> Window {
    let mut window = Window::new();
    window.begin(false);
    texts.iter().for_each(|text| window.add(print(text)));
    if acked > 0 {
        assert_eq!(window.acknowledge(acked as u64, true), Some(acked as u64));
    }
    window
}

/// The verdicts on messages that are delivered again.
fn again(window: &mut Window, texts: &[&str]) -> Vec<Verdict> {
    window.begin(false);
    let mut verdicts: Vec<_> = texts.iter().flat_map(|text| window.take(print(text), true)).collect();
    verdicts.extend(window.settle());
    verdicts
}

#[test]
fn what_was_not_acknowledged_is_dropped_when_it_comes_again() {
    use Verdict::{Again, New};
    assert_eq!(again(&mut window(&["a", "b", "c"], 0), &["a", "b", "c", "d"]), [Again, Again, Again, New]);
    // The acknowledgement of a and b has arrived, or has not, or that of a alone has.
    assert_eq!(again(&mut window(&["a", "b", "c"], 2), &["c", "d"]), [Again, New]);
    assert_eq!(again(&mut window(&["a", "b", "c"], 2), &["a", "b", "c", "d"]), [Again, Again, Again, New]);
    assert_eq!(again(&mut window(&["a", "b", "c"], 2), &["b", "c", "d"]), [Again, Again, New]);
    // Messages of which only the server knows that they were delivered.
    assert_eq!(again(&mut window(&["a"], 1), &["b", "c"]), [New, New]);
}

#[test]
fn equal_messages_are_doubtful_where_more_than_one_place_fits() {
    use Verdict::{Again, Doubtful, New};
    // Either both came again, or the acknowledgement of the first has arrived and the second one here is new.
    assert_eq!(again(&mut window(&["a", "a"], 1), &["a", "a"]), [Again, Doubtful]);
    assert_eq!(again(&mut window(&["a", "a"], 1), &["a"]), [Again]);
    assert_eq!(again(&mut window(&["a"], 1), &["a"]), [Doubtful]);
    assert_eq!(again(&mut window(&["a", "a"], 0), &["a", "a", "a"]), [Again, Again, New]);
}

#[test]
fn a_message_with_an_id_is_never_doubtful() {
    let mut window = Window::new();
    window.begin(false);
    window.add(with_id("1"));
    window.acknowledge(1, true);
    window.begin(false);
    assert_eq!(window.take(with_id("1"), true), [Verdict::Again]);
    assert_eq!(window.take(with_id("2"), true), [Verdict::New]);
}

#[test]
fn a_killed_server_may_forget_acknowledgements_that_it_had() {
    let mut window = Window::new();
    window.begin(false);
    ["a", "b", "c"].iter().for_each(|id| window.add(with_id(id)));
    assert_eq!(window.acknowledge(3, true), Some(3));
    window.confirm(3);
    assert!(window.is_empty());
    window.begin(true);
    assert_eq!(window.take(with_id("b"), true), [Verdict::Again]);
    // c was lost with the server.
    assert_eq!(window.take(with_id("d"), true), [Verdict::New]);
}

#[test]
fn acknowledgements_wait_for_the_shards_and_for_the_next_message() {
    let mut window = window(&["a", "b", "c"], 0);
    assert_eq!(window.acknowledge(2, false), Some(2));
    assert_eq!(window.acknowledge(3, false), None, "the last one waits");
    assert_eq!(window.acknowledge(3, true), Some(3));
    window.confirm(2);
    window.add(print("d"));
    assert_eq!(window.acknowledge(4, true), Some(4));
    let saved = window.save(false);
    assert_eq!((saved.taken, saved.prints.len()), (4, 2));
}

/// A queue of a server: messages by their number, and whether each was delivered before.
#[derive(Default)]
struct Model {
    ready: VecDeque<(u64, bool)>,
    unacked: VecDeque<(u64, u64)>,
    tag: u64,
    published: u64,
}

impl Model {
    fn deliver(&mut self) -> Option<(u64, bool)> {
        let (number, redelivered) = self.ready.pop_front()?;
        self.tag += 1;
        self.unacked.push_back((self.tag, number));
        Some((number, redelivered))
    }

    fn acknowledge(&mut self, tag: u64) {
        self.unacked.retain(|(unacked, _)| *unacked > tag);
    }

    fn cut(&mut self) {
        while let Some((_, number)) = self.unacked.pop_back() {
            self.ready.push_front((number, true));
        }
        self.tag = 0;
    }
}

#[derive(Debug, Clone)]
enum Step {
    Publish(u8),
    /// The window gets so many messages.
    Deliver(usize),
    /// The server delivers so many messages that are never read.
    Unread(usize),
    /// The window acknowledges, and the server gets that at once, or when it is asked.
    Acknowledge {
        last: bool,
        arrives: bool,
    },
    Confirm,
    /// The connection is cut. `upgrade`: another process goes on.
    Cut {
        upgrade: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u8..3).prop_map(Step::Publish),
        4 => (1_usize..5).prop_map(Step::Deliver),
        1 => (1_usize..4).prop_map(Step::Unread),
        3 => (any::<bool>(), any::<bool>()).prop_map(|(last, arrives)| Step::Acknowledge { last, arrives }),
        2 => Just(Step::Confirm),
        2 => any::<bool>().prop_map(|upgrade| Step::Cut { upgrade }),
    ]
}

/// What the clients got: numbers of messages, and `None` for a gap.
struct Run {
    server: Model,
    window: Window,
    letters: Vec<u8>,
    with_ids: bool,
    in_flight: Option<u64>,
    held: VecDeque<u64>,
    shown: Vec<Option<u64>>,
    saved: Saved,
}

impl Run {
    fn print(&self, number: u64) -> Print {
        let letter = self.letters[usize::try_from(number).unwrap()];
        let id = number.to_string();
        Print::of(self.with_ids.then_some(&id), [b"c", b"", &[letter]])
    }

    fn verdicts(&mut self, verdicts: Vec<Verdict>) {
        for verdict in verdicts {
            let number = self.held.pop_front().unwrap();
            match verdict {
                Verdict::New => self.shown.push(Some(number)),
                Verdict::Again => {}
                Verdict::Doubtful => self.shown.push(None),
            }
        }
        self.saved = self.window.save(true);
    }

    fn deliver(&mut self) -> bool {
        let Some((number, redelivered)) = self.server.deliver() else { return false };
        self.held.push_back(number);
        let verdicts = self.window.take(self.print(number), redelivered);
        self.verdicts(verdicts);
        true
    }

    fn arrive(&mut self) {
        if let Some(tag) = self.in_flight.take() {
            self.server.acknowledge(tag);
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Publish(letter) => {
                self.letters.push(letter);
                self.server.ready.push_back((self.server.published, false));
                self.server.published += 1;
            }
            Step::Deliver(count) => (0..count).for_each(|_| {
                self.deliver();
            }),
            Step::Unread(count) => {
                (0..count).for_each(|_| {
                    self.server.deliver();
                });
                self.cut(false);
            }
            Step::Acknowledge { last, arrives } => {
                if last {
                    self.saved = self.window.save(false);
                }
                if let Some(tag) = self.window.acknowledge(u64::MAX, last) {
                    self.in_flight = Some(tag);
                }
                if arrives {
                    self.arrive();
                }
            }
            Step::Confirm => {
                self.arrive();
                let tag = self.window.acknowledged();
                self.window.confirm(tag);
                // The last one may be acknowledged only if the successor knows that.
                self.saved = self.window.save(false);
            }
            Step::Cut { upgrade } => self.cut(upgrade),
        }
    }

    fn cut(&mut self, upgrade: bool) {
        self.in_flight = None;
        self.held.clear();
        self.server.cut();
        if upgrade {
            self.window = Window::restore(self.saved.clone());
        }
        self.window.begin(false);
    }
}

proptest! {
    #[test]
    fn nothing_is_shown_twice_and_nothing_is_lost_without_a_gap(
        steps in prop::collection::vec(step(), 0..60),
        with_ids: bool,
    ) {
        let mut run = Run {
            server: Model::default(),
            window: Window::new(),
            letters: Vec::new(),
            with_ids,
            in_flight: None,
            held: VecDeque::new(),
            shown: Vec::new(),
            saved: Window::new().save(true),
        };
        run.window.begin(false);
        for step in steps {
            run.step(step);
        }
        while run.deliver() {}
        let verdicts = run.window.settle();
        run.verdicts(verdicts);
        prop_assert!(run.held.is_empty());
        let mut next = 0;
        let mut gap = false;
        for shown in &run.shown {
            match shown {
                None => gap = true,
                Some(number) => {
                    prop_assert!(*number >= next, "{number} is shown twice: {:?}", run.shown);
                    prop_assert!(*number == next || gap, "{next} is lost without a gap: {:?}", run.shown);
                    (next, gap) = (number + 1, false);
                }
            }
        }
        prop_assert!(next == run.server.published || gap, "the end is lost: {:?}", run.shown);
        prop_assert!(!with_ids || run.shown.iter().all(Option::is_some), "a gap without need: {:?}", run.shown);
    }
}
