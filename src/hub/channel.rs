//! The data of one channel. It knows no other channel, and no client.

use super::history::History;
use crate::{clock::Uptime, config::RuleId, cursor::Position, name::ChannelName};

/// An index of the hub's channels.
pub type ChannelId = u32;
/// An index of the hub's groups.
pub type GroupId = u32;

/// Whether a channel's events reach the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subscription {
    /// The sources were not asked to deliver the channel, or not all of them have answered.
    Pending,
    /// Every source has answered: it delivers the channel's events, or it is disconnected and reports when it is connected again.
    Confirmed,
}

/// A channel that has clients, or whose history is kept.
#[derive(Debug)]
pub struct Channel {
    pub(super) name: ChannelName,
    /// Whether it is a pattern.
    pub(super) is_pattern: bool,
    /// Whether a source must confirm the channel before its events arrive.
    pub(super) on_demand: bool,
    /// The rule that keeps the channel always, where a source must be asked for channels.
    pub(super) kept_by: Option<RuleId>,
    /// The rule that says how much of it is kept.
    pub(super) rule: RuleId,
    pub(super) history: History,
    pub(super) subscription: Subscription,
    /// Number of streams and polls that read the channel.
    pub(super) subscribers: u32,
    /// Number of requests that hold the channel, since they wait until it is confirmed (`Hub::hold`).
    pub(super) holds: u32,
    /// Number of its clients that are behind. While there are any, the history may exceed `history.messages` (`history.stretch`).
    pub(super) behind: u32,
    /// Since when the channel has had no client and no hold; `None` while it has one.
    pub(super) idle_since: Option<Uptime>,
    /// Whether the shard is subscribed to the channel at the dispatcher (`Hub::set_wanted`).
    pub(super) wanted: bool,
    /// Set while the channel is in `Hub`'s `eviction`: the position of its newest event when it was put there.
    pub(super) queued_at: Option<Position>,
    /// Groups that read the channel.
    pub(super) groups: Vec<GroupId>,
}

impl Channel {
    pub(super) fn new(name: ChannelName, history: History) -> Self {
        Self {
            is_pattern: name.is_pattern(),
            name,
            on_demand: false,
            kept_by: None,
            rule: 0,
            history,
            subscription: Subscription::Pending,
            subscribers: 0,
            holds: 0,
            behind: 0,
            idle_since: None,
            wanted: false,
            queued_at: None,
            groups: Vec::new(),
        }
    }

    /// Whether a client reads the channel, or a request holds it.
    pub(super) fn is_in_use(&self) -> bool {
        self.subscribers > 0 || self.holds > 0
    }
}

/// Bytes that a channel takes beside its events: its state, its name, and its entries in the hub's tables.
pub(super) fn base_weight(name: &ChannelName) -> u32 {
    u32::try_from(size_of::<Channel>() + name.as_str().len() + 128).unwrap_or(u32::MAX)
}
