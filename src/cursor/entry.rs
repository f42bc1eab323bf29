//! The entries of journals: their ids, how far each journal has been read, and which journal a channel belongs to. It reads no
//! journal.
//!
//! A journal is a stream of Redis. Its entries' ids only grow. A source has up to [`MOST_JOURNALS`] journals, numbered from 0, and
//! each channel belongs to exactly one of them.

use std::{fmt, str::FromStr};

use bytes::BufMut;

use super::CursorError;

/// Most journals of one source. With more, an id could be longer than [`super::MAX_ID_BYTES`].
pub const MOST_JOURNALS: usize = 4;

/// Highest numbers that an id can say, so that the entries of [`MOST_JOURNALS`] journals fit: milliseconds up to the year 2286, and a
/// thousand million entries in one of them. Of a later entry, the id says an earlier one: its client may get events twice.
const HIGHEST: EntryId = EntryId { millis: 9_999_999_999_999, seq: 999_999_999 };

/// The id of a journal's entry, as Redis writes it: `<milliseconds>-<number>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EntryId {
    /// Milliseconds since 1970, by the clock of Redis.
    pub millis: u64,
    /// Distinguishes the entries of one millisecond.
    pub seq: u64,
}

impl EntryId {
    /// The id before every entry.
    pub const ZERO: Self = Self { millis: 0, seq: 0 };

    /// The latest id before this one. That of [`EntryId::ZERO`] is itself.
    #[must_use]
    pub fn before(self) -> Self {
        match (self.millis, self.seq) {
            (0, 0) => self,
            (millis, 0) => Self { millis: millis - 1, seq: u64::MAX },
            (millis, seq) => Self { millis, seq: seq - 1 },
        }
    }

    /// The latest id that an `id:` line can say and that is not later.
    fn writable(self) -> Self {
        match self.millis > HIGHEST.millis {
            true => HIGHEST,
            false => Self { millis: self.millis, seq: self.seq.min(HIGHEST.seq) },
        }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.millis, self.seq)
    }
}

impl FromStr for EntryId {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let (millis, seq) = text.split_once('-').ok_or(CursorError)?;
        Ok(Self { millis: super::number(millis)?, seq: super::number(seq)? })
    }
}

/// An entry of a source's journals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The number of its journal, from 0.
    pub journal: u8,
    /// Its id.
    pub id: EntryId,
}

/// How far each journal has been read: the last entry that was passed.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Entries {
    count: u8,
    ids: [EntryId; MOST_JOURNALS],
}

impl Entries {
    /// No journals.
    pub const NONE: Self = Self { count: 0, ids: [EntryId::ZERO; MOST_JOURNALS] };

    /// The beginnings of `count` journals, at most [`MOST_JOURNALS`].
    #[must_use]
    pub fn of(count: usize) -> Self {
        let count = u8::try_from(count.min(MOST_JOURNALS)).unwrap_or_default();
        Self { count, ..Self::NONE }
    }

    /// Number of journals.
    #[must_use]
    pub fn count(&self) -> usize {
        usize::from(self.count)
    }

    /// Whether there is no journal.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The last entry of a journal that was passed; `None` if there is no such journal.
    #[must_use]
    pub fn get(&self, journal: u8) -> Option<EntryId> {
        self.ids().get(usize::from(journal)).copied()
    }

    /// Sets the last entry of a journal, if there is such a journal.
    pub fn set(&mut self, Entry { journal, id }: Entry) {
        let count = self.count();
        if let Some(place) = self.ids[..count].get_mut(usize::from(journal)) {
            *place = id;
        }
    }

    /// Sets the last entry of a journal, unless a later one was passed.
    pub fn pass(&mut self, entry: Entry) {
        if self.get(entry.journal) < Some(entry.id) {
            self.set(entry);
        }
    }

