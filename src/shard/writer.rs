//! Decides what is written to clients: batches, events from the histories for clients that are behind, answers, pings. The hot
//! path. It reads nothing from clients.
//!
//! Invariants:
//! - A live client has every event up to the hub's last position, except those in its group's batch. A client that is catching up
//!   has every event up to its reader's cursor, and its unwritten bytes are written before anything else.
//! - No events are queued for a client. Events that its socket does not take stay in the histories, and the client has a cursor.
//! - While batches are sent, only clients of the group whose batch was taken are served from the histories (asserted in debug builds).

use std::{io::IoSlice, sync::Arc};

use bytes::{Buf, Bytes};
use nix::sys::epoll::EpollFlags;

use super::{
    client::{ClientState, OtherState},
    core::{Flushed, Shard},
    frames::{Frame, GzipBatch, GzipReplay, Ping, cursor_after},
    poll,
    socket::{Sent, send_now, send_slices_now},
};
use crate::{
    clock::Uptime,
    cursor::Position,
    event::{Coding, Event, Form},
    hub::{Batch, GroupId, Kind, Reader, ReplayItem},
};

/// Most frames in one `writev`.
const FRAMES_A_WRITE: usize = 64;
/// Most bytes that are deflated for one `writev`, unless one event alone has more. Other clients wait during this time.
const BYTES_DEFLATED_A_WRITE: usize = 128 << 10;
/// Most bytes that one client is served from the histories before other clients are served.
const BYTES_A_TURN: usize = 1 << 20;
/// Most bytes in a poll's answer, unless one event alone has more.
const BYTES_A_POLL: usize = 64 << 10;

