//! Tests of patterns that clients read. That events and gaps of patterns come in order, each once, is tested in `gap_tests`.

use std::collections::HashMap;

use proptest::prelude::*;

use super::{
    tests::{Given, Harness, SECOND, limits, name},
    *,
};
use crate::{
    config::{Channel, Keep},
    event::{Coding, Form, Message},
    pattern,
    sse::GapReason,
};

/// Publishes an event, and returns its position and how many clients it goes to.
fn publish(harness: &mut Harness, channel: &str) -> (Position, u32) {
    let position = harness.sequencer.next(harness.now);
    let message = Message::new(name(channel), None, bytes::Bytes::from_static(b"x"));
    let event = Event::new(harness.sequencer.node(), position, &crate::cursor::Entries::NONE, &message);
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
fn a_new_pattern_has_the_newest_events_of_its_channels_whichever_is_collected_first() {
    for backwards in [false, true] {
        let mut harness = Harness::new(limits(10), false);
        harness.set_rules(&[Channel { pattern_messages: 4, ..Channel::default() }]);
        let start = harness.sequencer.last();
        let order = |n: usize| if backwards { 29 - n } else { n };
        for n in 0..30 {
            harness.publish(&format!("news.{n}"), "x");
        }
        let all: Vec<Position> = (0..60).map(|n| harness.publish(&format!("news.{}", order(n / 2)), "x")).collect();
        let given = harness.resume(&["news.*"], harness.after(start));
        let expected = all[56..].iter().map(|&position| Given::Event(position));
        let gap = Given::Gap(all[55], vec!["news.*".to_owned()], GapReason::History);
        assert_eq!(given, std::iter::once(gap).chain(expected).collect::<Vec<_>>());
    }
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
    let Some(ReplayItem::Event(event, _)) = harness.hub.replay(group, &reader).next() else { panic!("no event") };
    assert!(event.frame(Form::Envelope).len() > 1000);
    harness.hub.weigh(&event);
    assert!(harness.hub.bytes > before + 1000);
}

const NAMES: [&str; 4] = ["a", "ab", "b", "c"];
const SUBJECTS: [&str; 8] = ["a", "ab", "b", "c", "*", "a*", "*b", "d*"];

#[derive(Debug, Clone)]
enum Step {
    /// A client joins, by these subjects.
    Join(Vec<&'static str>),
    /// The client of this number, counted among those that are there, leaves.
    Leave(usize),
    Publish(&'static str),
    /// The batches are sent.
    Flush,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let subjects = prop::sample::subsequence(SUBJECTS.to_vec(), 1..=4);
    let step = prop_oneof![
        2 => subjects.prop_map(Step::Join),
        1 => (0..10_usize).prop_map(Step::Leave),
        6 => prop::sample::select(NAMES.to_vec()).prop_map(Step::Publish),
        2 => Just(Step::Flush),
    ];
    prop::collection::vec(step, 0..80)
}

/// What the clients have got, and what they should have.
#[derive(Default)]
struct Clients {
    /// By their numbers: the group, the place in it, the subjects.
    joined: Vec<(ClientIndex, (GroupId, u32), Vec<&'static str>)>,
    got: HashMap<ClientIndex, Vec<Position>>,
    expected: HashMap<ClientIndex, Vec<Position>>,
}

impl Clients {
    fn flush(&mut self, hub: &mut Hub) {
        for (group, positions) in batches(hub) {
            for client in hub.clients(group) {
                self.got.entry(*client).or_default().extend(&positions);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// The model: a client gets an event if one of its subjects matches the channel. A client joins and leaves only while no batch
    /// waits.
    #[test]
    fn each_client_gets_each_event_that_a_subject_of_it_matches_once_and_in_order(steps in steps()) {
        let mut harness = Harness::new(limits(10), false);
        let mut clients = Clients::default();
        for (number, step) in (0..).zip(steps) {
            match step {
                Step::Join(subjects) => {
                    clients.flush(&mut harness.hub);
                    clients.joined.push((number, harness.join(&subjects, number), subjects));
                }
                Step::Leave(at) => {
                    clients.flush(&mut harness.hub);
                    if at < clients.joined.len() {
                        let (_, (group, place), _) = clients.joined.swap_remove(at);
                        if let Some(moved) = harness.hub.leave(group, place, harness.uptime()) {
                            let moved = clients.joined.iter_mut().find(|(number, ..)| *number == moved).unwrap();
                            moved.1 = (group, place);
                        }
                    }
                }
                Step::Publish(channel) => {
                    let (position, counted) = publish(&mut harness, channel);
                    let reads = |subjects: &[&str]| subjects.iter().any(|subject| pattern::matches(subject, channel));
                    let readers: Vec<_> = clients.joined.iter().filter(|(_, _, subjects)| reads(subjects)).collect();
                    prop_assert_eq!(counted as usize, readers.len());
                    prop_assert_eq!(harness.hub.subscribers_of(&name(channel)), counted);
                    for (number, ..) in readers {
                        clients.expected.entry(*number).or_default().push(position);
                    }
                }
                Step::Flush => clients.flush(&mut harness.hub),
            }
        }
        clients.flush(&mut harness.hub);
        prop_assert_eq!(clients.got, clients.expected);
    }
}

#[test]
fn a_client_that_reads_a_pattern_too_slowly_gets_a_gap_event_that_names_it() {
    let mut harness = Harness::new(limits(10), false);
    harness.set_rules(&[Channel { pattern_messages: 2, ..Channel::default() }]);
    let (group, _) = harness.join(&["news.*"], 1);
    harness.hub.set_behind(group, true);
    let reader = Reader::live(harness.sequencer.last());
    let events: Vec<Position> = (0..4).map(|number| harness.publish(&format!("news.{number}"), "x")).collect();
    // Beyond `history.stretch` nothing more is kept for it.
    harness.now += (harness.hub.limits.stretch.as_secs() + 1) * SECOND;
    harness.hub.sweep(harness.uptime());
    let given: Vec<Given> = harness.hub.replay(group, &reader).map(Given::from).collect();
    let gap = Given::Gap(events[1], vec!["news.*".to_owned()], GapReason::Slow);
    assert_eq!(given, [gap, Given::Event(events[2]), Given::Event(events[3])]);
}
