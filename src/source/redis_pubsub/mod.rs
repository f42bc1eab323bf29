//! Events from Redis PUBLISH (`[redis]`): a channel or a pattern is subscribed to when its first client joins, or from the start if
//! a rule keeps it always. Publishes go out by `publish`.

mod wire;
mod tap;
mod copies;
mod probe;
mod receive;
mod liveness;
mod link;
mod session;
mod outgoing;
mod publish;

use std::sync::Arc;

use self::{liveness::Health, publish::RedisPublisher};
use super::{
    Interests, Node, Running, Sink, Source, SourceError,
    redis::{RedisConfig, Server},
};
use crate::broker::{Checkpoint, Delivers, Interested, Publisher, Spec};

/// A message in Redis may be this many times longer than `publish.max_message`, like a list of messages on the admin socket.
const LONGEST: usize = 16;

/// The source for `[redis]`.
pub struct RedisPubSub {
    server: Server,
    prefix: String,
    /// Whether a cluster is used by SSUBSCRIBE and SPUBLISH, if it has them.
    sharded: bool,
    origin: String,
    /// The server, without a password.
    address: String,
    /// Most bytes of a message's payload.
    longest: usize,
    health: Arc<Health>,
}

impl RedisPubSub {
    /// A source for a server. `max_message`: `publish.max_message`, in bytes.
    ///
    /// # Errors
    /// Keys of the table contradict each other, or a certificate can't be used.
    pub fn new(config: &RedisConfig, max_message: usize) -> Result<Self, SourceError> {
        Ok(Self {
            server: Server::new(config)?,
            prefix: config.prefix.clone(),
            sharded: config.sharded,
            origin: format!("{} {}", config.url, config.prefix),
            address: config.address(),
            longest: max_message.saturating_mul(LONGEST),
            health: Arc::default(),
        })
    }
}

impl Source for RedisPubSub {
    fn spec(&self) -> Spec {
        Spec { id: "redis", delivers: Delivers::Fanout, interest: Interested::OnDemand, journals: 0 }
    }

    fn origin(&self) -> String {
        self.origin.clone()
    }

    fn address(&self) -> String {
        self.address.clone()
    }

    fn publisher(&self, node: &Node) -> Option<Arc<dyn Publisher>> {
        Some(Arc::new(RedisPublisher::new(self, node.clone())))
    }

    fn run(self: Box<Self>, sink: Sink, interest: Interests, _: Option<Checkpoint>) -> Running {
        Box::pin(session::Session::new(*self, sink, interest).run())
    }
}
