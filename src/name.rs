//! Names of channels and types of events. They are checked when they are made, so a value of these types is valid.
//!
//! Nothing here knows what is published under the names.

use std::{borrow::Borrow, fmt, sync::Arc};

/// Longest channel name, in bytes. It limits the memory that one request can use.
pub const MAX_CHANNEL_BYTES: usize = 255;
/// Longest event type, in bytes.
pub const MAX_EVENT_TYPE_BYTES: usize = 255;

/// How reserved channel names begin: Redis's own channels (keyspace events, Sentinel) and ssecast's.
const RESERVED: [&str; 2] = ["__", "ssecast:"];

/// The name of a channel: 1 to 255 bytes of UTF-8 without control characters, commas (they separate names in a query) or
/// the characters `*`, `?`, `[`, `]` and `\`. Cheap to clone.
///
/// Where something is subscribed to, this may also be a pattern, in which each `*` stands for any characters
/// ([`ChannelName::subscribable`]). A message never has a pattern for its channel.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelName(Arc<str>);

/// Why a channel name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// The name had no characters.
    #[error("a channel name is empty")]
    Empty,
    /// The name was longer than [`MAX_CHANNEL_BYTES`].
    #[error("a channel name has {0} bytes; at most {MAX_CHANNEL_BYTES} are allowed")]
    TooLong(usize),
    /// The name was not UTF-8.
    #[error("a channel name is not UTF-8")]
    NotUtf8,
    /// The name had a character that names can't have.
    #[error("channel name {name:?} has {found:?}; control characters, commas and * ? [ ] \\ are not allowed")]
    Forbidden {
        /// The name as received.
        name: String,
        /// The first character that is not allowed.
        found: char,
    },
    /// The pattern had a character that neither names nor patterns can have.
    #[error(
        "channel name {name:?} has {found:?}; control characters, commas and ? [ ] \\ are not allowed, and * makes it a pattern"
    )]
    ForbiddenInPattern {
        /// The pattern as received.
        name: String,
        /// The first character that is not allowed.
        found: char,
    },
}

impl ChannelName {
    /// Checks `name`.
    ///
    /// # Errors
    /// [`ChannelError`] says which rule the name breaks.
    pub fn new(name: &str) -> Result<Self, ChannelError> {
        check_length(name)?;
        match name.chars().find(|&c| c == '*' || is_never_allowed(c)) {
            Some(found) => Err(ChannelError::Forbidden { name: name.to_owned(), found }),
            None => Ok(Self(name.into())),
        }
    }

    /// Checks `name`, in which `*` is allowed: with one it is a pattern.
    ///
    /// # Errors
    /// [`ChannelError`] says which rule the name breaks.
    pub fn subscribable(name: &str) -> Result<Self, ChannelError> {
        check_length(name)?;
        match name.chars().find(|&c| is_never_allowed(c)) {
            Some(found) => Err(ChannelError::ForbiddenInPattern { name: name.to_owned(), found }),
            None => Ok(Self(name.into())),
        }
    }

    /// Checks `name`, given as bytes.
    ///
    /// # Errors
    /// As [`ChannelName::new`], and [`ChannelError::NotUtf8`].
    pub fn from_bytes(name: &[u8]) -> Result<Self, ChannelError> {
        Self::new(std::str::from_utf8(name).map_err(|_| ChannelError::NotUtf8)?)
    }

