//! The payloads that ssecast publishes to Redis. It does no I/O.
//!
//! A payload is the message's data, unchanged. A message with an event type is written
//! `\0ssecast:event\0TYPE\0DATA`.

use bytes::Bytes;

use crate::{
    event::Message,
    name::{ChannelName, EventType, EventTypeError},
};

const EVENT_MARK: &[u8] = b"\0ssecast:event\0";
/// `text` as a part of a pattern of Redis that matches only itself.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '\\') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

/// The payload of a message.
pub(super) fn encode(message: &Message) -> Bytes {
    match &message.event {
        // Data that begins like a marked payload is marked as well, with an empty type, so that it arrives unchanged.
        None if message.data.starts_with(EVENT_MARK) => [EVENT_MARK, b"\0", &message.data].concat().into(),
        None => message.data.clone(),
        Some(event) => [EVENT_MARK, event.as_str().as_bytes(), b"\0", &message.data].concat().into(),
    }
}

/// The message of a payload.
pub(super) fn decode(channel: ChannelName, payload: Bytes) -> Result<Message, EventTypeError> {
    let marked = payload.strip_prefix(EVENT_MARK).and_then(|rest| Some((rest, memchr::memchr(0, rest)?)));
    let Some((rest, end)) = marked else { return Ok(Message::new(channel, None, payload)) };
    let event = match std::str::from_utf8(&rest[..end]).map_err(|_| EventTypeError::NotUtf8)? {
        "" => None,
        event => Some(EventType::new(event)?),
    };
    Ok(Message::new(channel, event, payload.slice(EVENT_MARK.len() + end + 1..)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_comes_back_as_it_went() {
        let channel = ChannelName::new("base").unwrap();
        let price = EventType::new("price").unwrap();
        let data: [&'static [u8]; 5] = [b"[1,2,3]", b"", b"\0\xff\r\n", b"\0ssecast:event\0", b"\0ssecast:event\0x\0y"];
        for data in data {
            for event in [None, Some(price.clone())] {
                let message = Message::new(channel.clone(), event, Bytes::from_static(data));
                assert_eq!(decode(channel.clone(), encode(&message)), Ok(message));
            }
        }
    }

    #[test]
    fn a_prefix_is_escaped_in_patterns() {
        assert_eq!(escape(r"a*b?[c]\é."), r"a\*b\?\[c\]\\é.");
    }

    #[test]
    fn what_redis_cli_publishes_is_not_touched() {
        let message = Message::new(ChannelName::new("base").unwrap(), None, "[1,2,3]".into());
        assert_eq!(&encode(&message)[..], b"[1,2,3]");
    }

    #[test]
    fn an_event_type_with_a_line_break_is_refused() {
        let channel = ChannelName::new("base").unwrap();
        assert!(decode(channel, Bytes::from_static(b"\0ssecast:event\0a\nid: 1\0data")).is_err());
    }
}
