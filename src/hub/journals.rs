//! How far the hub has passed each journal, and since which entry it knows the events of channels that it does not have. It reads no
//! journal.
//!
//! Invariants:
//! - Entries of a journal grow with the positions of their events, except where the journal was lost and begins again.
//! - A client that has not read a journal up to an entry that may have been lost gets a gap event.

use std::sync::Arc;

use super::{
    GroupId, Hub,
    history::{Cause, Hole, JournalHole, Journaled},
    reader::Reader,
};
use crate::{
    cursor::{Entries, Entry, EntryId, MOST_JOURNALS, Position, journal_of},
    event::Event,
    name::ChannelName,
};

/// Where a journal was lost and begins again, other nodes may have read further before: so many milliseconds, by its own clock.
const LEAD: u64 = 60_000;

/// A place at which a journal was lost and began again, with ids that may be those of earlier entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Restart {
    /// Events of the journal after this position are of its new life.
    pub position: Position,
    /// The last entry of its former life that was passed.
    pub passed: EntryId,
}

impl Restart {
    /// Entries up to this one may be of either life.
    fn doubtful(&self) -> EntryId {
        EntryId { millis: self.passed.millis.saturating_add(LEAD), ..self.passed }
    }
}

/// What a hub knows of its journals.
#[derive(Debug)]
pub(super) struct Journals {
    /// How far each journal was passed when a source last reported something.
    reported: Entries,
    /// The last event of a journal since then: its id says how far they have been passed.
    newest: Option<Arc<Event>>,
    /// For each journal: entries up to this one are not known of channels that the hub does not have.
    floors: [EntryId; MOST_JOURNALS],
    /// The same for events that came by no journal.
    others_floor: Position,
    restarts: [Restart; MOST_JOURNALS],
    /// For journals that are read from their tails: the entries up to which nothing is new. `None` once all are past that.
    past: Option<Entries>,
    /// For each journal: a source has reported how far it reads. Before that, nothing is known of what a client needs.
    is_begun: [bool; MOST_JOURNALS],
}

/// A hub's journals, for a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalsSnapshot {
    /// How far each journal was passed.
    pub passed: Entries,
    /// For each journal: entries up to this one are not known of channels that the hub does not have.
    pub floors: [EntryId; MOST_JOURNALS],
    /// The same for events that came by no journal.
    pub others_floor: Position,
    /// For each journal: where it began again.
    pub restarts: [Restart; MOST_JOURNALS],
}

impl Journals {
    pub(super) fn new(passed: Entries, others_floor: Position) -> Self {
        Self {
            reported: passed,
            newest: None,
            floors: [EntryId::ZERO; MOST_JOURNALS],
            others_floor,
            restarts: [Restart::default(); MOST_JOURNALS],
            past: None,
            is_begun: [false; MOST_JOURNALS],
        }
    }

    /// The journal of a channel; `None` without journals, and for a pattern where there are several: then its events are found by
    /// position or time.
    pub(super) fn of(&self, name: &ChannelName) -> Option<u8> {
        match self.reported.count() {
            0 => None,
            1 => Some(0),
            // The channels of a pattern belong to any of them.
            _ if name.is_pattern() => None,
            count => Some(journal_of(name.as_str(), count)),
        }
    }

    /// Whether there are journals.
    pub(super) fn has_any(&self) -> bool {
        !self.reported.is_empty()
    }

    /// Where the history of a channel of a journal begins that the hub does not have.
    pub(super) fn begin(&self, journal: u8) -> Journaled {
        let entries_since = self.floors[usize::from(journal)];
        let begins = self.restarts[usize::from(journal)].position;
        Journaled { journal, entries_since, others_since: self.others_floor, begins }
    }

    /// The history of a channel is forgotten: it begins there if the channel is made again.
    pub(super) fn forget(&mut self, history: &Journaled) {
        let floor = &mut self.floors[usize::from(history.journal)];
        *floor = history.entries_since.max(*floor);
        self.others_floor = history.others_since.max(self.others_floor);
    }

