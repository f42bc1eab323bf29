//! Why the body of a publish is refused, for the person who sent it. It checks nothing.

use crate::name::{ChannelError, ChannelName, EventTypeError};

/// Why a request to publish is refused.
#[derive(Debug, thiserror::Error)]
pub(in crate::admin) enum BodyError {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error(
        "nothing can be published on channel {0}, since no client may subscribe to it: names that begin with __ or ssecast: \
         are reserved for Redis's and ssecast's own messages; use another name"
    )]
    Reserved(ChannelName),
    #[error(transparent)]
    EventType(#[from] EventTypeError),
    #[error("{0} is missing: a publish needs channel and message")]
    Missing(&'static str),
    #[error("{0}")]
    UnknownField(String),
    #[error(
        "the JSON can't be read: {0}; a publish is an object with channel, message and, if you like, event and key"
    )]
    Json(serde_json::Error),
    #[error("message {index} of the request: {cause}")]
    At { index: usize, cause: Box<BodyError> },
    #[error("durable must be true or false: whether a journal keeps the message, where one is configured")]
    NotDurable,
    #[error("{0} is not UTF-8, and event streams know no other text: encode what is binary, for instance as base64")]
    NotUtf8(&'static str),
    #[error("a message has {given} bytes; at most {allowed} are allowed (publish.max_message)")]
    TooLong { given: usize, allowed: usize },
    #[error(
        "the events of the request have more than {0} bytes together, the most that is allowed (16 times publish.max_message; \
         an event counts 64 bytes beside its message)"
    )]
    TooMuch(usize),
}

impl BodyError {
    /// The error's `code` for programs.
    pub(in crate::admin) fn code(&self) -> &'static str {
        match self {
            Self::Channel(_) => "bad_channel",
            Self::Reserved(_) => "reserved_channel",
            Self::EventType(_) => "bad_event_type",
            Self::Missing(_) => "missing_field",
            Self::UnknownField(_) => "unknown_field",
            Self::Json(_) => "bad_json",
            Self::At { cause, .. } => cause.code(),
            Self::NotDurable => "bad_durable",
            Self::NotUtf8(_) => "not_utf8",
            Self::TooLong { .. } | Self::TooMuch(_) => "too_long",
        }
    }

    /// Whether there is too much of what is otherwise valid.
    pub(in crate::admin) fn is_too_large(&self) -> bool {
        match self {
            Self::TooLong { .. } | Self::TooMuch(_) => true,
            Self::At { cause, .. } => cause.is_too_large(),
            _ => false,
        }
    }
}
