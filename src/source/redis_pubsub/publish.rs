//! Publishes through Redis, so that every node gets the messages. It never retries what Redis may have: the publisher gets an
//! answer.

use std::{
    mem,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    Health, RedisPubSub,
    link::MOVE_WAIT,
    outgoing::{Failure, Outgoing},
};
use crate::{
    broker::{PublishError, Published, Publisher, Publishing},
    event::Message,
    source::{
        Node,
        redis::{Server, explain, has_moved, is_forbidden},
    },
};

/// Longest wait for a publish, with the connection that it may need.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(3);

/// Connections to publish on.
#[derive(Clone)]
struct Connected {
    connections: Arc<Outgoing>,
    /// [`Health::changes`] when it was made.
    changes: u64,
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

/// Publishes with PUBLISH, on a connection of its own: messages for subscribers don't delay it.
pub(super) struct RedisPublisher {
    server: Server,
    sharded: bool,
    prefix: String,
    node: Node,
    health: Arc<Health>,
    /// Made by the first publish, and again by the first one after it was closed. Locked for moments only.
    shared: Arc<Mutex<Shared>>,
}

impl RedisPublisher {
    /// A publisher for the server of a source.
    pub(super) fn new(source: &RedisPubSub, node: Node) -> Self {
        Self {
            server: source.server.clone(),
            sharded: source.sharded,
            prefix: source.prefix.clone(),
            node,
            health: Arc::clone(&source.health),
            shared: Arc::default(),
        }
    }

    /// Returns the connection, which it makes first if there is none.
    async fn connection(&self) -> Attempt {
        let mut attempt = match &mut *lock(&self.shared) {
            Shared::Connected(connected) if self.is_usable(connected) => return Ok(connected.clone()),
            Shared::Connecting(attempt) => attempt.clone(),
            shared => {
                let (result, attempt) = watch::channel(None);
                *shared = Shared::Connecting(attempt.clone());
                let (server, shared) = (self.server.clone(), Arc::clone(&self.shared));
                let (sharded, changes) = (self.sharded, self.health.changes());
                // The attempt is a task of its own: it continues if the publish that began it is cancelled.
                tokio::spawn(async move {
                    let made = Outgoing::open(&server, sharded).await;
                    let made = made.map(|made| Connected { connections: Arc::new(made), changes });
                    let made = made.map_err(|error| Arc::from(explain(&error)));
                    *lock(&shared) = made.clone().map_or(Shared::None, Shared::Connected);
                    let _ = result.send(Some(made)); // Nobody may be waiting any more.
                });
                attempt
            }
        };
        match attempt.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(made)) => made.clone(),
            _ => Err("the attempt to connect was cancelled".into()),
        }
    }

    /// Whether it is open, and made since the source has connected: another server may be the primary otherwise, and a server
    /// that was demoted takes publishes that reach nobody.
    fn is_usable(&self, connected: &Connected) -> bool {
        !connected.connections.is_closed() && connected.changes == self.health.changes()
    }

    async fn send(&self, messages: &[Message], sent: &AtomicBool) -> Result<(), PublishError> {
        if let Some(why) = self.health.refuses_publishes() {
            return Err(PublishError::Unavailable { why: why.to_owned(), may_have_arrived: false });
        }
        let mut left: Vec<&Message> = messages.iter().collect();
        let mut published = false;
        // It ends after [`PUBLISH_TIMEOUT`] at the latest.
        loop {
            let made = self.connection().await;
            let Connected { connections, .. } = made.map_err(|error| PublishError::Unavailable {
                why: format!("Redis is disconnected ({error})"),
                may_have_arrived: published,
            })?;
            sent.store(true, Ordering::Relaxed);
            let Err(Failure { error, refused, is_partial }) = connections.publish(&left, &self.prefix).await else {
                return Ok(());
            };
            published |= is_partial;
            if !refused.is_empty() && has_moved(&error) {
                // Slots of a cluster have moved. The nodes are asked again where they are.
                left = refused.into_iter().map(|index| left[index]).collect();
                self.disconnect();
                sleep(MOVE_WAIT).await;
                continue;
            }
            if error.is_unrecoverable_error() || error.is_timeout() {
                self.disconnect();
            }
            let why = format!("Redis refused the publish ({})", explain(&error));
            if is_forbidden(&error) && !published {
                return Err(PublishError::Refused(format!("{why}; nothing was published: allow it in Redis's ACL")));
            }
            // An answer with a code refuses the whole list. Without an answer, the list may have arrived.
            return Err(PublishError::Unavailable { why, may_have_arrived: published || error.code().is_none() });
        }
    }

    /// Closes the connection: the next publish makes another.
    fn disconnect(&self) {
        let mut shared = lock(&self.shared);
        if let Shared::Connected(_) = *shared {
            drop(mem::take(&mut *shared));
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> std::sync::MutexGuard<'_, Shared> {
    crate::lock::lock(shared)
}

impl Publisher for RedisPublisher {
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
                    let why = format!("Redis gave no answer in {:?}", PUBLISH_TIMEOUT);
                    return Err(PublishError::Unavailable { why, may_have_arrived: sent.into_inner() });
                }
            }
            let names = messages.into_iter().map(|message| message.channel).collect();
            let subscribers = self.node.subscribers(names).await;
            Ok(subscribers.into_iter().map(|subscribers| Published { id: None, subscribers }).collect())
        })
    }
}