impl Shard {
    /// Sends the batches, and enforces the limits of the histories.
    pub(super) fn flush(&mut self) -> Flushed<'_> {
        if std::mem::take(&mut self.unsent_bytes) > 0 {
            while let Some(batch) = self.hub.next_batch() {
                match batch.kind {
                    Kind::Stream(form, Coding::Identity) => self.send_batch(batch.group, &batch.events, form),
                    Kind::Stream(form, Coding::Gzip) => self.send_gzip_batch(&batch, form),
                    Kind::Poll => self.serve_group_after(batch.group, Position(batch.events[0].position().0 - 1)),
                }
                self.hub.recycle(batch);
            }
            self.hub.trim(Uptime::now());
        }
        Flushed::new(self)
    }

    fn send_batch(&mut self, group: GroupId, events: &[Arc<Event>], form: Form) {
        let bytes: &[u8] = match events {
            [event] => event.frame(form),
            _ => self.joined.of(events, form),
        };
        let now = self.wheel.now();
        let mut fallen_behind = Vec::new();
        let mut delivered = 0;
        for &slot in self.hub.clients(group) {
            let client = &mut self.clients[slot as usize];
            if !client.state.is_live() {
                continue; // It gets the events from the histories.
            }
            match send_now(&client.fd, bytes) {
                Sent::All => {
                    client.written = now;
                    delivered += events.len() as u64;
                }
                Sent::Part(n) => fallen_behind.push((slot, n)),
                Sent::Full | Sent::Retry => fallen_behind.push((slot, 0)),
                Sent::Gone => self.ended.push(slot),
            }
        }
        self.metrics.deliveries.add(delivered);
        for (slot, sent) in fallen_behind {
            let frames = events.iter().map(|event| (event.position(), event.frame(form)));
            let (cursor, rest) = cursor_after(events[0].position(), frames, sent);
            self.fall_behind(slot, cursor, rest);
        }
    }

    /// Sends a batch to a group of gzip streams. Clients that got the event before the batch last get the same bytes. The other
    /// clients are served one by one.
    fn send_gzip_batch(&mut self, batch: &Batch, form: Form) {
        let now = self.wheel.now();
        let (first, last) = (batch.events[0].position(), batch.events[batch.events.len() - 1].position());
        let mut deflated: Option<GzipBatch> = None;
        let (mut fallen_behind, mut others) = (Vec::new(), Vec::new());
        let mut delivered = 0;
        for &slot in self.hub.clients(batch.group) {
            let client = &mut self.clients[slot as usize];
            if !client.state.is_live() {
                continue;
            }
            let Some(before) = batch.before.as_deref().filter(|before| client.gzip_before == before.position()) else {
                others.push(slot);
                continue;
            };
            let deflated =
                deflated.get_or_insert_with(|| GzipBatch::of(&batch.events, before, form, &mut self.deflater));
            match send_now(&client.fd, &deflated.joined) {
                Sent::All => {
                    client.written = now;
                    client.gzip_before = last;
                    delivered += batch.events.len() as u64;
                }
                Sent::Part(n) => fallen_behind.push((slot, n)),
                Sent::Full | Sent::Retry => fallen_behind.push((slot, 0)),
                Sent::Gone => self.ended.push(slot),
            }
        }
        self.metrics.deliveries.add(delivered);
        if let Some(deflated) = deflated {
            for (slot, sent) in fallen_behind {
                let frames = deflated.frames.iter().map(|(position, bytes)| (*position, bytes));
                let (cursor, rest) = cursor_after(first, frames, sent);
                if cursor >= first {
                    self.clients[slot as usize].gzip_before = cursor;
                }
                self.fall_behind(slot, cursor, rest);
            }
        }
        for slot in others {
            self.serve_after(slot, Position(first.0 - 1));
        }
    }

    /// The socket of a live client is full. The client has every event up to `cursor` when `rest` is written.
    fn fall_behind(&mut self, slot: u32, cursor: Position, rest: Bytes) {
        self.metrics.fell_behind.add(1);
        self.set_state(slot, ClientState::catching_up(Reader::live(cursor), rest));
        self.watch_writable_once(slot);
    }

    /// Serves all clients of a group what follows `cursor`. Live clients and polls have every event up to it.
    pub(super) fn serve_group_after(&mut self, group: GroupId, cursor: Position) {
        for slot in self.hub.clients(group).to_vec() {
            self.serve_after(slot, cursor);
        }
    }

    /// The same for one client. Does nothing if the client is catching up or closing already.
    fn serve_after(&mut self, slot: u32, cursor: Position) {
        let reader = Reader::live(cursor);
        match &self.clients[slot as usize].state {
            ClientState::Live => {
                self.set_state(slot, ClientState::catching_up(reader, Bytes::new()));
                self.serve(slot);
            }
            ClientState::Other(other) if matches!(**other, OtherState::Waiting(_)) => {
                self.answer_poll(slot, &reader, false);
            }
            ClientState::Other(_) => {}
        }
    }

    /// Writes to a client that is catching up or closing, until it has everything or its socket is full.
    pub(super) fn serve(&mut self, slot: u32) {
        let mut budget = BYTES_A_TURN;
        loop {
            let now = self.wheel.now();
            let client = &mut self.clients[slot as usize];
            let Some(unwritten) = client.state.unwritten() else { return };
            if !unwritten.bytes.is_empty() {
                match send_now(&client.fd, &unwritten.bytes) {
                    Sent::All => {
                        client.written = now;
                        unwritten.bytes = Bytes::new();
                    }
                    Sent::Part(n) => {
                        client.written = now;
                        unwritten.bytes.advance(n);
                        return self.watch_writable_once(slot);
                    }
                    Sent::Full => return self.watch_writable_once(slot),
                    Sent::Retry => return self.watch_writable(slot),
                    Sent::Gone => return self.ended.push(slot),
                }
            }
            if !client.state.is_catching_up() {
                return self.ended.push(slot); // It is closing, and everything is written.
            }
            match self.write_due(slot) {
                (Sent::All, 0) => return self.become_live(slot),
                (Sent::All, n) => budget = budget.saturating_sub(n),
                (Sent::Part(_) | Sent::Full, _) => return self.watch_writable_once(slot),
                (Sent::Retry, _) => return self.watch_writable(slot),
                (Sent::Gone, _) => return self.ended.push(slot),
            }
            if budget == 0 {
                return self.watch_writable(slot); // The socket can take more: epoll reports that after other clients' events.
            }
        }
    }

    /// Writes the next frames to a stream that is catching up. Returns what the socket took, and how many bytes: (`All`, 0) if
    /// nothing is left to write.
    fn write_due(&mut self, slot: u32) -> (Sent, usize) {
        let client = &mut self.clients[slot as usize];
        debug_assert!(self.hub.is_batch_empty(client.group), "its batch has events that the histories have too");
        let ClientState::Other(other) = &mut client.state else { return (Sent::All, 0) };
        let (OtherState::CatchingUp(catching_up), Kind::Stream(form, coding)) =
            (&mut **other, self.hub.kind(client.group))
        else {
            return (Sent::All, 0);
        };
        let mut gzip_replay = (coding == Coding::Gzip).then(GzipReplay::default);
        let mut frames = Vec::with_capacity(FRAMES_A_WRITE);
        let mut deflated = 0;
        for item in self.hub.replay(client.group, &catching_up.reader).take(FRAMES_A_WRITE) {
            frames.push(match (&mut gzip_replay, &item) {
                (None, _) => Frame::plain(item, self.hub.node(), form),
                (Some(gzip_replay), ReplayItem::Event(event)) => {
                    deflated += event.frame(form).len();
                    gzip_replay.frame(item, self.hub.node(), form, &mut self.deflater)
                }
                (Some(gzip_replay), _) => gzip_replay.frame(item, self.hub.node(), form, &mut self.deflater),
            });
            if deflated > BYTES_DEFLATED_A_WRITE {
                break;
            }
        }
        if frames.is_empty() {
            return (Sent::All, 0);
        }
        let slices: Vec<IoSlice<'_>> = frames.iter().map(|frame| IoSlice::new(&frame.bytes)).collect();
        let sent = send_slices_now(&client.fd, &slices);
        let total = match sent {
            Sent::All => slices.iter().map(|slice| slice.len()).sum(),
            Sent::Part(n) => n,
            Sent::Full | Sent::Retry | Sent::Gone => return (sent, 0),
        };
        if form == Form::Envelope || gzip_replay.is_some() {
            for frame in &frames {
                if let ReplayItem::Event(event) = &frame.item {
                    self.hub.weigh(event);
                }
            }
        }
        client.written = self.wheel.now();
        let mut left = total;
        for frame in &frames {
            if left == 0 {
                break;
            }
            catching_up.reader.pass(&frame.item);
            client.gzip_before = frame.event();
            if matches!(frame.item, ReplayItem::Gap { .. }) {
                self.unlogged.count_gaps(1, &self.metrics);
            }
            self.metrics.replayed.add(1);
            if left < frame.bytes.len() {
                catching_up.unwritten.bytes = frame.bytes.slice(left..);
                break;
            }
            left -= frame.bytes.len();
        }
        (sent, total)
    }

    /// Makes a client live that has every event.
    fn become_live(&mut self, slot: u32) {
        let mut before = self.set_state(slot, ClientState::Live);
        if before.unwritten().is_some_and(|unwritten| unwritten.watched) {
            self.watch(slot, EpollFlags::empty());
        }
    }

    /// Answers a waiting poll with what follows `reader`'s cursor. If nothing follows, it is answered only if `even_if_empty`.
    pub(super) fn answer_poll(&mut self, slot: u32, reader: &Reader, even_if_empty: bool) {
        let client = &self.clients[slot as usize];
        let Some(poll) = client.state.as_waiting() else { return };
        debug_assert!(self.hub.is_batch_empty(client.group), "its batch has events that the histories have too");
        let (mut due, mut bytes, mut all, mut gaps) = (Vec::new(), 0, true, 0);
        for next in self.hub.replay(client.group, reader) {
            if bytes > BYTES_A_POLL {
                all = false;
                break;
            }
            match &next {
                ReplayItem::Event(event) => bytes += event.frame(Form::Plain).len(),
                ReplayItem::Gap { .. } => gaps += 1,
            }
            due.push(next);
        }
        if due.is_empty() && !even_if_empty {
            return;
        }
        // If the answer does not have everything, the cursor must not pass its last item: an unreported gap may follow.
        let position = if all { self.hub.last() } else { due.last().map_or(reader.cursor, ReplayItem::position) };
        let response = poll::encode_response(&poll.head, poll.reply, &self.hub.cursor_at(position), &due);
        self.metrics.replayed.add(due.len() as u64);
        self.unlogged.count_gaps(gaps, &self.metrics);
        self.close_after(slot, response);
    }

    /// Writes `bytes` after the client's unwritten bytes, and ends the client when they are written.
    pub(super) fn close_after(&mut self, slot: u32, bytes: Bytes) {
        let (rest, watched) = match self.clients[slot as usize].state.unwritten() {
            Some(unwritten) => (std::mem::take(&mut unwritten.bytes), unwritten.watched),
            None => (Bytes::new(), false),
        };
        let bytes = if rest.is_empty() { bytes } else { [&rest[..], &bytes].concat().into() };
        self.clients[slot as usize].expires = None;
        self.set_state(slot, ClientState::closing(bytes, watched));
        self.serve(slot);
    }

    /// Pings a stream. If its socket is full, the stream is behind from now on, so it is closed if it takes nothing for a minute.
    pub(super) fn ping(&mut self, slot: u32, ping: &Ping) {
        let client = &mut self.clients[slot as usize];
        let gzip = matches!(self.hub.kind(client.group), Kind::Stream(_, Coding::Gzip));
        let bytes = if gzip { &ping.stored } else { &ping.plain };
        let sent = match send_now(&client.fd, bytes) {
            Sent::All => bytes.len(),
            Sent::Part(n) => n,
            Sent::Full | Sent::Retry => 0,
            Sent::Gone => return self.ended.push(slot),
        };
        if sent > 0 {
            client.written = self.wheel.now();
            client.gzip_before = Position(0);
        }
        if sent < bytes.len() {
            let rest = if sent > 0 { bytes.slice(sent..) } else { Bytes::new() };
            self.fall_behind(slot, self.hub.last(), rest);
        }
    }
}
