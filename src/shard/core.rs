//! The shard itself: what its thread owns, and what every file of this folder may do to a client. It writes to nobody.
//!
//! Invariants:
//! - The state of a client changes in [`Shard::set_state`] only, so that the hub knows how many clients of a channel are
//!   catching up.
//! - A stream's socket is watched for READABLE only, unless it has not taken everything.
//! - A client is served from the histories, leaves or joins only while no event for its group waits in a batch: else the
//!   event would reach it twice, or never. Outside of [`super::writer`] this is kept by the type [`Flushed`]: what touches
//!   clients is a method of it, and only [`Shard::flush`] makes one. Inside, it holds for the group whose batch was taken.

use std::{
    collections::HashMap,
    ops::{Deref, DerefMut},
    sync::Arc,
    time::Duration,
};

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use slab::Slab;
use tokio::sync::oneshot;

use super::{
    client::{Client, ClientKey, ClientState},
    frames::Joined,
    wheel::Wheel,
};
use crate::{
    broker::Dispatcher,
    client_limit::ClientLimit,
    clock::Uptime,
    config::Config,
    gzip::Deflater,
    hub::{ChannelId, Hub},
    metrics::Metrics,
};

/// What every client's socket is watched for.
pub(super) const WATCHED: EpollFlags = EpollFlags::EPOLLIN.union(EpollFlags::EPOLLRDHUP).union(EpollFlags::EPOLLET);

/// One thread with a hub of its own and the clients that it serves. Nothing in it is locked or shared but events.
pub(super) struct Shard {
    pub(super) number: usize,
    pub(super) config: Arc<Config>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) client_limit: Arc<ClientLimit>,
    pub(super) dispatcher: Arc<Dispatcher>,
    pub(super) hub: Hub,
    pub(super) clients: Slab<Client>,
    pub(super) generation: u32,
    /// Clients that are removed when the [`Flushed`] is dropped, some perhaps twice.
    pub(super) ended: Vec<u32>,
    pub(super) epoll: Epoll,
    pub(super) wheel: Wheel<ClientKey>,
    pub(super) joined: Joined,
    /// Bytes of events in batches that have not been sent.
    pub(super) unsent_bytes: usize,
    pub(super) deflater: Deflater,
    /// Requests that wait for a channel's subscription.
    pub(super) waiting: HashMap<ChannelId, Vec<oneshot::Sender<bool>>>,
    /// Set once clients are closed with a time to reconnect; clients that come later are as well.
    pub(super) draining: Option<(Duration, oneshot::Sender<()>)>,
    /// Clients closed since they took nothing, that were not logged yet.
    pub(super) stalled: u64,
    /// Gap events that were not logged yet.
    pub(super) unlogged_gaps: u64,
}

/// A shard with no batch unsent. When it is dropped, clients that have ended are removed.
pub(super) struct Flushed<'a>(&'a mut Shard);

impl<'a> Flushed<'a> {
    /// For [`super::writer`], once it has sent all batches.
    pub(super) fn new(shard: &'a mut Shard) -> Self {
        debug_assert_eq!(shard.unsent_bytes, 0);
        Self(shard)
    }
}

impl Deref for Flushed<'_> {
    type Target = Shard;

    fn deref(&self) -> &Shard {
        self.0
    }
}

impl DerefMut for Flushed<'_> {
    fn deref_mut(&mut self) -> &mut Shard {
        self.0
    }
}

impl Drop for Flushed<'_> {
    fn drop(&mut self) {
        self.0.remove_ended();
    }
}

impl Shard {
    /// Changes a client's state. Gives back the state before.
    pub(super) fn set_state(&mut self, slot: u32, state: ClientState) -> ClientState {
        let client = &mut self.clients[slot as usize];
        let (before, after) = (client.state.is_catching_up(), state.is_catching_up());
        if before != after {
            self.hub.set_behind(client.group, after);
        }
        if !state.is_live() {
            client.written = self.wheel.now(); // From here on it is known whether it takes anything.
        }
        std::mem::replace(&mut client.state, state)
    }

    /// The slots of all clients.
    pub(super) fn slots(&self) -> Vec<u32> {
        self.clients.iter().filter_map(|(slot, _)| u32::try_from(slot).ok()).collect()
    }

    /// Asks epoll to report when the client's socket can take more, unless it was asked.
    pub(super) fn watch_writable_once(&mut self, slot: u32) {
        if self.clients[slot as usize].state.unwritten().is_some_and(|unwritten| !unwritten.watched) {
            self.watch_writable(slot);
        }
    }

    /// Asks epoll to report when the client's socket can take more; again, if it can now.
    pub(super) fn watch_writable(&mut self, slot: u32) {
        if let Some(unwritten) = self.clients[slot as usize].state.unwritten() {
            unwritten.watched = true;
        }
        self.watch(slot, EpollFlags::EPOLLOUT);
    }

    /// READABLE always (end of file: the client has left), WRITABLE only where asked for: a socket registered for it wakes
    /// the shard each time nginx drains it.
    pub(super) fn watch(&mut self, slot: u32, also: EpollFlags) {
        let client = &self.clients[slot as usize];
        let key = ClientKey { slot, generation: client.generation };
        let mut event = EpollEvent::new(WATCHED | also, key.to_bits());
        if self.epoll.modify(&client.fd, &mut event).is_err() {
            self.ended.push(slot);
        }
    }

    fn remove_ended(&mut self) {
        while let Some(slot) = self.ended.pop() {
            let Some(client) = self.clients.try_remove(slot as usize) else { continue };
            if client.state.is_catching_up() {
                self.hub.set_behind(client.group, false);
            }
            if let Some(moved) = self.hub.leave(client.group, client.place, Uptime::now()) {
                self.clients[moved as usize].place = client.place;
            }
            self.metrics.left.add(1);
            if let Some(info) = &client.info {
                tracing::debug!(subject = info.subject, address = info.address, "a client ended");
            }
        }
        if self.clients.is_empty()
            && let Some((spread, _)) = self.draining.take()
        {
            // Dropping the sender reports that all are gone; nobody waits for clients that come later.
            self.draining = Some((spread, oneshot::channel().0));
        }
    }
}
