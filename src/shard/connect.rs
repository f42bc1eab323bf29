//! Makes connections clients, and handles what epoll reports about them. It sends no events.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use bytes::Bytes;
use nix::{
    errno::Errno,
    sys::{
        epoll::{EpollEvent, EpollFlags, EpollTimeout},
        socket::{MsgFlags, recv},
    },
};

use super::{
    client::{Client, ClientKey, ClientState, Entering, Joining, Poll},
    core::{Flushed, Shard, WATCHED},
    frames::begin_gzip,
};
use crate::{
    clock::{Uptime, unix_micros},
    cursor::Position,
    event::Coding,
    hub::{ChannelId, Kind, Subscription},
    index, sse,
};

/// Most epoll events that are handled in one turn of the loop.
const EVENTS_A_TURN: usize = 256;
/// A client that sends more after its request than this many reads take is closed: a client has nothing to send.
const READS_A_CLIENT: usize = 4;

impl Flushed<'_> {
    /// Makes a connection a client, writes its response head and what follows its cursor. `channels` are held.
    pub(super) fn attach(&mut self, fd: OwnedFd, joining: Joining, channels: &[ChannelId]) {
        let Joining { kind, start, head, reply, permit, info, .. } = joining;
        let reader = self.hub.reader(start, channels, unix_micros(), Uptime::now());
        let stream = &self.config.stream;
        let lifetime = match (reply, stream.max_lifetime) {
            (Some(_), _) => Some(stream.ping_interval),
            // 80 to 100 % of the lifetime, so that clients that joined together don't end together.
            (None, Some(lifetime)) => Some(lifetime.mul_f64(0.8 + 0.2 * fastrand::f64())),
            (None, None) => None,
        };
        let expires_in = lifetime.map(|lifetime| self.wheel.ticks(lifetime));
        let state = match reply {
            Some(reply) => ClientState::waiting(Poll { head, reply }),
            None => {
                let open = sse::encode_open(stream.retry.pick(), &self.hub.cursor_at(reader.cursor));
                let open = if matches!(kind, Kind::Stream(_, Coding::Gzip)) { begin_gzip(&open) } else { open };
                let begin: Bytes = [&head[..], &open].concat().into();
                ClientState::catching_up(reader.clone(), begin)
            }
        };
        let entering = Entering { fd, channels: channels.to_vec(), kind, expires_in, silent: 0, state, info, permit };
        let slot = match self.admit(entering) {
            Ok(slot) => slot,
            Err(error) => return tracing::error!(%error, "a client was closed: its socket can't be watched"),
        };
        self.answer_poll(slot, &reader, false);
        self.serve(slot);
        // A channel that was refused after the request had been accepted never gets its events here.
        let confirmed =
            |&id: &ChannelId| !self.hub.is_on_demand(id) || self.hub.subscription(id).0 == Subscription::Confirmed;
        let refused = !channels.iter().all(confirmed);
        if let Some(spread) = self.draining_spread() {
            self.close_with_retry(slot, spread);
        } else if refused {
            self.close_with_retry(slot, self.config.drain.spread);
        }
    }

    /// Handles what epoll reports. True if there may be more.
    pub(super) fn on_events(&mut self) -> io::Result<bool> {
        let mut events = [EpollEvent::empty(); EVENTS_A_TURN];
        let n = self.epoll.wait(&mut events, EpollTimeout::ZERO)?;
        for event in &events[..n] {
            self.on_event(*event);
        }
        Ok(n == EVENTS_A_TURN)
    }

    /// Handles what epoll reports about one client.
    fn on_event(&mut self, event: EpollEvent) {
        let key = ClientKey::from_bits(event.data());
        if self.clients.get(key.slot as usize).is_none_or(|client| client.generation != key.generation) {
            return; // The client ended earlier in this turn.
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

    /// Reads and drops what a client has sent. True if the client has closed its side, or sends too much.
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
}

impl Shard {
    /// Makes a connection a client, and writes nothing to it. Returns the client's slot.
    ///
    /// # Errors
    /// The socket can't be watched with epoll.
    pub(super) fn admit(&mut self, entering: Entering) -> io::Result<u32> {
        let Entering { fd, channels, kind, expires_in, silent, state, info, permit } = entering;
        let now = self.wheel.now();
        let slot = index::to_u32(self.clients.vacant_key());
        let key = self.new_key(slot);
        self.epoll.add(&fd, EpollEvent::new(WATCHED, key.to_bits()))?;
        let (group, place) = self.hub.join(channels, kind, slot);
        debug_assert!(self.hub.is_batch_empty(group), "a client joins a group only while the group's batch is empty");
        if state.is_catching_up() {
            self.hub.set_behind(group, true);
        }
        let expires = expires_in.map(|ticks| now.after(ticks));
        let written = if state.is_live() { now.before(silent) } else { now };
        let ping_at = written.after(self.wheel.ticks(self.config.stream.ping_interval));
        self.clients.insert(Client {
            fd,
            generation: key.generation,
            group,
            place,
            written,
            expires,
            state,
            gzip_before: Position(0),
            info,
            _permit: permit,
        });
        self.metrics.joined.add(1);
        self.wheel.put(key, expires.map_or(ping_at, |expires| expires.earlier(ping_at)));
        Ok(slot)
    }
}
