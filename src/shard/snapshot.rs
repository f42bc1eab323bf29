//! Captures a shard's state for an upgrade, and restores it in another process. It writes to no socket, except
//! [`Flushed::serve_inherited`].
//!
//! Invariant: capturing changes nothing, so the shard can go on if the upgrade fails.

use std::{collections::HashMap, io, os::fd::OwnedFd, sync::Arc, time::Duration};

use super::{
    client::Entering,
    core::{Flushed, Shard},
    poll::PollReply,
    snapshot_journals::{channel_of, channel_state, journals_of, journals_state, reader_state, with_state},
    state::{self, OtherState, Poll},
};
use crate::{
    access::Identity,
    clock::{Uptime, unix_micros},
    cursor::Position,
    event::{Coding, Event, Form},
    hub::{Cause, ChannelId, ChannelSnapshot, CursorOrigin, Hole, Kind, LagSpan, LossKind, Reader, ReportedLoss},
    index,
    name::ChannelName,
    snapshot::{
        BehindState, ChannelState, ClientKind, ClientState, GapCause, LossState, OriginState, PollForm, ReportedState,
        ShardState, Transfer,
    },
    stream::Stream,
};

impl Shard {
    /// The shard's state, and its clients' descriptors.
    pub(super) fn capture(&self) -> Transfer {
        let mut at_of = HashMap::new();
        let (since, cause) = self.hub.floor();
        let lags = self.hub.lags().iter().map(|span| (span.until, span.after.0)).collect();
        let mut state = ShardState { floor: (since.0, cause.into()), lags: Some(lags), ..ShardState::default() };
        state.journals = self.hub.export_journals().as_ref().map(journals_state);
        let has_journals = state.journals.is_some();
        for (id, channel) in self.hub.export() {
            at_of.insert(id, index::to_u32(state.channels.len()));
            let event = |(event, arrived): &(Arc<Event>, Uptime)| {
                (event.position().0, arrived.0, event.frame(Form::Plain).clone())
            };
            let events = channel.events.iter().map(event).collect();
            let channel_of = |(event, _): &(Arc<Event>, Uptime)| event.channel().to_string();
            let event_channels =
                if channel.name.is_pattern() { channel.events.iter().map(channel_of).collect() } else { Vec::new() };
            state.channels.push(ChannelState {
                name: channel.name.to_string(),
                open: channel.open,
                complete_since: channel.complete_since.0,
                cause: channel.cause.into(),
                holes: channel.holes.iter().map(|hole| (hole.begin.0, hole.end.0)).collect(),
                events,
                event_channels,
                journal: has_journals.then(|| {
                    channel_state(
                        channel.journaled.as_ref(),
                        channel.events.iter().map(|(event, _)| &**event),
                        &channel.holes,
                    )
                }),
            });
        }
        state.kept = self.hub.export_kept().map(|(name, since)| (name.to_string(), since.0)).collect();
        let now = self.clients.now();
        let mut borrowed_fds = Vec::with_capacity(self.clients.len());
        for client in self.clients.iter() {
            let ids: Vec<ChannelId> = self.hub.channels_of(client.group()).collect();
            state.clients.push(ClientState {
                channels: ids.iter().map(|id| at_of[id]).collect(),
                kind: self.hub.kind(client.group()).into(),
                expires: client.expires_in(now).map(|ticks| self.millis(ticks)),
                silent: self.millis(client.silent_for(now)),
                behind: behind(client.state(), &ids),
                poll: client.state().as_waiting().map(|poll| (poll.head.clone(), poll.reply.into())),
                gzip: None,
                reader: client.state().reader().and_then(reader_state),
                subject: client.identity().map(|identity| identity.subject.clone()),
            });
            borrowed_fds.push(client.raw_fd());
        }
        Transfer { state, borrowed_fds, owned_fds: Vec::new() }
    }

