//! Where events come from. A source turns what it receives into messages, and says when it delivers a channel and when it
//! is away; it never sees a client.

mod backoff;
mod redis_publish;
mod redis_pubsub;
mod redis_tap;
mod redis_wire;

use std::{future::Future, pin::Pin, sync::Arc};

use tokio::sync::mpsc::UnboundedReceiver;

pub use self::{redis_publish::RedisPublisher, redis_pubsub::RedisPubSub};
use crate::{
    broker::{Dispatcher, Generation, Interest},
    event::Message,
    metrics::Metrics,
    name::ChannelName,
};

/// A source under way.
pub type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Somewhere that events come from, asked for each channel when its first client joins.
pub trait Source: Send + 'static {
    /// Its name in logs and in `/readyz`.
    fn name(&self) -> &'static str;

    /// Runs until the process ends, through whatever losses: `interest` says which channels are wanted, `feed` takes what
    /// arrives. It must say [`Feed::reconnected`] or [`Feed::disconnected`] soon after its start, since clients wait for it.
    fn run(self: Box<Self>, feed: Feed, interest: UnboundedReceiver<Interest>) -> Running;
}

/// Where a source puts what it has.
#[derive(Clone)]
pub struct Feed {
    source: usize,
    dispatcher: Arc<Dispatcher>,
    metrics: Arc<Metrics>,
}

impl Feed {
    /// The feed of source number `source`.
    #[must_use]
    pub fn new(source: usize, dispatcher: Arc<Dispatcher>, metrics: Arc<Metrics>) -> Self {
        Self { source, dispatcher, metrics }
    }

    /// Passes messages on, in order; what has arrived together is best passed on together. It blocks while the shards can't
    /// keep up: a source has a thread of its own, and what it doesn't read waits where it comes from.
    pub fn publish(&self, messages: impl IntoIterator<Item = Message>) {
        self.dispatcher.wait_for_room();
        self.dispatcher.publish(self.source, messages);
    }

    /// The interest is met: all the channel's messages arrive from now on.
    pub fn confirm(&self, name: &ChannelName, generation: Generation) {
        self.dispatcher.confirm(self.source, name, generation);
    }

    /// The source may not deliver the channel that the interest is for: clients of it are told so.
    pub fn refuse(&self, name: &ChannelName, generation: Generation) {
        self.dispatcher.refuse(name, generation);
    }

    /// All that was published before `at` (microseconds since 1970) on the channels that are wanted has been passed on.
    pub fn watermark(&self, at: u64) {
        self.dispatcher.watermark(self.source, at);
    }

    /// The source is away: messages may be missed from now on.
    pub fn disconnected(&self) {
        self.dispatcher.disconnected(self.source);
    }

    /// The source is there, or there again, and all these interest are met.
    pub fn reconnected<'a>(&self, interest: impl Iterator<Item = (&'a ChannelName, Generation)>) {
        self.dispatcher.reconnected(self.source, interest);
    }

    /// Counts a message that can't be an event.
    pub fn drop_invalid(&self, why: &dyn std::fmt::Display) {
        self.metrics.invalid.add(1);
        // Each power of two is logged: the first at once, a flood seldom.
        let count = self.metrics.invalid.get();
        if count.is_power_of_two() {
            tracing::warn!(%why, count, "a message was dropped: it can't be an event");
        }
    }
}
