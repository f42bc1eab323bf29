//! What `POST /publish` is given, in each of its forms, as messages. No I/O.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    event::Message,
    name::{ChannelError, ChannelName, EventType, EventTypeError},
};

/// Why a publish is refused before it is tried.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error(transparent)]
    EventType(#[from] EventTypeError),
    #[error("{0} is missing: a publish needs channel and message")]
    Missing(&'static str),
    #[error(
        "the JSON can't be read: {0}; a publish is an object with channel, message and, if you like, event and key"
    )]
    Json(serde_json::Error),
    #[error("message {index} of the request: {cause}")]
    At { index: usize, cause: Box<BodyError> },
    #[error("the form is not UTF-8 in {0}")]
    NotUtf8(&'static str),
    #[error("a message has {given} bytes; at most {allowed} are allowed (publish.max_message)")]
    TooLong { given: usize, allowed: usize },
    #[error(
        "the events of the request have {given} bytes together; at most {allowed} are allowed (16 times publish.max_message)"
    )]
    TooMuch { given: usize, allowed: usize },
}

/// What a request asks to publish.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) messages: Vec<Message>,
    pub(super) key: Option<Vec<u8>>,
    pub(super) shape: Shape,
}

/// How the results are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// One result for the request.
    One,
    /// A JSON array.
    Array,
    /// A line of JSON each.
    Lines,
}

/// A form: `channel`, which may be repeated, `message`, and perhaps `event` and `key`.
pub(super) fn from_form(body: &[u8]) -> Result<Request, BodyError> {
    let (mut channels, mut data, mut event, mut key) = (Vec::new(), None, None, None);
    for (name, value) in fields(body) {
        match &name[..] {
            b"channel" | b"channel[]" => channels.push(ChannelName::from_bytes(&value)?),
            b"message" => data = Some(Bytes::from(value)),
            b"event" if !value.is_empty() => {
                event = Some(EventType::new(std::str::from_utf8(&value).map_err(|_| BodyError::NotUtf8("event"))?)?);
            }
            b"key" => key = Some(value),
            _ => {}
        }
    }
    if channels.is_empty() {
        return Err(BodyError::Missing("channel"));
    }
    let data = data.ok_or(BodyError::Missing("message"))?;
    let message = |channel| Message { channel, event: event.clone(), data: data.clone() };
    Ok(Request { messages: channels.into_iter().map(message).collect(), key, shape: Shape::One })
}

/// The fields of `application/x-www-form-urlencoded`, as bytes: a message need not be UTF-8.
fn fields(body: &[u8]) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    let decode = |part: &[u8]| -> Vec<u8> {
        let spaced: Vec<u8> = part.iter().map(|&byte| if byte == b'+' { b' ' } else { byte }).collect();
        percent_encoding::percent_decode(&spaced).collect()
    };
    body.split(|&byte| byte == b'&').filter(|pair| !pair.is_empty()).map(move |pair| {
        let end = memchr::memchr(b'=', pair).unwrap_or(pair.len());
        (decode(&pair[..end]), decode(pair.get(end + 1..).unwrap_or_default()))
    })
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

#[derive(Deserialize)]
struct Item<'a> {
    channel: Option<OneOrMore>,
    #[serde(borrow, default, deserialize_with = "present")]
    message: Option<&'a RawValue>,
    event: Option<String>,
    key: Option<String>,
}

/// A message that is there, `null` as well.
fn present<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(value).map(Some)
}

impl Item<'_> {
    fn into_messages(self, messages: &mut Vec<Message>) -> Result<Option<String>, BodyError> {
        let channels = match self.channel.ok_or(BodyError::Missing("channel"))? {
            OneOrMore::One(name) => vec![name],
            OneOrMore::More(names) => names,
        };
        if channels.is_empty() {
            return Err(BodyError::Missing("channel"));
        }
        let event = self.event.filter(|event| !event.is_empty()).map(|event| EventType::new(&event)).transpose()?;
        let message = self.message.ok_or(BodyError::Missing("message"))?.get();
        // A string is its text; any other value is published as it was written.
        let data = match message.starts_with('"') {
            true => Bytes::from(serde_json::from_str::<String>(message).map_err(BodyError::Json)?),
            false => Bytes::copy_from_slice(message.as_bytes()),
        };
        for name in channels {
            messages.push(Message { channel: ChannelName::new(&name)?, event: event.clone(), data: data.clone() });
        }
        Ok(self.key)
    }
}

