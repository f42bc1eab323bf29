//! What is needed to make a shard. It makes none.

use std::sync::Arc;

use super::queue::Queue;
use crate::{
    broker::Dispatcher, client_limit::ClientLimit, config::Config, cursor::Cursor, metrics::Metrics, snapshot::Transfer,
};

/// What is needed to make a shard.
pub struct Parts {
    /// The shard's number among the process's shards, from 0.
    pub number: usize,
    /// The configuration.
    pub config: Arc<Config>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The limit on clients.
    pub client_limit: Arc<ClientLimit>,
    /// Where the shard subscribes to channels.
    pub dispatcher: Arc<Dispatcher>,
    /// The shard's queue.
    pub queue: Arc<Queue>,
    /// The node, and the last position before the shard began.
    pub cursor: Cursor,
    /// Whether sources must be asked to deliver a channel.
    pub on_demand: bool,
    /// Whether every source's messages are entries of journals.
    pub journals_only: bool,
    /// The state of a shard of the predecessor, at an upgrade.
    pub inherited: Option<Transfer>,
}
