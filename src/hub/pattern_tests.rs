//! Tests of patterns that clients read. That events and gaps of patterns come in order, each once, is tested in `gap_tests`.

use super::{
    tests::{Given, Harness, SECOND, limits, name},
    *,
};
use crate::{
    config::{Channel, Keep},
    event::{Coding, Form, Message},
    sse::GapReason,
};

/// Publishes an event, and returns its position and how many clients it goes to.
fn publish(harness: &mut Harness, channel: &str) -> (Position, u32) {
    let position = harness.sequencer.next(harness.now);
    let message = Message { channel: name(channel), event: None, data: bytes::Bytes::from_static(b"x") };
    let event = Event::new(harness.sequencer.node(), position, &message);
    (position, harness.hub.publish(&Arc::new(event), harness.uptime()))
}

/// The positions in each batch, by group.
fn batches(hub: &mut Hub) -> Vec<(GroupId, Vec<Position>)> {
    let mut all = Vec::new();
    while let Some(batch) = hub.next_batch() {
        all.push((batch.group, batch.events.iter().map(|event| event.position()).collect()));
        hub.recycle(batch);
    }
    all.sort_unstable();
    all
}

#[test]
fn an_event_goes_once_to_each_group_however_many_of_its_subscriptions_match() {
    let mut harness = Harness::new(limits(10), false);
    let (all, _) = harness.join(&["news.*", "news.1", "*"], 1);
    let (pattern, _) = harness.join(&["news.*"], 2);
    harness.join(&["news.*"], 3);
    let (named, _) = harness.join(&["news.1", "cats"], 4);
    let ((first, to_first), (second, to_second)) = (publish(&mut harness, "news.1"), publish(&mut harness, "news.2"));
    let (cats, to_cats) = publish(&mut harness, "cats");
    let mut expected =
        vec![(all, vec![first, second, cats]), (pattern, vec![first, second]), (named, vec![first, cats])];
    expected.sort_unstable();
    assert_eq!(batches(&mut harness.hub), expected);
    assert_eq!([to_first, to_second, to_cats], [4, 3, 2]);
    let counted = ["news.1", "news.2", "cats", "news.*"].map(|channel| harness.hub.subscribers_of(&name(channel)));
    assert_eq!(counted, [4, 3, 2, 3]);
    let (_, to_reserved) = publish(&mut harness, "__keyevent@0__:set");
    assert_eq!((to_reserved, batches(&mut harness.hub)), (0, vec![]), "no pattern matches a reserved name");
}

#[test]
fn a_pattern_has_a_history_of_its_own_whatever_channels_keep() {
    let mut harness = Harness::new(limits(2), true);
    harness.set_rules(&[Channel { pattern_messages: 4, ..Channel::default() }]);
    let opened = harness.sequencer.next(harness.now);
    harness.hub.confirm(&name("news.*"), Some(opened));
    harness.hub.confirm(&name("news.1"), Some(opened));
    let events: Vec<Position> =
        ["news.1", "news.2", "news.1", "news.1"].iter().map(|channel| harness.publish(channel, "x")).collect();
    assert_eq!(harness.hub.id(&name("news.2")), None, "only the pattern has its events");
    let given: Vec<Given> = events.iter().map(|&position| Given::Event(position)).collect();
    assert_eq!(harness.resume(&["news.*"], harness.after(opened)), given);
    harness.publish("news.3", "x");
    let gap = Given::Gap(events[0], vec!["news.*".to_owned()], GapReason::History);
    assert_eq!(harness.resume(&["news.*"], harness.after(opened))[0], gap);
}

#[test]
fn a_pattern_that_no_source_is_asked_for_has_what_its_channels_have_kept_and_is_complete_where_all_are() {
    let mut harness = Harness::new(limits(2), false);
    let start = harness.sequencer.last();
    let first: Vec<Position> = ["news.1", "news.2"].iter().map(|channel| harness.publish(channel, "x")).collect();
    harness.publish("cats", "x");
    let given = |positions: &[Position]| positions.iter().map(|&position| Given::Event(position)).collect::<Vec<_>>();
    assert_eq!(harness.resume(&["news.*"], harness.after(start)), given(&first));
    // Nobody reads it for longer than the linger: it is dropped, and collected again.
    let later = harness.hub.limits.linger.as_secs() + 1;
    harness.now += later * SECOND;
    harness.hub.sweep(harness.uptime());
    assert!(harness.hub.patterns.is_empty() && harness.hub.id(&name("news.*")).is_none());
    let more: Vec<Position> = (0..2).map(|_| harness.publish("news.1", "x")).collect();
    let gap = Given::Gap(first[0], vec!["news.*".to_owned()], GapReason::History);
    let all = [vec![gap], given(&[first[1], more[0], more[1]])].concat();
    assert_eq!(harness.resume(&["news.*"], harness.after(start)), all, "news.1 has dropped its first event");
    assert_eq!(harness.resume(&["news.*"], harness.after(first[0])), all[1..]);
}

