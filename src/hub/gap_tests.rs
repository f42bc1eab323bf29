//! Property tests: no gap can be skipped. A client is cut off anywhere and continues at another hub (another shard, another node,
//! the process after an upgrade), whose histories are shorter or longer.
//!
//! Checked for each channel: events come in order, and if events are missing, a gap event that names the channel comes in their
//! place, not earlier than they were published.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{
    cursor::Entries,
    event::{Coding, Form, Message},
    pattern, sse,
};

const CHANNELS: [&str; 3] = ["a", "b", "c"];
/// What clients may read: the channels, and patterns.
const SUBJECTS: [&str; 5] = ["a", "b", "c", "*", "b*"];
/// What the client reads: each list has all channels.
const READS: [&[&str]; 5] = [&["a", "b", "c"], &["*"], &["a", "*"], &["a", "b*", "c"], &["a", "b", "c", "*", "b*"]];
/// Most microseconds between the clocks of two nodes.
const SKEW: u64 = 20;

#[derive(Debug, Clone)]
enum Step {
    /// Publishes on a channel, some microseconds after the step before.
    Publish(usize, u64),
    /// The node's source is disconnected.
    Disconnect(usize),
    /// The node's source is connected again.
    Reconnect(usize),
    /// The client is cut off, resumes at a hub, and is cut off again after so many items.
    Resume(usize, usize),
    /// The client is cut off, and polls at a hub with a limit of so many items.
    Poll(usize, usize),
    /// The client, still connected, is given so many more items.
    Read(usize),
    /// The client, still connected, reads everything; a ping has the last position as its id.
    CatchUp,
    /// A node stands still. Its source keeps for it what is published.
    Stop(usize),
    /// It goes on, and reads what its source has kept.
    Go(usize),
    /// A node that goes on gets to know that it has everything.
    Known(usize),
    /// A node's position moves towards the present.
    Advance(usize),
    /// A reload: the shards of a node get the longest of their histories. A connected client stays connected.
    Merge(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        10 => (0..CHANNELS.len(), 1..30_u64).prop_map(|(channel, after)| Step::Publish(channel, after)),
        1 => (0..2_usize).prop_map(Step::Disconnect),
        2 => (0..2_usize).prop_map(Step::Reconnect),
        3 => (0..4_usize, 0..5_usize).prop_map(|(hub, items)| Step::Resume(hub, items)),
        2 => (0..4_usize, 1..5_usize).prop_map(|(hub, items)| Step::Poll(hub, items)),
        3 => (1..5_usize).prop_map(Step::Read),
        1 => Just(Step::CatchUp),
        1 => (0..2_usize).prop_map(Step::Merge),
    ];
    prop::collection::vec(step, 1..150)
}

/// Steps while nodes stand still now and then.
fn lagging_steps() -> impl Strategy<Value = Vec<Step>> {
    let lag = prop_oneof![
        1 => (0..2_usize).prop_map(Step::Stop),
        2 => (0..2_usize).prop_map(Step::Go),
        1 => (0..2_usize).prop_map(Step::Known),
        1 => (0..2_usize).prop_map(Step::Advance),
    ];
    (steps(), prop::collection::vec((any::<prop::sample::Index>(), lag), 1..50)).prop_map(|(mut steps, lags)| {
        for (at, lag) in lags {
            steps.insert(at.index(steps.len() + 1), lag);
        }
        steps
    })
}

/// A node: two shards with one sequencer.
struct Node {
    sequencer: Sequencer,
    /// How far its clock is ahead.
    ahead: u64,
    shards: [Hub; 2],
    disconnected_after: Option<Position>,
    /// What its source keeps for it, while it stands still: channels and numbers.
    kept: Option<Vec<(usize, usize)>>,
    /// Until when it is known to have everything, by its clock; `None` while that is the present.
    known: Option<u64>,
}

