//! The channels of one shard, their histories, and the groups of clients that read them. No I/O, no clock of its own, no locks.
//!
//! Clients that read the same channels in the same form are one *group*: they all get the same bytes, which are made once. A
//! publish appends the event to the channel's history and to the *batch* of each group that reads the channel. Then the shard
//! sends the batches.
//!
//! Invariant: a client that is not behind has every event up to [`Hub::last`] that is not in a batch of its group. So the batch
//! of a group is taken before a client of the group is served from the histories.

mod groups;
mod history;
mod reader;
mod snapshot;
mod replay;
mod retention;
mod sequencer;

use std::{collections::HashMap, sync::Arc};

use slab::Slab;

use self::{groups::Groups, history::History};
pub use self::{
    groups::{Batch, ClientIndex, GroupId, Kind},
    history::{Cause, Hole},
    reader::{CursorOrigin, Reader},
    replay::{Replay, ReplayItem},
    sequencer::Sequencer,
    snapshot::ChannelSnapshot,
};
use crate::{
    clock::Uptime,
    config,
    cursor::{Cursor, NodeId, Position, Start},
    event::Event,
    index,
    name::ChannelName,
};

/// An index of [`Hub`]'s channels.
pub type ChannelId = u32;

/// Whether a channel's events reach the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subscription {
    /// The sources were not asked to deliver the channel, or not all of them have answered.
    Pending,
    /// Every source has answered: it delivers the channel's events, or it is disconnected and reports when it is connected again.
    Confirmed,
}

/// A channel that has clients, or whose history is kept.
#[derive(Debug)]
pub struct Channel {
    name: ChannelName,
    /// Whether a source must confirm it before its events arrive.
    on_demand: bool,
    history: History,
    subscription: Subscription,
    /// Number of streams and polls that read the channel.
    subscribers: u32,
    /// Number of requests that hold the channel, since they wait until it is confirmed ([`Hub::hold`]).
    holds: u32,
    /// Number of its clients that are behind. While there are any, the history may exceed `history.messages` (`history.stretch`).
    behind: u32,
    /// Since when the channel has had no client and no hold; `None` while it has one.
    idle_since: Option<Uptime>,
    /// Whether the shard is subscribed to the channel at the dispatcher ([`Hub::set_wanted`]).
    wanted: bool,
    /// Set while the channel is in [`Hub`]'s `eviction`: the position of its newest event when it was put there.
    queued_at: Option<Position>,
    /// Groups that read the channel.
    groups: Vec<GroupId>,
}

impl Channel {
    fn new(name: ChannelName, on_demand: bool, history: History, subscription: Subscription) -> Self {
        Self {
            name,
            on_demand,
            history,
            subscription,
            subscribers: 0,
            holds: 0,
            behind: 0,
            idle_since: None,
            wanted: false,
            queued_at: None,
            groups: Vec::new(),
        }
    }

    fn is_in_use(&self) -> bool {
        self.subscribers > 0 || self.holds > 0
    }
}

/// One shard's channels and groups.
pub struct Hub {
    node: NodeId,
    /// Whether positions are times, and not ahead of the clock.
    timed: bool,
    limits: config::History,
    /// Whether sources must be asked for a channel that is not here yet before its events arrive.
    on_demand: bool,
    /// The position of the last event, of any channel.
    last: Position,
    /// A channel that is not in `channels` is complete since this position (unless a source must be asked for it), for this
    /// cause. Raised when a channel is removed.
    floor: (Position, Cause),
    channels: Slab<Channel>,
    names: HashMap<ChannelName, ChannelId>,
    groups: Groups,
    /// Number of channels without clients and holds.
    idle: usize,
    /// Bytes that all histories take, with the channels they belong to.
    bytes: usize,
    /// Channels that have events. The first one loses events first when the histories exceed `history.bytes`.
    eviction: std::collections::VecDeque<ChannelId>,
    /// Channels published to since the last [`Hub::trim`].
    touched: Vec<ChannelId>,
    /// The first channel that the next [`Hub::sweep`] looks at.
    sweep_at: usize,
}

