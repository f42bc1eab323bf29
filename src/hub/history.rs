//! The kept events of one channel, and the position after which they are complete. It decides nothing about how many are kept.
//!
//! Invariant: every event of the channel after [`History::complete_since`] is kept, in order, except events that a source lost
//! within one of the [`History::holes`].

use std::{collections::VecDeque, sync::Arc};

use crate::{clock::Uptime, cursor::Position, event::Event};

/// Most holes of one history. With one more, the history is complete only after the oldest hole.
const MOST_HOLES: usize = 8;

/// Why a channel's `complete_since` was last raised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The node, or its subscription to the channel, began.
    Began,
    /// An event was dropped because of a limit of the history.
    Evicted,
}

/// Positions between which a source was disconnected: events after `begin` and up to `end` may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hole {
    /// The last position before the source was disconnected.
    pub begin: Position,
    /// The position at which it was connected again.
    pub end: Position,
}

/// A kept event.
#[derive(Debug)]
struct Kept {
    event: Arc<Event>,
    /// When the shard took the event from its queue.
    arrived: Uptime,
    /// Bytes that were counted for the event.
    weight: u32,
}

/// The kept events of one channel.
#[derive(Debug)]
pub(super) struct History {
    events: VecDeque<Kept>,
    /// Number of events that were pushed since the last [`History::weigh_new`].
    unweighed: u32,
    /// Bytes that the channel takes beside its events. Counted while it has events.
    base_weight: u32,
    /// See the module's invariant. Only [`History::raise`] changes it.
    complete_since: Position,
    /// Why `complete_since` was last raised.
    cause: Cause,
    /// Ordered by their ends, which are all greater than `complete_since`.
    holes: Vec<Hole>,
}

impl History {
    /// An empty history that is complete after `since`. `base_weight`: bytes that the channel takes beside its events.
    #[must_use]
    pub(super) fn new(since: Position, cause: Cause, base_weight: u32) -> Self {
        Self { events: VecDeque::new(), unweighed: 0, base_weight, complete_since: since, cause, holes: Vec::new() }
    }

    /// Appends `event`, which must be later than all kept events. Returns the bytes that it takes.
    pub(super) fn push(&mut self, event: Arc<Event>, arrived: Uptime) -> usize {
        debug_assert!(self.newest().is_none_or(|newest| newest < event.position()));
        let base = if self.events.is_empty() { self.base_weight } else { 0 };
        let weight = weight_of(&event);
        self.events.push_back(Kept { event, arrived, weight });
        self.unweighed = self.unweighed.saturating_add(1);
        (weight + base) as usize
    }

    /// Drops the oldest event. Returns the freed bytes, 0 if there was no event.
    pub(super) fn drop_oldest(&mut self) -> usize {
        let Some(Kept { event, weight, .. }) = self.events.pop_front() else { return 0 };
        self.raise(event.position(), Cause::Evicted);
        if !self.events.is_empty() {
            return weight as usize;
        }
        self.events.shrink_to_fit();
        (weight + self.base_weight) as usize
    }

    /// Counts the forms that were made of the events since they were pushed, for those pushed since the last call. Returns the
    /// bytes that the forms take.
    pub(super) fn weigh_new(&mut self) -> usize {
        let new = std::mem::take(&mut self.unweighed) as usize;
        self.events.iter_mut().rev().take(new).map(Kept::weigh).sum()
    }

    /// Counts the forms that were made of the event at `position` since it was last counted. Returns the bytes that they take.
    pub(super) fn weigh(&mut self, position: Position) -> usize {
        let index = self.events.partition_point(|kept| kept.event.position() < position);
        self.events.get_mut(index).filter(|kept| kept.event.position() == position).map_or(0, Kept::weigh)
    }

    /// From now on the history counts as complete only after `since`.
    pub(super) fn raise(&mut self, since: Position, cause: Cause) {
        if since > self.complete_since {
            self.complete_since = since;
            self.cause = cause;
            self.holes.retain(|hole| hole.end > since);
        }
    }

    /// Adds a hole that ends later than all kept events. Returns the freed bytes.
    pub(super) fn add_hole(&mut self, hole: Hole) -> usize {
        let mut freed = 0;
        if self.holes.len() == MOST_HOLES {
            let oldest = self.holes.remove(0).end;
            while self.oldest().is_some_and(|event| event < oldest) {
                freed += self.drop_oldest();
            }
            self.raise(oldest, Cause::Evicted);
        }
        if hole.end > self.complete_since {
            self.holes.push(hole);
        }
        freed
    }

    /// The stretches after `complete_since` in which a source was disconnected.
    #[must_use]
    pub(super) fn holes(&self) -> &[Hole] {
        &self.holes
    }

    /// The index of the first event after `position`.
    #[must_use]
    pub(super) fn index_after(&self, position: Position) -> usize {
        // Most readers have all events: compare with the newest one before the search.
        match self.newest() {
            Some(newest) if newest > position => self.events.partition_point(|kept| kept.event.position() <= position),
            _ => self.events.len(),
        }
    }

    /// The event at `index`, counted from the oldest kept.
    #[must_use]
    pub(super) fn get(&self, index: usize) -> Option<&Arc<Event>> {
        self.events.get(index).map(|kept| &kept.event)
    }

    /// Number of kept events.
    #[must_use]
    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether no event is kept.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// The position of the oldest kept event.
    #[must_use]
    pub(super) fn oldest(&self) -> Option<Position> {
        self.events.front().map(|kept| kept.event.position())
    }

    /// When the oldest kept event arrived.
    #[must_use]
    pub(super) fn oldest_arrived(&self) -> Option<Uptime> {
        self.events.front().map(|kept| kept.arrived)
    }

    /// The kept events, in order, and when each one arrived.
    pub(super) fn events(&self) -> impl Iterator<Item = (&Arc<Event>, Uptime)> {
        self.events.iter().map(|kept| (&kept.event, kept.arrived))
    }

    /// The position of the newest kept event.
    #[must_use]
    pub(super) fn newest(&self) -> Option<Position> {
        self.events.back().map(|kept| kept.event.position())
    }

    /// The position after which the history is complete, except for the holes.
    #[must_use]
    pub(super) fn complete_since(&self) -> Position {
        self.complete_since
    }

    /// Why [`History::complete_since`] was last raised.
    #[must_use]
    pub(super) fn cause(&self) -> Cause {
        self.cause
    }
}

impl Kept {
    /// Counts the bytes that the event takes now. Returns how many more they are than when it was last counted.
    fn weigh(&mut self) -> usize {
        let before = std::mem::replace(&mut self.weight, weight_of(&self.event));
        (self.weight - before) as usize
    }
}

fn weight_of(event: &Event) -> u32 {
    u32::try_from(event.weight()).unwrap_or(u32::MAX)
}
