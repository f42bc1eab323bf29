//! Parses the body of `POST /publish`, in each of its forms, into messages. No I/O.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{self, Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::{
    event::Message,
    name::{ChannelError, ChannelName, EventType, EventTypeError},
};

/// The fields of a publish.
const FIELDS: [&str; 4] = ["channel", "message", "event", "key"];
/// The query parameters of a publish whose body is the message.
const PARAMETERS: [&str; 2] = ["event", "key"];
/// Least similarity to a known name for which a typing error is likely (Jaro-Winkler).
const LIKE: f64 = 0.8;

/// Why a request to publish is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error(
        "nothing can be published on channel {0}, since no client may subscribe to it: names that begin with __ or ssecast: \
         are reserved for Redis's and ssecast's own messages; use another name"
    )]
    Reserved(ChannelName),
    #[error(transparent)]
    EventType(#[from] EventTypeError),
    #[error("{0} is missing: a publish needs channel and message")]
    Missing(&'static str),
    #[error("{0}")]
    UnknownField(String),
    #[error(
        "the JSON can't be read: {0}; a publish is an object with channel, message and, if you like, event and key"
    )]
    Json(serde_json::Error),
    #[error("message {index} of the request: {cause}")]
    At { index: usize, cause: Box<BodyError> },
    #[error("{0} is not UTF-8, and event streams know no other text: encode what is binary, for instance as base64")]
    NotUtf8(&'static str),
    #[error("a message has {given} bytes; at most {allowed} are allowed (publish.max_message)")]
    TooLong { given: usize, allowed: usize },
    #[error(
        "the events of the request have {given} bytes together; at most {allowed} are allowed (16 times publish.max_message)"
    )]
    TooMuch { given: usize, allowed: usize },
}

impl BodyError {
    /// The error's `code` for programs.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Channel(_) => "bad_channel",
            Self::Reserved(_) => "reserved_channel",
            Self::EventType(_) => "bad_event_type",
            Self::Missing(_) => "missing_field",
            Self::UnknownField(_) => "unknown_field",
            Self::Json(_) => "bad_json",
            Self::At { cause, .. } => cause.code(),
            Self::NotUtf8(_) => "not_utf8",
            Self::TooLong { .. } | Self::TooMuch { .. } => "too_long",
        }
    }
}

/// The error text for a name that is not in `known`, with the most similar one.
fn unknown(name: &str, known: &[&str]) -> String {
    let likeness = |known: &&&str| strsim::jaro_winkler(name, known);
    let nearest =
        known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b))).filter(|known| likeness(known) > LIKE);
    match nearest {
        Some(nearest) => format!("{name:?} is not a field of a publish; did you mean {nearest:?}?"),
        None => format!("{name:?} is not a field of a publish; there are {}", known.join(", ")),
    }
}

/// Checks a channel's name. One that no client may subscribe to is refused.
fn channel(name: &[u8]) -> Result<ChannelName, BodyError> {
    let name = ChannelName::from_bytes(name)?;
    if name.is_reserved() { Err(BodyError::Reserved(name)) } else { Ok(name) }
}

/// Checks an event's type. An empty one is none.
fn event_type(value: &[u8]) -> Result<Option<EventType>, BodyError> {
    if value.is_empty() {
        return Ok(None);
    }
    let name = std::str::from_utf8(value).map_err(|_| BodyError::NotUtf8("the event type"))?;
    Ok(Some(EventType::new(name)?))
}

/// Checks that a message is text.
fn text(data: impl Into<Bytes>) -> Result<Bytes, BodyError> {
    let data = data.into();
    match std::str::from_utf8(&data) {
        Ok(_) => Ok(data),
        Err(_) => Err(BodyError::NotUtf8("the message")),
    }
}

/// What a request asks to publish.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) messages: Vec<Message>,
    pub(super) key: Option<Vec<u8>>,
    pub(super) shape: Shape,
}

/// The form of the results.
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
            b"channel" | b"channel[]" => channels.push(channel(&value)?),
            b"message" => data = Some(text(value)?),
            b"event" => event = event_type(&value)?,
            b"key" => key = Some(value),
            other => return Err(BodyError::UnknownField(unknown(&String::from_utf8_lossy(other), &FIELDS))),
        }
    }
    if channels.is_empty() {
        return Err(BodyError::Missing("channel"));
    }
    let data = data.ok_or(BodyError::Missing("message"))?;
    let message = |channel| Message { channel, event: event.clone(), data: data.clone() };
    Ok(Request { messages: channels.into_iter().map(message).collect(), key, shape: Shape::One })
}

