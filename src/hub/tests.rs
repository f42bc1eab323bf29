//! What the hub promises, held against a model: whoever resumes after any cursor gets what was published after it, once and
//! in order, or is told.

use std::{collections::HashSet, time::Duration};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{
    event::{Coding, Form, Message},
    sse::GapReason,
};

const SECOND: u64 = 1_000_000;

struct World {
    hub: Hub,
    sequencer: Sequencer,
    now: u64,
}

impl World {
    fn new(limits: config::History, on_demand: bool) -> Self {
        let now = 1_000 * SECOND;
        let sequencer = Sequencer::new("abcdefgh".parse().unwrap(), now);
        Self { hub: Hub::new(sequencer.cursor(), limits, on_demand), sequencer, now }
    }

    fn publish(&mut self, channel: &str, data: &str) -> Position {
        let position = self.sequencer.next(self.now);
        let message = Message { channel: name(channel), event: None, data: Bytes::from(data.to_owned()) };
        self.hub.publish(&Arc::new(Event::new(self.sequencer.node(), position, &message)));
        while let Some(batch) = self.hub.next_batch() {
            self.hub.recycle(batch);
        }
        self.hub.trim(self.now);
        position
    }

    fn join(&mut self, channels: &[&str], client: ClientIndex) -> (GroupId, u32) {
        let ids: Vec<ChannelId> = channels.iter().map(|channel| self.hub.hold(&name(channel))).collect();
        let joined = self.hub.join(ids.clone(), Kind::Stream(Form::Plain, Coding::Identity), client);
        ids.into_iter().for_each(|id| self.hub.release(id, self.now));
        joined
    }

    /// What a client that resumes after `start` is given.
    fn resume(&mut self, channels: &[&str], start: Start) -> Vec<Told> {
        let (group, slot) = self.join(channels, 7);
        let told = self.hub.replay(group, self.hub.reader(start, self.now)).map(Told::from).collect();
        self.hub.leave(group, slot, self.now);
        told
    }

