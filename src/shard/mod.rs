//! One thread with a hub of its own and the clients that it serves. Nothing in it is locked or shared but events.
//!
//! Invariants:
//! - Only a shard writes to its clients' sockets, and only in `writer`, `gzip_stream` and `drain`.
//! - Each turn ends with no batch unsent, unless `stream.coalesce` keeps it back: then nothing else is done to clients before
//!   it is sent (`flush`). So joins, replays and leaves find no batch unsent.
//! - A stream's socket is registered for READABLE only, unless the client is behind.

mod client;
mod drain;
mod handle;
mod poll;
mod queue;
mod runner;
mod snapshot;
mod wheel;
mod writer;
mod gzip_stream;

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher},
    io, mem,
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use nix::{
    errno::Errno,
    sys::{
        epoll::{Epoll, EpollEvent, EpollFlags},
        socket::{MsgFlags, recv},
    },
};
use slab::Slab;
use tokio::sync::oneshot;

pub use self::{
    client::Joining,
    handle::{Hold, ShardHandle},
    poll::PollReply,
    queue::{Op, Queue},
    runner::{Parts, ServeConnection, run},
};
use self::{
    client::{Behind, Client, ClientKey, Entering, Poll},
    gzip_stream::GzipState,
    wheel::{Tick, Wheel},
    writer::{Joined, Ping, WATCHED},
};
use crate::{
    broker::{Delivery, Dispatcher, ShardQuery},
    client_limit::ClientLimit,
    clock::{Uptime, unix_micros},
    config::Config,
    cursor::Position,
    event::Coding,
    gzip::Deflater,
    hub::{ChannelId, Hole, Hub, Kind, Reader},
    metrics::Metrics,
    name::ChannelName,
    snapshot::Transfer,
    sse,
    stream::Stream,
};

/// Most bytes of events that are gathered before they are sent: about what a socket takes.
const BYTES_A_FLUSH: usize = 128 << 10;
/// A client that is behind and takes nothing for so long is closed (nginx's `send_timeout` is as long); it can resume.
const TO_TAKE: Duration = Duration::from_secs(60);
/// Most reads of what a client sends after its request, before it is closed: it has nothing to say.
const READS_A_CLIENT: usize = 4;

/// See the module.
pub struct Shard {
    number: usize,
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    client_limit: Arc<ClientLimit>,
    dispatcher: Arc<Dispatcher>,
    hub: Hub,
    clients: Slab<Client>,
    generation: u32,
    /// Clients to be removed at the end of the turn, some perhaps twice.
    ended: Vec<u32>,
    epoll: Epoll,
    wheel: Wheel<ClientKey>,
    joined: Joined,
    /// Bytes of events in batches that have not been sent.
    unsent_bytes: usize,
    deflater: Deflater,
    /// Requests that wait for a channel's subscription.
    waiting: HashMap<ChannelId, Vec<oneshot::Sender<bool>>>,
    /// Set once clients are sent away; later ones are as well.
    draining: Option<(Duration, oneshot::Sender<()>)>,
    /// Clients closed since they took nothing, that were not logged yet.
    stalled: u64,
    /// Gaps told that were not logged yet.
    unlogged_gaps: u64,
}

/// What a turn leaves to the shard's loop.
#[derive(Default)]
struct Turned {
    accepted: Vec<Stream>,
    settle: Option<oneshot::Sender<()>>,
    freeze: Option<oneshot::Sender<Transfer>>,
    thaw: bool,
}

