//! Two sources that misbehave by a seed, against an oracle: no message of a confirmed channel is lost without a gap, none comes
//! twice or out of order, and what one source refuses or loses touches nothing of the other's.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use proptest::prelude::*;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use self::kept::rules;
use super::*;
use crate::{
    cursor::{NodeId, Position},
    event::{Form, Message},
    hub::Sequencer,
    metrics::Metrics,
    name::ChannelName,
    pattern, sse,
};

/// Keeps what a shard would get.
#[derive(Default)]
struct Recorder(Mutex<Vec<Delivery>>);

impl Outlet for Recorder {
    fn push(&self, deliveries: &mut dyn Iterator<Item = Delivery>) {
        self.0.lock().unwrap().extend(deliveries);
    }

    fn wait_for_space(&self, _: Duration) {}
}

impl Recorder {
    /// Returns what it got, in words: `open c`, `gap c,d`, `refused c`, `gone c`, `c=data`.
    fn words(&self) -> Vec<String> {
        let list = |names: &[ChannelName]| names.iter().map(ChannelName::as_str).collect::<Vec<_>>().join(",");
        let mut last = Position(0);
        let mut next = |position: Position| {
            assert!(position > last, "{position} after {last}");
            last = position;
        };
        let deliveries = self.0.lock().unwrap();
        let word = |delivery: &Delivery| {
            Some(match delivery {
                Delivery::Publish(event, _) => {
                    next(event.position());
                    let data = sse::decode_frame(event.frame(Form::Plain)).data;
                    format!("{}={}", event.channel(), String::from_utf8(data).unwrap())
                }
                // The channel was open already.
                Delivery::Confirmed(_, Some(Position(0))) => return None,
                Delivery::Confirmed(name, _) => format!("open {name}"),
                Delivery::Reconnected(names, hole) => {
                    assert!(hole.begin < hole.end, "{hole:?}");
                    next(hole.end);
                    let mut names = names.to_vec();
                    names.sort();
                    format!("gap {}", list(&names))
                }
                Delivery::Journal(journal, report, hole) => {
                    next(hole.end);
                    match report {
                        JournalReport::Began { since, .. } => format!("journal {journal} began {since}"),
                        JournalReport::Lost { end } => format!("journal {journal} lost {end}"),
                        JournalReport::Reached { end, .. } => format!("journal {journal} reached {end}"),
                    }
                }
                Delivery::Refused(name, _) => format!("refused {name}"),
                Delivery::Unsubscribed(name) => format!("gone {name}"),
                Delivery::Timed(timed) => format!("timed {timed}"),
                Delivery::Advance(_) | Delivery::Lag(_) | Delivery::Query(_) => return None,
            })
        };
        deliveries.iter().filter_map(word).collect()
    }
}

const REDIS: Spec = Spec { id: "fake", delivers: Delivers::Fanout, interest: Interested::OnDemand, journals: 0 };

fn name(text: &str) -> ChannelName {
    ChannelName::subscribable(text).unwrap()
}

fn message(channel: &str, data: &str) -> Message {
    Message::new(name(channel), None, data.to_owned().into())
}

type Wanted = BTreeMap<ChannelName, Generation>;

/// A source: the subscriptions that it was sent and has not answered, and whether it is connected.
struct Fake {
    id: SourceId,
    interest: UnboundedReceiver<Interest>,
    /// Subscribed to at the server; the dispatcher may not know yet.
    wanted: Wanted,
    /// Not confirmed.
    unanswered: Wanted,
    connected: bool,
    /// How many messages were published at the server, by channel.
    published: HashMap<&'static str, u32>,
}

struct Bench {
    recorder: Arc<Recorder>,
    dispatcher: Dispatcher,
    fakes: Vec<Fake>,
}

impl Bench {
    fn new(sources: usize) -> Self {
        let mut bench = Self::of(&vec![REDIS; sources]);
        (0..sources).for_each(|source| bench.reconnect(source));
        bench
    }

