//! Where events come from. A source turns what it receives into messages, and reports when it delivers a channel and when it is
//! disconnected. It never sees a client.

mod backoff;
mod tls;
mod interests;
mod node;
mod amqp;
mod redis;
mod redis_journal;
mod redis_pubsub;

use std::{future::Future, pin::Pin, sync::Arc, time::Instant};

use self::{amqp::Amqp, redis_journal::RedisJournal, redis_pubsub::RedisPubSub};
pub use self::{amqp::AmqpConfig, interests::Interests, node::Node, redis::RedisConfig};
use crate::{
    broker::{Accepted, Checkpoint, Dispatcher, Generation, JournalReport, Publisher, SourceId, Spec},
    config::{Config, SourceTable},
    cursor::EntryId,
    event::Message,
    log_rate::LogRate,
    metrics::Metrics,
    name::ChannelName,
};

/// The configuration table of each source.
pub const TABLES: &[SourceTable] = &[SourceTable::of::<RedisConfig>(), SourceTable::of::<AmqpConfig>()];

/// A source that can't be made of its table.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {why}")]
pub struct SourceError {
    /// The configuration key.
    key: &'static str,
    /// The reason why its value can't be used.
    why: String,
}

/// The sources whose tables were given, in the order of [`TABLES`].
///
/// # Errors
/// A table has a value that its checks accept and the source does not.
pub fn configured(config: &Config) -> Result<Vec<Box<dyn Source>>, SourceError> {
    let mut sources: Vec<Box<dyn Source>> = Vec::new();
    if let Some(redis) = config.sources.get::<RedisConfig>() {
        // First, since publishes on the admin socket take the route of the first source.
        if let Some(journal) = RedisJournal::new(redis, &config.history, config.publish.max_message)? {
            sources.push(Box::new(journal));
        }
        if redis.reads_pubsub() {
            sources.push(Box::new(RedisPubSub::new(redis, config.publish.max_message)?));
        }
        if sources.is_empty() {
            let why = "without pub/sub and without redis.journal nothing is read from Redis; set redis.journal, or remove this";
            return Err(SourceError { key: "redis.pubsub", why: why.to_owned() });
        }
    }
    if let Some(amqp) = config.sources.get::<AmqpConfig>() {
        sources.push(Box::new(Amqp::new(amqp, config.publish.max_message)?));
    }
    Ok(sources)
}

/// A source under way.
pub type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Somewhere that events come from.
pub trait Source: Send + 'static {
    /// Its name, and how it delivers.
    fn spec(&self) -> Spec;

    /// Where its messages come from. Two processes whose sources have the same origin read the same messages. It may hold a
    /// password.
    fn origin(&self) -> String;

    /// Its server, for the log: without a password. Empty if it has none.
    fn address(&self) -> String {
        String::new()
    }

    /// How messages are published through it, so that every node gets them; `None` if it only delivers. A source that delivers
    /// by fan-out needs this for an upgrade without a gap: the marker is published so.
    ///
    /// The first source that has a route gets what the admin socket is given. `node` answers what a publisher wants to know.
    fn publisher(&self, node: &Node) -> Option<Arc<dyn Publisher>> {
        let _ = node;
        None
    }

    /// Runs until the process ends, and reconnects where it is disconnected. Where it returns or panics, the daemon ends. `interest` asks for channels, `sink` takes what
    /// arrives. It must call [`Sink::reconnected`] or [`Sink::disconnected`] soon after its start, since clients wait for that.
    /// `resume`: where a durable source continues; without it, it begins with what is published from now on.
    fn run(self: Box<Self>, sink: Sink, interest: Interests, resume: Option<Checkpoint>) -> Running;
}

/// Messages that a source publishes together.
#[derive(Debug)]
#[non_exhaustive]
pub struct Batch<M> {
    /// The messages, in order.
    pub messages: M,
    /// How far a durable source has read with them. A durable source reports one at its start as well, without messages: an
    /// upgrade without a checkpoint gives clients a gap event.
    pub checkpoint: Option<Checkpoint>,
}

impl<M: IntoIterator<Item = Message>> Batch<M> {
    /// Messages of a source that delivers by fan-out, which has no checkpoints.
    pub fn of(messages: M) -> Self {
        Self { messages, checkpoint: None }
    }

    /// The same messages, with how far a durable source has read with them.
    #[must_use]
    pub fn with_checkpoint(self, checkpoint: Checkpoint) -> Self {
        Self { checkpoint: Some(checkpoint), ..self }
    }
}

/// Takes what a source receives and reports.
#[derive(Clone)]
pub struct Sink {
    source: SourceId,
    dispatcher: Arc<Dispatcher>,
    metrics: Arc<Metrics>,
}

impl Sink {
    /// The sink of source number `source`.
    #[must_use]
    pub(crate) fn new(source: SourceId, dispatcher: Arc<Dispatcher>, metrics: Arc<Metrics>) -> Self {
        Self { source, dispatcher, metrics }
    }

