//! What is published: a message on a channel, and the event it becomes once it has a position.
//!
//! Names and types are checked here, where they enter; what holds one of these types needs no further check.
//! Nothing here reads a socket or a clock.

use std::{
    borrow::Borrow,
    fmt,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;

use crate::{
    cursor::NodeId,
    gzip::{Deflater, Piece, Span},
    sse,
};

/// Longest channel name, in bytes. It bounds what one request can make ssecast remember.
pub const MAX_CHANNEL_BYTES: usize = 255;
/// Longest event type, in bytes.
pub const MAX_EVENT_TYPE_BYTES: usize = 255;

/// The name of a channel: 1 to 255 bytes of UTF-8 without control characters, commas (they separate names in a query) or
/// the pattern characters `*`, `?`, `[`, `]` and `\`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelName(Arc<str>);

/// Why a channel name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// The name had no characters.
    #[error("a channel name is empty")]
    Empty,
    /// The name was longer than [`MAX_CHANNEL_BYTES`].
    #[error("a channel name has {0} bytes; at most {MAX_CHANNEL_BYTES} are allowed")]
    TooLong(usize),
    /// The name was not UTF-8.
    #[error("a channel name is not UTF-8")]
    NotUtf8,
    /// The name had a character that names can't have.
    #[error("channel name {name:?} has {found:?}; control characters, commas and * ? [ ] \\ are not allowed")]
    Forbidden {
        /// The name as received.
        name: String,
        /// The first character that is not allowed.
        found: char,
    },
}

impl ChannelName {
    /// Checks `name`.
    ///
    /// # Errors
    /// [`ChannelError`] says which rule the name breaks.
    pub fn new(name: &str) -> Result<Self, ChannelError> {
        if name.is_empty() {
            return Err(ChannelError::Empty);
        }
        if name.len() > MAX_CHANNEL_BYTES {
            return Err(ChannelError::TooLong(name.len()));
        }
        if let Some(found) = name.chars().find(|c| c.is_control() || matches!(c, ',' | '*' | '?' | '[' | ']' | '\\')) {
            return Err(ChannelError::Forbidden { name: name.to_owned(), found });
        }
        Ok(Self(name.into()))
    }

    /// Checks `name`, which came in as bytes.
    ///
    /// # Errors
    /// As [`ChannelName::new`], and [`ChannelError::NotUtf8`].
    pub fn from_bytes(name: &[u8]) -> Result<Self, ChannelError> {
        Self::new(std::str::from_utf8(name).map_err(|_| ChannelError::NotUtf8)?)
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Borrow<str> for ChannelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for ChannelName {
    type Err = ChannelError;

    fn from_str(name: &str) -> Result<Self, ChannelError> {
        Self::new(name)
    }
}

/// An event's type, the `event:` field: what `addEventListener` is given in a browser. 1 to 255 bytes without CR, LF or NUL.
/// Types that begin with `ssecast.` are ssecast's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventType(Arc<str>);

/// Why an event type was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventTypeError {
    /// The type had no characters, or more than [`MAX_EVENT_TYPE_BYTES`] bytes.
    #[error("an event type has {0} bytes; 1 to {MAX_EVENT_TYPE_BYTES} are allowed")]
    Length(usize),
    /// CR, LF or NUL, with which a publisher could write fields of its own into the stream.
    #[error("event type {0:?} has a line break or a NUL")]
    Control(String),
    /// A type of ssecast's own.
    #[error("event type {0:?} is ssecast's own: types that begin with \"ssecast.\" can't be published")]
    Reserved(String),
    /// The type was not UTF-8.
    #[error("an event type is not UTF-8")]
    NotUtf8,
}

impl EventType {
    /// Checks `name`.
    ///
    /// # Errors
    /// [`EventTypeError`] says which rule the type breaks.
    pub fn new(name: &str) -> Result<Self, EventTypeError> {
        if name.is_empty() || name.len() > MAX_EVENT_TYPE_BYTES {
            return Err(EventTypeError::Length(name.len()));
        }
        if name.contains(['\r', '\n', '\0']) {
            return Err(EventTypeError::Control(name.to_owned()));
        }
        if name.starts_with("ssecast.") {
            return Err(EventTypeError::Reserved(name.to_owned()));
        }
        Ok(Self(name.into()))
    }

