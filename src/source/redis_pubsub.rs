//! Events from Redis PUBLISH: a channel is subscribed to when its first client joins.
//!
//! Invariant: a interest is confirmed only once Redis has confirmed the subscription, and everything published after that is
//! passed on, until the connection is lost; which is told.

use std::{
    collections::{HashMap, HashSet},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use redis::{AsyncConnectionConfig, ConnectionAddr, PushInfo, PushKind, Value, aio::MultiplexedConnection};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    sync::{Notify, mpsc::UnboundedReceiver},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Feed, Running, Source,
    backoff::Backoff,
    redis_tap::{Messages, Tap},
    redis_wire,
};
use crate::{
    broker::{Generation, Interest},
    clock::unix_micros,
    config,
    event::Message,
    name::ChannelName,
};

/// How often Redis is asked whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(2);
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

    fn run(self: Box<Self>, feed: Feed, interest: UnboundedReceiver<Interest>) -> Running {
        Box::pin(Session { source: *self, feed, interest, wanted: HashMap::new() }.run())
    }
}

struct Session {
    source: RedisPubSub,
    feed: Feed,
    interest: UnboundedReceiver<Interest>,
    /// Channels to subscribe to, with the interest that asked for each.
    wanted: HashMap<ChannelName, Generation>,
}

impl Session {
    async fn run(mut self) {
        let mut backoff = Backoff::new();
        let mut tries: u32 = 0;
        loop {
            let error = match self.connect().await {
                Ok(Connected { connection, gone, _driver }) => match self.resume(connection.clone()).await {
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
            if self.interest.is_closed() {
                return;
            }
            self.feed.disconnected();
            tries += 1;
            let wait = backoff.next();
            // Each power of two: the first at once, a long night without Redis in a page.
            if tries.is_power_of_two() {
                tracing::warn!(%error, tries, "Redis is away; what is published there now is missed, and clients will be told");
            }
            let meanwhile = async {
                while let Some(interest) = self.interest.recv().await {
                    note(&mut self.wanted, interest);
                }
            };
            let _ = timeout(wait, meanwhile).await; // It ends early if nobody can ask any more.
        }
    }

    async fn connect(&self) -> redis::RedisResult<Connected> {
        let gone = Arc::new(Notify::new());
        let receiver =
            Receiver { feed: self.feed.clone(), prefix: self.source.prefix.clone(), gone: Arc::clone(&gone) };
        let batch = Batch { receiver: receiver.clone(), name: None, messages: Vec::new() };
        let options = redis_wire::options().set_push_sender(move |push| {
            receiver.receive(push);
            Ok::<(), ()>(())
        });
        let mut driver = JoinSet::new();
        let connecting = async {
            match self.source.client.get_connection_info().addr() {
                ConnectionAddr::Tcp(host, port) => {
                    let stream = TcpStream::connect((host.as_str(), *port)).await?;
                    stream.set_nodelay(true)?;
                    self.log_in(Tap::new(stream, batch), options, &mut driver).await
                }
                ConnectionAddr::Unix(path) => {
                    self.log_in(Tap::new(UnixStream::connect(path).await?, batch), options, &mut driver).await
                }
                // What only the library can open, it reads as well.
                _ => self.source.client.get_multiplexed_async_connection_with_config(&options).await,
            }
        };
        let connection = timeout(redis_wire::CONNECT_TIMEOUT, connecting)
            .await
            .unwrap_or_else(|_| Err(closed("no answer while connecting")))?;
        Ok(Connected { connection, gone, _driver: driver })
    }

    async fn log_in<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        stream: S,
        options: AsyncConnectionConfig,
        driver: &mut JoinSet<()>,
    ) -> redis::RedisResult<MultiplexedConnection> {
        let login = self.source.client.get_connection_info().redis_settings();
        let (connection, drive) = MultiplexedConnection::new_with_config(login, stream, options).await?;
        driver.spawn(drive);
        Ok(connection)
    }

    /// Subscribes to all that is wanted.
    async fn resume(&mut self, mut connection: MultiplexedConnection) -> redis::RedisResult<()> {
        while let Ok(interest) = self.interest.try_recv() {
            note(&mut self.wanted, interest);
        }
        let names: Vec<ChannelName> = self.wanted.keys().cloned().collect();
        self.subscribe(&mut connection, &names).await?;
        self.feed.reconnected(self.wanted.iter().map(|(name, &generation)| (name, generation)));
        Ok(())
    }

    /// Meets interest until the connection is lost; gives the reason.
    async fn serve(&mut self, mut connection: MultiplexedConnection, gone: &Notify) -> redis::RedisError {
        // Beside the interest, which need not wait for its answer.
        let mut silent = pin!(ping_until_silent(connection.clone(), self.feed.clone()));
        loop {
            let done = tokio::select! {
                // First: what is subscribed on a connection that is gone would wait for its timeout.
                biased;
                () = gone.notified() => return closed("the connection was closed"),
                interest = self.interest.recv() => match interest {
                    Some(interest) => self.meet(&mut connection, interest).await,
                    None => return closed("ssecast is stopping"),
                },
                error = silent.as_mut() => return error,
            };
            if let Err(error) = done {
                return error;
            }
        }
    }

    /// Meets `first` and the interest that wait behind it, in order, as many as fit into one command each time.
    async fn meet(&mut self, connection: &mut MultiplexedConnection, first: Interest) -> redis::RedisResult<()> {
        let mut next = Some(first);
        while let Some(interest) = next.take() {
            let subscribes = matches!(interest, Interest::Subscribe(..));
            let mut names = HashSet::from([note(&mut self.wanted, interest)]);
            while names.len() < CHANNELS_A_COMMAND {
                match self.interest.try_recv() {
                    Ok(interest) if matches!(interest, Interest::Subscribe(..)) == subscribes => {
                        names.insert(note(&mut self.wanted, interest));
                    }
                    other => {
                        next = other.ok();
                        break;
                    }
                }
            }
            let names: Vec<ChannelName> = names.into_iter().collect();
            if subscribes {
                self.subscribe(connection, &names).await?;
                // Those that were refused are wanted no longer.
                for name in &names {
                    if let Some(&generation) = self.wanted.get(name) {
                        self.feed.confirm(name, generation);
                    }
                }
            } else {
                connection.unsubscribe(self.in_redis(&names)).await?;
            }
        }
        Ok(())
    }

    /// Subscribes to the channels; those that Redis refuses (its ACL) are refused to whoever wants them.
    async fn subscribe(
        &mut self,
        connection: &mut MultiplexedConnection,
        names: &[ChannelName],
    ) -> redis::RedisResult<()> {
        for names in names.chunks(CHANNELS_A_COMMAND) {
            match connection.subscribe(self.in_redis(names)).await {
                Err(error) if is_refusal(&error) => self.subscribe_one_by_one(connection, names).await?,
                done => done?,
            }
        }
        Ok(())
    }

    async fn subscribe_one_by_one(
        &mut self,
        connection: &mut MultiplexedConnection,
        names: &[ChannelName],
    ) -> redis::RedisResult<()> {
        for name in names {
            match connection.subscribe(self.in_redis(std::slice::from_ref(name))).await {
                Err(error) if is_refusal(&error) => {
                    tracing::warn!(channel = %name, %error, "Redis refuses a channel: clients that ask for it get 403");
                    if let Some(generation) = self.wanted.remove(name) {
                        self.feed.refuse(name, generation);
                    }
                }
                done => done?,
            }
        }
        Ok(())
    }

    fn in_redis(&self, names: &[ChannelName]) -> Vec<String> {
        names.iter().map(|name| format!("{}{name}", self.source.prefix)).collect()
    }
}

/// Notes what is wanted from now on; gives the channel.
fn note(wanted: &mut HashMap<ChannelName, Generation>, interest: Interest) -> ChannelName {
    match interest {
        Interest::Subscribe(name, generation) => {
            wanted.insert(name.clone(), generation);
            name
        }
        Interest::Unsubscribe(name) => {
            wanted.remove(&name);
            name
        }
    }
}

struct Connected {
    connection: MultiplexedConnection,
    gone: Arc<Notify>,
    /// The task that reads and writes; it ends with this.
    _driver: JoinSet<()>,
}

/// Takes what Redis sends, on the task that reads the connection: nothing is queued between it and the shards.
#[derive(Clone)]
struct Receiver {
    feed: Feed,
    prefix: String,
    gone: Arc<Notify>,
}

impl Receiver {
    /// What the library has read.
    fn receive(&self, push: PushInfo) {
        match push.kind {
            PushKind::Message => {
                let Ok([Value::BulkString(channel), Value::BulkString(payload)]) = <[Value; 2]>::try_from(push.data)
                else {
                    return self.feed.drop_invalid(&"Redis sent a message that is not a channel and a payload");
                };
                if let Some(name) = self.name(&channel)
                    && let Some(message) = self.message(name, payload.into())
                {
                    self.feed.publish(vec![message]);
                }
            }
            PushKind::Disconnection => self.gone.notify_one(),
            _ => {} // Confirmations are the answers of their commands.
        }
    }

