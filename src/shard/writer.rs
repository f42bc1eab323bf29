//! Decides what is written to one client: events from the histories while it is behind, a poll's answer, pings, a last event. It
//! sends no batches and reads nothing from clients.
//!
//! Invariants:
//! - A live client has every event up to the hub's last position, except those in its group's batch. A client that is catching up
//!   has every event up to its reader's cursor, and its unwritten bytes are written before anything else.
//! - No events are queued for a client. Events that its socket does not take stay in the histories, and the client has a cursor.

use std::io::IoSlice;

use bytes::Bytes;

use super::{
    core::Shard,
    frames::{GzipReplay, Ping},
    poll,
    socket::Sent,
    state::ClientState,
};
use crate::{
    cursor::Position,
    event::{Coding, Form},
    hub::{GroupId, Kind, Reader, ReplayItem},
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
    /// The socket of a live client is full. The client is at `reader`'s cursor when `rest` is written.
    pub(super) fn put_behind(&mut self, slot: u32, reader: Reader, rest: Bytes) {
        self.counts.fell_behind();
        self.set_state(slot, ClientState::catching_up(reader, rest));
        self.clients.watch_writable_once(slot);
    }

    /// Serves all clients of a group what follows `reader`'s cursor. Live clients and polls have every event up to it.
    pub(super) fn serve_group_after(&mut self, group: GroupId, reader: &Reader) {
        for slot in self.hub.clients(group).to_vec() {
            self.serve_after(slot, reader);
        }
    }

    /// The same for one client. Does nothing if the client is catching up or closing already.
    pub(super) fn serve_after(&mut self, slot: u32, reader: &Reader) {
        let client = &mut self.clients[slot];
        if client.is_live() {
            self.set_state(slot, ClientState::catching_up(reader.clone(), Bytes::new()));
            self.serve(slot);
        } else if let Some(poll) = client.waiting() {
            // One that came with an id, and has not got everything since, may need events that no batch has.
            if !poll.reader.may_need_past() {
                poll.reader.wait(reader.cursor, reader.passed());
            }
            self.answer_poll(slot, false);
        }
    }

    /// Writes to a client that is catching up or closing, until it has everything or its socket is full.
    pub(super) fn serve(&mut self, slot: u32) {
        let mut budget = BYTES_A_TURN;
        loop {
            let now = self.clients.now();
            let client = &mut self.clients[slot];
            if client.unwritten().is_none() {
                return;
            }
            match client.send_unwritten(now) {
                Sent::All => {}
                Sent::Part(_) | Sent::Full => return self.clients.watch_writable_once(slot),
                Sent::Retry => return self.clients.watch_writable(slot),
                Sent::Gone => return self.clients.end(slot),
            }
            if !client.state().is_catching_up() {
                return self.clients.end(slot); // It is closing, and everything is written.
            }
            match self.write_due(slot) {
                (Sent::All, 0) => return self.has_everything(slot),
                (Sent::All, n) => budget = budget.saturating_sub(n),
                (Sent::Part(_) | Sent::Full, _) => return self.clients.watch_writable_once(slot),
                (Sent::Retry, _) => return self.clients.watch_writable(slot),
                (Sent::Gone, _) => return self.clients.end(slot),
            }
            if budget == 0 {
                return self.clients.watch_writable(slot); // The socket can take more: epoll reports that after other clients' events.
            }
        }
    }

    /// Writes the next frames to a stream that is catching up. Returns what the socket took, and how many bytes: (`All`, 0) if
    /// nothing is left to write.
    fn write_due(&mut self, slot: u32) -> (Sent, usize) {
        let now = self.clients.now();
        let client = &mut self.clients[slot];
        let group = client.group();
        debug_assert!(self.hub.is_batch_empty(group), "its batch has events that the histories have too");
        let (Some(catching_up), Kind::Stream(form, coding)) = (client.catching_up(), self.hub.kind(group)) else {
            return (Sent::All, 0);
        };
        let mut gzip = (coding == Coding::Gzip).then(GzipReplay::default);
        let mut frames = Vec::with_capacity(FRAMES_A_WRITE);
        let mut deflated = 0;
        for item in self.hub.replay(group, &catching_up.reader).take(FRAMES_A_WRITE) {
            if let (Some(_), ReplayItem::Event(event, _)) = (&gzip, &item) {
                deflated += event.frame(form).len();
            }
            frames.push(self.encoder.replay(item, gzip.as_mut(), form));
            if deflated > BYTES_DEFLATED_A_WRITE {
                break;
            }
        }
        if frames.is_empty() {
            return (Sent::All, 0);
        }
        let slices: Vec<IoSlice<'_>> = frames.iter().map(|frame| IoSlice::new(&frame.bytes)).collect();
        let sent = client.send_slices(&slices, now);
        let total = match sent {
            Sent::All => slices.iter().map(|slice| slice.len()).sum(),
            Sent::Part(n) => n,
            Sent::Full | Sent::Retry | Sent::Gone => return (sent, 0),
        };
        if form == Form::Envelope || gzip.is_some() {
            for frame in &frames {
                if let ReplayItem::Event(event, _) = &frame.item {
                    self.hub.weigh(event);
                }
            }
        }
        let mut left = total;
        for frame in &frames {
            if left == 0 {
                break;
            }
            client.set_gzip_before(frame.event());
            if matches!(frame.item, ReplayItem::Gap { .. }) {
                self.counts.gaps(1);
            }
            self.counts.replayed(1);
            let Some(catching_up) = client.catching_up() else { break };
            catching_up.reader.pass(&frame.item);
            if left < frame.bytes.len() {
                catching_up.unwritten.bytes = frame.bytes.slice(left..);
                break;
            }
            left -= frame.bytes.len();
        }
        (sent, total)
    }

    /// Makes a client live that has every event.
    pub(super) fn become_live(&mut self, slot: u32) {
        let mut before = self.set_state(slot, ClientState::Live);
        if before.unwritten().is_some_and(|unwritten| unwritten.watched) {
            self.clients.unwatch_writable(slot);
        }
    }

    /// Answers a waiting poll with what follows its cursor. If nothing follows, it is answered only if `even_if_empty`.
    pub(super) fn answer_poll(&mut self, slot: u32, even_if_empty: bool) {
        let client = &mut self.clients[slot];
        let (group, key) = (client.group(), client.key(slot));
        let Some(poll) = client.waiting() else { return };
        debug_assert!(self.hub.is_batch_empty(group), "its batch has events that the histories have too");
        let (mut due, mut bytes, mut all, mut gaps) = (Vec::new(), 0, true, 0);
        for next in self.hub.replay(group, &poll.reader) {
            if bytes > BYTES_A_POLL {
                all = false;
                break;
            }
            match &next {
                ReplayItem::Event(event, _) => bytes += event.frame(Form::Plain).len(),
                ReplayItem::Gap { .. } => gaps += 1,
            }
            due.push(next);
        }
        // If the answer does not have everything, the cursor must not pass its last item: an unreported gap may follow.
        due.iter().for_each(|item| poll.reader.pass(item));
        if all && self.hub.needs_past(group, &poll.reader) {
            poll.reader.catch_up(self.hub.last(), self.hub.passed());
        } else if all {
            poll.reader.wait(self.hub.last(), self.hub.passed());
        }
        if due.is_empty() && !even_if_empty {
            if self.hub.is_ahead(group, &poll.reader) {
                self.ahead.add(key);
            }
            return;
        }
        let response = poll::encode_response(&poll.head, poll.reply, &poll.reader.poll_id(self.hub.node()), &due);
        self.counts.replayed(due.len() as u64);
        self.counts.gaps(gaps);
        self.close_after(slot, response);
    }

    /// Writes `bytes` after the client's unwritten bytes, and ends the client when they are written.
    pub(super) fn close_after(&mut self, slot: u32, bytes: Bytes) {
        let (rest, watched) = match self.clients[slot].unwritten() {
            Some(unwritten) => (std::mem::take(&mut unwritten.bytes), unwritten.watched),
            None => (Bytes::new(), false),
        };
        let bytes = if rest.is_empty() { bytes } else { [&rest[..], &bytes].concat().into() };
        self.clients[slot].set_never_expires();
        self.set_state(slot, ClientState::closing(bytes, watched));
        self.serve(slot);
    }

    /// Pings a stream. If its socket is full, the stream is behind from now on, so it is closed if it takes nothing for a minute.
    pub(super) fn ping(&mut self, slot: u32, ping: &Ping) {
        let now = self.clients.now();
        let client = &mut self.clients[slot];
        let gzip = matches!(self.hub.kind(client.group()), Kind::Stream(_, Coding::Gzip));
        let bytes = if gzip { &ping.stored } else { &ping.plain };
        let sent = match client.send(bytes, now) {
            Sent::All => bytes.len(),
            Sent::Part(n) => n,
            Sent::Full | Sent::Retry => 0,
            Sent::Gone => return self.clients.end(slot),
        };
        if sent > 0 {
            client.set_gzip_before(Position(0));
        }
        if sent < bytes.len() {
            let rest = if sent > 0 { bytes.slice(sent..) } else { Bytes::new() };
            let reader = Reader::live(self.hub.last()).with_passed(self.hub.passed());
            self.put_behind(slot, reader, rest);
        }
    }
}
