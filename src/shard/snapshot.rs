//! What a shard holds, as another process can take it over: an snapshot, and descriptors.
//!
//! Invariant: making an snapshot changes nothing, so a shard that is told to go on goes on as if nothing had been asked.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    Shard,
    client::{Behind, Entering, Poll},
    gzip_stream::GzipState,
    poll::PollReply,
    wheel::Tick,
};
use crate::{
    clock::Uptime,
    cursor::Position,
    event::{Coding, Event, Form},
    gzip::Checksum,
    hub::{Cause, ChannelSnapshot, CursorOrigin, Hole, Kind, Reader},
    name::ChannelName,
    stream::Stream,
};

/// What all shards of a process hold.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Snapshot {
    floor: (u64, u8),
    channels: Vec<ChannelState>,
    clients: Vec<ClientState>,
    /// What was read of each connection that is no client yet.
    connections: Vec<Bytes>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ChannelState {
    name: String,
    open: bool,
    complete_since: u64,
    cause: u8,
    /// Where a source was disconnected: begins and ends.
    holes: Vec<(u64, u64)>,
    /// Position, when it has arrived (see [`Uptime`]), frame.
    events: Vec<(u64, u32, Bytes)>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct ClientState {
    /// Indexes of the snapshot's channels.
    channels: Vec<u32>,
    kind: u8,
    /// Milliseconds until it ends by itself.
    expires: Option<u64>,
    /// Milliseconds since something was written to it.
    silent: u64,
    behind: Option<BehindState>,
    /// A poll's head, and how it is answered.
    poll: Option<(Bytes, u8)>,
    /// The checksum of what a gzip stream has carried, and its length.
    zip: Option<(u32, u32)>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct BehindState {
    cursor: u64,
    origin: u8,
    partial: Bytes,
    ends: bool,
}

/// An snapshot, with descriptors for its clients and then its connections.
pub struct Transfer {
    /// What is held.
    pub snapshot: Snapshot,
    /// Numbers of this process's descriptors, which stay with their shard.
    pub borrowed_fds: Vec<RawFd>,
    /// Descriptors that came with an snapshot from another process.
    pub owned_fds: Vec<OwnedFd>,
}

impl Transfer {
    /// An snapshot that came from another process.
    #[must_use]
    pub fn received(snapshot: Snapshot, owned_fds: Vec<OwnedFd>) -> Self {
        Self { snapshot, borrowed_fds: Vec::new(), owned_fds }
    }

    pub(super) fn add_connections(&mut self, connections: &[Stream]) {
        for connection in connections {
            let (fd, unread) = connection.peek();
            self.borrowed_fds.push(fd);
            self.snapshot.connections.push(unread);
        }
    }

    /// Puts the images of several shards together. Shards have seen the same events, so of each channel the longest
    /// history is kept.
    #[must_use]
    pub fn merge(all: Vec<Self>) -> Self {
        let mut merged = Self { snapshot: Snapshot::default(), borrowed_fds: Vec::new(), owned_fds: Vec::new() };
        let mut connections = Vec::new();
        let mut index = std::collections::HashMap::new();
        for Self { mut snapshot, borrowed_fds, .. } in all {
            merged.snapshot.floor = merged.snapshot.floor.max(snapshot.floor);
            let mut moved = Vec::with_capacity(snapshot.channels.len());
            for channel in snapshot.channels {
                let at = *index.entry(channel.name.clone()).or_insert(merged.snapshot.channels.len());
                moved.push(u32::try_from(at).unwrap_or(u32::MAX));
                match merged.snapshot.channels.get_mut(at) {
                    None => merged.snapshot.channels.push(channel),
                    Some(known) if channel.complete_since < known.complete_since => *known = channel,
                    Some(_) => {}
                }
            }
            for client in &mut snapshot.clients {
                client.channels.iter_mut().for_each(|at| *at = moved[*at as usize]);
            }
            merged.borrowed_fds.extend(&borrowed_fds[..snapshot.clients.len()]);
            connections.extend(borrowed_fds[snapshot.clients.len()..].iter().copied().zip(snapshot.connections));
            merged.snapshot.clients.extend(snapshot.clients);
        }
        for (fd, unread) in connections {
            merged.borrowed_fds.push(fd);
            merged.snapshot.connections.push(unread);
        }
        merged
    }

    /// Deals the clients and connections out to as many shards; each gets all histories.
    #[must_use]
    pub fn split(self, shards: usize) -> Vec<Self> {
        let Self { snapshot, owned_fds, .. } = self;
        let channels: Arc<[ChannelState]> = snapshot.channels.into();
        let mut parts: Vec<(Snapshot, Vec<OwnedFd>, Vec<OwnedFd>)> = (0..shards)
            .map(|_| {
                let channels = channels.iter().map(ChannelState::share).collect();
                (Snapshot { floor: snapshot.floor, channels, ..Snapshot::default() }, Vec::new(), Vec::new())
            })
            .collect();
        let mut owned_fds = owned_fds.into_iter();
        for (at, (client, fd)) in snapshot.clients.into_iter().zip(owned_fds.by_ref()).enumerate() {
            parts[at % shards].0.clients.push(client);
            parts[at % shards].1.push(fd);
        }
        for (at, (unread, fd)) in snapshot.connections.into_iter().zip(owned_fds).enumerate() {
            parts[at % shards].0.connections.push(unread);
            parts[at % shards].2.push(fd);
        }
        let whole = |(snapshot, mut clients, connections): (Snapshot, Vec<OwnedFd>, Vec<OwnedFd>)| {
            clients.extend(connections);
            Self::received(snapshot, clients)
        };
        parts.into_iter().map(whole).collect()
    }
}

impl Snapshot {
    /// Names of the channels whose events arrive.
    pub fn open_channels(&self) -> impl Iterator<Item = &str> {
        self.channels.iter().filter(|channel| channel.open).map(|channel| channel.name.as_str())
    }

    /// Clients, and connections that are none yet: as many descriptors go with the snapshot.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        self.clients.len() + self.connections.len()
    }

    /// Clients.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.clients.len()
    }
}

