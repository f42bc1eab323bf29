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

/// Publishes what a journal is to keep by one route, and what it is not to keep by another.
pub struct ByDurability {
    /// The route to the journal.
    pub durable: Arc<dyn Publisher>,
    /// The other route.
    pub passing: Arc<dyn Publisher>,
}

impl Publisher for ByDurability {
    fn publish(&self, messages: Vec<Message>) -> Publishing<'_> {
        Box::pin(async move {
            let order: Vec<bool> = messages.iter().map(|message| message.durable).collect();
            let (durable, passing): (Vec<_>, Vec<_>) = messages.into_iter().partition(|message| message.durable);
            let is_mixed = !durable.is_empty() && !passing.is_empty();
            let mut durable = self.durable.publish(durable).await?.into_iter();
            let passed = self.passing.publish(passing).await.map_err(|error| match error {
                PublishError::Refused(why) | PublishError::Unavailable { why, .. } if is_mixed => {
                    let why = format!("only the durable messages of the list were published ({why})");
                    PublishError::Unavailable { why, may_have_arrived: true }
                }
                error => error,
            })?;
            let mut passing = passed.into_iter();
            Ok(order
                .into_iter()
                .filter_map(|is_durable| if is_durable { durable.next() } else { passing.next() })
                .collect())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::ChannelName;

    /// A route that counts the messages of each publish as subscribers, or fails.
    struct Route(Result<(), PublishError>);

    impl Publisher for Route {
        fn publish(&self, messages: Vec<Message>) -> Publishing<'_> {
            Box::pin(async move {
                if messages.is_empty() {
                    return Ok(Vec::new());
                }
                self.0.clone()?;
                let subscribers = messages.iter().map(|message| u32::try_from(message.data.len()).unwrap());
                Ok(subscribers.map(|subscribers| Published { id: None, subscribers }).collect())
            })
        }
    }

    fn list(durable: &[bool]) -> Vec<Message> {
        let channel = ChannelName::new("a").unwrap();
        let message = |(at, &durable)| Message { durable, ..Message::new(channel.clone(), None, vec![0; at].into()) };
        durable.iter().enumerate().map(message).collect()
    }

    #[tokio::test]
    async fn each_message_takes_its_route_and_the_answers_have_the_order_of_the_list() {
        let working = || Arc::new(Route(Ok(()))) as Arc<dyn Publisher>;
        let routes = ByDurability { durable: working(), passing: working() };
        let answers = routes.publish(list(&[true, false, false, true])).await.unwrap();
        assert_eq!(answers.into_iter().map(|answer| answer.subscribers).collect::<Vec<_>>(), [0, 1, 2, 3]);

        let refusing = || Arc::new(Route(Err(PublishError::Refused("no".to_owned())))) as Arc<dyn Publisher>;
        let routes = ByDurability { durable: working(), passing: refusing() };
        assert_eq!(routes.publish(list(&[false])).await, Err(PublishError::Refused("no".to_owned())));
        assert_eq!(routes.publish(list(&[true])).await.map(|answers| answers.len()), Ok(1));
        let mixed = routes.publish(list(&[true, false])).await.unwrap_err();
        assert!(matches!(mixed, PublishError::Unavailable { may_have_arrived: true, .. }), "{mixed:?}");
    }
}
