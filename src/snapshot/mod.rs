//! The state that a process sends its successor, and its encoding. Descriptors are sent separately. It knows no shard.
//!
//! Invariants:
//! - The meaning of a tag or a variant never changes. A new meaning gets a new tag, a new version, or a new variant at the end.
//! - A reader refuses a section that it does not know, unless the section's tag says that it can be skipped.

mod reported;
mod section;
mod journals;
mod transfer;
mod v1;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use self::section::{CRITICAL, Reader, Writer};
pub use self::{
    journals::{ArrivalState, ChannelJournalState, EntryState, JournalsState, ReaderState},
    reported::{LossState, ReportedState},
    transfer::Transfer,
};

/// Node, position, and whether the cut-over is exact.
const NODE: u16 = CRITICAL | 1;
/// The sources.
const SOURCES: u16 = CRITICAL | 2;
/// Channels with their histories.
const CHANNELS: u16 = CRITICAL | 3;
/// Clients.
const CLIENTS: u16 = CRITICAL | 4;
/// Connections that have opened no stream or poll yet.
const CONNECTIONS: u16 = CRITICAL | 5;
/// Connections of the admin socket.
const ADMIN: u16 = CRITICAL | 6;
/// What the clients' grants say beyond their channels: who the clients are. Missing if no client has an identity. A version that
/// does not know identities must refuse the snapshot.
const GRANTS: u16 = CRITICAL | 7;
/// Losses that were reported to clients that are behind. Older programs do not write it.
const REPORTED: u16 = 8;
/// Since when the channels of which rules are kept always. A version that does not know it gives clients a gap event.
const KEPT: u16 = 9;
/// Which of the channels are patterns, and the channels of their events. Sent only if there are any.
const PATTERNS: u16 = CRITICAL | 10;
/// When the node lagged. Older programs do not write it.
const LAGS: u16 = 11;
/// Journals, and the channels' parts of them. Without it, clients would miss events of journals.
const JOURNALS: u16 = CRITICAL | 12;
/// What clients had that came from elsewhere. Without it, they may get events twice.
const READERS: u16 = 13;

/// The sections that this program reads, with their highest version.
const KNOWN: &[(u16, u16)] = &[
    (NODE, 1),
    (SOURCES, 1),
    (CHANNELS, 1),
    (CLIENTS, 1),
    (CONNECTIONS, 1),
    (ADMIN, 1),
    (GRANTS, 1),
    (REPORTED, 1),
    (KEPT, 1),
    (PATTERNS, 1),
    (LAGS, 1),
    (JOURNALS, 1),
    (READERS, 1),
];

/// Why a snapshot can't be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It does not begin as a snapshot does.
    #[error("this is not a snapshot of ssecast")]
    NoSnapshot,
    /// It ends in the middle of a section.
    #[error("the snapshot is cut off")]
    CutOff,
    /// It has a section twice.
    #[error("the snapshot has section {0:#06x} twice")]
    Twice(u16),
    /// It needs a section that this program does not know.
    #[error(
        "the snapshot needs section {tag:#06x} in version {version}, which this program does not know: restart ssecast instead of reloading it"
    )]
    Unknown {
        /// The section's tag.
        tag: u16,
        /// Its version.
        version: u16,
    },
    /// It lacks a section.
    #[error("the snapshot lacks section {0:#06x}")]
    Missing(u16),
    /// A section has bytes after its value.
    #[error("section {tag:#06x} of the snapshot has {left} bytes too many")]
    Left {
        /// The section's tag.
        tag: u16,
        /// Number of bytes after the value.
        left: usize,
    },
    /// A section can't be decoded. It may hold a value that this program does not know, such as a kind of client.
    #[error("section {tag:#06x} of the snapshot can't be read: {source}")]
    Section {
        /// The section's tag.
        tag: u16,
        /// What is wrong with it.
        source: postcard::Error,
    },
    /// The channels of a pattern's events don't fit its events.
    #[error("the snapshot has other events of channel number {0} than names for them")]
    Pattern(u32),
    /// A snapshot of version 1 can't be decoded.
    #[error("the snapshot of version 1 can't be read: {0}")]
    Version1(postcard::Error),
    /// It says what was reported to a client that is not behind, or that it does not have.
    #[error("the snapshot has reported losses of client {0}, which is not behind")]
    NotBehind(u32),
    /// It says who a client is that it does not have.
    #[error("the snapshot has a grant of client {0}, and no such client")]
    UnknownClient(u32),
    /// The number of descriptors is wrong.
    #[error("{came} descriptors arrived, and the snapshot has {expected}")]
    Descriptors {
        /// How many arrived.
        came: usize,
        /// How many the snapshot has.
        expected: usize,
    },
}

