//! The dispatcher in an upgrade: what each of two processes delivers, keeps and reports.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::*;
use crate::{clock::unix_micros, cursor::Cursor};

/// A predecessor with an open channel. Its marker's subscription was sent and is confirmed.
fn upgrading() -> (Bench, Bench) {
    let marker = name("marker");
    let (mut old, mut new) = (Bench::new(1), Bench::new(1));
    old.dispatcher.subscribe(0, &name("a"));
    old.take_interest(0);
    old.confirm(0, "a");
    old.dispatcher.set_marker(&marker);
    old.take_interest(0);
    old.confirm(0, "marker");
    new.dispatcher.prepare(&[name("a")], Some(&marker));
    new.take_interest(0);
    new.confirm(0, "a");
    new.confirm(0, "marker");
    assert!(old.dispatcher.marker_is_answered() && old.dispatcher.has_marker() && new.dispatcher.is_subscribed());
    new.dispatcher.note_subscribed();
    (old, new)
}

fn begin(new: &Bench) -> bool {
    let cursor = Cursor::new(NodeId::random(), Position(1_000));
    new.dispatcher.begin(Sequencer::after(cursor), &[name("a")], &[], true, [])
}

#[test]
fn the_marker_divides_a_sources_messages_between_two_processes() {
    let (mut old, mut new) = upgrading();
    for bench in [&mut old, &mut new] {
        bench.publish(0, "a");
        bench.publish(0, "marker");
        bench.publish(0, "a");
        assert!(bench.dispatcher.is_buffering());
    }
    assert_eq!((old.words(), new.words()), (vec!["open a".to_owned(), "a=0:1".to_owned()], vec![]));
    assert!(begin(&new));
    new.publish(0, "a");
    assert_eq!(new.words(), ["a=0:2", "a=0:3"]);
    old.dispatcher.resume();
    assert_eq!(old.words(), ["open a", "a=0:1", "a=0:2"], "had the upgrade failed, it would have gone on");
}

#[test]
fn a_source_that_both_processes_lose_gives_its_gap_where_the_loss_is() {
    let (_, mut new) = upgrading();
    new.publish(0, "marker");
    new.publish(0, "a");
    new.disconnect(0);
    new.publish(0, "a");
    new.reconnect(0);
    new.publish(0, "a");
    assert!(begin(&new));
    assert_eq!(new.words(), ["a=0:1", "gap a", "a=0:3"]);
}

#[test]
fn a_source_that_is_lost_before_its_marker_gives_a_gap_before_everything() {
    let (_, mut new) = upgrading();
    new.disconnect(0);
    new.reconnect(0);
    assert!(new.dispatcher.is_broken() && !begin(&new));
    new.publish(0, "a");
    assert_eq!(new.words(), ["gap a", "a=0:1"]);
}

#[test]
fn what_an_upgrade_keeps_is_bounded_and_what_exceeds_it_is_a_gap() {
    let (_, mut new) = upgrading();
    new.publish(0, "marker");
    let long = "x".repeat(1 << 20);
    for _ in 0..100 {
        new.dispatcher.publish(0, [message("a", &long)], None);
    }
    assert!(begin(&new));
    new.publish(0, "a");
    let words = new.words();
    let kept = words.iter().filter(|word| word.len() > long.len()).count();
    assert!((32..=64).contains(&kept), "{kept} MiB were kept");
    assert_eq!(words[kept..], ["gap a", "a=0:1"]);
}

#[test]
fn ids_say_that_a_node_is_ahead_of_its_clock_until_the_clock_has_caught_up() {
    let bench = Bench::new(0);
    let publish = || {
        let (receipt, _) = Receipt::new(1, 1);
        bench.dispatcher.publish_counted(&[message("a", "x")], &receipt).unwrap()[0].node
    };
    assert!(publish().is_timed());
    // As after a predecessor whose clock was set back.
    let cursor = Cursor::new(NodeId::random(), Position(unix_micros() + 1_500_000));
    bench.dispatcher.begin(Sequencer::after(cursor), &[], &[], true, []);
    let ahead = publish();
    assert!(!ahead.is_timed() && ahead.is_same_node(&cursor.node), "{ahead}");
    assert_eq!(bench.dispatcher.cursor().node, cursor.node, "a successor gets the name as it is");
    let began = Instant::now();
    while !publish().is_timed() {
        assert!(began.elapsed() < Duration::from_secs(20));
        thread::sleep(Duration::from_millis(20));
    }
    let mut words = bench.words();
    words.dedup();
    assert_eq!(words, ["a=x", "timed false", "a=x", "timed true", "a=x"]);
}

#[test]
fn publishes_that_come_by_no_source_wait_while_the_process_stands_still() {
    let bench = Bench::new(1);
    let (receipt, _) = Receipt::new(1, 1);
    assert!(bench.dispatcher.publish_counted(&[message("a", "1")], &receipt).is_some());
    bench.dispatcher.buffer();
    assert!(bench.dispatcher.publish_counted(&[message("a", "2")], &receipt).is_none());
    bench.dispatcher.resume();
    assert!(bench.dispatcher.publish_counted(&[message("a", "3")], &receipt).is_some());
    assert_eq!(bench.words(), ["a=1", "a=3"]);
}
