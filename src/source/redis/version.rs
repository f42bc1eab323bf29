//! What a Redis server says of itself: its product, version, and part in the replication. It asks with HELLO, which every user may
//! send, whatever the ACL says.

use std::collections::HashMap;

use redis::{FromRedisValue as _, RedisResult, Value, aio::MultiplexedConnection};

/// The oldest Redis that can be used: RESP3 came with it.
pub(super) const OLDEST: (u32, u32) = (6, 0);

/// A server's own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::source) struct Product {
    /// `redis`, `valkey` or another.
    server: String,
    /// As the server writes it.
    version: String,
    /// Whether it is no replica. Unknown counts as a primary.
    pub(in crate::source) is_primary: bool,
    /// Whether it is a node of a cluster.
    pub(in crate::source) is_cluster: bool,
}

impl Product {
    /// Asks a server.
    ///
    /// # Errors
    /// The connection is lost.
    pub(in crate::source) async fn ask(commands: &mut MultiplexedConnection) -> RedisResult<Self> {
        let answer: Value = redis::cmd("HELLO").query_async(commands).await?;
        Ok(Self::of(HashMap::<String, Value>::from_redis_value(answer).unwrap_or_default()))
    }

    fn of(mut fields: HashMap<String, Value>) -> Self {
        let mut text =
            |name: &str| fields.remove(name).and_then(|value| String::from_redis_value(value).ok()).unwrap_or_default();
        Self {
            server: text("server"),
            version: text("version"),
            is_primary: !matches!(text("role").as_str(), "replica" | "slave"),
            is_cluster: text("mode") == "cluster",
        }
    }

    /// Name and version, for people.
    pub(in crate::source) fn name(&self) -> String {
        let mut letters = self.server.chars();
        let first = letters.next().map(|first| first.to_ascii_uppercase());
        first.into_iter().chain(letters).chain([' ']).chain(self.version.chars()).collect()
    }

    /// Whether its version is known and older than `version` (major, minor) of Redis.
    pub(in crate::source) fn is_older_than(&self, version: (u32, u32)) -> bool {
        let mut parts = self.version.split('.').map(|part| part.parse().ok());
        match (parts.next().flatten(), parts.next().flatten()) {
            (Some(major), Some(minor)) => (major, minor) < version,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product(fields: &[(&str, &str)]) -> Product {
        Product::of(
            fields.iter().map(|&(name, text)| (name.to_owned(), Value::SimpleString(text.to_owned()))).collect(),
        )
    }

    #[test]
    fn a_server_is_known_by_its_own_words() {
        let replica = product(&[("server", "redis"), ("version", "7.0.15"), ("role", "replica"), ("mode", "cluster")]);
        assert_eq!(replica.name(), "Redis 7.0.15");
        assert!(!replica.is_primary && replica.is_cluster);
        assert!(!replica.is_older_than((7, 0)) && replica.is_older_than((7, 2)) && replica.is_older_than((8, 0)));
        let other = product(&[("role", "master"), ("mode", "standalone")]);
        assert!(other.is_primary && !other.is_cluster);
        assert!(!other.is_older_than((99, 0)), "an unknown version is not refused");
    }
}
