//! The states of a client, each with what only that state needs. They change nothing by themselves.

use bytes::Bytes;

use super::poll::PollReply;
use crate::hub::Reader;

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
    /// A stream that is behind: it lacks events, and is served from the histories. Or one that has read more of a journal elsewhere
    /// than this node has read yet.
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
    /// How far the client has read: its cursor is before everything that the answer is to have.
    pub(super) reader: Reader,
}

/// How far a stream that is behind has read.
pub(super) struct CatchingUp {
    /// Its cursor is the last event of which the client has a part or all; the rest of that event is in `unwritten`.
    pub(super) reader: Reader,
    /// Bytes to be written before anything else: the rest of a frame, or a response head.
    pub(super) unwritten: Unwritten,
    /// Whether the client has everything that is due, and stands in the shard's list of clients that are ahead.
    pub(super) ahead: bool,
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
        Self::Other(Box::new(OtherState::CatchingUp(CatchingUp { reader, unwritten, ahead: false })))
    }

    /// A client that ends when `bytes` are written.
    pub(super) fn closing(bytes: Bytes, watched: bool) -> Self {
        Self::Other(Box::new(OtherState::Closing(Unwritten { bytes, watched })))
    }

    #[inline]
    pub(super) fn is_live(&self) -> bool {
        matches!(self, Self::Live)
    }

    /// Whether the client is ahead and was written everything due, so that it is pinged like a live one.
    pub(super) fn is_ahead(&self) -> bool {
        self.as_catching_up().is_some_and(|it| it.ahead && it.unwritten.bytes.is_empty())
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

    /// How far the client has read, unless it is live or closing.
    pub(super) fn reader(&self) -> Option<&Reader> {
        let catching_up = self.as_catching_up().map(|catching_up| &catching_up.reader);
        catching_up.or_else(|| self.as_waiting().map(|poll| &poll.reader))
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
const _: () = assert!(size_of::<ClientState>() == 8);