/// Decodes the fields of `application/x-www-form-urlencoded`. They are bytes, since they may not be UTF-8.
pub(super) fn fields(body: &[u8]) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    let decode = |part: &[u8]| -> Vec<u8> {
        let spaced: Vec<u8> = part.iter().map(|&byte| if byte == b'+' { b' ' } else { byte }).collect();
        percent_encoding::percent_decode(&spaced).collect()
    };
    body.split(|&byte| byte == b'&').filter(|pair| !pair.is_empty()).map(move |pair| {
        let end = memchr::memchr(b'=', pair).unwrap_or(pair.len());
        (decode(&pair[..end]), decode(pair.get(end + 1..).unwrap_or_default()))
    })
}

/// A publish in JSON.
#[derive(Default)]
struct Item<'a> {
    channels: Option<Vec<String>>,
    message: Option<&'a RawValue>,
    event: Option<String>,
    key: Option<String>,
}

impl<'de> Deserialize<'de> for Item<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ItemVisitor)
    }
}

/// Reads an object with the fields of a publish and no others.
struct ItemVisitor;

impl<'de> Visitor<'de> for ItemVisitor {
    type Value = Item<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with channel and message")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Item<'de>, A::Error> {
        let mut item = Item::default();
        while let Some(name) = map.next_key::<Cow<'_, str>>()? {
            match &*name {
                "channel" => item.channels = map.next_value::<Names>()?.0,
                "message" => item.message = Some(map.next_value()?),
                "event" => item.event = map.next_value()?,
                "key" => item.key = map.next_value()?,
                other => return Err(A::Error::custom(unknown(other, &FIELDS))),
            }
        }
        Ok(item)
    }
}

/// The names of channels: a string, a list of strings, or null for none.
struct Names(Option<Vec<String>>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NamesVisitor)
    }
}

struct NamesVisitor;

