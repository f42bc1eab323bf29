//! Where events come from. A source turns what it receives into messages, and says when it delivers a channel and when it
//! is disconnected; it never sees a client.

mod backoff;
mod redis_pubsub;

use std::{future::Future, pin::Pin, sync::Arc};

use tokio::sync::mpsc::UnboundedReceiver;

pub use self::redis_pubsub::{RedisConfig, RedisPubSub, RedisPublisher};
use crate::{
    broker::{Accepted, Dispatcher, Generation, Interest, SourceId, Spec},
    config::SourceTable,
    event::Message,
    log_rate::LogRate,
    metrics::Metrics,
    name::ChannelName,
};

/// The configuration table of each source.
pub const TABLES: &[SourceTable] = &[SourceTable::of::<RedisConfig>()];

/// A source under way.
pub type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Somewhere that events come from.
pub trait Source: Send + 'static {
    /// Its name, and how it delivers.
    fn spec(&self) -> Spec;

    /// Runs until the process ends, through whatever disconnects: `interest` says which channels to deliver, `sink` takes what
    /// arrives. It must call [`Sink::reconnected`] or [`Sink::disconnected`] soon after its start, since clients wait for it.
    fn run(self: Box<Self>, sink: Sink, interest: UnboundedReceiver<Interest>) -> Running;
}

/// Where a source puts what it has.
#[derive(Clone)]
pub struct Sink {
    source: SourceId,
    dispatcher: Arc<Dispatcher>,
    metrics: Arc<Metrics>,
}

impl Sink {
    /// The sink of source number `source`.
    #[must_use]
    pub fn new(source: SourceId, dispatcher: Arc<Dispatcher>, metrics: Arc<Metrics>) -> Self {
        Self { source, dispatcher, metrics }
    }

    /// Publishes messages, in order; what has arrived together is best published together. It blocks while the shards can't
    /// keep up: a source has a thread of its own, and what it doesn't read waits where it comes from.
    pub fn publish(&self, messages: impl IntoIterator<Item = Message>) -> Accepted {
        self.dispatcher.wait_for_room();
        self.dispatcher.publish(self.source, messages)
    }

    /// Of this channel a message was lost, after all that was published: its clients get a gap event.
    pub fn lost(&self, name: &ChannelName) {
        self.dispatcher.lost(self.source, name);
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

    /// All that was published before `at` (by [`Sink::now`]) on the channels that the source delivers has been published here.
    pub fn watermark(&self, at: u64) {
        self.dispatcher.watermark(self.source, at);
    }

    /// The source is disconnected, for this reason: messages may be lost from now on.
    pub fn disconnected(&self, reason: &str) {
        self.dispatcher.disconnected(self.source, reason);
    }

    /// The source is connected (again), and delivers the channels of these subscriptions, for which it was asked at `at` (by
    /// [`Sink::now`]) or later.
    pub fn reconnected<'a>(&self, at: u64, confirmed: impl IntoIterator<Item = (&'a ChannelName, Generation)>) {
        self.dispatcher.reconnected(self.source, at, confirmed);
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
