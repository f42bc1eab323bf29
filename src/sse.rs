//! Encodes event streams (WHATWG HTML 9.2). No sockets, no clock.
//!
//! A frame is one event, from its first line to its blank line. Every parser that follows the standard reads it as the same event.
//! CR LF, CR and LF in a payload each start a new `data:` line. A leading space is kept.
//!
//! `id:` is the last line of a frame, because some clients store an id when they read its line. If `id:` came first and the
//! connection were cut after it, such a client would skip the event when it resumes.

use std::{fmt::Write as _, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    cursor::{Cursor, Entries, MAX_ID_BYTES, NodeId, Others, Position, Start},
    name::{ChannelName, EventType},
};

/// Encodes one event. `data` may have any bytes. `passed`: how far each journal has been passed.
#[must_use]
pub fn encode_event(
    node: &NodeId,
    position: Position,
    passed: &Entries,
    event: Option<&EventType>,
    data: &[u8],
) -> Bytes {
    let type_bytes = event.map_or(0, |event| event.as_str().len() + 8);
    // Exact where the data is one line: then the buffer becomes the frame as it is, without a second allocation.
    let mut frame = BytesMut::with_capacity(data.len() + type_bytes + 38 + passed.count() * ENTRY_BYTES);
    put_event_type(&mut frame, event.map(EventType::as_str));
    put_data(&mut frame, data);
    put_id(&mut frame, &Cursor { node: *node, position, entries: *passed, others: Others::NONE });
    frame.put_u8(b'\n');
    frame.freeze()
}

/// The cursor of a frame that this module encoded: its last line but one.
#[must_use]
pub fn cursor_of(frame: &[u8]) -> Option<Cursor> {
    std::str::from_utf8(id_line(frame)?.1).ok()?.parse().ok()
}

/// The frame of an event with another id.
#[must_use]
pub fn with_cursor(frame: &[u8], cursor: &Cursor) -> Bytes {
    let before = id_line(frame).map_or(frame, |(before, _)| before);
    let mut changed = BytesMut::with_capacity(before.len() + MAX_ID_BYTES + 6);
    changed.put_slice(before);
    put_id(&mut changed, cursor);
    changed.put_u8(b'\n');
    changed.freeze()
}

/// Splits a frame into what stands before its `id:` line, and the id.
fn id_line(frame: &[u8]) -> Option<(&[u8], &[u8])> {
    let lines = frame.strip_suffix(b"\n\n")?;
    let begin = memchr::memrchr(b'\n', lines).map_or(0, |end| end + 1);
    Some((&lines[..begin], lines[begin..].strip_prefix(b"id: ")?))
}

/// Usual bytes of a journal's entry in an id.
const ENTRY_BYTES: usize = 18;

/// Encodes the event of `frame` again, with `data:` as `{"channel":…,"data":…}`. Bytes that are not UTF-8 become U+FFFD, as
/// in every parser of event streams.
#[must_use]
pub fn wrap_in_envelope(channel: &ChannelName, frame: &[u8]) -> Bytes {
    let parts = decode_frame(frame);
    let data = String::from_utf8_lossy(&parts.data);
    let json = serde_json::json!({ "channel": channel.as_str(), "data": data }).to_string();
    let mut wrapped = BytesMut::with_capacity(json.len() + frame.len() - parts.data.len().min(frame.len()) + 16);
    put_event_type(&mut wrapped, parts.event);
    put_data(&mut wrapped, json.as_bytes());
    wrapped.put_slice(b"id: ");
    wrapped.put_slice(parts.id);
    wrapped.put_slice(b"\n\n");
    wrapped.freeze()
}

/// Types of the events that ssecast itself sends. Those without content have `data: {}`, because many clients ignore the `id:` and
/// `retry:` of an event without `data:`.
pub mod own_event {
    /// The first event of a stream.
    pub const OPEN: &str = "ssecast.open";
    /// Sent after a silence: the stream is still open.
    pub const PING: &str = "ssecast.ping";
    /// The last event of a stream that the server ends.
    pub const CLOSE: &str = "ssecast.close";
    /// A gap: events may be missing.
    pub const GAP: &str = "ssecast.gap";
}

/// Encodes the first event of a stream: how long to wait before reconnecting, and an id, so that a client which is cut off
/// before its first message can resume too. The comment line before it is for clients that append a new connection's bytes to an
/// unfinished line of the connection before: it ends that line.
#[must_use]
pub fn encode_open(retry: Duration, cursor: &Cursor) -> Bytes {
    let mut frame = BytesMut::with_capacity(96);
    frame.put_slice(b":\n");
    put_own_event(&mut frame, own_event::OPEN, Some(retry), cursor);
    frame.freeze()
}