    /// Sources that have not been connected.
    fn of(specs: &[Spec]) -> Self {
        let recorder = Arc::new(Recorder::default());
        let (senders, receivers): (Vec<_>, Vec<_>) = specs.iter().map(|_| unbounded_channel()).unzip();
        let dispatcher = Dispatcher::new(
            Sequencer::new(NodeId::random(), 1),
            vec![Arc::clone(&recorder) as Arc<dyn Outlet>],
            specs.iter().copied().zip(senders).collect(),
            Arc::new(Metrics::default()),
            Duration::from_secs(2),
        );
        let fake = |(id, interest)| Fake {
            id,
            interest,
            wanted: Wanted::new(),
            unanswered: Wanted::new(),
            connected: false,
            published: HashMap::new(),
        };
        Self { recorder, dispatcher, fakes: receivers.into_iter().enumerate().map(fake).collect() }
    }

    fn words(&self) -> Vec<String> {
        self.recorder.words()
    }

    /// The source takes the requests that it was sent.
    fn take_interest(&mut self, source: SourceId) {
        let fake = &mut self.fakes[source];
        while let Ok(interest) = fake.interest.try_recv() {
            match interest {
                Interest::Subscribe(name, generation) => {
                    fake.wanted.insert(name.clone(), generation);
                    fake.unanswered.insert(name, generation);
                }
                Interest::Unsubscribe(name) => {
                    fake.wanted.remove(&name);
                    fake.unanswered.remove(&name);
                }
            }
        }
    }

    fn confirm(&mut self, source: SourceId, channel: &str) {
        let fake = &mut self.fakes[source];
        if fake.connected
            && let Some(generation) = fake.unanswered.remove(&name(channel))
        {
            self.dispatcher.confirmed(source, [(&name(channel), generation)]);
        }
    }

    fn refuse(&mut self, source: SourceId, channel: &str) {
        let fake = &mut self.fakes[source];
        if fake.connected
            && let Some(generation) = fake.unanswered.remove(&name(channel))
        {
            fake.wanted.remove(&name(channel));
            self.dispatcher.refused(source, &name(channel), generation, "forbidden");
        }
    }

    fn disconnect(&mut self, source: SourceId) {
        self.fakes[source].connected = false;
        self.dispatcher.disconnected(source, "cut");
    }

    fn reconnect(&mut self, source: SourceId) {
        self.take_interest(source);
        let fake = &mut self.fakes[source];
        if !fake.connected {
            fake.connected = true;
            fake.unanswered.clear();
            let confirmed = fake.wanted.iter().map(|(name, &generation)| (name, generation));
            self.dispatcher.reconnected(fake.id, self.dispatcher.source_time(), confirmed);
        }
    }

    /// Publishes at the server; the source delivers it if it is connected and subscribed.
    fn publish(&mut self, source: SourceId, channel: &'static str) {
        let fake = &mut self.fakes[source];
        let number = fake.published.entry(channel).or_default();
        *number += 1;
        // Of several copies a source publishes one.
        let is_wanted = fake.wanted.keys().any(|name| pattern::matches(name.as_str(), channel));
        if fake.connected && is_wanted {
            self.dispatcher.publish(source, [message(channel, &format!("{source}:{number}"))], None);
        }
    }
}

#[derive(Debug, Clone)]
enum Input {
    Subscribe(usize),
    Release(usize),
    TakeInterest(SourceId),
    Confirm(SourceId, usize),
    Refuse(SourceId, usize),
    Disconnect(SourceId),
    Reconnect(SourceId),
    Publish(SourceId, usize),
}

const CHANNELS: [&str; 3] = ["a", "b", "c"];
/// What can be subscribed to: the channels, and patterns.
const SUBJECTS: [&str; 6] = ["a", "b", "c", "*", "b*", "c*"];