impl ChannelState {
    /// A copy that shares the events' bytes.
    fn share(&self) -> Self {
        Self {
            name: self.name.clone(),
            open: self.open,
            complete_since: self.complete_since,
            cause: self.cause,
            holes: self.holes.clone(),
            events: self.events.clone(),
        }
    }
}

impl Shard {
    /// What the shard holds now.
    pub(super) fn freeze(&self) -> Transfer {
        let mut at_of = std::collections::HashMap::new();
        let mut snapshot =
            Snapshot { floor: (self.hub.floor().0.0, cause_to_u8(self.hub.floor().1)), ..Snapshot::default() };
        for (id, channel) in self.hub.export() {
            at_of.insert(id, u32::try_from(snapshot.channels.len()).unwrap_or(u32::MAX));
            let event = |(event, arrived): &(Arc<Event>, Uptime)| {
                (event.position().0, arrived.0, event.frame(Form::Plain).clone())
            };
            let events = channel.events.iter().map(event).collect();
            snapshot.channels.push(ChannelState {
                name: channel.name.to_string(),
                open: channel.open,
                complete_since: channel.complete_since.0,
                cause: cause_to_u8(channel.cause),
                holes: channel.holes.iter().map(|hole| (hole.begin.0, hole.end.0)).collect(),
                events,
            });
        }
        let now = self.wheel.now();
        let mut borrowed_fds = Vec::with_capacity(self.clients.len());
        for (_, client) in &self.clients {
            let channels = self.hub.channels_of(client.group).map(|id| at_of[&id]).collect();
            snapshot.clients.push(ClientState {
                channels,
                kind: kind_to_u8(self.hub.kind(client.group)),
                expires: (client.expires != Tick::MAX).then(|| self.millis(client.expires.saturating_sub(now))),
                silent: self.millis(now.saturating_sub(client.written)),
                behind: client.behind.as_ref().map(|behind| BehindState {
                    cursor: behind.reader.cursor.0,
                    origin: origin_to_u8(behind.reader.origin),
                    partial: behind.partial.clone(),
                    ends: behind.ends,
                }),
                poll: client.poll.as_ref().map(|poll| (poll.head.clone(), reply_to_u8(poll.reply))),
                zip: client.gzip.as_ref().map(|gzip| (gzip.sum.crc, gzip.sum.length)),
            });
            borrowed_fds.push(client.fd.as_raw_fd());
        }
        Transfer { snapshot, borrowed_fds, owned_fds: Vec::new() }
    }

    /// Takes over what a shard of another process held, and writes nothing: [`Shard::serve_inherited`] does. Gives back the
    /// connections that are no clients yet.
    ///
    /// # Errors
    /// A client's socket can't be watched; the snapshot does not fit its descriptors.
    pub(super) fn inherit(&mut self, transfer: Transfer) -> io::Result<Vec<Stream>> {
        let Transfer { snapshot, owned_fds, .. } = transfer;
        if owned_fds.len() != snapshot.descriptors() {
            return Err(io::Error::other("the snapshot does not fit its descriptors"));
        }
        let now = Uptime::now();
        self.hub.set_floor(Position(snapshot.floor.0), cause_from_u8(snapshot.floor.1));
        let mut ids = Vec::with_capacity(snapshot.channels.len());
        for channel in snapshot.channels {
            // Names were checked when they came in; what this version no longer allows is lost.
            let Ok(name) = ChannelName::new(&channel.name) else {
                ids.push(None);
                continue;
            };
            let event = |(position, arrived, frame)| {
                (Arc::new(Event::from_frame(Position(position), name.clone(), frame)), Uptime(arrived))
            };
            let events = channel.events.into_iter().map(event).collect();
            ids.push(Some(
                self.hub.import(
                    ChannelSnapshot {
                        name: name.clone(),
                        open: channel.open,
                        complete_since: Position(channel.complete_since),
                        cause: cause_from_u8(channel.cause),
                        holes: channel
                            .holes
                            .into_iter()
                            .map(|(begin, end)| Hole { begin: Position(begin), end: Position(end) })
                            .collect(),
                        events,
                    },
                    now,
                ),
            ));
        }
        let mut owned_fds = owned_fds.into_iter();
        for (client, fd) in snapshot.clients.into_iter().zip(owned_fds.by_ref()) {
            self.inherit_client(client, fd, &ids)?;
        }
        snapshot.connections.into_iter().zip(owned_fds).map(|(unread, fd)| Stream::from_fd(fd, unread)).collect()
    }

