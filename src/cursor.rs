//! The cursor: the content of an `id:` line, which a client sends back as `Last-Event-ID`.
//!
//! A cursor is a node and a position of that node. It means: everything of this node up to this position has been delivered.
//! It does not depend on the client's channels, so one `id:` line is right for every client.
//!
//! Grammar: `<node>-<position>`, optionally followed by `~<entry>`, the last journal entry that the client has. This version
//! has no journals: it writes no entry, and ignores the entry of an id that has one.
//!
//! A node's name in capitals means that the position is ahead of the clock. The cursor is exact at its own node. Another node can't
//! compare the position with its own, and treats the cursor as an unknown id.

use std::{fmt, str::FromStr};

use bytes::BufMut;

/// Most bytes of an id. A longer text is no id of ssecast.
pub const MAX_ID_BYTES: usize = 128;

/// Names one run of the hub: 8 characters of `0-9a-z`, made at start. Positions of two nodes can be compared only as times, and not
/// even as times if the name is in capitals ([`NodeId::untimed`]).
/// The first three characters are a hash of the instance, and so the same for all its runs.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct NodeId([u8; 8]);

/// Number of characters that identify the instance.
const INSTANCE: usize = 3;

const ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
/// How many digits the alphabet begins with.
const DIGITS: usize = 10;

impl NodeId {
    /// A new name. The last character is a letter, so that a name in capitals differs.
    #[must_use]
    pub fn random() -> Self {
        let digits_before = |at| if at + 1 == size_of::<Self>() { DIGITS } else { 0 };
        Self(std::array::from_fn(|at| ALPHABET[fastrand::usize(digits_before(at)..ALPHABET.len())]))
    }

    /// A new name for the instance that `instance` describes. The text must be the same for each run of an instance, and differ
    /// between instances.
    #[must_use]
    pub fn for_instance(instance: &str) -> Self {
        let mut name = Self::random();
        // FNV-1a, because this hash must be the same in every version of this program.
        let hash = instance
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        for (at, place) in name.0[..INSTANCE].iter_mut().enumerate() {
            let digit = (hash >> (16 * at)) % ALPHABET.len() as u64;
            *place = ALPHABET[usize::try_from(digit).unwrap_or(0)];
        }
        name
    }

    /// Whether `other` is probably another run of the same instance.
    #[must_use]
    pub fn is_run_of_same_instance(&self, other: &Self) -> bool {
        !self.is_same_node(other) && self.0[..INSTANCE].eq_ignore_ascii_case(&other.0[..INSTANCE])
    }

    /// The name for ids whose positions are ahead of the clock: in capitals.
    #[must_use]
    pub fn untimed(&self) -> Self {
        Self(self.0.map(|byte| byte.to_ascii_uppercase()))
    }

    /// Whether positions under this name can be compared as times with those of another node.
    #[must_use]
    pub fn is_timed(&self) -> bool {
        !self.0.iter().any(u8::is_ascii_uppercase)
    }

    /// Whether both name the same run, with positions that are times or not.
    #[must_use]
    pub fn is_same_node(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
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
        let is_name = |name: &[u8; 8]| name.iter().all(|byte| ALPHABET.contains(byte));
        let in_capitals = !name.iter().any(u8::is_ascii_lowercase);
        if is_name(&name) || in_capitals && is_name(&name.map(|byte| byte.to_ascii_lowercase())) {
            Ok(Self(name))
        } else {
            Err(CursorError)
        }
    }
}

/// An event's place in the order of everything this node has delivered. Positions strictly grow. A position is the time at
/// which it was assigned, in microseconds since 1970, or the previous position plus one if that is later.
/// After the clock was set back, positions are ahead of the time until the clock has caught up.
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
    /// The node of the position.
    pub(crate) node: NodeId,
    /// Everything up to this position has been delivered.
    pub(crate) position: Position,
}

/// The text is no cursor of any ssecast node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id that ssecast gives: <node>-<position>")]
pub struct CursorError;

