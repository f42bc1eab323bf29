//! Groups: the clients that read the same channels in the same form, and the batch of events that they get next. It knows no
//! history.
//!
//! Invariant: each channel lists the groups that read it, and each group knows its index in those lists:
//! `channels[group.key.0[i]].groups[group.places[i]]` is the group's id, for each `i`. So a group is removed without a search in
//! the lists.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use slab::Slab;

use super::channel::{Channel, ChannelId, GroupId};
use crate::{
    event::{Coding, Event, Form},
    index,
};

/// A client's slot in the shard's table of clients.
pub type ClientIndex = u32;

/// Whether a group's clients are streams or polls, and of which form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Open streams.
    Stream(Form, Coding),
    /// Long polls: each ends with its answer, which has the first events that follow.
    Poll,
}

#[derive(Debug)]
struct Group {
    key: (Arc<[ChannelId]>, Kind),
    /// The group's index in each channel's list of groups, in the order of the channels in `key`.
    places: Box<[u32]>,
    clients: Vec<ClientIndex>,
    /// Events that the clients get next. Filled by [`Groups::batch`].
    batch: Vec<Arc<Event>>,
    /// For gzip streams: the last event of the batch before. It is the dictionary for the next batch. Weak, so that only
    /// histories keep events in memory.
    before: Weak<Event>,
}

/// The events that a group's clients get next.
#[derive(Debug)]
pub struct Batch {
    /// The group that the batch is for.
    pub group: GroupId,
    /// Whether its clients are streams or polls, and of which form.
    pub kind: Kind,
    /// At least one event, in order.
    pub events: Vec<Arc<Event>>,
    /// For gzip streams: the event before these, if it is still kept.
    pub before: Option<Arc<Event>>,
}

#[derive(Default)]
pub(super) struct Groups {
    groups: Slab<Group>,
    by_key: HashMap<(Arc<[ChannelId]>, Kind), GroupId>,
    /// Groups whose batch is not empty.
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
                // If events come one at a time, all groups use this one buffer in turn.
                group.batch = std::mem::take(&mut self.spare);
            }
            group.batch.push(Arc::clone(event));
        }
    }

    /// Adds `event` to the batch of each group in `ids`, in which groups may stand several times. Returns the number of clients in
    /// these groups.
    pub(super) fn batch_once<'a>(&mut self, ids: impl Iterator<Item = &'a GroupId>, event: &Arc<Event>) -> u32 {
        let mut clients = 0;
        for &id in ids {
            let group = &mut self.groups[id as usize];
            if group.batch.last().is_none_or(|last| last.position() < event.position()) {
                clients += index::to_u32(group.clients.len());
                self.batch(&[id], event);
            }
        }
        clients
    }

    pub(super) fn next_batch(&mut self) -> Option<Batch> {
        let id = self.dirty.pop()?;
        let group = &mut self.groups[id as usize];
        let (events, before) = (std::mem::take(&mut group.batch), std::mem::take(&mut group.before).upgrade());
        Some(Batch { group: id, kind: group.key.1, events, before })
    }

    pub(super) fn is_batch_empty(&self, id: GroupId) -> bool {
        self.groups[id as usize].batch.is_empty()
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

    /// Adds a client to the group of `channels`, which are sorted. Returns the group and the client's place in it.
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
            clients.reserve_exact(1); // Many groups never have more than one client.
        }
        clients.push(client);
        (id, index::to_u32(clients.len() - 1))
    }

    /// Removes the client at `place`. Returns the client that was moved there, if one was. A group without clients is removed.
    pub(super) fn leave(&mut self, id: GroupId, place: u32, all: &mut Slab<Channel>) -> Option<ClientIndex> {
        let clients = &mut self.groups[id as usize].clients;
        clients.swap_remove(place as usize);
        if !clients.is_empty() {
            return clients.get(place as usize).copied();
        }
        let group = self.groups.remove(id as usize);
        debug_assert!(group.batch.is_empty(), "a group is removed only while its batch is empty");
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
