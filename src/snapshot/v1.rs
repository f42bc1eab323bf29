//! Reads the snapshot format of version 1, which the program had before its first release. It has no sections. It is never written.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;

use super::{ChannelState, ClientState, GapCause, NodeState, ShardState, Snapshot, SnapshotError, SourceState};
use crate::clock::{Uptime, unix_micros};

#[derive(Debug, Deserialize)]
struct Whole {
    cursor: (String, u64),
    exact: bool,
    /// The origin of the only source. Empty if there was none.
    origin: String,
    shards: Shards,
    admin: Vec<Bytes>,
}

#[derive(Debug, Deserialize)]
struct Shards {
    floor: (u64, GapCause),
    channels: Vec<Channel>,
    clients: Vec<ClientState>,
    connections: Vec<Bytes>,
}

#[derive(Debug, Deserialize)]
struct Channel {
    name: String,
    open: bool,
    complete_since: u64,
    cause: GapCause,
    /// The positions at which the holes end.
    holes: Vec<u64>,
    events: Vec<(u64, Bytes)>,
}

/// Reads a snapshot of version 1.
pub(super) fn decode(bytes: &[u8]) -> Result<Snapshot, SnapshotError> {
    let Whole { cursor: (name, position), exact, origin, shards, admin } =
        postcard::from_bytes(bytes).map_err(SnapshotError::Version1)?;
    let source = (!origin.is_empty()).then(|| SourceState { id: "redis".to_owned(), origin, checkpoint: None });
    let (now, uptime) = (unix_micros(), Uptime::now());
    let channels = shards.channels.into_iter().map(|channel| channel.into_state(now, uptime)).collect();
    Ok(Snapshot {
        node: NodeState { name, position, exact },
        sources: source.into_iter().collect(),
        shards: ShardState {
            floor: shards.floor,
            lags: None,
            channels,
            clients: shards.clients,
            connections: shards.connections,
            ..ShardState::default()
        },
        admin,
    })
}

impl Channel {
    fn into_state(self, now: u64, uptime: Uptime) -> ChannelState {
        // A hole begins after the last event before the hole's end.
        let begin = |end: u64| {
            let before =
                self.events.iter().map(|(position, _)| *position).take_while(|position| *position < end).last();
            before.unwrap_or(self.complete_since).min(end.saturating_sub(1))
        };
        let holes = self.holes.iter().map(|&end| (begin(end), end)).collect();
        // In version 1 a position is the time of arrival.
        let arrived = |position: u64| uptime.before(Duration::from_micros(now.saturating_sub(position))).0;
        let events =
            self.events.iter().map(|(position, frame)| (*position, arrived(*position), frame.clone())).collect();
        ChannelState {
            name: self.name,
            open: self.open,
            complete_since: self.complete_since,
            cause: self.cause,
            holes,
            events,
            event_channels: Vec::new(),
            journal: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{ClientKind, PollForm};

    /// A program of version 1 sent it, with a stream, a gzip stream, a poll, a connection without a request, and three events.
    const STORED: &[u8] = include_bytes!("../../tests/data/snapshot-v1.bin");

    #[test]
    fn a_stored_snapshot_of_version_1_is_read() {
        let snapshot = Snapshot::decode(STORED, 1).unwrap();
        let shards = &snapshot.shards;
        assert!(snapshot.node.exact && snapshot.node.position > 0 && snapshot.sources.is_empty());
        let names: Vec<&str> = shards.channels.iter().map(|channel| channel.name.as_str()).collect();
        assert_eq!(names, ["cats", "dogs"]);
        let texts = |index: usize| -> Vec<String> {
            let events = &shards.channels[index].events;
            events.iter().map(|(_, _, frame)| String::from_utf8(frame.to_vec()).unwrap()).collect()
        };
        assert!(texts(0)[0].contains("data: meow") && texts(0)[1].contains("data: purr"), "{:?}", texts(0));
        assert!(texts(1)[0].contains("data: woof"), "{:?}", texts(1));
        let mut kinds: Vec<String> = shards.clients.iter().map(|client| format!("{:?}", client.kind)).collect();
        kinds.sort();
        assert_eq!(kinds, ["GzipPlain", "Plain", "Poll"]);
        let poll = shards.clients.iter().find(|client| client.kind == ClientKind::Poll).unwrap();
        assert!(matches!(poll.poll, Some((_, PollForm::Json))));
        assert_eq!((shards.connections.len(), snapshot.descriptors()), (1, 4 + snapshot.admin.len()));
    }

    #[test]
    fn a_hole_of_version_1_begins_after_the_event_before_it() {
        let frame = Bytes::from_static(b"data\n\n");
        let channel = Channel {
            name: "cats".to_owned(),
            open: true,
            complete_since: 5,
            cause: GapCause::Began,
            holes: vec![8, 25],
            events: vec![(10, frame.clone()), (20, frame.clone()), (30, frame)],
        };
        assert_eq!(channel.into_state(100, Uptime::now()).holes, [(5, 8), (20, 25)]);
    }
}
