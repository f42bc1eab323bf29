//! Where a client that comes begins to read, from what its id says. It delivers nothing.
//!
//! An id of this node, or of a client that was here before, is exact. Of a journal, every id is exact. Otherwise the time of
//! another node's position counts, less `history.skew`.

use std::time::Instant;

use super::{Arrival, CursorOrigin, Hub, Reader};
use crate::cursor::{Cursor, Entries, MOST_JOURNALS, NodeId, Others, Position, Start};

impl Hub {
    /// The reader of a client that begins with `start`. `now`: microseconds since 1970.
    #[must_use]
    pub fn reader(&self, start: Start, now: u64) -> Reader {
        match start {
            Start::Now => Reader::live(self.last).with_passed(self.passed()),
            Start::Unknown => Reader::new(Position(0), CursorOrigin::Foreign).with_passed(self.no_entries()),
            Start::After(own) => self.reader_after(own, |node, position| self.position_of_time(node, position, now)),
        }
    }

    /// `time` gives the position up to which the client of a cursor of another node has everything.
    fn reader_after(&self, own: Cursor, time: impl Fn(NodeId, Position) -> Position) -> Reader {
        let is_here = |node: &NodeId| node.is_same_node(&self.node);
        let here = if is_here(&own.node) { Some(own.position) } else { own.others.of(&self.node) };
        let exact = here.map(|position| position.min(self.last));
        let by_time = std::iter::once((own.node, own.position)).chain(own.others.iter());
        let by_time = by_time.filter(|(node, _)| !is_here(node)).map(|(node, position)| time(node, position));
        let since = by_time.chain(exact).max().unwrap_or_default();
        // What was lost here before `exact` was reported. But where the client was elsewhere since, it may have got there what
        // precedes that loss: then it is reported again.
        let losses_since = match exact {
            Some(exact) if is_here(&own.node) => exact.max(since),
            Some(exact) => exact.min(time(own.node, own.position)),
            None => since,
        };
        let mut entries = if own.entries.count() == self.passed().count() { own.entries } else { Entries::NONE };
        let said = entries;
        let begins = self.journals.begins(&mut entries, exact);
        let own_counts = entries == said;
        let origin = if here.is_some() { CursorOrigin::Resumed } else { CursorOrigin::Foreign };
        let cursor = match exact {
            _ if entries.is_empty() => losses_since,
            Some(exact) => exact.min(losses_since),
            // Events of the journals that it lacks may be older than its time.
            None => Position(0),
        };
        let passed = if entries.is_empty() { self.no_entries() } else { entries };
        let reader = Reader::new(cursor, origin).with_passed(passed);
        let is_simple = is_here(&own.node) && own.others == Others::NONE;
        if is_simple && entries.is_empty() {
            return reader;
        }
        reader.with_arrival(Arrival {
            own,
            since,
            losses_since,
            own_counts,
            is_simple,
            entries,
            begins,
            lost: [Position(0); MOST_JOURNALS],
            came: Instant::now(),
        })
    }

    /// The position up to which a client of another node has everything, by the time of its position there. `now`: the time.
    fn position_of_time(&self, node: NodeId, position: Position, now: u64) -> Position {
        // The client read from an earlier run of this instance. All events kept here came later, whatever the clock said.
        // Comparing times would hide events if the clock was set back.
        if node.is_run_of_same_instance(&self.node) {
            return Position(0);
        }
        // Its node's clock was set back, and the position says no time.
        if !node.is_timed() {
            return Position(0);
        }
        // The client has all events that were published before this time.
        let time = position.0.saturating_sub(self.skew_micros());
        // A node whose clock is far ahead: the cursor does not say which events the client has.
        if time > now { Position(0) } else { self.lags.before(time).min(self.last) }
    }

    fn skew_micros(&self) -> u64 {
        u64::try_from(self.limits.skew.as_micros()).unwrap_or(u64::MAX)
    }
}
