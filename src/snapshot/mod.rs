//! The state that a process sends its successor: what it is, and its bytes. Descriptors travel beside it. It knows no shard.
//!
//! Invariants:
//! - What a tag or a variant means never changes; a new meaning gets a new tag, a new version or a new variant at the end.
//! - What a reader does not know it refuses, unless the section says that it can be skipped.

mod section;
mod transfer;
mod v1;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use self::section::{CRITICAL, Reader, Writer};
pub use self::transfer::Transfer;

/// Node, position, and whether the cut-over is exact.
const NODE: u16 = CRITICAL | 1;
/// Where events come from.
const SOURCES: u16 = CRITICAL | 2;
/// Channels with their histories.
const CHANNELS: u16 = CRITICAL | 3;
/// Clients.
const CLIENTS: u16 = CRITICAL | 4;
/// Connections that are no clients yet.
const CONNECTIONS: u16 = CRITICAL | 5;
/// Connections of the admin socket.
const ADMIN: u16 = CRITICAL | 6;
// Reserved: CRITICAL | 7, the clients' grants (who they are and what they may read): a version that can't check them refuses the
// snapshot.

/// The sections that this program reads, with their highest version.
const KNOWN: &[(u16, u16)] = &[(NODE, 1), (SOURCES, 1), (CHANNELS, 1), (CLIENTS, 1), (CONNECTIONS, 1), (ADMIN, 1)];

/// Why a snapshot can't be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It begins like no snapshot.
    #[error("this is no snapshot of ssecast")]
    NoSnapshot,
    /// It ends in the middle of a section.
    #[error("the snapshot is cut off")]
    CutOff,
    /// It has the section twice.
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
    /// A section has more than what it should hold.
    #[error("section {tag:#06x} of the snapshot has {left} bytes too many")]
    Left {
        /// The section's tag.
        tag: u16,
        /// Bytes that mean nothing.
        left: usize,
    },
    /// A section holds something else, such as a kind of client that this program does not know.
    #[error("section {tag:#06x} of the snapshot can't be read: {source}")]
    Section {
        /// The section's tag.
        tag: u16,
        /// What is wrong with it.
        source: postcard::Error,
    },
    /// A snapshot of version 1 holds something else.
    #[error("the snapshot of version 1 can't be read: {0}")]
    Version1(postcard::Error),
    /// The descriptors that came don't fit.
    #[error("{came} descriptors came with a snapshot that has {expected}")]
    Descriptors {
        /// How many came.
        came: usize,
        /// How many it has.
        expected: usize,
    },
}

/// Everything that a process knows.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The node, and how its events are divided.
    pub node: NodeState,
    /// Where events come from.
    pub sources: Vec<SourceState>,
    /// What the shards hold.
    pub shards: ShardState,
    /// What was read of each connection of the admin socket.
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
    /// Where it has its messages from: a marker divides the messages of one origin only. It may hold a password.
    pub origin: String,
    /// How far a durable source has read, in its own words.
    pub checkpoint: Option<Bytes>,
}

/// What the shards hold.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct ShardState {
    /// Since when channels are complete that are not here, and what last raised that.
    pub floor: (u64, GapCause),
    /// Channels with their histories.
    pub channels: Vec<ChannelState>,
    /// Clients.
    pub clients: Vec<ClientState>,
    /// What was read of each connection that is no client yet.
    pub connections: Vec<Bytes>,
}

/// A channel and its history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelState {
    /// Its name.
    pub name: String,
    /// Whether its events arrive.
    pub open: bool,
    /// The position since which its history is complete.
    pub complete_since: u64,
    /// What last raised that.
    pub cause: GapCause,
    /// Where a source was disconnected: the positions after which and up to which events may be missing.
    pub holes: Vec<(u64, u64)>,
    /// Each event's position, its arrival (tenths of a second since the machine started), and its plain frame.
    pub events: Vec<(u64, u32, Bytes)>,
}

/// A client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientState {
    /// Indexes of the snapshot's channels.
    pub channels: Vec<u32>,
    /// Stream or poll, and in which form.
    pub kind: ClientKind,
    /// Milliseconds until it ends by itself.
    pub expires: Option<u64>,
    /// Milliseconds since something was written to it.
    pub silent: u64,
    /// Where it is, if it does not have everything.
    pub behind: Option<BehindState>,
    /// A poll's head, and how it is answered.
    pub poll: Option<(Bytes, PollForm)>,
    /// Not used: the checksum of what a gzip stream has carried, and its length, by programs that end such streams with them.
    pub gzip: Option<(u32, u32)>,
}

/// Where a client is that does not have everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BehindState {
    /// The position of the last event that it has, or has in `partial`.
    pub cursor: u64,
    /// Where that position is from.
    pub origin: OriginState,
    /// Bytes that have to go out first.
    pub partial: Bytes,
    /// Whether the client ends once they are out.
    pub ends: bool,
}

/// What last raised the position since which a history is complete.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum GapCause {
    /// The channel, or the node, began there.
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

/// Where a client's position is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OriginState {
    /// It was live, or began there.
    Live,
    /// It resumed with a cursor of this node.
    Resumed,
    /// It resumed with a cursor of another node.
    Foreign,
}

