//! Events from AMQP 0-9-1, as RabbitMQ speaks it (`[amqp]`). Each run of a node has a queue of its own, which is bound to the
//! exchange for each channel that has clients. A queue outlives connections, so nothing is lost while it exists. Publishes go out
//! by `publish`.

mod config;
mod error;
mod link;
mod exchange;
mod window;
mod queue;
mod message;
mod session;
mod publish;

use std::sync::Arc;

pub use self::config::AmqpConfig;
use self::{exchange::Exchange, link::Server, publish::AmqpPublisher};
use super::{Interests, Node, Running, Sink, Source, SourceError};
use crate::broker::{Checkpoint, Publisher, Spec};

/// A message may be this many times longer than `publish.max_message`, like a list of messages on the admin socket.
const LONGEST: usize = 16;

/// The source for `[amqp]`.
pub struct Amqp {
    server: Server,
    exchange: Exchange,
    origin: String,
    /// The server, without a password.
    address: String,
    /// How long a queue exists without a consumer, in milliseconds.
    expiry: u32,
    /// Most bytes of a message.
    longest: usize,
}

impl Amqp {
    /// A source for a server. `max_message`: `publish.max_message`, in bytes.
    ///
    /// # Errors
    /// Keys of the table contradict each other, or a certificate can't be used.
    pub fn new(config: &AmqpConfig, max_message: usize) -> Result<Self, SourceError> {
        Ok(Self {
            server: Server::new(config)?,
            exchange: Exchange::new(config),
            origin: format!("{} {}", config.url, config.exchange),
            address: config.address(),
            expiry: u32::try_from(config.queue_expiry.as_millis()).unwrap_or(u32::MAX),
            longest: max_message.saturating_mul(LONGEST),
        })
    }
}

impl Source for Amqp {
    fn spec(&self) -> Spec {
        Spec::durable("amqp")
    }

    fn origin(&self) -> String {
        self.origin.clone()
    }

    fn address(&self) -> String {
        self.address.clone()
    }

    fn publisher(&self, node: &Node) -> Option<Arc<dyn Publisher>> {
        Some(Arc::new(AmqpPublisher::new(self.server.clone(), self.exchange.clone(), node.clone())))
    }

    fn run(self: Box<Self>, sink: Sink, interest: Interests, resume: Option<Checkpoint>) -> Running {
        Box::pin(session::Session::new(*self, sink, interest, resume).run())
    }
}
