//! Channels, their histories, and who listens to what. No I/O, no clock of its own, no locks: a shard owns one.
//!
//! Clients that ask for the same channels in the same form are one [`group`](self): what is due to them is the same bytes,
//! so it is worked out once for all of them. A publish appends to the channel's history and to the batch of each group that
//! has the channel; the shard then sends the batches.
//!
//! Invariant: a client that is not behind has everything up to [`Hub::last`] that is in no batch. Hence batches are
//! taken before any client is served from the histories.

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
    /// The sources were not asked for the channel, or not all have answered.
    Pending,
    /// Every source has answered: events arrive, or the source is disconnected and reports when it is connected again.
    Confirmed,
}

/// A channel that somebody listens to, or whose history is kept.
#[derive(Debug)]
pub struct Channel {
    name: ChannelName,
    history: History,
    subscription: Subscription,
    /// Streams and polls on the channel.
    subscribers: u32,
    /// Requests that wait for the channel's subscription.
    holds: u32,
    /// Members that are behind: while there are any, the history may stretch.
    behind: u32,
    /// Since when the channel has had no client.
    idle_since: Option<Uptime>,
    /// Whether the shard has asked for the channel (see [`Hub::set_wanted`]).
    wanted: bool,
    /// The channel's place in the queue of those that give way when memory is short: its newest event when it was queued.
    queued_at: Option<Position>,
    /// Groups that have the channel.
    groups: Vec<GroupId>,
}

