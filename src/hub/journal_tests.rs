//! Property tests of journals: clients move between nodes that read two journals in different order and at different speed, while
//! nodes are restarted, and journals are trimmed or lost.
//!
//! Checked for each channel: what comes by its journal comes in order, each event once, and if events are missing, a gap event that
//! names the channel comes in their place. Where nothing was lost, no gap event comes. What comes by no journal may come twice to
//! a client that has changed the node.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{
    cursor::{Entry, EntryId, journal_of},
    event::{Coding, Form, Message},
    sse,
};

/// Two of each journal.
const CHANNELS: [&str; 4] = ["a", "b", "d", "e"];
/// Most microseconds between the clocks of two nodes.
const SKEW: u64 = 20;

#[derive(Debug, Clone)]
enum Step {
    /// Adds an entry to the channel's journal.
    Publish(usize),
    /// Publishes on a channel by a source without journals; every node has it at once.
    PublishOther(usize),
    /// A node reads so many entries of a journal.
    Read(usize, usize, usize),
    /// A node asks a journal for its last entry.
    Ask(usize, usize),
    /// A journal loses its oldest entries, but for so many.
    Trim(usize, usize),
    /// A journal is deleted. Its next entries have later ids, unless (`true`) its clock was set back so far that it does not
    /// reach its earlier ids again.
    Delete(usize, bool),
    /// A node is restarted, and reads so many entries of each journal.
    Restart(usize, usize),
    /// The client is cut off, resumes at a hub, and is cut off again after so many items.
    Resume(usize, usize),
    /// The client is cut off, and polls at a hub with a limit of so many items.
    Poll(usize, usize),
    /// The client, still connected, is given so many more items.
    Give(usize),
    /// The client, still connected, is given everything.
    CatchUp,
    /// A reload: the shards of a node get the longest of their histories, and the client's state crosses.
    Merge(usize),
}

fn steps(losses: bool) -> impl Strategy<Value = Vec<Step>> {
    let tail = if losses { 0..20_usize } else { 1000..1001 };
    let unless_lost = move |step: Step| if losses { step } else { Step::CatchUp };
    let (node, journal, hub) = (0..3_usize, 0..2_usize, 0..6_usize);
    let step = prop_oneof![
        14 => (0..CHANNELS.len()).prop_map(Step::Publish),
        4 => (0..CHANNELS.len()).prop_map(Step::PublishOther),
        14 => (node.clone(), journal.clone(), 1..6_usize).prop_map(|(node, journal, n)| Step::Read(node, journal, n)),
        2 => (node.clone(), journal.clone()).prop_map(|(node, journal)| Step::Ask(node, journal)),
        1 => (journal.clone(), 0..6_usize).prop_map(move |(journal, keep)| unless_lost(Step::Trim(journal, keep))),
        1 => (journal, any::<bool>()).prop_map(move |(journal, back)| unless_lost(Step::Delete(journal, back))),
        1 => (node.clone(), tail).prop_map(|(node, tail)| Step::Restart(node, tail)),
        5 => (hub.clone(), 0..5_usize).prop_map(|(hub, items)| Step::Resume(hub, items)),
        4 => (hub, 1..5_usize).prop_map(|(hub, items)| Step::Poll(hub, items)),
        4 => (1..5_usize).prop_map(Step::Give),
        2 => Just(Step::CatchUp),
        1 => node.prop_map(Step::Merge),
    ];
    prop::collection::vec(step, 1..150)
}

/// A stream of Redis.
struct Journal {
    /// How often it was deleted.
    life: usize,
    /// Entries: id, channel, number.
    entries: Vec<(EntryId, usize, usize)>,
    /// The last entry that was trimmed of this life.
    trimmed: EntryId,
    last: EntryId,
    /// The clock of its Redis, in milliseconds.
    clock: u64,
    /// Whether its ids have gone back.
    back: bool,
}

struct Node {
    sequencer: Sequencer,
    shards: [Hub; 2],
    /// For each journal: the life that it reads, and the last entry that it has read.
    read: [(usize, EntryId); 2],
}

