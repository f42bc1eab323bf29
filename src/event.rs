//! A message, and the event that it becomes when it gets a position.
//!
//! Nothing here reads a socket or a clock.

use std::sync::OnceLock;

use bytes::Bytes;

use crate::{
    cursor::{Entries, Entry, NodeId, Position, journal_of},
    gzip::{Deflater, Piece},
    name::{ChannelName, EventType},
    sse,
};

/// What a publisher sent. It has no position yet.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message {
    /// The channel that it is published on.
    pub channel: ChannelName,
    /// Its type. `None` stands for a browser's `message`.
    pub event: Option<EventType>,
    /// The payload, any bytes.
    pub data: Bytes,
    /// The entry of a journal that it came from, if it came from one.
    pub(crate) entry: Option<Entry>,
    /// Whether a publish wants it kept by a journal where there is one. Sources don't look at it.
    pub durable: bool,
}

impl Message {
    /// A message for `channel`. `event`: its type; `None` stands for a browser's `message`. `data`: the payload, any bytes.
    #[must_use]
    pub fn new(channel: ChannelName, event: Option<EventType>, data: Bytes) -> Self {
        Self { channel, event, data, entry: None, durable: true }
    }

    /// The message as an entry of a journal.
    #[must_use]
    pub(crate) fn with_entry(self, entry: Entry) -> Self {
        Self { entry: Some(entry), ..self }
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

/// The content coding of a stream (RFC 9110, 8.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Coding {
    /// Not compressed.
    #[default]
    Identity,
    /// Compressed.
    Gzip,
}

/// Estimated memory of an event beside its fields, in bytes: its place in a history, and the allocator's overhead.
const OVERHEAD: usize = 96;

/// A message with its position, encoded. All clients share its bytes.
#[derive(Debug)]
pub struct Event {
    position: Position,
    channel: ChannelName,
    /// Whether it came from a journal: then its id says its own entry.
    journaled: bool,
    plain: Bytes,
    /// Encoded when the first client needs it, since few installations use both forms.
    envelope: OnceLock<Bytes>,
    /// Both forms, compressed.
    pieces: OnceLock<Box<[Piece; 2]>>,
}

impl Event {
    /// Encodes `message` as the event at `position` of `node`. `passed`: how far each journal has been passed, the message
    /// included.
    #[must_use]
    pub fn new(node: &NodeId, position: Position, passed: &Entries, message: &Message) -> Self {
        let plain = sse::encode_event(node, position, passed, message.event.as_ref(), &message.data);
        Self::from_frame(position, message.channel.clone(), message.entry.is_some(), plain)
    }

    /// An event from its [`Form::Plain`] frame, as a predecessor sends it. `journaled`: whether it came from a journal.
    #[must_use]
    pub fn from_frame(position: Position, channel: ChannelName, journaled: bool, plain: Bytes) -> Self {
        Self { position, channel, journaled, plain, envelope: OnceLock::new(), pieces: OnceLock::new() }
    }

    /// Whether it came from a journal. Then its own entry is in [`Event::passed`].
    #[must_use]
    pub fn is_journaled(&self) -> bool {
        self.journaled
    }

    /// How far each journal was passed with this event. Read from its frame, where it takes no memory of its own: it is needed
    /// only for clients that come from elsewhere.
    #[must_use]
    pub fn passed(&self) -> Entries {
        sse::cursor_of(&self.plain).map(|cursor| cursor.entries).unwrap_or_default()
    }

    /// How far each journal had been passed before this event.
    #[must_use]
    pub fn passed_before(&self) -> Entries {
        let mut passed = self.passed();
        if self.journaled {
            let journal = journal_of(self.channel.as_str(), passed.count());
            if let Some(id) = passed.get(journal) {
                passed.set(Entry { journal, id: id.before() });
            }
        }
        passed
    }

    /// Its position.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// Its channel.
    #[must_use]
    pub fn channel(&self) -> &ChannelName {
        &self.channel
    }

    /// Its frame in `form`: from the first line to the blank line.
    #[must_use]
    pub fn frame(&self, form: Form) -> &Bytes {
        match form {
            Form::Plain => &self.plain,
            Form::Envelope => self.envelope.get_or_init(|| sse::wrap_in_envelope(&self.channel, &self.plain)),
        }
    }

    /// Its compressed bytes for a client whose last event was exactly `before`; with `None`, for any client.
    pub fn piece(&self, form: Form, before: Option<&Self>, deflater: &mut Deflater) -> &Bytes {
        let piece = &self.pieces.get_or_init(Box::default)[form as usize];
        let before = before.map(|event| (event.position.0, &event.frame(form)[..]));
        piece.bytes(self.frame(form), before, deflater)
    }

    /// Its memory in bytes, including the forms of its frame that have been encoded by now.
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
