//! The hot way: the code that writes to clients (beside `gzip_stream.rs`, for gzip streams, and `drain.rs`, their last bytes).
//!
//! Invariants:
//! - A client without [`Behind`] has everything up to the hub's last position that is in no batch; one with it has
//!   everything up to its cursor, and `partial` goes out before anything else.
//! - Nothing is queued for a client. What its socket doesn't take stays in the histories, and the client has a cursor.
//! - Batches are sent before anybody is served from the histories (see [`crate::hub`]).

use std::{
    io::IoSlice,
    os::fd::{AsFd, AsRawFd},
    sync::Arc,
};

use bytes::Bytes;
use nix::{
    errno::Errno,
    sys::{
        epoll::{EpollEvent, EpollFlags},
        socket::{MsgFlags, send},
        uio::writev,
    },
};

use super::{
    Shard,
    client::{Behind, Client, ClientKey},
    gzip_stream::GzipReplay,
    poll,
    wheel::Tick,
};
use crate::{
    clock::Uptime,
    cursor::Position,
    event::{Coding, Event, Form},
    gzip::{self, Span},
    hub::{GroupId, Kind, Reader, ReplayItem},
};

/// Most frames in one gathered write.
const FRAMES_A_WRITE: usize = 64;
/// Most bytes that are deflated for one gathered write, unless one event alone has more: others wait meanwhile.
const BYTES_DEFLATED_A_WRITE: usize = 128 << 10;
/// Most bytes that one client is served from the histories before others have their turn.
const BYTES_A_TURN: usize = 1 << 20;
/// Most bytes in a poll's answer, unless one event alone has more.
const BYTES_A_POLL: usize = 64 << 10;

/// The events of a batch one after the other, for the groups that get the same ones.
#[derive(Default)]
pub(super) struct Joined {
    bytes: Vec<u8>,
    positions: Vec<Position>,
    form: Form,
}

impl Joined {
    /// The bytes of `events`, which are at least two; made anew only where they differ from the last ones.
    fn of(&mut self, events: &[Arc<Event>], form: Form) -> &[u8] {
        let same = self.form == form && self.positions.iter().copied().eq(events.iter().map(|event| event.position()));
        if !same {
            self.bytes.clear();
            self.positions.clear();
            self.form = form;
            for event in events {
                self.positions.push(event.position());
                self.bytes.extend_from_slice(event.frame(form));
            }
        }
        &self.bytes
    }
}

impl Shard {
    /// Sends the batches, where there are any, and lets go of what histories need not keep.
    pub(super) fn flush(&mut self) {
        if std::mem::take(&mut self.unsent_bytes) > 0 {
            self.send_batches();
            self.hub.trim(Uptime::now());
        }
    }

    /// Sends the batches that the hub has gathered.
    fn send_batches(&mut self) {
        while let Some(batch) = self.hub.next_batch() {
            match batch.kind {
                Kind::Stream(form, Coding::Identity) => self.send_batch(batch.group, &batch.events, form),
                Kind::Stream(form, Coding::Gzip) => self.send_gzip_batch(&batch, form),
                Kind::Poll => self.answer_polls(batch.group, batch.events[0].position()),
            }
            self.hub.recycle(batch);
        }
        self.remove_ended();
    }

