//! Whether Redis can be relied on: it answers PING, its part in the replication stays the same, it is no replica that has lost its
//! primary, and what is published comes back (`probe`). It never reconnects.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::{RedisError, RedisResult, Value, aio::MultiplexedConnection};
use tokio::time::sleep;

use super::probe::Prober;
use crate::source::{
    Sink,
    redis::{Address, Product, broken, explain, is_forbidden},
};

/// How often Redis is asked. An event may be stamped with the time for as long as half of `history.skew` after the last
/// answer, so the default of that is well above twice this.
const INTERVAL: Duration = Duration::from_millis(500);

/// The server's role as the source knows it, for its publish route.
#[derive(Debug, Default)]
pub(super) struct Health {
    role: AtomicU8,
    /// How often the source has connected or disconnected.
    changes: AtomicU64,
}

/// The server's part in its replication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// It is a primary, or its role is unknown.
    Primary,
    /// It is a replica whose primary is connected.
    Replica,
    /// It is a replica, and gets nothing from its primary.
    Orphan,
}

impl Health {
    /// Why a publish would not reach all nodes, if that is so.
    pub(super) fn refuses_publishes(&self) -> Option<&'static str> {
        (self.role() != Role::Primary).then_some(
            "Redis is a replica: what is published there does not reach the others; set redis.url to the primary",
        )
    }

    /// The source has connected or disconnected: another server may be the primary now.
    pub(super) fn note_change(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// A number that changes when the source connects or disconnects.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    fn role(&self) -> Role {
        match self.role.load(Ordering::Relaxed) {
            0 => Role::Primary,
            1 => Role::Replica,
            _ => Role::Orphan,
        }
    }

    /// Notes the role; true if it has changed.
    fn note(&self, role: Role) -> bool {
        self.role.swap(role as u8, Ordering::Relaxed) != role as u8
    }
}

/// Checks a new connection.
///
/// # Errors
/// Redis refuses PING, or is a replica without its primary.
pub(super) async fn check(connection: &mut MultiplexedConnection, health: &Health) -> RedisResult<()> {
    ping(connection).await?;
    let role = role(connection).await?;
    health.note(role);
    if role == Role::Orphan { Err(orphan()) } else { Ok(()) }
}

/// A connection that is watched.
pub(super) struct Watched {
    pub(super) connection: MultiplexedConnection,
    pub(super) address: Address,
    pub(super) prober: Prober,
}

/// Asks all servers at intervals until one does not answer or can't be relied on; returns the reason.
pub(super) async fn watch(mut all: Vec<Watched>, sink: Sink, health: Arc<Health>) -> RedisError {
    let is_one = all.len() == 1;
    loop {
        // Messages that were published before the question and the probe arrive before the answer and the probe.
        let asked = sink.now();
        let mut proved = true;
        for watched in &mut all {
            match watched.ask(&health).await {
                Ok(delivers) => proved &= delivers,
                Err(error) if is_one => return error,
                Err(error) => return broken(format!("{}: {}", watched.address, explain(&error))),
            }
        }
        if proved {
            sink.watermark(asked);
        }
        sleep(INTERVAL).await;
    }
}

impl Watched {
    /// Asks once. False if it is not certain that everything arrives.
    async fn ask(&mut self, health: &Health) -> RedisResult<bool> {
        let Self { connection, prober, .. } = self;
        ask_role(connection, health).await?;
        // The probe may wait for seconds. Meanwhile a server that was demoted may have copied the new primary's data, and deliver
        // what is published there, before it is known that messages were lost.
        let role_is_lost = async {
            loop {
                sleep(INTERVAL).await;
                if let Err(error) = ask_role(connection, health).await {
                    return error;
                }
            }
        };
        tokio::select! {
            proved = prober.check() => proved,
            error = role_is_lost => Err(error),
        }
    }
}

