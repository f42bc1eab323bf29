//! The shard: its data, and the changes of a client that several files of this folder need. It writes to no socket.
//!
//! Invariants:
//! - The state of a client changes in [`Shard::set_state`] only. So the hub knows how many clients of a channel are behind.
//! - A client's socket is watched for WRITABLE only while the client has unwritten bytes or is behind.
//! - A client joins, ends or is served from the histories only while its group's batch is empty. Otherwise an event of the batch
//!   would reach the client twice, or never. The type [`Flushed`] keeps this: it is a shard whose batches are all empty, only
//!   [`Shard::flush`] makes one, and whatever touches clients is one of its methods. While [`super::writer`] flushes, it serves
//!   only clients of the group whose batch it has taken.

use std::{
    collections::HashMap,
    io, mem,
    ops::{Deref, DerefMut},
    sync::Arc,
    time::Duration,
};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use slab::Slab;
use tokio::sync::oneshot;

use super::{
    client::{Client, ClientKey, ClientState},
    frames::Joined,
    parts::Parts,
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

/// A thread's hub and clients. It shares only events, counters and the dispatcher with other threads.
pub(super) struct Shard {
    /// Its number among the process's shards, from 0.
    pub(super) number: usize,
    pub(super) config: Arc<Config>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) client_limit: Arc<ClientLimit>,
    pub(super) dispatcher: Arc<Dispatcher>,
    pub(super) hub: Hub,
    /// By slot.
    pub(super) clients: Slab<Client>,
    /// The number of the client that joined last.
    generation: u32,
    /// Slots of clients that have ended. They are removed when the [`Flushed`] is dropped. A slot may stand here twice.
    pub(super) ended: Vec<u32>,
    pub(super) epoll: Epoll,
    /// When to look at each client again.
    pub(super) wheel: Wheel<ClientKey>,
    /// The batch that was sent last, as bytes.
    pub(super) joined: Joined,
    /// Bytes of the events that were published since the last flush.
    pub(super) unsent_bytes: usize,
    pub(super) deflater: Deflater,
    /// Requests that wait until a channel is confirmed (true) or refused (false).
    waiting: HashMap<ChannelId, Vec<oneshot::Sender<bool>>>,
    /// Set once all clients are to be closed, also those that join later: the time within which they are to reconnect, and a
    /// sender that is dropped when no client is left.
    draining: Option<(Duration, oneshot::Sender<()>)>,
    /// What is logged once a second.
    pub(super) unlogged: Unlogged,
}

/// Counts what is logged once a second, so that one cause does not fill the log.
#[derive(Default)]
pub(super) struct Unlogged {
    /// Clients that were closed because they took no data.
    stalled: u64,
    /// Gap events that were sent.
    gaps: u64,
}

impl Unlogged {
    /// Counts a client that was closed because it took no data.
    pub(super) fn count_stalled(&mut self) {
        self.stalled += 1;
    }

    /// Counts gap events, also in the metrics.
    pub(super) fn count_gaps(&mut self, gaps: u64, metrics: &Metrics) {
        metrics.gaps.add(gaps);
        self.gaps += gaps;
    }

    /// Returns the numbers of stalled clients and of gap events, and begins again at 0.
    pub(super) fn take(&mut self) -> (u64, u64) {
        let Self { stalled, gaps } = mem::take(self);
        (stalled, gaps)
    }
}

/// A shard whose batches are all sent. When this is dropped, clients that have ended are removed.
pub(super) struct Flushed<'a>(&'a mut Shard);

impl<'a> Flushed<'a> {
    /// Only for [`Shard::flush`], after it has sent all batches.
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
    /// A shard without clients.
    ///
    /// # Errors
    /// The system has no epoll descriptor left.
    pub(super) fn new(parts: Parts) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let Parts { number, config, metrics, client_limit, dispatcher, cursor, on_demand, .. } = parts;
        Ok(Self {
            number,
            hub: Hub::new(cursor, config.history.clone(), on_demand),
            wheel: Wheel::new(config.stream.ping_interval),
            config,
            metrics,
            client_limit,
            dispatcher,
            clients: Slab::new(),
            generation: 0,
            ended: Vec::new(),
            epoll,
            joined: Joined::default(),
            unsent_bytes: 0,
            deflater: Deflater::default(),
            waiting: HashMap::new(),
            draining: None,
            unlogged: Unlogged::default(),
        })
    }

    /// The key of a new client in `slot`.
    pub(super) fn new_key(&mut self, slot: u32) -> ClientKey {
        self.generation = self.generation.wrapping_add(1);
        ClientKey { slot, generation: self.generation }
    }

    /// Lets a request wait until the channel is confirmed (true) or refused (false).
    pub(super) fn wait_for(&mut self, id: ChannelId) -> oneshot::Receiver<bool> {
        let (answer, answered) = oneshot::channel();
        self.waiting.entry(id).or_default().push(answer);
        answered
    }

    /// Answers the requests that wait for the channel.
    pub(super) fn answer_waiting(&mut self, id: ChannelId, confirmed: bool) {
        for waiting in self.waiting.remove(&id).unwrap_or_default() {
            let _ = waiting.send(confirmed); // The request may have ended.
        }
    }

    /// From now on clients that join are closed as well; they are to reconnect within `spread`. `gone` is dropped when no client
    /// is left.
    pub(super) fn begin_draining(&mut self, spread: Duration, gone: oneshot::Sender<()>) {
        self.draining = Some((spread, gone));
    }

    /// If clients that join are to be closed: the time within which they are to reconnect.
    pub(super) fn draining_spread(&self) -> Option<Duration> {
        self.draining.as_ref().map(|(spread, _)| *spread)
    }

    /// Changes a client's state. Returns the state before.
    pub(super) fn set_state(&mut self, slot: u32, state: ClientState) -> ClientState {
        let client = &mut self.clients[slot as usize];
        let (before, after) = (client.state.is_catching_up(), state.is_catching_up());
        if before != after {
            self.hub.set_behind(client.group, after);
        }
        if !state.is_live() {
            client.written = self.wheel.now(); // Its time to take something begins (`timers::TO_TAKE`).
        }
        mem::replace(&mut client.state, state)
    }

    /// The slots of all clients.
    pub(super) fn slots(&self) -> Vec<u32> {
        self.clients.iter().filter_map(|(slot, _)| u32::try_from(slot).ok()).collect()
    }

    /// Asks epoll to report when the client's socket can take more, unless epoll was asked already.
    pub(super) fn watch_writable_once(&mut self, slot: u32) {
        if self.clients[slot as usize].state.unwritten().is_some_and(|unwritten| !unwritten.watched) {
            self.watch_writable(slot);
        }
    }

    /// Asks epoll to report when the client's socket can take more. If it can now, epoll reports that too.
    pub(super) fn watch_writable(&mut self, slot: u32) {
        if let Some(unwritten) = self.clients[slot as usize].state.unwritten() {
            unwritten.watched = true;
        }
        self.watch(slot, EpollFlags::EPOLLOUT);
    }

    /// Watches a client's socket for READABLE, which reports that the client has left, and for `also`. WRITABLE is not watched
    /// always: it would wake the shard each time nginx reads from the socket.
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
            // Dropping the sender reports that no client is left. Nothing waits for clients that join later.
            self.draining = Some((spread, oneshot::channel().0));
        }
    }
}
