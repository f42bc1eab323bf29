//! The events of one channel that are still kept, and since when they are all of them.
//!
//! Invariant: every event of the channel with a position greater than [`History::complete_since`] is here, in order, but for
//! what a source has missed within each of the [`History::holes`].

use std::{collections::VecDeque, sync::Arc};

use crate::{clock::Uptime, cursor::Position, event::Event};

/// Most holes that one history has; with one more, what is before the oldest is dropped.
const MOST_HOLES: usize = 8;

/// What last raised a channel's `complete_since`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The node, or its subscription to the channel, began.
    Began,
    /// A bound of the history dropped an event.
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

/// An event and what only its history knows of it.
#[derive(Debug)]
struct Kept {
    event: Arc<Event>,
    arrived: Uptime,
    /// What was counted for it, in bytes.
    weight: u32,
}

/// One channel's ring.
#[derive(Debug)]
pub(super) struct History {
    events: VecDeque<Kept>,
    /// How many of the newest events were pushed since the last [`History::weigh_new`].
    unweighed: u32,
    /// What the channel costs while it keeps events, in bytes.
    base_weight: u32,
    complete_since: Position,
    cause: Cause,
    /// In the order of their ends, which are all greater than `complete_since`.
    holes: Vec<Hole>,
}

impl History {
    /// An empty history that is complete since `since`. `base_weight`: what the channel costs while it keeps events, in bytes.
    #[must_use]
    pub(super) fn new(since: Position, cause: Cause, base_weight: u32) -> Self {
        Self { events: VecDeque::new(), unweighed: 0, base_weight, complete_since: since, cause, holes: Vec::new() }
    }

    /// Keeps `event`, which must be later than all that is kept. Gives back the bytes that it takes.
    pub(super) fn push(&mut self, event: Arc<Event>, arrived: Uptime) -> usize {
        debug_assert!(self.newest().is_none_or(|newest| newest < event.position()));
        let base = if self.events.is_empty() { self.base_weight } else { 0 };
        let weight = weight_of(&event);
        self.events.push_back(Kept { event, arrived, weight });
        self.unweighed = self.unweighed.saturating_add(1);
        (weight + base) as usize
    }

    /// Drops the oldest event; gives back the bytes that are free now, 0 if there was none.
    pub(super) fn drop_oldest(&mut self) -> usize {
        let Some(Kept { event, weight, .. }) = self.events.pop_front() else { return 0 };
        self.raise(event.position(), Cause::Evicted);
        if !self.events.is_empty() {
            return weight as usize;
        }
        self.events.shrink_to_fit();
        (weight + self.base_weight) as usize
    }

    /// Counts the forms that were made of the events pushed since the last call. Gives back the bytes that they take.
    pub(super) fn weigh_new(&mut self) -> usize {
        let new = std::mem::take(&mut self.unweighed) as usize;
        self.events.iter_mut().rev().take(new).map(Kept::weigh).sum()
    }

    /// Counts the forms that were made of the event at `position`. Gives back the bytes that they take.
    pub(super) fn weigh(&mut self, position: Position) -> usize {
        let index = self.events.partition_point(|kept| kept.event.position() < position);
        self.events.get_mut(index).filter(|kept| kept.event.position() == position).map_or(0, Kept::weigh)
    }

    /// From now on nothing before `since` is vouched for.
    pub(super) fn raise(&mut self, since: Position, cause: Cause) {
        if since > self.complete_since {
            self.complete_since = since;
            self.cause = cause;
            self.holes.retain(|hole| hole.end > since);
        }
    }

    /// Notes a hole that ends later than all that is kept. Gives back the bytes that are free now.
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

    /// See the module's invariant.
    #[must_use]
    pub(super) fn holes(&self) -> &[Hole] {
        &self.holes
    }

    /// The index of the first event after `position`.
    #[must_use]
    pub(super) fn index_after(&self, position: Position) -> usize {
        // Most readers want the newest few: look there before the search.
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

    /// Events kept.
    #[must_use]
    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether nothing is kept.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// The position of the oldest event kept.
    #[must_use]
    pub(super) fn oldest(&self) -> Option<Position> {
        self.events.front().map(|kept| kept.event.position())
    }

    /// When the oldest event kept has arrived.
    #[must_use]
    pub(super) fn oldest_arrived(&self) -> Option<Uptime> {
        self.events.front().map(|kept| kept.arrived)
    }

    /// The events kept, and when each has arrived.
    pub(super) fn events(&self) -> impl Iterator<Item = (&Arc<Event>, Uptime)> {
        self.events.iter().map(|kept| (&kept.event, kept.arrived))
    }

    /// The position of the newest event kept.
    #[must_use]
    pub(super) fn newest(&self) -> Option<Position> {
        self.events.back().map(|kept| kept.event.position())
    }

    /// See the module's invariant.
    #[must_use]
    pub(super) fn complete_since(&self) -> Position {
        self.complete_since
    }

    /// What last raised [`History::complete_since`].
    #[must_use]
    pub(super) fn cause(&self) -> Cause {
        self.cause
    }
}

impl Kept {
    /// Counts what the event takes by now; gives back by how much that is more.
    fn weigh(&mut self) -> usize {
        let before = std::mem::replace(&mut self.weight, weight_of(&self.event));
        (self.weight - before) as usize
    }
}

fn weight_of(event: &Event) -> u32 {
    u32::try_from(event.weight()).unwrap_or(u32::MAX)
}