/// What the client got of one kind of events on one channel.
#[derive(Debug, Default, Clone, Copy)]
struct Got {
    published: usize,
    /// The next event in order, by its number.
    next: usize,
    /// If a gap event came after the last event: how many were published by then.
    gap: Option<usize>,
}

struct Harness {
    now: u64,
    runs: u32,
    messages: usize,
    mixed: bool,
    journals: [Journal; 2],
    nodes: Vec<Node>,
    /// Events of journals, and others.
    got: [[Got; 2]; 4],
    gaps: usize,
    /// The id that the client has.
    id: String,
    connected: Option<(usize, Reader)>,
    moved: bool,
}

fn name(channel: usize) -> ChannelName {
    ChannelName::new(CHANNELS[channel]).unwrap()
}

impl Harness {
    fn new(messages: usize, mixed: bool) -> Self {
        let journal = || Journal {
            life: 0,
            entries: Vec::new(),
            trimmed: EntryId::ZERO,
            last: EntryId::ZERO,
            clock: 1_000_000,
            back: false,
        };
        let mut harness = Self {
            now: 1_000_000_000,
            runs: 0,
            messages,
            mixed,
            journals: [journal(), journal()],
            nodes: Vec::new(),
            got: Default::default(),
            gaps: 0,
            id: String::new(),
            connected: None,
            moved: false,
        };
        for _ in 0..3 {
            let node = harness.start(1000);
            harness.nodes.push(node);
        }
        harness.id = harness.nodes[0].shards[0].cursor().to_string();
        harness
    }

    /// Starts a node, which reads `tail` entries of each journal.
    fn start(&mut self, tail: usize) -> Node {
        self.runs += 1;
        self.now += 1;
        let node = format!("{:03}xxxxx", self.runs).parse().unwrap();
        let sequencer = Sequencer::new(node, self.now + u64::from(self.runs % 2) * SKEW / 2).with_journals(2);
        let limits = config::History {
            messages: self.messages,
            skew: Duration::from_micros(SKEW),
            ..config::History::default()
        };
        let hub = || {
            let hub = Hub::new(sequencer.cursor(), limits.clone(), false);
            if self.mixed { hub } else { hub.with_journals_only() }
        };
        let mut node = Node { shards: [hub(), hub()], sequencer, read: [(0, EntryId::ZERO); 2] };
        node.shards.iter_mut().for_each(hold_channels);
        for journal in 0..2 {
            let stream = &self.journals[journal];
            let skipped = stream.entries.len().saturating_sub(tail);
            let since = match (skipped, stream.entries.get(skipped)) {
                // Everything that it ever had is there.
                (0, _) if stream.life == 0 => stream.trimmed,
                (_, Some((id, ..))) => id.before().max(stream.trimmed),
                (_, None) => stream.last.max(EntryId { millis: stream.clock, seq: 0 }),
            };
            node.read[journal] = (stream.life, since);
            let hole = self.next_hole(&mut node);
            let entry = Entry { journal: u8::try_from(journal).unwrap(), id: since };
            node.sequencer.passed.set(entry);
            for hub in &mut node.shards {
                hub.journal_began(entry, stream.last, hole);
            }
            self.read(&mut node, journal, usize::MAX);
        }
        node
    }

    fn next_hole(&self, node: &mut Node) -> Hole {
        let begin = node.sequencer.last();
        Hole::new(begin, node.sequencer.next(self.now))
    }

    fn publish(&mut self, channel: usize) {
        self.now += 3;
        let journal = &mut self.journals[usize::from(journal_of(CHANNELS[channel], 2))];
        journal.clock += 1;
        let next = EntryId { seq: journal.last.seq + 1, ..journal.last };
        journal.last = next.max(EntryId { millis: journal.clock, seq: 0 });
        let got = &mut self.got[channel][0];
        journal.entries.push((journal.last, channel, got.published));
        got.published += 1;
    }