    /// The later entry of each journal.
    #[must_use]
    pub fn max(mut self, other: &Self) -> Self {
        for (id, journal) in other.ids().iter().zip(0..) {
            self.pass(Entry { journal, id: *id });
        }
        self
    }

    /// The last entry of each journal, in the order of the journals' numbers.
    #[must_use]
    pub fn ids(&self) -> &[EntryId] {
        &self.ids[..self.count()]
    }

    /// Appends the entries as an id has them.
    pub(super) fn put(&self, out: &mut impl BufMut) {
        for (at, id) in self.ids().iter().enumerate() {
            let EntryId { millis, seq } = id.writable();
            if at > 0 {
                out.put_u8(b'.');
            }
            super::put_number(millis, out);
            out.put_u8(b'-');
            super::put_number(seq, out);
        }
    }

    /// Parses what [`Entries::put`] writes.
    pub(super) fn parse(text: &str) -> Result<Self, CursorError> {
        let mut entries = Self::NONE;
        for id in text.split('.') {
            entries.count += 1;
            *entries.ids.get_mut(usize::from(entries.count) - 1).ok_or(CursorError)? = id.parse()?;
        }
        Ok(entries)
    }
}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.ids().iter().map(ToString::to_string)).finish()
    }
}

/// The journal of a channel, of `count` journals (at least 1): the CRC-32 of its name, modulo `count`. The same in every version of
/// this program and on every node. Applications that write to the journals themselves work it out too, and every language has
/// this hash (zlib's `crc32`).
#[must_use]
pub fn journal_of(channel: &str, count: usize) -> u8 {
    let mut hash = flate2::Crc::new();
    hash.update(channel.as_bytes());
    u8::try_from(hash.sum() as usize % count.clamp(1, MOST_JOURNALS)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> EntryId {
        text.parse().unwrap()
    }

    #[test]
    fn entry_ids_have_the_order_of_redis() {
        let ids = ["0-0", "0-1", "9-18446744073709551615", "10-0", "1700000000000-2", "1700000000000-10"].map(id);
        assert!(ids.is_sorted(), "{ids:?}");
        assert_eq!(ids[4].to_string(), "1700000000000-2");
        assert_eq!((id("10-0").before(), id("10-1").before()), (ids[2], ids[3]));
        assert_eq!(EntryId::ZERO.before(), EntryId::ZERO);
        for bad in ["", "1", "1-", "-1", "1-x", "+1-1", "1-1-1", "18446744073709551616-0"] {
            assert_eq!(bad.parse::<EntryId>(), Err(CursorError), "{bad}");
        }
    }

    #[test]
    fn entries_only_grow_when_they_are_passed() {
        let mut entries = Entries::of(2);
        entries.pass(Entry { journal: 1, id: id("5-1") });
        entries.pass(Entry { journal: 1, id: id("5-0") });
        entries.pass(Entry { journal: 2, id: id("9-9") });
        assert_eq!(entries.ids(), [EntryId::ZERO, id("5-1")]);
        entries.set(Entry { journal: 1, id: id("4-0") });
        let mut other = Entries::of(2);
        other.pass(Entry { journal: 0, id: id("3-0") });
        assert_eq!(entries.max(&other).ids(), [id("3-0"), id("4-0")]);
        assert_eq!(Entries::of(9).count(), MOST_JOURNALS);
    }

    #[test]
    fn the_journal_of_a_channel_is_the_same_in_every_version_and_channels_are_spread() {
        // As Python has it: zlib.crc32(b"base") % 4.
        assert_eq!(["base", "cats", "dogs", "news.sport"].map(|name| journal_of(name, 4)), [1, 2, 3, 0]);
        let mut counts = [0; 3];
        for number in 0..3000 {
            counts[usize::from(journal_of(&format!("user-{number}"), 3))] += 1;
        }
        assert!(counts.iter().all(|count| (900..1100).contains(count)), "{counts:?}");
        assert_eq!(journal_of("base", 1), 0);
    }
}
