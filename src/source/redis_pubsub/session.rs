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

use redis::{RedisError, RedisResult};
use tokio::time::{Instant, timeout};

use super::{
    RedisPubSub,
    link::{Event, Link},
    liveness, wire,
};
use crate::{
    broker::{Generation, Interest},
    log_rate::LogRate,
    name::ChannelName,
    source::{
        Interests, Sink,
        backoff::Backoff,
        redis::{Topology, broken, explain, is_forbidden, login_refused},
    },
};

/// Most channels in one SUBSCRIBE.
const CHANNELS_A_COMMAND: usize = 1000;
/// Why a cluster takes no marker.
const NO_ORDER: &str = "the nodes of a Redis Cluster have no common order of messages";
/// Why sharded channels have no patterns.
const NO_PATTERNS: &str = "a Redis Cluster delivers sharded channels by their names alone: set redis.sharded = false";
/// A connection that is lost sooner than this counts as a failure: the next try waits longer, since each loss gives all clients
/// a gap.
const STEADY: Duration = Duration::from_secs(5);

pub(super) struct Session {
    source: RedisPubSub,
    sink: Sink,
    interest: Interests,
    /// Channels to subscribe to, with the subscription that asked for each.
    wanted: HashMap<ChannelName, Generation>,
}

/// A channel that Redis refuses, and its error.
type Refusal = (ChannelName, Generation, String);

impl Session {
    pub(super) fn new(source: RedisPubSub, sink: Sink, interest: Interests) -> Self {
        Self { source, sink, interest, wanted: HashMap::new() }
    }

