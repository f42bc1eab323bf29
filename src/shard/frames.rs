//! Frames on their way to clients, plain and compressed: bytes and positions. It writes to nobody.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    cursor::{NodeId, Position},
    event::{Event, Form},
    gzip::{self, Deflater},
    hub::ReplayItem,
};

/// What is due to a client, as it is written.
pub(super) struct Frame {
    pub(super) item: ReplayItem,
    pub(super) bytes: Bytes,
}

impl Frame {
    pub(super) fn plain(item: ReplayItem, node: NodeId, form: Form) -> Self {
        Self { bytes: item.frame(node, form), item }
    }

    /// The event that the frame is, as [`super::client::Client::gzip_before`] has it.
    pub(super) fn event(&self) -> Position {
        match &self.item {
            ReplayItem::Event(event) => event.position(),
            ReplayItem::Gap { .. } => Position(0),
        }
    }
}

/// The events of a batch one after the other, for the groups that get the same ones.
#[derive(Default)]
pub(super) struct Joined {
    bytes: Vec<u8>,
    positions: Vec<Position>,
    form: Form,
}

impl Joined {
    /// The bytes of `events`, which are at least two; made anew only where they differ from the last ones.
    pub(super) fn of(&mut self, events: &[Arc<Event>], form: Form) -> &[u8] {
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

/// What shows a client that its stream is alive.
pub(super) struct Ping {
    pub(super) plain: Bytes,
    /// For gzip streams.
    pub(super) stored: Bytes,
}

impl Ping {
    pub(super) fn new(plain: Bytes) -> Self {
        Self { stored: gzip::store(&plain), plain }
    }
}

/// After the first `sent` bytes of `frames` were written: the position of the last frame begun, and its unwritten rest.
/// `first`: the position of the first frame.
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

/// The first bytes of a gzip stream that begins with `text`.
pub(super) fn begin_gzip(text: &[u8]) -> Bytes {
    [&gzip::HEADER[..], &gzip::store(text)].concat().into()
}

/// What is due to one client, deflated piece by piece.
#[derive(Default)]
pub(super) struct GzipReplay {
    before: Option<Arc<Event>>,
}

impl GzipReplay {
    /// The next frame of a client that got the items given so far immediately before.
    pub(super) fn frame(&mut self, item: ReplayItem, node: NodeId, form: Form, deflater: &mut Deflater) -> Frame {
        let ReplayItem::Event(event) = &item else {
            self.before = None;
            return Frame { bytes: gzip::store(&item.frame(node, form)), item };
        };
        let before = self.before.replace(Arc::clone(event));
        let bytes = event.piece(form, before.as_deref(), deflater).clone();
        Frame { bytes, item }
    }
}

/// A batch, deflated for the clients that were given the event before it immediately before.
pub(super) struct GzipBatch {
    pub(super) frames: Vec<(Position, Bytes)>,
    /// All frames.
    pub(super) joined: Bytes,
}

impl GzipBatch {
    pub(super) fn of(events: &[Arc<Event>], before: &Event, form: Form, deflater: &mut Deflater) -> Self {
        let mut frames = Vec::with_capacity(events.len());
        let mut before = before;
        for event in events {
            frames.push((event.position(), event.piece(form, Some(before), deflater).clone()));
            before = event;
        }
        let joined = match &frames[..] {
            [(_, bytes)] => bytes.clone(),
            frames => frames.iter().map(|(_, bytes)| &bytes[..]).collect::<Vec<_>>().concat().into(),
        };
        Self { frames, joined }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cursor_is_that_of_the_last_frame_begun() {
        let frames = [(Position(5), Bytes::from_static(b"abc")), (Position(9), Bytes::from_static(b"de"))];
        let after = |sent| cursor_after(Position(5), frames.iter().map(|(position, bytes)| (*position, bytes)), sent);
        assert_eq!(after(0), (Position(4), Bytes::new()));
        assert_eq!(after(1), (Position(5), Bytes::from_static(b"bc")));
        assert_eq!(after(3), (Position(5), Bytes::new()));
        assert_eq!(after(4), (Position(9), Bytes::from_static(b"e")));
        assert_eq!(after(5), (Position(9), Bytes::new()));
    }
}
