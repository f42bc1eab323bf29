//! How far a client has read, and which losses were reported to it. Where among the events a gap event stands is decided
//! by [`super::replay`].
//!
//! Invariants:
//! - A loss concerns a reader exactly while the reader's cursor is before the end of the loss.
//! - A cursor never passes the begin of a loss that was not reported. So a client that was cut off within a loss, and
//!   continues at a history that has what is missing here, already got the gap event.

use super::{
    ChannelId,
    history::{Cause, History},
};
use crate::{cursor::Position, sse::GapReason};

/// How a reader came to its cursor: it decides which reason a gap event gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CursorOrigin {
    /// It was connected all the time.
    Live,
    /// It came back with a cursor of this node.
    Resumed,
    /// It came back with a cursor that this node did not make.
    Foreign,
}

/// How far a client has read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    /// It has everything up to here.
    pub cursor: Position,
    /// How it came to the cursor.
    pub origin: CursorOrigin,
    /// Losses reported to it that the cursor has not passed: they are not reported again while the client is connected.
    reported: Vec<ReportedLoss>,
}

/// A stretch of one channel in which events may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    channel: ChannelId,
    /// The gap event comes after the events up to here, and before all later ones.
    pub(super) begin: Position,
    /// The channel is complete again after this position, up to the next loss.
    pub(super) end: Position,
    /// The reason that the gap event gives.
    pub(super) reason: GapReason,
    kind: LossKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LossKind {
    /// A bound of the history dropped events, or the history began later.
    BeforeHistory,
    /// A source was disconnected.
    Hole,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ReportedLoss {
    loss: Loss,
    /// The hub's last position when the loss was reported. What was published up to there and is dropped before the reader
    /// gets another event of the channel is covered by the same report.
    known: Position,
}

impl Reader {
    /// A reader at `cursor`.
    #[must_use]
    pub fn new(cursor: Position, origin: CursorOrigin) -> Self {
        Self { cursor, origin, reported: Vec::new() }
    }

    /// A connected client that has everything up to `cursor`.
    #[must_use]
    pub fn live(cursor: Position) -> Self {
        Self::new(cursor, CursorOrigin::Live)
    }

    /// Moves the cursor to `position`.
    pub(super) fn advance(&mut self, position: Position) {
        self.cursor = position;
        self.reported.retain(|reported| reported.loss.end > position);
    }

    /// Notes that `losses` were reported when the hub's last position was `known`.
    pub(super) fn note_reported(&mut self, losses: &[Loss], known: Position) {
        let within = losses.iter().filter(|loss| loss.end > self.cursor);
        self.reported.extend(within.map(|&loss| ReportedLoss { loss, known }));
    }

    /// The losses of a channel that concern the reader and were not reported to it.
    pub(super) fn unreported<'a>(
        &'a self,
        channel: ChannelId,
        history: &'a History,
    ) -> impl Iterator<Item = Loss> + 'a {
        let before_history = Loss {
            channel,
            begin: self.cursor, // The first lost event may follow the cursor immediately.
            end: history.complete_since(),
            reason: self.gap_reason(history.cause()),
            kind: LossKind::BeforeHistory,
        };
        let holes = history.holes().iter().map(move |hole| Loss {
            channel,
            begin: hole.begin.max(self.cursor),
            end: hole.end,
            reason: GapReason::Source,
            kind: LossKind::Hole,
        });
        std::iter::once(before_history)
            .chain(holes)
            .filter(|loss| loss.end > self.cursor && !self.reported.iter().any(|reported| reported.covers(loss)))
    }

    fn gap_reason(&self, cause: Cause) -> GapReason {
        match (cause, self.origin) {
            // A client that is connected all the time sees a channel begin only if a source was disconnected when it joined.
            (Cause::Began, CursorOrigin::Live) => GapReason::Source,
            (Cause::Evicted, CursorOrigin::Live) => GapReason::Slow,
            (_, CursorOrigin::Resumed) => GapReason::History,
            (_, CursorOrigin::Foreign) => GapReason::Restart,
        }
    }
}

impl ReportedLoss {
    fn covers(&self, loss: &Loss) -> bool {
        self.loss.channel == loss.channel
            && self.loss.kind == loss.kind
            && match loss.kind {
                // The reader's cursor is still before the old end, so it got no event of the channel since.
                LossKind::BeforeHistory => loss.end <= self.known,
                LossKind::Hole => loss.end <= self.loss.end,
            }
    }
}