fn input() -> impl Strategy<Value = Input> {
    let (source, published, channel) = (0..2_usize, 0..CHANNELS.len(), 0..SUBJECTS.len());
    prop_oneof![
        3 => channel.clone().prop_map(Input::Subscribe),
        1 => channel.clone().prop_map(Input::Release),
        4 => source.clone().prop_map(Input::TakeInterest),
        5 => (source.clone(), channel.clone()).prop_map(|(source, channel)| Input::Confirm(source, channel)),
        1 => (source.clone(), channel.clone()).prop_map(|(source, channel)| Input::Refuse(source, channel)),
        1 => source.clone().prop_map(Input::Disconnect),
        2 => source.clone().prop_map(Input::Reconnect),
        12 => (source, published).prop_map(|(source, channel)| Input::Publish(source, channel)),
    ]
}

/// Checks what a shard got. `steady`: source 1 was never disconnected and has refused nothing.
fn check(words: &[String], steady: bool) -> Result<(), TestCaseError> {
    // For each subject, the last number of each source on each of its channels, and whether the next one must follow it at once.
    let mut last: HashMap<(&str, String, String), (u32, bool)> = HashMap::new();
    let mut open: HashMap<&str, bool> = HashMap::new();
    for word in words {
        let forget = |last: &mut HashMap<(&str, String, String), (u32, bool)>, names: &str, all: bool| {
            for ((subject, _, source), (_, follows)) in last {
                if names.split(',').any(|name| name == *subject) && (all || !steady || source == "0") {
                    *follows = false;
                }
            }
        };
        match word.split_once(' ') {
            Some(("open", channel)) => {
                prop_assert!(!open.insert(channel, true).unwrap_or_default(), "{channel} was open");
                forget(&mut last, channel, true);
            }
            Some(("gone", channel)) => {
                open.insert(channel, false);
                forget(&mut last, channel, true);
            }
            Some(("refused", channel)) => {
                prop_assert!(!steady, "one source's refusal ended a channel that the other delivers");
                open.insert(channel, false);
                forget(&mut last, channel, true);
            }
            Some(("gap", names)) => forget(&mut last, names, false),
            _ => {
                let (channel, data) = word.split_once('=').unwrap();
                let (source, number) = data.split_once(':').unwrap();
                let number: u32 = number.parse().unwrap();
                for subject in SUBJECTS.into_iter().filter(|subject| pattern::matches(subject, channel)) {
                    let key = (subject, channel.to_owned(), source.to_owned());
                    if let Some((before, follows)) = last.insert(key, (number, true)) {
                        prop_assert!(number > before, "{word} after {before}");
                        // Before it is open, nobody has been promised anything.
                        let promised = follows && open.get(subject).copied().unwrap_or_default();
                        prop_assert!(
                            !promised || number == before + 1,
                            "{word} after {before}, and no gap for {subject}"
                        );
                    }
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn two_sources_that_misbehave_lose_nothing_without_a_gap(
        inputs in prop::collection::vec(input(), 0..120),
        steady: bool,
        pinned: bool,
    ) {
        let mut bench = Bench::of(&[REDIS, REDIS]);
        if pinned {
            bench.dispatcher.keep_always(rules(&["c*"]), false);
        }
        (0..2).for_each(|source| bench.reconnect(source));
        for input in inputs {
            match input {
                Input::Subscribe(channel) => bench.dispatcher.subscribe(0, &name(SUBJECTS[channel])),
                Input::Release(channel) => bench.dispatcher.release(0, &name(SUBJECTS[channel])),
                Input::TakeInterest(source) => bench.take_interest(source),
                Input::Confirm(source, channel) => bench.confirm(source, SUBJECTS[channel]),
                Input::Refuse(1, _) | Input::Disconnect(1) if steady => {}
                Input::Refuse(source, channel) => bench.refuse(source, SUBJECTS[channel]),
                Input::Disconnect(source) => bench.disconnect(source),
                Input::Reconnect(source) => bench.reconnect(source),
                Input::Publish(source, channel) => bench.publish(source, CHANNELS[channel]),
            }
        }
        // In the end all is well: each channel opens, and what is published then arrives.
        for source in 0..2 {
            if !steady {
                bench.disconnect(source); // It may change its mind about what it has refused.
            }
            bench.reconnect(source);
        }
        for channel in SUBJECTS {
            bench.dispatcher.subscribe(0, &name(channel));
            for source in 0..2 {
                bench.take_interest(source);
                bench.confirm(source, channel);
            }
        }
        check(&bench.words(), steady)?;
        prop_assert!(bench.dispatcher.is_subscribed());
        let before = bench.words().len();
        bench.publish(1, "a");
        prop_assert_eq!(bench.words().len(), before + 1);
    }
}

#[test]
fn an_early_message_comes_after_the_gap_of_its_own_source_only() {
    let mut bench = Bench::new(2);
    bench.dispatcher.subscribe(0, &name("a"));
    (0..2).for_each(|source| bench.take_interest(source));
    bench.publish(0, "a");
    bench.publish(1, "a");
    bench.confirm(0, "a");
    assert_eq!(bench.words(), ["a=0:1"], "the other source's message waits for its own confirmation");
    bench.confirm(1, "a");
    assert_eq!(bench.words(), ["a=0:1", "open a", "a=1:1"]);
}

#[test]
fn a_source_that_is_reconnected_reports_its_gap_while_another_is_still_disconnected() {
    let mut bench = Bench::new(2);
    bench.dispatcher.subscribe(0, &name("a"));
    for source in 0..2 {
        bench.take_interest(source);
        bench.confirm(source, "a");
    }
    bench.disconnect(0);
    bench.disconnect(1);
    bench.reconnect(0);
    assert_eq!(bench.words(), ["open a", "gap a"]);
    bench.reconnect(1);
    assert_eq!(bench.words(), ["open a", "gap a", "gap a"]);
}

#[test]
fn a_channel_that_a_source_no_longer_delivers_gives_a_gap_before_it_is_refused() {
    let mut bench = Bench::new(1);
    bench.dispatcher.subscribe(0, &name("a"));
    bench.take_interest(0);
    bench.confirm(0, "a");
    bench.disconnect(0);
    let (channel, generation) = bench.fakes[0].wanted.pop_first().unwrap();
    bench.reconnect(0);
    bench.dispatcher.refused(0, &channel, generation, "forbidden");
    assert_eq!(bench.words(), ["open a", "gap a", "refused a"]);
}

#[test]
fn a_channel_is_refused_only_if_every_source_refuses_it() {
    let mut bench = Bench::new(2);
    bench.dispatcher.subscribe(0, &name("a"));
    (0..2).for_each(|source| bench.take_interest(source));
    bench.refuse(0, "a");
    bench.confirm(1, "a");
    bench.publish(1, "a");
    assert_eq!(bench.words(), ["open a", "a=1:1"]);
    bench.dispatcher.subscribe(0, &name("b"));
    (0..2).for_each(|source| bench.take_interest(source));
    bench.refuse(0, "b");
    bench.refuse(1, "b");
    assert_eq!(bench.words()[2..], ["refused b"]);
}

#[test]
fn a_source_that_refuses_a_channel_again_after_a_reconnect_causes_no_gap() {
    let mut bench = Bench::new(2);
    bench.dispatcher.subscribe(0, &name("a"));
    (0..2).for_each(|source| bench.take_interest(source));
    bench.refuse(0, "a");
    bench.confirm(1, "a");
    for _ in 0..2 {
        bench.disconnect(0);
        bench.reconnect(0);
        bench.take_interest(0);
        bench.publish(1, "a");
        bench.refuse(0, "a");
    }
    assert_eq!(bench.words(), ["open a", "a=1:1", "a=1:2"], "it has never delivered the channel");
    bench.disconnect(0);
    bench.reconnect(0);
    bench.take_interest(0);
    bench.confirm(0, "a");
    assert_eq!(bench.words()[3..], ["gap a"], "from now on it does");
}

mod durable;
mod kept;
mod upgrade;
