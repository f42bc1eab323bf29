//! Makes connections clients, and handles what epoll reports about them. It sends no events.

use std::{io, os::fd::OwnedFd};

use bytes::Bytes;
use nix::sys::epoll::{EpollEvent, EpollFlags};

use super::{
    client::{ClientKey, Entering, Joining},
    core::Flushed,
    frames::begin_gzip,
    state::{ClientState, Poll},
};
use crate::{
    clock::unix_micros,
    event::Coding,
    hub::{ChannelId, Kind, Subscription},
    sse,
};

/// Most epoll events that are handled in one turn of the loop.
const EVENTS_A_TURN: usize = 256;

impl Flushed<'_> {
    /// Makes a connection a client, writes its response head and what follows its cursor. `channels` are held.
    pub(super) fn attach(&mut self, fd: OwnedFd, joining: Joining, channels: &[ChannelId]) {
        let Joining { kind, start, head, reply, permit, identity, .. } = joining;
        let reader = self.hub.reader(start, unix_micros());
        let stream = &self.config().stream;
        let lifetime = match (reply, stream.max_lifetime) {
            (Some(_), _) => Some(stream.ping_interval),
            // 80 to 100 % of the lifetime, so that clients that joined together don't end together.
            (None, Some(lifetime)) => Some(lifetime.mul_f64(0.8 + 0.2 * fastrand::f64())),
            (None, None) => None,
        };
        let expires_in = lifetime.map(|lifetime| self.clients.ticks(lifetime));
        let state = match reply {
            Some(reply) => ClientState::waiting(Poll { head, reply, reader }),
            None => {
                let open = sse::encode_open(stream.retry.pick(), &reader.first_id(self.hub.node()));
                let open = if matches!(kind, Kind::Stream(_, Coding::Gzip)) { begin_gzip(&open) } else { open };
                let begin: Bytes = [&head[..], &open].concat().into();
                ClientState::catching_up(reader, begin)
            }
        };
        let entering =
            Entering { fd, channels: channels.to_vec(), kind, expires_in, silent: 0, state, identity, permit };
        let slot = match self.admit(entering) {
            Ok(slot) => slot,
            Err(error) => return tracing::error!(%error, "a client was closed: its socket can't be watched"),
        };
        self.answer_poll(slot, false);
        self.serve(slot);
        // A channel that was refused after the request had been accepted never gets its events here.
        let confirmed = |&id: &ChannelId| self.hub.subscription(id).0 == Subscription::Confirmed;
        let refused = !channels.iter().all(confirmed);
        if let Some(spread) = self.draining_spread() {
            self.close_with_retry(slot, spread);
        } else if refused {
            self.close_with_retry(slot, self.config().drain.spread);
        }
    }

    /// Handles what epoll reports. True if there may be more.
    pub(super) fn on_events(&mut self) -> io::Result<bool> {
        let mut events = [EpollEvent::empty(); EVENTS_A_TURN];
        let n = self.clients.events(&mut events)?;
        for event in &events[..n] {
            self.on_event(*event);
        }
        Ok(n == EVENTS_A_TURN)
    }

    /// Handles what epoll reports about one client.
    fn on_event(&mut self, event: EpollEvent) {
        let key = ClientKey::from_bits(event.data());
        let Some(client) = self.clients.with_key(key) else { return }; // The client ended earlier in this turn.
        let flags = event.events();
        if flags.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP | EpollFlags::EPOLLRDHUP)
            || flags.contains(EpollFlags::EPOLLIN) && client.has_left()
        {
            self.clients.end(key.slot);
            return;
        }
        if flags.contains(EpollFlags::EPOLLOUT) {
            self.serve(key.slot);
        }
    }
}
