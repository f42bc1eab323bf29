//! The queue of a run of this node: makes it, finds it again, binds it. It reads no messages.
//!
//! Beside the queue there is an exchange of the same name, to which nothing is published: the queue's mark. It is bound to the
//! queue alone and is not durable, so it exists as long as the queue does, but not longer than the server runs. Where the queue is
//! found and its mark is not, the server was restarted.

use std::borrow::Cow;

use lapin::{
    Channel, Connection, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable, ShortString},
};

use super::{
    config::ExchangeType,
    error::{Failure, closed},
    exchange::Exchange,
};
use crate::name::ChannelName;

/// How a queue was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// It has all that was published since.
    Kept,
    /// The server was restarted, and has lost what was not persistent.
    Restarted,
    /// There is no such queue.
    Lost,
}

/// Why an exchange of the type `direct` has no patterns.
const NO_PATTERNS: &str = "an AMQP exchange of the type direct has no patterns: use one of the type topic or fanout";

/// The key that the queue is bound with for a channel or a pattern. A topic exchange knows patterns of whole words alone. So for a
/// pattern the key matches more than the pattern does; what is too much is dropped here.
pub(super) fn key(name: &ChannelName) -> Cow<'_, str> {
    let Some((before, _)) = name.as_str().split_once('*') else { return Cow::Borrowed(name.as_str()) };
    match before.rsplit_once('.') {
        Some((words, _)) => Cow::Owned(format!("{words}.#")),
        None => Cow::Borrowed("#"),
    }
}

/// A channel that the server does not allow, and the reason.
pub(super) type Refusal = (ChannelName, String);

/// Looks for the queue `name`.
pub(super) async fn find(connection: &Connection, name: &str) -> Result<Found, Failure> {
    let channel = connection.create_channel().await?;
    let passive = QueueDeclareOptions::default().passive();
    match channel.queue_declare(name.into(), passive, FieldTable::default()).await.map_err(Failure::from) {
        Ok(_) => {}
        Err(error) if error.is_not_found() => return Ok(Found::Lost),
        Err(error) => return Err(error),
    }
    let passive = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
    let mark = channel.exchange_declare(name.into(), ExchangeKind::Direct, passive, FieldTable::default()).await;
    match mark.map_err(Failure::from) {
        Ok(()) => return Ok(Found::Kept),
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error),
    }
    // The next loss of the connection is not to be taken for another restart.
    add_mark(&connection.create_channel().await?, name).await?;
    Ok(Found::Restarted)
}

/// Makes a queue with a name of its own, which it returns. `expiry`: how long it exists without a consumer, in milliseconds.
pub(super) async fn make(connection: &Connection, expiry: u32) -> Result<String, Failure> {
    let channel = connection.create_channel().await?;
    let name = format!("ssecast-{:016x}", fastrand::u64(..));
    let mut arguments = FieldTable::default();
    arguments.insert("x-expires".into(), AMQPValue::LongUInt(expiry));
    // At an upgrade two processes consume: the second one gets nothing before the first one has ended.
    arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    channel.queue_declare(name.as_str().into(), QueueDeclareOptions::durable(), arguments).await?;
    add_mark(&channel, &name).await?;
    Ok(name)
}

async fn add_mark(channel: &Channel, name: &str) -> Result<(), Failure> {
    let options = ExchangeDeclareOptions { auto_delete: true, ..ExchangeDeclareOptions::default() };
    let (name, none) = (ShortString::from(name), FieldTable::default());
    channel.exchange_declare(name.clone(), ExchangeKind::Direct, options, none.clone()).await?;
    channel.queue_bind(name.clone(), name, ShortString::default(), QueueBindOptions::default(), none).await?;
    Ok(())
}

/// Deletes the queue with all that is in it.
pub(super) async fn delete(connection: &Connection, name: &str) -> Result<(), Failure> {
    let channel = connection.create_channel().await?;
    channel.queue_delete(name.into(), QueueDeleteOptions::default()).await?;
    Ok(())
}

/// Binds a queue to the exchange. It has a channel of the connection of its own, which the server closes where it refuses.
pub(super) struct Binder {
    channel: Channel,
    queue: ShortString,
    exchange: Exchange,
}

impl Binder {
    pub(super) async fn new(connection: &Connection, queue: &str, exchange: Exchange) -> Result<Self, Failure> {
        let channel = connection.create_channel().await?;
        let binder = Self { channel, queue: queue.into(), exchange };
        if binder.takes_all() {
            binder.bind_one("", false).await?;
        }
        Ok(binder)
    }

    /// Whether the exchange gives all messages to the queue, so that no channel is bound.
    pub(super) fn takes_all(&self) -> bool {
        self.exchange.kind == ExchangeType::Fanout
    }

    /// Binds the queue for the channels and patterns. Returns those that the server refuses, or that the exchange does not have.
    pub(super) async fn bind(
        &mut self,
        connection: &Connection,
        names: &[ChannelName],
    ) -> Result<Vec<Refusal>, Failure> {
        if self.takes_all() {
            return Ok(Vec::new());
        }
        let (impossible, names): (Vec<ChannelName>, Vec<ChannelName>) =
            names.iter().cloned().partition(|name| name.is_pattern() && self.exchange.kind == ExchangeType::Direct);
        let mut refused: Vec<Refusal> = impossible.into_iter().map(|name| (name, NO_PATTERNS.to_owned())).collect();
        if self.bind_together(&names).await.is_ok() {
            return Ok(refused);
        }
        self.reopen(connection).await?;
        for (place, name) in names.iter().enumerate() {
            let Err(error) = self.bind_one(&key(name), false).await else { continue };
            if !error.is_forbidden() {
                return Err(error);
            }
            self.reopen(connection).await?;
            // Only for a topic exchange can permissions depend on the routing key.
            if self.exchange.kind == ExchangeType::Topic {
                refused.push((name.clone(), error.to_string()));
            } else {
                refused.extend(names[place..].iter().map(|name| (name.clone(), error.to_string())));
                break;
            }
        }
        Ok(refused)
    }

    /// The last one waits for the server, which answers in order.
    async fn bind_together(&self, names: &[ChannelName]) -> Result<(), Failure> {
        for (place, name) in names.iter().enumerate() {
            self.bind_one(&key(name), place + 1 < names.len()).await?;
        }
        Ok(())
    }

    async fn bind_one(&self, key: &str, nowait: bool) -> Result<(), Failure> {
        let (queue, exchange) = (self.queue.clone(), self.exchange.name.clone());
        let options = QueueBindOptions { nowait };
        Ok(self.channel.queue_bind(queue, exchange, key.into(), options, FieldTable::default()).await?)
    }

    async fn reopen(&mut self, connection: &Connection) -> Result<(), Failure> {
        if !connection.status().connected() {
            return Err(closed());
        }
        self.channel = connection.create_channel().await?;
        Ok(())
    }

    /// Ends the bindings of the channels.
    pub(super) async fn unbind(&self, names: &[ChannelName]) -> Result<(), Failure> {
        if self.takes_all() {
            return Ok(());
        }
        for name in names {
            let (queue, exchange) = (self.queue.clone(), self.exchange.name.clone());
            self.channel.queue_unbind(queue, exchange, (&*key(name)).into(), FieldTable::default()).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_a_pattern_matches_at_least_the_pattern() {
        for (name, expected) in
            [("base", "base"), ("a.b", "a.b"), ("*", "#"), ("new*", "#"), ("news.*", "news.#"), ("a.b.c*d.e*", "a.b.#")]
        {
            let name = ChannelName::subscribable(name).unwrap();
            assert_eq!(key(&name), expected);
        }
    }
}