/// The whole state of a process.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The node, its position, and whether the cut-over is exact.
    pub node: NodeState,
    /// The sources.
    pub sources: Vec<SourceState>,
    /// The state of all shards.
    pub shards: ShardState,
    /// For each connection of the admin socket: the bytes that were read and not used.
    pub admin: Vec<Bytes>,
}

/// The node.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    /// Its name.
    pub name: String,
    /// The last position.
    pub position: u64,
    /// Whether the marker divides the messages of all sources.
    pub exact: bool,
}

/// A source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceState {
    /// Its name, such as `redis`.
    pub id: String,
    /// Where its messages come from. A marker divides the messages of one origin only. It may hold a password.
    pub origin: String,
    /// How far a durable source has read, in the source's own format.
    pub checkpoint: Option<Bytes>,
}

/// The state of the shards.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct ShardState {
    /// For channels that are not listed: the position since which their history is complete, and the reason for that position.
    pub floor: (u64, GapCause),
    /// Spans in which the node lagged: the end of each, in microseconds since 1970, and the last position before it. `None` from an
    /// older program.
    pub lags: Option<Vec<(u64, u64)>>,
    /// Journals; `None` without any.
    pub journals: Option<JournalsState>,
    /// Channels with their histories.
    pub channels: Vec<ChannelState>,
    /// The rules that keep their channels always: the name or the pattern of each, and since which position its channels are
    /// complete.
    pub kept: Vec<(String, u64)>,
    /// Clients.
    pub clients: Vec<ClientState>,
    /// For each connection that has opened no stream or poll yet: the bytes that were read and not used.
    pub connections: Vec<Bytes>,
}

/// A channel and its history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelState {
    /// Its name.
    pub name: String,
    /// Whether a source delivers the channel.
    pub open: bool,
    /// The position since which its history is complete.
    pub complete_since: u64,
    /// Why it is complete only since that position.
    pub cause: GapCause,
    /// One for each time a source was disconnected: events after the first position and up to the second may be missing.
    pub holes: Vec<(u64, u64)>,
    /// Each event's position, its arrival (tenths of a second since the machine started), and its plain frame.
    pub events: Vec<(u64, u32, Bytes)>,
    /// For a pattern: the channel of each event. It is sent in a section of its own.
    #[serde(skip)]
    pub event_channels: Vec<String>,
    /// Its part of a journal, in a section of its own.
    #[serde(skip)]
    pub journal: Option<ChannelJournalState>,
}

/// A client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientState {
    /// Indexes of the snapshot's channels.
    pub channels: Vec<u32>,
    /// Stream or poll, and in which form.
    pub kind: ClientKind,
    /// Milliseconds until its lifetime ends.
    pub expires: Option<u64>,
    /// Milliseconds since something was written to it.
    pub silent: u64,
    /// How far it is, if it is behind.
    pub behind: Option<BehindState>,
    /// A poll's head, and how it is answered.
    pub poll: Option<(Bytes, PollForm)>,
    /// Not used. Other versions may store the checksum and the length of a gzip stream's content here, to write its trailer.
    pub gzip: Option<(u32, u32)>,
    /// What its cursor says beside the position, in a section of its own.
    #[serde(skip)]
    pub reader: Option<ReaderState>,
    /// Who the client is, if it has an identity. Stored in a section of its own, so that clients without one need no bytes.
    #[serde(skip)]
    pub subject: Option<String>,
}

/// How far a client is that is behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BehindState {
    /// The position of the last event that the client has, with what is in `partial`.
    pub cursor: u64,
    /// How the client got that position.
    pub origin: OriginState,
    /// Bytes that must be written to the client first.
    pub partial: Bytes,
    /// Whether the stream or poll ends once they are written.
    pub ends: bool,
    /// Losses that were reported to the client and whose end `cursor` has not reached. They are in a section of their own.
    #[serde(skip)]
    pub reported: Vec<ReportedState>,
}

/// Why a history is complete only since a certain position.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum GapCause {
    /// The channel or the node began at that position.
    #[default]
    Began,
    /// Older events were dropped.
    Evicted,
}

/// Stream or poll, and in which form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientKind {
    /// A stream of plain events.
    Plain,
    /// A stream of envelopes.
    Envelope,
    /// A poll.
    Poll,
    /// A stream of plain events, compressed.
    GzipPlain,
    /// A stream of envelopes, compressed.
    GzipEnvelope,
}

/// How a poll is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PollForm {
    /// As JSON.
    Json,
    /// As an event stream of plain events.
    Plain,
    /// As an event stream of envelopes.
    Envelope,
}

/// How a client got its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OriginState {
    /// The client was caught up at that position, or began there.
    Live,
    /// The client resumed with a cursor of this node.
    Resumed,
    /// The client resumed with a cursor of another node.
    Foreign,
}

