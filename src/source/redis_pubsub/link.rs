//! What the session subscribes on: one connection, or with SSUBSCRIBE one to each primary of a cluster. It never reconnects.
//!
//! Invariant: a channel is subscribed to at the node that owns its slot, or the call fails. Where a slot moves to another node,
//! Redis ends the subscription, and [`Link::event`] returns the channel.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redis::{AsyncConnectionConfig, RedisError, RedisResult};
use tokio::{
    sync::{Notify, mpsc},
    time::sleep,
};

use super::{
    RedisPubSub, liveness,
    liveness::Watched,
    probe::{self, Probe, Prober},
    receive::{Ended, Gathered, Receiver},
    tap::Tap,
};
use crate::{
    lock::lock,
    source::{
        Sink,
        redis::{Address, Connection, Slots, Topology, broken, has_moved, is_forbidden, slot},
    },
};

/// The oldest Redis that has SSUBSCRIBE.
pub(super) const HAS_SHARDED: (u32, u32) = (7, 0);
/// How often the owner of a slot is asked for again, while a slot moves.
const MOVES: u32 = 20;
/// The wait between two of them.
pub(super) const MOVE_WAIT: Duration = Duration::from_millis(100);

/// The connections on which one run of the session is subscribed.
pub(super) struct Link {
    nodes: Vec<Node>,
    /// `None`: SUBSCRIBE, on one connection.
    slots: Option<Slots>,
    /// Notified when a connection is closed.
    gone: Arc<Notify>,
    /// Names in Redis of channels whose subscription Redis has ended.
    ended: mpsc::UnboundedReceiver<Vec<u8>>,
    /// Set when a connection ends in the middle of a message.
    broke_off: Arc<AtomicBool>,
}

/// What happens to a link.
pub(super) enum Event {
    /// A connection was closed.
    Closed,
    /// The slots of these channels, by their names in Redis, have moved to other nodes: they are not subscribed to any more.
    Moved(Vec<Vec<u8>>),
}

struct Node {
    connection: Connection,
    /// `None`: the ACL does not allow it, or no channel is in this node's slots.
    probe: Option<Arc<Probe>>,
    /// Channels that Redis has been asked to unsubscribe.
    leaving: Arc<Mutex<HashSet<Vec<u8>>>>,
}

impl Link {
    /// Connects, and subscribes to the probes.
    ///
    /// # Errors
    /// A server can't be reached, or can't be relied on.
    pub(super) async fn open(source: &RedisPubSub, sink: &Sink) -> RedisResult<Self> {
        let (reports, ended) = mpsc::unbounded_channel();
        let mut link = Self { nodes: Vec::new(), slots: None, gone: Arc::default(), ended, broke_off: Arc::default() };
        if source.sharded && matches!(source.server.topology(), Topology::Cluster(_)) {
            let (slots, product) = source.server.slots().await?;
            if !product.is_older_than(HAS_SHARDED) {
                if slots.unowned() > 0 {
                    return Err(broken(format!("{} slots of the cluster have no primary", slots.unowned())));
                }
                for address in slots.primaries() {
                    let owns = |slot| slots.owner(slot) == Some(&address);
                    let probe = Probe::in_slots(&source.prefix, owns).map(Arc::new);
                    link.add(source, sink, &address, probe, reports.clone()).await?;
                }
                link.slots = Some(slots);
                return Ok(link);
            }
        }
        let address = source.server.find().await?;
        let probe = Some(Arc::new(Probe::new(&source.prefix)));
        link.add(source, sink, &address, probe, reports).await?;
        Ok(link)
    }

    async fn add(
        &mut self,
        source: &RedisPubSub,
        sink: &Sink,
        address: &Address,
        probe: Option<Arc<Probe>>,
        reports: mpsc::UnboundedSender<Vec<u8>>,
    ) -> RedisResult<()> {
        let receiver = Receiver::new(sink.clone(), source.prefix.clone(), Arc::clone(&self.gone));
        let leaving = Arc::new(Mutex::default());
        let ended = Ended { leaving: Arc::clone(&leaving), reports, broke_off: Arc::clone(&self.broke_off) };
        let gathered = Gathered::new(receiver.clone(), probe.clone(), ended);
        let options = AsyncConnectionConfig::new().set_push_sender(move |push| {
            receiver.receive(&push);
            Ok::<(), ()>(())
        });
        let longest = source.longest;
        let tap = |stream| Tap::new(stream, gathered, longest);
        let connection = source.server.open(address, &options, tap).await?;
        liveness::check(&mut connection.commands.clone(), &source.health).await?;
        let mut node = Node { connection, probe, leaving };
        if let Some(probe) = &node.probe {
            let command = if probe.is_sharded() { "SSUBSCRIBE" } else { "SUBSCRIBE" };
            match redis::cmd(command).arg(probe.channel()).query_async(&mut node.connection.commands).await {
                Err(error) if is_forbidden(&error) => {
                    probe::log_forbidden(probe.channel());
                    node.probe = None;
                }
                done => done?,
            }
        }
        self.nodes.push(node);
        Ok(())
    }

    /// What is watched while the link is used.
    pub(super) fn watched(&self, source: &RedisPubSub) -> Vec<Watched> {
        let watched = |node: &Node| Watched {
            connection: node.connection.commands.clone(),
            address: node.connection.address.clone(),
            prober: Prober::new(source.server.clone(), node.probe.clone(), &node.connection),
        };
        self.nodes.iter().map(watched).collect()
    }

