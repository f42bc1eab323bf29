//! Clients that ask for the same channels in the same form, kept together.
//!
//! Invariant: `channels[group.channels[i].0].groups[group.channels[i].1] == group` for each `i`, so that a group leaves its
//! channels without a search.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use slab::Slab;

use super::{Channel, ChannelId};
use crate::{
    event::{Coding, Event, Form},
    index,
};

/// An index of the hub's groups.
pub type GroupId = u32;
/// What the shard calls a client.
pub type ClientIndex = u32;

/// What the members of a group are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Open streams.
    Stream(Form, Coding),
    /// Long polls: each ends with the first thing it is given.
    Poll,
}

#[derive(Debug)]
struct Group {
    key: (Arc<[ChannelId]>, Kind),
    /// Where the group stands in each channel's list of groups.
    places: Box<[u32]>,
    clients: Vec<ClientIndex>,
    batch: Vec<Arc<Event>>,
    /// Of gzip streams, the last event of the batch before: what is new is deflated with it in mind. Weak, since histories
    /// alone keep events, within their bounds.
    before: Weak<Event>,
}

/// Events that a group's members get now.
#[derive(Debug)]
pub struct Batch {
    /// Whose.
    pub group: GroupId,
    /// What the members are.
    pub kind: Kind,
    /// At least one event, in order.
    pub events: Vec<Arc<Event>>,
    /// Of gzip streams, the event that came last before these, if it is still kept.
    pub before: Option<Arc<Event>>,
}

#[derive(Default)]
pub(super) struct Groups {
    groups: Slab<Group>,
    by_key: HashMap<(Arc<[ChannelId]>, Kind), GroupId>,
    /// Groups with a batch.
    dirty: Vec<GroupId>,
    /// An empty buffer for a batch's events.
    spare: Vec<Arc<Event>>,
}

impl Groups {
    /// Adds `event` to the batch of each group in `ids`.
    pub(super) fn batch(&mut self, ids: &[GroupId], event: &Arc<Event>) {
        for &id in ids {
            let group = &mut self.groups[id as usize];
            if group.batch.is_empty() {
                self.dirty.push(id);
                // One buffer serves all groups where events come one at a time.
                group.batch = std::mem::take(&mut self.spare);
            }
            group.batch.push(Arc::clone(event));
        }
    }

    pub(super) fn next_batch(&mut self) -> Option<Batch> {
        let id = self.dirty.pop()?;
        let group = &mut self.groups[id as usize];
        let (events, before) = (std::mem::take(&mut group.batch), std::mem::take(&mut group.before).upgrade());
        Some(Batch { group: id, kind: group.key.1, events, before })
    }

    pub(super) fn recycle(&mut self, mut batch: Batch) {
        if let (Kind::Stream(_, Coding::Gzip), Some(last)) = (batch.kind, batch.events.last()) {
            self.groups[batch.group as usize].before = Arc::downgrade(last);
        }
        batch.events.clear();
        if batch.events.capacity() <= 1024 {
            self.spare = batch.events;
        }
    }

    pub(super) fn channels(&self, id: GroupId) -> impl Iterator<Item = ChannelId> {
        self.groups[id as usize].key.0.iter().copied()
    }

    pub(super) fn kind(&self, id: GroupId) -> Kind {
        self.groups[id as usize].key.1
    }

    pub(super) fn clients(&self, id: GroupId) -> &[ClientIndex] {
        &self.groups[id as usize].clients
    }

    /// Adds a member to the group of `channels`, which are in order. Gives back the group and the member's slot in it.
    pub(super) fn join(
        &mut self,
        channels: &[ChannelId],
        kind: Kind,
        client: ClientIndex,
        all: &mut Slab<Channel>,
    ) -> (GroupId, u32) {
        let key = (Arc::<[ChannelId]>::from(channels), kind);
        let id = *self.by_key.entry(key).or_insert_with_key(|key| {
            let slot = self.groups.vacant_entry();
            let id = index::to_u32(slot.key());
            let place = |&channel: &ChannelId| {
                let groups = &mut all[channel as usize].groups;
                groups.push(id);
                index::to_u32(groups.len() - 1)
            };
            let places = key.0.iter().map(place).collect();
            slot.insert(Group {
                key: key.clone(),
                places,
                clients: Vec::new(),
                batch: Vec::new(),
                before: Weak::new(),
            });
            id
        });
        let clients = &mut self.groups[id as usize].clients;
        if clients.is_empty() {
            clients.reserve_exact(1); // Many groups have one member for ever.
        }
        clients.push(client);
        (id, index::to_u32(clients.len() - 1))
    }

    /// Takes the member at `slot` out; gives back the one that stands there now. The last one's leaving ends the group.
    pub(super) fn leave(&mut self, id: GroupId, slot: u32, all: &mut Slab<Channel>) -> Option<ClientIndex> {
        let clients = &mut self.groups[id as usize].clients;
        clients.swap_remove(slot as usize);
        if !clients.is_empty() {
            return clients.get(slot as usize).copied();
        }
        let group = self.groups.remove(id as usize);
        debug_assert!(group.batch.is_empty(), "a group ends between batches only");
        self.by_key.remove(&group.key);
        for (&channel, &place) in group.key.0.iter().zip(&group.places) {
            let groups = &mut all[channel as usize].groups;
            groups.swap_remove(place as usize);
            if let Some(&moved) = groups.get(place as usize) {
                let moved = &mut self.groups[moved as usize];
                let at = moved.key.0.iter().position(|&other| other == channel);
                if let Some(at) = at {
                    moved.places[at] = place;
                }
            }
        }
        None
    }
}
