//! Tests of rules for single channels: how much is kept of them, and since when.

use std::time::Duration;

use super::{
    tests::{Given, Harness, SECOND, limits, name},
    *,
};
use crate::{
    config::{Channel, Keep},
    sse::GapReason,
};

fn table(pattern: &str) -> Channel {
    Channel { r#match: name(pattern), ..Channel::default() }
}

/// A hub that keeps the channels of `news.*` always, except `news.secret`.
fn kept() -> Harness {
    let tables = [table("news.secret"), Channel { keep: Keep::Always, ..table("news.*") }];
    let mut harness = Harness::new(limits(3), true);
    harness.set_rules(&tables);
    harness
}

/// The rule's subscription is confirmed now.
fn confirm(harness: &mut Harness) -> Position {
    let since = harness.sequencer.next(harness.now);
    harness.hub.confirm(&name("news.*"), Some(since));
    since
}

fn gap(position: Position, channel: &str, reason: GapReason) -> Given {
    Given::Gap(position, vec![channel.to_owned()], reason)
}

#[test]
fn each_rule_has_its_own_limits() {
    let mut harness = Harness::new(limits(3), false);
    harness.set_rules(&[
        Channel { messages: Some(1), ..table("short.*") },
        Channel { age: Some(Duration::from_secs(10)), ..table("young.*") },
    ]);
    let start = harness.sequencer.last();
    for channel in ["short.1", "young.1", "other"] {
        for _ in 0..5 {
            harness.publish(channel, "x");
        }
    }
    let kept = |harness: &mut Harness, channel: &str| harness.resume(&[channel], harness.after(start)).len() - 1;
    assert_eq!(["short.1", "young.1", "other"].map(|channel| kept(&mut harness, channel)), [1, 3, 3]);
    harness.now += 11 * SECOND;
    harness.hub.sweep(harness.uptime());
    assert_eq!(["short.1", "young.1", "other"].map(|channel| kept(&mut harness, channel)), [1, 0, 3]);
}

#[test]
fn what_is_published_before_the_first_client_is_kept_where_a_rule_says_so() {
    let mut harness = kept();
    let since = confirm(&mut harness);
    let event = harness.publish("news.1", "x");
    harness.publish("news.secret", "x");
    harness.publish("cats", "x");
    assert_eq!(harness.resume(&["news.1"], harness.after(since)), [Given::Event(event)]);
    assert_eq!(harness.resume(&["news.1"], Start::Now), [], "who asks for nothing gets nothing");
    assert_eq!(harness.resume(&["news.2"], harness.after(since)), [], "it had no events");
    assert!(harness.hub.id(&name("news.secret")).is_none() && harness.hub.id(&name("cats")).is_none());
}

#[test]
fn a_channel_that_is_not_kept_gives_a_gap_to_who_asks_for_the_past_and_to_no_one_else() {
    let mut harness = kept();
    let since = confirm(&mut harness);
    let id = harness.hub.hold(&name("cats"));
    assert_eq!(harness.hub.subscription(id), (Subscription::Pending, false));
    let opened = harness.sequencer.next(harness.now);
    harness.hub.confirm(&name("cats"), Some(opened));
    assert_eq!(harness.resume(&["cats"], harness.after(since)), [gap(opened, "cats", GapReason::History)]);
    assert_eq!(harness.resume(&["cats"], Start::Now), []);
}

#[test]
fn a_kept_channel_is_confirmed_with_its_rule_and_not_by_itself() {
    let mut harness = kept();
    let before = harness.sequencer.last();
    let id = harness.hub.hold(&name("news.1"));
    assert!(!harness.hub.is_on_demand(id) && harness.hub.subscription(id).0 == Subscription::Pending);
    let since = confirm(&mut harness);
    assert_eq!(harness.hub.channels_under(&name("news.*")), [id]);
    assert_eq!(harness.hub.subscription(id).0, Subscription::Confirmed);
    assert_eq!(harness.resume(&["news.1"], harness.after(before)), [gap(since, "news.1", GapReason::History)]);
}

#[test]
fn a_disconnection_is_a_gap_of_all_channels_of_the_rule_also_of_those_without_events() {
    let mut harness = kept();
    let since = confirm(&mut harness);
    let event = harness.publish("news.1", "x");
    let back = harness.reconnect(&["news.*"], event);
    assert_eq!(
        harness.resume(&["news.1"], harness.after(since)),
        [Given::Event(event), gap(back, "news.1", GapReason::Source)]
    );
    assert_eq!(harness.resume(&["news.2"], harness.after(since)), [gap(back, "news.2", GapReason::History)]);
    assert_eq!(harness.resume(&["news.2"], harness.after(back)), []);
}

#[test]
fn linger_drops_no_kept_channel_and_what_age_drops_is_a_gap() {
    let mut harness = kept();
    let since = confirm(&mut harness);
    let event = harness.publish("news.1", "x");
    let later = harness.hub.limits.linger + Duration::from_secs(10);
    harness.now += u64::try_from(later.as_micros()).unwrap();
    assert_eq!(harness.hub.sweep(harness.uptime()), []);
    assert_eq!(harness.resume(&["news.1"], harness.after(since)), [Given::Event(event)]);
    harness.now += 3600 * SECOND;
    harness.hub.sweep(harness.uptime());
    assert_eq!(harness.hub.id(&name("news.1")), None, "nothing is kept of it");
    assert_eq!(harness.resume(&["news.1"], harness.after(since)), [gap(event, "news.1", GapReason::History)]);
}

/// Seen as a false gap: a channel on demand was removed, and its beginning counted for channels that had lost nothing.
#[test]
fn a_channel_on_demand_that_is_removed_gives_no_gap_to_kept_channels() {
    let mut harness = kept();
    let since = confirm(&mut harness);
    let id = harness.hub.hold(&name("cats"));
    let opened = harness.sequencer.next(harness.now);
    harness.hub.confirm(&name("cats"), Some(opened));
    harness.hub.release(id, harness.uptime());
    harness.hub.set_unsubscribed(&name("cats"));
    assert_eq!(harness.hub.id(&name("cats")), None);
    assert_eq!(harness.resume(&["news.1"], harness.after(since)), []);
}

/// Seen as a silent loss: a channel without events was removed, and its hole with it.
#[test]
fn a_hole_outlives_the_removal_of_its_channel() {
    let mut harness = Harness::new(limits(3), false);
    let id = harness.hub.hold(&name("a"));
    let before = harness.sequencer.last();
    let back = harness.reconnect(&["a"], before);
    harness.hub.release(id, harness.uptime());
    assert_eq!(harness.hub.id(&name("a")), None);
    assert_eq!(harness.resume(&["a"], harness.after(before)), [gap(back, "a", GapReason::History)]);
}

/// Seen: such a pattern was never confirmed, so its clients waited for ever; and the rule's channels then counted as complete
/// since the first position.
#[test]
fn a_pattern_that_a_rule_keeps_except_what_earlier_rules_have_is_delivered_by_that_rule() {
    let mut harness = kept();
    let since = confirm(&mut harness);
    harness.publish("news.secret", "not kept");
    let id = harness.hub.hold(&name("news.*"));
    assert!(!harness.hub.is_on_demand(id), "the sources were asked for it already");
    assert_eq!(harness.hub.subscription(id).0, Subscription::Confirmed);
    let opened = harness.hub.last();
    assert_eq!(harness.resume(&["news.*"], harness.after(since)), [gap(opened, "news.*", GapReason::History)]);
    let events = ["news.secret", "news.1"].map(|channel| harness.publish(channel, "x"));
    assert_eq!(harness.resume(&["news.*"], harness.after(opened)), events.map(Given::Event));
    let back = harness.reconnect(&["news.*"], events[1]);
    assert_eq!(harness.resume(&["news.*"], harness.after(events[1])), [gap(back, "news.*", GapReason::Source)]);
    harness.hub.set_unsubscribed(&name("news.*"));
    assert!(harness.hub.is_refused(id));
}

/// Seen: channels on demand lost their histories as soon as their last client left.
#[test]
fn many_kept_channels_without_clients_end_no_linger() {
    let mut harness = kept();
    confirm(&mut harness);
    for n in 0..10_001 {
        let channel = format!("news.{n}");
        harness.publish(&channel, "x");
        let id = harness.hub.hold(&name(&channel));
        harness.hub.release(id, harness.uptime());
    }
    let id = harness.hub.hold(&name("cats"));
    harness.hub.set_subscribing(id);
    let opened = harness.sequencer.next(harness.now);
    harness.hub.confirm(&name("cats"), Some(opened));
    harness.hub.release(id, harness.uptime());
    for _ in 0..40 {
        assert_eq!(harness.hub.sweep(harness.uptime()), []);
    }
}

#[test]
fn a_refused_rule_refuses_its_channels_until_it_is_confirmed_again() {
    let mut harness = kept();
    confirm(&mut harness);
    let start = harness.sequencer.last();
    harness.publish("news.1", "x");
    let id = harness.hub.hold(&name("news.1"));
    assert!(!harness.hub.is_refused(id));
    harness.hub.set_unsubscribed(&name("news.*"));
    assert!(harness.hub.is_refused(id));
    let since = confirm(&mut harness);
    assert!(!harness.hub.is_refused(id));
    assert_eq!(harness.resume(&["news.1"], harness.after(start)), [gap(since, "news.1", GapReason::History)]);
}

#[test]
fn a_successor_has_what_its_predecessor_has_kept_and_since_when() {
    let mut before = kept();
    let since = confirm(&mut before);
    let event = before.publish("news.1", "x");
    let mut after = kept();
    for (name, since) in before.hub.export_kept() {
        after.hub.import_kept(name, since);
    }
    for (_, channel) in before.hub.export() {
        after.hub.import(channel, Uptime::default());
    }
    after.hub.advance(event);
    after.hub.node = before.hub.node;
    assert_eq!(after.resume(&["news.1"], before.after(since)), [Given::Event(event)]);
    assert_eq!(after.resume(&["news.2"], before.after(since)), []);
    // A channel that is kept always now was on demand before: nothing is missing of it either.
    let mut new = Harness::new(limits(3), true);
    new.set_rules(&[Channel { keep: Keep::Always, ..table("*") }]);
    for (_, channel) in before.hub.export() {
        new.hub.import(channel, Uptime::default());
    }
    new.hub.node = before.hub.node;
    new.hub.advance(event);
    new.hub.confirm(&name("*"), Some(Position(event.0 + 1)));
    assert_eq!(new.resume(&["news.1"], before.after(since)), [Given::Event(event)]);
    assert_eq!(new.resume(&["news.2"], before.after(since)).len(), 1, "a gap: it was not kept before");
}