impl Snapshot {
    /// The snapshot as bytes, in the format of the current version.
    ///
    /// # Errors
    /// A part can't be encoded. No state is known for which this happens.
    pub fn encode(&self) -> Result<Vec<u8>, SnapshotError> {
        let shards = &self.shards;
        let channels = (0..).zip(&shards.channels);
        let patterns: Vec<(u32, &[String])> = channels
            .filter(|(_, channel)| !channel.event_channels.is_empty())
            .map(|(at, channel)| (at, &channel.event_channels[..]))
            .collect();
        let mut writer = Writer::new()
            .section(NODE, 1, &self.node)?
            .section(SOURCES, 1, &self.sources)?
            .section(CHANNELS, 1, &(shards.floor, &shards.channels))?
            .section(CLIENTS, 1, &shards.clients)?
            .section(REPORTED, 1, &reported::of_clients(&shards.clients))?
            .section(CONNECTIONS, 1, &shards.connections)?
            .section(KEPT, 1, &shards.kept)?;
        if !patterns.is_empty() {
            writer = writer.section(PATTERNS, 1, &patterns)?;
        }
        let of_clients = (0..).zip(&shards.clients);
        let subjects: Vec<(u32, &str)> =
            of_clients.filter_map(|(at, client)| Some((at, client.subject.as_deref()?))).collect();
        if let Some(lags) = &shards.lags {
            writer = writer.section(LAGS, 1, lags)?;
        }
        if !subjects.is_empty() {
            writer = writer.section(GRANTS, 1, &subjects)?;
        }
        if let Some(journals) = &shards.journals {
            writer = writer.section(JOURNALS, 1, &(journals, journals::of_channels(&shards.channels)))?;
        }
        let readers = journals::of_clients(&shards.clients);
        if !readers.is_empty() {
            writer = writer.section(READERS, 1, &readers)?;
        }
        // Each reader needs the last section. So a snapshot that is cut off anywhere is refused.
        Ok(writer.section(ADMIN, 1, &self.admin)?.finish())
    }

    /// Decodes the bytes of a process that speaks version `version` of the control channel's messages.
    ///
    /// # Errors
    /// They are damaged, or hold something that this program does not know.
    pub fn decode(bytes: &[u8], version: u32) -> Result<Self, SnapshotError> {
        if version == 1 {
            return v1::decode(bytes);
        }
        let reader = Reader::new(bytes, KNOWN)?;
        let (floor, mut channels): (_, Vec<ChannelState>) = reader.read(CHANNELS)?;
        let patterns: Vec<(u32, Vec<String>)> = reader.read_if_present(PATTERNS)?.unwrap_or_default();
        for (at, names) in patterns {
            let channel = channels.get_mut(at as usize).filter(|channel| channel.events.len() == names.len());
            channel.ok_or(SnapshotError::Pattern(at))?.event_channels = names;
        }
        let mut clients: Vec<ClientState> = reader.read(CLIENTS)?;
        reported::add(&mut clients, reader.read_if_present(REPORTED)?.unwrap_or_default())?;
        let subjects: Vec<(u32, String)> = reader.read_if_present(GRANTS)?.unwrap_or_default();
        for (at, subject) in subjects {
            clients.get_mut(at as usize).ok_or(SnapshotError::UnknownClient(at))?.subject = Some(subject);
        }
        let kept = reader.read_if_present(KEPT)?.unwrap_or_default();
        let lags = reader.read_if_present(LAGS)?;
        let journals = match reader.read_if_present(JOURNALS)? {
            None => None,
            Some((state, parts)) => {
                journals::give(parts, &mut channels, |channel, part| channel.journal = Some(part));
                Some(state)
            }
        };
        let parts = reader.read_if_present(READERS)?.unwrap_or_default();
        journals::give(parts, &mut clients, |client, part| client.reader = Some(part));
        let shards =
            ShardState { floor, lags, journals, channels, kept, clients, connections: reader.read(CONNECTIONS)? };
        Ok(Self { node: reader.read(NODE)?, sources: reader.read(SOURCES)?, shards, admin: reader.read(ADMIN)? })
    }

    /// Number of descriptors that belong to the snapshot: one for each client and each connection.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        self.shards.descriptors() + self.admin.len()
    }
}

impl ShardState {
    /// Names of the channels that a source delivers.
    pub fn open_channels(&self) -> impl Iterator<Item = &str> {
        self.channels.iter().filter(|channel| channel.open).map(|channel| channel.name.as_str())
    }

    /// Number of descriptors that belong to the state: one for each client and each connection.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        self.clients.len() + self.connections.len()
    }
}

#[cfg(test)]
mod tests;
