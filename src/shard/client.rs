//! A client: its socket, state and times. There are many clients, so it is small. It knows no other client.
//!
//! Invariants:
//! - [`Client::set_state`] alone changes the state, and reports to the hub whether the client is behind. So the hub knows how many
//!   clients of a channel are behind.
//! - Whatever writes to the client notes the time, so that pings and the limit for stalled clients are right.

use std::{
    io::IoSlice,
    mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use bytes::{Buf, Bytes};

use super::{
    poll::PollReply,
    socket::{self, Sent, send_now, send_slices_now},
    state::{CatchingUp, ClientState, OtherState, Poll, Unwritten},
    wheel::Tick,
};
use crate::{
    access::Identity,
    client_limit::ClientPermit,
    cursor::{Position, Start},
    hub::{ChannelId, GroupId, Hub, Kind},
};

/// A client's slot and generation. Slots are reused, generations are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ClientKey {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

impl ClientKey {
    pub(super) fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the halves of the 64 bits are taken apart")]
    pub(super) fn from_bits(bits: u64) -> Self {
        Self { slot: bits as u32, generation: (bits >> 32) as u32 }
    }
}

/// A request that was accepted and is to become a client of a shard.
#[derive(Debug)]
pub struct Joining {
    /// Stream or poll.
    pub kind: Kind,
    /// Where the client begins to read.
    pub start: Start,
    /// The response head. A stream's ends with the blank line; a poll's lacks `Content-Length` and the blank line.
    pub head: Bytes,
    /// The form of a poll's answer; `None` for a stream.
    pub reply: Option<PollReply>,
    /// The client's permit (`stream.max_clients`).
    pub permit: ClientPermit,
    /// Who the client is, if the authorizer has said so.
    pub identity: Option<Box<Identity>>,
}

/// A connection that is to become a client.
pub(super) struct Entering {
    pub(super) fd: OwnedFd,
    pub(super) channels: Vec<ChannelId>,
    pub(super) kind: Kind,
    /// Ticks until the client's lifetime is over; `None`: no limit.
    pub(super) expires_in: Option<u32>,
    /// Ticks since something was written to the client.
    pub(super) silent: u32,
    pub(super) state: ClientState,
    pub(super) identity: Option<Box<Identity>>,
    pub(super) permit: ClientPermit,
}

/// An open stream or poll.
pub(super) struct Client {
    fd: OwnedFd,
    generation: u32,
    group: GroupId,
    /// The client's place in its group.
    place: u32,
    /// When something was last written to the client, or when it stopped being live if that was later.
    written: Tick,
    /// When the client's lifetime is over; `None`: no limit.
    expires: Option<Tick>,
    state: ClientState,
    /// For gzip streams: the position of the event that was written last. 0 if something else was written after it.
    gzip_before: Position,
    /// Most clients have none.
    identity: Option<Box<Identity>>,
    /// Dropped when the client ends.
    _permit: ClientPermit,
}

// There are many clients: more bytes here need a reason.
const _: () = assert!(size_of::<Client>() <= 56);

impl Client {
    /// A client in `slot` that joins its group. Its channels exist, and the group's batch is empty.
    pub(super) fn join(entering: Entering, key: ClientKey, now: Tick, hub: &mut Hub) -> Self {
        let Entering { fd, channels, kind, expires_in, silent, state, identity, permit } = entering;
        let (group, place) = hub.join(channels, kind, key.slot);
        debug_assert!(hub.is_batch_empty(group), "a client joins a group only while the group's batch is empty");
        if state.is_catching_up() {
            hub.set_behind(group, true);
        }
        Self {
            fd,
            generation: key.generation,
            group,
            place,
            written: if state.is_live() { now.before(silent) } else { now },
            expires: expires_in.map(|ticks| now.after(ticks)),
            state,
            gzip_before: Position(0),
            identity,
            _permit: permit,
        }
    }

    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    /// Its key, where it stands in `slot`.
    pub(super) fn key(&self, slot: u32) -> ClientKey {
        ClientKey { slot, generation: self.generation }
    }

    pub(super) fn group(&self) -> GroupId {
        self.group
    }

    /// The client's place in its group.
    pub(super) fn place(&self) -> u32 {
        self.place
    }

    /// The hub has moved the client to another place in its group.
    pub(super) fn set_place(&mut self, place: u32) {
        self.place = place;
    }

    pub(super) fn identity(&self) -> Option<&Identity> {
        self.identity.as_deref()
    }

    pub(super) fn state(&self) -> &ClientState {
        &self.state
    }

    #[inline]
    pub(super) fn is_live(&self) -> bool {
        self.state.is_live()
    }

    /// Changes the client's state. Returns the state before.
    pub(super) fn set_state(&mut self, state: ClientState, now: Tick, hub: &mut Hub) -> ClientState {
        let (before, after) = (self.state.is_catching_up(), state.is_catching_up());
        if before != after {
            hub.set_behind(self.group, after);
        }
        if !state.is_live() {
            self.written = now; // Its time to take something begins (`timers::STALL_LIMIT`).
        }
        mem::replace(&mut self.state, state)
    }

    /// How far the client has read, if it is catching up.
    pub(super) fn catching_up(&mut self) -> Option<&mut CatchingUp> {
        match &mut self.state {
            ClientState::Other(other) => match &mut **other {
                OtherState::CatchingUp(catching_up) => Some(catching_up),
                OtherState::Waiting(_) | OtherState::Closing(_) => None,
            },
            ClientState::Live => None,
        }
    }

    /// What is needed to answer it, if it is a poll that waits.
    pub(super) fn waiting(&mut self) -> Option<&mut Poll> {
        match &mut self.state {
            ClientState::Other(other) => match &mut **other {
                OtherState::Waiting(poll) => Some(poll),
                OtherState::CatchingUp(_) | OtherState::Closing(_) => None,
            },
            ClientState::Live => None,
        }
    }

    /// The bytes that the client's socket has not taken yet, in the states that have such bytes.
    pub(super) fn unwritten(&mut self) -> Option<&mut Unwritten> {
        self.state.unwritten()
    }

    /// Writes what the socket takes of `bytes`.
    #[inline]
    pub(super) fn send(&mut self, bytes: &[u8], now: Tick) -> Sent {
        let sent = send_now(&self.fd, bytes);
        self.note(sent, now)
    }

    /// Writes what the socket takes of several slices.
    pub(super) fn send_slices(&mut self, slices: &[IoSlice<'_>], now: Tick) -> Sent {
        let sent = send_slices_now(&self.fd, slices);
        self.note(sent, now)
    }

    /// Writes what the socket takes of the unwritten bytes, and keeps the rest.
    pub(super) fn send_unwritten(&mut self, now: Tick) -> Sent {
        let Some(unwritten) = self.state.unwritten().filter(|unwritten| !unwritten.bytes.is_empty()) else {
            return Sent::All;
        };
        let sent = send_now(&self.fd, &unwritten.bytes);
        match sent {
            Sent::All => unwritten.bytes = Bytes::new(),
            Sent::Part(n) => unwritten.bytes.advance(n),
            Sent::Full | Sent::Retry | Sent::Gone => {}
        }
        self.note(sent, now)
    }

    #[inline]
    fn note(&mut self, sent: Sent, now: Tick) -> Sent {
        if matches!(sent, Sent::All | Sent::Part(_)) {
            self.written = now;
        }
        sent
    }

    /// Whether the client has closed its side, or sends too much. What it has sent is dropped.
    pub(super) fn has_left(&self) -> bool {
        socket::has_left(&self.fd)
    }

    /// For gzip streams: the position of the event that was written last. 0 if something else was written after it.
    #[inline]
    pub(super) fn gzip_before(&self) -> Position {
        self.gzip_before
    }

    #[inline]
    pub(super) fn set_gzip_before(&mut self, position: Position) {
        self.gzip_before = position;
    }

    /// Whether the client's lifetime is over.
    pub(super) fn has_expired(&self, now: Tick) -> bool {
        self.expires.is_some_and(|expires| expires.has_come(now))
    }

    /// Ticks until the client's lifetime is over; `None`: no limit.
    pub(super) fn expires_in(&self, now: Tick) -> Option<u32> {
        self.expires.map(|expires| expires.since(now))
    }

    /// Ends the limit of the client's lifetime: it is being closed.
    pub(super) fn set_never_expires(&mut self) {
        self.expires = None;
    }

    /// Ticks since something was written to the client.
    pub(super) fn silent_for(&self, now: Tick) -> u32 {
        now.since(self.written)
    }

    /// When a timer must look at the client again, if streams are pinged after `ping_after` ticks of silence.
    pub(super) fn due(&self, now: Tick, ping_after: u32) -> Tick {
        let since = if self.is_live() { self.written } else { now };
        let due = since.after(ping_after);
        self.expires.map_or(due, |expires| due.earlier(expires))
    }

    /// For snapshots: the socket, which stays the client's.
    pub(super) fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
