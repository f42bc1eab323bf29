//! How far a client has read, and which losses were reported to it. It does not decide when a gap event is sent:
//! [`super::replay`] does.
//!
//! Invariants:
//! - A loss concerns a reader as long as the reader's cursor is before the end of the loss, and no longer.
//! - A cursor never passes the beginning of a loss that was not reported. So a client that was cut off within a loss already got
//!   the gap event, and may continue at another shard or node whose history has the missing events.

use super::{
    ChannelId,
    history::{Cause, History},
};
use crate::{cursor::Position, sse::GapReason};

/// How a reader got its cursor. It decides which reason a gap event gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CursorOrigin {
    /// The client has been connected all the time.
    Live,
    /// The client reconnected with a cursor of this node.
    Resumed,
    /// The client reconnected with a cursor that this node did not make.
    Foreign,
}

/// How far a client has read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    /// The client has every event up to this position, except what was reported as lost.
    pub cursor: Position,
    /// How the reader got the cursor.
    pub origin: CursorOrigin,
    /// Losses that were reported and whose end the cursor has not reached. They are not reported again while the client is
    /// connected, also over an upgrade.
    reported: Vec<ReportedLoss>,
}

/// A stretch of one channel in which events may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    channel: ChannelId,
    /// The gap event comes after the events up to this position, and before all later ones.
    pub(super) begin: Position,
    /// The channel is complete again after this position, up to the next loss.
    pub(super) end: Position,
    /// The reason that the gap event gives.
    pub(super) reason: GapReason,
    pub(super) kind: LossKind,
}

/// Why events may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossKind {
    /// The history dropped events because of its limits, or it began later.
    BeforeHistory,
    /// A source was disconnected.
    Hole,
}

/// A loss that was reported to a reader.
///
/// Invariant: after a report of kind [`LossKind::BeforeHistory`], the reader gets no event of the channel up to `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportedLoss {
    /// The channel that lacks events.
    pub channel: ChannelId,
    /// Why events may be missing.
    pub kind: LossKind,
    /// The position at which the loss ended when it was reported.
    pub end: Position,
    /// The hub's last position when the loss was reported. The report also covers events that were published up to this
    /// position and are dropped before the reader gets another event of the channel.
    pub known: Position,
}

impl Reader {
    /// A reader at `cursor`.
    #[must_use]
    pub fn new(cursor: Position, origin: CursorOrigin) -> Self {
        Self { cursor, origin, reported: Vec::new() }
    }

    /// The reader of a connected client that has every event up to `cursor`.
    #[must_use]
    pub fn live(cursor: Position) -> Self {
        Self::new(cursor, CursorOrigin::Live)
    }

    /// Moves the cursor to `position`.
    pub(super) fn advance(&mut self, position: Position) {
        self.cursor = position;
        self.reported.retain(|reported| reported.end > position);
    }

    /// The losses that were reported and whose end the cursor has not reached.
    #[must_use]
    pub fn reported(&self) -> &[ReportedLoss] {
        &self.reported
    }

    /// Notes that `losses` were reported when the hub's last position was `known`.
    pub(super) fn note_reported(&mut self, losses: &[Loss], known: Position) {
        let within = losses.iter().filter(|loss| loss.end > self.cursor);
        self.reported.extend(within.map(|&Loss { channel, kind, end, .. }| ReportedLoss { channel, kind, end, known }));
    }

    /// Adds a loss that another process reported. `history` is the history of its channel here. It may be longer than the one
    /// of the report: then the loss ends earlier here, and the reader gets events that were missing there.
    pub(super) fn restore_reported(&mut self, mut reported: ReportedLoss, history: &History) {
        if reported.kind == LossKind::BeforeHistory {
            reported.end = reported.end.min(history.complete_since());
        }
        if reported.end > self.cursor {
            self.reported.push(reported);
        }
    }

    /// The losses of a channel that concern the reader and were not reported to it.
    pub(super) fn unreported<'a>(
        &'a self,
        channel: ChannelId,
        history: &'a History,
    ) -> impl Iterator<Item = Loss> + 'a {
        let before_history = Loss {
            channel,
            begin: self.cursor, // The event right after the cursor may be lost.
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
            // A connected client has a cursor before the channel began only if a source was disconnected when the client joined.
            (Cause::Began, CursorOrigin::Live) => GapReason::Source,
            (Cause::Evicted, CursorOrigin::Live) => GapReason::Slow,
            (_, CursorOrigin::Resumed) => GapReason::History,
            (_, CursorOrigin::Foreign) => GapReason::Restart,
        }
    }
}

impl ReportedLoss {
    /// Whether no other gap event is needed for `loss`. Example: a history keeps two events of channel `a`, and a reader at
    /// position 0 gets a gap event when the last position is 6. The history has dropped a1 and a4.
    ///
    /// ```text
    /// position    1   2   3   4   5   6   7   8   9
    /// published   a   b   b   a   a   a
    ///             │           │       │
    ///             cursor      end     known
    /// ```
    ///
    /// Until its cursor is at the end of the loss, the reader gets events of `b` only. Meanwhile more of `a` is published:
    /// - a7 and a8, so a5 and a6 are dropped. The loss ends at 6 now, not after `known`. It is covered: these events were
    ///   published before the gap event was sent, and the reader got no event of `a` since.
    /// - a9, so a7 is dropped. The loss ends at 7, after `known`. It is not covered: the gap event was sent before a7.
    fn covers(&self, loss: &Loss) -> bool {
        self.channel == loss.channel
            && self.kind == loss.kind
            && match loss.kind {
                LossKind::BeforeHistory => loss.end <= self.known,
                // Each hole has an end of its own. Holes of two sources may overlap, and the reader may get events between their
                // beginnings, so each one is reported in its place.
                LossKind::Hole => loss.end == self.end,
            }
    }
}
