//! The cursor: what an `id:` line says, and what a client gives back as `Last-Event-ID`.
//!
//! A cursor is a node and a position of that node: "all up to here has passed". It is the node's, not the client's, so one
//! `id:` line is right for every client, whatever its channels.

use std::{fmt, str::FromStr};

/// Names one run of the hub: 8 characters of `0-9a-z`, made at start. Positions of two nodes can be compared as times only.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct NodeId([u8; 8]);

const ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

impl NodeId {
    /// A new name.
    #[must_use]
    pub fn random() -> Self {
        Self(std::array::from_fn(|_| ALPHABET[fastrand::usize(..ALPHABET.len())]))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for NodeId {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let name: [u8; 8] = text.as_bytes().try_into().map_err(|_| CursorError)?;
        if name.iter().all(|byte| ALPHABET.contains(byte)) { Ok(Self(name)) } else { Err(CursorError) }
    }
}

/// An event's place in the order of everything this node has delivered. Positions strictly grow. A position is the time at
/// which it was given, in microseconds since 1970, or one more than the position before it where the clock had not moved on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Position(pub u64);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How far a client has read: `<node>-<position>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// Whose position it is.
    pub node: NodeId,
    /// The last position that had passed.
    pub position: Position,
}

/// The text is no cursor of any ssecast node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id that ssecast gives: <node>-<position>")]
pub struct CursorError;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.node, self.position)
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let (node, position) = text.split_once('-').ok_or(CursorError)?;
        if position.is_empty() || !position.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(CursorError);
        }
        let position = position.parse().map_err(|_| CursorError)?;
        Ok(Self { node: node.parse()?, position: Position(position) })
    }
}

/// Where a client begins to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// It has no cursor: it wants what comes from now on.
    Now,
    /// It resumes after a cursor.
    After(Cursor),
    /// It gave an id that no ssecast made: nobody knows what it has missed.
    Unknown,
}

impl Start {
    /// Reads what a client sent as `Last-Event-ID`; empty or absent is [`Start::Now`].
    #[must_use]
    pub fn from_last_event_id(id: Option<&[u8]>) -> Self {
        match id {
            None | Some(b"") => Self::Now,
            Some(id) => match std::str::from_utf8(id).ok().and_then(|id| id.parse().ok()) {
                Some(cursor) => Self::After(cursor),
                None => Self::Unknown,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_as_it_was_written() {
        let cursor = Cursor { node: NodeId::random(), position: Position(1_700_000_000_000_001) };
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        assert_eq!(Start::from_last_event_id(Some(cursor.to_string().as_bytes())), Start::After(cursor));
    }

    #[test]
    fn what_is_no_cursor_is_unknown_and_nothing_is_now() {
        for bad in
            ["x", "abcdefgh-", "abcdefgh-1x", "abcdefgh-+1", "ABCDEFGH-1", "abcdefgh-99999999999999999999", "\u{e9}-1"]
        {
            assert_eq!(Start::from_last_event_id(Some(bad.as_bytes())), Start::Unknown, "{bad}");
        }
        assert_eq!(Start::from_last_event_id(None), Start::Now);
        assert_eq!(Start::from_last_event_id(Some(b"")), Start::Now);
    }
}
