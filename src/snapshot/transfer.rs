//! The shards' state with its descriptors: merges the states of all shards, and splits the result among the successor's shards.
//! It sends nothing.

use std::{
    collections::HashMap,
    os::fd::{OwnedFd, RawFd},
};

use bytes::Bytes;

use super::{ShardState, SnapshotError};
use crate::index;

/// A state with its descriptors: first those of the clients, then those of the connections.
#[derive(Debug, Default)]
pub struct Transfer {
    /// The state.
    pub state: ShardState,
    /// Descriptors that a shard of this process owns.
    pub borrowed_fds: Vec<RawFd>,
    /// Descriptors that were received with the state from another process.
    pub owned_fds: Vec<OwnedFd>,
}

impl Transfer {
    /// A state that was received from another process.
    ///
    /// # Errors
    /// The number of descriptors is wrong. With it, a client could get the socket of another client.
    pub fn received(state: ShardState, owned_fds: Vec<OwnedFd>) -> Result<Self, SnapshotError> {
        let (came, expected) = (owned_fds.len(), state.descriptors());
        if came != expected {
            return Err(SnapshotError::Descriptors { came, expected });
        }
        Ok(Self { state, borrowed_fds: Vec::new(), owned_fds })
    }

    /// Adds a connection that has opened no stream or poll yet, with the bytes that were read from it and not used.
    pub fn add_connection(&mut self, fd: RawFd, unread: Bytes) {
        self.borrowed_fds.push(fd);
        self.state.connections.push(unread);
    }