    /// The address of a server, if there is one.
    pub(super) fn address(&self) -> Option<Address> {
        self.nodes.first().map(|node| node.connection.address.clone())
    }

    /// How many connections that server has closed because their output buffer was full, if it says so.
    pub(super) async fn output_cuts(&self) -> Option<u64> {
        liveness::output_cuts(&self.nodes.first()?.connection.commands).await
    }

    /// Whether a connection has ended in the middle of a message: Redis has dropped messages that it had still to send.
    pub(super) fn broke_off(&self) -> bool {
        self.broke_off.load(Ordering::Relaxed)
    }

    /// Resolves when something has happened that was not asked for.
    pub(super) async fn event(&mut self) -> Event {
        let mut moved = Vec::new();
        tokio::select! {
            biased;
            () = self.gone.notified() => Event::Closed,
            count = self.ended.recv_many(&mut moved, usize::MAX) => match count {
                // All connections are gone.
                0 => Event::Closed,
                _ => Event::Moved(moved),
            },
        }
    }

    /// Subscribes to channels, given by their names in Redis.
    ///
    /// # Errors
    /// A connection is lost, or the ACL refuses one of them.
    pub(super) async fn subscribe(&mut self, channels: Vec<String>, source: &RedisPubSub) -> RedisResult<()> {
        if self.slots.is_none() {
            let node = self.nodes.first_mut().ok_or_else(no_node)?;
            return node.connection.commands.subscribe(channels).await;
        }
        for _ in 0..MOVES {
            match self.send("SSUBSCRIBE", &channels).await {
                Err(error) if has_moved(&error) => {
                    sleep(MOVE_WAIT).await;
                    self.slots = Some(source.server.slots().await?.0);
                }
                done => return done,
            }
        }
        Err(broken("the cluster's slots do not come to rest"))
    }

    /// Unsubscribes from channels, given by their names in Redis.
    ///
    /// # Errors
    /// A connection is lost.
    pub(super) async fn unsubscribe(&mut self, channels: Vec<String>) -> RedisResult<()> {
        if self.slots.is_none() {
            let node = self.nodes.first_mut().ok_or_else(no_node)?;
            return node.connection.commands.unsubscribe(channels).await;
        }
        for (node, channels) in self.by_node(&channels)? {
            lock(&node.leaving).extend(channels.iter().map(|channel| channel.as_bytes().to_vec()));
        }
        let done = self.send("SUNSUBSCRIBE", &channels).await;
        // All are answered. What Redis ends from now on, it was not asked to.
        for node in &self.nodes {
            let mut leaving = lock(&node.leaving);
            for channel in &channels {
                leaving.remove(channel.as_bytes());
            }
        }
        match done {
            // Where the slot has moved, Redis has ended the subscription.
            Err(error) if has_moved(&error) => Ok(()),
            done => done,
        }
    }

    /// Whether it can subscribe to patterns: with SSUBSCRIBE there are none.
    pub(super) fn has_patterns(&self) -> bool {
        self.slots.is_none()
    }

    /// Subscribes to patterns, as Redis writes them.
    ///
    /// # Errors
    /// The connection is lost, or the ACL refuses one of them.
    pub(super) async fn subscribe_to_patterns(&mut self, patterns: Vec<String>) -> RedisResult<()> {
        self.nodes.first_mut().ok_or_else(no_node)?.connection.commands.psubscribe(patterns).await
    }

    /// Unsubscribes from patterns, as Redis writes them.
    ///
    /// # Errors
    /// The connection is lost.
    pub(super) async fn unsubscribe_from_patterns(&mut self, patterns: Vec<String>) -> RedisResult<()> {
        self.nodes.first_mut().ok_or_else(no_node)?.connection.commands.punsubscribe(patterns).await
    }

    /// Sends a command for each channel to the node that owns it: a command may have channels of one slot only.
    async fn send(&self, command: &str, channels: &[String]) -> RedisResult<()> {
        let mut moved = Ok(());
        for (node, channels) in self.by_node(channels)? {
            let mut commands = redis::pipe();
            for channel in channels {
                commands.cmd(command).arg(channel).ignore();
            }
            match commands.query_async::<()>(&mut node.connection.commands.clone()).await {
                Err(error) if has_moved(&error) => moved = Err(error),
                done => done?,
            }
        }
        moved
    }

    /// The channels of each node.
    fn by_node<'a>(&self, channels: &'a [String]) -> RedisResult<Vec<(&Node, Vec<&'a String>)>> {
        let slots = self.slots.as_ref().ok_or_else(no_node)?;
        let mut of_address: HashMap<&Address, Vec<&String>> = HashMap::new();
        for channel in channels {
            let owner = slots.owner(slot(channel.as_bytes()));
            of_address
                .entry(owner.ok_or_else(|| broken("a slot of the cluster has no primary"))?)
                .or_default()
                .push(channel);
        }
        let mut of_node = Vec::new();
        for (address, channels) in of_address {
            let node = self.nodes.iter().find(|node| node.connection.address == *address);
            of_node.push((node.ok_or_else(|| broken(format!("the cluster has a new primary: {address}")))?, channels));
        }
        Ok(of_node)
    }

    /// Closes all connections. When it returns, nothing more is read.
    pub(super) async fn close(self) {
        for node in self.nodes {
            node.connection.close().await;
        }
    }
}

fn no_node() -> RedisError {
    broken("there is no connection")
}