/// Encodes a ping. It has an id, so that a client which is cut off after a long silence resumes with a recent cursor.
#[must_use]
pub fn encode_ping(cursor: &Cursor) -> Bytes {
    let mut frame = BytesMut::with_capacity(64);
    put_own_event(&mut frame, own_event::PING, None, cursor);
    frame.freeze()
}

/// Encodes the last event of a stream that the server ends: how long to wait before reconnecting. `cursor` is the client's.
#[must_use]
pub fn encode_close(retry: Duration, cursor: &Cursor) -> Bytes {
    let mut frame = BytesMut::with_capacity(96);
    put_own_event(&mut frame, own_event::CLOSE, Some(retry), cursor);
    frame.freeze()
}

/// Encodes the whole stream of a client that is answered before its stream could begin: how long to wait before reconnecting. It
/// does not change what the client knows: it repeats a cursor. A client with an id that is no cursor gets no event, since an event
/// without the id would make it forget the id, and it would not get the gap event that it is owed.
#[must_use]
pub fn encode_retry(retry: Duration, start: Start) -> Bytes {
    let mut frame = BytesMut::with_capacity(96);
    frame.put_slice(b":\n");
    match start {
        Start::After(cursor) => put_own_event(&mut frame, own_event::CLOSE, Some(retry), &cursor),
        // Some clients ignore the time without an event.
        Start::Now => {
            put_event_type(&mut frame, Some(own_event::CLOSE));
            put_retry(&mut frame, retry);
            put_data(&mut frame, b"{}");
            frame.put_u8(b'\n');
        }
        Start::Unknown => put_retry(&mut frame, retry),
    }
    frame.freeze()
}

/// Why a client may have missed events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GapReason {
    /// What followed the client's cursor is no longer kept.
    History,
    /// The cursor is of another run, or invalid, and this run has no events from so long ago.
    Restart,
    /// A source was disconnected.
    Source,
    /// The client read too slowly, and what it needed was dropped.
    Slow,
}

impl GapReason {
    /// The word in the gap event.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::History => "history",
            Self::Restart => "restart",
            Self::Source => "source",
            Self::Slow => "slow",
        }
    }
}

/// Encodes a gap event: events of `channels` may be missing here. `cursor` is the client's, this event included.
#[must_use]
pub fn encode_gap(cursor: &Cursor, channels: &[ChannelName], reason: GapReason) -> Bytes {
    let names: Vec<&str> = channels.iter().map(ChannelName::as_str).collect();
    let json = serde_json::json!({ "channels": names, "reason": reason.as_str() }).to_string();
    let mut frame = BytesMut::with_capacity(json.len() + 72);
    put_event_type(&mut frame, Some(own_event::GAP));
    put_data(&mut frame, json.as_bytes());
    put_id(&mut frame, cursor);
    frame.put_u8(b'\n');
    frame.freeze()
}

/// The fields of a frame that this module encoded.
#[derive(Debug, PartialEq, Eq)]
pub struct FrameParts<'a> {
    /// The `id:` field.
    pub id: &'a [u8],
    /// The `event:` field, if there is one.
    pub event: Option<&'a str>,
    /// The payload as a browser sees it: lines joined by LF.
    pub data: Vec<u8>,
}

/// Decodes a frame that this module encoded. Skips fields that this module never writes.
#[must_use]
pub fn decode_frame(frame: &[u8]) -> FrameParts<'_> {
    let mut parts = FrameParts { id: b"", event: None, data: Vec::with_capacity(frame.len()) };
    let mut lines_of_data = 0;
    for line in frame.split(|&byte| byte == b'\n') {
        if let Some(id) = line.strip_prefix(b"id: ") {
            parts.id = id;
        } else if let Some(event) = line.strip_prefix(b"event: ") {
            parts.event = std::str::from_utf8(event).ok();
        } else if let Some(data) = line.strip_prefix(b"data: ") {
            if lines_of_data > 0 {
                parts.data.push(b'\n');
            }
            parts.data.extend_from_slice(data);
            lines_of_data += 1;
        }
    }
    parts
}

fn put_id(frame: &mut BytesMut, cursor: &Cursor) {
    frame.put_slice(b"id: ");
    cursor.put(frame);
    frame.put_u8(b'\n');
}

fn put_own_event(frame: &mut BytesMut, event: &str, retry: Option<Duration>, cursor: &Cursor) {
    put_event_type(frame, Some(event));
    if let Some(retry) = retry {
        put_retry(frame, retry);
    }
    put_data(frame, b"{}");
    put_id(frame, cursor);
    frame.put_u8(b'\n');
}

fn put_retry(frame: &mut BytesMut, retry: Duration) {
    // Writing into a BytesMut, which grows, cannot fail.
    let _ = writeln!(frame, "retry: {}", retry.as_millis());
}

