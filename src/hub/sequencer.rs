//! Gives events their positions. The only place where a position is made.

use crate::cursor::{Cursor, NodeId, Position};

/// The node's name and its last position. Positions only ever grow, and are the time where the clock allows it.
#[derive(Debug)]
pub struct Sequencer {
    node: NodeId,
    last: Position,
}

impl Sequencer {
    /// A sequencer whose first position is `now` or later.
    ///
    /// `now`: microseconds since 1970.
    #[must_use]
    pub fn new(node: NodeId, now: u64) -> Self {
        Self { node, last: Position(now) }
    }

    /// A sequencer that goes on after `cursor`.
    #[must_use]
    pub fn after(cursor: Cursor) -> Self {
        Self { node: cursor.node, last: cursor.position }
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

    /// The last position given.
    #[must_use]
    pub fn last(&self) -> Position {
        self.last
    }

    /// The cursor of one who has read everything so far.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        Cursor { node: self.node, position: self.last }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_grow_even_where_the_clock_does_not() {
        let mut sequencer = Sequencer::new(NodeId::random(), 100);
        assert_eq!(sequencer.next(50), Position(101));
        assert_eq!(sequencer.next(200), Position(200));
        assert_eq!(sequencer.next(200), Position(201));
    }
}