/// JSON: one publish, or an array of them.
pub(super) fn from_json(body: &[u8]) -> Result<Request, BodyError> {
    if body.trim_ascii_start().starts_with(b"[") {
        let items: Vec<Item<'_>> = serde_json::from_slice(body).map_err(BodyError::Json)?;
        return from_items(items.into_iter().map(Ok), Shape::Array);
    }
    let item: Item<'_> = serde_json::from_slice(body).map_err(BodyError::Json)?;
    let mut messages = Vec::new();
    let key = item.into_messages(&mut messages)?;
    Ok(Request { messages, key: key.map(String::into_bytes), shape: Shape::One })
}

/// NDJSON: a publish on each line.
pub(super) fn from_lines(body: &[u8]) -> Result<Request, BodyError> {
    let lines = body.split(|&byte| byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
    from_items(lines.map(|line| serde_json::from_slice(line).map_err(BodyError::Json)), Shape::Lines)
}

/// All or nothing: one that can't be published refuses the request, naming it, before anything is published.
fn from_items<'a>(
    items: impl Iterator<Item = Result<Item<'a>, BodyError>>,
    shape: Shape,
) -> Result<Request, BodyError> {
    let mut messages = Vec::new();
    let mut key = None;
    for (index, item) in items.enumerate() {
        let before = messages.len();
        let found = item.and_then(|item| item.into_messages(&mut messages));
        match found {
            Ok(found) => key = key.or(found),
            Err(cause) => return Err(BodyError::At { index, cause: Box::new(cause) }),
        }
        if messages.len() - before > 1 {
            let several = serde::de::Error::custom("in a list, each publish names one channel");
            return Err(BodyError::At { index, cause: Box::new(BodyError::Json(several)) });
        }
    }
    Ok(Request { messages, key: key.map(String::into_bytes), shape })
}

/// The body as it is, for the channel in the path.
pub(super) fn from_raw(channel: &[u8], query: &str, body: Bytes) -> Result<Request, BodyError> {
    let channel = ChannelName::from_bytes(channel)?;
    let (mut event, mut key) = (None, None);
    for (name, value) in fields(query.as_bytes()) {
        match &name[..] {
            b"event" if !value.is_empty() => {
                event = Some(EventType::new(std::str::from_utf8(&value).map_err(|_| BodyError::NotUtf8("event"))?)?);
            }
            b"key" => key = Some(value),
            _ => {}
        }
    }
    Ok(Request { messages: vec![Message { channel, event, data: body }], key, shape: Shape::One })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(request: &Request) -> Vec<(&str, &[u8])> {
        request.messages.iter().map(|message| (message.channel.as_str(), &message.data[..])).collect()
    }

    #[test]
    fn a_form_publishes_to_each_channel_whatever_the_bytes() {
        let request = from_form(b"channel=a&channel=b+c&message=%00%FF%0D%0A+x&event=price&key=s3").unwrap();
        assert_eq!(told(&request), [("a", b"\0\xff\r\n x" as &[u8]), ("b c", b"\0\xff\r\n x")]);
        assert_eq!(request.messages[0].event, Some(EventType::new("price").unwrap()));
        assert_eq!((request.key, request.shape), (Some(b"s3".to_vec()), Shape::One));
    }

    #[test]
    fn json_values_are_published_as_they_are_written() {
        let request = from_json(br#"{"channel":"a","message":"x\ny"}"#).unwrap();
        assert_eq!(told(&request), [("a", b"x\ny" as &[u8])]);
        let request = from_json(br#" [{"channel":"a","message":[1, 2.0]},{"channel":"b","message":null}]"#);
        assert_eq!(told(&request.unwrap()), [("a", b"[1, 2.0]" as &[u8]), ("b", b"null")]);
        let request =
            from_lines(b"{\"channel\":\"a\",\"message\":1}\n\n{\"channel\":\"b\",\"message\":2}\r\n").unwrap();
        assert_eq!((told(&request), request.shape), (vec![("a", b"1" as &[u8]), ("b", b"2")], Shape::Lines));
    }

    #[test]
    fn what_is_wrong_is_said_and_where() {
        let error = |result: Result<Request, BodyError>| result.unwrap_err().to_string();
        assert!(error(from_form(b"message=x")).starts_with("channel is missing"));
        assert!(error(from_form(b"channel=x")).starts_with("message is missing"));
        assert!(error(from_json(b"{")).contains("can't be read"));
        assert!(error(from_lines(b"{\"channel\":\"a\",\"message\":1}\n{}")).starts_with("message 1 of the request"));
        assert!(error(from_form(b"channel=x&message=y&event=a%0Ab")).contains("line break"));
        assert!(error(from_raw(b"a*", "", Bytes::new())).contains("not allowed"));
    }
}
