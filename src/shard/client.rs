//! What a shard remembers of a client: as little as it can, since there are many.

use std::os::fd::OwnedFd;

use bytes::Bytes;

use super::{gzip_stream::GzipState, poll::PollReply, wheel::Tick};
use crate::{
    client_limit::ClientPermit,
    cursor::Start,
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
}

/// A connection on its way to be a client.
pub(super) struct Entering {
    pub(super) fd: OwnedFd,
    pub(super) channels: Vec<ChannelId>,
    pub(super) kind: Kind,
    /// Ticks until it ends by itself.
    pub(super) expires_in: Option<Tick>,
    /// Ticks since something was written to it.
    pub(super) silent: Tick,
    pub(super) behind: Option<Box<Behind>>,
    pub(super) poll: Option<Box<Poll>>,
    pub(super) gzip: Option<Box<GzipState>>,
    pub(super) permit: ClientPermit,
}

/// An open stream or poll.
pub(super) struct Client {
    pub(super) fd: OwnedFd,
    pub(super) generation: u32,
    pub(super) group: GroupId,
    /// Its place among the group's clients.
    pub(super) place: u32,
    /// When something was last written to it.
    pub(super) written: Tick,
    /// When it ends by itself.
    pub(super) expires: Tick,
    /// Where it stands if it does not have everything. A box, since it is the exception.
    pub(super) behind: Option<Box<Behind>>,
    /// A poll's answer, until it is given.
    pub(super) poll: Option<Box<Poll>>,
    /// Of a gzip stream.
    pub(super) gzip: Option<Box<GzipState>>,
    /// Given back when the client ends.
    pub(super) _permit: ClientPermit,
}

/// Where a client stands that does not have everything.
pub(super) struct Behind {
    /// What it has, or has in `partial`.
    pub(super) reader: Reader,
    /// Bytes that have to go out first: the rest of a frame, or a head.
    pub(super) partial: Bytes,
    /// Whether epoll was asked to tell when the socket can take more.
    pub(super) watched: bool,
    /// Whether the client ends once `partial` is out.
    pub(super) ends: bool,
}

/// A poll that waits for something to be due.
pub(super) struct Poll {
    pub(super) head: Bytes,
    pub(super) reply: PollReply,
}