    /// Restores the state of a shard of another process. Writes to no client: [`Flushed::serve_inherited`] does that later. Returns
    /// the connections that are not clients yet.
    ///
    /// # Errors
    /// A client's socket can't be watched; a channel's name is not allowed; the number of descriptors is wrong.
    pub(super) fn inherit(&mut self, transfer: Transfer) -> io::Result<Vec<Stream>> {
        let Transfer { state, owned_fds, .. } = transfer;
        if owned_fds.len() != state.descriptors() {
            return Err(io::Error::other(
                "the snapshot has another number of clients and connections than descriptors",
            ));
        }
        let now = Uptime::now();
        self.hub.set_floor(Position(state.floor.0), state.floor.1.into());
        for (name, since) in state.kept {
            // A name that this version does not allow belongs to no rule here.
            if let Ok(name) = ChannelName::subscribable(&name) {
                self.hub.import_kept(&name, Position(since));
            }
        }
        // An older program does not say when it lagged: perhaps all the time.
        let lags = state.lags.unwrap_or_else(|| vec![(unix_micros(), 0)]);
        for (until, after) in lags {
            self.hub.note_lag(LagSpan { until, after: Position(after) });
        }
        if let Some(journals) = &state.journals {
            self.hub.import_journals(&journals_of(journals));
        }
        let mut ids = Vec::with_capacity(state.channels.len());
        // A pattern's history has the same events as those of its channels.
        let mut shared: HashMap<u64, Arc<Event>> = HashMap::new();
        let has_patterns = state.channels.iter().any(|channel| !channel.event_channels.is_empty());
        for channel in state.channels {
            // A client must not lose a channel silently because this version does not allow its name.
            let name = ChannelName::subscribable(&channel.name)
                .map_err(|error| io::Error::other(format!("channel {:?}: {error}", channel.name)))?;
            let hole = |(begin, end)| Hole::new(Position(begin), Position(end));
            let mut holes: Vec<Hole> = channel.holes.into_iter().map(hole).collect();
            let part = channel.journal.as_ref();
            let journaled = part.and_then(|part| channel_of(self.hub.journal_of(&name), part, &mut holes));
            let is_journaled = |at| part.is_some_and(|part| part.others.binary_search(&index::to_u32(at)).is_err());
            let mut channels = channel.event_channels.iter();
            let mut events = Vec::with_capacity(channel.events.len());
            for (at, (position, arrived, frame)) in channel.events.into_iter().enumerate() {
                let of = channels.next().map_or_else(|| Ok(name.clone()), |of| ChannelName::new(of));
                let of = of.map_err(|error| io::Error::other(format!("an event of pattern {name}: {error}")))?;
                let new = || Arc::new(Event::from_frame(Position(position), of, is_journaled(at), frame));
                let event = if has_patterns { Arc::clone(shared.entry(position).or_insert_with(new)) } else { new() };
                events.push((event, Uptime(arrived)));
            }
            ids.push(self.hub.import(
                ChannelSnapshot {
                    name: name.clone(),
                    open: channel.open,
                    complete_since: Position(channel.complete_since),
                    cause: channel.cause.into(),
                    holes,
                    journaled,
                    events,
                },
                now,
            ));
        }
        let mut owned_fds = owned_fds.into_iter();
        for (client, fd) in state.clients.into_iter().zip(owned_fds.by_ref()) {
            self.inherit_client(client, fd, &ids)?;
        }
        state.connections.into_iter().zip(owned_fds).map(|(unread, fd)| Stream::from_fd(fd, unread)).collect()
    }

    fn inherit_client(&mut self, state: ClientState, fd: OwnedFd, ids: &[u32]) -> io::Result<()> {
        let channels: Option<Vec<u32>> = state.channels.iter().map(|&at| ids.get(at as usize).copied()).collect();
        let channels =
            channels.ok_or_else(|| io::Error::other("the snapshot lacks a channel that one of its clients reads"))?;
        let ticks = |millis| self.clients.ticks(Duration::from_millis(millis));
        let whole = |reader: Reader| match &state.reader {
            Some(part) => with_state(reader, part),
            None => reader.with_passed(self.hub.passed()),
        };
        let client_state = match (state.behind, state.poll) {
            (Some(behind), _) if behind.ends => state::ClientState::closing(behind.partial, false),
            (Some(behind), _) => {
                let reported: Option<Vec<ReportedLoss>> =
                    behind.reported.iter().map(|reported| reported_loss(reported, &channels)).collect();
                let reported = reported.ok_or_else(|| {
                    io::Error::other("the snapshot has a reported loss of a channel that the client does not read")
                })?;
                let reader = self.hub.import_reader(Position(behind.cursor), behind.origin.into(), reported);
                state::ClientState::catching_up(whole(reader), behind.partial)
            }
            (None, Some((head, reply))) => {
                let reader = whole(Reader::live(self.hub.last()));
                state::ClientState::waiting(Poll { head, reply: reply.into(), reader })
            }
            (None, None) => state::ClientState::Live,
        };
        self.admit(Entering {
            fd,
            channels,
            kind: state.kind.into(),
            expires_in: state.expires.map(ticks),
            silent: ticks(state.silent),
            state: client_state,
            identity: state.subject.map(|subject| Box::new(Identity { subject })),
            permit: self.permit_over_limit(),
        })?;
        Ok(())
    }

    fn millis(&self, ticks: u32) -> u64 {
        u64::try_from((self.clients.tick() * ticks).as_millis()).unwrap_or(u64::MAX)
    }
}

impl Flushed<'_> {
    /// Writes to the inherited clients what they lack. From now on this process serves them.
    pub(super) fn serve_inherited(&mut self) {
        for slot in self.clients.slots() {
            self.serve(slot);
        }
    }
}