    /// Notes that an event was passed. False if it is of the past, so that connected clients don't get it.
    pub(super) fn pass(&mut self, event: &Arc<Event>) -> bool {
        if !event.is_journaled() {
            return true;
        }
        self.newest = Some(Arc::clone(event));
        let Some((past, journal)) = self.past.zip(self.of(event.channel())) else { return true };
        let is_new = event.passed().get(journal) > past.get(journal);
        if is_new {
            self.end_past(journal);
        }
        is_new
    }

    fn end_past(&mut self, journal: u8) {
        if let Some(past) = &mut self.past {
            past.set(Entry { journal, id: EntryId::ZERO });
            if past.ids().iter().all(|id| *id == EntryId::ZERO) {
                self.past = None;
            }
        }
    }

    fn begun(&mut self, journal: u8) {
        if let Some(is_begun) = self.is_begun.get_mut(usize::from(journal)) {
            *is_begun = true;
        }
    }

    /// Whether events follow that were published before this hub has reached its sources.
    fn has_past(&self, journal: u8) -> bool {
        let is_begun = self.is_begun.get(usize::from(journal)).is_some_and(|is_begun| *is_begun);
        let is_unread = !is_begun && self.passed().get(journal) <= Some(EntryId::ZERO);
        is_unread || self.past.is_some_and(|past| past.get(journal) > Some(EntryId::ZERO))
    }

    fn passed(&self) -> Entries {
        self.newest.as_ref().map_or(self.reported, |event| event.passed())
    }

    fn report(&mut self, change: impl FnOnce(&mut Entries)) {
        self.reported = self.passed();
        self.newest = None;
        change(&mut self.reported);
    }

    /// For a client that comes with `entries`: the position for each journal before which its events don't count. Where a journal was
    /// lost since, its entry is taken away. `here`: the position of this node up to which the client has everything, if it was here.
    pub(super) fn begins(&self, entries: &mut Entries, here: Option<Position>) -> [Position; MOST_JOURNALS] {
        let mut begins = [Position(0); MOST_JOURNALS];
        for ((journal, id), (begin, restart)) in
            (0..).zip(entries.ids().to_vec()).zip(begins.iter_mut().zip(self.restarts))
        {
            let unknown = Entry { journal, id: EntryId::ZERO };
            match here {
                _ if restart == Restart::default() => {}
                Some(here) if here >= restart.position => {}
                // It has what this node had passed of the journal's former life. Positions are exact here.
                Some(_) if id <= restart.passed => entries.set(unknown),
                _ => {
                    *begin = restart.position;
                    if here.is_some() || id <= restart.doubtful() {
                        entries.set(unknown);
                    }
                }
            }
        }
        begins
    }
}

impl Hub {
    /// How far each journal was passed at the last position.
    #[must_use]
    pub fn passed(&self) -> Entries {
        self.journals.passed()
    }

    /// The journal of a channel; `None` without journals.
    #[must_use]
    pub fn journal_of(&self, name: &ChannelName) -> Option<u8> {
        self.journals.of(name)
    }

    /// The beginnings of all journals.
    pub(super) fn no_entries(&self) -> Entries {
        Entries::of(self.journals.reported.count())
    }

    /// Whether events of the past of one of the channels' journals follow, which the client needs although connected clients don't get
    /// them: it came with an id.
    #[must_use]
    pub fn needs_past(&self, group: GroupId, reader: &Reader) -> bool {
        let mut journals = self.groups.channels(group).filter_map(|id| self.channels[id as usize].history.journal());
        reader.may_need_past() && journals.any(|journal| self.journals.has_past(journal))
    }

    /// Whether the reader must not get what others get, until the hub has passed more: it has read one of its channels' journals
    /// further than this hub, or it needs a journal's past.
    #[must_use]
    pub fn is_ahead(&self, group: GroupId, reader: &Reader) -> bool {
        if self.needs_past(group, reader) {
            return true;
        }
        let Some(entries) = reader.entries() else { return false };
        let passed = self.passed();
        let is_ahead = |journal| entries.get(journal) > passed.get(journal);
        self.groups.channels(group).any(|id| self.channels[id as usize].history.journal().is_some_and(is_ahead))
    }

