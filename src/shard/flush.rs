//! Sends the batches: each client that is live gets its group's batch in one write. The hot path. It serves nothing from the
//! histories itself.
//!
//! Invariant: while batches are sent, only clients of the group whose batch was taken are served from the histories (asserted in
//! debug builds).

use std::sync::Arc;

use super::{
    core::{Flushed, Shard},
    frames::{GzipBatch, cursor_after},
    socket::Sent,
};
use crate::{
    clock::Uptime,
    cursor::Position,
    event::{Coding, Event, Form},
    hub::{Batch, GroupId, Kind, Reader},
};

impl Shard {
    /// Sends the batches, and enforces the limits of the histories.
    pub(super) fn flush(&mut self) -> Flushed<'_> {
        if self.hub.unsent_bytes() > 0 {
            while let Some(batch) = self.hub.next_batch() {
                match batch.kind {
                    Kind::Stream(form, Coding::Identity) => self.send_batch(batch.group, &batch.events, form),
                    Kind::Stream(form, Coding::Gzip) => self.send_gzip_batch(&batch, form),
                    Kind::Poll => self.serve_group_after(batch.group, &before(&batch.events[0])),
                }
                self.hub.recycle(batch);
            }
            self.hub.trim(Uptime::now());
        }
        self.serve_ahead();
        Flushed::new(self)
    }

    fn send_batch(&mut self, group: GroupId, events: &[Arc<Event>], form: Form) {
        let bytes = self.encoder.batch(events, form);
        let now = self.clients.now();
        let mut now_behind = Vec::new();
        let mut delivered = 0;
        for &slot in self.hub.clients(group) {
            let client = &mut self.clients[slot];
            if !client.is_live() {
                continue; // It gets the events from the histories.
            }
            match client.send(bytes, now) {
                Sent::All => delivered += events.len() as u64,
                Sent::Part(n) => now_behind.push((slot, n)),
                Sent::Full | Sent::Retry => now_behind.push((slot, 0)),
                Sent::Gone => self.clients.end(slot),
            }
        }
        self.counts.delivered(delivered);
        for (slot, sent) in now_behind {
            let frames = events.iter().map(|event| (event.position(), event.frame(form)));
            let (cursor, rest) = cursor_after(events[0].position(), frames, sent);
            self.put_behind(slot, after(events, cursor), rest);
        }
    }

    /// Sends a batch to a group of gzip streams. Clients that got the event before the batch last get the same bytes. The other
    /// clients are served one by one.
    fn send_gzip_batch(&mut self, batch: &Batch, form: Form) {
        let now = self.clients.now();
        let (first, last) = (batch.events[0].position(), batch.events[batch.events.len() - 1].position());
        let mut deflated: Option<GzipBatch> = None;
        let (mut now_behind, mut others) = (Vec::new(), Vec::new());
        let mut delivered = 0;
        for &slot in self.hub.clients(batch.group) {
            let client = &mut self.clients[slot];
            if !client.is_live() {
                continue;
            }
            let Some(before) = batch.before.as_deref().filter(|before| client.gzip_before() == before.position())
            else {
                others.push(slot);
                continue;
            };
            let deflated = deflated.get_or_insert_with(|| self.encoder.gzip_batch(&batch.events, before, form));
            match client.send(&deflated.joined, now) {
                Sent::All => {
                    client.set_gzip_before(last);
                    delivered += batch.events.len() as u64;
                }
                Sent::Part(n) => now_behind.push((slot, n)),
                Sent::Full | Sent::Retry => now_behind.push((slot, 0)),
                Sent::Gone => self.clients.end(slot),
            }
        }
        self.counts.delivered(delivered);
        if let Some(deflated) = deflated {
            for (slot, sent) in now_behind {
                let frames = deflated.frames.iter().map(|(position, bytes)| (*position, bytes));
                let (cursor, rest) = cursor_after(first, frames, sent);
                if cursor >= first {
                    self.clients[slot].set_gzip_before(cursor);
                }
                self.put_behind(slot, after(&batch.events, cursor), rest);
            }
        }
        for slot in others {
            self.serve_after(slot, &before(&batch.events[0]));
        }
    }
}

/// The reader of a client that has everything before `event`.
fn before(event: &Event) -> Reader {
    Reader::live(Position(event.position().0 - 1)).with_passed(event.passed_before())
}

/// The reader of a client that has everything up to `cursor`: one of `events`, or what was before them.
fn after(events: &[Arc<Event>], cursor: Position) -> Reader {
    match events.iter().find(|event| event.position() == cursor) {
        Some(event) => Reader::live(cursor).with_passed(event.passed()),
        None => before(&events[0]),
    }
}
