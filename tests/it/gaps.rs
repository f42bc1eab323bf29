//! Gap events: where a client may have missed events, it gets one gap event, with the right channels and the right reason.

use crate::support::{Daemon, Folder, Gap, Stream, Subscription, eventually};

fn gap(channels: &[&str], reason: &str) -> Gap {
    Gap { channels: channels.iter().map(|&name| name.to_owned()).collect(), reason: reason.to_owned() }
}

fn resume(daemon: &Daemon, channels: &[&str], cursor: &str) -> Stream {
    Subscription::to(channels).after(cursor).open(daemon.public())
}

/// The last event id of a client that has read everything up to now.
fn cursor_now(daemon: &Daemon) -> String {
    Subscription::to(&["nothing here"]).open(daemon.public()).last_event_id()
}

#[test]
fn a_resume_beyond_the_history_gets_a_gap_and_then_what_is_kept() {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, "[history]\nmessages = 10\nstretch = \"0s\"\n");
    let cursor = cursor_now(&daemon);
    for number in 0..15 {
        daemon.publish("cats", &number.to_string());
        daemon.publish("dogs", &number.to_string());
    }
    for number in 15..30 {
        daemon.publish("cats", &number.to_string());
    }
    let mut stream = resume(&daemon, &["cats"], &cursor);
    let first = stream.event();
    assert_eq!(first.gap(), Some(gap(&["cats"], "history")));
    assert_eq!(stream.texts(10), (20..30).map(|number| number.to_string()).collect::<Vec<_>>());

    let mut stream = resume(&daemon, &["cats"], &first.id);
    assert_eq!(stream.texts(1), ["20"], "the gap is not reported again");
}

#[test]
fn a_gap_names_only_the_channels_with_missing_events() {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, "[history]\nmessages = 10\nstretch = \"0s\"\n");
    let cursor = cursor_now(&daemon);
    daemon.publish("dogs", "a dog");
    daemon.publish_many("cats", ["x"; 50]);
    daemon.publish_many("birds", ["x"; 50]);
    let mut stream = resume(&daemon, &["birds", "cats", "dogs", "fish"], &cursor);
    let mut named = Vec::new();
    let mut texts = Vec::new();
    while texts.len() < 21 {
        let event = stream.event();
        match event.gap() {
            Some(gap) => {
                assert_eq!(gap.reason, "history");
                named.extend(gap.channels);
            }
            None => texts.push(event.text()),
        }
    }
    named.sort();
    assert_eq!(named, ["birds", "cats"]);
    assert!(texts.contains(&"a dog".to_owned()), "an event that is older than another channel's gap is delivered");
}

#[test]
fn an_event_is_dropped_after_history_age() {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, "[history]\nage = \"200ms\"\n");
    let cursor = cursor_now(&daemon);
    daemon.publish("cats", "short-lived");
    eventually("the event is dropped", || {
        let event = resume(&daemon, &["cats"], &cursor).event();
        event.gap().map(|found| assert_eq!(found, gap(&["cats"], "history")))
    });
}

#[test]
fn all_channels_together_keep_at_most_history_bytes() {
    let folder = Folder::new();
    let mut daemon = Daemon::start(&folder, "[history]\nbytes = \"1MiB\"\nmessages = 100000\n");
    let before = daemon.child().memory();
    let message = "x".repeat(10_000);
    let cursor = cursor_now(&daemon);
    for channel in 0..50 {
        daemon.publish_many(&format!("channel {channel}"), std::iter::repeat_n(message.as_str(), 100));
    }
    let grown = daemon.child().memory().saturating_sub(before);
    assert!(grown < 16 << 20, "50 MB were published, 1 MiB may be kept, but memory has grown by {grown} bytes");
    let mut first = resume(&daemon, &["channel 0"], &cursor);
    assert_eq!(first.gap(), gap(&["channel 0"], "history"), "the channel with the oldest events loses them first");
    let mut last = resume(&daemon, &["channel 49"], &cursor);
    let kept = std::iter::from_fn(|| Some(last.event())).take_while(|event| event.gap().is_none()).next();
    assert!(kept.is_none() || kept.is_some_and(|event| event.text() == message));
}

#[test]
fn an_invalid_id_gets_a_gap_with_reason_restart_and_all_that_is_kept() {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, "");
    daemon.publish("cats", "1");
    daemon.publish("dogs", "2");
    for id in ["42", "abcdefgh-", "é", "abcdefgh-99999999999999999999999", "a-b-c", " ", &"x".repeat(4000)] {
        let id = if id == " " { "%20" } else { id };
        let mut stream = resume(&daemon, &["cats", "dogs"], id);
        let Gap { mut channels, reason } = stream.gap();
        channels.sort();
        assert_eq!((channels, reason.as_str()), (vec!["cats".to_owned(), "dogs".to_owned()], "restart"), "{id}");
        assert_eq!(stream.texts(2), ["1", "2"], "{id}");
    }
}

#[test]
fn after_a_restart_a_client_gets_one_gap_and_then_events() {
    let folder = Folder::new();
    let mut daemon = Daemon::start(&folder, "");
    let mut stream = Subscription::to(&["cats"]).open(daemon.public());
    daemon.publish("cats", "before");
    assert_eq!(stream.texts(1), ["before"]);
    daemon.child().kill();
    assert_eq!(stream.rest(), []);
    let cursor = stream.last_event_id();
    daemon.start_again();
    daemon.publish("cats", "after");
    let mut stream = resume(&daemon, &["cats"], &cursor);
    assert_eq!(stream.gap(), gap(&["cats"], "restart"));
    assert_eq!(stream.texts(1), ["after"]);
    let mut stream = resume(&daemon, &["cats"], &stream.last_event_id());
    daemon.publish("cats", "later");
    assert_eq!(stream.texts(1), ["later"]);
}

#[test]
fn a_cursor_of_another_node_resumes_by_its_time() {
    let folder = Folder::new();
    let skew = "[history]\nskew = \"50ms\"\n";
    let (one, other) = (Daemon::start_named(&folder, "one", skew), Daemon::start_named(&folder, "other", skew));
    let cursor = eventually("the other node is older than the skew", || {
        let cursor = one.publish("anything", "").id.unwrap();
        other.publish("probe", "probe");
        resume(&other, &["probe"], &cursor).event().gap().is_none().then_some(cursor)
    });
    other.publish("cats", "after the cursor");
    let mut stream = resume(&other, &["cats"], &cursor);
    assert_eq!(stream.texts(1), ["after the cursor"], "no gap: this node has all events since then");
}

#[test]
fn a_cursor_ahead_of_the_node_gets_a_gap_or_the_next_event() {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, "");
    let id = daemon.publish("cats", "1").id.unwrap();
    let (node, position) = id.split_once('-').unwrap();
    let future = format!("{node}-{}", position.parse::<u64>().unwrap() + 3_600_000_000);
    let mut stream = resume(&daemon, &["cats"], &future);
    let published = daemon.publish("cats", "2");
    let event = stream.event();
    // Either the client gets a gap, or the next event.
    if event.gap().is_none() {
        assert_eq!((event.text().as_str(), Some(event.id)), ("2", published.id));
    }
}

#[test]
fn a_stream_with_envelopes_gets_the_same_gap_event() {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, "");
    let mut stream = Subscription::to(&["cats"]).in_envelopes().after("no-cursor").open(daemon.public());
    assert_eq!(stream.gap(), gap(&["cats"], "restart"));
}
