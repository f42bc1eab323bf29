//! Gap events where the histories of two workers differ, and over reloads: a client that is cut off, or that is behind, between a
//! gap event and the end of its loss misses nothing unreported, and gets no gap event twice.

use crate::support::{Daemon, Event, Folder, Stream, Subscription};

/// More bytes than a socket takes.
const LONG: usize = 1_000_000;
const CHANNELS: [&str; 2] = ["cats", "dogs"];

/// What a worker has of `cats`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum History {
    /// The last two events: `history.messages`.
    Short,
    /// All events, since a client is behind: `history.stretch`.
    Long,
}

/// A daemon with two workers. These events were published: `cats 1`, one event of dogs, `cats 2`, `cats 3`, `cats 4`.
struct TwoWorkers {
    daemon: Daemon,
    /// The id before these events.
    begin: String,
    /// The client that is behind. As long as it is, its worker keeps what it lacks.
    _behind: Stream,
    _folder: Folder,
}

impl TwoWorkers {
    /// `dog`: the event of dogs.
    fn start(dog: &str) -> Self {
        let folder = Folder::new();
        let tables = "[process]\nworkers = 2\n[history]\nmessages = 2\nstretch = \"60s\"\n";
        let daemon = Daemon::start(&folder, tables);
        // Connections go to the workers in turn.
        let mut witnesses = [(); 2].map(|()| Subscription::to(&["end"]).open(daemon.public()));
        let behind = Subscription::to(&["cats"]).open(daemon.public());
        let begin = daemon.publish("cats", &"x".repeat(LONG)).id.unwrap();
        for (channel, message) in
            [("cats", "cats 1"), ("dogs", dog), ("cats", "cats 2"), ("cats", "cats 3"), ("cats", "cats 4")]
        {
            daemon.publish(channel, message);
        }
        daemon.publish("end", "published");
        // Both workers have everything.
        witnesses.iter_mut().for_each(|witness| assert_eq!(witness.texts(1), ["published"]));
        Self { daemon, begin, _behind: behind, _folder: folder }
    }

    /// Opens a stream after `id` at the worker with that history.
    fn open(&self, history: History, id: &str) -> Stream {
        let after = |id: &str| Subscription::to(&CHANNELS).after(id).open(self.daemon.public());
        for _ in 0..4 {
            let probed = if after(&self.begin).event().gap().is_some() { History::Short } else { History::Long };
            // The next connection goes to the other worker.
            if probed != history {
                return after(id);
            }
        }
        panic!("no worker has a {history:?} history");
    }
}

/// `gap` for a gap event of cats, or the first bytes of an event's data.
fn summary(event: &Event) -> String {
    match event.gap() {
        Some(gap) => {
            assert_eq!(gap.channels, ["cats"]);
            "gap".to_owned()
        }
        None => event.text().chars().take(6).collect(),
    }
}

fn summaries(stream: &mut Stream, count: usize) -> Vec<String> {
    stream.events(count).iter().map(summary).collect()
}

/// Cuts a client off after each of the items that the worker with the short history sends. `then` runs before it resumes at the
/// worker with the long history.
fn assert_no_gap_is_skipped(mut then: impl FnMut(&mut TwoWorkers)) {
    let all = ["gap", "a dog", "cats 3", "cats 4"];
    for (items, rest) in [
        (0, &["cats 1", "a dog", "cats 2", "cats 3", "cats 4"][..]),
        (1, &["a dog", "cats 2", "cats 3", "cats 4"]),
        (2, &["cats 2", "cats 3", "cats 4"]),
        (3, &["cats 4"]),
    ] {
        let mut workers = TwoWorkers::start("a dog");
        let mut client = workers.open(History::Short, &workers.begin);
        let received = client.events(items);
        drop(client);
        let names: Vec<String> = received.iter().map(summary).collect();
        assert_eq!(names, all[..items], "the gap event comes before anything later");
        let id = received.last().map_or(workers.begin.clone(), |event| event.id.clone());
        then(&mut workers);
        let mut client = workers.open(History::Long, &id);
        assert_eq!(summaries(&mut client, rest.len()), rest, "cut off after {items} items");
    }
}

/// A client that was cut off within a loss resumed at the other worker, whose history reaches further back, and got no gap event.
#[test]
fn a_client_cut_off_within_a_gap_skips_nothing_at_the_other_worker() {
    assert_no_gap_is_skipped(|_| {});
}

/// A reload gives both workers the longest history of each channel.
#[test]
fn a_client_cut_off_within_a_gap_skips_nothing_after_a_reload() {
    assert_no_gap_is_skipped(|workers| workers.daemon.reload());
}

/// A client that stayed connected over the reload, but was behind, got no gap event.
#[test]
fn a_client_that_is_behind_within_a_gap_skips_nothing_over_a_reload() {
    let mut workers = TwoWorkers::start(&format!("a dog{}", " ".repeat(LONG)));
    let mut client = workers.open(History::Short, &workers.begin);
    // It has read its response head and nothing else: the worker has written the gap event and a part of the event after it.
    workers.daemon.reload();
    assert_eq!(summaries(&mut client, 5), ["gap", "a dog ", "cats 2", "cats 3", "cats 4"]);
}

/// The losses that were reported to a client that was behind were not in the snapshot.
#[test]
fn a_client_that_is_behind_within_a_gap_gets_the_gap_event_once_over_reloads() {
    let folder = Folder::new();
    let mut daemon = Daemon::start(&folder, "[history]\nmessages = 2\nstretch = \"0s\"\n");
    let begin = Subscription::to(&["cats"]).open(daemon.public()).last_event_id();
    daemon.publish("cats", "cats 1");
    for dog in ["dog 1 ", "dog 2 "] {
        daemon.publish("dogs", &(dog.to_owned() + &"x".repeat(LONG)));
    }
    for cat in ["cats 2", "cats 3", "cats 4"] {
        daemon.publish("cats", cat);
    }
    let mut client = Subscription::to(&CHANNELS).after(&begin).open(daemon.public());
    // It has read its response head and nothing else: the daemon has written the gap event and a part of the event after it.
    daemon.reload();
    daemon.reload();
    assert_eq!(summaries(&mut client, 5), ["gap", "dog 1 ", "dog 2 ", "cats 3", "cats 4"]);
}
