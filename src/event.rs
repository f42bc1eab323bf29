//! What is published: a message on a channel, and the event it becomes once it has a position.
//!
//! Nothing here reads a socket or a clock.

use std::sync::OnceLock;

use bytes::Bytes;

use crate::{
    cursor::{NodeId, Position},
    gzip::{Deflater, Piece},
    name::{ChannelName, EventType},
    sse,
};

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

/// What an event costs beside its fields, in bytes: its place in a history, and what the allocator adds to its buffers.
const OVERHEAD: usize = 96;

/// A message with its position, encoded. All clients share its bytes.
#[derive(Debug)]
pub struct Event {
    position: Position,
    channel: ChannelName,
    plain: Bytes,
    /// Made when the first client asks for it: few installations use both forms.
    envelope: OnceLock<Bytes>,
    /// Both forms as gzip clients get them.
    pieces: OnceLock<Box<[Piece; 2]>>,
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

    /// Its bytes for a gzip client that has just been given `before` whole and nothing after that; for any client where that is
    /// `None`.
    pub fn piece(&self, form: Form, before: Option<&Self>, deflater: &mut Deflater) -> &Bytes {
        let piece = &self.pieces.get_or_init(Box::default)[form as usize];
        let before = before.map(|event| (event.position.0, &event.frame(form)[..]));
        piece.bytes(self.frame(form), before, deflater)
    }

    /// What it takes of memory, in bytes, with the other forms of its frame that were made by now.
    #[must_use]
    pub fn weight(&self) -> usize {
        let envelope = self.envelope.get().map_or(0, Bytes::len);
        let pieces = self
            .pieces
            .get()
            .map_or(0, |pieces| size_of_val(&**pieces) + pieces.iter().map(Piece::weight).sum::<usize>());
        self.plain.len() + envelope + pieces + self.channel.as_str().len() + size_of::<Self>() + OVERHEAD
    }
}