/// Asks whether the server answers, and for its role.
///
/// # Errors
/// It does not answer, it can't be relied on, or its role has changed.
async fn ask_role(connection: &mut MultiplexedConnection, health: &Health) -> RedisResult<()> {
    ping(connection).await?;
    match role(connection).await? {
        Role::Orphan => {
            health.note(Role::Orphan);
            Err(orphan())
        }
        // While it changed, messages were lost: clients get a gap.
        role if health.note(role) => Err(broken("its role in the replication has changed")),
        _ => Ok(()),
    }
}

async fn ping(connection: &mut MultiplexedConnection) -> RedisResult<()> {
    // An answer to another command would be another text.
    let text = format!("{:016x}", fastrand::u64(..));
    match redis::cmd("PING").arg(&text).query_async::<Value>(connection).await {
        Ok(Value::BulkString(answer)) if answer == text.as_bytes() => Ok(()),
        Ok(_) => Err(broken("its answers are out of order")),
        Err(error) if is_forbidden(&error) => {
            Err(broken("its user may not PING, without which a loss is not noticed: allow it with ACL SETUSER … +ping"))
        }
        Err(error) => Err(error),
    }
}

async fn role(connection: &mut MultiplexedConnection) -> RedisResult<Role> {
    match redis::cmd("ROLE").query_async::<Value>(connection).await {
        Ok(Value::Array(fields)) => Ok(role_of(&fields)),
        Ok(_) => Ok(Role::Primary),
        // The user may not ask, or the server has no such command. Every user may ask for less.
        Err(error) if error.code().is_some() && !error.is_io_error() => {
            let product = Product::ask(connection).await?;
            Ok(if product.is_primary { Role::Primary } else { Role::Replica })
        }
        Err(error) => Err(error),
    }
}

fn role_of(fields: &[Value]) -> Role {
    let is = |at: usize, word: &[u8]| matches!(fields.get(at), Some(Value::BulkString(text)) if text == word);
    if !is(0, b"slave") {
        Role::Primary
    } else if is(3, b"connected") {
        Role::Replica
    } else {
        Role::Orphan
    }
}

fn orphan() -> RedisError {
    broken("it is a replica and has lost its primary")
}

/// Returns how many connections Redis has closed because their output buffer was full. `None` before Redis 7.4, which does not
/// count them.
pub(super) async fn output_cuts(connection: &MultiplexedConnection) -> Option<u64> {
    let info: String = redis::cmd("INFO").arg("stats").query_async(&mut connection.clone()).await.ok()?;
    output_cuts_of(&info)
}

fn output_cuts_of(info: &str) -> Option<u64> {
    let count = info.lines().find_map(|line| line.strip_prefix("client_output_buffer_limit_disconnections:"))?;
    count.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn a_replica_is_relied_on_only_while_its_primary_is_connected() {
        let replica = |state| role_of(&[bulk("slave"), bulk("10.0.0.1"), Value::Int(6379), bulk(state), Value::Int(1)]);
        assert_eq!(role_of(&[bulk("master"), Value::Int(7), Value::Array(vec![])]), Role::Primary);
        assert_eq!(replica("connected"), Role::Replica);
        for state in ["connect", "connecting", "sync", "handshake"] {
            assert_eq!(replica(state), Role::Orphan, "{state}");
        }
    }

    #[test]
    fn connections_that_redis_has_cut_are_read_from_its_statistics() {
        let newer = "# Stats\r\ntotal_error_replies:0\r\nclient_output_buffer_limit_disconnections:3\r\nreply_buffer_shrinks:0\r\n";
        assert_eq!(output_cuts_of(newer), Some(3));
        assert_eq!(output_cuts_of("# Stats\r\ntotal_error_replies:0\r\n"), None, "a Redis before 7.4");
    }

    #[test]
    fn a_publish_is_refused_unless_redis_is_a_primary() {
        let health = Health::default();
        assert_eq!(health.refuses_publishes(), None);
        assert!(health.note(Role::Replica) && health.refuses_publishes().is_some());
        assert!(!health.note(Role::Replica));
        assert!(health.note(Role::Primary) && health.refuses_publishes().is_none());
    }
}