/// The state of a client that is behind, and that reads the channels `ids`.
fn behind(state: &state::ClientState, ids: &[ChannelId]) -> Option<BehindState> {
    let state::ClientState::Other(other) = state else { return None };
    match &**other {
        OtherState::Waiting(_) => None,
        OtherState::CatchingUp(catching_up) => Some(BehindState {
            cursor: catching_up.reader.cursor.0,
            origin: catching_up.reader.origin.into(),
            partial: catching_up.unwritten.bytes.clone(),
            ends: false,
            reported: catching_up.reader.reported().iter().filter_map(|loss| reported_state(loss, ids)).collect(),
        }),
        OtherState::Closing(unwritten) => {
            let partial = unwritten.bytes.clone();
            Some(BehindState { cursor: 0, origin: OriginState::Live, partial, ends: true, reported: Vec::new() })
        }
    }
}

/// A loss that was reported to a client that reads the channels `ids`; `None` if it concerns none of them.
fn reported_state(loss: &ReportedLoss, ids: &[ChannelId]) -> Option<ReportedState> {
    let channel = index::to_u32(ids.iter().position(|&id| id == loss.channel)?);
    Some(ReportedState { channel, kind: loss.kind.into(), end: loss.end.0, known: loss.known.0 })
}

/// The reverse of [`reported_state`]; `None` if the client has too few channels.
fn reported_loss(state: &ReportedState, ids: &[ChannelId]) -> Option<ReportedLoss> {
    let &channel = ids.get(state.channel as usize)?;
    let (end, known) = (Position(state.end), Position(state.known));
    Some(ReportedLoss { channel, kind: state.kind.into(), end, resumes: None, known })
}

impl From<Kind> for ClientKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Stream(Form::Plain, Coding::Identity) => Self::Plain,
            Kind::Stream(Form::Envelope, Coding::Identity) => Self::Envelope,
            Kind::Poll => Self::Poll,
            Kind::Stream(Form::Plain, Coding::Gzip) => Self::GzipPlain,
            Kind::Stream(Form::Envelope, Coding::Gzip) => Self::GzipEnvelope,
        }
    }
}

impl From<ClientKind> for Kind {
    fn from(kind: ClientKind) -> Self {
        match kind {
            ClientKind::Plain => Self::Stream(Form::Plain, Coding::Identity),
            ClientKind::Envelope => Self::Stream(Form::Envelope, Coding::Identity),
            ClientKind::Poll => Self::Poll,
            ClientKind::GzipPlain => Self::Stream(Form::Plain, Coding::Gzip),
            ClientKind::GzipEnvelope => Self::Stream(Form::Envelope, Coding::Gzip),
        }
    }
}

impl From<PollReply> for PollForm {
    fn from(reply: PollReply) -> Self {
        match reply {
            PollReply::Json => Self::Json,
            PollReply::EventStream(Form::Plain) => Self::Plain,
            PollReply::EventStream(Form::Envelope) => Self::Envelope,
        }
    }
}

impl From<PollForm> for PollReply {
    fn from(form: PollForm) -> Self {
        match form {
            PollForm::Json => Self::Json,
            PollForm::Plain => Self::EventStream(Form::Plain),
            PollForm::Envelope => Self::EventStream(Form::Envelope),
        }
    }
}

impl From<CursorOrigin> for OriginState {
    fn from(origin: CursorOrigin) -> Self {
        match origin {
            CursorOrigin::Live => Self::Live,
            CursorOrigin::Resumed => Self::Resumed,
            CursorOrigin::Foreign => Self::Foreign,
        }
    }
}

impl From<OriginState> for CursorOrigin {
    fn from(origin: OriginState) -> Self {
        match origin {
            OriginState::Live => Self::Live,
            OriginState::Resumed => Self::Resumed,
            OriginState::Foreign => Self::Foreign,
        }
    }
}

impl From<Cause> for GapCause {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Began => Self::Began,
            Cause::Evicted => Self::Evicted,
        }
    }
}

impl From<GapCause> for Cause {
    fn from(cause: GapCause) -> Self {
        match cause {
            GapCause::Began => Self::Began,
            GapCause::Evicted => Self::Evicted,
        }
    }
}

impl From<LossKind> for LossState {
    fn from(kind: LossKind) -> Self {
        match kind {
            LossKind::BeforeHistory => Self::BeforeHistory,
            LossKind::Hole => Self::Hole,
            LossKind::Journal => Self::Journal,
        }
    }
}

impl From<LossState> for LossKind {
    fn from(kind: LossState) -> Self {
        match kind {
            LossState::BeforeHistory => Self::BeforeHistory,
            LossState::Hole => Self::Hole,
            LossState::Journal => Self::Journal,
        }
    }
}