impl Node {
    /// The next position, as the dispatcher makes it; the shards are notified of a lag.
    fn next_position(&mut self, now: u64) -> Position {
        let now = now + self.ahead;
        let time = self.known.map_or(now, |known| now.min(known + SKEW / 2));
        if time < now {
            let span = LagSpan { until: now, after: self.sequencer.last() };
            self.shards.iter_mut().for_each(|hub| hub.note_lag(span));
        }
        self.sequencer.next(time)
    }

    fn publish(&mut self, channel: usize, number: usize, now: u64) {
        let data = Bytes::from(number.to_string());
        let message = Message::new(ChannelName::new(CHANNELS[channel]).unwrap(), None, data);
        let position = self.next_position(now);
        let event = Arc::new(Event::new(self.sequencer.node(), position, &Entries::NONE, &message));
        for hub in &mut self.shards {
            hub.publish(&event, Uptime::default());
            hub.trim(Uptime::default());
        }
    }

    fn stop(&mut self, now: u64) {
        if self.disconnected_after.is_none() && self.kept.is_none() {
            self.kept = Some(Vec::new());
            self.known.get_or_insert(now + self.ahead);
        }
    }

    fn go(&mut self, now: u64) {
        for (channel, number) in self.kept.take().unwrap_or_default() {
            self.publish(channel, number, now);
        }
    }

    /// Whether it has everything that was published.
    fn has_all(&self) -> bool {
        self.kept.is_none() && self.disconnected_after.is_none()
    }
}

/// What the client got on one channel.
#[derive(Default)]
struct Channel {
    published: usize,
    /// The next event in order, by its number.
    next: usize,
    /// If a gap event came after the channel's last event: how many events were published by then.
    gap: Option<usize>,
}

struct Harness {
    now: u64,
    nodes: [Node; 2],
    channels: [Channel; 3],
    cursor: Cursor,
    /// The hub that the client is connected to, and its reader there.
    connected: Option<(usize, Reader)>,
    reads: &'static [&'static str],
    /// Whether repeats are allowed, since the client has changed the node.
    moved: bool,
}

fn limits(messages: usize) -> config::History {
    config::History { messages, skew: Duration::from_micros(SKEW), ..config::History::default() }
}

fn subject(name: &str) -> ChannelName {
    ChannelName::subscribable(name).unwrap()
}

/// A hub that keeps as much of a pattern as of a channel.
fn new_hub(cursor: Cursor, limits: config::History) -> Hub {
    let table = config::Channel { pattern_messages: limits.messages, ..config::Channel::default() };
    let rules = ChannelRules::new(&limits, &[table]);
    Hub::new(cursor, limits, true).with_rules(rules)
}

