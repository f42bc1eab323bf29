//! What a client had read when it came with an id: which events it needs, and what its ids say until it has caught up. It knows no
//! hub.
//!
//! Invariants:
//! - An id that a client gets says no less than the one that it came with, but for what a journal has lost.
//! - Whether a client has an event of a journal is decided by the event's entry, on every node. Any other event is found by its
//!   position, or by its time where the client comes from another node.

use std::time::Instant;

use super::history::History;
use crate::{
    cursor::{Cursor, Entries, Entry, EntryId, MOST_JOURNALS, Position},
    event::Event,
};

/// What a client had when it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// The cursor that it came with.
    pub own: Cursor,
    /// It has every event up to this position that came by no journal.
    pub since: Position,
    /// Whether what `own` says of other nodes counts: not once a loss was reported. Else the client could get there what precedes
    /// the gap event, and then what follows the loss here, with no gap event between.
    pub own_counts: bool,
    /// Losses that end up to this position were reported to it, but for those of journals.
    pub losses_since: Position,
    /// Whether `own` is of this node alone. Then it says no more than any later cursor.
    pub is_simple: bool,
    /// It has every event of each journal up to its entry. Empty if its cursor has no entries of the hub's journals.
    pub entries: Entries,
    /// For each journal: the position at which it was lost and began again. Events before it don't count.
    pub begins: [Position; MOST_JOURNALS],
    /// For each journal that turned out to have lost the client's entry: the position when that was known.
    pub lost: [Position; MOST_JOURNALS],
    /// When the client came.
    pub came: Instant,
}

impl Arrival {
    /// The entry up to which it has every event of a channel's journal, if its cursor says that.
    pub(super) fn entry(&self, journal: Option<u8>) -> Option<EntryId> {
        journal.and_then(|journal| self.entries.get(journal))
    }

    /// Whether it lacks an event of a channel that belongs to `journal`.
    pub(super) fn lacks(&self, event: &Event, journal: Option<u8>) -> bool {
        match journal.zip(self.entry(journal)) {
            Some((journal, has)) if event.is_journaled() => {
                event.position() > self.begins[usize::from(journal)]
                    && event.passed().get(journal).is_none_or(|entry| entry > has)
            }
            _ => event.position() > self.since,
        }
    }

    /// The index of an event in `history` before which it lacks none.
    pub(super) fn first_lacking(&self, history: &History, journal: Option<u8>) -> usize {
        let others = history.index_after(self.since);
        match journal.zip(self.entry(journal)) {
            None => others,
            Some((journal, has)) => {
                let begin = history.index_after(self.begins[usize::from(journal)]);
                others.min(history.index_after_entry(begin, Entry { journal, id: has }))
            }
        }
    }

    /// The client's cursor when it has everything of the hub up to `cursor`.
    pub(super) fn merge(&self, cursor: Cursor) -> Cursor {
        let merged = Cursor { entries: self.merge_entries(cursor.position, cursor.entries), ..cursor };
        // Before `since`, the hub's position alone says less than the client's own cursor.
        if cursor.position <= self.since { self.and_own(merged) } else { merged }
    }

    /// The cursor of a client that also has everything that its own cursor says.
    pub(super) fn and_own(&self, cursor: Cursor) -> Cursor {
        if self.own_counts && !self.is_simple { cursor.and(&self.own) } else { cursor }
    }

    fn merge_entries(&self, position: Position, mut passed: Entries) -> Entries {
        if passed.count() != self.entries.count() {
            return passed;
        }
        for ((journal, id), begin) in (0..).zip(self.entries.ids()).zip(self.begins) {
            let entry = Entry { journal, id: *id };
            // Of a journal that begins later for the client, it has nothing of what the hub had passed.
            if position < begin { passed.set(entry) } else { passed.pass(entry) }
        }
        passed
    }

    /// Whether the client was here before, and a reader at `position`, where the journals were passed so far, has all that it had.
    pub(super) fn is_passed(&self, position: Position, passed: &Entries) -> bool {
        self.is_simple
            && position >= self.since
            && self.begins.iter().all(|begin| position >= *begin)
            && passed.max(&self.entries) == *passed
    }

    /// A loss was reported. `others`: events may be missing that came by no journal. Of entries, ids say on every node which ones the client has.
    pub(super) fn note_reported(&mut self, others: bool) {
        self.own_counts &= !others;
    }

    /// A journal has lost entries, and goes on after `entry`.
    pub(super) fn set_back(&mut self, entry: Entry) {
        if self.entries.get(entry.journal) > Some(entry.id) {
            self.own_counts = false;
        }
        self.entries.set(entry);
    }

    /// The journal's last entry was `end` when it was asked at `asked`: if the client had come by then, and has a later entry, the
    /// journal has lost that. `known`: the position at which this is known. True if so.
    pub(super) fn note_reached(&mut self, end: Entry, asked: Instant, known: Position) -> bool {
        let lost = self.came < asked && self.entries.get(end.journal) > Some(end.id);
        if lost {
            self.set_back(end);
            self.lost[usize::from(end.journal)] = known;
        }
        lost
    }
}
