//! The cursor: the content of an `id:` line, which a client sends back as `Last-Event-ID`.
//!
//! A cursor is a node and a position of that node. It means: everything of this node up to this position has been delivered.
//! It does not depend on the client's channels, so one `id:` line is right for every client.
//!
//! Grammar, with `[…]` for what may be missing and `*` for what may be repeated:
//! `<node>-<position>[~[<entry>[.<entry>]*][_<node>-<position>]*]`, with something after the `~`.
//!
//! - `<entry>` is a journal's entry as Redis writes it, `<milliseconds>-<number>`: one for each journal, in the order of their
//!   numbers. Everything of the journal up to this entry has been delivered, whatever node the client comes to. The entries of
//!   [`MOST_JOURNALS`] journals fit.
//! - Each further `<node>-<position>` says that everything of that node up to that position has been delivered as well. Only the
//!   answers of polls have these, for polls that alternate between nodes; as many as fit.
//!
//! No id is longer than [`MAX_ID_BYTES`], and none has a byte for which a browser would ask for permission first (the
//! CORS-unsafe request-header bytes of the Fetch standard).
//!
//! A node's name in capitals means that the position is ahead of the clock. The cursor is exact at its own node. Another node can't
//! compare the position with its own, and treats the cursor as an unknown id.

mod entry;

use std::{fmt, str::FromStr};

use bytes::BufMut;

pub use self::entry::{Entries, Entry, EntryId, MOST_JOURNALS, journal_of};

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
        let hash = fnv1a(instance.as_bytes());
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

/// How far a client has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// The node of the position.
    pub(crate) node: NodeId,
    /// Everything up to this position has been delivered.
    pub(crate) position: Position,
    /// Everything of each journal up to its entry has been delivered.
    pub(crate) entries: Entries,
    /// What has been delivered of other nodes.
    pub(crate) others: Others,
}

/// Positions of other nodes up to which everything has been delivered, the latest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Others([Option<(NodeId, Position)>; MOST_OTHERS]);

/// Most nodes beside the cursor's own whose positions a cursor has.
const MOST_OTHERS: usize = 3;

impl Others {
    /// No other nodes.
    pub const NONE: Self = Self([None; MOST_OTHERS]);

    /// The nodes and their positions.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, Position)> {
        self.0.iter().copied().flatten()
    }

    /// The position of `node`.
    #[must_use]
    pub fn of(&self, node: &NodeId) -> Option<Position> {
        self.iter().find(|(other, _)| other.is_same_node(node)).map(|(_, position)| position)
    }

    /// Adds a node. What is too much is dropped.
    fn push(&mut self, node: NodeId, position: Position) {
        if let Some(place) = self.0.iter_mut().find(|place| place.is_none()) {
            *place = Some((node, position));
        }
    }
}

/// The text is no cursor of any ssecast node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id that ssecast gives: <node>-<position>, perhaps with ~<entry of a journal>")]
pub struct CursorError;

impl Cursor {
    /// The cursor at a position of a node without journals.
    #[must_use]
    pub(crate) fn new(node: NodeId, position: Position) -> Self {
        Self { node, position, entries: Entries::NONE, others: Others::NONE }
    }

    /// The cursor of a client that has everything up to `self`, and everything of the entry's journal up to `entry`.
    ///
    /// It is the id of what a source has published to its journal, if `self` is what the node had delivered before: a client that
    /// begins there gets what follows.
    #[must_use]
    pub(crate) fn with_entry(mut self, entry: Entry) -> Self {
        self.entries.pass(entry);
        self
    }

    /// The cursor of a client that has everything up to `self` and also everything up to `before`, which may be of another node.
    #[must_use]
    pub(crate) fn and(mut self, before: &Self) -> Self {
        let all = std::iter::once((before.node, before.position)).chain(before.others.iter());
        for (node, position) in all.filter(|(node, _)| !node.is_same_node(&self.node)) {
            if self.others.of(&node).is_none() {
                self.others.push(node, position);
            }
        }
        self
    }

    /// Appends the id. No other code writes ids.
    pub(crate) fn put(&self, out: &mut impl BufMut) {
        put_position(&self.node, self.position, out);
        if self.entries.is_empty() && self.others.0[0].is_none() {
            return;
        }
        out.put_u8(b'~');
        self.entries.put(out);
        if self.others.0[0].is_some() {
            self.put_others(out);
        }
    }

    /// Appends as many other nodes as fit, so that the id is not longer than [`MAX_ID_BYTES`].
    fn put_others(&self, out: &mut impl BufMut) {
        let mut id = Vec::with_capacity(MAX_ID_BYTES);
        put_position(&self.node, self.position, &mut id);
        id.put_u8(b'~');
        self.entries.put(&mut id);
        for (node, position) in self.others.iter() {
            let before = id.len();
            id.put_u8(b'_');
            put_position(&node, position, &mut id);
            if id.len() > MAX_ID_BYTES {
                return;
            }
            out.put_slice(&id[before..]);
        }
    }
}

fn put_position(node: &NodeId, position: Position, out: &mut impl BufMut) {
    out.put_slice(&node.0);
    out.put_u8(b'-');
    put_number(position.0, out);
}

/// Appends a number. Not with `write!`, which takes as long as encoding the rest of the frame.
fn put_number(mut left: u64, out: &mut impl BufMut) {
    let mut digits = [b'0'; 20];
    let mut first = digits.len();
    while left > 0 || first == digits.len() {
        first -= 1;
        digits[first] += (left % 10) as u8;
        left /= 10;
    }
    out.put_slice(&digits[first..]);
}