impl<'de> Visitor<'de> for NamesVisitor {
    type Value = Names;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a channel's name as a string, or a list of such strings")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Names, E> {
        Ok(Names(Some(vec![name.to_owned()])))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Names, E> {
        Ok(Names(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Names, A::Error> {
        let mut names = Vec::new();
        while let Some(name) = list.next_element()? {
            names.push(name);
        }
        Ok(Names(Some(names)))
    }
}

impl Item<'_> {
    fn into_messages(self, messages: &mut Vec<Message>) -> Result<Option<String>, BodyError> {
        let channels = self.channels.ok_or(BodyError::Missing("channel"))?;
        if channels.is_empty() {
            return Err(BodyError::Missing("channel"));
        }
        let event = event_type(self.event.unwrap_or_default().as_bytes())?;
        let message = self.message.ok_or(BodyError::Missing("message"))?.get();
        // Publish the text of a string, and any other value exactly as it is written.
        let data = match message.starts_with('"') {
            true => Bytes::from(serde_json::from_str::<String>(message).map_err(BodyError::Json)?),
            false => Bytes::copy_from_slice(message.as_bytes()),
        };
        for name in channels {
            messages.push(Message { channel: channel(name.as_bytes())?, event: event.clone(), data: data.clone() });
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

/// Makes one request of all items. If one of them is invalid, the whole request is refused, so that all messages are published or none.
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
            let several = serde_json::Error::custom("in a list, each publish names one channel");
            return Err(BodyError::At { index, cause: Box::new(BodyError::Json(several)) });
        }
    }
    Ok(Request { messages, key: key.map(String::into_bytes), shape })
}

/// The body as one message, for the channel in the path.
pub(super) fn from_raw(name: &[u8], query: &str, body: Bytes) -> Result<Request, BodyError> {
    let channel = channel(name)?;
    let (mut event, mut key) = (None, None);
    for (name, value) in fields(query.as_bytes()) {
        match &name[..] {
            b"event" => event = event_type(&value)?,
            b"key" => key = Some(value),
            other => return Err(BodyError::UnknownField(unknown(&String::from_utf8_lossy(other), &PARAMETERS))),
        }
    }
    Ok(Request { messages: vec![Message { channel, event, data: text(body)? }], key, shape: Shape::One })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data_of(request: &Request) -> Vec<(&str, &[u8])> {
        request.messages.iter().map(|message| (message.channel.as_str(), &message.data[..])).collect()
    }

    #[test]
    fn a_form_publishes_to_each_channel() {
        let request = from_form(b"channel=a&channel=b+c&message=%00%C3%A4%0D%0A+x&event=price&key=s3").unwrap();
        assert_eq!(data_of(&request), [("a", b"\0\xc3\xa4\r\n x" as &[u8]), ("b c", b"\0\xc3\xa4\r\n x")]);
        assert_eq!(request.messages[0].event, Some(EventType::new("price").unwrap()));
        assert_eq!((request.key, request.shape), (Some(b"s3".to_vec()), Shape::One));
    }

    #[test]
    fn json_values_are_published_as_they_are_written() {
        let request = from_json(br#"{"channel":"a","message":"x\ny"}"#).unwrap();
        assert_eq!(data_of(&request), [("a", b"x\ny" as &[u8])]);
        let request = from_json(br#" [{"channel":"a","message":[1, 2.0]},{"channel":"b","message":null}]"#);
        assert_eq!(data_of(&request.unwrap()), [("a", b"[1, 2.0]" as &[u8]), ("b", b"null")]);
        let request =
            from_lines(b"{\"channel\":\"a\",\"message\":1}\n\n{\"channel\":\"b\",\"message\":2}\r\n").unwrap();
        assert_eq!((data_of(&request), request.shape), (vec![("a", b"1" as &[u8]), ("b", b"2")], Shape::Lines));
    }

    #[test]
    fn errors_say_what_is_wrong_and_in_which_message() {
        let error = |result: Result<Request, BodyError>| result.unwrap_err().to_string();
        assert!(error(from_form(b"message=x")).starts_with("channel is missing"));
        assert!(error(from_form(b"channel=x")).starts_with("message is missing"));
        assert!(error(from_json(b"{")).contains("can't be read"));
        assert!(error(from_lines(b"{\"channel\":\"a\",\"message\":1}\n{}")).starts_with("message 1 of the request"));
        assert!(error(from_form(b"channel=x&message=y&event=a%0Ab")).contains("line break"));
        assert!(error(from_raw(b"a*", "", Bytes::new())).contains("not allowed"));
        let channel = error(from_json(br#"{"channel":5,"message":"x"}"#));
        assert!(channel.contains("expected a channel's name as a string, or a list of such strings"), "{channel}");
        assert!(error(from_json(b"7")).contains("expected an object with channel and message"));
    }

    #[test]
    fn an_unknown_field_is_named_with_the_most_similar_one() {
        let error = |result: Result<Request, BodyError>| {
            let error = result.unwrap_err();
            (error.code(), error.to_string())
        };
        let (code, form) = error(from_form(b"chanel=a&message=x"));
        assert_eq!(
            (code, form.contains("\"chanel\"") && form.contains("did you mean \"channel\"?")),
            ("unknown_field", true)
        );
        assert!(error(from_form(b"channel=a&message=x&foo=1")).1.contains("there are channel, message, event, key"));
        let json = error(from_json(br#"{"channel":"a","mesage":"x"}"#)).1;
        assert!(json.contains("did you mean \"message\"?"), "{json}");
        assert!(
            error(from_lines(br#"{"channel":"a","message":"x","foo":2}"#)).1.starts_with("message 0 of the request")
        );
        assert!(error(from_raw(b"a", "evnt=x", Bytes::new())).1.contains("did you mean \"event\"?"));
    }

    #[test]
    fn an_empty_event_type_is_none_in_every_form() {
        let event = |result: Result<Request, BodyError>| result.unwrap().messages.remove(0).event;
        assert_eq!(event(from_form(b"channel=a&message=x&event=&key=")), None);
        assert_eq!(event(from_form(b"channel=a&message=x&event")), None);
        assert_eq!(event(from_raw(b"a", "event=&key=", Bytes::new())), None);
        assert_eq!(event(from_json(br#"{"channel":"a","message":"x","event":""}"#)), None);
        assert_eq!(event(from_json(br#"{"channel":"a","message":"x","event":null}"#)), None);
        assert_eq!(event(from_lines(br#"{"channel":"a","message":"x"}"#)), None);
    }

    /// A publish to such a name was answered with ok, and nobody could subscribe to it.
    #[test]
    fn a_name_that_nobody_can_subscribe_to_is_refused_in_every_form() {
        let refused = |result: Result<Request, BodyError>| {
            let error = result.unwrap_err();
            assert!(error.to_string().contains("names that begin with __ or ssecast: are reserved"), "{error}");
            assert_eq!(error.code(), "reserved_channel");
        };
        for name in ["__x", "ssecast:x"] {
            refused(from_form(format!("channel=a&channel={name}&message=x").as_bytes()));
            refused(from_raw(name.as_bytes(), "", Bytes::new()));
            refused(from_json(format!(r#"{{"channel":"{name}","message":"x"}}"#).as_bytes()));
            refused(from_json(format!(r#"[{{"channel":"{name}","message":"x"}}]"#).as_bytes()));
            refused(from_lines(format!(r#"{{"channel":"{name}","message":"x"}}"#).as_bytes()));
        }
        for name in ["_x", "ssecast", "ssecast.x", "x__"] {
            assert!(from_raw(name.as_bytes(), "", Bytes::new()).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_message_that_is_not_utf_8_is_refused() {
        let code = |result: Result<Request, BodyError>| result.unwrap_err().code();
        assert_eq!(code(from_form(b"channel=a&message=%FF")), "not_utf8");
        assert_eq!(code(from_raw(b"a", "", Bytes::from_static(b"a\xff"))), "not_utf8");
        assert_eq!(code(from_json(b"{\"channel\":\"a\",\"message\":\"\xff\"}")), "bad_json");
    }
}