#[test]
fn a_pattern_of_a_rule_that_keeps_always_needs_no_subscription_and_shares_the_rules_gaps() {
    let mut harness = Harness::new(limits(10), true);
    harness.set_rules(&[Channel { r#match: name("news.*"), keep: Keep::Always, ..Channel::default() }]);
    let since = harness.sequencer.next(harness.now);
    harness.hub.confirm(&name("news.*"), Some(since));
    let event = harness.publish("news.1", "x");
    let kept = |harness: &mut Harness, pattern: &str| harness.resume(&[pattern], harness.after(since));
    for pattern in ["news.*", "news.1*"] {
        assert_eq!(kept(&mut harness, pattern), [Given::Event(event)], "{pattern}");
        let id = harness.hub.id(&name(pattern)).unwrap();
        assert_eq!(
            (harness.hub.subscription(id), harness.hub.is_on_demand(id)),
            ((Subscription::Confirmed, false), false)
        );
    }
    let wide = harness.hub.hold(&name("n*"));
    assert!(harness.hub.is_on_demand(wide), "it matches channels that are not kept");
    let back = harness.reconnect(&["news.*"], event);
    let gap = |pattern: &str| Given::Gap(back, vec![pattern.to_owned()], GapReason::Source);
    for pattern in ["news.*", "news.1*"] {
        assert_eq!(kept(&mut harness, pattern), [Given::Event(event), gap(pattern)]);
    }
    // One message of one channel is lost.
    let later = harness.publish("news.2", "x");
    let lost = harness.reconnect(&["news.1"], later);
    assert_eq!(
        harness.resume(&["news.1*"], harness.after(later)),
        [Given::Gap(lost, vec!["news.1*".to_owned()], GapReason::Source)]
    );
}

#[test]
fn a_pattern_is_unsubscribed_after_its_linger_as_a_channel_is() {
    let mut harness = Harness::new(limits(10), true);
    let id = harness.hub.hold(&name("news.*"));
    harness.hub.set_subscribing(id);
    harness.hub.confirm(&name("news.*"), Some(harness.sequencer.last()));
    harness.hub.release(id, harness.uptime());
    harness.publish("news.1", "x");
    assert_eq!(harness.hub.sweep(harness.uptime()), []);
    harness.now += (harness.hub.limits.linger.as_secs() + 1) * SECOND;
    assert_eq!(harness.hub.sweep(harness.uptime()), [name("news.*")]);
    harness.hub.set_unsubscribed(&name("news.*"));
    harness.publish("news.1", "x");
    assert_eq!(harness.hub.bytes, 0, "what comes late is not kept");
    harness.hub.sweep(harness.uptime());
    assert!(harness.hub.patterns.is_empty() && harness.hub.channels.is_empty());
}

#[test]
fn all_histories_together_stay_within_their_bytes_with_patterns_too() {
    let mut harness = Harness::new(config::History { bytes: 20_000, ..limits(1000) }, false);
    let start = harness.sequencer.last();
    harness.join(&["*"], 1);
    harness.join(&["news.*"], 2);
    for number in 0..500 {
        harness.publish(&format!("news.{}", number % 7), &"x".repeat(100));
        assert!(harness.hub.bytes <= 20_000);
    }
    assert!(matches!(harness.resume(&["*"], harness.after(start))[0], Given::Gap(..)));
    let kept: usize = harness.hub.channels.iter().map(|(_, channel)| channel.history.len()).sum();
    assert!(kept > 20, "{kept} events are kept");
}

#[test]
fn a_client_in_envelopes_that_catches_up_is_weighed_in_the_patterns_history() {
    let mut harness = Harness::new(limits(10), true);
    harness.hub.confirm(&name("*"), Some(harness.sequencer.last()));
    let position = harness.publish("news.1", &"x".repeat(1000));
    let before = harness.hub.bytes;
    let ids = vec![harness.hub.id(&name("*")).unwrap()];
    let (group, _) = harness.hub.join(ids, Kind::Stream(Form::Envelope, Coding::Identity), 1);
    let reader = Reader::new(Position(position.0 - 1), CursorOrigin::Resumed);
    let Some(ReplayItem::Event(event)) = harness.hub.replay(group, &reader).next() else { panic!("no event") };
    assert!(event.frame(Form::Envelope).len() > 1000);
    harness.hub.weigh(&event);
    assert!(harness.hub.bytes > before + 1000);
}
