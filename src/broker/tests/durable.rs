//! A durable source in an upgrade: the successor's continues at the checkpoint of the predecessor's, and nothing is lost,
//! repeated or reported.

use bytes::Bytes;

use super::*;
use crate::{
    cursor::Cursor,
    snapshot::{Snapshot, SourceState},
};

const ALL: Spec = Spec { id: "journal", delivers: Delivers::Durable, interest: Interested::All, journals: 0 };
const ON_DEMAND: Spec = Spec { interest: Interested::OnDemand, ..ALL };

/// A journal of numbers on one channel, of which the checkpoint is how many were read.
fn read(bench: &Bench, source: SourceId, numbers: std::ops::Range<u8>) {
    for number in numbers {
        let checkpoint = Some(Checkpoint(Bytes::from(vec![number + 1])));
        bench.dispatcher.publish(source, [message("a", &format!("{source}:{number}"))], checkpoint);
    }
}

/// Returns the checkpoint as the successor reads it from the predecessor's snapshot.
fn through_snapshot(checkpoint: Option<Checkpoint>) -> Option<Checkpoint> {
    let checkpoint = checkpoint.map(|Checkpoint(bytes)| bytes);
    let source = SourceState { id: ALL.id.to_owned(), origin: "here".to_owned(), checkpoint };
    let snapshot = Snapshot { sources: vec![source], ..Snapshot::default() };
    let mut read = Snapshot::decode(&snapshot.encode().unwrap(), 2).unwrap();
    read.sources.remove(0).checkpoint.map(Checkpoint)
}

/// Two processes with a source of each kind and an open channel; the predecessor has read 3 messages of the journal.
fn upgrading(spec: Spec) -> (Bench, Bench) {
    let specs = [REDIS, spec];
    let (mut old, mut new) = (Bench::of(&specs), Bench::of(&specs));
    (0..2).for_each(|source| old.reconnect(source));
    old.dispatcher.subscribe(0, &name("a"));
    for source in 0..2 {
        old.take_interest(source);
        old.confirm(source, "a");
    }
    read(&old, 1, 0..3);
    let marker = name("marker");
    old.dispatcher.set_marker(&marker);
    old.take_interest(0);
    old.confirm(0, "marker");
    assert!(old.dispatcher.has_marker(), "a durable source needs none");
    new.dispatcher.prepare(&[name("a")], Some(&marker));
    new.reconnect(0);
    assert!(new.dispatcher.is_subscribed(), "the durable source is started later");
    new.dispatcher.note_subscribed();
    for bench in [&mut old, &mut new] {
        bench.publish(0, "a");
        bench.publish(0, "marker");
        bench.publish(0, "a");
    }
    read(&old, 1, 3..4);
    old.dispatcher.buffer();
    read(&old, 1, 4..6);
    (old, new)
}

#[test]
fn a_durable_source_continues_at_its_checkpoint_without_a_gap() {
    for spec in [ALL, ON_DEMAND] {
        let (old, mut new) = upgrading(spec);
        let checkpoint = through_snapshot(old.dispatcher.checkpoint(1)).unwrap();
        let from = checkpoint.0[0];
        assert_eq!(from, 4, "the shards have what was read before the process stood still, and no more");
        let cursor = Cursor::new(NodeId::random(), Position(1_000));
        assert!(new.dispatcher.begin(Sequencer::after(cursor), &[name("a")], &[], true, [(1, checkpoint)]));
        // It starts, gets the subscription, and reads on.
        new.reconnect(1);
        read(&new, 1, from..7);
        assert_eq!(old.words()[1..], ["a=1:0", "a=1:1", "a=1:2", "a=0:1", "a=1:3"], "{spec:?}");
        assert_eq!(new.words(), ["a=0:2", "a=1:4", "a=1:5", "a=1:6"], "{spec:?}");
        assert_eq!(new.dispatcher.checkpoint(1), Some(Checkpoint(Bytes::from_static(&[7]))), "for the next upgrade");
    }
}

#[test]
fn an_upgrade_that_fails_forwards_what_a_durable_source_has_read_meanwhile() {
    let (old, _) = upgrading(ALL);
    old.dispatcher.resume();
    read(&old, 1, 6..7);
    let words = old.words();
    let journal: Vec<&str> = words.iter().filter_map(|word| word.strip_prefix("a=1:")).collect();
    assert_eq!(journal, ["0", "1", "2", "3", "4", "5", "6"]);
    assert!(!words.iter().any(|word| word.starts_with("gap")), "{words:?}");
    assert_eq!(old.dispatcher.checkpoint(1), Some(Checkpoint(Bytes::from_static(&[7]))));
}

#[test]
fn a_durable_source_without_a_checkpoint_gives_a_gap_at_an_upgrade() {
    let (_, mut new) = upgrading(ON_DEMAND);
    let cursor = Cursor::new(NodeId::random(), Position(1_000));
    new.dispatcher.begin(Sequencer::after(cursor), &[name("a")], &[], true, []);
    new.reconnect(1);
    read(&new, 1, 6..7);
    let words = new.words();
    let gap = words.iter().position(|word| word == "gap a");
    assert!(gap.is_some() && gap < words.iter().position(|word| word == "a=1:6"), "{words:?}");
}

#[test]
fn a_source_that_continues_where_it_was_cut_gives_no_gap_but_for_channels_that_it_did_not_deliver() {
    let mut bench = Bench::of(&[ON_DEMAND]);
    bench.reconnect(0);
    bench.dispatcher.subscribe(0, &name("a"));
    bench.take_interest(0);
    bench.confirm(0, "a");
    read(&bench, 0, 0..1);
    bench.disconnect(0);
    bench.disconnect(0);
    assert_eq!(bench.dispatcher.disconnected_sources().len(), 1, "/readyz says so meanwhile");
    bench.dispatcher.subscribe(0, &name("b"));
    bench.take_interest(0);
    let asked: Vec<_> = bench.fakes[0].wanted.clone().into_iter().collect();
    let asked = asked.iter().map(|(name, generation)| (name, *generation));
    bench.dispatcher.continued(0, bench.dispatcher.source_time(), asked);
    read(&bench, 0, 1..2);
    let words = bench.words();
    assert!(words.contains(&"gap b".to_owned()) && !words.iter().any(|word| word.starts_with("gap a")), "{words:?}");
    let events: Vec<&String> = words.iter().filter(|word| word.starts_with("a=")).collect();
    assert_eq!(events, ["a=0:0", "a=0:1"]);
    assert!(bench.dispatcher.disconnected_sources().is_empty());
    // A loss later on is reported as ever.
    bench.fakes[0].connected = true;
    bench.disconnect(0);
    bench.reconnect(0);
    assert!(bench.words().iter().any(|word| word.starts_with("gap ") && word.contains('a')), "{:?}", bench.words());
}
