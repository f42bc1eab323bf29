//! What a source reports about its journals, beside their entries. Plain data.

use std::time::Instant;

use crate::cursor::EntryId;

/// What a source reports about one of its journals, in the order of the entries that it publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JournalReport {
    /// The journal is read from its tail: every entry after `since` follows. What came before is not known.
    Began {
        /// The last entry that is not known.
        since: EntryId,
        /// The journal's last entry now: those up to it are kept for clients that resume, and are not new to those that are connected.
        until: EntryId,
    },
    /// Entries were lost, or may have been, after the last one that was passed; those after `end` follow. An `end` before the last
    /// one that was passed says that the journal itself was lost and begins again: then ids may be repeated.
    Lost {
        /// The last entry that may have been lost.
        end: EntryId,
    },
    /// The journal's last entry was `end`, and all up to it were published before this report.
    Reached {
        /// The journal's last entry; not before the last one that was passed.
        end: EntryId,
        /// A time before the journal was asked for its last entry.
        asked: Instant,
    },
}
