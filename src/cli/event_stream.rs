//! Parses an event stream as a browser does (WHATWG HTML 9.2.6), from chunks of bytes that may be cut anywhere. No I/O.
//!
//! Payloads stay bytes: the caller decodes them.

use std::time::Duration;

/// One event, as an event listener would receive it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamEvent {
    /// The last event id as of this event.
    pub id: Vec<u8>,
    /// Its type. Empty stands for a browser's `message`.
    pub event: Vec<u8>,
    /// The payload, lines joined by LF.
    pub data: Vec<u8>,
}

/// The state of a stream between two chunks.
#[derive(Debug, Clone, Default)]
pub struct EventStream {
    /// The incomplete last line.
    line: Vec<u8>,
    /// Whether the last byte was a CR. A LF that follows belongs to the same line end.
    after_cr: bool,
    /// Whether the first line was read: only it may begin with a byte order mark.
    begun: bool,
    event: Vec<u8>,
    data: Vec<u8>,
    /// The last `id:` field, also of an incomplete event. It is the id of all later events until the next `id:`.
    id: Vec<u8>,
    last_event_id: Vec<u8>,
    retry: Option<Duration>,
}

impl EventStream {
    /// A stream that resumes after `last_event_id`; empty for a new stream.
    #[must_use]
    pub fn resume(last_event_id: &[u8]) -> Self {
        Self { id: last_event_id.to_vec(), last_event_id: last_event_id.to_vec(), ..Self::default() }
    }

    /// Drops the incomplete event of a connection that has ended. The last event id and `retry` are kept.
    pub fn reconnect(&mut self) {
        *self = Self { retry: self.retry, ..Self::resume(&self.last_event_id) };
    }

    /// What to send as `Last-Event-ID` when reconnecting; empty for no header.
    #[must_use]
    pub fn last_event_id(&self) -> &[u8] {
        &self.last_event_id
    }

    /// The last `retry:` of the stream: how long to wait before reconnecting.
    #[must_use]
    pub fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// Parses the next bytes. Returns the events that they complete.
    pub fn feed(&mut self, mut chunk: &[u8]) -> Vec<StreamEvent> {
        let mut events = Vec::new();
        while !chunk.is_empty() {
            if std::mem::take(&mut self.after_cr) && chunk[0] == b'\n' {
                chunk = &chunk[1..];
                continue;
            }
            let Some(end) = memchr::memchr2(b'\r', b'\n', chunk) else {
                self.line.extend_from_slice(chunk);
                break;
            };
            self.line.extend_from_slice(&chunk[..end]);
            self.after_cr = chunk[end] == b'\r';
            chunk = &chunk[end + 1..];
            let mut line = std::mem::take(&mut self.line);
            events.extend(self.take_line(&line));
            // Reuse the allocation.
            line.clear();
            self.line = line;
        }
        events
    }

    fn take_line(&mut self, line: &[u8]) -> Option<StreamEvent> {
        let line = if std::mem::replace(&mut self.begun, true) {
            line
        } else {
            line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line)
        };
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = match memchr::memchr(b':', line) {
            // A comment.
            Some(0) => return None,
            Some(colon) => {
                let value = &line[colon + 1..];
                (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
            }
            None => (line, &b""[..]),
        };
        match field {
            b"event" => self.event = value.to_vec(),
            b"data" => {
                self.data.extend_from_slice(value);
                self.data.push(b'\n');
            }
            b"id" if !value.contains(&0) => self.id = value.to_vec(),
            b"retry" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                let millis = std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok());
                self.retry = millis.map(Duration::from_millis).or(self.retry);
            }
            _ => {}
        }
        None
    }

    fn dispatch(&mut self) -> Option<StreamEvent> {
        self.last_event_id.clone_from(&self.id);
        let event = std::mem::take(&mut self.event);
        let mut data = std::mem::take(&mut self.data);
        // Remove the LF after the last line. Without a `data:` line there is no event.
        data.pop()?;
        Some(StreamEvent { id: self.last_event_id.clone(), event, data })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(stream: &str) -> Vec<(String, String, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let events = EventStream::default().feed(stream.as_bytes());
        events.iter().map(|event| (text(&event.id), text(&event.event), text(&event.data))).collect()
    }

    fn event(id: &str, event: &str, data: &str) -> (String, String, String) {
        (id.into(), event.into(), data.into())
    }

    /// The standard's examples and their results.
    #[test]
    fn parses_the_examples_of_the_standard() {
        for (stream, events) in [
            ("data: YHOO\ndata: +2\ndata: 10\n\n", vec![event("", "", "YHOO\n+2\n10")]),
            (
                ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
                vec![event("1", "", "first event"), event("", "", "second event"), event("", "", " third event")],
            ),
            ("data\n\ndata\ndata\n\ndata:", vec![event("", "", ""), event("", "", "\n")]),
            ("data:test\n\ndata: test\n\n", vec![event("", "", "test"), event("", "", "test")]),
            (
                "\u{feff}data: x\r\n\r\ndata: y\r\rdata: z\n\n",
                vec![event("", "", "x"), event("", "", "y"), event("", "", "z")],
            ),
            ("id: 1\nevent: add\ndata: a\n\ndata: b\n\n", vec![event("1", "add", "a"), event("1", "", "b")]),
            ("event: lost\n\ndata: b\n\n", vec![event("", "", "b")]),
            ("id: 1\ndata: a\n\nid: 2\0\ndata: b\n\n", vec![event("1", "", "a"), event("1", "", "b")]),
            ("Data: a\n data: b\nother: c\n\n", vec![]),
            ("data: a:b\n\n", vec![event("", "", "a:b")]),
            ("data: never ended\n", vec![]),
        ] {
            assert_eq!(read(stream), events, "{stream:?}");
        }
    }

    #[test]
    fn an_id_without_data_counts_and_an_incomplete_one_does_not() {
        let mut stream = EventStream::resume(b"old");
        assert_eq!(stream.last_event_id(), b"old");
        assert!(stream.feed(b"retry: 1500\nid: new\n\nid: cut\n").is_empty());
        assert_eq!(stream.last_event_id(), b"new");
        assert_eq!(stream.retry(), Some(Duration::from_millis(1500)));
        stream.feed(b"retry: 1s\nretry:\nretry: 99999999999999999999999\n");
        assert_eq!(stream.retry(), Some(Duration::from_millis(1500)));
    }

    proptest! {
        #[test]
        fn chunk_boundaries_do_not_change_the_events(
            bytes in proptest::collection::vec(prop::sample::select(b"\r\n\n: abdeintv\xef\xbb\xbf".to_vec()), 0..60)
                .prop_map(|noise| [b"data: x\r\n".to_vec(), noise, b"\n\nid: 7\r\rdata: y\r\n\r\n".to_vec()].concat()),
            cuts in proptest::collection::vec(1usize..9, 1..20),
        ) {
            let mut whole = EventStream::default();
            let expected = whole.feed(&bytes);
            let mut pieces = EventStream::default();
            let mut events = Vec::new();
            let mut rest = &bytes[..];
            for cut in cuts.iter().cycle() {
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                events.extend(pieces.feed(piece));
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(events, expected);
            prop_assert_eq!(pieces.last_event_id(), whole.last_event_id());
        }
    }
}
