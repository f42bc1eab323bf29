//! The payloads that ssecast publishes to Redis, and the options of its connections. It does no I/O.
//!
//! A payload is the message's data, unchanged. A message with an event type is written
//! `\0ssecast:event\0TYPE\0DATA`.

use std::time::Duration;

use bytes::Bytes;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, ProtocolVersion, RedisError, RedisResult};

use crate::{
    event::Message,
    name::{ChannelName, EventType, EventTypeError},
};

const EVENT_MARK: &[u8] = b"\0ssecast:event\0";
/// Longest wait for a connection to Redis.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest wait for an answer of Redis.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for a publish, with the connection that it may need.
pub(super) const PUBLISH_TIMEOUT: Duration = Duration::from_secs(3);

/// A client for `url` that speaks RESP3, with which subscriptions are confirmed in the order of the messages.
pub(super) fn client(url: &str) -> RedisResult<Client> {
    let info = url.into_connection_info()?;
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    Client::open(info.set_redis_settings(settings))
}

pub(super) fn options() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(ANSWER_TIMEOUT))
}

/// Whether Redis has answered that its ACL does not allow the command.
pub(super) fn is_forbidden(error: &RedisError) -> bool {
    // A transaction gives the answers of its commands in its text alone.
    error.code() == Some("NOPERM") || error.code() == Some("EXECABORT") && error.to_string().contains("NoPerm")
}

/// An error of a connection that can't be relied on any more.
pub(super) fn broken(why: &'static str) -> RedisError {
    (redis::ErrorKind::Io, why).into()
}

/// Redis's error as a text for people. It says what to do, where that is known.
pub(super) fn explain(error: &RedisError) -> String {
    login_refused(error).map_or_else(|| plain(error), str::to_owned)
}

/// Why Redis refuses the login, and would again; `None` for any other error.
pub(super) fn login_refused(error: &RedisError) -> Option<&'static str> {
    match error.code() {
        Some("WRONGPASS") => Some("Redis does not take the user or the password of the URL (WRONGPASS)"),
        Some("NOAUTH") => Some(NO_PASSWORD),
        _ if error.to_string().contains("HELLO must be called with") => Some(NO_PASSWORD),
        _ => None,
    }
}

const NO_PASSWORD: &str = "Redis asks for a password: put one into the URL, redis://USER:PASSWORD@HOST";

/// An error's text without the words that the library adds: the names of its types, and the index in a pipeline. Of several
/// errors, the first.
fn plain(error: &RedisError) -> String {
    let text = error.to_string();
    let kind = format!(" - {:?}", error.kind());
    let (text, is_list) = match text.split_once("[(Index ").and_then(|(_, list)| list.split_once(", error: ")) {
        Some((_, list)) => (list.split("), (Index ").next().unwrap_or(list).trim_end_matches(")]").to_owned(), true),
        None => (text.replacen(&kind, "", 1), false),
    };
    // The server's errors begin with the name of their kind, without spaces.
    match text.split_once(": ") {
        Some((kind, detail)) if (is_list || error.code().is_some()) && !kind.contains(' ') => detail.to_owned(),
        _ => text,
    }
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
    let Some((rest, end)) = marked else { return Ok(Message { channel, event: None, data: payload }) };
    let event = match std::str::from_utf8(&rest[..end]).map_err(|_| EventTypeError::NotUtf8)? {
        "" => None,
        event => Some(EventType::new(event)?),
    };
    Ok(Message { channel, event, data: payload.slice(EVENT_MARK.len() + end + 1..) })
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
                let message = Message { channel: channel.clone(), event, data: Bytes::from_static(data) };
                assert_eq!(decode(channel.clone(), encode(&message)), Ok(message));
            }
        }
    }

    #[test]
    fn errors_have_no_words_of_the_library() {
        assert_eq!(explain(&broken("the connection was closed")), "the connection was closed");
        let error = |text: &[u8]| match redis::parse_redis_value(text).unwrap() {
            redis::Value::ServerError(error) => RedisError::from(error),
            other => panic!("{other:?}"),
        };
        assert_eq!(explain(&error(b"-NOPERM User a has no permissions\r\n")), "User a has no permissions");
        assert_eq!(explain(&error(b"-MISCONF Redis is: broken\r\n")), "Redis is: broken");
        assert_eq!(explain(&error(b"-WRONGPASS no\r\n")), login_refused(&error(b"-WRONGPASS no\r\n")).unwrap());
        assert_eq!(explain(&error(b"-NOAUTH Authentication required.\r\n")), NO_PASSWORD);
        let refused = RedisError::from((redis::ErrorKind::Io, "no such host", "h: x".to_owned()));
        assert_eq!(explain(&refused), "no such host: h: x");
    }

    #[test]
    fn what_redis_cli_publishes_is_not_touched() {
        let message = Message { channel: ChannelName::new("base").unwrap(), event: None, data: "[1,2,3]".into() };
        assert_eq!(&encode(&message)[..], b"[1,2,3]");
    }

    #[test]
    fn an_event_type_with_a_line_break_is_refused() {
        let channel = ChannelName::new("base").unwrap();
        assert!(decode(channel, Bytes::from_static(b"\0ssecast:event\0a\nid: 1\0data")).is_err());
    }
}
