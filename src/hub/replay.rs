//! "Deliver what follows this cursor": the one piece of code behind resuming and catching up.
//!
//! Invariant: events and gaps of all the channels come in the order of their positions, each position once. A gap stands at
//! the position from which its channel is complete again, so a client that is cut off after any of them and resumes with
//! that id is told nothing twice and misses nothing.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Channel,
    history::{Cause, History},
};
use crate::{
    cursor::{Cursor, NodeId, Position},
    event::{Event, Form},
    name::ChannelName,
    sse::{self, GapReason},
};

/// How a reader came to its cursor: it decides what a gap is put down to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CursorOrigin {
    /// It was connected all the time.
    Live,
    /// It came back with a cursor of this node.
    Resumed,
    /// It came back with a cursor that this node did not make.
    Foreign,
}

/// Where a reader stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reader {
    /// It has all up to here.
    pub cursor: Position,
    /// How it came to the cursor.
    pub origin: CursorOrigin,
}

/// What a reader gets next.
#[derive(Debug)]
pub enum ReplayItem {
    /// An event.
    Event(Arc<Event>),
    /// Events of `channels` before `position` may be missing.
    Gap {
        /// The reader's cursor once it was told.
        position: Position,
        /// The channels.
        channels: Vec<ChannelName>,
        /// Why.
        reason: GapReason,
    },
}

impl ReplayItem {
    /// Its bytes on the wire; those of a gap, which `node` tells, are made for whoever asks.
    #[must_use]
    pub fn frame(&self, node: NodeId, form: Form) -> Bytes {
        match self {
            Self::Event(event) => event.frame(form).clone(),
            Self::Gap { position, channels, reason } => {
                sse::encode_gap(&Cursor { node, position: *position }, channels, *reason)
            }
        }
    }

    /// The reader's cursor once it has this.
    #[must_use]
    pub fn position(&self) -> Position {
        match self {
            Self::Event(event) => event.position(),
            Self::Gap { position, .. } => *position,
        }
    }
}

/// Walks what follows a reader's cursor on some channels.
pub struct Replay<'a> {
    /// Each channel's history and the index of the next event in it.
    heads: Vec<(&'a History, usize)>,
    /// Gaps still to be told, the next one last.
    gaps: Vec<(Position, GapReason, &'a ChannelName)>,
}

impl<'a> Replay<'a> {
    pub(super) fn new(channels: impl Iterator<Item = &'a Channel>, reader: Reader) -> Self {
        let mut heads = Vec::new();
        let mut gaps = Vec::new();
        for channel in channels {
            let history = &channel.history;
            if history.complete_since() > reader.cursor {
                gaps.push((history.complete_since(), reason(history.cause(), reader.origin), &channel.name));
            }
            let holes = history.holes().iter().filter(|&&hole| hole > reader.cursor);
            gaps.extend(holes.map(|&hole| (hole, GapReason::Source, &channel.name)));
            let index = history.index_after(reader.cursor);
            if index < history.len() {
                heads.push((history, index));
            }
        }
        gaps.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| b.2.cmp(a.2)));
        Self { heads, gaps }
    }

    /// Takes the next event without a look at gaps; `None` when there is none before `limit`.
    fn next_event(&mut self, limit: Position) -> Option<Arc<Event>> {
        let (at, event) = self
            .heads
            .iter()
            .enumerate()
            .filter_map(|(at, (history, index))| Some((at, history.get(*index)?)))
            .min_by_key(|(_, event)| event.position())?;
        if event.position() > limit {
            return None;
        }
        let event = Arc::clone(event);
        self.heads[at].1 += 1;
        Some(event)
    }
}

impl Iterator for Replay<'_> {
    type Item = ReplayItem;

    fn next(&mut self) -> Option<ReplayItem> {
        let Some(&(mut position, reason, _)) = self.gaps.last() else {
            return self.next_event(Position(u64::MAX)).map(ReplayItem::Event);
        };
        if let Some(event) = self.next_event(position) {
            return Some(ReplayItem::Event(event));
        }
        // Gaps with no event between them are told together.
        let next_event =
            self.heads.iter().filter_map(|(history, index)| history.get(*index)).map(|e| e.position()).min();
        let mut channels = Vec::new();
        while let Some(&(at, why, name)) = self.gaps.last() {
            if why != reason || next_event.is_some_and(|next| next <= at) {
                break;
            }
            position = at;
            if !channels.contains(name) {
                channels.push(name.clone());
            }
            self.gaps.pop();
        }
        Some(ReplayItem::Gap { position, channels, reason })
    }
}

fn reason(cause: Cause, origin: CursorOrigin) -> GapReason {
    match (cause, origin) {
        // A client that is connected all the time sees a channel begin only if a source was away when it joined.
        (Cause::Began, CursorOrigin::Live) => GapReason::Source,
        (Cause::Evicted, CursorOrigin::Live) => GapReason::Slow,
        (_, CursorOrigin::Resumed) => GapReason::History,
        (_, CursorOrigin::Foreign) => GapReason::Restart,
    }
}
