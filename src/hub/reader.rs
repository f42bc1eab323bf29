//! How far a client has read, and which losses were reported to it. It does not decide when a gap event is sent:
//! [`super::replay`] does.
//!
//! Invariants:
//! - A loss concerns a reader as long as the reader's cursor is before the end of the loss, and no longer.
//! - A cursor never passes the beginning of a loss that was not reported. So a client that was cut off within a loss already got
//!   the gap event, and may continue at another shard or node whose history has the missing events.

use std::time::Instant;

use super::{
    ChannelId,
    arrival::Arrival,
    channel::Channel,
    history::{Cause, History, Hole, Journaled},
};
use crate::{
    cursor::{Cursor, Entries, Entry, NodeId, Others, Position},
    event::Event,
    sse::GapReason,
};

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
    /// How far each journal was passed at the cursor. Boxed, since most installations have no journal.
    passed: Option<Box<Entries>>,
    /// What the client had when it came, until the hub has passed all of that. Boxed, since few clients come from elsewhere.
    arrival: Option<Box<Arrival>>,
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
    /// The entry of its journal after which the channel is complete again.
    pub(super) resumes: Option<Entry>,
    /// Whether events may be missing that came by no journal.
    others: bool,
    pub(super) kind: LossKind,
}

/// Why events may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossKind {
    /// The history dropped events because of its limits, or it began later.
    BeforeHistory,
    /// A source was disconnected.
    Hole,
    /// The journal has lost what the client has read elsewhere.
    Journal,
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
    /// The entry of its journal after which the channel is complete again.
    pub resumes: Option<Entry>,
    /// The hub's last position when the loss was reported. The report also covers events that were published up to this
    /// position and are dropped before the reader gets another event of the channel.
    pub known: Position,
}

impl Reader {
    /// A reader at `cursor`.
    #[must_use]
    pub fn new(cursor: Position, origin: CursorOrigin) -> Self {
        Self { cursor, origin, reported: Vec::new(), passed: None, arrival: None }
    }

    /// The reader of a client that has passed each journal so far.
    #[must_use]
    pub fn with_passed(self, passed: Entries) -> Self {
        let passed = (!passed.is_empty()).then(|| Box::new(passed));
        Self { passed, ..self }
    }

    /// The reader of a client that has come from elsewhere.
    #[must_use]
    pub fn with_arrival(self, arrival: Arrival) -> Self {
        Self { arrival: Some(Box::new(arrival)), ..self }
    }

    /// What the client had when it came, if it came from elsewhere and the hub has not passed all of that.
    #[must_use]
    pub fn arrival(&self) -> Option<&Arrival> {
        self.arrival.as_deref()
    }

    /// Whether the client came with an id and may need events that were published before it came.
    #[must_use]
    pub fn may_need_past(&self) -> bool {
        self.arrival.is_some() || self.origin != CursorOrigin::Live
    }

    /// How far each journal was passed at the cursor.
    #[must_use]
    pub fn passed(&self) -> Entries {
        self.passed.as_deref().copied().unwrap_or_default()
    }

    /// The entries that the client has, if its cursor said that.
    pub(super) fn entries(&self) -> Option<&Entries> {
        self.arrival.as_ref().map(|arrival| &arrival.entries)
    }

    /// The client's cursor when it has everything of this node up to `position`, where the journals were passed so far.
    pub(super) fn cursor_after(&self, node: NodeId, position: Position, passed: Entries) -> Cursor {
        let cursor = Cursor { node, position, entries: passed, others: Others::NONE };
        match &self.arrival {
            Some(arrival) => arrival.merge(cursor),
            None => cursor,
        }
    }

    /// The client's cursor now. `node`: this node.
    #[must_use]
    pub fn id(&self, node: NodeId) -> Cursor {
        self.cursor_after(node, self.cursor, self.passed())
    }

