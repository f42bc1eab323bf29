//! Proves that a subscription delivers: publishes a message to itself and waits until it comes back. A server that was demoted,
//! or is cut off from the others, may still answer PING while nothing that is published arrives. It never reconnects the
//! subscription.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::{AsyncConnectionConfig, Cmd, RedisError, RedisResult, aio::MultiplexedConnection};
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use crate::{
    log_rate::LogRate,
    source::redis::{Address, Connection, Server, Topology, broken, explain, has_moved, is_forbidden, slot},
};

/// Longest time for the probe to come back.
const LIMIT: Duration = Duration::from_secs(5);
/// The connection that probes are published on is made again this often: the name in `redis.url` may lead to another server now,
/// where publishers connect, while the subscription stays at the old one.
const RENEW: Duration = Duration::from_secs(5);
/// How long a subscription stays at a server that Sentinel does not name any more, as long as the server says that it is a primary.
/// Publishers may still be connected to it. It soon becomes a replica, which is noticed; a gap event before that would be too early.
const FAILOVER: Duration = Duration::from_secs(10);

/// How many channels are tried to find one in the slots of a node. A node with one slot of 16384 is nearly always found.
const CHANNELS_TRIED: u32 = 200_000;

/// The probe of one connection, on the side that receives it.
#[derive(Debug)]
pub(super) struct Probe {
    /// The channel's name in Redis. No other connection has it.
    channel: String,
    /// Whether it is published with SPUBLISH.
    is_sharded: bool,
    /// The number of the last probe that has arrived.
    seen: AtomicU64,
    arrived: Notify,
}

impl Probe {
    /// A probe for a new connection. `prefix`: `redis.prefix`. It is on a channel that clients can't subscribe to.
    pub(super) fn new(prefix: &str) -> Self {
        Self::on(format!("{prefix}ssecast:probe:{:016x}", fastrand::u64(..)), false)
    }

    /// A probe for a node of a cluster, on a channel in one of its slots. `None` if there is no such channel: `redis.prefix` decides
    /// the slot of every channel.
    pub(super) fn in_slots(prefix: &str, owns: impl Fn(u16) -> bool) -> Option<Self> {
        let own = fastrand::u64(..);
        let mut channels = (0..CHANNELS_TRIED).map(|tag| format!("{prefix}ssecast:probe:{{{tag}}}:{own:016x}"));
        channels.find(|channel| owns(slot(channel.as_bytes()))).map(|channel| Self::on(channel, true))
    }

    fn on(channel: String, is_sharded: bool) -> Self {
        Self { channel, is_sharded, seen: AtomicU64::new(0), arrived: Notify::new() }
    }

    /// The channel's name in Redis.
    pub(super) fn channel(&self) -> &str {
        &self.channel
    }

    /// Whether its channel is one of SSUBSCRIBE.
    pub(super) fn is_sharded(&self) -> bool {
        self.is_sharded
    }

    /// Whether messages on this channel of Redis are probes.
    pub(super) fn is_on(&self, channel: &[u8]) -> bool {
        self.channel.as_bytes() == channel
    }

    /// Takes a probe. All messages before it must have been passed on.
    pub(super) fn take(&self, payload: &[u8]) {
        let number = std::str::from_utf8(payload).ok().and_then(|number| number.parse().ok());
        self.seen.fetch_max(number.unwrap_or(0), Ordering::Release);
        self.arrived.notify_one();
    }

    async fn arrival(&self, number: u64) {
        while self.seen.load(Ordering::Acquire) < number {
            self.arrived.notified().await;
        }
    }
}

/// Publishes probes for one subscription.
pub(super) struct Prober {
    server: Server,
    /// `None`: there is none for this node of a cluster.
    probe: Option<Arc<Probe>>,
    /// The subscription's server.
    subscribed_at: Address,
    /// The subscription's connection, on which the probe is published while there is no other.
    subscription: MultiplexedConnection,
    /// The publishing connection, and when it was made or tried.
    own: Option<Connection>,
    renewed: Option<Instant>,
    /// Since when Sentinel names another primary.
    superseded: Option<Instant>,
    number: u64,
}

impl Prober {
    /// A prober for a subscription. `probe`: the probe whose channel the connection is subscribed to, if there is one.
    pub(super) fn new(server: Server, probe: Option<Arc<Probe>>, connection: &Connection) -> Self {
        Self {
            server,
            probe,
            subscribed_at: connection.address.clone(),
            subscription: connection.commands.clone(),
            own: None,
            renewed: None,
            superseded: None,
            number: 0,
        }
    }

