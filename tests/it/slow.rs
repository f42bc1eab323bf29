//! Slow clients: they use no extra memory, they do not delay others, and they get a gap event for what they missed.

use std::time::{Duration, Instant};

use crate::support::{Daemon, Event, Folder, Stream, Subscription};

const EVENTS: usize = 10_000;
const BATCH: usize = 100;

/// `number` and padding, so that 10,000 events are far more than sockets and history hold.
fn message(number: usize, length: usize) -> String {
    format!("{number}:{}", "x".repeat(length))
}

fn number(event: &Event) -> usize {
    event.text().split_once(':').unwrap().0.parse().unwrap()
}

/// Publishes 10,000 events in batches. `others` must receive each batch before the next one. Returns the longest wait.
fn publish_to(daemon: &Daemon, others: &mut [Stream], length: usize) -> Duration {
    let mut longest = Duration::ZERO;
    for first in (0..EVENTS).step_by(BATCH) {
        let messages: Vec<String> = (first..first + BATCH).map(|number| message(number, length)).collect();
        let start = Instant::now();
        daemon.publish_many("cats", messages.iter().map(String::as_str));
        for other in &mut *others {
            assert_eq!(other.texts(BATCH), messages);
        }
        longest = longest.max(start.elapsed());
    }
    longest
}

#[test]
fn a_client_that_stops_reading_uses_no_memory_and_delays_no_other() {
    let folder = Folder::new();
    let mut daemon = Daemon::start(&folder, "[history]\nbytes = \"4MiB\"\n");
    let mut slow = Subscription::to(&["cats"]).open(daemon.public());
    let mut others: Vec<Stream> = (0..5).map(|_| Subscription::to(&["cats"]).open(daemon.public())).collect();
    let before = daemon.child().memory();

    let longest = publish_to(&daemon, &mut others, 4096);
    // Far below the minute after which a client that reads nothing is closed: the others would wait until then.
    assert!(longest < Duration::from_secs(30), "a batch of {BATCH} took {longest:?}");
    let grown = daemon.child().memory().saturating_sub(before);
    assert!(grown < 16 << 20, "40 MB were published, 4 MiB may be kept, but memory has grown by {grown} bytes");

    let mut next = 0;
    let mut gaps = 0;
    while next < EVENTS {
        let event = slow.event();
        if let Some(gap) = event.gap() {
            assert_eq!((gap.channels, gap.reason.as_str()), (vec!["cats".to_owned()], "slow"));
            gaps += 1;
            next = 0;
            continue;
        }
        let number = number(&event);
        // After a gap, any number may follow; then each is one more than the last.
        assert!(number == next || next == 0, "{number} after {}", next - 1);
        next = number + 1;
    }
    assert_eq!(gaps, 1, "one loss is one gap event");
    daemon.publish("cats", "live again");
    assert_eq!(slow.texts(1), ["live again"]);
}

#[test]
fn a_client_that_was_behind_for_a_moment_gets_everything() {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, "[history]\nmessages = 10\nstretch = \"60s\"\n");
    let mut slow = Subscription::to(&["cats"]).open(daemon.public());
    let mut others = [Subscription::to(&["cats"]).open(daemon.public())];
    publish_to(&daemon, &mut others, 200);
    let numbers: Vec<usize> = slow.events(EVENTS).iter().map(number).collect();
    assert_eq!(numbers, (0..EVENTS).collect::<Vec<_>>());
}

#[test]
fn many_slow_clients_use_no_more_memory_than_one() {
    let folder = Folder::new();
    let mut daemon = Daemon::start(&folder, "[history]\nbytes = \"4MiB\"\n");
    let slow: Vec<Stream> = (0..300).map(|_| Subscription::to(&["cats"]).open(daemon.public())).collect();
    let mut others = [Subscription::to(&["cats"]).open(daemon.public())];
    let before = daemon.child().memory();
    publish_to(&daemon, &mut others, 2048);
    let grown = daemon.child().memory().saturating_sub(before);
    assert!(grown < 16 << 20, "memory has grown by {grown} bytes for {} slow clients", slow.len());
    drop(slow);
    daemon.assert_serving();
}

#[test]
fn a_slow_client_that_disconnects_is_removed() {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, "");
    let slow = Subscription::to(&["cats"]).open(daemon.public());
    let message = "x".repeat(100_000);
    daemon.publish_many("cats", std::iter::repeat_n(message.as_str(), 30));
    drop(slow);
    crate::support::eventually("it is not counted", || daemon.stats().is_empty().then_some(()));
}

#[test]
fn one_event_longer_than_any_socket_buffer_arrives_whole() {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, "[publish]\nmax_message = \"16MiB\"\n");
    let mut stream = Subscription::to(&["cats"]).open(daemon.public());
    let long: String = (0..2_000_000).map(|number: u32| char::from(b'a' + (number % 26) as u8)).collect();
    daemon.publish_raw("cats", long.as_bytes());
    daemon.publish("cats", "after it");
    let texts = stream.texts(2);
    assert!(texts[0] == long, "{} bytes came as {}", long.len(), texts[0].len());
    assert_eq!(texts[1], "after it");
}
