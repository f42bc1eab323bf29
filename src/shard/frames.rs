//! Makes the bytes of frames, plain and compressed. It writes to no socket.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    cursor::Position,
    event::{Event, Form},
    gzip::{self, Deflater},
    hub::ReplayItem,
};

/// An item of a replay and its bytes.
pub(super) struct Frame {
    pub(super) item: ReplayItem,
    pub(super) bytes: Bytes,
}

impl Frame {
    /// The position of the frame's event; 0 for a gap event, and for an event with an id of this client's own (see [`super::client::Client::gzip_before`]).
    pub(super) fn event(&self) -> Position {
        match &self.item {
            ReplayItem::Event(event, None) => event.position(),
            ReplayItem::Event(_, Some(_)) | ReplayItem::Gap { .. } => Position(0),
        }
    }
}

/// Makes the bytes of batches and replays. It keeps what the next group or client may need again.
#[derive(Default)]
pub(super) struct Encoder {
    joined: Joined,
    deflater: Deflater,
}

impl Encoder {
    /// The bytes of a batch.
    pub(super) fn batch<'a>(&'a mut self, events: &'a [Arc<Event>], form: Form) -> &'a [u8] {
        match events {
            [event] => event.frame(form),
            _ => self.joined.of(events, form),
        }
    }

    /// A batch, deflated for clients that got the event `before` last.
    pub(super) fn gzip_batch(&mut self, events: &[Arc<Event>], before: &Event, form: Form) -> GzipBatch {
        GzipBatch::of(events, before, form, &mut self.deflater)
    }

    /// The frame of a replay's next item. `gzip`: for gzip streams, what went before it.
    pub(super) fn replay(&mut self, item: ReplayItem, gzip: Option<&mut GzipReplay>, form: Form) -> Frame {
        match gzip {
            None => Frame { bytes: item.frame(form), item },
            Some(gzip) => gzip.frame(item, form, &mut self.deflater),
        }
    }
}

/// The frames of a batch, joined. Kept, since the next group may get the same batch.
#[derive(Default)]
struct Joined {
    bytes: Vec<u8>,
    positions: Vec<Position>,
    form: Form,
}

impl Joined {
    /// The bytes of `events`, which are at least two. They are made only if the last call had other events.
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

/// A ping: an event that shows a client that its stream is alive.
pub(super) struct Ping {
    pub(super) plain: Bytes,
    /// The bytes for gzip streams.
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

/// The first bytes of a gzip stream: its header, and `text`.
pub(super) fn begin_gzip(text: &[u8]) -> Bytes {
    [&gzip::HEADER[..], &gzip::store(text)].concat().into()
}

/// Deflates the items of a replay for one client, one after the other.
#[derive(Default)]
pub(super) struct GzipReplay {
    /// The item before, if it was an event as all clients get it: the dictionary of the next one.
    before: Option<Arc<Event>>,
}

impl GzipReplay {
    /// The frame of the next item.
    fn frame(&mut self, item: ReplayItem, form: Form, deflater: &mut Deflater) -> Frame {
        let ReplayItem::Event(event, None) = &item else {
            self.before = None;
            return Frame { bytes: gzip::store(&item.frame(form)), item };
        };
        let before = self.before.replace(Arc::clone(event));
        let bytes = event.piece(form, before.as_deref(), deflater).clone();
        Frame { bytes, item }
    }
}

/// A batch, deflated for clients that got the event before the batch last.
pub(super) struct GzipBatch {
    pub(super) frames: Vec<(Position, Bytes)>,
    /// All frames, joined.
    pub(super) joined: Bytes,
}

impl GzipBatch {
    fn of(events: &[Arc<Event>], before: &Event, form: Form, deflater: &mut Deflater) -> Self {
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
