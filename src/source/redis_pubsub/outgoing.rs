//! The connections that publishes go out on: one, or one to each primary of a cluster whose channels are sharded. It never
//! reconnects and never retries.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use redis::{AsyncConnectionConfig, PushInfo, PushKind, RedisError, RedisResult};

use super::{link::HAS_SHARDED, wire};
use crate::{
    event::Message,
    source::redis::{Connection, Server, Slots, Topology, broken, has_moved, slot},
};

/// Connections that are used together.
pub(super) struct Outgoing {
    nodes: Vec<Connection>,
    /// `None`: PUBLISH, on one connection.
    slots: Option<Slots>,
    /// Set when one is closed.
    gone: Arc<AtomicBool>,
}

/// Why messages were not published.
pub(super) struct Failure {
    pub(super) error: RedisError,
    /// Messages that Redis has refused, by their index, where it has answered.
    pub(super) refused: Vec<usize>,
    /// Whether some of the messages have been published.
    pub(super) is_partial: bool,
}

impl Outgoing {
    /// Connects. `sharded`: whether a cluster is used by SPUBLISH, if it has that.
    ///
    /// # Errors
    /// A server can't be reached or refuses the login.
    pub(super) async fn open(server: &Server, sharded: bool) -> RedisResult<Self> {
        let gone = Arc::new(AtomicBool::new(false));
        let closed = Arc::clone(&gone);
        let options = AsyncConnectionConfig::new().set_push_sender(move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                closed.store(true, Ordering::Release);
            }
            Ok::<(), ()>(())
        });
        if sharded && matches!(server.topology(), Topology::Cluster(_)) {
            let (slots, product) = server.slots().await?;
            if !product.is_older_than(HAS_SHARDED) {
                let mut nodes = Vec::new();
                for address in slots.primaries() {
                    nodes.push(server.open(&address, &options, |stream| stream).await?);
                }
                return Ok(Self { nodes, slots: Some(slots), gone });
            }
        }
        Ok(Self { nodes: vec![server.connect(&options).await?], slots: None, gone })
    }

    /// Whether a connection was closed.
    pub(super) fn is_closed(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Publishes messages, with `prefix` before the channels' names. On one connection all are published or, where one is refused,
    /// none. On several, those of each channel keep their order.
    pub(super) async fn publish(&self, messages: &[&Message], prefix: &str) -> Result<(), Failure> {
        let names: Vec<String> = messages.iter().map(|message| format!("{prefix}{}", message.channel)).collect();
        let Some(slots) = &self.slots else { return self.publish_on_one(messages, &names).await };
        let failed = |error, is_partial| Failure { error, refused: Vec::new(), is_partial };
        let mut of_node: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, name) in names.iter().enumerate() {
            let owner = slots.owner(slot(name.as_bytes()));
            let node = owner.and_then(|owner| self.nodes.iter().position(|node| node.address == *owner));
            let node = node.ok_or_else(|| failed(broken("a slot of the cluster has no primary"), false))?;
            of_node.entry(node).or_default().push(index);
        }
        let (mut refused, mut moved, mut published) = (Vec::new(), None, 0);
        for (node, indexes) in of_node {
            let mut commands = redis::pipe();
            for &index in &indexes {
                commands.cmd("SPUBLISH").arg(&names[index]).arg(&wire::encode(messages[index])[..]);
            }
            let taken: RedisResult<Vec<u64>> = commands.query_async(&mut self.nodes[node].commands.clone()).await;
            match taken {
                Ok(_) => published += indexes.len(),
                Err(error) => {
                    // Without an answer it is unknown which were published. Else all those that were not answered with an error.
                    if let Some(errors) = error.clone().into_server_errors() {
                        let errors: HashSet<usize> = errors.iter().map(|(at, _)| *at).collect();
                        published += indexes.len() - errors.len();
                        let refused_here = indexes.iter().enumerate().filter(|(at, _)| errors.contains(at));
                        refused.extend(refused_here.map(|(_, index)| index));
                    }
                    if !has_moved(&error) {
                        return Err(failed(error, published > 0));
                    }
                    moved = Some(error);
                }
            }
        }
        match moved {
            None => Ok(()),
            Some(error) => {
                refused.sort_unstable();
                Err(Failure { error, refused, is_partial: published > 0 })
            }
        }
    }

    async fn publish_on_one(&self, messages: &[&Message], names: &[String]) -> Result<(), Failure> {
        let failed = |error| Failure { error, refused: Vec::new(), is_partial: false };
        let node = self.nodes.first().ok_or_else(|| failed(broken("there is no connection")))?;
        let mut commands = redis::pipe();
        if messages.len() > 1 {
            commands.atomic(); // All of a list or, where one is refused, none.
        }
        for (message, name) in messages.iter().zip(names) {
            commands.publish(name, &wire::encode(message)[..]);
        }
        let taken: RedisResult<Vec<u64>> = commands.query_async(&mut node.commands.clone()).await;
        taken.map(drop).map_err(failed)
    }
}
