//! A shard's table of clients, with the epoll that watches their sockets and the wheel that says when to look at them. It
//! decides nothing about a client.
//!
//! Invariants:
//! - A client that is in the table is in its group of the hub, watched by epoll, and in one slot of the wheel.
//! - A client's socket is watched for WRITABLE only while the client has unwritten bytes or is behind.
//! - A client that has ended stays in the table until [`Clients::remove_ended`].

use std::{
    io,
    ops::{Index, IndexMut},
    os::fd::OwnedFd,
    time::Duration,
};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use slab::Slab;

use super::{
    client::{Client, ClientKey, Entering},
    wheel::{Tick, Wheel},
};
use crate::{clock::Uptime, hub::Hub, index};

/// What every client's socket is watched for.
const WATCHED: EpollFlags = EpollFlags::EPOLLIN.union(EpollFlags::EPOLLRDHUP).union(EpollFlags::EPOLLET);

/// A shard's clients.
pub(super) struct Clients {
    /// By slot.
    slab: Slab<Client>,
    /// The number of the client that joined last.
    generation: u32,
    /// Slots of clients that have ended. A slot may stand here twice.
    ended: Vec<u32>,
    epoll: Epoll,
    /// When to look at each client again.
    wheel: Wheel<ClientKey>,
    /// Ticks of silence after which a stream is pinged.
    ping_after: u32,
}

impl Clients {
    /// A table without clients. `ping_interval`: after this time of silence a timer looks at a client.
    ///
    /// # Errors
    /// The system has no epoll descriptor left.
    pub(super) fn new(ping_interval: Duration) -> io::Result<Self> {
        let wheel = Wheel::new(ping_interval);
        Ok(Self {
            slab: Slab::new(),
            generation: 0,
            ended: Vec::new(),
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            ping_after: wheel.ticks(ping_interval),
            wheel,
        })
    }

    /// Adds a client, and writes nothing to it. Returns its slot.
    ///
    /// # Errors
    /// The socket can't be watched with epoll.
    pub(super) fn add(&mut self, entering: Entering, hub: &mut Hub) -> io::Result<u32> {
        let slot = index::to_u32(self.slab.vacant_key());
        self.generation = self.generation.wrapping_add(1);
        let key = ClientKey { slot, generation: self.generation };
        self.epoll.add(&entering.fd, EpollEvent::new(WATCHED, key.to_bits()))?;
        self.slab.insert(Client::join(entering, key, self.wheel.now(), hub));
        self.look_again(key);
        Ok(slot)
    }

    /// The client ends at the next [`Clients::remove_ended`].
    #[inline]
    pub(super) fn end(&mut self, slot: u32) {
        self.ended.push(slot);
    }

    /// The same for all clients.
    pub(super) fn end_all(&mut self) {
        self.ended = self.slots();
    }

    /// Removes the clients that have ended, also from the hub. Returns how many.
    pub(super) fn remove_ended(&mut self, hub: &mut Hub) -> u64 {
        let mut removed = 0;
        while let Some(slot) = self.ended.pop() {
            let Some(client) = self.slab.try_remove(slot as usize) else { continue };
            if client.state().is_catching_up() {
                hub.set_behind(client.group(), false);
            }
            if let Some(moved) = hub.leave(client.group(), client.place(), Uptime::now()) {
                self[moved].set_place(client.place());
            }
            removed += 1;
            if let Some(identity) = client.identity() {
                tracing::debug!(subject = identity.subject, "a client ended");
            }
        }
        removed
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    /// The client in `slot`, if there is one.
    pub(super) fn get(&self, slot: u32) -> Option<&Client> {
        self.slab.get(slot as usize)
    }

    /// The client with this key, unless it has ended and was removed.
    pub(super) fn with_key(&self, key: ClientKey) -> Option<&Client> {
        self.get(key.slot).filter(|client| client.generation() == key.generation)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Client> {
        self.slab.iter().map(|(_, client)| client)
    }

    /// The slots of all clients.
    pub(super) fn slots(&self) -> Vec<u32> {
        self.slab.iter().map(|(slot, _)| index::to_u32(slot)).collect()
    }

    /// Asks epoll to report when the client's socket can take more, unless epoll was asked already.
    pub(super) fn watch_writable_once(&mut self, slot: u32) {
        if self[slot].unwritten().is_some_and(|unwritten| !unwritten.watched) {
            self.watch_writable(slot);
        }
    }

    /// Asks epoll to report when the client's socket can take more. If it can now, epoll reports that too.
    pub(super) fn watch_writable(&mut self, slot: u32) {
        if let Some(unwritten) = self[slot].unwritten() {
            unwritten.watched = true;
        }
        self.watch(slot, EpollFlags::EPOLLOUT);
    }

    /// Asks epoll to report no longer when the client's socket can take more.
    pub(super) fn unwatch_writable(&mut self, slot: u32) {
        self.watch(slot, EpollFlags::empty());
    }

    /// Watches a client's socket for READABLE, which reports that the client has left, and for `also`. WRITABLE is not watched
    /// always: it would wake the shard each time nginx reads from the socket.
    fn watch(&mut self, slot: u32, also: EpollFlags) {
        let client = &self.slab[slot as usize];
        let key = ClientKey { slot, generation: client.generation() };
        let mut event = EpollEvent::new(WATCHED | also, key.to_bits());
        if self.epoll.modify(client, &mut event).is_err() {
            self.end(slot);
        }
    }

    /// Fills `events` with what epoll reports now. Returns how many there are.
    ///
    /// # Errors
    /// Epoll fails.
    pub(super) fn events(&self, events: &mut [EpollEvent]) -> io::Result<usize> {
        Ok(self.epoll.wait(events, EpollTimeout::ZERO)?)
    }

    /// A second descriptor of the epoll. It is readable while epoll has something to report.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub(super) fn clone_epoll(&self) -> io::Result<OwnedFd> {
        self.epoll.0.try_clone()
    }

    /// The current tick.
    #[inline]
    pub(super) fn now(&self) -> Tick {
        self.wheel.now()
    }

    /// The length of a tick.
    pub(super) fn tick(&self) -> Duration {
        self.wheel.tick()
    }

    /// `duration` in ticks, at least one.
    pub(super) fn ticks(&self, duration: Duration) -> u32 {
        self.wheel.ticks(duration)
    }

    /// Ticks of silence after which a stream is pinged.
    pub(super) fn ping_after(&self) -> u32 {
        self.ping_after
    }

    /// Moves on by one tick. Returns the clients to look at; [`Clients::look_again`] follows for each that goes on.
    pub(super) fn advance(&mut self) -> Vec<ClientKey> {
        self.wheel.advance()
    }

    /// Puts the client into the wheel for the next time at which it needs something.
    pub(super) fn look_again(&mut self, key: ClientKey) {
        let due = self[key.slot].due(self.wheel.now(), self.ping_after);
        self.wheel.put(key, due);
    }
}

impl Index<u32> for Clients {
    type Output = Client;

    #[inline]
    fn index(&self, slot: u32) -> &Client {
        &self.slab[slot as usize]
    }
}

impl IndexMut<u32> for Clients {
    #[inline]
    fn index_mut(&mut self, slot: u32) -> &mut Client {
        &mut self.slab[slot as usize]
    }
}
