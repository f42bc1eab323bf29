//! Gives events their positions. No position is made elsewhere. It reads no clock.

use crate::cursor::{Cursor, Entries, NodeId, Others, Position};

/// The node's name, its last position, and how far each journal has been passed. Positions only grow. A position is the time of publishing, unless the clock has
/// stepped back.
#[derive(Debug)]
pub struct Sequencer {
    node: NodeId,
    last: Position,
    /// The last entry of each journal that was passed.
    pub passed: Entries,
}

impl Sequencer {
    /// A sequencer whose first position is `now` or later.
    ///
    /// `now`: microseconds since 1970.
    #[must_use]
    pub fn new(node: NodeId, now: u64) -> Self {
        Self { node, last: Position(now), passed: Entries::NONE }
    }

    /// The same for a node that reads `journals` journals.
    #[must_use]
    pub fn with_journals(self, journals: usize) -> Self {
        Self { passed: Entries::of(journals), ..self }
    }

    /// A sequencer whose first position is greater than that of `cursor`.
    #[must_use]
    pub fn after(cursor: Cursor) -> Self {
        Self { node: cursor.node, last: cursor.position, passed: cursor.entries }
    }

    /// The next position: `now` (microseconds since 1970), or one more than the last where that is greater.
    pub fn next(&mut self, now: u64) -> Position {
        self.last = Position(now.max(self.last.0 + 1));
        self.last
    }

    /// The node's name.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// The position that was made last.
    #[must_use]
    pub fn last(&self) -> Position {
        self.last
    }

    /// The cursor of a client that has every event so far.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        Cursor { node: self.node, position: self.last, entries: self.passed, others: Others::NONE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_grow_when_the_clock_steps_back() {
        let mut sequencer = Sequencer::new(NodeId::random(), 100);
        assert_eq!(sequencer.next(50), Position(101));
        assert_eq!(sequencer.next(200), Position(200));
        assert_eq!(sequencer.next(200), Position(201));
    }
}
