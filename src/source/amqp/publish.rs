//! Publishes through AMQP, so that every node gets the messages. It never retries what the server may have: the publisher gets an
//! answer.

use std::{
    mem,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use lapin::{
    Channel,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use tokio::{sync::watch, time::timeout};

use super::{error::Failure, exchange::Exchange, link::Link, link::Server, message::properties};
use crate::{
    broker::{PublishError, Published, Publisher, Publishing},
    event::Message,
    source::Node,
};

/// Longest wait for a publish, with the connection that it may need.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(3);

/// A connection to publish on.
#[derive(Clone)]
struct Connected {
    link: Arc<Link>,
    channel: Channel,
}

impl Connected {
    fn is_open(&self) -> bool {
        self.link.connection.status().connected() && self.channel.status().connected()
    }
}

/// The result of an attempt to connect.
type Attempt = Result<Connected, Arc<str>>;

/// The one connection that all publishes share.
#[derive(Default)]
enum Shared {
    #[default]
    None,
    /// One attempt is under way, and all publishes wait for it.
    Connecting(watch::Receiver<Option<Attempt>>),
    Connected(Connected),
}

/// Publishes to the exchange, on a connection of its own: messages for the queue don't delay it.
pub(super) struct AmqpPublisher {
    server: Server,
    exchange: Exchange,
    node: Node,
    /// Made by the first publish, and again by the first one after it was closed. Locked for moments only.
    shared: Arc<Mutex<Shared>>,
}

impl AmqpPublisher {
    /// A publisher to an exchange of a server.
    pub(super) fn new(server: Server, exchange: Exchange, node: Node) -> Self {
        Self { server, exchange, node, shared: Arc::default() }
    }

    /// Returns the connection, which it makes first if there is none.
    async fn connection(&self) -> Attempt {
        let mut attempt = match &mut *crate::lock::lock(&self.shared) {
            Shared::Connected(connected) if connected.is_open() => return Ok(connected.clone()),
            Shared::Connecting(attempt) => attempt.clone(),
            shared => {
                let (result, attempt) = watch::channel(None);
                *shared = Shared::Connecting(attempt.clone());
                let (server, exchange, shared) = (self.server.clone(), self.exchange.clone(), Arc::clone(&self.shared));
                // A task of its own: it continues if the publish that began it is given up.
                tokio::spawn(async move {
                    let made = connect(&server, &exchange).await.map_err(|error| Arc::from(error.to_string()));
                    *crate::lock::lock(&shared) = made.clone().map_or(Shared::None, Shared::Connected);
                    let _ = result.send(Some(made)); // Nobody may be waiting any more.
                });
                attempt
            }
        };
        match attempt.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(made)) => made.clone(),
            _ => Err("the attempt to connect was given up".into()),
        }
    }

    async fn send(&self, messages: &[Message], sent: &AtomicBool) -> Result<(), PublishError> {
        let unavailable = |why: String| PublishError::Unavailable { why, may_have_arrived: false };
        let made = self.connection().await;
        let Connected { channel, .. } = made.map_err(|error| unavailable(format!("AMQP is disconnected ({error})")))?;
        sent.store(true, Ordering::Relaxed);
        self.publish_all(&channel, messages).await.map_err(|error| {
            self.disconnect();
            match error {
                Refusal::Failed(error) if error.is_forbidden() => PublishError::Refused(format!(
                    "AMQP refused the publish ({error}); nothing was published: give the user the permission to write to the exchange"
                )),
                Refusal::Failed(error) => PublishError::Unavailable {
                    why: format!("AMQP did not take the publish ({error})"),
                    may_have_arrived: true,
                },
                Refusal::Nack => PublishError::Unavailable {
                    why: "AMQP did not take the publish (a queue refused it)".to_owned(),
                    may_have_arrived: true,
                },
            }
        })
    }

    /// Publishes the messages in order, and waits until the server has all of them.
    async fn publish_all(&self, channel: &Channel, messages: &[Message]) -> Result<(), Refusal> {
        let mut confirmations = Vec::with_capacity(messages.len());
        for message in messages {
            let (exchange, key) = (self.exchange.name.clone(), message.channel.as_str().into());
            let options = BasicPublishOptions::default();
            let taken = channel.basic_publish(exchange, key, options, &message.data, properties(message)).await;
            confirmations.push(taken.map_err(Failure::from)?);
        }
        for confirmation in confirmations {
            if !confirmation.await.map_err(Failure::from)?.is_ack() {
                return Err(Refusal::Nack);
            }
        }
        Ok(())
    }

    /// Closes the connection: the next publish makes another.
    fn disconnect(&self) {
        let mut shared = crate::lock::lock(&self.shared);
        if let Shared::Connected(_) = *shared {
            drop(mem::take(&mut *shared));
        }
    }
}

/// Why messages were not taken.
enum Refusal {
    Failed(Failure),
    Nack,
}

impl From<Failure> for Refusal {
    fn from(error: Failure) -> Self {
        Self::Failed(error)
    }
}

async fn connect(server: &Server, exchange: &Exchange) -> Result<Connected, Failure> {
    let link = server.connect("ssecast publish").await?;
    exchange.declare(&link.connection).await?;
    let channel = link.connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(Connected { link: Arc::new(link), channel })
}

impl Publisher for AmqpPublisher {
    fn publish(&self, messages: Vec<Message>) -> Publishing<'_> {
        Box::pin(async move {
            if messages.is_empty() {
                return Ok(Vec::new());
            }
            let sent = AtomicBool::new(false);
            match timeout(PUBLISH_TIMEOUT, self.send(&messages, &sent)).await {
                Ok(done) => done?,
                Err(_) => {
                    self.disconnect();
                    let why = format!("AMQP gave no answer in {PUBLISH_TIMEOUT:?}");
                    return Err(PublishError::Unavailable { why, may_have_arrived: sent.into_inner() });
                }
            }
            let names = messages.into_iter().map(|message| message.channel).collect();
            let subscribers = self.node.subscribers(names).await;
            Ok(subscribers.into_iter().map(Published::new).collect())
        })
    }
}
