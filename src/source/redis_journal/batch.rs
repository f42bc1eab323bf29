//! The entries of one answer, gathered so that they are published together. It does no I/O.

use super::{
    assemble::{Assembler, EntryError},
    parser::Visitor,
    stream::Stream,
};
use crate::{cursor::EntryId, event::Message};

/// What was read and not yet published.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) messages: Vec<Message>,
    /// Entries that can't be events, each with the number of messages before it.
    pub(super) refused: Vec<(usize, EntryError)>,
    /// Bytes of the data.
    pub(super) bytes: usize,
}

impl Batch {
    /// Adds an entry.
    pub(super) fn push(&mut self, entry: Result<Message, EntryError>) {
        match entry {
            Ok(message) => {
                self.bytes += message.data.len();
                self.messages.push(message);
            }
            Err(error) => self.refused.push((self.messages.len(), error)),
        }
    }
}

/// Takes the entries of an answer to XREAD. Those that are new go into the batch, and the streams note them.
pub(super) struct Gather<'g> {
    keys: &'g [String],
    streams: &'g mut [Stream],
    assembler: &'g mut Assembler,
    batch: &'g mut Batch,
    tally: &'g mut Tally,
}

/// What an answer had so far. It outlives a [`Gather`], since an answer comes in pieces.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// The number of the stream whose entries come.
    stream: Option<usize>,
    /// The entry whose fields come, if it is new.
    entry: Option<EntryId>,
    /// Entries of the stream.
    entries: usize,
    /// Most entries of one stream.
    pub(super) most: usize,
    /// All entries.
    pub(super) all: usize,
    /// Bytes of all entries.
    pub(super) bytes: usize,
}

impl<'g> Gather<'g> {
    pub(super) fn new(
        keys: &'g [String],
        streams: &'g mut [Stream],
        assembler: &'g mut Assembler,
        batch: &'g mut Batch,
        tally: &'g mut Tally,
    ) -> Self {
        Self { keys, streams, assembler, batch, tally }
    }
}

impl Visitor for Gather<'_> {
    fn stream(&mut self, key: &[u8]) {
        self.tally.stream = self.keys.iter().position(|known| known.as_bytes() == key);
        self.tally.entries = 0;
    }

    fn entry(&mut self, id: &[u8]) {
        self.tally.entries += 1;
        self.tally.all += 1;
        self.tally.most = self.tally.most.max(self.tally.entries);
        let id: Option<EntryId> = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok());
        self.tally.entry = match (self.tally.stream, id) {
            (Some(stream), Some(id)) if self.streams[stream].take(id) => Some(id),
            _ => None,
        };
    }

    fn field(&mut self, name: &[u8], value: Result<&[u8], usize>) {
        self.tally.bytes += name.len() + value.map_or_else(|bytes| bytes, <[u8]>::len);
        if self.tally.entry.is_some() {
            self.assembler.field(name, value);
        }
    }

    fn end(&mut self) {
        if let (Some(id), Some(stream)) = (self.tally.entry.take(), self.tally.stream) {
            // There are few journals.
            let journal = u8::try_from(stream).unwrap_or_default();
            self.batch.push(self.assembler.end(journal, id));
        }
    }
}

/// Takes nothing: an answer whose entries are read again.
pub(super) struct Ignore;

impl Visitor for Ignore {
    fn stream(&mut self, _: &[u8]) {}

    fn entry(&mut self, _: &[u8]) {}

    fn field(&mut self, _: &[u8], _: Result<&[u8], usize>) {}

    fn end(&mut self) {}
}
