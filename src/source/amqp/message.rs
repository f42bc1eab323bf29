//! Messages in AMQP: the body is the data, the routing key the channel, and the property `type`, if there is one, the event's type.
//! It does no I/O.

use bytes::Bytes;
use lapin::{BasicProperties, message::Delivery};

use super::window::Print;
use crate::{
    event::Message,
    name::{ChannelName, EventType},
};

/// `delivery_mode` of a message that the server keeps over a restart.
const PERSISTENT: u8 = 2;

/// Why a message can't be an event.
#[derive(Debug, thiserror::Error)]
pub(super) enum Invalid {
    #[error("in AMQP, {0}")]
    Channel(#[from] crate::name::ChannelError),
    #[error("in AMQP, on {channel}: {why}")]
    Type { channel: ChannelName, why: crate::name::EventTypeError },
    #[error("in AMQP, a message on {channel} has {bytes} bytes, more than 16 times publish.max_message")]
    TooLong { channel: ChannelName, bytes: usize },
}

impl Invalid {
    /// The channel whose clients miss the message.
    pub(super) fn channel(&self) -> Option<&ChannelName> {
        match self {
            Self::Channel(_) => None,
            Self::Type { channel, .. } | Self::TooLong { channel, .. } => Some(channel),
        }
    }
}

/// Reads deliveries.
pub(super) struct Decoder {
    /// Most bytes of a message.
    longest: usize,
    /// The last message's channel: the next message is often on the same channel.
    last: Option<ChannelName>,
}

impl Decoder {
    pub(super) fn new(longest: usize) -> Self {
        Self { longest, last: None }
    }

    /// The message of a delivery.
    pub(super) fn decode(&mut self, delivery: Delivery) -> Result<Message, Invalid> {
        let key = delivery.routing_key.as_str();
        let channel = match &self.last {
            Some(last) if last.as_str() == key => last.clone(),
            _ => self.last.insert(ChannelName::new(key)?).clone(),
        };
        if delivery.data.len() > self.longest {
            return Err(Invalid::TooLong { channel, bytes: delivery.data.len() });
        }
        let event = match delivery.properties.kind().as_ref().map(|kind| kind.as_str()).filter(|kind| !kind.is_empty())
        {
            None => None,
            Some(kind) => match EventType::new(kind) {
                Ok(event) => Some(event),
                Err(why) => return Err(Invalid::Type { channel, why }),
            },
        };
        Ok(Message::new(channel, event, Bytes::from(delivery.data)))
    }
}

/// The print of a delivery.
pub(super) fn print(delivery: &Delivery) -> Print {
    let id = delivery.properties.message_id().as_ref().map(|id| id.as_str());
    let kind = delivery.properties.kind().as_ref().map_or("", |kind| kind.as_str());
    Print::of(id, [delivery.routing_key.as_str().as_bytes(), kind.as_bytes(), &delivery.data])
}

/// Whether the server keeps the message over a restart.
pub(super) fn is_persistent(delivery: &Delivery) -> bool {
    *delivery.properties.delivery_mode() == Some(PERSISTENT)
}

/// The properties of a message that is published here.
pub(super) fn properties(message: &Message) -> BasicProperties {
    let id = format!("{:032x}", fastrand::u128(..));
    let properties = BasicProperties::default().with_delivery_mode(PERSISTENT).with_message_id(id.as_str().into());
    match &message.event {
        Some(event) => properties.with_type(event.as_str().into()),
        None => properties,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(key: &str, kind: Option<&str>, data: &[u8]) -> Delivery {
        let mut delivery = Delivery::mock(1, "e".into(), key.into(), false, data.to_vec());
        if let Some(kind) = kind {
            delivery.properties = BasicProperties::default().with_type(kind.into());
        }
        delivery
    }

    #[test]
    fn a_delivery_is_a_message() {
        let mut decoder = Decoder::new(5);
        let message = decoder.decode(delivery("base", Some("price"), b"[1]")).unwrap();
        assert_eq!((message.channel.as_str(), &message.data[..]), ("base", &b"[1]"[..]));
        assert_eq!(message.event.unwrap().as_str(), "price");
        for kind in [None, Some("")] {
            assert_eq!(decoder.decode(delivery("base", kind, b"\xff")).unwrap().event, None);
        }
        for (key, kind, data, words) in [
            ("", None, "", "a channel name is empty"),
            ("a*", None, "", "are not allowed"),
            ("base", Some("a\nb"), "", "on base"),
            ("base", None, "123456", "has 6 bytes"),
        ] {
            let error = decoder.decode(delivery(key, kind, data.as_bytes())).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
            assert_eq!(error.channel().is_some(), key == "base", "{error}");
        }
    }

    #[test]
    fn prints_tell_messages_apart() {
        let prints = [
            print(&delivery("a", None, b"1")),
            print(&delivery("a", None, b"2")),
            print(&delivery("b", None, b"1")),
            print(&delivery("a", Some("x"), b"1")),
            print(&delivery("a", Some("x1"), b"")),
        ];
        let different: std::collections::HashSet<_> = prints.iter().collect();
        assert_eq!(different.len(), prints.len());
    }
}
