//! The channels of one shard, their histories, and the groups of clients that read them. No I/O, no clock of its own, no locks.
//!
//! Clients that read the same channels in the same form are one *group*: they all get the same bytes, which are made once. A
//! publish appends the event to the channel's history and to the *batch* of each group that reads the channel. Then the shard
//! sends the batches.
//!
//! Invariant: a client that is not behind has every event up to [`Hub::last`] that is not in a batch of its group. So the batch
//! of a group is taken before a client of the group is served from the histories.

mod history;
mod channel;
mod groups;
mod lag;
mod arrival;
mod reader;
mod journals;
mod begin;
mod snapshot;
mod replay;
mod retention;
mod membership;
mod kept;
mod patterns;
mod sequencer;

use std::{collections::HashMap, sync::Arc};

use slab::Slab;

pub use self::{
    arrival::Arrival,
    channel::{ChannelId, GroupId, Subscription},
    groups::{Batch, ClientIndex, Kind},
    history::{Cause, Hole, JournalHole, Journaled},
    journals::{JournalsSnapshot, Restart},
    lag::LagSpan,
    reader::{CursorOrigin, LossKind, Reader, ReportedLoss},
    replay::{Replay, ReplayItem},
    sequencer::Sequencer,
    snapshot::ChannelSnapshot,
};
use self::{
    channel::{Channel, base_weight},
    groups::Groups,
    history::History,
    journals::Journals,
    kept::{KeptRule, KeptState},
    lag::Lags,
};
use crate::{
    clock::Uptime,
    config::{self, ChannelRules},
    cursor::{Cursor, NodeId, Position, Start},
    event::Event,
    index,
    name::ChannelName,
    pattern::PatternIndex,
};

/// One shard's channels and groups.
pub struct Hub {
    node: NodeId,
    /// Whether positions are times, and not ahead of the clock.
    timed: bool,
    limits: config::History,
    /// How much is kept of which channel.
    rules: ChannelRules,
    /// The rules whose channels are kept always; none where no source must be asked for channels.
    kept: Vec<KeptRule>,
    /// Whether sources must be asked for a channel before its events arrive, unless a rule keeps it always.
    on_demand: bool,
    /// The position of the last event, of any channel.
    last: Position,
    /// When positions were older than the time.
    lags: Lags,
    /// A channel that is not in `channels` is complete since this position (unless a source must be asked for it), or since its
    /// rule was confirmed if that is later, for this cause. Raised when a channel is removed that no source must be asked for.
    floor: (Position, Cause),
    channels: Slab<Channel>,
    names: HashMap<ChannelName, ChannelId>,
    groups: Groups,
    /// The channels that are patterns.
    patterns: PatternIndex<ChannelId>,
    /// An empty buffer for the channels and patterns that get an event.
    readers: Vec<ChannelId>,
    /// Number of channels on demand without clients and holds.
    idle: usize,
    /// Bytes that all histories take, with the channels they belong to.
    bytes: usize,
    /// Channels that have events. The first one loses events first when the histories exceed `history.bytes`.
    eviction: std::collections::VecDeque<ChannelId>,
    /// Channels published to since the last [`Hub::trim`].
    touched: Vec<ChannelId>,
    /// Bytes of the events that were published since [`Hub::next_batch`] last had no batch left.
    unsent_bytes: usize,
    /// The first channel that the next [`Hub::sweep`] looks at.
    sweep_at: usize,
    journals: Journals,
}

impl Hub {
    /// A hub without channels, whose last position is that of `cursor`, with as many journals as that has entries.
    #[must_use]
    pub fn new(cursor: Cursor, limits: config::History, on_demand: bool) -> Self {
        Self {
            node: cursor.node,
            timed: true,
            rules: ChannelRules::new(&limits, &[]),
            limits,
            kept: Vec::new(),
            on_demand,
            last: cursor.position,
            lags: Lags::default(),
            floor: (cursor.position, Cause::Began),
            channels: Slab::new(),
            names: HashMap::new(),
            groups: Groups::default(),
            patterns: PatternIndex::default(),
            readers: Vec::new(),
            idle: 0,
            bytes: 0,
            eviction: std::collections::VecDeque::new(),
            touched: Vec::new(),
            unsent_bytes: 0,
            sweep_at: 0,
            journals: Journals::new(cursor.entries, cursor.position),
        }
    }

    /// The same hub with other rules for its channels.
    #[must_use]
    pub fn with_rules(mut self, rules: ChannelRules) -> Self {
        if self.on_demand {
            let kept = |(rule, subject): (_, &ChannelName)| KeptRule {
                rule,
                subject: subject.clone(),
                state: KeptState::Pending,
            };
            self.kept = rules.kept().map(kept).collect();
        }
        self.rules = rules;
        self
    }

    /// The same hub, where all events come by journals, but for those of publishers who said that they may be lost. So a client
    /// from elsewhere misses nothing that was published before this hub's first position.
    #[must_use]
    pub fn with_journals_only(mut self) -> Self {
        self.journals = Journals::new(self.passed(), Position(0));
        self
    }