fn put_event_type(frame: &mut BytesMut, event: Option<&str>) {
    if let Some(event) = event {
        frame.put_slice(b"event: ");
        frame.put_slice(event.as_bytes());
        frame.put_u8(b'\n');
    }
}

fn put_data(frame: &mut BytesMut, mut data: &[u8]) {
    loop {
        frame.put_slice(b"data: ");
        let Some(end) = memchr::memchr2(b'\r', b'\n', data) else {
            frame.put_slice(data);
            frame.put_u8(b'\n');
            return;
        };
        frame.put_slice(&data[..end]);
        frame.put_u8(b'\n');
        let after = if data[end..].starts_with(b"\r\n") { end + 2 } else { end + 1 };
        data = &data[after..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(data: &[u8]) -> String {
        let node = "abcdefgh".parse().unwrap();
        String::from_utf8_lossy(&encode_event(&node, Position(7), &Entries::NONE, None, data)).into_owned()
    }

    #[test]
    fn each_kind_of_line_end_starts_a_data_line() {
        assert_eq!(encode(b"[1,2,3]"), "data: [1,2,3]\nid: abcdefgh-7\n\n");
        assert_eq!(encode(b"a\r\nb\rc\nd"), "data: a\ndata: b\ndata: c\ndata: d\nid: abcdefgh-7\n\n");
        assert_eq!(encode(b""), "data: \nid: abcdefgh-7\n\n");
        assert_eq!(encode(b"\n"), "data: \ndata: \nid: abcdefgh-7\n\n");
        assert_eq!(encode(b" lead"), "data:  lead\nid: abcdefgh-7\n\n");
    }

    #[test]
    fn an_encoded_frame_decodes_to_its_fields() {
        let node = "abcdefgh".parse().unwrap();
        let event = EventType::new("price").unwrap();
        let frame = encode_event(&node, Position(7), &Entries::NONE, Some(&event), b"a\r\n\xffb");
        let parts = decode_frame(&frame);
        assert_eq!(parts, FrameParts { id: b"abcdefgh-7", event: Some("price"), data: b"a\n\xffb".to_vec() });
        let channel = ChannelName::new("cats").unwrap();
        assert_eq!(
            &wrap_in_envelope(&channel, &frame)[..],
            "event: price\ndata: {\"channel\":\"cats\",\"data\":\"a\\n\u{fffd}b\"}\nid: abcdefgh-7\n\n".as_bytes()
        );
    }

    #[test]
    fn the_id_of_a_frame_is_read_and_replaced() {
        let passed = "abcdefgh-7~17-0.18-1".parse::<Cursor>().unwrap().entries;
        let node = "abcdefgh".parse().unwrap();
        let frame = encode_event(&node, Position(7), &passed, None, b"x\nid: y");
        assert_eq!(frame, "data: x\ndata: id: y\nid: abcdefgh-7~17-0.18-1\n\n");
        let cursor = cursor_of(&frame).unwrap();
        assert_eq!((cursor.position, cursor.entries), (Position(7), passed));
        let other = "zzzzzzzz-9~17-1.18-1".parse().unwrap();
        assert_eq!(with_cursor(&frame, &other), "data: x\ndata: id: y\nid: zzzzzzzz-9~17-1.18-1\n\n");
        assert_eq!(cursor_of(b"data: x\n\n"), None);
    }

    #[test]
    fn a_gap_event_has_channels_and_reason() {
        let cursor = "abcdefgh-9".parse().unwrap();
        let channels = [ChannelName::new("cats").unwrap(), ChannelName::new("dogs").unwrap()];
        assert_eq!(
            encode_gap(&cursor, &channels, GapReason::Source),
            "event: ssecast.gap\ndata: {\"channels\":[\"cats\",\"dogs\"],\"reason\":\"source\"}\nid: abcdefgh-9\n\n"
        );
    }

    #[test]
    fn own_events_have_data_and_end_with_their_id() {
        let cursor = "abcdefgh-9".parse().unwrap();
        let retry = Duration::from_millis(1500);
        assert_eq!(encode_open(retry, &cursor), ":\nevent: ssecast.open\nretry: 1500\ndata: {}\nid: abcdefgh-9\n\n");
        assert_eq!(encode_ping(&cursor), "event: ssecast.ping\ndata: {}\nid: abcdefgh-9\n\n");
        let close = "event: ssecast.close\nretry: 1500\ndata: {}\nid: abcdefgh-9\n\n";
        assert_eq!(encode_close(retry, &cursor), close);
        assert_eq!(encode_retry(retry, Start::After(cursor)), format!(":\n{close}"));
        assert_eq!(encode_retry(retry, Start::Now), ":\nevent: ssecast.close\nretry: 1500\ndata: {}\n\n");
        assert_eq!(encode_retry(retry, Start::Unknown), ":\nretry: 1500\n");
    }
}
