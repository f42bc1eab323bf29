//! Events from Redis PUBLISH: a channel is subscribed to when its first client joins.
//!
//! Invariant: a demand is confirmed only once Redis has confirmed the subscription, and everything published after that is
//! passed on, until the connection is lost; which is told.

use std::{
    collections::{HashMap, HashSet},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use redis::{PushInfo, PushKind, Value, aio::MultiplexedConnection};
use tokio::{
    sync::{Notify, mpsc::UnboundedReceiver},
    time::sleep,
};

use super::{Feed, Running, Source, backoff::Backoff, redis_wire};
use crate::{
    config,
    event::ChannelName,
    shard::{Demand, Ticket},
};

/// How often Redis is asked whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// Most channels in one SUBSCRIBE.
const CHANNELS_A_COMMAND: usize = 1000;

/// The source for `[redis]`.
pub struct RedisPubSub {
    client: redis::Client,
    prefix: String,
}

impl RedisPubSub {
    /// A source for a server.
    ///
    /// # Errors
    /// A URL that is none.
    pub fn new(config: &config::Redis) -> Result<Self, redis::RedisError> {
        Ok(Self { client: redis_wire::client(&config.url)?, prefix: config.prefix.clone() })
    }
}

impl Source for RedisPubSub {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn run(self: Box<Self>, feed: Feed, demands: UnboundedReceiver<Demand>) -> Running {
        Box::pin(Session { source: *self, feed, demands, wanted: HashMap::new() }.run())
    }
}

struct Session {
    source: RedisPubSub,
    feed: Feed,
    demands: UnboundedReceiver<Demand>,
    /// Channels to subscribe to, with the demand that asked for each.
    wanted: HashMap<ChannelName, Ticket>,
}

impl Session {
    async fn run(mut self) {
        let mut backoff = Backoff::new();
        let mut tries: u32 = 0;
        loop {
            let error = match self.connect().await {
                Ok((connection, gone)) => match self.resume(connection.clone()).await {
                    Ok(()) => {
                        if tries > 0 {
                            tracing::info!(channels = self.wanted.len(), "Redis is back; clients were told of the gap");
                        }
                        backoff.reset();
                        tries = 0;
                        self.serve(connection, &gone).await
                    }
                    Err(error) => error,
                },
                Err(error) => error,
            };
            if self.demands.is_closed() {
                return;
            }
            self.feed.lost();
            tries += 1;
            let wait = backoff.next();
            // Each power of two: the first at once, a long night without Redis in a page.
            if tries.is_power_of_two() {
                tracing::warn!(%error, tries, "Redis is away; what is published there now is missed, and clients will be told");
            }
            sleep(wait).await;
        }
    }

    async fn connect(&self) -> redis::RedisResult<(MultiplexedConnection, Arc<Notify>)> {
        let gone = Arc::new(Notify::new());
        let receiver =
            Receiver { feed: self.feed.clone(), prefix: self.source.prefix.clone(), gone: Arc::clone(&gone) };
        let options = redis_wire::options().set_push_sender(move |push| {
            receiver.receive(push);
            Ok::<(), ()>(())
        });
        let connection = self.source.client.get_multiplexed_async_connection_with_config(&options).await?;
        Ok((connection, gone))
    }

    /// Subscribes to all that is wanted.
    async fn resume(&mut self, mut connection: MultiplexedConnection) -> redis::RedisResult<()> {
        while let Ok(demand) = self.demands.try_recv() {
            self.note(demand);
        }
        let names: Vec<ChannelName> = self.wanted.keys().cloned().collect();
        let refused = self.subscribe(&mut connection, &names).await?;
        let met = self.wanted.iter().filter(|(name, _)| !refused.contains_key(*name));
        self.feed.restored(met.map(|(name, &ticket)| (name, ticket)));
        for (name, why) in &refused {
            if let Some(&ticket) = self.wanted.get(name) {
                self.feed.refuse(name, ticket, why);
            }
        }
        Ok(())
    }

    /// Meets demands until the connection is lost; gives the reason.
    async fn serve(&mut self, mut connection: MultiplexedConnection, gone: &Notify) -> redis::RedisError {
        // Beside the demands, which need not wait for its answer.
        let mut silent = pin!(ping_until_silent(connection.clone()));
        loop {
            let done = tokio::select! {
                // First: what is subscribed on a connection that is gone would wait for its timeout.
                biased;
                () = gone.notified() => return closed("the connection was closed"),
                demand = self.demands.recv() => match demand {
                    Some(demand) => self.meet(&mut connection, demand).await,
                    None => return closed("ssecast is stopping"),
                },
                error = silent.as_mut() => return error,
            };
            if let Err(error) = done {
                return error;
            }
        }
    }

    /// Meets `first` and the demands that wait behind it, in order, as many as fit into one command each time.
    async fn meet(&mut self, connection: &mut MultiplexedConnection, first: Demand) -> redis::RedisResult<()> {
        let mut next = Some(first);
        while let Some(demand) = next.take() {
            let subscribes = matches!(demand, Demand::Subscribe(..));
            let mut names = HashSet::from([self.note(demand)]);
            while names.len() < CHANNELS_A_COMMAND {
                match self.demands.try_recv() {
                    Ok(demand) if matches!(demand, Demand::Subscribe(..)) == subscribes => {
                        names.insert(self.note(demand));
                    }
                    other => {
                        next = other.ok();
                        break;
                    }
                }
            }
            let names: Vec<ChannelName> = names.into_iter().collect();
            if subscribes {
                // Tickets as they stand now: a later demand for the same channel has one of its own.
                let tickets: Vec<Option<Ticket>> = names.iter().map(|name| self.wanted.get(name).copied()).collect();
                let refused = self.subscribe(connection, &names).await?;
                for (name, ticket) in names.iter().zip(tickets) {
                    match (ticket, refused.get(name)) {
                        (Some(ticket), None) => self.feed.confirm(name, ticket),
                        (Some(ticket), Some(why)) => self.feed.refuse(name, ticket, why),
                        (None, _) => {}
                    }
                }
            } else {
                connection.unsubscribe(self.in_redis(&names)).await?;
            }
        }
        Ok(())
    }

    /// Subscribes to all that Redis allows; gives back what it refuses, and why.
    async fn subscribe(
        &self,
        connection: &mut MultiplexedConnection,
        names: &[ChannelName],
    ) -> redis::RedisResult<HashMap<ChannelName, redis::RedisError>> {
        let mut refused = HashMap::new();
        for names in names.chunks(CHANNELS_A_COMMAND) {
            match connection.subscribe(self.in_redis(names)).await {
                Err(error) if is_refusal(&error) => {}
                done => {
                    done?;
                    continue;
                }
            }
            // Redis refuses all of them because of one: which one is found by asking for each.
            for name in names {
                match connection.subscribe(self.in_redis(std::slice::from_ref(name))).await {
                    Err(why) if is_refusal(&why) => drop(refused.insert(name.clone(), why)),
                    done => done?,
                }
            }
        }
        Ok(refused)
    }

    fn in_redis(&self, names: &[ChannelName]) -> Vec<String> {
        names.iter().map(|name| format!("{}{name}", self.source.prefix)).collect()
    }

    fn note(&mut self, demand: Demand) -> ChannelName {
        match demand {
            Demand::Subscribe(name, ticket) => {
                self.wanted.insert(name.clone(), ticket);
                name
            }
            Demand::Unsubscribe(name) => {
                self.wanted.remove(&name);
                name
            }
        }
    }
}

/// Takes what Redis sends, on the task that reads the connection: nothing is queued between it and the shards.
struct Receiver {
    feed: Feed,
    prefix: String,
    gone: Arc<Notify>,
}

impl Receiver {
    fn receive(&self, push: PushInfo) {
        match push.kind {
            PushKind::Message => self.publish(push.data),
            PushKind::Disconnection => self.gone.notify_one(),
            _ => {} // Confirmations are the answers of their commands.
        }
    }

    fn publish(&self, data: Vec<Value>) {
        let Ok([Value::BulkString(channel), Value::BulkString(payload)]) = <[Value; 2]>::try_from(data) else {
            return self.feed.drop_invalid(&"Redis sent a message that is not a channel and a payload");
        };
        let Some(name) = channel.strip_prefix(self.prefix.as_bytes()) else { return };
        let name = match ChannelName::from_bytes(name) {
            Ok(name) => name,
            Err(why) => return self.feed.drop_invalid(&why),
        };
        match redis_wire::decode(name, payload) {
            Ok(message) => self.feed.publish(message),
            Err(why) => self.feed.drop_invalid(&why),
        }
    }
}

/// Whether Redis is there, but its user may not have the channel (ACL).
fn is_refusal(error: &redis::RedisError) -> bool {
    error.kind() == redis::ErrorKind::Server(redis::ServerErrorKind::NoPerm)
}

/// Asks the server whether it is there, again and again, until it gives no answer.
async fn ping_until_silent(mut connection: MultiplexedConnection) -> redis::RedisError {
    loop {
        sleep(PING_INTERVAL).await;
        if let Err(error) = redis::cmd("PING").query_async::<()>(&mut connection).await {
            return error;
        }
    }
}

fn closed(why: &'static str) -> redis::RedisError {
    (redis::ErrorKind::Io, why).into()
}
