//! Collects the messages of a request, and counts them while they are parsed. It parses none.
//!
//! Invariant: what a batch holds is never more than the limit, however much the body would give. So parsing stops there.

use bytes::Bytes;

use super::{Request, Shape, error::BodyError};
use crate::{
    event::Message,
    name::{ChannelName, EventType},
};

/// Longest request, as a multiple of the longest message.
const MESSAGES_A_REQUEST: usize = 16;
/// Estimated size of an event beside its message, in bytes.
const EVENT_BYTES: usize = 64;

/// How much one request may publish.
#[derive(Debug, Clone, Copy)]
pub(in crate::admin) struct Limits {
    max_message: usize,
}

impl Limits {
    /// Those for messages of at most `max_message` bytes (`publish.max_message`).
    pub(in crate::admin) fn new(max_message: usize) -> Self {
        Self { max_message }
    }

    /// Longest body of a request, in bytes; also the most bytes of all its events together.
    pub(in crate::admin) fn longest_body(self) -> usize {
        self.max_message.saturating_mul(MESSAGES_A_REQUEST)
    }

    /// Checks the number of events that a message is for, before the message is known.
    ///
    /// # Errors
    /// [`BodyError::TooMuch`], whatever their message is.
    pub(super) fn check_events(self, count: usize) -> Result<(), BodyError> {
        match count.saturating_mul(EVENT_BYTES) > self.longest_body() {
            true => Err(BodyError::TooMuch(self.longest_body())),
            false => Ok(()),
        }
    }
}

/// The messages of a request so far.
#[derive(Debug)]
pub(super) struct Batch {
    messages: Vec<Message>,
    limits: Limits,
    /// Bytes that are left of the limit.
    left: usize,
}

impl Batch {
    /// An empty one.
    pub(super) fn new(limits: Limits) -> Self {
        Self { messages: Vec::new(), limits, left: limits.longest_body() }
    }

    /// Adds a message. One on several channels is added, and counted, once for each. `durable`: whether a journal is to keep it.
    ///
    /// # Errors
    /// The message is too long, or all of them together are too much.
    pub(super) fn push(
        &mut self,
        channel: ChannelName,
        event: Option<EventType>,
        data: Bytes,
        durable: bool,
    ) -> Result<(), BodyError> {
        let Limits { max_message: allowed } = self.limits;
        if data.len() > allowed {
            return Err(BodyError::TooLong { given: data.len(), allowed });
        }
        let left = self.left.checked_sub(data.len() + EVENT_BYTES);
        self.left = left.ok_or_else(|| BodyError::TooMuch(self.limits.longest_body()))?;
        self.messages.push(Message { durable, ..Message::new(channel, event, data) });
        Ok(())
    }

    /// The request with these messages.
    pub(super) fn into_request(self, key: Option<Vec<u8>>, shape: Shape) -> Request {
        Request { messages: self.messages, key, shape }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_holds_no_more_than_the_limit() {
        let limits = Limits::new(100);
        let mut batch = Batch::new(limits);
        let mut push = |bytes: usize| batch.push(ChannelName::new("a").unwrap(), None, vec![b'x'; bytes].into(), true);
        assert!(matches!(push(101), Err(BodyError::TooLong { given: 101, allowed: 100 })));
        // 1600 / (100 + 64) = 9.75
        (0..9).for_each(|_| push(100).unwrap());
        assert!(matches!(push(100), Err(BodyError::TooMuch(1600))));
        assert_eq!(batch.messages.len(), 9);
        assert!(limits.check_events(25).is_ok() && limits.check_events(26).is_err());
    }
}