    fn send_batch(&mut self, group: GroupId, events: &[Arc<Event>], form: Form) {
        let bytes: &[u8] = match events {
            [event] => event.frame(form),
            _ => self.joined.of(events, form),
        };
        let now = self.wheel.now();
        let clients = self.hub.clients(group);
        let mut fallen = Vec::new();
        let mut delivered = 0;
        for &slot in clients {
            let client = &mut self.clients[slot as usize];
            if client.behind.is_some() {
                continue; // It gets them from the histories.
            }
            match send(client.fd.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
                Ok(n) if n == bytes.len() => {
                    client.written = now;
                    delivered += events.len() as u64;
                }
                Ok(n) => fallen.push((slot, n)),
                Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOBUFS) => fallen.push((slot, 0)),
                Err(_) => self.ended.push(slot),
            }
        }
        self.metrics.deliveries.add(delivered);
        for (slot, sent) in fallen {
            let frames = events.iter().map(|event| (event.position(), event.frame(form)));
            let (cursor, partial) = cursor_after(events[0].position(), frames, sent);
            self.metrics.fell_behind.add(1);
            self.set_behind(slot, Reader::live(cursor), partial);
            self.watch_writable_once(slot);
        }
    }

    /// Marks a client that had everything as one that has not.
    pub(super) fn set_behind(&mut self, slot: u32, reader: Reader, partial: Bytes) {
        let client = &mut self.clients[slot as usize];
        debug_assert!(client.behind.is_none());
        client.behind = Some(Box::new(Behind { reader, partial, watched: false, ends: false }));
        client.written = self.wheel.now(); // From here on it is known whether it takes anything.
        self.hub.set_behind(client.group, true);
    }

    /// Writes to a client that is behind until it has everything or its socket is full.
    pub(super) fn serve(&mut self, slot: u32) {
        let mut budget = BYTES_A_TURN;
        loop {
            let client = &mut self.clients[slot as usize];
            let Some(behind) = &mut client.behind else { return };
            if !behind.partial.is_empty() {
                match send(client.fd.as_raw_fd(), &behind.partial, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
                    Ok(n) => {
                        client.written = self.wheel.now();
                        bytes::Buf::advance(&mut behind.partial, n);
                        if !behind.partial.is_empty() {
                            return self.watch_writable_once(slot);
                        }
                        behind.partial = Bytes::new();
                    }
                    Err(Errno::EAGAIN) => return self.watch_writable_once(slot),
                    Err(Errno::EINTR | Errno::ENOBUFS) => return self.watch_writable(slot), // No edge follows these.
                    Err(_) => return self.ended.push(slot),
                }
            }
            if behind.ends {
                return self.ended.push(slot);
            }
            if client.poll.is_some() {
                if !self.prepare_answer(slot, false) {
                    return self.catch_up(slot);
                }
                continue;
            }
            match self.write_due(slot) {
                Written::Nothing => return self.catch_up(slot),
                Written::All(n) => budget = budget.saturating_sub(n),
                Written::Full => return self.watch_writable_once(slot),
                Written::Later => return self.watch_writable(slot),
                Written::Dead => return self.ended.push(slot),
            }
            if budget == 0 {
                return self.watch_writable(slot); // The socket can take more: epoll says so again, after the others.
            }
        }
    }

    /// Writes the next few frames that are due to a stream.
    fn write_due(&mut self, slot: u32) -> Written {
        let client = &mut self.clients[slot as usize];
        let (Some(behind), Kind::Stream(form, _)) = (&mut client.behind, self.hub.kind(client.group)) else {
            return Written::Nothing;
        };
        let mut gzip_replay = client.gzip.as_ref().map(|_| GzipReplay::default());
        let mut frames = Vec::with_capacity(FRAMES_A_WRITE);
        let (mut gaps, mut deflated) = (0, 0);
        for due in self.hub.replay(client.group, &behind.reader).take(FRAMES_A_WRITE) {
            gaps += u64::from(matches!(due, ReplayItem::Gap { .. }));
            if let (Some(_), ReplayItem::Event(event)) = (&gzip_replay, &due) {
                deflated += event.frame(form).len();
            }
            frames.push(match &mut gzip_replay {
                Some(gzip_replay) => gzip_replay.frame(due, self.hub.node(), form, &mut self.deflater),
                None => Frame { bytes: due.frame(self.hub.node(), form), item: due, gzip: None },
            });
            if deflated > BYTES_DEFLATED_A_WRITE {
                break;
            }
        }
        if frames.is_empty() {
            return Written::Nothing;
        }
        let slices: Vec<IoSlice<'_>> = frames.iter().map(|frame| IoSlice::new(&frame.bytes)).collect();
        let mut sent = match writev(client.fd.as_fd(), &slices) {
            Ok(n) => n,
            Err(Errno::EAGAIN) => return Written::Full,
            Err(Errno::EINTR | Errno::ENOBUFS) => return Written::Later,
            Err(_) => return Written::Dead,
        };
        if form == Form::Envelope || client.gzip.is_some() {
            for frame in &frames {
                if let ReplayItem::Event(event) = &frame.item {
                    self.hub.weigh(event);
                }
            }
        }
        self.metrics.gaps.add(gaps);
        self.unlogged_gaps += gaps;
        client.written = self.wheel.now();
        let total = sent;
        for Frame { item, bytes, gzip } in &frames {
            if sent == 0 {
                return Written::Full;
            }
            behind.reader.has(item);
            if let (Some(gzip), Some((span, event))) = (&mut client.gzip, gzip) {
                gzip.note(span, *event);
            }
            self.metrics.replayed.add(1);
            if sent < bytes.len() {
                behind.partial = bytes.slice(sent..);
                return Written::Full;
            }
            sent -= bytes.len();
        }
        Written::All(total)
    }

    /// The client has everything.
    fn catch_up(&mut self, slot: u32) {
        let client = &mut self.clients[slot as usize];
        let Some(behind) = client.behind.take() else { return };
        self.hub.set_behind(client.group, false);
        if behind.watched {
            self.watch(slot, EpollFlags::empty());
        }
    }

    /// Asks epoll to tell when the client's socket can take more.
    pub(super) fn watch_writable_once(&mut self, slot: u32) {
        if let Some(behind) = &mut self.clients[slot as usize].behind
            && !behind.watched
        {
            self.watch_writable(slot);
        }
    }

    fn watch_writable(&mut self, slot: u32) {
        if let Some(behind) = &mut self.clients[slot as usize].behind {
            behind.watched = true;
        }
        self.watch(slot, EpollFlags::EPOLLOUT);
    }

    /// READABLE always (end of file: the client has left), WRITABLE only where asked for: a socket registered for it wakes
    /// the shard each time nginx drains it.
    fn watch(&mut self, slot: u32, also: EpollFlags) {
        let client = &self.clients[slot as usize];
        let key = ClientKey { slot, generation: client.generation };
        let mut event = EpollEvent::new(WATCHED | also, key.to_bits());
        if self.epoll.modify(&client.fd, &mut event).is_err() {
            self.ended.push(slot);
        }
    }

    /// Pings a stream that has been silent; it is skipped where its socket is full.
    pub(super) fn ping(&mut self, slot: u32, ping: &Ping) {
        let client = &mut self.clients[slot as usize];
        let bytes = if client.gzip.is_some() { &ping.stored } else { &ping.plain };
        match send(client.fd.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
            Ok(n) => {
                client.written = self.wheel.now();
                if let Some(gzip) = &mut client.gzip {
                    gzip.note(&ping.span, None);
                }
                if n < bytes.len() {
                    let reader = Reader::live(self.hub.last());
                    self.metrics.fell_behind.add(1);
                    self.set_behind(slot, reader, bytes.slice(n..));
                    self.watch_writable_once(slot);
                }
            }
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOBUFS) => {}
            Err(_) => self.ended.push(slot),
        }
    }

    /// Answers the polls of a group, to which `first` and what follows it is due.
    fn answer_polls(&mut self, group: GroupId, first: Position) {
        for slot in self.hub.clients(group).to_vec() {
            if self.clients[slot as usize].behind.is_none() {
                let cursor = Position(first.0 - 1);
                self.set_behind(slot, Reader::live(cursor), Bytes::new());
                self.serve(slot);
            }
        }
    }

    /// Makes the answer of a poll that is behind ready to be written; false if nothing is due and it need not be given.
    pub(super) fn prepare_answer(&mut self, slot: u32, even_if_empty: bool) -> bool {
        let client: &mut Client = &mut self.clients[slot as usize];
        let (Some(behind), Some(poll)) = (&mut client.behind, &client.poll) else { return false };
        let mut due = Vec::new();
        let mut bytes = 0;
        let mut all = true;
        for next in self.hub.replay(client.group, &behind.reader) {
            if bytes > BYTES_A_POLL {
                all = false;
                break;
            }
            if let ReplayItem::Event(event) = &next {
                bytes += event.frame(Form::Plain).len();
            }
            due.push(next);
        }
        if due.is_empty() && !even_if_empty {
            return false;
        }
        let position =
            if all { self.hub.last() } else { due.last().map_or(behind.reader.cursor, ReplayItem::position) };
        let cursor = self.hub.cursor_at(position);
        behind.partial = poll::encode_response(&poll.head, poll.reply, &cursor, &due);
        behind.ends = true;
        client.expires = Tick::MAX;
        client.written = self.wheel.now();
        self.metrics.replayed.add(due.len() as u64);
        client.poll = None;
        true
    }
}