    /// Whether the name is reserved for messages of Redis or of ssecast: clients may neither subscribe to it nor publish on it.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        RESERVED.iter().any(|start| self.0.starts_with(start))
    }

    /// Whether it is a pattern, and not a name.
    #[must_use]
    pub fn is_pattern(&self) -> bool {
        self.0.contains('*')
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check_length(name: &str) -> Result<(), ChannelError> {
    match name.len() {
        0 => Err(ChannelError::Empty),
        1..=MAX_CHANNEL_BYTES => Ok(()),
        length => Err(ChannelError::TooLong(length)),
    }
}

/// Whether a character is allowed neither in names nor in patterns.
fn is_never_allowed(c: char) -> bool {
    c.is_control() || matches!(c, ',' | '?' | '[' | ']' | '\\')
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Borrow<str> for ChannelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for ChannelName {
    type Err = ChannelError;

    fn from_str(name: &str) -> Result<Self, ChannelError> {
        Self::new(name)
    }
}

/// An event's type, the `event:` field: what `addEventListener` is given in a browser. 1 to 255 bytes without CR, LF or NUL.
/// Types that begin with `ssecast.` are reserved for ssecast, `error` and `open` for the browser's EventSource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventType(Arc<str>);

/// Why an event type was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventTypeError {
    /// The type had no characters, or more than [`MAX_EVENT_TYPE_BYTES`] bytes.
    #[error("an event type has {0} bytes; 1 to {MAX_EVENT_TYPE_BYTES} are allowed")]
    Length(usize),
    /// CR, LF or NUL, with which a publisher could write fields of its own into the stream.
    #[error("event type {0:?} has a line break or a NUL")]
    Control(String),
    /// A type that is reserved for ssecast.
    #[error("event type {0:?} is ssecast's own: types that begin with \"ssecast.\" can't be published")]
    Reserved(String),
    /// `error` or `open`.
    #[error(
        "event type {0:?} can't be published: a browser's EventSource has events of that name for its own connection, and a \
         page would take one for the other; use another name"
    )]
    Browser(String),
    /// The type was not UTF-8.
    #[error("an event type is not UTF-8")]
    NotUtf8,
}

impl EventType {
    /// Checks `name`.
    ///
    /// # Errors
    /// [`EventTypeError`] says which rule the type breaks.
    pub fn new(name: &str) -> Result<Self, EventTypeError> {
        if name.is_empty() || name.len() > MAX_EVENT_TYPE_BYTES {
            return Err(EventTypeError::Length(name.len()));
        }
        if name.contains(['\r', '\n', '\0']) {
            return Err(EventTypeError::Control(name.to_owned()));
        }
        if name.starts_with("ssecast.") {
            return Err(EventTypeError::Reserved(name.to_owned()));
        }
        if name == "error" || name == "open" {
            return Err(EventTypeError::Browser(name.to_owned()));
        }
        Ok(Self(name.into()))
    }

    /// The type.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_name_is_refused_with_the_rule_that_it_breaks() {
        assert_eq!(ChannelName::new(""), Err(ChannelError::Empty));
        assert_eq!(ChannelName::new(&"x".repeat(256)), Err(ChannelError::TooLong(256)));
        assert_eq!(ChannelName::from_bytes(b"\xff"), Err(ChannelError::NotUtf8));
        for bad in ["a,b", "a*", "a\nb", "a?", "[a]", "a\\", "a\0"] {
            assert!(matches!(ChannelName::new(bad), Err(ChannelError::Forbidden { .. })), "{bad:?}");
        }
        for good in ["cats", "user:42", "news/2024", "größe", "a b", "a.b-c_d"] {
            assert_eq!(ChannelName::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn a_star_makes_a_pattern_where_something_is_subscribed_to() {
        assert!(ChannelName::subscribable("news.*").unwrap().is_pattern());
        assert!(!ChannelName::subscribable("news").unwrap().is_pattern());
        assert!(ChannelName::subscribable("ssecast:*").unwrap().is_reserved());
        for bad in ["a?*", "[a]*", "a,*", "*\n", "*\\"] {
            assert!(matches!(ChannelName::subscribable(bad), Err(ChannelError::ForbiddenInPattern { .. })), "{bad:?}");
        }
        assert_eq!(ChannelName::subscribable(&"*".repeat(256)), Err(ChannelError::TooLong(256)));
    }

    #[test]
    fn an_event_type_can_not_inject_fields() {
        for bad in ["a\nid: 7", "a\rb", "a\0"] {
            assert!(matches!(EventType::new(bad), Err(EventTypeError::Control(_))), "{bad:?}");
        }
        assert_eq!(EventType::new(""), Err(EventTypeError::Length(0)));
        assert!(matches!(EventType::new("ssecast.gap"), Err(EventTypeError::Reserved(_))));
        assert_eq!(EventType::new("price").unwrap().as_str(), "price");
    }
}
