//! What a publish route may ask of the node. It publishes nothing.

use std::sync::Arc;

use crate::{broker::Dispatcher, cursor::Cursor, name::ChannelName};

/// This node, as a [`Publisher`](crate::broker::Publisher) sees it: it answers publishers, who want to know how many clients there
/// are.
#[derive(Clone)]
pub struct Node(Arc<Dispatcher>);

impl Node {
    /// The node of a dispatcher.
    #[must_use]
    pub(crate) fn new(dispatcher: Arc<Dispatcher>) -> Self {
        Self(dispatcher)
    }

    /// Number of this node's clients of each channel, in the order of `names`.
    pub async fn subscribers(&self, names: Vec<ChannelName>) -> Vec<u32> {
        self.0.subscribers(names).await
    }

    /// The id of the last event of this node.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.0.cursor()
    }
}