impl Harness {
    fn new(messages: [usize; 4], ahead: u64, reads: &'static [&'static str]) -> Self {
        let now = 1_000_000_000;
        let node = |number: usize, name: &str, ahead| {
            let sequencer = Sequencer::new(name.parse().unwrap(), now + ahead);
            let shard = |shard: usize| {
                let mut hub = new_hub(sequencer.cursor(), limits(messages[number * 2 + shard]));
                for channel in SUBJECTS {
                    hub.confirm(&subject(channel), Some(sequencer.last()));
                }
                hub
            };
            let shards = [shard(0), shard(1)];
            Node { sequencer, ahead, shards, disconnected_after: None, kept: None, known: None }
        };
        let nodes = [node(0, "aaaaaaaa", 0), node(1, "bbbbbbbb", ahead)];
        let cursor = nodes[0].sequencer.cursor();
        Self { now, nodes, channels: Default::default(), cursor, connected: None, reads, moved: false }
    }

    fn hub(&mut self, hub: usize) -> &mut Hub {
        &mut self.nodes[hub / 2].shards[hub % 2]
    }

    fn publish(&mut self, channel: usize, after: u64) {
        self.now += after;
        let number = self.channels[channel].published;
        self.channels[channel].published += 1;
        for node in &mut self.nodes {
            match &mut node.kept {
                _ if node.disconnected_after.is_some() => {}
                Some(kept) => kept.push((channel, number)),
                None => node.publish(channel, number, self.now),
            }
        }
    }

    fn reconnect(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        let Some(begin) = node.disconnected_after.take() else { return };
        let hole = Hole::new(begin, node.next_position(self.now));
        for hub in &mut node.shards {
            for channel in SUBJECTS {
                hub.restore(&subject(channel), hole, &mut Vec::new());
            }
        }
    }

    fn resume(&mut self, hub: usize) {
        let (now, start) = (self.now + SKEW, Start::After(self.cursor));
        let reader = self.hub(hub).reader(start, now);
        let node = self.hub(hub).node();
        self.moved |= self.cursor.node != node;
        self.cursor = self.hub(hub).cursor_at(reader.cursor);
        self.connected = Some((hub, reader));
    }

    /// Gives the connected client at most `items` items; true if that was all.
    fn read(&mut self, items: usize) -> Result<bool, TestCaseError> {
        let Some((hub, mut reader)) = self.connected.take() else { return Ok(true) };
        let ids: Vec<ChannelId> = self.reads.iter().map(|channel| self.hub(hub).hold(&subject(channel))).collect();
        let (group, slot) = self.hub(hub).join(ids.clone(), Kind::Stream(Form::Plain, Coding::Identity), 1);
        let mut all = true;
        for _ in 0..items {
            let Some(item) = self.hub(hub).replay(group, &reader).next() else { break };
            prop_assert!(item.position() >= reader.cursor, "the id goes back: {item:?}");
            reader.pass(&item);
            self.check(&item)?;
        }
        all &= self.hub(hub).replay(group, &reader).next().is_none();
        let now = Uptime::default();
        self.hub(hub).leave(group, slot, now);
        ids.into_iter().for_each(|id| self.hub(hub).release(id, now));
        self.cursor = self.hub(hub).cursor_at(reader.cursor);
        self.connected = Some((hub, reader));
        Ok(all)
    }

    fn check(&mut self, item: &ReplayItem) -> Result<(), TestCaseError> {
        let number_of = |name: &ChannelName| CHANNELS.iter().position(|&channel| channel == name.as_str()).unwrap();
        match item {
            ReplayItem::Gap { channels, .. } => {
                // A pattern stands for all channels that it matches.
                for name in channels {
                    for (channel, got) in CHANNELS.iter().zip(&mut self.channels) {
                        if pattern::matches(name.as_str(), channel) {
                            got.gap = Some(got.published);
                        }
                    }
                }
            }
            ReplayItem::Event(event, _) => {
                let name = event.channel();
                let channel = &mut self.channels[number_of(name)];
                let data = sse::decode_frame(event.frame(Form::Plain)).data;
                let number: usize = String::from_utf8(data).unwrap().parse().unwrap();
                prop_assert!(number >= channel.next || self.moved, "{name} {number} came twice");
                if number < channel.next {
                    return Ok(());
                }
                let covered = channel.gap.is_some_and(|published| published >= number);
                prop_assert!(number == channel.next || covered, "{name} {} to {number} lost", channel.next);
                (channel.next, channel.gap) = (number + 1, None);
            }
        }
        Ok(())
    }

    fn merge(&mut self, number: usize) -> Result<(), TestCaseError> {
        let connected = self.connected.take_if(|(hub, _)| *hub / 2 == number);
        let due_before = connected.as_ref().map(|(hub, reader)| self.due_losses(*hub, reader));
        let node = &mut self.nodes[number];
        let exported = node.shards.each_ref().map(|hub| hub.export().map(|(_, channel)| channel).collect::<Vec<_>>());
        let longest = |name: &ChannelName| {
            let same = exported.iter().flatten().filter(|channel| channel.name == *name);
            same.min_by_key(|channel| channel.complete_since).unwrap()
        };
        for hub in &mut node.shards {
            let mut merged = new_hub(node.sequencer.cursor(), hub.limits.clone());
            hub.lags().iter().for_each(|span| merged.note_lag(*span));
            for channel in &exported[0] {
                merged.import(longest(&channel.name).clone(), Uptime::default());
            }
            *hub = merged;
        }
        if let (Some((hub, reader)), Some(due_before)) = (connected, due_before) {
            // The channels are imported in the order of the first shard's ids, so all hubs of the test give them the same ids.
            let reader = self.hub(hub).import_reader(reader.cursor, reader.origin, reader.reported().iter().copied());
            for channel in self.due_losses(hub, &reader) {
                prop_assert!(due_before.contains(&channel), "the loss on {channel} is reported again: {reader:?}");
            }
            self.connected = Some((hub, reader));
        }
        Ok(())
    }

    /// The channels whose history has dropped events that the reader lacks, if that was not reported yet.
    fn due_losses(&mut self, hub: usize, reader: &Reader) -> Vec<ChannelName> {
        let hub = self.hub(hub);
        let names = CHANNELS.map(|channel| ChannelName::new(channel).unwrap());
        let is_due = |name: &ChannelName| {
            let id = hub.id(name).unwrap();
            let mut losses = reader.unreported(id, &hub.channels[id as usize]);
            losses.any(|loss| loss.kind == LossKind::BeforeHistory)
        };
        names.into_iter().filter(is_due).collect()
    }

    /// Whether the step is done by a node that stands still.
    fn is_stopped(&self, step: &Step) -> bool {
        let node = match step {
            Step::Resume(hub, _) | Step::Poll(hub, _) => Some(hub / 2),
            Step::Read(_) | Step::CatchUp => self.connected.as_ref().map(|(hub, _)| hub / 2),
            Step::Merge(node) | Step::Advance(node) => Some(*node),
            _ => None,
        };
        node.is_some_and(|node| self.nodes[node].kept.is_some())
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        if self.is_stopped(&step) {
            return Ok(());
        }
        match step {
            Step::Stop(node) => self.nodes[node].stop(self.now),
            Step::Go(node) => self.nodes[node].go(self.now),
            Step::Known(node) => {
                let node = &mut self.nodes[node];
                node.known = node.known.filter(|_| !node.has_all());
            }
            Step::Advance(node) => {
                let node = &mut self.nodes[node];
                if node.has_all() {
                    let position = node.next_position(self.now);
                    node.shards.iter_mut().for_each(|hub| hub.advance(position));
                }
            }
            Step::Publish(channel, after) => self.publish(channel, after),
            Step::Disconnect(node) => {
                let node = &mut self.nodes[node];
                if node.kept.is_none() {
                    node.disconnected_after.get_or_insert(node.sequencer.last());
                }
            }
            Step::Reconnect(node) => self.reconnect(node),
            Step::Resume(hub, items) => {
                self.resume(hub);
                self.read(items)?;
            }
            Step::Poll(hub, items) => {
                self.resume(hub);
                if self.read(items)? {
                    self.catch_up()?;
                }
                self.connected = None;
            }
            Step::Read(items) => drop(self.read(items)?),
            Step::CatchUp => self.catch_up()?,
            Step::Merge(node) => self.merge(node)?,
        }
        Ok(())
    }

    fn catch_up(&mut self) -> Result<(), TestCaseError> {
        if self.read(usize::MAX)?
            && let Some((hub, _)) = self.connected
        {
            let last = self.hub(hub).last();
            self.cursor = self.hub(hub).cursor_at(last);
            self.connected = Some((hub, Reader::live(last)));
        }
        Ok(())
    }
}

