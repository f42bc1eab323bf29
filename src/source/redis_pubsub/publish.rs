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

use redis::{AsyncConnectionConfig, PushInfo, PushKind};
use tokio::{sync::watch, time::timeout};

use super::{Health, wire};
use crate::{
    broker::{Dispatcher, PublishError, Published, Publisher, Publishing},
    event::Message,
    source::redis::{Connection, Server, explain, is_forbidden},
};

/// Longest wait for a publish, with the connection that it may need.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(3);

/// A connection to publish on.
#[derive(Clone)]
struct Connected {
    connection: Arc<Connection>,
    /// Set when it is closed.
    gone: Arc<AtomicBool>,
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
    prefix: String,
    dispatcher: Arc<Dispatcher>,
    health: Arc<Health>,
    /// Made by the first publish, and again by the first one after it was closed. Locked for moments only.
    shared: Arc<Mutex<Shared>>,
}

impl RedisPublisher {
    /// A publisher to a server. `health` is what the source knows of it.
    pub(super) fn new(server: Server, prefix: String, dispatcher: Arc<Dispatcher>, health: Arc<Health>) -> Self {
        Self { server, prefix, dispatcher, health, shared: Arc::default() }
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
                let changes = self.health.changes();
                // The attempt is a task of its own: it continues if the publish that began it is cancelled.
                tokio::spawn(async move {
                    let made = connect(&server, changes).await.map_err(|error| Arc::from(explain(&error)));
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
        !connected.gone.load(Ordering::Acquire) && connected.changes == self.health.changes()
    }

    async fn send(&self, messages: &[Message], sent: &AtomicBool) -> Result<(), PublishError> {
        let unavailable = |why: String| PublishError::Unavailable { why, may_have_arrived: false };
        if let Some(why) = self.health.refuses_publishes() {
            return Err(unavailable(why.to_owned()));
        }
        let made = self.connection().await;
        let Connected { connection, .. } =
            made.map_err(|error| unavailable(format!("Redis is disconnected ({error})")))?;
        let mut commands = redis::pipe();
        if messages.len() > 1 {
            commands.atomic(); // All of a list or, where one is refused, none.
        }
        for message in messages {
            let channel = format!("{}{}", self.prefix, message.channel);
            commands.publish(channel, &wire::encode(message)[..]);
        }
        sent.store(true, Ordering::Relaxed);
        let taken: Result<Vec<u64>, _> = commands.query_async(&mut connection.commands.clone()).await;
        let Err(error) = taken else { return Ok(()) };
        if error.is_unrecoverable_error() || error.is_timeout() {
            self.disconnect();
        }
        let why = format!("Redis refused the publish ({})", explain(&error));
        if is_forbidden(&error) {
            return Err(PublishError::Refused(format!("{why}; nothing was published: allow it in Redis's ACL")));
        }
        // An answer with a code refuses the whole list. Without an answer, the list may have arrived.
        Err(PublishError::Unavailable { why, may_have_arrived: error.code().is_none() })
    }

    /// Closes the connection: the next publish makes another.
    fn disconnect(&self) {
        let mut shared = lock(&self.shared);
        if let Shared::Connected(_) = *shared {
            drop(mem::take(&mut *shared));
        }
    }
}

async fn connect(server: &Server, changes: u64) -> redis::RedisResult<Connected> {
    let gone = Arc::new(AtomicBool::new(false));
    let watched = Arc::clone(&gone);
    let options = AsyncConnectionConfig::new().set_push_sender(move |push: PushInfo| {
        if push.kind == PushKind::Disconnection {
            watched.store(true, Ordering::Release);
        }
        Ok::<(), ()>(())
    });
    let connection = server.connect(&options).await?;
    Ok(Connected { connection: Arc::new(connection), gone, changes })
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
            let subscribers = self.dispatcher.subscribers(names).await;
            Ok(subscribers.into_iter().map(|subscribers| Published { id: None, subscribers }).collect())
        })
    }
}