/// What every client's socket is watched for.
pub(super) const WATCHED: EpollFlags = EpollFlags::EPOLLIN.union(EpollFlags::EPOLLRDHUP).union(EpollFlags::EPOLLET);

/// What is due to a client, as it is written.
pub(super) struct Frame {
    pub(super) item: ReplayItem,
    pub(super) bytes: Bytes,
    /// Of gzip streams, what [`GzipState::note`] is told.
    ///
    /// [`GzipState::note`]: super::gzip_stream::GzipState::note
    pub(super) gzip: Option<(Span, Option<Position>)>,
}

/// What shows a client that its stream is alive.
pub(super) struct Ping {
    plain: Bytes,
    /// For gzip streams.
    stored: Bytes,
    span: Span,
}

impl Ping {
    pub(super) fn new(plain: Bytes) -> Self {
        Self { stored: gzip::store(&plain), span: Span::of(&plain), plain }
    }
}

enum Written {
    /// Nothing was due.
    Nothing,
    /// All that was tried, this many bytes.
    All(usize),
    /// The socket is full.
    Full,
    /// The system could not; no edge of epoll's follows.
    Later,
    /// The client is gone.
    Dead,
}

/// Where a client stands of whose batch, which is `frames` and begins at `first`, the first `sent` bytes were written, and
/// the rest of the frame they end in.
pub(super) fn cursor_after<'a>(
    first: Position,
    frames: impl Iterator<Item = (Position, &'a Bytes)>,
    mut sent: usize,
) -> (Position, Bytes) {
    let mut cursor = Position(first.0 - 1);
    for (position, frame) in frames {
        if sent == 0 {
            break;
        }
        cursor = position;
        if sent < frame.len() {
            return (cursor, frame.slice(sent..));
        }
        sent -= frame.len();
    }
    (cursor, Bytes::new())
}
