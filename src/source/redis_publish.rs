//! Publishes by way of Redis, so that every node has them. Never retries what Redis may have: whoever published is told.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use redis::{PushInfo, PushKind, aio::MultiplexedConnection};
use tokio::sync::Mutex;

use super::redis_wire;
use crate::{
    broker::{Dispatcher, PublishError, Published, Publisher, Publishing},
    config,
    event::Message,
};

struct Connected {
    connection: MultiplexedConnection,
    gone: Arc<AtomicBool>,
}

/// Publishes with PUBLISH, on a connection of its own: what subscribers are sent does not hold it up.
pub struct RedisPublisher {
    client: redis::Client,
    prefix: String,
    dispatcher: Arc<Dispatcher>,
    /// Made by the first publish, and anew by the first one after it was lost.
    connected: Mutex<Option<Connected>>,
}

impl RedisPublisher {
    /// A publisher to a server.
    ///
    /// # Errors
    /// A URL that is none.
    pub fn new(config: &config::Redis, dispatcher: Arc<Dispatcher>) -> Result<Self, redis::RedisError> {
        let client = redis_wire::client(&config.url)?;
        Ok(Self { client, prefix: config.prefix.clone(), dispatcher, connected: Mutex::new(None) })
    }

    async fn connection(&self) -> redis::RedisResult<MultiplexedConnection> {
        let mut connected = self.connected.lock().await;
        if let Some(connected) = connected.as_ref().filter(|connected| !connected.gone.load(Ordering::Acquire)) {
            return Ok(connected.connection.clone());
        }
        let gone = Arc::new(AtomicBool::new(false));
        let watched = Arc::clone(&gone);
        let options = redis_wire::options().set_push_sender(move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                watched.store(true, Ordering::Release);
            }
            Ok::<(), ()>(())
        });
        let connection = self.client.get_multiplexed_async_connection_with_config(&options).await?;
        *connected = Some(Connected { connection: connection.clone(), gone });
        Ok(connection)
    }
}

impl Publisher for RedisPublisher {
    fn publish(&self, messages: Vec<Message>) -> Publishing<'_> {
        Box::pin(async move {
            let away = |error: redis::RedisError| {
                PublishError(format!(
                    "Redis did not take the publish ({error}); it is not known to have arrived: publish again"
                ))
            };
            let mut connection = self.connection().await.map_err(|error| {
                PublishError(format!("Redis is away ({error}); nothing was published: publish again later"))
            })?;
            let mut commands = redis::pipe();
            if messages.len() > 1 {
                commands.atomic(); // All of a list or, where one is refused, none.
            }
            for message in &messages {
                let channel = format!("{}{}", self.prefix, message.channel);
                commands.publish(channel, &redis_wire::encode(message)[..]);
            }
            let taken: Result<Vec<u64>, _> = commands.query_async(&mut connection).await;
            if let Err(error) = taken {
                if error.is_unrecoverable_error() || error.is_timeout() {
                    *self.connected.lock().await = None;
                }
                return Err(away(error));
            }
            let names = messages.into_iter().map(|message| message.channel).collect();
            let subscribers = self.dispatcher.subscribers(names).await;
            Ok(subscribers.into_iter().map(|subscribers| Published { id: None, subscribers }).collect())
        })
    }
}
