//! What a shard remembers of a client: as little as it can, since there are many. It writes to nobody.

use std::os::fd::OwnedFd;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{poll::PollReply, wheel::Tick};
use crate::{
    client_limit::ClientPermit,
    cursor::{Position, Start},
    hub::{ChannelId, GroupId, Kind, Reader},
};

/// A client's slot, and which of the slot's successive clients it is.
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

/// A request that has been accepted, on its way to a shard.
#[derive(Debug)]
pub struct Joining {
    /// Stream or poll.
    pub kind: Kind,
    /// From where.
    pub start: Start,
    /// The response head up to and with the blank line; of a poll, without `Content-Length` and blank line.
    pub head: Bytes,
    /// How a poll is answered; `None` for a stream.
    pub reply: Option<PollReply>,
    /// Its right to be a client (`stream.max_clients`).
    pub permit: ClientPermit,
    /// Who it is, if that is known.
    pub info: Option<Box<ClientInfo>>,
}

/// Who a client is. Most have none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClientInfo {
    /// Its identity, as the authorizer gives it.
    pub subject: Option<String>,
    /// Its address, as nginx gives it.
    pub address: Option<String>,
}

/// A connection on its way to be a client.
pub(super) struct Entering {
    pub(super) fd: OwnedFd,
    pub(super) channels: Vec<ChannelId>,
    pub(super) kind: Kind,
    /// Ticks until it ends by itself.
    pub(super) expires_in: Option<u32>,
    /// Ticks since something was written to it.
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
    /// Its place among the group's clients.
    pub(super) place: u32,
    /// When something was last written to it; of one that is not live, or when that began.
    pub(super) written: Tick,
    /// When it ends by itself.
    pub(super) expires: Option<Tick>,
    pub(super) state: ClientState,
    /// Of a gzip stream: the event that was written last, if nothing was written after it. Else 0.
    pub(super) gzip_before: Position,
    pub(super) info: Option<Box<ClientInfo>>,
    /// Given back when the client ends.
    pub(super) _permit: ClientPermit,
}

/// The state of a client. Most are live, and then it is a null pointer.
pub(super) enum ClientState {
    /// A stream that has everything up to the hub's last position that is in no batch.
    Live,
    /// Any other state.
    Other(Box<OtherState>),
}

/// The states of few clients.
pub(super) enum OtherState {
    /// A poll that has everything, and waits for something to be due.
    Waiting(Poll),
    /// A stream that does not have everything: it is served from the histories.
    CatchingUp(CatchingUp),
    /// A stream or poll that ends once these bytes are written.
    Closing(Unwritten),
}

/// A poll that is not answered.
pub(super) struct Poll {
    pub(super) head: Bytes,
    pub(super) reply: PollReply,
}

/// How far a client is that does not have everything.
pub(super) struct CatchingUp {
    /// What it has, or has in `unwritten`.
    pub(super) reader: Reader,
    /// What goes out first: the rest of a frame, or a head.
    pub(super) unwritten: Unwritten,
}

/// Bytes that a socket did not take yet.
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

    /// A stream that has what `reader` has once `bytes` are written.
    pub(super) fn catching_up(reader: Reader, bytes: Bytes) -> Self {
        let unwritten = Unwritten { bytes, watched: false };
        Self::Other(Box::new(OtherState::CatchingUp(CatchingUp { reader, unwritten })))
    }

    /// A client that ends once `bytes` are written.
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

    /// What the client's socket did not take yet.
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

// Clients are many: what all of them have is weighed.
const _: () = assert!(size_of::<Client>() <= 56 && size_of::<ClientState>() == 8);