    fn publish_other(&mut self, channel: usize) {
        if !self.mixed {
            return;
        }
        self.now += 3;
        let got = &mut self.got[channel][1];
        let message = Message::new(name(channel), None, Bytes::from(format!("other {}", got.published)));
        got.published += 1;
        for node in &mut self.nodes {
            deliver(node, self.now, &message);
        }
    }

    /// The node reads up to `count` entries of a journal, and reports what it finds lost.
    fn read(&self, node: &mut Node, journal: usize, count: usize) {
        let stream = &self.journals[journal];
        let (life, last) = node.read[journal];
        let lost = match stream.entries.first() {
            _ if stream.trimmed > last && life == stream.life => Some(stream.trimmed),
            // As long as it is empty, nothing shows that it was deleted.
            Some((first, ..)) if life != stream.life => {
                Some(if *first > last { first.before().max(last) } else { first.before() })
            }
            _ => None,
        };
        if let Some(end) = lost {
            let entry = Entry { journal: u8::try_from(journal).unwrap(), id: end };
            let hole = self.next_hole(node);
            node.sequencer.passed.set(entry);
            for hub in &mut node.shards {
                hub.journal_lost(entry, hole);
            }
            node.read[journal] = (stream.life, end);
        }
        let (life, last) = node.read[journal];
        if life != stream.life {
            return;
        }
        for &(id, channel, number) in stream.entries.iter().filter(|(id, ..)| *id > last).take(count) {
            let entry = Entry { journal: u8::try_from(journal).unwrap(), id };
            let data = Bytes::from(format!("entry {number}"));
            deliver(node, self.now, &Message::new(name(channel), None, data).with_entry(entry));
            node.read[journal].1 = id;
        }
    }

    fn ask(&mut self, at: usize, journal: usize) {
        let mut node = self.nodes.remove(at);
        self.read(&mut node, journal, usize::MAX);
        if node.read[journal].0 == self.journals[journal].life {
            let end = Entry { journal: u8::try_from(journal).unwrap(), id: node.read[journal].1 };
            let hole = self.next_hole(&mut node);
            node.sequencer.passed.pass(end);
            for hub in &mut node.shards {
                hub.journal_reached(end, hole.end);
            }
            if let Some((hub, reader)) = &mut self.connected
                && *hub / 2 == at
            {
                reader.note_reached(end, Instant::now() + Duration::from_secs(1), hole.end);
            }
        }
        self.nodes.insert(at, node);
    }

    fn hub(&mut self, hub: usize) -> &mut Hub {
        &mut self.nodes[hub / 2].shards[hub % 2]
    }

    fn resume(&mut self, at: usize) {
        let (now, start) = (self.now + SKEW, Start::from_last_event_id(Some(self.id.as_bytes())));
        let Start::After(cursor) = start else { panic!("{} is no id", self.id) };
        let hub = self.hub(at);
        let (reader, node) = (hub.reader(start, now), hub.node());
        self.moved |= cursor.node != node;
        self.id = reader.first_id(node).to_string();
        assert_eq!(self.id, cursor.to_string(), "the first id of a stream is the one that it came with");
        self.connected = Some((at, reader));
    }

    /// Gives the connected client at most `items` items; true if that was all.
    fn give(&mut self, items: usize) -> Result<bool, TestCaseError> {
        let Some((at, mut reader)) = self.connected.take() else { return Ok(true) };
        let hub = self.hub(at);
        let ids = (0..CHANNELS.len()).map(|channel| hub.hold(&name(channel))).collect::<Vec<_>>();
        let (group, slot) = hub.join(ids.clone(), Kind::Stream(Form::Plain, Coding::Identity), 1);
        let mut given = Vec::new();
        for _ in 0..items {
            let Some(item) = hub.replay(group, &reader).next() else { break };
            prop_assert!(item.position() >= reader.cursor, "the id goes back: {item:?}");
            reader.pass(&item);
            given.push(item);
        }
        let all = hub.replay(group, &reader).next().is_none();
        if all && !given.is_empty() || items == usize::MAX {
            // Everything is given: the client becomes live, or waits until the hub has read what it has.
            let (last, passed) = (hub.last(), hub.passed());
            if hub.is_ahead(group, &reader) {
                reader.catch_up(last, passed);
            } else if items == usize::MAX {
                reader = Reader::live(last).with_passed(passed);
                self.id = self.hub(at).cursor().to_string();
            }
        }
        let hub = self.hub(at);
        hub.leave(group, slot, Uptime::default());
        ids.into_iter().for_each(|id| hub.release(id, Uptime::default()));
        for item in given {
            self.check(&item)?;
        }
        self.connected = Some((at, reader));
        Ok(all)
    }