    /// Publishes messages, in order. What has arrived together is best published together. It blocks while the shards can't
    /// keep up: a source has a thread of its own, and what it doesn't read waits at its server.
    pub fn publish(&self, batch: Batch<impl IntoIterator<Item = Message>>) -> Accepted {
        self.dispatcher.wait_for_space();
        self.dispatcher.publish(self.source, batch.messages, batch.checkpoint)
    }

    /// A message of this channel was lost, after everything that was published so far: its clients get a gap event.
    pub fn lost(&self, name: &ChannelName) {
        self.dispatcher.lost(self.source, name);
    }

    /// The journal is read from its tail: every entry after `since` follows, and none of them has been published. What came before
    /// is not known: a client that has not read up to `since` gets a gap event. To be called once for each journal at a start
    /// without a checkpoint, before its first entry is published, also if the journal is empty; not at a start with a checkpoint.
    ///
    /// `until`: the journal's last entry now. Those up to it are kept for clients that resume; clients that are connected already
    /// don't get them, since they are not new.
    pub(crate) fn journal_began(&self, journal: u8, since: EntryId, until: EntryId) {
        self.dispatcher.journal(self.source, journal, JournalReport::Began { since, until });
    }

    /// Entries of the journal were lost, or may have been, after the last one that was published: they were trimmed or deleted before
    /// they were read, or the journal itself was lost. The entries after `end` follow. Clients that have not read up to `end`
    /// elsewhere get a gap event.
    ///
    /// An `end` before the last entry that was published says that the journal was lost and begins again, with ids that may repeat.
    pub(crate) fn journal_lost(&self, journal: u8, end: EntryId) {
        self.dispatcher.journal(self.source, journal, JournalReport::Lost { end });
    }

    /// The journal's last entry is `end`, as it has answered (`last-generated-id`), and every entry up to it has been published
    /// or can't be an event. `asked`: a time before it was asked. To be called about once a second where nothing is left to read: a
    /// client that has a later entry from elsewhere, and came before `asked`, learns that this entry was lost.
    pub(crate) fn journal_reached(&self, journal: u8, end: EntryId, asked: Instant) {
        self.dispatcher.journal(self.source, journal, JournalReport::Reached { end, asked });
    }

    /// The source delivers the channels of these subscriptions from now on.
    pub fn confirmed<'a>(&self, confirmed: impl IntoIterator<Item = (&'a ChannelName, Generation)>) {
        self.dispatcher.confirmed(self.source, confirmed);
    }

    /// The source may not deliver the channel of this subscription, for this reason: its clients are closed and refused.
    pub fn refused(&self, name: &ChannelName, generation: Generation, reason: &str) {
        self.dispatcher.refused(self.source, name, generation, reason);
    }

    /// The time for [`Sink::watermark`] and [`Sink::reconnected`], in microseconds since 1970.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.dispatcher.source_time()
    }

    /// Everything that was published at the source before `at` (by [`Sink::now`]), on the channels that it delivers, has been
    /// passed to this sink.
    pub fn watermark(&self, at: u64) {
        self.dispatcher.watermark(self.source, at);
    }

    /// The source is disconnected, for this reason: messages may be lost from now on.
    pub fn disconnected(&self, reason: &str) {
        self.dispatcher.disconnected(self.source, reason);
    }

    /// The source is disconnected because its server refuses the login, with this reason. A reload does not wait for it.
    pub fn login_refused(&self, reason: &str) {
        self.dispatcher.login_refused(self.source, reason);
    }

    /// The source is connected (again), and delivers the channels of these subscriptions, for which it was asked at `at` (by
    /// [`Sink::now`]) or later.
    pub fn reconnected<'a>(&self, at: u64, confirmed: impl IntoIterator<Item = (&'a ChannelName, Generation)>) {
        self.dispatcher.reconnected(self.source, at, confirmed);
    }

    /// A durable source is connected again after [`Sink::disconnected`], and nothing was lost of the channels that it delivered
    /// before: their clients get no gap event. It delivers the channels of these subscriptions from now on, for which it was asked
    /// at `at` (by [`Sink::now`]) or later; of those, the ones that it did not deliver before are confirmed as by
    /// [`Sink::reconnected`].
    pub fn continued<'a>(&self, at: u64, confirmed: impl IntoIterator<Item = (&'a ChannelName, Generation)>) {
        self.dispatcher.continued(self.source, at, confirmed);
    }

    /// The last checkpoint whose messages the shards have. During an upgrade it stays what the successor begins with. A durable
    /// source lets its server forget no message that comes after it.
    #[must_use]
    pub fn forwarded(&self) -> Option<Checkpoint> {
        self.dispatcher.checkpoint(self.source)
    }

    /// Counts a message that can't be an event.
    pub fn drop_invalid(&self, why: &dyn std::fmt::Display) {
        static RATE: LogRate = LogRate::new();
        self.metrics.invalid.add(1);
        if let Some(count) = RATE.count() {
            tracing::warn!(%why, count, "messages were dropped: they can't be events");
        }
    }
}