impl Shard {
    /// Does what the queue holds, in order, and sends what is due. `ops` is left empty.
    fn turn(&mut self, ops: &mut Vec<Op>) -> Turned {
        let mut turned = Turned::default();
        let now = Uptime::now();
        for op in ops.drain(..) {
            if let Op::Deliver(Delivery::Publish(event, receipt)) = op {
                self.unsent_bytes += event.weight();
                let clients = self.hub.publish(&event, now);
                if let Some((receipt, index)) = receipt {
                    receipt.count(index, clients);
                }
                if self.unsent_bytes >= BYTES_A_FLUSH {
                    self.flush();
                }
                continue;
            }
            // These touch no client; and each publish by way of Redis asks.
            if !matches!(op, Op::Deliver(Delivery::Query(_)) | Op::Accept(_)) {
                self.flush();
            }
            match op {
                Op::Deliver(delivery) => self.take(delivery),
                Op::Accept(stream) => turned.accepted.push(stream),
                Op::Drain(spread, gone) => self.drain(spread, gone),
                Op::Settle(wanted) => turned.settle = Some(wanted),
                Op::Freeze(wanted) => turned.freeze = Some(wanted),
                Op::Thaw => {
                    // It came before the shard stood still.
                    (turned.settle, turned.freeze) = (None, None);
                    turned.thaw = true;
                }
                Op::Stop => self.stop(),
            }
        }
        if self.config.stream.coalesce.is_zero() || turned.freeze.is_some() {
            self.flush();
        }
        turned
    }