impl Channel {
    fn new(name: ChannelName, history: History, subscription: Subscription) -> Self {
        Self {
            name,
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
    /// Whether sources must be asked for a channel before its events arrive.
    on_demand: bool,
    last: Position,
    /// Channels that are not in `channels` are complete since here (where no source must be asked).
    floor: (Position, Cause),
    channels: Slab<Channel>,
    names: HashMap<ChannelName, ChannelId>,
    groups: Groups,
    /// Channels that nobody listens to.
    idle: usize,
    /// Bytes of all histories.
    bytes: usize,
    /// Channels with events, those that give way first in front.
    eviction: std::collections::VecDeque<ChannelId>,
    /// Channels published to since the last [`Hub::trim`].
    touched: Vec<ChannelId>,
    /// Where the next [`Hub::sweep`] goes on.
    sweep_at: usize,
}

impl Hub {
    /// An empty hub that has passed everything up to `cursor`.
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

    /// The last position passed.
    #[must_use]
    pub fn last(&self) -> Position {
        self.last
    }

    /// Nothing has passed up to `position`, which is later than all that has.
    pub fn advance(&mut self, position: Position) {
        self.last = position;
    }

    /// The cursor at `position` of this node.
    #[must_use]
    pub fn cursor_at(&self, position: Position) -> Cursor {
        Cursor { node: self.node(), position }
    }

    /// Appends `event` to its channel's history and to the batches of the groups that have the channel. Gives back how many
    /// members the channel has. Where sources are asked on demand, an event of a channel nobody asked for is dropped: it
    /// was on its way when the channel was let go.
    pub fn publish(&mut self, event: &Arc<Event>, now: Uptime) -> u32 {
        self.last = event.position();
        let id = match self.names.get(event.channel()) {
            Some(&id) => id,
            None if self.on_demand => return 0,
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

    /// Takes the batches that [`Hub::publish`] has filled: each call gives one group, its kind, members and events.
    pub fn next_batch(&mut self) -> Option<Batch> {
        self.groups.next_batch()
    }

    /// Gives a batch's buffers back for the next one.
    pub fn recycle(&mut self, batch: Batch) {
        self.groups.recycle(batch);
    }

    /// What follows `reader`'s cursor on the group's channels.
    #[must_use]
    pub fn replay<'a>(&'a self, group: GroupId, reader: &'a Reader) -> Replay<'a> {
        let channels = self.groups.channels(group).map(|id| (id, &self.channels[id as usize]));
        Replay::new(channels, reader, self.last)
    }

    /// Where a client that starts like this begins to read. `now`: microseconds since 1970.
    #[must_use]
    pub fn reader(&self, start: Start, now: u64) -> Reader {
        match start {
            Start::Now => Reader::live(self.last),
            Start::After(cursor) if cursor.node.is_same_node(&self.node) => {
                Reader::new(cursor.position.min(self.last), CursorOrigin::Resumed)
            }
            // All that is kept here came after all that an earlier run gave, whatever the clock said: where it has stepped back,
            // comparing times would hide events.
            Start::After(cursor) if cursor.node.is_run_of_same_instance(&self.node) => {
                Reader::new(Position(0), CursorOrigin::Foreign)
            }
            // Its node's clock was set back, and the position says no time.
            Start::After(cursor) if !cursor.node.is_timed() => Reader::new(Position(0), CursorOrigin::Foreign),
            Start::After(cursor) => {
                let skew = u64::try_from(self.limits.skew.as_micros()).unwrap_or(u64::MAX);
                let cursor = Position(cursor.position.0.saturating_sub(skew));
                // From a clock so far ahead, nothing follows about what its client has.
                let cursor = if cursor.0 > now { Position(0) } else { cursor.min(self.last) };
                Reader::new(cursor, CursorOrigin::Foreign)
            }
            Start::Unknown => Reader::new(Position(0), CursorOrigin::Foreign),
        }
    }

    /// Finds or makes the channel, and holds it for a request: until [`Hub::release`] it is not forgotten.
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
        self.set_idle_if_left(id, now);
    }

    /// Adds a member to the group of `channels` (in any order, without repeats) and `kind`.
    pub fn join(&mut self, mut channels: Vec<ChannelId>, kind: Kind, client: ClientIndex) -> (GroupId, u32) {
        channels.sort_unstable();
        for &id in &channels {
            let channel = &mut self.channels[id as usize];
            channel.subscribers += 1;
            self.set_in_use(id);
        }
        self.groups.join(&channels, kind, client, &mut self.channels)
    }

    /// Takes the member at `slot` out of its group. Gives back the member that stands at `slot` now, if there is one.
    pub fn leave(&mut self, group: GroupId, slot: u32, now: Uptime) -> Option<ClientIndex> {
        let channels: Vec<ChannelId> = self.groups.channels(group).collect();
        let moved = self.groups.leave(group, slot, &mut self.channels);
        for id in channels {
            self.channels[id as usize].subscribers -= 1;
            self.set_idle_if_left(id, now);
        }
        moved
    }

    fn set_in_use(&mut self, id: ChannelId) {
        self.idle -= usize::from(self.channels[id as usize].idle_since.take().is_some());
    }

    fn set_idle_if_left(&mut self, id: ChannelId, now: Uptime) {
        let channel = &mut self.channels[id as usize];
        if !channel.is_in_use() {
            self.idle += usize::from(channel.idle_since.replace(now).is_none());
            self.forget_if_unused(id);
        }
    }

    /// Notes that a member of `group` has fallen behind (`true`) or caught up.
    pub fn set_behind(&mut self, group: GroupId, behind: bool) {
        for id in self.groups.channels(group) {
            let count = &mut self.channels[id as usize].behind;
            *count = if behind { *count + 1 } else { *count - 1 };
        }
    }

    /// Whether sources must be asked for a channel before its events arrive.
    #[must_use]
    pub fn is_on_demand(&self) -> bool {
        self.on_demand
    }

    /// The channel of that name, if anybody listens to it or its history is kept.
    #[must_use]
    pub fn id(&self, name: &ChannelName) -> Option<ChannelId> {
        self.names.get(name).copied()
    }

    /// The channel's subscription, and whether the shard has asked for them.
    #[must_use]
    pub fn subscription(&self, id: ChannelId) -> (Subscription, bool) {
        let channel = &self.channels[id as usize];
        (channel.subscription, channel.wanted)
    }

    /// Notes whether the shard has asked for the channel.
    pub fn set_wanted(&mut self, id: ChannelId, wanted: bool) {
        self.channels[id as usize].wanted = wanted;
    }

    /// The channel's subscription was confirmed: with `since`, it is complete from there on. Without, a source is
    /// disconnected: what was published so far is not known, and [`Hub::restore`] follows once it is connected again.
    pub fn confirm(&mut self, name: &ChannelName, since: Option<Position>) {
        let id = self.names.get(name).copied().unwrap_or_else(|| self.open(name.clone()));
        let channel = &mut self.channels[id as usize];
        channel.subscription = Subscription::Confirmed;
        self.last = self.last.max(since.unwrap_or_default());
        channel.history.raise(since.unwrap_or(self.last), Cause::Began);
    }

    /// A source was disconnected, and is connected again. Gives back the groups whose clients are to get a gap event.
    pub fn restore(&mut self, name: &ChannelName, hole: Hole) -> &[GroupId] {
        self.last = self.last.max(hole.end);
        let Some(&id) = self.names.get(name) else { return &[] };
        let channel = &mut self.channels[id as usize];
        self.bytes -= channel.history.add_hole(hole);
        &channel.groups
    }

    /// The process has let the channel go: what arrives from now on is not all.
    pub fn set_unsubscribed(&mut self, name: &ChannelName) {
        let Some(&id) = self.names.get(name) else { return };
        let channel = &mut self.channels[id as usize];
        channel.subscription = Subscription::Pending;
        while !channel.history.is_empty() {
            self.bytes -= channel.history.drop_oldest();
        }
        self.forget_if_unused(id);
    }

    /// What a group's members are.
    #[must_use]
    pub fn kind(&self, group: GroupId) -> Kind {
        self.groups.kind(group)
    }

    /// The members of a group.
    #[must_use]
    pub fn clients(&self, group: GroupId) -> &[ClientIndex] {
        self.groups.clients(group)
    }

    /// The clients that have the channel, of every group.
    #[must_use]
    pub fn clients_of(&self, id: ChannelId) -> Vec<ClientIndex> {
        let groups = self.channels[id as usize].groups.iter();
        groups.flat_map(|&group| self.groups.clients(group)).copied().collect()
    }

    /// How many members each channel has that has any.
    pub fn subscribers(&self) -> impl Iterator<Item = (&ChannelName, u32)> {
        self.channels
            .iter()
            .filter(|(_, channel)| channel.subscribers > 0)
            .map(|(_, channel)| (&channel.name, channel.subscribers))
    }

    /// Members of one channel.
    #[must_use]
    pub fn subscribers_of(&self, name: &ChannelName) -> u32 {
        self.names.get(name).map_or(0, |&id| self.channels[id as usize].subscribers)
    }

    fn open(&mut self, name: ChannelName) -> ChannelId {
        let (history, subscription) = if self.on_demand {
            // Whether anything is missing is known once the sources have answered.
            (History::new(Position(0), Cause::Began, base_weight(&name)), Subscription::Pending)
        } else {
            (History::new(self.floor.0, self.floor.1, base_weight(&name)), Subscription::Confirmed)
        };
        let id = index::to_u32(self.channels.insert(Channel::new(name.clone(), history, subscription)));
        self.names.insert(name, id);
        id
    }
}

/// What a channel costs while it keeps events, in bytes: its state, its name, and its entries in the hub's tables.
fn base_weight(name: &ChannelName) -> u32 {
    u32::try_from(size_of::<Channel>() + name.as_str().len() + 128).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod gap_tests;
#[cfg(test)]
mod tests;
