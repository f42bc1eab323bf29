//! How a publish reaches the shards: directly ([`Embedded`]), or through a source that implements [`Publisher`].

use std::{future::Future, pin::Pin, sync::Arc};

use super::{Dispatcher, Receipt};
use crate::{cursor::Cursor, event::Message};

/// The outcome of publishing one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// The event's cursor, where this node gave it.
    pub id: Option<Cursor>,
    /// Clients of the channel on this node.
    pub subscribers: u32,
}

impl Published {
    /// A message that has reached the source, which gives it no id. `subscribers`: clients of its channel on this node.
    #[must_use]
    pub fn new(subscribers: u32) -> Self {
        Self { id: None, subscribers }
    }

    /// The same, with the event's id.
    #[must_use]
    pub fn with_id(self, id: Cursor) -> Self {
        Self { id: Some(id), ..self }
    }
}

/// A publish was not taken. Nothing is lost silently: who published gets this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// It is refused, and would be again: nothing was published.
    #[error("{0}")]
    Refused(String),
    /// It can't be taken now.
    #[error("{why}; {}", if *.may_have_arrived { "it may have arrived: publish again if twice is better than not at all" } else { "nothing was published: publish again later" })]
    Unavailable {
        /// The reason, for the publisher.
        why: String,
        /// Whether some of it may have been published all the same.
        may_have_arrived: bool,
    },
}

/// A publish under way.
pub type Publishing<'a> = Pin<Box<dyn Future<Output = Result<Vec<Published>, PublishError>> + Send + 'a>>;

/// Takes messages and answers when they are safe.
pub trait Publisher: Send + Sync {
    /// Publishes `messages` in order; one [`Published`] for each.
    ///
    /// # Errors
    /// [`PublishError`]: whether a retry can help, and whether some of the messages may have been published.
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
            let stopping =
                |_| PublishError::Unavailable { why: "ssecast is stopping".to_owned(), may_have_arrived: true };
            counted.await.map_err(stopping)?;
            let published = |(index, id)| Published { id: Some(id), subscribers: receipt.clients(index) };
            Ok(ids.into_iter().enumerate().map(published).collect())
        })
    }
}