    /// Sets whether positions are times from now on, or ahead of the clock: ids say so.
    pub fn set_timed(&mut self, timed: bool) {
        self.timed = timed;
    }

    /// The node's name, as ids have it now.
    #[must_use]
    pub fn node(&self) -> NodeId {
        if self.timed { self.node } else { self.node.untimed() }
    }

    /// The position of the last event, of any channel; or what [`Hub::advance`] has set.
    #[must_use]
    pub fn last(&self) -> Position {
        self.last
    }

    /// Sets the last position. `position` is later than every event so far, and no event up to it follows.
    pub fn advance(&mut self, position: Position) {
        self.last = position;
    }

    /// Notes that positions after `span.after` may be older than the time at which they were given.
    pub fn note_lag(&mut self, span: LagSpan) {
        self.lags.add(span);
    }

    /// What [`Hub::note_lag`] has noted, in order; perhaps joined.
    #[must_use]
    pub fn lags(&self) -> &[LagSpan] {
        self.lags.spans()
    }

    /// The cursor at `position`, without entries of journals.
    #[cfg(test)]
    pub fn cursor_at(&self, position: Position) -> Cursor {
        Cursor::new(self.node(), position)
    }

    /// The cursor at the last position.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        Cursor { entries: self.passed(), ..Cursor::new(self.node(), self.last) }
    }

    /// Appends `event` to the histories of its channel and of the patterns that match it, and to the batches of the groups that
    /// read one of them. Returns how many clients that are. If sources must be asked for a channel, an event of an unknown channel
    /// goes to patterns alone: its channel was unsubscribed, or never subscribed to.
    pub fn publish(&mut self, event: &Arc<Event>, now: Uptime) -> u32 {
        self.last = event.position();
        let id = match self.names.get(event.channel()) {
            Some(&id) => Some(id),
            // What comes by a journal is kept, whether its channel is subscribed to at other sources or not.
            None if self.must_be_confirmed(event.channel()) && !event.is_journaled() => None,
            None => Some(self.open(event.channel().clone())),
        };
        if id.is_none() && self.patterns.is_empty() {
            return 0;
        }
        self.unsent_bytes += event.weight();
        if let Some(id) = id {
            self.keep(id, event, now);
        }
        let is_new = self.journals.pass(event);
        if !is_new {
            self.keep_in_patterns(event, now);
            return 0;
        }
        if !self.patterns.is_empty() {
            return self.publish_to_patterns(id, event, now);
        }
        let Some(id) = id else { return 0 };
        let channel = &self.channels[id as usize];
        self.groups.batch(&channel.groups, event);
        channel.subscribers
    }

    /// Appends an event to its channel's history.
    fn keep(&mut self, id: ChannelId, event: &Arc<Event>, arrived: Uptime) {
        let channel = &mut self.channels[id as usize];
        self.bytes += channel.history.push(Arc::clone(event), arrived);
        self.touched.push(id);
        if channel.queued_at.is_none() {
            channel.queued_at = Some(event.position());
            self.eviction.push_back(id);
        }
    }

    /// Takes one group's batch that [`Hub::publish`] has filled; `None` if there is none left.
    pub fn next_batch(&mut self) -> Option<Batch> {
        let batch = self.groups.next_batch();
        if batch.is_none() {
            self.unsent_bytes = 0;
        }
        batch
    }

    /// Bytes of the events that were published since [`Hub::next_batch`] last had no batch left. If 0, all batches are empty.
    #[must_use]
    pub fn unsent_bytes(&self) -> usize {
        self.unsent_bytes
    }

    /// Whether no event waits in the group's batch. Only then may its clients join, leave or be served from the histories.
    #[must_use]
    pub fn is_batch_empty(&self, group: GroupId) -> bool {
        self.groups.is_batch_empty(group)
    }

    /// Keeps a sent batch's buffer, to be used for another one.
    pub fn recycle(&mut self, batch: Batch) {
        self.groups.recycle(batch);
    }

    /// The events and gap events after `reader`'s cursor on the group's channels.
    #[must_use]
    pub fn replay<'a>(&'a self, group: GroupId, reader: &'a Reader) -> Replay<'a> {
        let channels = self.groups.channels(group).map(|id| (id, &self.channels[id as usize]));
        Replay::new(channels, reader, self.node(), self.last)
    }

    /// Whether a client that starts like this has perhaps read what this hub has not passed yet: another shard was faster.
    #[must_use]
    pub fn is_before(&self, start: Start) -> bool {
        matches!(start, Start::After(cursor) if cursor.node.is_same_node(&self.node) && cursor.position > self.last)
    }

    /// Whether a source must confirm the channel before its events arrive.
    #[must_use]
    pub fn is_on_demand(&self, id: ChannelId) -> bool {
        self.channels[id as usize].on_demand
    }

    /// Decides [`Hub::is_on_demand`] for a channel that is not here yet.
    fn must_be_confirmed(&self, name: &ChannelName) -> bool {
        self.on_demand && self.kept_by(name).is_none()
    }

    /// The channel of that name, if it has clients or its history is kept.
    #[must_use]
    pub fn id(&self, name: &ChannelName) -> Option<ChannelId> {
        self.names.get(name).copied()
    }

    /// The channel's subscription, and whether the shard is subscribed to it at the dispatcher.
    #[must_use]
    pub fn subscription(&self, id: ChannelId) -> (Subscription, bool) {
        let channel = &self.channels[id as usize];
        (channel.subscription, channel.wanted)
    }

    /// The shard subscribes to the channel at the dispatcher, whose answer follows.
    pub fn set_subscribing(&mut self, id: ChannelId) {
        let channel = &mut self.channels[id as usize];
        (channel.wanted, channel.subscription) = (true, Subscription::Pending);
    }

    /// Sets whether the shard is subscribed to the channel at the dispatcher.
    pub fn set_wanted(&mut self, id: ChannelId, wanted: bool) {
        self.channels[id as usize].wanted = wanted;
    }

    /// The subscription to a channel, or to all channels of a rule, was confirmed. They are complete after the position `since`.
    /// `None`: a source is disconnected, so events may be missing until [`Hub::restore`], which follows when the source is
    /// connected again.
    pub fn confirm(&mut self, name: &ChannelName, since: Option<Position>) {
        self.last = self.last.max(since.unwrap_or_default());
        if self.confirm_kept(name, since.unwrap_or(self.last)) {
            return;
        }
        let id = self.names.get(name).copied().unwrap_or_else(|| self.open(name.clone()));
        let channel = &mut self.channels[id as usize];
        channel.subscription = Subscription::Confirmed;
        channel.history.raise(since.unwrap_or(self.last), Cause::Began);
    }

    /// A source of the channel, or of all channels of a rule, was disconnected and is connected again. Adds the groups whose
    /// clients are to get a gap event to `groups`.
    pub fn restore(&mut self, name: &ChannelName, hole: Hole, groups: &mut Vec<GroupId>) {
        self.last = self.last.max(hole.end);
        if self.restore_kept(name, hole, groups) {
            return;
        }
        match self.names.get(name) {
            Some(&id) => self.add_hole(id, hole, groups),
            None if self.must_be_confirmed(name) => {}
            None => self.floor = self.floor.max((hole.end, Cause::Began)),
        }
        self.add_hole_to_patterns(name, hole, groups);
    }

    fn add_hole(&mut self, id: ChannelId, hole: Hole, groups: &mut Vec<GroupId>) {
        let channel = &mut self.channels[id as usize];
        self.bytes -= channel.history.add_hole(hole);
        groups.extend(&channel.groups);
    }

    /// The process unsubscribed, or no source may deliver the channel or the rule's channels: from now on their events are
    /// incomplete. Drops their histories.
    pub fn set_unsubscribed(&mut self, name: &ChannelName) {
        self.refuse_kept(name);
        for id in self.channels_under(name) {
            let channel = &mut self.channels[id as usize];
            channel.subscription = Subscription::Pending;
            if self.journals.has_any() {
                continue; // The journals go on. What else it has is complete since it is confirmed again.
            }
            while !channel.history.is_empty() {
                self.bytes -= channel.history.drop_oldest();
            }
            self.remove_if_unused(id);
        }
    }

    fn open(&mut self, name: ChannelName) -> ChannelId {
        let kept_by = self.kept_by(&name);
        let kept = kept_by.map(|rule| self.kept_state(rule));
        let on_demand = self.on_demand && kept.is_none();
        // Until `confirm` sets since when the channel is complete.
        let pending = ((Position(0), Cause::Began), Subscription::Pending);
        let (since, subscription) = match kept {
            _ if on_demand => pending,
            None => (self.floor, Subscription::Confirmed),
            Some(KeptState::Confirmed(_)) if !self.is_kept_whole(&name) => {
                ((self.last, Cause::Began), Subscription::Confirmed)
            }
            Some(KeptState::Confirmed(since)) => (self.floor.max((since, Cause::Began)), Subscription::Confirmed),
            Some(KeptState::Pending | KeptState::Refused) => pending,
        };
        let history = History::new(since.0, since.1, base_weight(&name))
            .with_journal(self.journals.of(&name).map(|journal| self.journals.begin(journal)));
        let channel = Channel {
            on_demand,
            kept_by,
            rule: self.rules.of(&name),
            subscription,
            ..Channel::new(name.clone(), history)
        };
        let id = index::to_u32(self.channels.insert(channel));
        if self.channels[id as usize].is_pattern {
            self.patterns.insert(name.clone(), id);
            if subscription == Subscription::Confirmed {
                self.collect_history(id);
            }
        }
        self.names.insert(name, id);
        id
    }
}

#[cfg(test)]
mod gap_tests;
#[cfg(test)]
mod kept_tests;
#[cfg(test)]
mod pattern_tests;
#[cfg(test)]
mod journal_tests;
#[cfg(test)]
mod retention_tests;
#[cfg(test)]
mod tests;
