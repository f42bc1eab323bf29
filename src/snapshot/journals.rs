//! What a snapshot says of journals, and of clients that came from elsewhere: sections of their own, so that a version without
//! journals can still be reloaded to, and from, where there are none. Plain data.

use serde::{Deserialize, Serialize};

use super::{ChannelState, ClientState};

/// An entry's id: milliseconds and number.
pub type EntryState = (u64, u64);

/// The journals of all shards.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalsState {
    /// The last entry of each journal that was passed.
    pub passed: Vec<EntryState>,
    /// For each journal: entries up to this one are not known of channels that are not listed.
    pub floors: Vec<EntryState>,
    /// The same for events that came by no journal: their positions.
    pub others_floor: u64,
    /// For each journal, where it was lost and began again: the position, and the last entry that was passed before.
    pub restarts: Vec<(u64, EntryState)>,
}

impl JournalsState {
    /// The journals of two shards that have passed the same events: what both know.
    #[must_use]
    pub(super) fn merge(mut self, other: &Self) -> Self {
        for (floor, other) in self.floors.iter_mut().zip(&other.floors) {
            *floor = *other.max(floor);
        }
        self.others_floor = self.others_floor.max(other.others_floor);
        self
    }
}

/// A channel of a node with journals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelJournalState {
    /// If the channel belongs to one journal: every event of it after this entry is kept, and every other event after this
    /// position.
    pub journal: Option<(EntryState, u64)>,
    /// The indexes of the events that came by no journal.
    pub others: Vec<u32>,
    /// Holes of the journal: the hole's index, the journal, the entry after which it goes on, and the one up to which entries may
    /// be missing.
    pub holes: Vec<(u32, u8, EntryState, EntryState)>,
}

/// A client that is behind or polls, with what its cursor says beside the position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReaderState {
    /// The last entry of each journal that was passed at the client's position.
    pub passed: Vec<EntryState>,
    /// What it had when it came from elsewhere.
    pub arrival: Option<ArrivalState>,
}

/// What a client had when it came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArrivalState {
    /// The id that it came with.
    pub own: String,
    /// It has every event up to this position that came by no journal.
    pub since: u64,
    /// Losses that end up to this position were reported to it.
    pub losses_since: u64,
    /// Whether that id counts.
    pub own_counts: bool,
    /// Whether that id is of this node alone.
    pub is_simple: bool,
    /// It has every event of each journal up to this entry.
    pub entries: Vec<EntryState>,
    /// For each journal: events before this position don't count.
    pub begins: Vec<u64>,
    /// For each journal: its entry was lost, as was known at this position.
    pub lost: Vec<u64>,
}

/// Parts of some channels or clients, each with its index.
pub(super) type Indexed<T> = Vec<(u32, T)>;

/// The parts of channels that belong to a journal.
pub(super) fn of_channels(channels: &[ChannelState]) -> Indexed<&ChannelJournalState> {
    (0..).zip(channels).filter_map(|(at, channel)| Some((at, channel.journal.as_ref()?))).collect()
}

/// The parts of clients that have such a part.
pub(super) fn of_clients(clients: &[ClientState]) -> Indexed<&ReaderState> {
    (0..).zip(clients).filter_map(|(at, client)| Some((at, client.reader.as_ref()?))).collect()
}

/// Gives each of `all` its part, where the index is not too high.
pub(super) fn give<A, T>(parts: Indexed<T>, all: &mut [A], set: impl Fn(&mut A, T)) {
    for (at, part) in parts {
        if let Some(one) = all.get_mut(at as usize) {
            set(one, part);
        }
    }
}