    fn after(&self, position: Position) -> Start {
        Start::After(self.hub.cursor_at(position))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Event(Position),
    Gap(Position, Vec<String>, GapReason),
}

impl From<ReplayItem> for Told {
    fn from(due: ReplayItem) -> Self {
        match due {
            ReplayItem::Event(event) => Self::Event(event.position()),
            ReplayItem::Gap { position, channels, reason } => {
                Self::Gap(position, channels.iter().map(ToString::to_string).collect(), reason)
            }
        }
    }
}

fn name(name: &str) -> ChannelName {
    ChannelName::new(name).unwrap()
}

fn limits(messages: usize) -> config::History {
    config::History { messages, ..config::History::default() }
}

#[test]
fn several_channels_are_replayed_in_one_order() {
    let mut world = World::new(limits(10), false);
    let start = world.sequencer.last();
    let published: Vec<_> = ["a", "b", "a", "c", "b"].iter().map(|channel| world.publish(channel, "x")).collect();
    let told = world.resume(&["a", "b"], world.after(start));
    assert_eq!(told, [published[0], published[1], published[2], published[4]].map(Told::Event));
    assert_eq!(world.resume(&["a", "b"], world.after(published[2])), [Told::Event(published[4])]);
    assert_eq!(world.resume(&["a", "b"], Start::Now), []);
}

#[test]
fn what_was_dropped_is_a_gap_at_the_position_it_ends() {
    let mut world = World::new(limits(2), false);
    let start = world.sequencer.last();
    let a: Vec<_> = (0..4).map(|_| world.publish("a", "x")).collect();
    let b = world.publish("b", "x");
    let gap = Told::Gap(a[1], vec!["a".to_owned()], GapReason::History);
    let told = world.resume(&["a", "b"], world.after(start));
    assert_eq!(told, [gap, Told::Event(a[2]), Told::Event(a[3]), Told::Event(b)]);
    assert_eq!(world.resume(&["a"], world.after(a[1])), [Told::Event(a[2]), Told::Event(a[3])]);
}

#[test]
fn events_before_a_gap_come_before_it_so_that_its_id_skips_none() {
    let mut world = World::new(limits(1), false);
    let start = world.sequencer.last();
    let b = world.publish("b", "x");
    let a: Vec<_> = (0..2).map(|_| world.publish("a", "x")).collect();
    let gap = Told::Gap(a[0], vec!["a".to_owned()], GapReason::History);
    assert_eq!(world.resume(&["a", "b"], world.after(start)), [Told::Event(b), gap, Told::Event(a[1])]);
}

#[test]
fn a_cursor_of_another_run_counts_as_a_time() {
    let mut world = World::new(limits(10), false);
    world.now += 10 * SECOND;
    let event = world.publish("a", "x");
    let other = |position| Start::After(Cursor { node: "zzzzzzzz".parse().unwrap(), position });
    // Its time less the skew is after this run's start: all that is younger is given, and nothing was missed.
    assert_eq!(world.resume(&["a"], other(Position(event.0 + SECOND))), [Told::Event(event)]);
    world.now += 10 * SECOND;
    assert_eq!(world.resume(&["a"], other(Position(event.0 + 3 * SECOND))), []);
    // Before the start nobody knows.
    let told = world.resume(&["a"], other(Position(SECOND)));
    assert_eq!(told[0], Told::Gap(Position(1_000 * SECOND), vec!["a".to_owned()], GapReason::Restart));
    assert_eq!(told[1], Told::Event(event));
    // From a clock far ahead of ours nothing follows about what the client has.
    let told = world.resume(&["a"], other(Position(u64::MAX)));
    assert!(matches!(&told[..], [Told::Gap(_, _, GapReason::Restart), Told::Event(_)]), "{told:?}");
}

#[test]
fn an_unknown_id_is_told_and_gets_all_that_is_kept() {
    let mut world = World::new(limits(10), false);
    let event = world.publish("a", "x");
    let told = world.resume(&["a", "b"], Start::Unknown);
    let both = vec!["a".to_owned(), "b".to_owned()];
    assert_eq!(told, [Told::Gap(Position(1_000 * SECOND), both, GapReason::Restart), Told::Event(event)]);
}

#[test]
fn a_source_that_was_away_is_a_gap_for_all_its_channels() {
    let mut world = World::new(limits(10), true);
    let id = world.hub.hold(&name("a"));
    assert_eq!(world.hub.subscription(id), (Subscription::Pending, false));
    let open = world.sequencer.next(world.now);
    world.hub.confirm(&name("a"), Some(open));
    world.hub.confirm(&name("b"), Some(open));
    let event = world.publish("a", "x");
    let back = world.sequencer.next(world.now);
    world.hub.restore(&name("a"), back);
    world.hub.restore(&name("b"), back);
    let both = vec!["a".to_owned(), "b".to_owned()];
    let gap = Told::Gap(back, both, GapReason::Source);
    assert_eq!(world.resume(&["a", "b"], world.after(open)), [Told::Event(event), gap]);
    assert_eq!(world.resume(&["a", "b"], world.after(back)), []);
}

#[test]
fn an_event_of_a_channel_nobody_asked_for_is_not_kept() {
    let mut world = World::new(limits(10), true);
    world.publish("a", "x");
    assert_eq!(world.hub.id(&name("a")), None);
    assert_eq!(world.hub.bytes, 0);
}

#[test]
fn a_channel_stretches_for_those_who_are_behind_and_no_longer_than_configured() {
    let mut world = World::new(limits(2), false);
    let (group, _) = world.join(&["a"], 1);
    world.hub.set_behind(group, true);
    let cursor = world.sequencer.last();
    for _ in 0..50 {
        world.publish("a", "x");
    }
    assert_eq!(world.resume(&["a"], world.after(cursor)).len(), 50);
    world.now += 6 * SECOND;
    world.publish("a", "x");
    assert_eq!(world.resume(&["a"], world.after(cursor)).len(), 3, "a gap and two events");
    world.hub.set_behind(group, false);
}

#[test]
fn a_channel_is_unwanted_once_nobody_has_listened_for_the_linger() {
    let mut world = World::new(limits(2), true);
    let (group, slot) = world.join(&["a"], 1);
    let id = world.hub.id(&name("a")).unwrap();
    world.hub.set_wanted(id, true);
    world.hub.leave(group, slot, world.now);
    world.now += 59 * SECOND;
    assert_eq!(world.hub.sweep(world.now), []);
    world.now += 2 * SECOND;
    assert_eq!(world.hub.sweep(world.now), [name("a")]);
    world.hub.set_unsubscribed(&name("a"));
    assert_eq!((world.hub.id(&name("a")), world.hub.bytes), (None, 0));
}

#[test]
fn events_past_their_age_go_and_a_cursor_before_them_is_told() {
    let mut world = World::new(config::History { age: Duration::from_secs(10), ..limits(10) }, false);
    let start = world.sequencer.last();
    let old = world.publish("a", "x");
    world.now += 11 * SECOND;
    world.hub.sweep(world.now);
    world.hub.sweep(world.now);
    let told = world.resume(&["a"], world.after(start));
    assert_eq!(told, [Told::Gap(old, vec!["a".to_owned()], GapReason::History)]);
    assert_eq!(world.resume(&["a"], world.after(old)), []);
}

#[test]
fn all_histories_together_are_bounded_and_quiet_channels_give_way() {
    let bytes = 100_000;
    let mut world = World::new(config::History { bytes, ..limits(1000) }, false);
    for n in 0..2_000 {
        world.publish(&format!("quiet-{n}"), "x");
        world.publish("busy", &"x".repeat(50));
        assert!(world.hub.bytes <= bytes, "{} bytes after {n}", world.hub.bytes);
    }
    let (cursor, busy) = (world.sequencer.last(), world.publish("busy", "x"));
    assert_eq!(world.resume(&["busy"], world.after(cursor)), [Told::Event(busy)]);
    let told = world.resume(&["quiet-0"], world.after(Position(1_000 * SECOND)));
    assert!(matches!(&told[..], [Told::Gap(..)]), "{told:?}");
    assert!(world.hub.channels.len() < 600, "channels without events are forgotten");
}

#[test]
fn groups_end_with_their_last_member_and_leave_their_channels() {
    let mut world = World::new(limits(2), false);
    let mut clients: Vec<(GroupId, u32)> = Vec::new();
    for (member, channels) in
        [vec!["a"], vec!["a", "b"], vec!["b", "a"], vec!["b"], vec!["a", "b", "c"]].iter().enumerate()
    {
        clients.push(world.join(channels, u32::try_from(member).unwrap()));
    }
    assert_eq!(clients[1].0, clients[2].0, "order does not matter");
    assert_eq!(world.hub.subscribers_of(&name("a")), 4);
    assert_eq!(world.hub.leave(clients[1].0, clients[1].1, world.now), Some(2), "the other member takes the place");
    assert_eq!(world.hub.leave(clients[2].0, clients[1].1, world.now), None);
    for index in [0, 3, 4] {
        world.hub.leave(clients[index].0, clients[index].1, world.now);
    }
    assert!(world.hub.channels.iter().all(|(_, channel)| channel.groups.is_empty() && channel.subscribers == 0));
}

proptest! {
    /// Whatever is published and dropped, a client that is cut off after any event or gap and resumes there has, at the end,
    /// everything in order and once, or was told of a gap before what is missing.
    #[test]
    fn whoever_resumes_has_everything_once_or_is_told(
        steps in prop::collection::vec((0..4usize, 0..3u8), 1..120),
        messages in 1..12usize,
        cuts in prop::collection::vec(1..6usize, 1..60),
    ) {
        let mut world = World::new(limits(messages), false);
        let channels = ["a", "b", "c"];
        let mut published = Vec::new();
        let mut cursor = world.sequencer.last();
        let mut got = HashSet::new();
        let mut excused = Vec::new();
        let mut cuts = cuts.into_iter().cycle();
        for (channel, resume) in steps {
            world.now += 1;
            let channel = ["a", "b", "c", "other"][channel];
            published.push((channel, world.publish(channel, "x")));
            if resume > 0 {
                continue;
            }
            let take = cuts.next().unwrap();
            for told in world.resume(&channels, world.after(cursor)).into_iter().take(take) {
                match told {
                    Told::Event(position) => {
                        prop_assert!(position > cursor && got.insert(position));
                        cursor = position;
                    }
                    Told::Gap(position, gapped, _) => {
                        prop_assert!(position > cursor);
                        for channel in gapped {
                            excused.push((channel, position));
                        }
                        cursor = position;
                    }
                }
            }
        }
        for told in world.resume(&channels, world.after(cursor)) {
            match told {
                Told::Event(position) => prop_assert!(got.insert(position)),
                Told::Gap(position, gapped, _) => excused.extend(gapped.into_iter().map(|channel| (channel, position))),
            }
        }
        for (channel, position) in published {
            let told = || excused.iter().any(|(gapped, until)| gapped == channel && position <= *until);
            prop_assert!(channel == "other" || got.contains(&position) || told(), "{channel} {position} is missing");
        }
    }
}

#[test]
fn each_time_that_a_source_was_away_is_told_in_its_place() {
    let mut world = World::new(limits(100), true);
    let open = world.sequencer.next(world.now);
    world.hub.confirm(&name("a"), Some(open));
    let mut told = Vec::new();
    let mut first_hole = None;
    for _ in 0..8 {
        told.push(Told::Event(world.publish("a", "x")));
        let back = world.sequencer.next(world.now);
        world.hub.restore(&name("a"), back);
        first_hole.get_or_insert(back);
        told.push(Told::Gap(back, vec!["a".to_owned()], GapReason::Source));
    }
    assert_eq!(world.resume(&["a"], world.after(open)), told);
    // With one hole too many, what was before the first one is no longer kept.
    let back = world.sequencer.next(world.now);
    world.hub.restore(&name("a"), back);
    let resumed = world.resume(&["a"], world.after(open));
    assert_eq!(resumed[0], Told::Gap(first_hole.unwrap(), vec!["a".to_owned()], GapReason::History));
    assert_eq!(resumed[1..resumed.len() - 1], told[2..told.len() - 1], "the last two holes are told together");
}