    /// The cursor that the client came with; where it came with none, or one that says nothing, its cursor now.
    #[must_use]
    pub fn first_id(&self, node: NodeId) -> Cursor {
        self.arrival.as_ref().map_or_else(|| self.id(node), |arrival| arrival.own)
    }

    /// The cursor of a poll's answer: it has what was delivered of other nodes too, since a poll may come from another one each time.
    #[must_use]
    pub fn poll_id(&self, node: NodeId) -> Cursor {
        let id = self.id(node);
        self.arrival.as_ref().map_or(id, |arrival| arrival.and_own(id))
    }

    /// A poll has everything up to `last`, where the journals were passed so far, and waits for what follows.
    pub fn wait(&mut self, last: Position, passed: Entries) {
        self.catch_up(last, passed);
        self.origin = CursorOrigin::Live;
        let is_needed = |arrival: &Arrival| !arrival.is_simple || passed.max(&arrival.entries) != passed;
        self.arrival = self.arrival.take().filter(|arrival| is_needed(arrival));
    }

    /// Everything due has been given to the client: moves the cursor to `last`, where the journals were passed so far.
    pub fn catch_up(&mut self, last: Position, passed: Entries) {
        self.advance(last);
        self.set_passed(passed);
    }

    /// Sets how far each journal was passed, unless that says nothing of these journals.
    pub(super) fn set_passed(&mut self, passed: Entries) {
        if let Some(before) = self.passed.as_deref_mut().filter(|before| before.count() == passed.count()) {
            *before = passed;
        }
    }

    /// A journal's last entry was `end` when it was asked at `asked`. If the client came before with a later entry, that was lost, and
    /// the client is to get a gap event. `known`: the position of this report. True if so.
    pub fn note_reached(&mut self, end: Entry, asked: Instant, known: Position) -> bool {
        self.arrival.as_mut().is_some_and(|arrival| arrival.note_reached(end, asked, known))
    }

    /// The reader of a connected client that has every event up to `cursor`.
    #[must_use]
    pub fn live(cursor: Position) -> Self {
        Self::new(cursor, CursorOrigin::Live)
    }

    /// Moves the cursor to `position`. Of the journals whose losses end there, the client has what there is.
    pub(super) fn advance(&mut self, position: Position) {
        self.cursor = position;
        for reported in self.reported.extract_if(.., |reported| reported.end <= position) {
            resume(reported.resumes, reported.kind, &mut self.passed, &mut self.arrival);
        }
    }

    /// The losses that were reported and whose end the cursor has not reached.
    #[must_use]
    pub fn reported(&self) -> &[ReportedLoss] {
        &self.reported
    }