    /// Runs until the dispatcher has ended.
    pub(super) async fn run(mut self) {
        let mut retry = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        let mut unsteady = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
        let (mut tries, mut cuts, mut broke_off) = (0_u32, None, false);
        loop {
            let mut wait = None;
            let error = match self.connect_and_subscribe().await {
                Ok((mut link, began)) => {
                    if tries > 0 {
                        tracing::info!(channels = self.wanted.len(), "Redis reconnected; clients got a gap event");
                    }
                    let known = link.output_cuts().await;
                    // Another server has a count of its own.
                    let before = cuts.take_if(|(address, _)| *address == link.address());
                    if known.zip(before).is_some_and(|(known, (_, before))| known > before) {
                        tracing::warn!(
                            "Redis has closed a connection because its output buffer was full, perhaps this one: raise \
                             client-output-buffer-limit pubsub in redis.conf, or publish less at once"
                        );
                    } else if known.is_none() && broke_off {
                        tracing::warn!(
                            "Redis closed the connection in the middle of a message, perhaps because its output buffer was full: \
                             raise client-output-buffer-limit pubsub in redis.conf, or publish less at once"
                        );
                    }
                    cuts = known.map(|known| (link.address(), known));
                    tries = 0;
                    let error = self.serve(&mut link).await;
                    self.source.health.note_change();
                    broke_off = link.broke_off();
                    // Messages that it still delivers come before the loss, not after it.
                    link.close().await;
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
                while let Some(interest) = self.interest.next().await {
                    note(&mut self.wanted, interest);
                }
            };
            // It ends early if the dispatcher has ended.
            let _ = timeout(wait.unwrap_or_else(|| retry.next()), note_interest).await;
        }
    }

    /// Connects, asks whether Redis can be relied on, and subscribes to all that is wanted.
    async fn connect_and_subscribe(&mut self) -> RedisResult<(Link, Instant)> {
        let mut link = Link::open(&self.source, &self.sink).await?;
        self.source.health.note_change();
        while let Some(interest) = self.interest.try_next() {
            note(&mut self.wanted, interest);
        }
        let asked = self.sink.now();
        let names: Vec<ChannelName> = self.wanted.keys().cloned().collect();
        let refused = self.subscribe(&mut link, &names).await?;
        self.sink.reconnected(asked, self.wanted.iter().map(|(name, &generation)| (name, generation)));
        self.refuse(refused);
        Ok((link, Instant::now()))
    }

    /// Subscribes and unsubscribes as it is asked until a connection is lost; gives the reason.
    async fn serve(&mut self, link: &mut Link) -> RedisError {
        // Runs beside the subscriptions, which don't wait for its answer.
        let (sink, health) = (self.sink.clone(), Arc::clone(&self.source.health));
        let mut silent = pin!(liveness::watch(link.watched(&self.source), sink, health));
        loop {
            let done = tokio::select! {
                // First, since a subscription on a closed connection would wait for its timeout.
                biased;
                event = link.event() => match event {
                    Event::Closed => return broken("the connection was closed"),
                    Event::Moved(moved) => self.follow(link, &moved).await,
                },
                interest = self.interest.next() => match interest {
                    Some(interest) => self.meet(link, interest).await,
                    None => return broken("ssecast is stopping"),
                },
                error = silent.as_mut() => return error,
            };
            if let Err(error) = done {
                return error;
            }
        }
    }

    /// Subscribes to channels whose slots have moved, at their new owners. What was published meanwhile may be lost.
    async fn follow(&mut self, link: &mut Link, moved: &[Vec<u8>]) -> RedisResult<()> {
        let name =
            |in_redis: &Vec<u8>| ChannelName::from_bytes(in_redis.strip_prefix(self.source.prefix.as_bytes())?).ok();
        let names: Vec<ChannelName> =
            moved.iter().filter_map(name).filter(|name| self.wanted.contains_key(name)).collect();
        if names.is_empty() {
            return Ok(());
        }
        // A gap event before, since the first message at the new owner may arrive before the second one.
        names.iter().for_each(|name| self.sink.lost(name));
        let refused = self.subscribe(link, &names).await?;
        names.iter().for_each(|name| self.sink.lost(name));
        self.refuse(refused);
        tracing::info!(channels = names.len(), "slots of the Redis Cluster have moved; their clients got a gap event");
        Ok(())
    }

    /// Does what `first` asks for and what is queued behind it, in order, with as many channels in one command as fit.
    async fn meet(&mut self, link: &mut Link, first: Interest) -> RedisResult<()> {
        let mut next = Some(first);
        while let Some(interest) = next.take() {
            let subscribes = matches!(interest, Interest::Subscribe(..));
            let mut names = HashSet::from([note(&mut self.wanted, interest)]);
            while names.len() < CHANNELS_A_COMMAND {
                match self.interest.try_next() {
                    Some(interest) if matches!(interest, Interest::Subscribe(..)) == subscribes => {
                        names.insert(note(&mut self.wanted, interest));
                    }
                    other => {
                        next = other;
                        break;
                    }
                }
            }
            let names: Vec<ChannelName> = names.into_iter().collect();
            if subscribes {
                let refused = self.subscribe(link, &names).await?;
                // `subscribe` has removed the refused ones.
                self.sink.confirmed(names.iter().filter_map(|name| Some((name, *self.wanted.get(name)?))));
                self.refuse(refused);
            } else {
                let (patterns, names) = self.in_redis(&names);
                if !names.is_empty() {
                    link.unsubscribe(names).await?;
                }
                if !patterns.is_empty() && link.has_patterns() {
                    link.unsubscribe_from_patterns(patterns).await?;
                }
            }
        }
        Ok(())
    }

    /// Subscribes to the channels. Returns those that Redis's ACL refuses, and removes them from `wanted`.
    async fn subscribe(&mut self, link: &mut Link, names: &[ChannelName]) -> RedisResult<Vec<Refusal>> {
        let mut refused = Vec::new();
        let mut names = names.to_vec();
        if matches!(self.source.server.topology(), Topology::Cluster(_)) {
            // Only the marker of a reload is reserved. Nodes of a cluster have no common order that it could divide.
            for marker in names.extract_if(.., |name| name.is_reserved()) {
                let generation = self.wanted.remove(&marker);
                refused.extend(generation.map(|generation| (marker, generation, NO_ORDER.to_owned())));
            }
        }
        let mut patterns: Vec<ChannelName> = names.extract_if(.., |name| name.is_pattern()).collect();
        if !link.has_patterns() {
            for pattern in patterns.drain(..) {
                let generation = self.wanted.remove(&pattern);
                refused.extend(generation.map(|generation| (pattern, generation, NO_PATTERNS.to_owned())));
            }
        }
        for some in [&names, &patterns].into_iter().flat_map(|all| all.chunks(CHANNELS_A_COMMAND)) {
            match self.subscribe_to(link, some).await {
                Err(error) if is_forbidden(&error) => self.subscribe_one_by_one(link, some, &mut refused).await?,
                done => done?,
            }
        }
        Ok(refused)
    }

    /// Sends one command for some names, or for some patterns.
    async fn subscribe_to(&self, link: &mut Link, some: &[ChannelName]) -> RedisResult<()> {
        let (patterns, names) = self.in_redis(some);
        if patterns.is_empty() {
            link.subscribe(names, &self.source).await
        } else {
            link.subscribe_to_patterns(patterns).await
        }
    }

    async fn subscribe_one_by_one(
        &mut self,
        link: &mut Link,
        names: &[ChannelName],
        refused: &mut Vec<Refusal>,
    ) -> RedisResult<()> {
        for name in names {
            match self.subscribe_to(link, std::slice::from_ref(name)).await {
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
            if reason == NO_ORDER {
                tracing::info!(
                    "a reload causes a gap event: the nodes of a Redis Cluster have no common order of messages"
                );
            } else if name.is_reserved() {
                // No client subscribes to such a name: it is the marker of a reload.
                tracing::warn!(
                    channel = %name,
                    error = reason,
                    "Redis refuses the marker's channel: this reload causes a gap event; allow the channel in Redis's ACL"
                );
            } else if let Some(count) = RATE.count() {
                if reason == NO_PATTERNS {
                    tracing::warn!(
                        pattern = %name,
                        count,
                        "a pattern is refused: sharded channels of a Redis Cluster have none; clients of its channels get 403; set \
                         redis.sharded = false, or keep no channels always and allow no patterns"
                    );
                } else if name.is_pattern() {
                    tracing::warn!(
                        pattern = %name,
                        error = reason,
                        count,
                        "Redis refuses a pattern: clients of its channels are closed, and get 403 when they come back; allow the \
                         pattern itself in Redis's ACL, with redis.prefix before it, and reload"
                    );
                } else {
                    tracing::warn!(
                        channel = %name,
                        error = reason,
                        count,
                        "Redis refuses channels: their clients are closed, and get 403 when they come back"
                    );
                }
            }
            self.sink.refused(&name, generation, &reason);
        }
    }

    /// The patterns among `names`, and the others, as they are written in Redis.
    fn in_redis(&self, names: &[ChannelName]) -> (Vec<String>, Vec<String>) {
        let (patterns, names): (Vec<_>, Vec<_>) = names.iter().partition(|name| name.is_pattern());
        let begin = wire::escape(&self.source.prefix);
        let patterns = patterns.into_iter().map(|pattern| format!("{begin}{pattern}")).collect();
        (patterns, names.into_iter().map(|name| format!("{}{name}", self.source.prefix)).collect())
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