    /// Does what the dispatcher delivers beside events.
    fn take(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Publish(..) => {}
            Delivery::Confirmed(name, since) => self.open(&name, since),
            Delivery::Reconnected(names, hole) => self.restore(&names, hole),
            Delivery::Refused(name, _) => self.refuse(&name),
            Delivery::Advance(position) => self.hub.advance(position),
            Delivery::Unsubscribed(name) => self.hub.set_unsubscribed(&name),
            Delivery::Query(query) => self.answer(query),
        }
    }

    fn answer(&self, query: ShardQuery) {
        match query {
            ShardQuery::Subscribers { names, receipt } => {
                for (name, index) in names.iter().zip(0..) {
                    receipt.count(index, self.hub.subscribers_of(name));
                }
            }
            ShardQuery::Channels(answer) => {
                let counts = self.hub.subscribers().map(|(name, count)| (name.clone(), count)).collect();
                let _ = answer.send(counts); // Nobody may be waiting any more.
            }
            ShardQuery::ChannelHashes(answer) => {
                let hash =
                    |(name, _): (&ChannelName, u32)| BuildHasherDefault::<DefaultHasher>::default().hash_one(name);
                let _ = answer.send(self.hub.subscribers().map(hash).collect());
            }
        }
    }

    fn open(&mut self, name: &ChannelName, since: Option<Position>) {
        self.hub.confirm(name, since);
        if let Some(id) = self.hub.id(name) {
            self.answer_waiting(id, true);
        }
    }

    /// No source delivers the channel. Its clients are closed: they come back, and get a 403 that says why.
    fn refuse(&mut self, name: &ChannelName) {
        let Some(id) = self.hub.id(name) else { return };
        self.hub.set_wanted(id, false);
        self.answer_waiting(id, false);
        for slot in self.hub.clients_of(id) {
            self.close_with_retry(slot, self.config.drain.spread);
        }
        self.hub.set_unsubscribed(name);
        self.remove_ended();
    }

    fn answer_waiting(&mut self, id: ChannelId, open: bool) {
        for waiting in self.waiting.remove(&id).unwrap_or_default() {
            let _ = waiting.send(open); // It may have given up.
        }
    }

    /// Tells those who are connected that they may have missed something while a source was away.
    fn restore(&mut self, names: &[ChannelName], hole: Hole) {
        let before = Position(hole.end.0 - 1);
        let mut told = Vec::new();
        for name in names {
            for &group in self.hub.restore(name, hole) {
                told.push(group);
            }
        }
        told.sort_unstable();
        told.dedup();
        for group in told {
            for slot in self.hub.clients(group).to_vec() {
                if self.clients[slot as usize].behind.is_none() {
                    self.set_behind(slot, Reader::live(before), Bytes::new());
                    self.serve(slot);
                }
            }
        }
        self.remove_ended();
    }

    /// Takes over a connection whose request was accepted; `channels` are held.
    fn attach(&mut self, fd: OwnedFd, joining: Joining, channels: &[ChannelId]) {
        self.flush();
        let reader = self.hub.reader(joining.start, unix_micros());
        let stream = &self.config.stream;
        let lifetime = match (&joining.reply, stream.max_lifetime) {
            (Some(_), _) => Some(stream.ping_interval),
            // 80 to 100 % of it, so that clients that came together don't end together.
            (None, Some(lifetime)) => Some(lifetime.mul_f64(0.8 + 0.2 * fastrand::f64())),
            (None, None) => None,
        };
        let (partial, poll, gzip) = match joining.reply {
            Some(reply) => (Bytes::new(), Some(Box::new(Poll { head: joining.head, reply })), None),
            None => {
                let preamble = sse::encode_open(stream.retry.pick(), &self.hub.cursor_at(reader.cursor));
                let (gzip, preamble) = match joining.kind {
                    Kind::Stream(_, Coding::Gzip) => {
                        let (gzip, preamble) = GzipState::begin(&preamble);
                        (Some(Box::new(gzip)), preamble.into())
                    }
                    _ => (None, preamble),
                };
                ([&joining.head[..], &preamble].concat().into(), None, gzip)
            }
        };
        let behind = Behind { reader, partial, watched: false, ends: false };
        let admitted = self.admit(Entering {
            fd,
            channels: channels.to_vec(),
            kind: joining.kind,
            expires_in: lifetime.map(|lifetime| self.wheel.ticks(lifetime)),
            silent: 0,
            behind: Some(Box::new(behind)),
            poll,
            gzip,
            permit: joining.permit,
        });
        match (admitted, &self.draining) {
            (Ok(slot), None) => self.serve(slot),
            (Ok(slot), &Some((spread, _))) => {
                self.serve(slot);
                self.close_with_retry(slot, spread);
            }
            (Err(error), _) => tracing::error!(%error, "a client was closed: its socket can't be watched"),
        }
        self.remove_ended();
    }

    /// Makes a connection a client. Writes nothing to it: `serve` does.
    ///
    /// # Errors
    /// Its socket can't be watched.
    fn admit(&mut self, entering: Entering) -> io::Result<u32> {
        let Entering { fd, channels, kind, expires_in, silent, behind, poll, gzip, permit } = entering;
        self.generation = self.generation.wrapping_add(1);
        let (generation, now) = (self.generation, self.wheel.now());
        let entry = self.clients.vacant_entry();
        let slot = u32::try_from(entry.key()).unwrap_or(u32::MAX);
        let key = ClientKey { slot, generation };
        self.epoll.add(&fd, EpollEvent::new(WATCHED, key.to_bits()))?;
        let (group, place) = self.hub.join(channels, kind, slot);
        if behind.is_some() {
            self.hub.set_behind(group, true);
        }
        let expires = expires_in.map_or(Tick::MAX, |ticks| now.saturating_add(ticks));
        let written = if behind.is_some() { now } else { now.saturating_sub(silent) };
        let ping_at = written.saturating_add(self.wheel.ticks(self.config.stream.ping_interval));
        entry.insert(Client { fd, generation, group, place, written, expires, behind, poll, gzip, _permit: permit });
        self.metrics.joined.add(1);
        self.wheel.put(key, expires.min(ping_at));
        Ok(slot)
    }

    /// Removes the clients that have ended.
    fn remove_ended(&mut self) {
        while let Some(slot) = self.ended.pop() {
            let Some(client) = self.clients.try_remove(slot as usize) else { continue };
            if client.behind.is_some() {
                self.hub.set_behind(client.group, false);
            }
            if let Some(moved) = self.hub.leave(client.group, client.place, Uptime::now()) {
                self.clients[moved as usize].place = client.place;
            }
            self.metrics.left.add(1);
        }
        if self.clients.is_empty()
            && let Some((spread, _)) = self.draining.take()
        {
            // Dropping the sender tells that all are gone; whoever comes after has nobody to wait for it.
            self.draining = Some((spread, oneshot::channel().0));
        }
    }

    /// What epoll says of a client.
    fn on_event(&mut self, event: EpollEvent) {
        let key = ClientKey::from_bits(event.data());
        if self.clients.get(key.slot as usize).is_none_or(|client| client.generation != key.generation) {
            return; // It ended earlier in this turn.
        }
        let flags = event.events();
        if flags.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP | EpollFlags::EPOLLRDHUP) {
            self.ended.push(key.slot);
            return;
        }
        if flags.contains(EpollFlags::EPOLLIN) && self.has_left(key.slot) {
            self.ended.push(key.slot);
            return;
        }
        if flags.contains(EpollFlags::EPOLLOUT) {
            self.serve(key.slot);
        }
    }

    /// Reads and drops what a client sends; true if it has closed its side, or sends without end.
    fn has_left(&mut self, slot: u32) -> bool {
        let fd = self.clients[slot as usize].fd.as_raw_fd();
        let mut dropped = [0; 4096];
        for _ in 0..READS_A_CLIENT {
            match recv(fd, &mut dropped, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(Errno::EAGAIN | Errno::EINTR) => return false,
                Err(_) => return true,
            }
        }
        true
    }

    /// One tick of the wheel: pings, ends of streams, answers of polls.
    fn tick(&mut self) {
        self.flush();
        let interval = self.wheel.ticks(self.config.stream.ping_interval);
        let patience = self.wheel.ticks(TO_TAKE);
        let ping = Ping::new(sse::encode_ping(&self.hub.cursor_at(self.hub.last())));
        for key in self.wheel.advance() {
            let (slot, now) = (key.slot, self.wheel.now());
            let Some(client) = self.clients.get(slot as usize) else { continue };
            if client.generation != key.generation {
                continue;
            }
            let waits = client.poll.is_some();
            let over = client.expires <= now;
            let silent = client.behind.is_none() && client.written.saturating_add(interval) <= now;
            let stalled = client.behind.is_some() && client.written.saturating_add(patience) <= now;
            if waits && over {
                self.answer_empty(slot);
            } else if !waits && (over || stalled) {
                self.stalled += u64::from(stalled);
                self.end(slot);
                continue;
            } else if !waits && silent {
                self.ping(slot, &ping);
            }
            let client = &self.clients[slot as usize];
            let due = if client.behind.is_some() { now } else { client.written }.saturating_add(interval);
            self.wheel.put(key, due.min(client.expires).max(now + 1));
        }
        self.remove_ended();
    }

    /// Answers a poll to which nothing came.
    fn answer_empty(&mut self, slot: u32) {
        if self.clients[slot as usize].behind.is_none() {
            let reader = Reader::live(self.hub.last());
            self.set_behind(slot, reader, Bytes::new());
        }
        self.prepare_answer(slot, true);
        self.serve(slot);
    }

    /// Every second: lets go what nobody listens to, and logs what was told.
    fn every_second(&mut self) {
        self.flush(); // From histories that still have all of it.
        self.hub.trim(Uptime::now()); // Of what came otherwise than by a publish: from another process.
        for name in self.hub.sweep(Uptime::now()) {
            self.dispatcher.release(self.number, &name);
        }
        let stalled = mem::take(&mut self.stalled);
        if stalled > 0 {
            tracing::info!(
                clients = stalled,
                "closed: they took nothing for {TO_TAKE:?}; they resume when they come back"
            );
        }
        let gaps = mem::take(&mut self.unlogged_gaps);
        if gaps > 0 {
            tracing::warn!(gaps, "clients were told that they may have missed events; each gap event says why");
        }
    }
}