    /// Notes that `losses` were reported when the hub's last position was `known`.
    pub(super) fn note_reported(&mut self, losses: &[Loss], known: Position) {
        for &Loss { channel, kind, end, resumes, others, .. } in losses {
            if let Some(arrival) = &mut self.arrival {
                arrival.note_reported(others);
            }
            // No event lies within a hole of a journal: those that follow come after it.
            if end <= self.cursor || kind != LossKind::BeforeHistory {
                resume(resumes, kind, &mut self.passed, &mut self.arrival);
            }
            if end > self.cursor {
                self.reported.push(ReportedLoss { channel, kind, end, resumes, known });
            }
        }
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

    /// The client's cursor when it is at `position` and knows of `losses`.
    pub(super) fn id_after(&self, node: NodeId, position: Position, losses: &[Loss]) -> Cursor {
        let mut after = self.clone();
        after.advance(position);
        after.note_reported(losses, position);
        after.id(node)
    }

    /// The id of an event for this client, where it is another one than for all clients.
    pub(super) fn id_of(&self, node: NodeId, event: &Event) -> Option<Box<Cursor>> {
        let arrival = self.arrival.as_ref()?;
        if arrival.entries.is_empty() && event.position() > arrival.since {
            return None;
        }
        let for_all = Cursor { entries: event.passed(), ..Cursor::new(node, event.position()) };
        let id = if self.reported.is_empty() {
            arrival.merge(for_all)
        } else {
            let mut after = self.clone();
            after.advance(event.position());
            after.cursor_after(node, event.position(), for_all.entries)
        };
        (id != for_all).then(|| Box::new(id))
    }

    /// The client was given `event`: its arrival is forgotten if it was here before, and the event's id says all that it had.
    pub(super) fn settle(&mut self, event: &Event) {
        let passed = self.passed();
        if self.arrival.as_ref().is_some_and(|arrival| arrival.is_passed(event.position(), &passed)) {
            self.arrival = None;
        }
    }

    /// The losses of a channel that concern the reader and were not reported to it.
    pub(super) fn unreported<'a>(&'a self, id: ChannelId, channel: &'a Channel) -> impl Iterator<Item = Loss> + 'a {
        let history = &channel.history;
        let journaled = history.journaled();
        let has = self.arrival.as_ref().and_then(|arrival| Some((arrival, arrival.entry(history.journal())?)));
        let resumes = |&Journaled { journal, entries_since, .. }| Entry { journal, id: entries_since };
        let before_history = Loss {
            channel: id,
            begin: self.cursor, // The event right after the cursor may be lost.
            end: history.complete_since(),
            reason: self.gap_reason(history.cause()),
            resumes: journaled.map(resumes),
            others: true,
            kind: LossKind::BeforeHistory,
        };
        let before_history = match has.zip(journaled) {
            None => Some(before_history),
            Some(((arrival, has), journaled)) if has < journaled.entries_since => {
                let reason = if self.origin == CursorOrigin::Live { before_history.reason } else { GapReason::History };
                Some(Loss { reason, others: arrival.losses_since < journaled.others_since, ..before_history })
            }
            Some(((arrival, _), journaled)) => (arrival.losses_since < journaled.others_since).then_some(Loss {
                end: journaled.others_since,
                resumes: None,
                ..before_history
            }),
        };
        let concerns = move |hole: &&Hole| match (has, hole.journal) {
            (Some((_, has)), Some(journal)) => has < journal.up_to,
            (Some((arrival, _)), None) => hole.end > arrival.losses_since,
            (None, _) => true,
        };
        let holes = history.holes().iter().filter(concerns).map(move |hole| Loss {
            channel: id,
            begin: hole.begin.max(self.cursor),
            end: hole.end,
            reason: GapReason::Source,
            resumes: hole.journal.map(|journal| journal.resumes),
            others: hole.journal.is_none(),
            kind: LossKind::Hole,
        });
        let lost = has.zip(history.journal()).map(|((arrival, has), journal)| Loss {
            channel: id,
            begin: self.cursor,
            end: arrival.lost[usize::from(journal)],
            reason: GapReason::Source,
            resumes: Some(Entry { journal, id: has }),
            others: false,
            kind: LossKind::Journal,
        });
        before_history
            .into_iter()
            .chain(holes)
            .chain(lost)
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

/// A client knows of a loss of this kind, and has everything of its journal up to `resumes`, where that goes on.
fn resume(
    resumes: Option<Entry>,
    kind: LossKind,
    passed: &mut Option<Box<Entries>>,
    arrival: &mut Option<Box<Arrival>>,
) {
    let Some(entry) = resumes else { return };
    // After a loss of the journal itself, it may go on after an earlier entry.
    let only_grows = kind == LossKind::BeforeHistory;
    match passed {
        None => {}
        Some(passed) if only_grows => passed.pass(entry),
        Some(passed) => passed.set(entry),
    }
    match arrival {
        None => {}
        Some(arrival) if only_grows => arrival.entries.pass(entry),
        Some(arrival) => arrival.set_back(entry),
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
                LossKind::Hole | LossKind::Journal => loss.end == self.end,
            }
    }
}
