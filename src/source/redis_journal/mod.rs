//! Events from streams of Redis (`redis.journal`): every channel's events are kept there, in one or several streams, the
//! *journals*. Publishes go out by `publish`.

mod parser;
mod values;
mod stream;
mod checkpoint;
mod assemble;
mod batch;
mod link;
mod ask;
mod tail;
mod reader;
mod publish;

use std::sync::Arc;

use self::{publish::JournalPublisher, reader::Reader, tail::Wanted};
use super::{
    Interests, Node, Running, Sink, Source, SourceError,
    redis::{RedisConfig, Server},
};
use crate::{
    broker::{Checkpoint, Delivers, Interested, Publisher, Spec},
    config::History,
};

/// An entry's data may be this many times longer than `publish.max_message`, like a list of messages on the admin socket.
const LONGEST: usize = 16;

/// The source for `redis.journal`.
pub struct RedisJournal {
    server: Server,
    /// The streams' keys, in the order of the journals' numbers. Never empty.
    keys: Vec<String>,
    /// Most entries of a stream (`redis.journal_maxlen`); 0: no limit.
    maxlen: usize,
    origin: String,
    /// The server, without a password.
    address: String,
    /// Most bytes of an entry's data.
    longest: usize,
    /// How much of each stream is read at the start.
    tail: Wanted,
}

impl RedisJournal {
    /// A source for the streams of the table; `None` if it names none. `max_message`: `publish.max_message`, in bytes.
    ///
    /// # Errors
    /// Keys of the table contradict each other, or a certificate can't be used.
    pub fn new(config: &RedisConfig, history: &History, max_message: usize) -> Result<Option<Self>, SourceError> {
        let keys = config.journal.clone();
        if keys.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self {
            server: Server::new(config)?,
            origin: format!("{} {}", config.url, keys.join(" ")),
            maxlen: config.journal_maxlen,
            address: config.address(),
            longest: max_message.saturating_mul(LONGEST),
            tail: Wanted { bytes: history.bytes / keys.len(), age: history.age },
            keys,
        }))
    }
}

impl Source for RedisJournal {
    fn spec(&self) -> Spec {
        let (delivers, interest) = (Delivers::Durable, Interested::All);
        Spec { id: "redis journal", delivers, interest, journals: self.keys.len() }
    }

    fn origin(&self) -> String {
        self.origin.clone()
    }

    fn address(&self) -> String {
        self.address.clone()
    }

    fn publisher(&self, node: &Node) -> Option<Arc<dyn Publisher>> {
        let (server, keys) = (self.server.clone(), self.keys.clone());
        Some(Arc::new(JournalPublisher::new(server, keys, self.maxlen, node.clone())))
    }

    fn run(self: Box<Self>, sink: Sink, _: Interests, resume: Option<Checkpoint>) -> Running {
        Box::pin(Reader::new(*self, sink, resume).run())
    }
}
