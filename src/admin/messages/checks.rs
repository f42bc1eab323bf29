//! Checks the parts that every form of a publish has: names of fields, channels, event types, text. It parses no form.

use bytes::Bytes;

use super::error::BodyError;
use crate::name::{ChannelName, EventType};

/// The fields of a publish.
pub(super) const FIELDS: [&str; 5] = ["channel", "message", "event", "key", "durable"];
/// Least similarity to a known name for which a typing error is likely (Jaro-Winkler).
const LIKE: f64 = 0.8;

/// Longest part of an unknown name that is compared and shown, in characters.
const LONGEST_SHOWN: usize = 64;

/// The error text for a name that is not in `known`, with the most similar one. A long name is cut: it may be as long as a body.
pub(super) fn unknown(name: &str, known: &[&str]) -> String {
    let end = name.char_indices().nth(LONGEST_SHOWN).map_or(name.len(), |(at, _)| at);
    let name = &name[..end];
    let likeness = |known: &&&str| strsim::jaro_winkler(name, known);
    let nearest =
        known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b))).filter(|known| likeness(known) > LIKE);
    match nearest {
        Some(nearest) => format!("{name:?} is not a field of a publish; did you mean {nearest:?}?"),
        None => format!("{name:?} is not a field of a publish; there are {}", known.join(", ")),
    }
}

/// Checks a channel's name. One that no client may subscribe to is refused.
pub(super) fn channel(name: &[u8]) -> Result<ChannelName, BodyError> {
    let name = ChannelName::from_bytes(name)?;
    if name.is_reserved() { Err(BodyError::Reserved(name)) } else { Ok(name) }
}

/// Checks an event's type. An empty one is none.
pub(super) fn event_type(value: &[u8]) -> Result<Option<EventType>, BodyError> {
    if value.is_empty() {
        return Ok(None);
    }
    let name = std::str::from_utf8(value).map_err(|_| BodyError::NotUtf8("the event type"))?;
    Ok(Some(EventType::new(name)?))
}

/// Whether a journal is to keep the message, where there is one. An empty value stands for the default.
pub(super) fn durable(value: &[u8]) -> Result<bool, BodyError> {
    match value {
        b"" | b"true" => Ok(true),
        b"false" => Ok(false),
        _ => Err(BodyError::NotDurable),
    }
}

/// Checks that a message is text.
pub(super) fn text(data: impl Into<Bytes>) -> Result<Bytes, BodyError> {
    let data = data.into();
    match std::str::from_utf8(&data) {
        Ok(_) => Ok(data),
        Err(_) => Err(BodyError::NotUtf8("the message")),
    }
}