/// Parses what [`put_number`] writes.
fn number(text: &str) -> Result<u64, CursorError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(CursorError);
    }
    text.parse().map_err(|_| CursorError)
}

fn position(text: &str) -> Result<(NodeId, Position), CursorError> {
    let (node, position) = text.split_once('-').ok_or(CursorError)?;
    Ok((node.parse()?, Position(number(position)?)))
}

/// FNV-1a, for hashes that must be the same in every version of this program.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut id = Vec::with_capacity(64);
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
        let (own, rest) = text.split_once('~').map_or((text, None), |(own, rest)| (own, Some(rest)));
        let (node, position) = position(own)?;
        let mut cursor = Self::new(node, position);
        let Some(rest) = rest else { return Ok(cursor) };
        let mut parts = rest.split('_');
        let entries = parts.next().unwrap_or_default();
        if !entries.is_empty() {
            cursor.entries = Entries::parse(entries)?;
        } else if rest.is_empty() {
            return Err(CursorError);
        }
        for other in parts {
            let (node, position) = self::position(other)?;
            cursor.others.push(node, position);
        }
        Ok(cursor)
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
        let cursor = Cursor::new(NodeId::random(), Position(1_700_000_000_000_001));
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
            let cursor = Cursor::new(untimed, Position(7));
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
    }

    fn longest() -> Cursor {
        let mut cursor = Cursor::new("abcdefgh".parse().unwrap(), Position(u64::MAX));
        cursor.entries = Entries::of(MOST_JOURNALS);
        for journal in 0..MOST_JOURNALS {
            cursor =
                cursor.with_entry(Entry { journal: journal as u8, id: EntryId { millis: u64::MAX, seq: u64::MAX } });
        }
        cursor
    }

    #[test]
    fn an_id_says_an_entry_of_each_journal() {
        let cursor: Cursor = "abcdefgh-7~1700000000000-0.12-3".parse().unwrap();
        assert_eq!(cursor.entries.ids(), ["1700000000000-0", "12-3"].map(|id| id.parse().unwrap()));
        assert_eq!(cursor.to_string(), "abcdefgh-7~1700000000000-0.12-3");
        let long = format!("abcdefgh-7~{}-0", "1".repeat(MAX_ID_BYTES));
        let many = format!("abcdefgh-7~{}", ["1-1"; MOST_JOURNALS + 1].join("."));
        for bad in ["abcdefgh-7~", "abcdefgh-7~a b", "abcdefgh-7~1~2", "~1-2", "abcdefgh-7~1-2.", &long, &many] {
            assert_eq!(Start::from_last_event_id(Some(bad.as_bytes())), Start::Unknown, "{bad}");
        }
    }

    #[test]
    fn the_longest_id_has_128_bytes_at_most_and_says_no_later_entry() {
        assert!(longest().to_string().len() <= MAX_ID_BYTES, "{}", longest());
        let read: Cursor = longest().to_string().parse().unwrap();
        for (read, real) in read.entries.ids().iter().zip(longest().entries.ids()) {
            assert!(read <= real);
        }
        let exact: EntryId = "9999999999998-999999999".parse().unwrap();
        let cursor = Cursor { entries: Entries::of(1), ..longest() }.with_entry(Entry { journal: 0, id: exact });
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
    }

    #[test]
    fn a_polls_id_has_the_positions_of_other_nodes_as_far_as_they_fit() {
        let node = |name: &str, position| Cursor::new(name.parse().unwrap(), Position(position));
        let (a, b) = (node("aaaaaaaa", 1_700_000_000_000_001), node("bbbbbbbb", 1_700_000_000_000_002));
        let both = b.and(&a);
        assert_eq!(both.to_string(), "bbbbbbbb-1700000000000002~_aaaaaaaa-1700000000000001");
        assert_eq!(both.to_string().parse(), Ok(both));
        // It is of the first node again, whose old position does not count any more.
        let again = node("aaaaaaaa", 1_700_000_000_000_003).and(&both);
        assert_eq!(again.to_string(), "aaaaaaaa-1700000000000003~_bbbbbbbb-1700000000000002");
        let mut many = a;
        for name in ["cccccccc", "dddddddd", "eeeeeeee", "ffffffff", "gggggggg"] {
            many = node(name, u64::MAX).and(&many);
        }
        let id = many.to_string();
        assert!(id.len() <= MAX_ID_BYTES && id.starts_with("gggggggg-") && id.contains("_ffffffff-"), "{id}");
        let full = longest().and(&many);
        assert_eq!(full.to_string(), longest().to_string(), "entries come first");
        let some = Cursor { entries: Entries::of(1), ..longest() }.and(&b);
        assert_eq!(some.to_string(), "abcdefgh-18446744073709551615~0-0_bbbbbbbb-1700000000000002");
        for bad in ["aaaaaaaa-1~_", "aaaaaaaa-1~_x-1", "aaaaaaaa-1~_bbbbbbbb", "aaaaaaaa-1~1-1_"] {
            assert_eq!(Start::from_last_event_id(Some(bad.as_bytes())), Start::Unknown, "{bad}");
        }
    }

    #[test]
    fn no_byte_of_an_id_makes_a_browser_ask_for_permission() {
        let unsafe_bytes = b"\"():<>?@[\\]{}\x7f";
        let others =
            Cursor::new(NodeId::random(), Position(1)).and(&Cursor::new(NodeId::random().untimed(), Position(1)));
        let id = format!("{}{others}", longest());
        assert!(id.bytes().all(|byte| byte >= 0x20 && !unsafe_bytes.contains(&byte)), "{id}");
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