impl Snapshot {
    /// The snapshot as bytes, in the format of the current version.
    ///
    /// # Errors
    /// None that is known: what it is made of can be written.
    pub fn encode(&self) -> Result<Vec<u8>, SnapshotError> {
        let shards = &self.shards;
        Ok(Writer::new()
            .section(NODE, 1, &self.node)?
            .section(SOURCES, 1, &self.sources)?
            .section(CHANNELS, 1, &(shards.floor, &shards.channels))?
            .section(CLIENTS, 1, &shards.clients)?
            .section(CONNECTIONS, 1, &shards.connections)?
            .section(ADMIN, 1, &self.admin)?
            .finish())
    }

    /// Reads the bytes that a process of version `version` of the control channel has sent.
    ///
    /// # Errors
    /// They are damaged, or hold something that this program does not know.
    pub fn decode(bytes: &[u8], version: u32) -> Result<Self, SnapshotError> {
        if version == 1 {
            return v1::decode(bytes);
        }
        let reader = Reader::new(bytes, KNOWN)?;
        let (floor, channels) = reader.read(CHANNELS)?;
        let shards =
            ShardState { floor, channels, clients: reader.read(CLIENTS)?, connections: reader.read(CONNECTIONS)? };
        Ok(Self { node: reader.read(NODE)?, sources: reader.read(SOURCES)?, shards, admin: reader.read(ADMIN)? })
    }

    /// Clients and connections: as many descriptors go with the snapshot.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        self.shards.descriptors() + self.admin.len()
    }
}

impl ShardState {
    /// Names of the channels whose events arrive.
    pub fn open_channels(&self) -> impl Iterator<Item = &str> {
        self.channels.iter().filter(|channel| channel.open).map(|channel| channel.name.as_str())
    }

    /// Clients, and connections that are none yet: as many descriptors go with the state.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        self.clients.len() + self.connections.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    fn bytes() -> impl Strategy<Value = Bytes> {
        vec(any::<u8>(), 0..20).prop_map(Bytes::from)
    }

    fn channel() -> impl Strategy<Value = ChannelState> {
        let cause = prop_oneof![Just(GapCause::Began), Just(GapCause::Evicted)];
        let (holes, events) = (vec(any::<(u64, u64)>(), 0..3), vec((any::<u64>(), any::<u32>(), bytes()), 0..4));
        ("[a-z]{1,8}", any::<bool>(), any::<u64>(), cause, holes, events).prop_map(
            |(name, open, complete_since, cause, holes, events)| ChannelState {
                name,
                open,
                complete_since,
                cause,
                holes,
                events,
            },
        )
    }

    fn client() -> impl Strategy<Value = ClientState> {
        use ClientKind::{Envelope, GzipEnvelope, GzipPlain, Plain, Poll};
        let kind = proptest::sample::select(vec![Plain, Envelope, Poll, GzipPlain, GzipEnvelope]);
        let form = proptest::sample::select(vec![PollForm::Json, PollForm::Plain, PollForm::Envelope]);
        let origin = proptest::sample::select(vec![OriginState::Live, OriginState::Resumed, OriginState::Foreign]);
        let behind = (any::<u64>(), origin, bytes(), any::<bool>())
            .prop_map(|(cursor, origin, partial, ends)| BehindState { cursor, origin, partial, ends });
        let rest = (option::of(behind), option::of((bytes(), form)), option::of(any::<(u32, u32)>()));
        (vec(any::<u32>(), 0..4), kind, option::of(any::<u64>()), any::<u64>(), rest).prop_map(
            |(channels, kind, expires, silent, (behind, poll, gzip))| ClientState {
                channels,
                kind,
                expires,
                silent,
                behind,
                poll,
                gzip,
            },
        )
    }

    proptest! {
        #[test]
        fn a_snapshot_is_read_as_it_was_written(
            node in ("[a-z0-9]{8}", any::<u64>(), any::<bool>()),
            origin in option::of("[ -~]{0,20}"),
            channels in vec(channel(), 0..4),
            clients in vec(client(), 0..4),
            unread in (vec(bytes(), 0..3), vec(bytes(), 0..3)),
        ) {
            let (name, position, exact) = node;
            let (connections, admin) = unread;
            let source = |origin| SourceState { id: "redis".to_owned(), origin, checkpoint: Some(Bytes::from_static(b"7")) };
            let snapshot = Snapshot {
                node: NodeState { name, position, exact },
                sources: origin.into_iter().map(source).collect(),
                shards: ShardState { floor: (position, GapCause::Evicted), channels, clients, connections },
                admin,
            };
            let bytes = snapshot.encode().unwrap();
            prop_assert_eq!(Snapshot::decode(&bytes, 2).unwrap(), snapshot);
            // However it is damaged: it is read or refused, without a panic.
            for length in (0..bytes.len()).step_by(7) {
                prop_assert!(Snapshot::decode(&bytes[..length], 2).is_err());
            }
        }
    }

    #[test]
    fn an_unknown_kind_of_client_refuses_the_snapshot() {
        let client = ClientState {
            channels: Vec::new(),
            kind: ClientKind::GzipEnvelope,
            expires: None,
            silent: 0,
            behind: None,
            poll: None,
            gzip: None,
        };
        let snapshot =
            Snapshot { shards: ShardState { clients: vec![client], ..ShardState::default() }, ..Snapshot::default() };
        let mut bytes = snapshot.encode().unwrap();
        // The clients' section: one client, no channels, its kind.
        let at = bytes.windows(6).position(|window| window == [1, 0, 4, 0, 0, 0]).unwrap();
        bytes[at + 2] = 5;
        let error = Snapshot::decode(&bytes, 2).unwrap_err();
        assert!(matches!(error, SnapshotError::Section { tag: CLIENTS, .. }), "{error}");
    }
}