    /// Merges the states of several shards. All shards have seen the same events, so each channel's longest history is kept.
    #[must_use]
    pub fn merge(all: Vec<Self>) -> Self {
        let mut merged = Self::default();
        let mut connections = Vec::new();
        let mut index = HashMap::new();
        for Self { mut state, borrowed_fds, .. } in all {
            merged.state.floor = merged.state.floor.max(state.floor);
            for (name, since) in state.kept {
                match merged.state.kept.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, known)) => *known = since.max(*known),
                    None => merged.state.kept.push((name, since)),
                }
            }
            // All shards note the same lags, but one may be further than another.
            let newest = |lags: &Option<Vec<(u64, u64)>>| lags.as_ref().map(|lags| lags.last().copied());
            if newest(&state.lags) > newest(&merged.state.lags) {
                merged.state.lags = state.lags.take();
            }
            merged.state.journals = match (merged.state.journals, state.journals) {
                (Some(known), Some(other)) => Some(known.merge(&other)),
                (known, other) => known.or(other),
            };
            let mut moved = Vec::with_capacity(state.channels.len());
            for channel in state.channels {
                let at = *index.entry(channel.name.clone()).or_insert(merged.state.channels.len());
                moved.push(index::to_u32(at));
                match merged.state.channels.get_mut(at) {
                    None => merged.state.channels.push(channel),
                    // One shard may have processed a confirmation that another has not. The open channel is kept, because the
                    // successor restores the subscriptions of open channels only.
                    Some(known) if (!channel.open, channel.complete_since) < (!known.open, known.complete_since) => {
                        *known = channel;
                    }
                    Some(_) => {}
                }
            }
            for client in &mut state.clients {
                client.channels.iter_mut().for_each(|at| *at = moved[*at as usize]);
            }
            let (of_clients, of_connections) = borrowed_fds.split_at(state.clients.len());
            merged.borrowed_fds.extend(of_clients);
            connections.extend(of_connections.iter().copied().zip(state.connections));
            merged.state.clients.extend(state.clients);
        }
        for (fd, unread) in connections {
            merged.add_connection(fd, unread);
        }
        merged
    }

    /// Splits the clients and connections among `shards` shards. Each gets all histories, which share the events' bytes.
    #[must_use]
    pub fn split(self, shards: usize) -> Vec<Self> {
        let Self {
            state: ShardState { floor, lags, journals, channels, kept, clients, connections }, owned_fds, ..
        } = self;
        let mut parts: Vec<(ShardState, Vec<OwnedFd>, Vec<OwnedFd>)> = (0..shards)
            .map(|_| {
                let state = ShardState {
                    floor,
                    lags: lags.clone(),
                    journals: journals.clone(),
                    channels: channels.clone(),
                    kept: kept.clone(),
                    ..ShardState::default()
                };
                (state, Vec::new(), Vec::new())
            })
            .collect();
        let mut fds = owned_fds.into_iter();
        for (at, (client, fd)) in clients.into_iter().zip(fds.by_ref()).enumerate() {
            parts[at % shards].0.clients.push(client);
            parts[at % shards].1.push(fd);
        }
        for (at, (unread, fd)) in connections.into_iter().zip(fds).enumerate() {
            parts[at % shards].0.connections.push(unread);
            parts[at % shards].2.push(fd);
        }
        let whole = |(state, mut fds, of_connections): (ShardState, Vec<OwnedFd>, Vec<OwnedFd>)| {
            fds.extend(of_connections);
            Self { state, borrowed_fds: Vec::new(), owned_fds: fds }
        };
        parts.into_iter().map(whole).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsRawFd as _};

    use super::*;
    use crate::snapshot::{ChannelState, ClientKind, ClientState, GapCause};

    fn channel(name: &str, complete_since: u64) -> ChannelState {
        let cause = GapCause::Began;
        ChannelState {
            name: name.to_owned(),
            open: true,
            complete_since,
            cause,
            holes: Vec::new(),
            events: Vec::new(),
            event_channels: Vec::new(),
            journal: None,
        }
    }

    fn client(channels: &[u32]) -> ClientState {
        ClientState {
            channels: channels.to_vec(),
            kind: ClientKind::Plain,
            expires: None,
            silent: 0,
            behind: None,
            poll: None,
            gzip: None,
            reader: None,
            subject: None,
        }
    }

    fn shard(
        channels: Vec<ChannelState>,
        clients: Vec<ClientState>,
        connections: &[&'static [u8]],
        fd: RawFd,
    ) -> Transfer {
        let connections: Vec<Bytes> = connections.iter().map(|unread| Bytes::from_static(unread)).collect();
        let count = i32::try_from(clients.len() + connections.len()).unwrap();
        let state = ShardState { floor: (1, GapCause::Began), channels, clients, connections, ..ShardState::default() };
        Transfer { state, borrowed_fds: (fd..fd + count).collect(), owned_fds: Vec::new() }
    }

    #[test]
    fn shards_are_merged_with_each_descriptor_beside_its_client() {
        let one = shard(vec![channel("a", 9), channel("b", 2)], vec![client(&[0]), client(&[1, 0])], &[b"one"], 10);
        let other = shard(vec![channel("b", 5), channel("a", 3)], vec![client(&[1])], &[b"two", b""], 20);
        let merged = Transfer::merge(vec![one, other]);
        let since: Vec<_> = merged.state.channels.iter().map(|c| (c.name.as_str(), c.complete_since)).collect();
        assert_eq!(since, [("a", 3), ("b", 2)], "the longest history of each");
        let channels: Vec<_> = merged.state.clients.iter().map(|client| client.channels.clone()).collect();
        assert_eq!(channels, [vec![0], vec![1, 0], vec![0]]);
        assert_eq!(merged.borrowed_fds, [10, 11, 20, 12, 21, 22], "clients, then connections");
        assert_eq!(merged.state.connections, [&b"one"[..], b"two", b""]);
    }

    #[test]
    fn a_channel_that_one_shard_has_open_and_the_other_not_yet_is_open() {
        let pending = || ChannelState { open: false, ..channel("a", 0) };
        for channels in [[channel("a", 9), pending()], [pending(), channel("a", 9)]] {
            let shards = channels.into_iter().map(|channel| shard(vec![channel], Vec::new(), &[], 10)).collect();
            assert_eq!(Transfer::merge(shards).state.channels, [channel("a", 9)]);
        }
    }

    #[test]
    fn a_state_is_dealt_out_with_each_descriptor_beside_its_client() {
        let files: Vec<OwnedFd> = (0..5).map(|_| File::open("/dev/null").unwrap().into()).collect();
        let numbers: Vec<RawFd> = files.iter().map(|file| file.as_raw_fd()).collect();
        let Transfer { state, .. } =
            shard(vec![channel("a", 1)], vec![client(&[0]), client(&[]), client(&[0])], &[b"one", b"two"], 0);
        let parts = Transfer::received(state, files).unwrap().split(2);
        let fds = |part: &Transfer| part.owned_fds.iter().map(|fd| fd.as_raw_fd()).collect::<Vec<_>>();
        assert_eq!(fds(&parts[0]), [numbers[0], numbers[2], numbers[3]]);
        assert_eq!(fds(&parts[1]), [numbers[1], numbers[4]]);
        assert_eq!((parts[0].state.descriptors(), parts[1].state.descriptors()), (3, 2));
        assert!(parts.iter().all(|part| part.state.channels == [channel("a", 1)]));
    }

    #[test]
    fn descriptors_that_do_not_fit_are_refused() {
        let Transfer { state, .. } = shard(Vec::new(), vec![client(&[])], &[], 0);
        let error = Transfer::received(state, Vec::new()).unwrap_err();
        assert!(matches!(error, SnapshotError::Descriptors { came: 0, expected: 1 }), "{error}");
    }
}