    /// A journal is read from its tail, after the entry `since`. Up to `until` its entries are of the past. Clients that joined before
    /// get a gap event: the groups are returned.
    pub fn journal_began(&mut self, since: Entry, until: EntryId, hole: Hole) -> Vec<GroupId> {
        self.last = self.last.max(hole.end);
        let before = self.passed().get(since.journal);
        self.journals.begun(since.journal);
        self.journals.report(|passed| passed.set(since));
        let mut past = self.journals.past.take().unwrap_or_else(|| self.no_entries());
        past.set(Entry { journal: since.journal, id: if until > since.id { until } else { EntryId::ZERO } });
        self.journals.past = past.ids().iter().any(|id| *id > EntryId::ZERO).then_some(past);
        // Where nothing precedes it, nothing is missing.
        if before == Some(since.id) { Vec::new() } else { self.add_journal_hole(since, since.id, hole) }
    }

    /// Entries of a journal may have been lost up to `end`. Returns the groups whose clients are to get a gap event.
    pub fn journal_lost(&mut self, end: Entry, hole: Hole) -> Vec<GroupId> {
        self.last = self.last.max(hole.end);
        let before = self.passed().get(end.journal).unwrap_or_default();
        self.journals.begun(end.journal);
        self.journals.report(|passed| passed.set(end));
        self.journals.end_past(end.journal);
        let mut up_to = end.id;
        if end.id < before {
            // Its entries' ids may repeat.
            let restart = Restart { position: hole.end, passed: before };
            up_to = restart.doubtful();
            if let Some(place) = self.journals.restarts.get_mut(usize::from(end.journal)) {
                *place = restart;
            }
        }
        // Of channels that the hub does not have, events may be missing too.
        self.floor = (self.floor.0.max(hole.end), Cause::Began);
        self.add_journal_hole(end, up_to, hole)
    }

    /// Everything of a journal up to `end` has been passed.
    pub fn journal_reached(&mut self, end: Entry, position: Position) {
        self.last = self.last.max(position);
        self.journals.begun(end.journal);
        self.journals.report(|passed| passed.pass(end));
        if self.journals.past.is_some_and(|past| past.get(end.journal) <= Some(end.id)) {
            self.journals.end_past(end.journal);
        }
    }

    fn add_journal_hole(&mut self, resumes: Entry, up_to: EntryId, hole: Hole) -> Vec<GroupId> {
        let hole = Hole { journal: Some(JournalHole { resumes, up_to }), ..hole };
        if let Some(floor) = self.journals.floors.get_mut(usize::from(resumes.journal)) {
            *floor = if up_to > resumes.id { resumes.id } else { resumes.id.max(*floor) };
        }
        let mut groups = Vec::new();
        for (_, channel) in &mut self.channels {
            match channel.history.journal() {
                Some(journal) if journal == resumes.journal => self.bytes -= channel.history.add_hole(hole),
                Some(_) => continue,
                None => self.bytes -= channel.history.add_hole(Hole { journal: None, ..hole }),
            }
            groups.extend(&channel.groups);
        }
        groups.sort_unstable();
        groups.dedup();
        groups
    }

    /// The hub's journals; `None` if it has none.
    #[must_use]
    pub fn export_journals(&self) -> Option<JournalsSnapshot> {
        let Journals { floors, others_floor, restarts, .. } = self.journals;
        (!self.passed().is_empty()).then(|| JournalsSnapshot { passed: self.passed(), floors, others_floor, restarts })
    }

    /// Sets what another hub knew of the journals. Nothing, if it had another number of them: then channels belong to other ones.
    pub fn import_journals(&mut self, snapshot: &JournalsSnapshot) {
        if snapshot.passed.count() == self.passed().count() {
            let JournalsSnapshot { passed, floors, others_floor, restarts } = *snapshot;
            self.journals =
                Journals { reported: passed, floors, others_floor, restarts, ..Journals::new(passed, others_floor) };
        }
    }
}
