//! The losses that were reported to clients and that their cursors have not passed: a section of its own. A program that does
//! not know the section skips it, and its clients may get those gap events again.

use serde::{Deserialize, Serialize};

use super::{ClientState, SnapshotError};

/// A loss that was reported to a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedState {
    /// An index of the client's channels.
    pub channel: u32,
    /// Why events may be missing.
    pub kind: LossState,
    /// The position at which the loss ended when it was reported.
    pub end: u64,
    /// The last position when the loss was reported.
    pub known: u64,
}

/// Why events may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LossState {
    /// The history dropped events, or it began later.
    BeforeHistory,
    /// A source was disconnected.
    Hole,
    /// A journal has lost what the client had read elsewhere.
    Journal,
}

/// The content of the section: for each client to which losses were reported, its index and the losses.
pub(super) type Reported = Vec<(u32, Vec<ReportedState>)>;

/// The section for `clients`.
pub(super) fn of_clients(clients: &[ClientState]) -> Reported {
    let reported = |client: &ClientState| Some(client.behind.as_ref()?.reported.clone()).filter(|all| !all.is_empty());
    (0..).zip(clients).filter_map(|(at, client)| Some((at, reported(client)?))).collect()
}

/// Adds the section's losses to `clients`.
///
/// # Errors
/// The section names a client that is not there or is not behind.
pub(super) fn add(clients: &mut [ClientState], section: Reported) -> Result<(), SnapshotError> {
    for (at, reported) in section {
        let client = clients.get_mut(at as usize).and_then(|client| client.behind.as_mut());
        client.ok_or(SnapshotError::NotBehind(at))?.reported = reported;
    }
    Ok(())
}
