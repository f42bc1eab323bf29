//! Gzip streams: what differs from plain ones on the way out (see [`crate::gzip`]).
//!
//! Invariant: a client's [`GzipState`] is of all that was written to it or is in its `partial`, in this order, to the last byte.

use std::{os::fd::AsRawFd, sync::Arc};

use bytes::Bytes;
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, send},
};

use super::{
    Shard,
    writer::{Frame, cursor_after},
};
use crate::{
    cursor::{NodeId, Position},
    event::{Event, Form},
    gzip::{self, Checksum, Deflater, Span},
    hub::{Batch, Reader, ReplayItem},
};

/// What a gzip stream has carried so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct GzipState {
    /// Of all that was put into it.
    pub(super) sum: Checksum,
    /// The event that came last, if nothing came after it.
    pub(super) before: Option<Position>,
}

impl GzipState {
    /// Something was put into the stream: an event, or what is none.
    pub(super) fn note(&mut self, span: &Span, event: Option<Position>) {
        self.sum.append(span);
        self.before = event;
    }

    /// A stream that begins with `text`, and its first bytes.
    pub(super) fn begin(text: &[u8]) -> (Self, Vec<u8>) {
        let mut state = Self::default();
        state.note(&Span::of(text), None);
        (state, [&gzip::HEADER[..], &gzip::store(text)].concat())
    }

    /// The last bytes of the stream, which ends with `text`.
    pub(super) fn end(&mut self, text: &[u8]) -> Bytes {
        self.note(&Span::of(text), None);
        [&gzip::store(text)[..], &self.sum.end_of_stream()].concat().into()
    }
}

/// What is due to one client, deflated piece by piece.
#[derive(Default)]
pub(super) struct GzipReplay {
    before: Option<Arc<Event>>,
}

impl GzipReplay {
    /// The next frame of a client to which all given so far was due immediately before.
    pub(super) fn frame(&mut self, item: ReplayItem, node: NodeId, form: Form, deflater: &mut Deflater) -> Frame {
        let ReplayItem::Event(event) = &item else {
            self.before = None;
            let text = item.frame(node, form);
            return Frame { item, bytes: gzip::store(&text), gzip: Some((Span::of(&text), None)) };
        };
        let before = self.before.replace(Arc::clone(event));
        let (span, bytes) = event.piece(form, before.as_deref(), deflater);
        Frame { bytes: bytes.clone(), gzip: Some((*span, Some(item.position()))), item }
    }
}

/// A batch, deflated for those who have just been given the event before it.
struct GzipBatch {
    frames: Vec<(Position, Bytes)>,
    spans: Vec<Span>,
    /// All frames.
    joined: Bytes,
    /// Of all frames.
    span: Span,
}

impl GzipBatch {
    fn of(events: &[Arc<Event>], before: &Event, form: Form, deflater: &mut Deflater) -> Self {
        let mut deflated = Self { frames: Vec::new(), spans: Vec::new(), joined: Bytes::new(), span: Span::default() };
        let mut before = before;
        for event in events {
            let (span, bytes) = event.piece(form, Some(before), deflater);
            deflated.span = deflated.span.then(span);
            deflated.spans.push(*span);
            deflated.frames.push((event.position(), bytes.clone()));
            before = event;
        }
        deflated.joined = match &deflated.frames[..] {
            [(_, bytes)] => bytes.clone(),
            frames => frames.iter().map(|(_, bytes)| &bytes[..]).collect::<Vec<_>>().concat().into(),
        };
        deflated
    }
}

impl Shard {
    /// Sends a batch to a group of gzip streams: at once to those that all got the same last, one by one to others.
    pub(super) fn send_gzip_batch(&mut self, batch: &Batch, form: Form) {
        let now = self.wheel.now();
        let (first, last) = (batch.events[0].position(), batch.events[batch.events.len() - 1].position());
        let mut deflated: Option<GzipBatch> = None;
        let (mut fallen, mut apart) = (Vec::new(), Vec::new());
        let mut delivered = 0;
        for &slot in self.hub.clients(batch.group) {
            let client = &mut self.clients[slot as usize];
            let (None, Some(gzip)) = (&client.behind, &mut client.gzip) else { continue };
            let Some(before) = batch.before.as_deref().filter(|before| gzip.before == Some(before.position())) else {
                apart.push(slot);
                continue;
            };
            let deflated =
                deflated.get_or_insert_with(|| GzipBatch::of(&batch.events, before, form, &mut self.deflater));
            match send(client.fd.as_raw_fd(), &deflated.joined, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
                Ok(n) if n == deflated.joined.len() => {
                    client.written = now;
                    gzip.note(&deflated.span, Some(last));
                    delivered += batch.events.len() as u64;
                }
                Ok(n) => fallen.push((slot, n)),
                Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOBUFS) => fallen.push((slot, 0)),
                Err(_) => self.ended.push(slot),
            }
        }
        self.metrics.deliveries.add(delivered);
        if let Some(deflated) = deflated {
            for (slot, sent) in fallen {
                self.fall_behind_in_gzip_batch(slot, &deflated, sent);
            }
        }
        for slot in apart {
            let cursor = Position(first.0 - 1);
            self.set_behind(slot, Reader::live(cursor), Bytes::new());
            self.serve(slot);
        }
    }

    /// A client took the first `sent` bytes of a batch.
    fn fall_behind_in_gzip_batch(&mut self, slot: u32, deflated: &GzipBatch, sent: usize) {
        let frames = deflated.frames.iter().map(|(position, bytes)| (*position, bytes));
        let (cursor, partial) = cursor_after(deflated.frames[0].0, frames, sent);
        if let Some(gzip) = &mut self.clients[slot as usize].gzip {
            let taken =
                deflated.frames.iter().zip(&deflated.spans).take_while(|((position, _), _)| *position <= cursor);
            taken.for_each(|((position, _), span)| gzip.note(span, Some(*position)));
        }
        self.metrics.fell_behind.add(1);
        self.set_behind(slot, Reader::live(cursor), partial);
        self.watch_writable_once(slot);
    }
}
