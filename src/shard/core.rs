//! The shard: its data, and the changes of a client that several files of this folder need. It writes to no socket.
//!
//! Invariants:
//! - Each part of the shard keeps its own invariants ([`Clients`], [`Hub`], [`Encoder`], [`Counts`]); its fields are private.
//! - A client joins, ends or is served from the histories only while its group's batch is empty. Otherwise an event of the batch
//!   would reach the client twice, or never. The type [`Flushed`] keeps this: it is a shard whose batches are all empty, only
//!   [`Shard::flush`] makes one, and whatever touches clients is one of its methods. While [`super::flush`] sends batches, it
//!   serves only clients of the group whose batch it has taken.

use std::{
    collections::HashMap,
    io,
    ops::{Deref, DerefMut},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::sync::oneshot;

use super::{
    ahead::Ahead, client::Entering, clients::Clients, counts::Counts, frames::Encoder, parts::Parts, state::ClientState,
};
use crate::{
    broker::Dispatcher,
    client_limit::{ClientLimit, ClientPermit},
    config::Config,
    hub::{ChannelId, Hub},
    name::ChannelName,
};

/// A thread's hub and clients. It shares only events, counters and the dispatcher with other threads.
pub(super) struct Shard {
    /// Its number among the process's shards, from 0.
    number: usize,
    config: Arc<Config>,
    client_limit: Arc<ClientLimit>,
    dispatcher: Arc<Dispatcher>,
    pub(super) hub: Hub,
    pub(super) clients: Clients,
    pub(super) encoder: Encoder,
    pub(super) counts: Counts,
    pub(super) ahead: Ahead,
    /// Requests that wait until a channel is confirmed (true) or refused (false).
    waiting: HashMap<ChannelId, Vec<oneshot::Sender<bool>>>,
    /// Set once all clients are to be closed, also those that join later: the time within which they are to reconnect, and a
    /// sender that is dropped when no client is left.
    draining: Option<(Duration, Rc<oneshot::Sender<()>>)>,
}

/// A shard whose batches are all sent. When this is dropped, clients that have ended are removed.
pub(super) struct Flushed<'a>(&'a mut Shard);

impl<'a> Flushed<'a> {
    /// Only for [`Shard::flush`], after it has sent all batches.
    pub(super) fn new(shard: &'a mut Shard) -> Self {
        assert_eq!(shard.hub.unsent_bytes(), 0, "batches are sent before clients are touched");
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
        let Parts { number, config, metrics, client_limit, dispatcher, cursor, on_demand, journals_only, .. } = parts;
        let hub = Hub::new(cursor, config.history.clone(), on_demand).with_rules(config.channel_rules());
        Ok(Self {
            number,
            hub: if journals_only { hub.with_journals_only() } else { hub },
            clients: Clients::new(config.stream.ping_interval)?,
            encoder: Encoder::default(),
            counts: Counts::new(metrics),
            ahead: Ahead::default(),
            config,
            client_limit,
            dispatcher,
            waiting: HashMap::new(),
            draining: None,
        })
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// A permit for a client of the predecessor, which is served even over the limit.
    pub(super) fn permit_over_limit(&self) -> ClientPermit {
        self.client_limit.acquire_over_limit()
    }

    /// Subscribes the shard to a channel. The answer comes by the queue.
    pub(super) fn subscribe(&self, name: &ChannelName) {
        self.dispatcher.subscribe(self.number, name);
    }

    /// Ends the shard's subscription to a channel.
    pub(super) fn unsubscribe(&self, name: &ChannelName) {
        self.dispatcher.release(self.number, name);
    }

    /// Resolves when the shard has passed everything that is published by now.
    pub(super) fn passed(&self) -> oneshot::Receiver<()> {
        self.dispatcher.passed(self.number)
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
    pub(super) fn begin_draining(&mut self, spread: Duration, gone: Rc<oneshot::Sender<()>>) {
        self.draining = Some((spread, gone));
    }

    /// If clients that join are to be closed: the time within which they are to reconnect.
    pub(super) fn draining_spread(&self) -> Option<Duration> {
        self.draining.as_ref().map(|(spread, _)| *spread)
    }

    /// Makes a connection a client, and writes nothing to it. Returns the client's slot.
    ///
    /// # Errors
    /// The socket can't be watched with epoll.
    pub(super) fn admit(&mut self, entering: Entering) -> io::Result<u32> {
        let slot = self.clients.add(entering, &mut self.hub)?;
        self.counts.joined();
        Ok(slot)
    }

    /// Changes a client's state. Returns the state before.
    pub(super) fn set_state(&mut self, slot: u32, state: ClientState) -> ClientState {
        let now = self.clients.now();
        self.clients[slot].set_state(state, now, &mut self.hub)
    }

    fn remove_ended(&mut self) {
        self.counts.left(self.clients.remove_ended(&mut self.hub));
        if self.clients.is_empty()
            && let Some((spread, _)) = self.draining.take()
        {
            // Dropping the sender reports that no client is left. Nothing waits for clients that join later.
            self.draining = Some((spread, Rc::new(oneshot::channel().0)));
        }
    }
}
