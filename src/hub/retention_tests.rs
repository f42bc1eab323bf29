//! Tests of what the hub drops, and when.

use std::{sync::Arc, time::Duration};

use super::{
    tests::{Given, Harness, SECOND, limits, name},
    *,
};
use crate::{event::Form, sse::GapReason};

#[test]
fn a_history_stretches_for_clients_that_are_behind_for_the_configured_time() {
    let mut harness = Harness::new(limits(2), false);
    let (group, _) = harness.join(&["a"], 1);
    harness.hub.set_behind(group, true);
    let cursor = harness.sequencer.last();
    for _ in 0..50 {
        harness.publish("a", "x");
    }
    assert_eq!(harness.resume(&["a"], harness.after(cursor)).len(), 50);
    harness.now += 6 * SECOND;
    harness.publish("a", "x");
    assert_eq!(harness.resume(&["a"], harness.after(cursor)).len(), 3, "a gap and two events");
    harness.hub.set_behind(group, false);
}

#[test]
fn a_channel_without_clients_is_unsubscribed_after_the_linger() {
    let mut harness = Harness::new(limits(2), true);
    let (group, slot) = harness.join(&["a"], 1);
    let id = harness.hub.id(&name("a")).unwrap();
    harness.hub.set_wanted(id, true);
    harness.hub.leave(group, slot, harness.uptime());
    harness.now += 59 * SECOND;
    assert_eq!(harness.hub.sweep(harness.uptime()), []);
    harness.now += 2 * SECOND;
    assert_eq!(harness.hub.sweep(harness.uptime()), [name("a")]);
    harness.hub.set_unsubscribed(&name("a"));
    assert_eq!((harness.hub.id(&name("a")), harness.hub.bytes), (None, 0));
}

#[test]
fn events_past_their_age_are_dropped_and_an_older_cursor_gets_a_gap_event() {
    let mut harness = Harness::new(config::History { age: Duration::from_secs(10), ..limits(10) }, false);
    let start = harness.sequencer.last();
    let old = harness.publish("a", "x");
    harness.now += 11 * SECOND;
    harness.hub.sweep(harness.uptime());
    harness.hub.sweep(harness.uptime());
    let given = harness.resume(&["a"], harness.after(start));
    assert_eq!(given, [Given::Gap(old, vec!["a".to_owned()], GapReason::History)]);
    assert_eq!(harness.resume(&["a"], harness.after(old)), []);
}

#[test]
fn all_histories_together_are_bounded_and_quiet_channels_lose_events_first() {
    let bytes = 100_000;
    let mut harness = Harness::new(config::History { bytes, ..limits(1000) }, false);
    for n in 0..2_000 {
        harness.publish(&format!("quiet-{n}"), "x");
        harness.publish("busy", &"x".repeat(50));
        assert!(harness.hub.bytes <= bytes, "{} bytes after {n}", harness.hub.bytes);
    }
    let (cursor, busy) = (harness.sequencer.last(), harness.publish("busy", "x"));
    assert_eq!(harness.resume(&["busy"], harness.after(cursor)), [Given::Event(busy)]);
    let given = harness.resume(&["quiet-0"], harness.after(Position(1_000 * SECOND)));
    assert!(matches!(&given[..], [Given::Gap(..)]), "{given:?}");
    assert!(harness.hub.channels.len() < 600, "channels without events are forgotten");
}

#[test]
fn a_clock_that_jumps_forward_empties_no_history() {
    let mut harness = Harness::new(config::History { age: Duration::from_secs(60), ..limits(10) }, false);
    let start = harness.sequencer.last();
    let before = harness.publish("a", "x");
    (harness.now, harness.jumped) = (harness.now + 3600 * SECOND, 3600 * SECOND);
    harness.hub.sweep(harness.uptime());
    let after = harness.publish("a", "x");
    assert_eq!(harness.resume(&["a"], harness.after(start)), [Given::Event(before), Given::Event(after)]);
}

#[test]
fn events_published_while_the_clock_was_ahead_are_kept_for_their_age_only() {
    let mut harness = Harness::new(config::History { age: Duration::from_secs(60), ..limits(10) }, false);
    harness.sequencer.next(harness.now + 86_400 * SECOND); // Positions stay ahead, though the clock is right again.
    let start = harness.sequencer.last();
    let old = harness.publish("a", "x");
    harness.now += 61 * SECOND;
    harness.hub.sweep(harness.uptime());
    let gap = Given::Gap(old, vec!["a".to_owned()], GapReason::History);
    assert_eq!(harness.resume(&["a"], harness.after(start)), [gap]);
}

#[test]
fn long_names_and_other_forms_of_events_count_for_the_bound() {
    let bytes = 100_000;
    let mut harness = Harness::new(config::History { bytes, ..limits(1000) }, false);
    for n in 0..1_000 {
        harness.publish(&format!("{n}{}", "x".repeat(200)), "x");
    }
    assert!(harness.hub.channels.len() < bytes / 600, "{} channels", harness.hub.channels.len());

    let mut harness = Harness::new(config::History { bytes, ..limits(1000) }, false);
    harness.publish("a", &"x".repeat(1000));
    let plain = harness.hub.bytes;
    let id = harness.hub.id(&name("a")).unwrap();
    let event = Arc::clone(harness.hub.channels[id as usize].history.get(0).unwrap());
    let envelope = event.frame(Form::Envelope).len();
    harness.hub.weigh(&event);
    assert_eq!(harness.hub.bytes, plain + envelope);
    event.piece(Form::Plain, None, &mut crate::gzip::Deflater::default());
    harness.hub.weigh(&event);
    harness.hub.weigh(&event);
    assert!(harness.hub.bytes > plain + envelope);
    harness.hub.set_unsubscribed(&name("a"));
    assert_eq!(harness.hub.bytes, 0);
}
