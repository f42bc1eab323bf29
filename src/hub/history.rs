//! The kept events of one channel, and the position after which they are complete. It decides nothing about how many are kept.
//!
//! Invariant: every event of the channel after [`History::complete_since`] is kept, in order, except events that a source lost
//! within one of the [`History::holes`].

use std::{collections::VecDeque, sync::Arc};

use crate::{
    clock::Uptime,
    cursor::{Entry, EntryId, Position},
    event::Event,
};

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
    /// The entries that may be missing, if they are entries of a journal.
    pub journal: Option<JournalHole>,
}

impl Hole {
    /// A hole in what came by no journal.
    #[must_use]
    pub fn new(begin: Position, end: Position) -> Self {
        Self { begin, end, journal: None }
    }
}

/// Entries of a journal that may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalHole {
    /// The journal goes on after this entry.
    pub resumes: Entry,
    /// Clients that have everything up to this entry miss nothing.
    pub up_to: EntryId,
}

impl JournalHole {
    /// Whether the journal itself was lost, so that its ids may repeat.
    #[must_use]
    pub fn begins_again(&self) -> bool {
        self.up_to > self.resumes.id
    }
}

/// What is known of a channel that belongs to a journal, whatever node its clients come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Journaled {
    /// The journal.
    pub journal: u8,
    /// Every event of the journal after this entry is kept, but for the holes.
    pub entries_since: EntryId,
    /// Every other event after this position is kept, but for the holes.
    pub others_since: Position,
    /// The position at which the journal was lost and began again. The entries of events before it say nothing.
    pub begins: Position,
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
    /// Boxed, since most installations have no journal.
    journaled: Option<Box<Journaled>>,
}

impl History {
    /// An empty history that is complete after `since`. `base_weight`: bytes that the channel takes beside its events.
    #[must_use]
    pub(super) fn new(since: Position, cause: Cause, base_weight: u32) -> Self {
        let (events, holes) = (VecDeque::new(), Vec::new());
        Self { events, unweighed: 0, base_weight, complete_since: since, cause, holes, journaled: None }
    }

    /// The same for a channel that belongs to a journal.
    #[must_use]
    pub(super) fn with_journal(self, journaled: Option<Journaled>) -> Self {
        Self { journaled: journaled.map(Box::new), ..self }
    }

    /// What is known of the channel by its journal, if it belongs to one.
    #[must_use]
    pub(super) fn journaled(&self) -> Option<&Journaled> {
        self.journaled.as_deref()
    }

    /// The journal that the channel belongs to.
    #[must_use]
    pub(super) fn journal(&self) -> Option<u8> {
        self.journaled.as_ref().map(|journaled| journaled.journal)
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
        self.note_dropped(&event);
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

    /// For a pattern, whose history is collected from others: it is complete where they are (`complete`, `known`), and has their
    /// events after the position `after` alone. `left_out`: the others, where there are journals.
    pub(super) fn lack(
        &mut self,
        complete: (Position, Cause),
        after: Position,
        known: &[Journaled],
        left_out: &[Arc<Event>],
    ) {
        self.raise_complete(complete.0, complete.1);
        self.raise_complete(after, Cause::Evicted);
        for &Journaled { journal, entries_since, others_since, .. } in known {
            if let Some(own) = self.journaled.as_mut().filter(|own| own.journal == journal) {
                own.entries_since = entries_since.max(own.entries_since);
                own.others_since = others_since.max(own.others_since);
            }
        }
        for event in left_out {
            self.note_dropped(event);
        }
    }

    /// Notes that an event is not kept.
    fn note_dropped(&mut self, event: &Event) {
        if let Some(journaled) = &mut self.journaled {
            match event.passed().get(journaled.journal).filter(|_| event.is_journaled()) {
                Some(_) if event.position() <= journaled.begins => {}
                Some(entry) => journaled.entries_since = entry.max(journaled.entries_since),
                None => journaled.others_since = event.position().max(journaled.others_since),
            }
        }
        self.raise_complete(event.position(), Cause::Evicted);
    }

    /// From now on the history counts as complete only after `since`, except for what came by a journal.
    pub(super) fn raise(&mut self, since: Position, cause: Cause) {
        if let Some(journaled) = &mut self.journaled {
            journaled.others_since = since.max(journaled.others_since);
        }
        self.raise_complete(since, cause);
    }

    fn raise_complete(&mut self, since: Position, cause: Cause) {
        if since > self.complete_since {
            self.complete_since = since;
            self.cause = cause;
            for hole in self.holes.extract_if(.., |hole| hole.end <= since) {
                match (&mut self.journaled, hole.journal) {
                    (None, _) => {}
                    (Some(journaled), Some(JournalHole { resumes, .. })) if hole.end >= journaled.begins => {
                        journaled.entries_since = resumes.id.max(journaled.entries_since);
                    }
                    (Some(_), Some(_)) => {}
                    (Some(journaled), None) => journaled.others_since = hole.end.max(journaled.others_since),
                }
            }
        }
    }

    /// Adds a hole that ends later than all kept events. Returns the freed bytes.
    pub(super) fn add_hole(&mut self, hole: Hole) -> usize {
        let mut freed = 0;
        if self.holes.len() == MOST_HOLES {
            let oldest = self.holes.remove(0);
            while self.oldest().is_some_and(|event| event < oldest.end) {
                freed += self.drop_oldest();
            }
            match (&mut self.journaled, oldest.journal) {
                (Some(journaled), Some(hole)) => {
                    if oldest.end >= journaled.begins {
                        journaled.entries_since = hole.resumes.id.max(journaled.entries_since);
                    }
                    self.raise_complete(oldest.end, Cause::Evicted);
                }
                _ => self.raise(oldest.end, Cause::Evicted),
            }
        }
        if let Some((journaled, lost)) = self.journaled.as_mut().zip(hole.journal)
            && lost.begins_again()
        {
            (journaled.entries_since, journaled.begins) = (lost.resumes.id, hole.end);
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

    /// The index of the first event that passed its journal further than `entry`, counted from `begin`.
    #[must_use]
    pub(super) fn index_after_entry(&self, begin: usize, entry: Entry) -> usize {
        let is_after =
            |index: usize| self.get(index).is_some_and(|event| event.passed().get(entry.journal) > Some(entry.id));
        let (mut begin, mut end) = (begin, self.events.len());
        // Most readers have all events: look at the newest one before the search.
        if begin < end && !is_after(end - 1) {
            return end;
        }
        while begin < end {
            let middle = begin.midpoint(end);
            if is_after(middle) { end = middle } else { begin = middle + 1 }
        }
        begin
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
