//! One run of the source over all its connections: connects, subscribes, serves until the connection is lost, and again.
//! `receive` takes what arrives.
//!
//! Invariant: a subscription is confirmed only once Redis has confirmed it, and everything published after that is published
//! here until the connection is lost. The loss is reported.

use std::{
    collections::{HashMap, HashSet},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use redis::{AsyncConnectionConfig, RedisError, RedisResult, aio::MultiplexedConnection};
use tokio::{
    sync::{Notify, mpsc::UnboundedReceiver},
    time::{Instant, timeout},
};

use super::{
    RedisPubSub, liveness,
    probe::{Probe, Prober},
    receive::{Gathered, Receiver},
    tap::Tap,
};
use crate::{
    broker::{Generation, Interest},
    log_rate::LogRate,
    name::ChannelName,
    source::{
        Sink,
        backoff::Backoff,
        redis::{Connection, broken, explain, is_forbidden, login_refused},
    },
};

/// Most channels in one SUBSCRIBE.
const CHANNELS_A_COMMAND: usize = 1000;
/// A connection that is lost sooner than this counts as a failure: the next try waits longer, since each loss gives all clients
/// a gap.
const STEADY: Duration = Duration::from_secs(5);

pub(super) struct Session {
    source: RedisPubSub,
    sink: Sink,
    interest: UnboundedReceiver<Interest>,
    /// Channels to subscribe to, with the subscription that asked for each.
    wanted: HashMap<ChannelName, Generation>,
}

/// A channel that Redis refuses, and its error.
type Refusal = (ChannelName, Generation, String);

impl Session {
    pub(super) fn new(source: RedisPubSub, sink: Sink, interest: UnboundedReceiver<Interest>) -> Self {
        Self { source, sink, interest, wanted: HashMap::new() }
    }

    /// Runs until the dispatcher has ended.
    pub(super) async fn run(mut self) {
        let mut retry = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        let mut unsteady = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
        let (mut tries, mut cuts) = (0_u32, None);
        loop {
            let mut wait = None;
            let error = match self.connect_and_subscribe().await {
                Ok((connected, began)) => {
                    if tries > 0 {
                        tracing::info!(channels = self.wanted.len(), "Redis reconnected; clients got a gap event");
                    }
                    let known = liveness::output_cuts(&connected.connection.commands).await;
                    if known.zip(cuts).is_some_and(|(known, before)| known > before) {
                        tracing::warn!(
                            "Redis has closed a connection because its output buffer was full, perhaps this one: raise \
                             client-output-buffer-limit pubsub in redis.conf, or publish less at once"
                        );
                    }
                    cuts = known.or(cuts);
                    tries = 0;
                    let error = self.serve(&connected).await;
                    self.source.health.note_change();
                    // Messages that it still delivers come before the loss, not after it.
                    connected.connection.close().await;
                    if began.elapsed() >= STEADY {
                        retry.reset();
                        unsteady.reset();
                    } else {
                        wait = Some(unsteady.next());
                    }
                    error
                }
                Err(error) => error,
            };
            if self.interest.is_closed() {
                return;
            }
            let why = explain(&error);
            if login_refused(&error).is_some() {
                self.sink.login_refused(&why);
            } else {
                self.sink.disconnected(&why);
            }
            tries += 1;
            // At each power of two: the first failure at once, and few lines for a long time without Redis.
            if tries.is_power_of_two() {
                static RATE: LogRate = LogRate::new();
                if tries > 1 || RATE.count().is_some() {
                    tracing::warn!(
                        error = why,
                        tries,
                        "Redis disconnected: messages are being lost; clients get a gap event on reconnect"
                    );
                }
            }
            let note_interest = async {
                while let Some(interest) = self.interest.recv().await {
                    note(&mut self.wanted, interest);
                }
            };
            // It ends early if the dispatcher has ended.
            let _ = timeout(wait.unwrap_or_else(|| retry.next()), note_interest).await;
        }
    }

    /// Connects, asks whether Redis can be relied on, and subscribes to all that is wanted.
    async fn connect_and_subscribe(&mut self) -> RedisResult<(Connected, Instant)> {
        let mut connected = self.connect().await?;
        let mut connection = connected.connection.commands.clone();
        liveness::check(&mut connection, &self.source.health).await?;
        self.source.health.note_change();
        connected.is_probed = match connection.subscribe(connected.probe.channel()).await {
            Err(error) if is_forbidden(&error) => false,
            done => done.map(|()| true)?,
        };
        while let Ok(interest) = self.interest.try_recv() {
            note(&mut self.wanted, interest);
        }
        let asked = self.sink.now();
        let names: Vec<ChannelName> = self.wanted.keys().cloned().collect();
        let refused = self.subscribe(&mut connection, &names).await?;
        self.sink.reconnected(asked, self.wanted.iter().map(|(name, &generation)| (name, generation)));
        self.refuse(refused);
        Ok((connected, Instant::now()))
    }

    async fn connect(&self) -> RedisResult<Connected> {
        let gone = Arc::new(Notify::new());
        let receiver = Receiver::new(self.sink.clone(), self.source.prefix.clone(), Arc::clone(&gone));
        let probe = Arc::new(Probe::new(&self.source.prefix));
        let gathered = Gathered::new(receiver.clone(), Arc::clone(&probe));
        let options = AsyncConnectionConfig::new().set_push_sender(move |push| {
            receiver.receive(push);
            Ok::<(), ()>(())
        });
        let server = &self.source.server;
        let address = server.find().await?;
        let longest = self.source.longest;
        let connection = server.open(&address, &options, |stream| Tap::new(stream, gathered, longest)).await?;
        Ok(Connected { connection, probe, is_probed: false, gone })
    }

    /// Subscribes and unsubscribes as it is asked until the connection is lost; gives the reason.
    async fn serve(&mut self, connected: &Connected) -> RedisError {
        let Connected { connection, probe, is_probed, gone } = connected;
        // Runs beside the subscriptions, which don't wait for its answer.
        let prober = Prober::new(self.source.server.clone(), Arc::clone(probe), connection, *is_probed);
        let (sink, health) = (self.sink.clone(), Arc::clone(&self.source.health));
        let mut silent = pin!(liveness::watch(connection.commands.clone(), prober, sink, health));
        let mut connection = connection.commands.clone();
        loop {
            let done = tokio::select! {
                // First, since a subscription on a closed connection would wait for its timeout.
                biased;
                () = gone.notified() => return broken("the connection was closed"),
                interest = self.interest.recv() => match interest {
                    Some(interest) => self.meet(&mut connection, interest).await,
                    None => return broken("ssecast is stopping"),
                },
                error = silent.as_mut() => return error,
            };
            if let Err(error) = done {
                return error;
            }
        }
    }

    /// Does what `first` asks for and what is queued behind it, in order, with as many channels in one command as fit.
    async fn meet(&mut self, connection: &mut MultiplexedConnection, first: Interest) -> RedisResult<()> {
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
                let refused = self.subscribe(connection, &names).await?;
                // `subscribe` has removed the refused ones.
                self.sink.confirmed(names.iter().filter_map(|name| Some((name, *self.wanted.get(name)?))));
                self.refuse(refused);
            } else {
                connection.unsubscribe(self.in_redis(&names)).await?;
            }
        }
        Ok(())
    }

    /// Subscribes to the channels. Returns those that Redis's ACL refuses, and removes them from `wanted`.
    async fn subscribe(
        &mut self,
        connection: &mut MultiplexedConnection,
        names: &[ChannelName],
    ) -> RedisResult<Vec<Refusal>> {
        let mut refused = Vec::new();
        for names in names.chunks(CHANNELS_A_COMMAND) {
            match connection.subscribe(self.in_redis(names)).await {
                Err(error) if is_forbidden(&error) => {
                    self.subscribe_one_by_one(connection, names, &mut refused).await?;
                }
                done => done?,
            }
        }
        Ok(refused)
    }

    async fn subscribe_one_by_one(
        &mut self,
        connection: &mut MultiplexedConnection,
        names: &[ChannelName],
        refused: &mut Vec<Refusal>,
    ) -> RedisResult<()> {
        for name in names {
            match connection.subscribe(self.in_redis(std::slice::from_ref(name))).await {
                Err(error) if is_forbidden(&error) => {
                    if let Some(generation) = self.wanted.remove(name) {
                        refused.push((name.clone(), generation, explain(&error)));
                    }
                }
                done => done?,
            }
        }
        Ok(())
    }

    fn refuse(&self, refused: Vec<Refusal>) {
        static RATE: LogRate = LogRate::new();
        for (name, generation, reason) in refused {
            if name.is_reserved() {
                // No client subscribes to such a name: it is the marker of a reload.
                tracing::warn!(
                    channel = %name,
                    error = reason,
                    "Redis refuses the marker's channel: this reload causes a gap event; allow the channel in Redis's ACL"
                );
            } else if let Some(count) = RATE.count() {
                tracing::warn!(
                    channel = %name,
                    error = reason,
                    count,
                    "Redis refuses channels: their clients are closed, and get 403 when they come back"
                );
            }
            self.sink.refused(&name, generation, &reason);
        }
    }

    fn in_redis(&self, names: &[ChannelName]) -> Vec<String> {
        names.iter().map(|name| format!("{}{name}", self.source.prefix)).collect()
    }
}

/// Adds a channel to `wanted` or removes it; returns its name.
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
    connection: Connection,
    probe: Arc<Probe>,
    /// Whether the probe's channel is subscribed to.
    is_probed: bool,
    /// Notified when the connection is closed.
    gone: Arc<Notify>,
}
