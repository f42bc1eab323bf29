//! How a publish reaches the shards: by itself ([`Embedded`]), or by a way round through a source that implements
//! [`Publisher`].

use std::{future::Future, pin::Pin, sync::Arc};

use super::{Dispatcher, Receipt};
use crate::{cursor::Cursor, event::Message};

/// What became of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// The event's cursor, where this node gave it.
    pub id: Option<Cursor>,
    /// Clients of the channel on this node.
    pub subscribers: u32,
}

/// A publish was not taken; nothing was lost silently, since whoever published is told.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct PublishError(pub String);

/// A publish under way.
pub type Publishing<'a> = Pin<Box<dyn Future<Output = Result<Vec<Published>, PublishError>> + Send + 'a>>;

/// Takes messages and answers when they are safe.
pub trait Publisher: Send + Sync {
    /// Publishes `messages` in order; one [`Published`] for each.
    fn publish(&self, messages: Vec<Message>) -> Publishing<'_>;
}

/// Publishes straight to the shards of this process.
pub struct Embedded(pub Arc<Dispatcher>);

impl Publisher for Embedded {
    fn publish(&self, messages: Vec<Message>) -> Publishing<'_> {
        Box::pin(async move {
            if messages.is_empty() {
                return Ok(Vec::new());
            }
            let (receipt, counted) = Receipt::new(messages.len(), self.0.shards());
            let ids = loop {
                match self.0.publish_counted(&messages, &receipt) {
                    Some(ids) => break ids,
                    None => self.0.forwarding().await,
                }
            };
            let stopping = |_| PublishError("ssecast is stopping".to_owned());
            counted.await.map_err(stopping)?;
            let published = |(index, id)| Published { id: Some(id), subscribers: receipt.clients(index) };
            Ok(ids.into_iter().enumerate().map(published).collect())
        })
    }
}