    /// Serves the inherited clients what they are due: from now on they are this process's.
    pub(super) fn serve_inherited(&mut self) {
        let behind = self.clients.iter().filter(|(_, client)| client.behind.is_some());
        let behind: Vec<u32> = behind.filter_map(|(slot, _)| u32::try_from(slot).ok()).collect();
        for slot in behind {
            self.serve(slot);
        }
        self.remove_ended();
    }

    fn inherit_client(&mut self, state: ClientState, fd: OwnedFd, ids: &[Option<u32>]) -> io::Result<()> {
        let channels: Vec<u32> =
            state.channels.iter().filter_map(|&at| ids.get(at as usize).copied().flatten()).collect();
        let ticks = |millis| self.wheel.ticks(Duration::from_millis(millis));
        let behind = state.behind.map(|behind| {
            let origin = origin_from_u8(behind.origin);
            let reader = Reader::new(Position(behind.cursor), origin);
            Box::new(Behind { reader, partial: behind.partial, watched: false, ends: behind.ends })
        });
        self.admit(Entering {
            fd,
            channels,
            kind: kind_from_u8(state.kind),
            expires_in: state.expires.map(ticks),
            silent: ticks(state.silent),
            behind,
            poll: state.poll.map(|(head, reply)| Box::new(Poll { head, reply: reply_from_u8(reply) })),
            gzip: state.zip.map(|(crc, length)| Box::new(GzipState { sum: Checksum { crc, length }, before: None })),
            permit: self.client_limit.acquire_over_limit(),
        })?;
        Ok(())
    }

    fn millis(&self, ticks: Tick) -> u64 {
        u64::try_from((self.wheel.tick() * ticks).as_millis()).unwrap_or(u64::MAX)
    }
}

// The numbers are the snapshot's format: they are never given another meaning.

fn kind_to_u8(kind: Kind) -> u8 {
    match kind {
        Kind::Stream(Form::Plain, Coding::Identity) => 0,
        Kind::Stream(Form::Envelope, Coding::Identity) => 1,
        Kind::Poll => 2,
        Kind::Stream(Form::Plain, Coding::Gzip) => 3,
        Kind::Stream(Form::Envelope, Coding::Gzip) => 4,
    }
}

fn kind_from_u8(kind: u8) -> Kind {
    match kind {
        1 => Kind::Stream(Form::Envelope, Coding::Identity),
        2 => Kind::Poll,
        3 => Kind::Stream(Form::Plain, Coding::Gzip),
        4 => Kind::Stream(Form::Envelope, Coding::Gzip),
        _ => Kind::Stream(Form::Plain, Coding::Identity),
    }
}

fn reply_to_u8(reply: PollReply) -> u8 {
    match reply {
        PollReply::Json => 0,
        PollReply::EventStream(Form::Plain) => 1,
        PollReply::EventStream(Form::Envelope) => 2,
    }
}

fn reply_from_u8(reply: u8) -> PollReply {
    match reply {
        1 => PollReply::EventStream(Form::Plain),
        2 => PollReply::EventStream(Form::Envelope),
        _ => PollReply::Json,
    }
}

fn origin_to_u8(origin: CursorOrigin) -> u8 {
    match origin {
        CursorOrigin::Live => 0,
        CursorOrigin::Resumed => 1,
        CursorOrigin::Foreign => 2,
    }
}

fn origin_from_u8(origin: u8) -> CursorOrigin {
    match origin {
        1 => CursorOrigin::Resumed,
        2 => CursorOrigin::Foreign,
        _ => CursorOrigin::Live,
    }
}

fn cause_to_u8(cause: Cause) -> u8 {
    match cause {
        Cause::Began => 0,
        Cause::Evicted => 1,
    }
}

fn cause_from_u8(cause: u8) -> Cause {
    match cause {
        1 => Cause::Evicted,
        _ => Cause::Began,
    }
}
