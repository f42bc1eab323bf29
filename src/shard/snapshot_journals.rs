//! Converts what a hub knows of its journals, and what clients had when they came, to a snapshot's parts and back. It reads no
//! socket.

use std::time::Instant;

use crate::{
    cursor::{Entries, Entry, EntryId, MOST_JOURNALS, Position},
    event::Event,
    hub::{Arrival, Hole, JournalHole, Journaled, JournalsSnapshot, Reader, Restart},
    snapshot::{ArrivalState, ChannelJournalState, EntryState, JournalsState, ReaderState},
};

fn state_of(id: EntryId) -> EntryState {
    (id.millis, id.seq)
}

fn id_of((millis, seq): EntryState) -> EntryId {
    EntryId { millis, seq }
}

fn states_of(entries: &Entries) -> Vec<EntryState> {
    entries.ids().iter().copied().map(state_of).collect()
}

/// The entries of a snapshot's journals.
pub(super) fn entries_of(states: &[EntryState]) -> Entries {
    let mut entries = Entries::of(states.len());
    for (journal, &state) in (0..).zip(states) {
        entries.set(Entry { journal, id: id_of(state) });
    }
    entries
}

/// One value for each journal. What is missing is the default.
fn each<S: Copy, T: Default>(states: &[S], convert: impl Fn(S) -> T) -> [T; MOST_JOURNALS] {
    std::array::from_fn(|journal| states.get(journal).copied().map(&convert).unwrap_or_default())
}

/// The hub's journals.
pub(super) fn journals_state(journals: &JournalsSnapshot) -> JournalsState {
    let JournalsSnapshot { passed, floors, others_floor, restarts } = journals;
    JournalsState {
        passed: states_of(passed),
        floors: floors.iter().copied().map(state_of).collect(),
        others_floor: others_floor.0,
        restarts: restarts.iter().map(|restart| (restart.position.0, state_of(restart.passed))).collect(),
    }
}

/// The reverse of [`journals_state`].
pub(super) fn journals_of(state: &JournalsState) -> JournalsSnapshot {
    let restart = |(position, passed)| Restart { position: Position(position), passed: id_of(passed) };
    JournalsSnapshot {
        passed: entries_of(&state.passed),
        floors: each(&state.floors, id_of),
        others_floor: Position(state.others_floor),
        restarts: each(&state.restarts, restart),
    }
}

/// A channel of a hub with journals, with its events and holes. `journaled`: what is known by its journal, if it belongs to one.
pub(super) fn channel_state<'a>(
    journaled: Option<&Journaled>,
    events: impl Iterator<Item = &'a Event>,
    holes: &[Hole],
) -> ChannelJournalState {
    let hole = |(at, hole): (u32, &Hole)| {
        let JournalHole { resumes, up_to } = hole.journal?;
        Some((at, resumes.journal, state_of(resumes.id), state_of(up_to)))
    };
    ChannelJournalState {
        journal: journaled.map(|journaled| (state_of(journaled.entries_since), journaled.others_since.0)),
        others: (0..).zip(events).filter(|(_, event)| !event.is_journaled()).map(|(at, _)| at).collect(),
        holes: (0..).zip(holes).filter_map(hole).collect(),
    }
}

/// What is known of a channel by its journal, but for where that began again, which the hub knows. Sets which of the channel's holes
/// are of the journal.
pub(super) fn channel_of(journal: Option<u8>, state: &ChannelJournalState, holes: &mut [Hole]) -> Option<Journaled> {
    for &(at, journal, resumes, up_to) in &state.holes {
        if let Some(hole) = holes.get_mut(at as usize) {
            let resumes = Entry { journal, id: id_of(resumes) };
            hole.journal = Some(JournalHole { resumes, up_to: id_of(up_to) });
        }
    }
    let (entries_since, others_since) = state.journal?;
    let (entries_since, others_since) = (id_of(entries_since), Position(others_since));
    Some(Journaled { journal: journal?, entries_since, others_since, begins: Position(0) })
}

/// What a reader has beside its position; `None` if that is nothing.
pub(super) fn reader_state(reader: &Reader) -> Option<ReaderState> {
    let positions = |positions: &[Position]| positions.iter().map(|position| position.0).collect();
    let arrival = reader.arrival().map(|arrival| ArrivalState {
        own: arrival.own.to_string(),
        since: arrival.since.0,
        own_counts: arrival.own_counts,
        is_simple: arrival.is_simple,
        losses_since: arrival.losses_since.0,
        entries: states_of(&arrival.entries),
        begins: positions(&arrival.begins),
        lost: positions(&arrival.lost),
    });
    let passed = states_of(&reader.passed());
    (arrival.is_some() || !passed.is_empty()).then_some(ReaderState { passed, arrival })
}

/// Adds what [`reader_state`] has taken to a reader at the same position.
pub(super) fn with_state(reader: Reader, state: &ReaderState) -> Reader {
    let reader = reader.with_passed(entries_of(&state.passed));
    let arrival = state.arrival.as_ref().and_then(|arrival| {
        Some(Arrival {
            own: arrival.own.parse().ok()?,
            since: Position(arrival.since),
            own_counts: arrival.own_counts,
            is_simple: arrival.is_simple,
            losses_since: Position(arrival.losses_since),
            entries: entries_of(&arrival.entries),
            begins: each(&arrival.begins, Position),
            lost: each(&arrival.lost, Position),
            came: Instant::now(),
        })
    });
    match arrival {
        Some(arrival) => reader.with_arrival(arrival),
        None => reader,
    }
}