    /// Publishes a probe, and waits until it has arrived. Where the ACL does not allow that, only Sentinel is asked. False if the
    /// subscription may be at a server that is no primary any more.
    ///
    /// # Errors
    /// The probe does not come back, or Sentinel names another primary than that of the subscription.
    pub(super) async fn check(&mut self) -> RedisResult<bool> {
        // Each node of a cluster knows which slots it owns, and says so.
        let is_sharded = self.probe.as_ref().is_some_and(|probe| probe.is_sharded);
        let is_due = self.superseded.is_some() || self.renewed.is_none_or(|renewed| renewed.elapsed() >= RENEW);
        if is_due && !is_sharded {
            self.renew().await?;
        }
        if self.superseded.is_some() {
            return Ok(false);
        }
        let Some(probe) = self.probe.clone() else { return Ok(true) };
        self.number += 1;
        let mut publish = redis::cmd(if is_sharded { "SPUBLISH" } else { "PUBLISH" });
        publish.arg(probe.channel()).arg(self.number);
        if let Err(error) = self.publish(&publish).await {
            if is_forbidden(&error) {
                log_forbidden(probe.channel());
                self.probe = None;
                return Ok(true);
            }
            return Err(if has_moved(&error) { broken("a slot of the cluster has moved") } else { error });
        }
        timeout(LIMIT, probe.arrival(self.number)).await.map(|()| true).map_err(|_| {
            let publisher = self.own.as_ref().map_or(&self.subscribed_at, |own| &own.address);
            broken(format!(
                "it answers, but what is published does not arrive: a probe published at {publisher} did not come back in {} s",
                LIMIT.as_secs()
            ))
        })
    }

    async fn publish(&mut self, publish: &Cmd) -> RedisResult<()> {
        if let Some(own) = &self.own {
            match publish.query_async(&mut own.commands.clone()).await {
                Err(error) if !is_forbidden(&error) => self.own = None,
                done => return done,
            }
        }
        publish.query_async(&mut self.subscription).await
    }

    /// Finds the server again, as a publisher does, and connects to it.
    async fn renew(&mut self) -> RedisResult<()> {
        self.renewed = Some(Instant::now());
        let found = match self.server.find().await {
            Ok(address) => address,
            Err(error) => {
                self.log_unrenewed(&explain(&error));
                return Ok(());
            }
        };
        let is_superseded = matches!(self.server.topology(), Topology::Sentinel { .. }) && found != self.subscribed_at;
        if is_superseded {
            self.own = None;
            let since = *self.superseded.get_or_insert_with(Instant::now);
            return if since.elapsed() < FAILOVER { Ok(()) } else { Err(superseded(&found, &self.subscribed_at)) };
        }
        self.superseded = None;
        if self.probe.is_some() {
            match self.server.open(&found, &AsyncConnectionConfig::new(), |stream| stream).await {
                Ok(connection) => self.own = Some(connection),
                Err(error) => self.log_unrenewed(&explain(&error)),
            }
        }
        Ok(())
    }

    fn log_unrenewed(&mut self, error: &str) {
        static RATE: LogRate = LogRate::new();
        self.own = None;
        if let Some(count) = RATE.count() {
            tracing::warn!(
                error,
                count,
                "the connection that checks Redis can't be made; the subscription's own connection is used for the check"
            );
        }
    }
}

fn superseded(found: &Address, subscribed_at: &Address) -> RedisError {
    broken(format!("Sentinel names another primary, {found}, and {subscribed_at} still says that it is one"))
}

/// Logs, once in this process, that probes are not allowed.
pub(super) fn log_forbidden(channel: &str) {
    static LOGGED: AtomicBool = AtomicBool::new(false);
    if !LOGGED.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            channel,
            "Redis's ACL does not allow the probe that checks delivery: only PING and ROLE are checked; allow its user to \
             SUBSCRIBE and PUBLISH on ssecast:probe:* (with redis.prefix before it)"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_connection_has_a_probe_of_its_own() {
        let (one, other) = (Probe::new("site:"), Probe::new("site:"));
        assert!(one.channel().starts_with("site:ssecast:probe:"));
        assert!(one.is_on(one.channel().as_bytes()) && !one.is_on(other.channel().as_bytes()));
    }

    #[test]
    fn a_node_of_a_cluster_has_a_probe_in_its_slots() {
        for owned in [0, 1, 16383] {
            let probe = Probe::in_slots("site:", |slot| slot == owned).unwrap();
            assert_eq!(slot(probe.channel().as_bytes()), owned);
        }
        assert!(Probe::in_slots("{site}:", |at| at != slot(b"site")).is_none(), "all channels are in one slot");
    }

    #[tokio::test]
    async fn a_probe_is_awaited_by_its_number() {
        let probe = Probe::new("");
        probe.take(b"1");
        probe.take(b"no number");
        probe.arrival(1).await;
        assert!(timeout(Duration::from_millis(10), probe.arrival(2)).await.is_err());
        probe.take(b"3");
        probe.arrival(2).await;
    }
}