impl Cursor {
    /// Appends the id. No other code writes ids.
    pub(crate) fn put(&self, out: &mut impl BufMut) {
        // Not `write!`, which takes as long as encoding the rest of the frame.
        let mut digits = [b'0'; 20];
        let (mut left, mut first) = (self.position.0, digits.len());
        while left > 0 || first == digits.len() {
            first -= 1;
            digits[first] += (left % 10) as u8;
            left /= 10;
        }
        out.put_slice(&self.node.0);
        out.put_u8(b'-');
        out.put_slice(&digits[first..]);
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut id = Vec::with_capacity(29);
        self.put(&mut id);
        f.write_str(&String::from_utf8_lossy(&id))
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        if text.len() > MAX_ID_BYTES {
            return Err(CursorError);
        }
        let (text, entry) = text.split_once('~').map_or((text, None), |(text, entry)| (text, Some(entry)));
        let is_entry = |entry: &str| {
            !entry.is_empty() && entry.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.:_".contains(&byte))
        };
        if !entry.is_none_or(is_entry) {
            return Err(CursorError);
        }
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
    /// It has no cursor, and gets the events from now on.
    Now,
    /// It resumes after a cursor.
    After(Cursor),
    /// It sent an id that is no cursor. What it has missed is unknown.
    Unknown,
}

impl Start {
    /// Parses the `Last-Event-ID` of a client; empty or absent is [`Start::Now`].
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
    fn a_written_cursor_parses_to_the_same_cursor() {
        let cursor = Cursor { node: NodeId::random(), position: Position(1_700_000_000_000_001) };
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        assert_eq!(Start::from_last_event_id(Some(cursor.to_string().as_bytes())), Start::After(cursor));
    }

    #[test]
    fn two_runs_of_an_instance_have_different_names_with_the_same_beginning() {
        let (one, other) = (NodeId::for_instance("host /run/a"), NodeId::for_instance("host /run/a"));
        assert!(one != other && one.is_run_of_same_instance(&other));
        assert!(!one.is_run_of_same_instance(&one), "it is the same run");
        assert!(!one.is_run_of_same_instance(&NodeId::for_instance("host /run/b")));
        assert_eq!(one.to_string().parse(), Ok(one));
    }

    #[test]
    fn a_name_in_capitals_is_the_same_node_without_times() {
        for _ in 0..1000 {
            let node = NodeId::for_instance("host /run/a");
            let untimed = node.untimed();
            assert!(node.is_timed() && !untimed.is_timed() && untimed != node && untimed.is_same_node(&node), "{node}");
            assert!(!untimed.is_run_of_same_instance(&node), "it is the same run");
            assert!(NodeId::for_instance("host /run/a").is_run_of_same_instance(&untimed));
            let cursor = Cursor { node: untimed, position: Position(7) };
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
    }

    #[test]
    fn the_journal_entry_of_an_id_is_ignored() {
        let cursor: Cursor = "abcdefgh-7".parse().unwrap();
        for id in ["abcdefgh-7~1700000000000-0", "abcdefgh-7~9.x_Y:1"] {
            assert_eq!(Start::from_last_event_id(Some(id.as_bytes())), Start::After(cursor), "{id}");
        }
        let long = format!("abcdefgh-7~{}", "1".repeat(MAX_ID_BYTES));
        for bad in ["abcdefgh-7~", "abcdefgh-7~a b", "abcdefgh-7~1~2", "~1-2", &long] {
            assert_eq!(Start::from_last_event_id(Some(bad.as_bytes())), Start::Unknown, "{bad}");
        }
        let longest = Cursor { node: cursor.node, position: Position(u64::MAX) }.to_string();
        assert_eq!(longest, "abcdefgh-18446744073709551615");
        assert!(longest.len() <= MAX_ID_BYTES);
    }

    #[test]
    fn an_invalid_id_is_unknown_and_no_id_is_now() {
        for bad in
            ["x", "abcdefgh-", "abcdefgh-1x", "abcdefgh-+1", "ABCDEFGh-1", "abcdefgh-99999999999999999999", "\u{e9}-1"]
        {
            assert_eq!(Start::from_last_event_id(Some(bad.as_bytes())), Start::Unknown, "{bad}");
        }
        assert_eq!(Start::from_last_event_id(None), Start::Now);
        assert_eq!(Start::from_last_event_id(Some(b"")), Start::Now);
    }
}