    fn name(&self, in_redis: &[u8]) -> Option<ChannelName> {
        let name = in_redis.strip_prefix(self.prefix.as_bytes())?;
        ChannelName::from_bytes(name).map_err(|why| self.feed.drop_invalid(&why)).ok()
    }

    fn message(&self, name: ChannelName, payload: Bytes) -> Option<Message> {
        redis_wire::decode(name, payload).map_err(|why| self.feed.drop_invalid(&why)).ok()
    }
}

/// The messages of one read.
struct Batch {
    receiver: Receiver,
    /// The last message's channel, as it is called in Redis and here: the next is often on the same.
    name: Option<(Vec<u8>, ChannelName)>,
    messages: Vec<Message>,
}

impl Messages for Batch {
    fn take(&mut self, channel: &[u8], payload: &[u8]) {
        if self.name.as_ref().is_none_or(|(in_redis, _)| in_redis != channel) {
            self.name = self.receiver.name(channel).map(|name| (channel.to_vec(), name));
        }
        if let Some((_, name)) = &self.name {
            self.messages.extend(self.receiver.message(name.clone(), Bytes::copy_from_slice(payload)));
        }
    }

    fn pass_on(&mut self) {
        if !self.messages.is_empty() {
            self.receiver.feed.publish(self.messages.drain(..));
        }
    }
}

/// Asks the server whether it is there, again and again, until it gives no answer.
async fn ping_until_silent(mut connection: MultiplexedConnection, feed: Feed) -> redis::RedisError {
    loop {
        // What was published before the question arrives before the answer.
        let asked = unix_micros();
        if let Err(error) = redis::cmd("PING").query_async::<()>(&mut connection).await {
            return error;
        }
        feed.watermark(asked);
        sleep(PING_INTERVAL).await;
    }
}

/// Whether the server is there and says no.
fn is_refusal(error: &redis::RedisError) -> bool {
    error.code() == Some("NOPERM")
}

fn closed(why: &'static str) -> redis::RedisError {
    (redis::ErrorKind::Io, why).into()
}