    fn poll(&mut self, at: usize, items: usize) -> Result<(), TestCaseError> {
        self.resume(at);
        let all = self.give(items)?;
        let (at, mut reader) = self.connected.take().unwrap();
        let hub = self.hub(at);
        if all {
            reader.wait(hub.last(), hub.passed());
        }
        self.id = reader.poll_id(hub.node()).to_string();
        Ok(())
    }

    fn check(&mut self, item: &ReplayItem) -> Result<(), TestCaseError> {
        let frame = item.frame(Form::Plain);
        let parts = sse::decode_frame(&frame);
        self.id = String::from_utf8(parts.id.to_vec()).unwrap();
        let number_of = |name: &ChannelName| CHANNELS.iter().position(|&channel| channel == name.as_str()).unwrap();
        match item {
            ReplayItem::Gap { channels, .. } => {
                self.gaps += 1;
                for name in channels {
                    for got in &mut self.got[number_of(name)] {
                        got.gap = Some(got.published);
                    }
                }
            }
            ReplayItem::Event(event, _) => {
                let channel = number_of(event.channel());
                let text = String::from_utf8(parts.data).unwrap();
                let (kind, number) = text.split_once(' ').unwrap();
                let number: usize = number.parse().unwrap();
                let other = kind == "other";
                let back = self.journals[usize::from(journal_of(CHANNELS[channel], 2))].back;
                let got = &mut self.got[channel][usize::from(other)];
                let may_repeat = if other { self.moved } else { back };
                prop_assert!(number >= got.next || may_repeat, "{} {text} came twice", event.channel());
                if number < got.next {
                    return Ok(());
                }
                let covered = got.gap.is_some_and(|published| published >= number);
                prop_assert!(number == got.next || covered, "{} {kind} {} to {number} lost", event.channel(), got.next);
                (got.next, got.gap) = (number + 1, None);
            }
        }
        Ok(())
    }