/// In the end all nodes go on and all sources are connected. One more event on each channel shows whether events are missing before it.
fn run(
    steps: Vec<Step>,
    messages: [usize; 4],
    ahead: u64,
    end_at: usize,
    reads: &'static [&'static str],
) -> Result<(), TestCaseError> {
    let mut harness = Harness::new(messages, ahead, reads);
    for step in steps {
        harness.step(step)?;
    }
    for node in [0, 1] {
        harness.step(Step::Go(node))?;
        harness.reconnect(node);
    }
    (0..CHANNELS.len()).for_each(|channel| harness.publish(channel, SKEW));
    harness.resume(end_at);
    harness.catch_up()?;
    // The history of a pattern may have lost even that, to events of other channels.
    let by_pattern = harness.reads.iter().any(|name| name.contains('*'));
    let is_complete =
        |channel: &Channel| channel.next == channel.published || by_pattern && channel.gap == Some(channel.published);
    prop_assert!(harness.channels.iter().all(is_complete), "the last events are missing");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn no_gap_can_be_skipped(
        steps in steps(),
        messages in [1..12_usize, 1..12_usize, 1..12_usize, 1..12_usize],
        ahead in 0..SKEW,
        end_at in 0..4_usize,
        reads in prop::sample::select(&READS[..]),
    ) {
        run(steps, messages, ahead, end_at, reads)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    /// The other half of the skew is for the lag.
    #[test]
    fn no_gap_can_be_skipped_while_nodes_lag(
        steps in lagging_steps(),
        messages in [1..12_usize, 1..12_usize, 1..12_usize, 1..12_usize],
        ahead in 0..SKEW / 2,
        end_at in 0..4_usize,
        reads in prop::sample::select(&READS[..]),
    ) {
        run(steps, messages, ahead, end_at, reads)?;
    }
}

#[test]
fn a_gap_event_is_sent_even_if_the_client_continues_at_a_longer_history() {
    let mut harness = Harness::new([2, 100, 100, 100], 0, READS[0]);
    harness.publish(1, 1);
    (0..6).for_each(|_| harness.publish(0, 1));
    // The first shard lacks the first events of channel a: the client gets the gap event, then b's event, and is cut off.
    harness.step(Step::Resume(0, 2)).unwrap();
    assert_eq!((harness.channels[0].gap, harness.channels[1].next), (Some(6), 1));
    // The second shard has them all, and gives what follows the cursor.
    harness.step(Step::Resume(1, 100)).unwrap();
    assert_eq!(harness.channels[0].next, 6);
}

#[test]
fn a_gap_event_is_not_sent_again_after_a_reload() {
    let mut harness = Harness::new([2, 2, 100, 100], 0, READS[0]);
    harness.publish(0, 1);
    (0..2).for_each(|_| harness.publish(1, 1));
    (0..4).for_each(|_| harness.publish(0, 1));
    harness.resume(0);
    // The history of channel a begins after both events of channel b. The client gets the gap event and one of them.
    harness.read(2).unwrap();
    assert_eq!((harness.channels[0].gap, harness.channels[1].next), (Some(5), 1));
    harness.merge(0).unwrap();
    harness.channels[0].gap = None;
    harness.read(1).unwrap();
    assert_eq!((harness.channels[0].gap, harness.channels[1].next), (None, 2), "the next item is the next event");
}

#[test]
fn a_loss_after_a_reload_is_reported_although_one_before_it_was() {
    // The other shard has all events of channel a.
    let mut harness = Harness::new([2, 5, 100, 100], 0, READS[0]);
    harness.publish(0, 1);
    harness.publish(1, 1);
    (0..4).for_each(|_| harness.publish(0, 1));
    harness.resume(0);
    harness.read(1).unwrap();
    assert_eq!(harness.channels[0].gap, Some(5));
    harness.merge(0).unwrap();
    // The client gets the event of channel b, and one of channel a that the first shard did not have. Then three later ones are
    // dropped: the gap event came before the one that the client got, so another one is due.
    harness.read(2).unwrap();
    assert_eq!((harness.channels[0].next, harness.channels[1].next), (2, 1));
    (0..2).for_each(|_| harness.publish(0, 1));
    harness.catch_up().unwrap();
    assert_eq!(harness.channels[0].next, 7);
}
