//! The list of clients that have read more of a journal elsewhere than this node has read yet. It serves none.

use super::client::ClientKey;
use crate::cursor::Position;

/// The clients that are ahead of the hub.
#[derive(Default)]
pub(super) struct Ahead {
    clients: Vec<ClientKey>,
    /// The hub's last position when they were looked at.
    looked_at: Position,
}

impl Ahead {
    /// Adds a client, unless it stands here.
    pub(super) fn add(&mut self, key: ClientKey) {
        if !self.clients.contains(&key) {
            self.clients.push(key);
        }
    }

    /// Adds a client that does not stand here.
    pub(super) fn add_new(&mut self, key: ClientKey) {
        self.clients.push(key);
    }

    /// Takes all clients, if there are any and the hub has moved to `last` since they were taken.
    pub(super) fn take(&mut self, last: Position) -> Vec<ClientKey> {
        if self.clients.is_empty() || self.looked_at == last {
            return Vec::new();
        }
        self.looked_at = last;
        std::mem::take(&mut self.clients)
    }

    /// All clients that stand here. Some may have ended.
    pub(super) fn clients(&self) -> Vec<ClientKey> {
        self.clients.clone()
    }
}