impl Hub {
    /// A hub without channels, whose last position is that of `cursor`.
    #[must_use]
    pub fn new(cursor: Cursor, limits: config::History, on_demand: bool) -> Self {
        Self {
            node: cursor.node,
            timed: true,
            limits,
            on_demand,
            last: cursor.position,
            floor: (cursor.position, Cause::Began),
            channels: Slab::new(),
            names: HashMap::new(),
            groups: Groups::default(),
            idle: 0,
            bytes: 0,
            eviction: std::collections::VecDeque::new(),
            touched: Vec::new(),
            sweep_at: 0,
        }
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

    /// The cursor at `position` of this node.
    #[must_use]
    pub fn cursor_at(&self, position: Position) -> Cursor {
        Cursor { node: self.node(), position }
    }

    /// Appends `event` to its channel's history and to the batches of the groups that read the channel. Returns how many
    /// clients read the channel. If sources must be asked for channels, an event of an unknown channel is dropped: it arrived
    /// after the channel was unsubscribed.
    pub fn publish(&mut self, event: &Arc<Event>, now: Uptime) -> u32 {
        self.last = event.position();
        let id = match self.names.get(event.channel()) {
            Some(&id) => id,
            None if self.must_be_confirmed(event.channel()) => return 0,
            None => self.open(event.channel().clone()),
        };
        self.keep(id, event, now);
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
        self.groups.next_batch()
    }

    /// Keeps a sent batch's buffer, to be used for another one.
    pub fn recycle(&mut self, batch: Batch) {
        self.groups.recycle(batch);
    }

    /// The events and gap events after `reader`'s cursor on the group's channels.
    #[must_use]
    pub fn replay<'a>(&'a self, group: GroupId, reader: &'a Reader) -> Replay<'a> {
        let channels = self.groups.channels(group).map(|id| (id, &self.channels[id as usize]));
        Replay::new(channels, reader, self.last)
    }

    /// The reader of a client that begins with `start`. `now`: microseconds since 1970.
    #[must_use]
    pub fn reader(&self, start: Start, now: u64) -> Reader {
        match start {
            Start::Now => Reader::live(self.last),
            Start::After(cursor) if cursor.node.is_same_node(&self.node) => {
                Reader::new(cursor.position.min(self.last), CursorOrigin::Resumed)
            }
            // The client read from an earlier run of this instance. All events kept here came later, whatever the clock said.
            // Comparing times would hide events if the clock was set back.
            Start::After(cursor) if cursor.node.is_run_of_same_instance(&self.node) => {
                Reader::new(Position(0), CursorOrigin::Foreign)
            }
            // Its node's clock was set back, and the position says no time.
            Start::After(cursor) if !cursor.node.is_timed() => Reader::new(Position(0), CursorOrigin::Foreign),
            Start::After(cursor) => {
                let skew = u64::try_from(self.limits.skew.as_micros()).unwrap_or(u64::MAX);
                let cursor = Position(cursor.position.0.saturating_sub(skew));
                // The other node's clock is far ahead, so the cursor does not say which events the client has.
                let cursor = if cursor.0 > now { Position(0) } else { cursor.min(self.last) };
                Reader::new(cursor, CursorOrigin::Foreign)
            }
            Start::Unknown => Reader::new(Position(0), CursorOrigin::Foreign),
        }
    }

    /// Finds or makes the channel, and holds it for a request: it is not removed before [`Hub::release`].
    pub fn hold(&mut self, name: &ChannelName) -> ChannelId {
        let id = self.names.get(name).copied().unwrap_or_else(|| self.open(name.clone()));
        let channel = &mut self.channels[id as usize];
        channel.holds += 1;
        self.set_in_use(id);
        id
    }

    /// Ends a hold.
    pub fn release(&mut self, id: ChannelId, now: Uptime) {
        let channel = &mut self.channels[id as usize];
        channel.holds -= 1;
        self.set_idle_if_unused(id, now);
    }

    /// Adds a client to the group of `channels` (in any order, without repeats) and `kind`. Returns the group and the client's
    /// place in it.
    pub fn join(&mut self, mut channels: Vec<ChannelId>, kind: Kind, client: ClientIndex) -> (GroupId, u32) {
        channels.sort_unstable();
        for &id in &channels {
            let channel = &mut self.channels[id as usize];
            channel.subscribers += 1;
            self.set_in_use(id);
        }
        self.groups.join(&channels, kind, client, &mut self.channels)
    }

    /// Removes the client at `place` from its group. Returns the client that was moved to `place`, if one was.
    pub fn leave(&mut self, group: GroupId, place: u32, now: Uptime) -> Option<ClientIndex> {
        let channels: Vec<ChannelId> = self.groups.channels(group).collect();
        let moved = self.groups.leave(group, place, &mut self.channels);
        for id in channels {
            self.channels[id as usize].subscribers -= 1;
            self.set_idle_if_unused(id, now);
        }
        moved
    }

    fn set_in_use(&mut self, id: ChannelId) {
        self.idle -= usize::from(self.channels[id as usize].idle_since.take().is_some());
    }

    fn set_idle_if_unused(&mut self, id: ChannelId, now: Uptime) {
        let channel = &mut self.channels[id as usize];
        if !channel.is_in_use() {
            self.idle += usize::from(channel.idle_since.replace(now).is_none());
            self.remove_if_unused(id);
        }
    }

    /// Counts a client of `group` that has fallen behind (`true`), or that is no longer behind (`false`).
    pub fn set_behind(&mut self, group: GroupId, behind: bool) {
        for id in self.groups.channels(group) {
            let count = &mut self.channels[id as usize].behind;
            *count = if behind { *count + 1 } else { *count - 1 };
        }
    }

    /// Whether a source must confirm the channel before its events arrive.
    #[must_use]
    pub fn is_on_demand(&self, id: ChannelId) -> bool {
        self.channels[id as usize].on_demand
    }

    /// Decides [`Hub::is_on_demand`] for a channel that is not here yet: the same for all of them, as long as no rule for single
    /// channels says otherwise.
    fn must_be_confirmed(&self, _: &ChannelName) -> bool {
        self.on_demand
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

    /// Sets whether the shard is subscribed to the channel at the dispatcher.
    pub fn set_wanted(&mut self, id: ChannelId, wanted: bool) {
        self.channels[id as usize].wanted = wanted;
    }

    /// The channel's subscription was confirmed. It is complete after the position `since`. `None`: a source is disconnected, so
    /// events may be missing until [`Hub::restore`], which follows when the source is connected again.
    pub fn confirm(&mut self, name: &ChannelName, since: Option<Position>) {
        let id = self.names.get(name).copied().unwrap_or_else(|| self.open(name.clone()));
        let channel = &mut self.channels[id as usize];
        channel.subscription = Subscription::Confirmed;
        self.last = self.last.max(since.unwrap_or_default());
        channel.history.raise(since.unwrap_or(self.last), Cause::Began);
    }

    /// A source of the channel was disconnected and is connected again. Returns the groups whose clients are to get a gap event.
    pub fn restore(&mut self, name: &ChannelName, hole: Hole) -> &[GroupId] {
        self.last = self.last.max(hole.end);
        let Some(&id) = self.names.get(name) else { return &[] };
        let channel = &mut self.channels[id as usize];
        self.bytes -= channel.history.add_hole(hole);
        &channel.groups
    }

    /// The process unsubscribed: from now on the channel's events are incomplete. Drops its history.
    pub fn set_unsubscribed(&mut self, name: &ChannelName) {
        let Some(&id) = self.names.get(name) else { return };
        let channel = &mut self.channels[id as usize];
        channel.subscription = Subscription::Pending;
        while !channel.history.is_empty() {
            self.bytes -= channel.history.drop_oldest();
        }
        self.remove_if_unused(id);
    }

    /// Whether a group's clients are streams or polls, and of which form.
    #[must_use]
    pub fn kind(&self, group: GroupId) -> Kind {
        self.groups.kind(group)
    }

    /// The clients of a group.
    #[must_use]
    pub fn clients(&self, group: GroupId) -> &[ClientIndex] {
        self.groups.clients(group)
    }

    /// The clients that read the channel, in all groups.
    #[must_use]
    pub fn clients_of(&self, id: ChannelId) -> Vec<ClientIndex> {
        let groups = self.channels[id as usize].groups.iter();
        groups.flat_map(|&group| self.groups.clients(group)).copied().collect()
    }

    /// Each channel that has clients, and how many it has.
    pub fn subscribers(&self) -> impl Iterator<Item = (&ChannelName, u32)> {
        self.channels
            .iter()
            .filter(|(_, channel)| channel.subscribers > 0)
            .map(|(_, channel)| (&channel.name, channel.subscribers))
    }

    /// Number of clients that read a channel.
    #[must_use]
    pub fn subscribers_of(&self, name: &ChannelName) -> u32 {
        self.names.get(name).map_or(0, |&id| self.channels[id as usize].subscribers)
    }

    fn open(&mut self, name: ChannelName) -> ChannelId {
        let on_demand = self.must_be_confirmed(&name);
        let (history, subscription) = if on_demand {
            // `confirm` sets since when the channel is complete.
            (History::new(Position(0), Cause::Began, base_weight(&name)), Subscription::Pending)
        } else {
            (History::new(self.floor.0, self.floor.1, base_weight(&name)), Subscription::Confirmed)
        };
        let id = index::to_u32(self.channels.insert(Channel::new(name.clone(), on_demand, history, subscription)));
        self.names.insert(name, id);
        id
    }
}

/// Bytes that a channel takes beside its events: its state, its name, and its entries in the hub's tables.
fn base_weight(name: &ChannelName) -> u32 {
    u32::try_from(size_of::<Channel>() + name.as_str().len() + 128).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod gap_tests;
#[cfg(test)]
mod tests;