    fn merge(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let exported = node.shards.each_ref().map(|hub| hub.export().map(|(_, channel)| channel).collect::<Vec<_>>());
        let mut journals = node.shards[0].export_journals().unwrap();
        let other = node.shards[1].export_journals().unwrap();
        assert_eq!(journals.passed, other.passed);
        journals.floors.iter_mut().zip(other.floors).for_each(|(floor, other)| *floor = other.max(*floor));
        journals.others_floor = journals.others_floor.max(other.others_floor);
        let floor = node.shards.iter().map(|hub| hub.floor()).max_by_key(|floor| floor.0).unwrap();
        for hub in &mut node.shards {
            let mut merged = Hub::new(node.sequencer.cursor(), hub.limits.clone(), false);
            merged.set_floor(floor.0, floor.1);
            merged.import_journals(&journals);
            for channel in exported.iter().flatten() {
                if merged.id(&channel.name).is_none() {
                    let same = exported.iter().flatten().filter(|other| other.name == channel.name);
                    let longest = same.min_by_key(|channel| channel.complete_since).unwrap();
                    merged.import(longest.clone(), Uptime::default());
                }
            }
            hold_channels(&mut merged);
            *hub = merged;
        }
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Publish(channel) => self.publish(channel),
            Step::PublishOther(channel) => self.publish_other(channel),
            Step::Read(at, journal, count) => {
                let mut node = self.nodes.remove(at);
                self.read(&mut node, journal, count);
                self.nodes.insert(at, node);
            }
            Step::Ask(at, journal) => self.ask(at, journal),
            Step::Trim(journal, keep) => {
                let journal = &mut self.journals[journal];
                let trimmed = journal.entries.len().saturating_sub(keep);
                if let Some((id, ..)) = journal.entries.drain(..trimmed).next_back() {
                    journal.trimmed = id;
                }
            }
            Step::Delete(journal, back) => {
                let journal = &mut self.journals[journal];
                journal.life += 1;
                journal.entries.clear();
                (journal.trimmed, journal.last) = (EntryId::ZERO, EntryId::ZERO);
                journal.clock = if back { journal.clock - 1_000 } else { journal.clock + 1 };
                journal.back |= back;
            }
            Step::Restart(at, tail) => {
                if self.connected.as_ref().is_some_and(|(hub, _)| *hub / 2 == at) {
                    self.connected = None;
                }
                self.nodes[at] = self.start(tail);
            }
            Step::Resume(hub, items) => {
                self.resume(hub);
                self.give(items)?;
            }
            Step::Poll(hub, items) => self.poll(hub, items)?,
            Step::Give(items) => drop(self.give(items)?),
            Step::CatchUp => drop(self.give(usize::MAX)?),
            Step::Merge(node) => self.merge(node),
        }
        // Positions are not ahead of the clock.
        let latest = self.nodes.iter().map(|node| node.sequencer.last().0).max();
        self.now = self.now.max(latest.unwrap_or_default());
        Ok(())
    }

    /// In the end every node reads everything. One more event on each channel shows whether events are missing before it.
    fn end(&mut self, at: usize) -> Result<(), TestCaseError> {
        self.resume(at);
        self.give(usize::MAX)?;
        for more in [true, false] {
            for node in 0..3 {
                (0..2).for_each(|journal| self.ask(node, journal));
            }
            if more {
                self.give(usize::MAX)?;
                (0..CHANNELS.len()).for_each(|channel| self.publish(channel));
            }
        }
        self.give(usize::MAX)?;
        for (channel, got) in self.got.iter().enumerate() {
            // Where a journal has lost what the client has, the gap event may be about its next entries too.
            let all = got[0].next == got[0].published || got[0].gap == Some(got[0].published);
            prop_assert!(all, "the last event of {} is missing: {got:?}", CHANNELS[channel]);
        }
        Ok(())
    }
}

/// The hub's channels are always in use, as those of a connected client are.
fn hold_channels(hub: &mut Hub) {
    for channel in 0..CHANNELS.len() {
        hub.hold(&name(channel));
    }
}

/// The node gives the message a position, and its shards get it.
fn deliver(node: &mut Node, now: u64, message: &Message) {
    let position = node.sequencer.next(now);
    if let Some(entry) = message.entry {
        node.sequencer.passed.set(entry);
    }
    let event = Arc::new(Event::new(node.sequencer.node(), position, &node.sequencer.passed, message));
    for hub in &mut node.shards {
        hub.publish(&event, Uptime::default());
        hub.trim(Uptime::default());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn entries_come_once_and_none_is_lost_without_a_gap(
        steps in steps(true),
        messages in 1..30_usize,
        mixed: bool,
        end_at in 0..6_usize,
    ) {
        let mut harness = Harness::new(messages, mixed);
        for step in steps {
            harness.step(step)?;
        }
        harness.end(end_at)?;
    }

    #[test]
    fn where_nothing_is_lost_every_entry_comes_once_and_no_gap_event(steps in steps(false), end_at in 0..6_usize) {
        let mut harness = Harness::new(1000, false);
        for step in steps {
            harness.step(step)?;
        }
        harness.end(end_at)?;
        prop_assert_eq!(harness.gaps, 0);
        prop_assert!(harness.got.iter().all(|got| got[0].next == got[0].published));
    }
}

#[test]
fn the_channels_of_these_tests_belong_to_both_journals() {
    let mut journals = CHANNELS.map(|channel| journal_of(channel, 2));
    journals.sort_unstable();
    assert_eq!(journals, [0, 0, 1, 1]);
}