    /// The type.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a publisher sent: not yet an event, since it has no position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where it goes.
    pub channel: ChannelName,
    /// Its type; `None` is what a browser shows as `message`.
    pub event: Option<EventType>,
    /// The payload, any bytes.
    pub data: Bytes,
}

/// Where an event stands among all that this node has passed on: strictly growing, and the time of its passing in
/// microseconds since 1970 (or one more than the position before, where the clock had not moved on).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Position(pub u64);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a client wants its events written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Form {
    /// `data:` is the message.
    #[default]
    Plain,
    /// `data:` is a JSON object with `channel` and `data`.
    Envelope,
}

/// How a stream's bytes are coded on their way (RFC 9110, 8.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Coding {
    /// As they are.
    #[default]
    Identity,
    /// Compressed.
    Gzip,
}

/// What an event costs beside itself, in bytes: its place in a history and a share of the history.
const OVERHEAD: usize = 128;

/// A message with its position, encoded. All clients share its bytes.
#[derive(Debug)]
pub struct Event {
    position: Position,
    channel: ChannelName,
    plain: Bytes,
    /// Made when the first client asks for it: few installations use both forms.
    envelope: OnceLock<Bytes>,
    /// Both forms as gzip clients get them.
    pieces: OnceLock<Box<[OnceLock<Piece>; 2]>>,
}

impl Event {
    /// Encodes `message` as the event at `position` of `node`.
    #[must_use]
    pub fn new(node: &NodeId, position: Position, message: &Message) -> Self {
        let plain = sse::encode_event(node, position, message.event.as_ref(), &message.data);
        Self::from_frame(position, message.channel.clone(), plain)
    }

    /// An event from the frame that [`Event::frame`] gave for [`Form::Plain`] (by another process).
    #[must_use]
    pub fn from_frame(position: Position, channel: ChannelName, plain: Bytes) -> Self {
        Self { position, channel, plain, envelope: OnceLock::new(), pieces: OnceLock::new() }
    }

    /// Where it stands.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// Its channel.
    #[must_use]
    pub fn channel(&self) -> &ChannelName {
        &self.channel
    }

    /// Its bytes on the wire, `id:` line to blank line.
    #[must_use]
    pub fn frame(&self, form: Form) -> &Bytes {
        match form {
            Form::Plain => &self.plain,
            Form::Envelope => self.envelope.get_or_init(|| sse::wrap_in_envelope(&self.channel, &self.plain)),
        }
    }

    /// The frame's span, and its bytes for a gzip client that has just been given `before` whole and nothing after that; for
    /// any client where that is `None`.
    pub fn piece(&self, form: Form, before: Option<&Self>, deflater: &mut Deflater) -> (&Span, &Bytes) {
        let pieces = self.pieces.get_or_init(Box::default);
        let piece = pieces[form as usize].get_or_init(|| Piece::of(self.frame(form)));
        let before = before.map(|event| (event.position.0, &event.frame(form)[..]));
        (&piece.span, piece.bytes(self.frame(form), before, deflater))
    }

    /// What it holds of memory, in bytes: its frame and what describes it. What clients of other forms make it hold as well
    /// is not counted: they may come and go while it is kept.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.plain.len() + size_of::<Self>() + OVERHEAD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_refused_with_the_rule_they_break() {
        assert_eq!(ChannelName::new(""), Err(ChannelError::Empty));
        assert_eq!(ChannelName::new(&"x".repeat(256)), Err(ChannelError::TooLong(256)));
        assert_eq!(ChannelName::from_bytes(b"\xff"), Err(ChannelError::NotUtf8));
        for bad in ["a,b", "a*", "a\nb", "a?", "[a]", "a\\", "a\0"] {
            assert!(matches!(ChannelName::new(bad), Err(ChannelError::Forbidden { .. })), "{bad:?}");
        }
        for good in ["cats", "user:42", "news/2024", "größe", "a b", "a.b-c_d"] {
            assert_eq!(ChannelName::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn event_types_cannot_write_fields_of_their_own() {
        for bad in ["a\nid: 7", "a\rb", "a\0"] {
            assert!(matches!(EventType::new(bad), Err(EventTypeError::Control(_))), "{bad:?}");
        }
        assert_eq!(EventType::new(""), Err(EventTypeError::Length(0)));
        assert!(matches!(EventType::new("ssecast.gap"), Err(EventTypeError::Reserved(_))));
        assert_eq!(EventType::new("price").unwrap().as_str(), "price");
    }
}
