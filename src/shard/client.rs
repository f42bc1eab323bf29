//! A client's data and states. There are many clients, so it is small. It writes to no socket.

use std::os::fd::OwnedFd;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{poll::PollReply, wheel::Tick};
use crate::{
    client_limit::ClientPermit,
    cursor::{Position, Start},
    hub::{ChannelId, GroupId, Kind, Reader},
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
    /// Who the client is, if that is known.
    pub info: Option<Box<ClientInfo>>,
}

/// Who a client is. Most have none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClientInfo {
    /// The client's identity, as the authorizer says.
    pub subject: Option<String>,
    /// The client's address, as nginx says.
    pub address: Option<String>,
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
    pub(super) info: Option<Box<ClientInfo>>,
    pub(super) permit: ClientPermit,
}

/// An open stream or poll.
pub(super) struct Client {
    pub(super) fd: OwnedFd,
    pub(super) generation: u32,
    pub(super) group: GroupId,
    /// The client's place in its group.
    pub(super) place: u32,
    /// When something was last written to the client, or when it stopped being live if that was later.
    pub(super) written: Tick,
    /// When the client's lifetime is over; `None`: no limit.
    pub(super) expires: Option<Tick>,
    pub(super) state: ClientState,
    /// For gzip streams: the position of the event that was written last. 0 if something else was written after it.
    pub(super) gzip_before: Position,
    pub(super) info: Option<Box<ClientInfo>>,
    /// Dropped when the client ends.
    pub(super) _permit: ClientPermit,
}

/// The state of a client. Most clients are live; their state is a null pointer.
pub(super) enum ClientState {
    /// A stream that has every event up to the hub's last position, except those in its group's batch.
    Live,
    /// Any other state.
    Other(Box<OtherState>),
}

/// A state that few clients have.
pub(super) enum OtherState {
    /// A poll that has every event and waits for the next one.
    Waiting(Poll),
    /// A stream that is behind: it lacks events, and is served from the histories.
    CatchingUp(CatchingUp),
    /// A stream or poll that ends when these bytes are written.
    Closing(Unwritten),
}

/// What is needed to answer a poll.
pub(super) struct Poll {
    /// The response head, without `Content-Length` and the blank line.
    pub(super) head: Bytes,
    /// The form of the answer.
    pub(super) reply: PollReply,
}

/// How far a stream that is behind has read.
pub(super) struct CatchingUp {
    /// Its cursor is the last event of which the client has a part or all; the rest of that event is in `unwritten`.
    pub(super) reader: Reader,
    /// Bytes to be written before anything else: the rest of a frame, or a response head.
    pub(super) unwritten: Unwritten,
}

/// Bytes that a socket has not taken yet.
#[derive(Default)]
pub(super) struct Unwritten {
    pub(super) bytes: Bytes,
    /// Whether epoll was asked to report when the socket takes more.
    pub(super) watched: bool,
}

impl ClientState {
    pub(super) fn waiting(poll: Poll) -> Self {
        Self::Other(Box::new(OtherState::Waiting(poll)))
    }

    /// A stream that is at `reader`'s cursor when `bytes` are written.
    pub(super) fn catching_up(reader: Reader, bytes: Bytes) -> Self {
        let unwritten = Unwritten { bytes, watched: false };
        Self::Other(Box::new(OtherState::CatchingUp(CatchingUp { reader, unwritten })))
    }

    /// A client that ends when `bytes` are written.
    pub(super) fn closing(bytes: Bytes, watched: bool) -> Self {
        Self::Other(Box::new(OtherState::Closing(Unwritten { bytes, watched })))
    }

    #[inline]
    pub(super) fn is_live(&self) -> bool {
        matches!(self, Self::Live)
    }

    pub(super) fn is_catching_up(&self) -> bool {
        self.as_catching_up().is_some()
    }

    pub(super) fn as_catching_up(&self) -> Option<&CatchingUp> {
        match self {
            Self::Other(other) => match &**other {
                OtherState::CatchingUp(catching_up) => Some(catching_up),
                OtherState::Waiting(_) | OtherState::Closing(_) => None,
            },
            Self::Live => None,
        }
    }

    pub(super) fn as_waiting(&self) -> Option<&Poll> {
        match self {
            Self::Other(other) => match &**other {
                OtherState::Waiting(poll) => Some(poll),
                OtherState::CatchingUp(_) | OtherState::Closing(_) => None,
            },
            Self::Live => None,
        }
    }

    /// The bytes that the client's socket has not taken yet, in the states that have such bytes.
    pub(super) fn unwritten(&mut self) -> Option<&mut Unwritten> {
        match self {
            Self::Other(other) => match &mut **other {
                OtherState::CatchingUp(catching_up) => Some(&mut catching_up.unwritten),
                OtherState::Closing(unwritten) => Some(unwritten),
                OtherState::Waiting(_) => None,
            },
            Self::Live => None,
        }
    }
}

// There are many clients: more bytes here need a reason.
const _: () = assert!(size_of::<Client>() <= 56 && size_of::<ClientState>() == 8);
