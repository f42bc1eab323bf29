//! Events from Redis PUBLISH (`[redis]`): a channel is subscribed to when its first client joins. `publish` is the way back.

mod config;
mod wire;
mod tap;
mod receive;
mod liveness;
mod session;
mod publish;

use std::sync::Arc;

use tokio::sync::mpsc::UnboundedReceiver;

pub use self::{config::RedisConfig, liveness::Health, publish::RedisPublisher};
use super::{Running, Sink, Source};
use crate::broker::{Delivers, Interest, Interested, Spec};

/// A message may be so many times longer than `publish.max_message`, as a list of messages on the admin socket may.
const LONGEST: usize = 16;

/// The source for `[redis]`.
pub struct RedisPubSub {
    client: redis::Client,
    prefix: String,
    /// Most bytes of a message's payload.
    longest: usize,
    health: Arc<Health>,
}

impl RedisPubSub {
    /// A source for a server. `max_message`: `publish.max_message`, in bytes.
    ///
    /// # Errors
    /// The URL can't be read.
    pub fn new(config: &RedisConfig, max_message: usize) -> Result<Self, redis::RedisError> {
        Ok(Self {
            client: wire::client(&config.url)?,
            prefix: config.prefix.clone(),
            longest: max_message.saturating_mul(LONGEST),
            health: Arc::default(),
        })
    }

    /// What the source knows of the server, for a [`RedisPublisher`].
    #[must_use]
    pub fn health(&self) -> Arc<Health> {
        Arc::clone(&self.health)
    }
}

impl Source for RedisPubSub {
    fn spec(&self) -> Spec {
        Spec { id: "redis", delivers: Delivers::Fanout, interest: Interested::OnDemand }
    }

    fn run(self: Box<Self>, sink: Sink, interest: UnboundedReceiver<Interest>) -> Running {
        Box::pin(session::Session::new(*self, sink, interest).run())
    }
}
