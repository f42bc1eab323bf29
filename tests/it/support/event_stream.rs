//! A simple event-stream parser, written from the standard (WHATWG HTML 9.2.5 and 9.2.6). It reads byte by byte.

/// An event, as an event listener gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its type; `message` if the stream has none.
    pub(crate) kind: String,
    /// Bytes, so that a test can see what a decoder would replace.
    pub(crate) data: Vec<u8>,
    /// The last event id at the time of the event.
    pub(crate) id: String,
}

impl Event {
    /// The data as a browser decodes it.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.data).into_owned()
    }

    /// Whether it is one of ssecast's own events other than a gap: the begin or the end of a stream, or a ping.
    pub(crate) fn is_bookkeeping(&self) -> bool {
        matches!(self.kind.as_str(), "ssecast.open" | "ssecast.ping" | "ssecast.close")
    }
}

/// One connection's stream. What is incomplete when the connection ends is discarded by dropping the parser.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    /// The incomplete last line.
    line: Vec<u8>,
    /// Whether the last line ended with CR. A LF that follows belongs to the same line end.
    after_cr: bool,
    /// Whether the first line has been read: only it may begin with a byte order mark.
    begun: bool,
    data: Vec<u8>,
    kind: Vec<u8>,
    last_event_id: Vec<u8>,
    /// The last event ID, which a reconnect sends. Only a blank line sets it.
    pub(crate) committed_id: Option<String>,
    /// The reconnection time, in milliseconds.
    pub(crate) retry: Option<u64>,
    /// Comments seen.
    pub(crate) comments: usize,
    /// Pings seen.
    pub(crate) pings: usize,
}

impl Parser {
    /// Parses the next bytes, and adds the events that they complete to `events`.
    pub(crate) fn feed(&mut self, bytes: &[u8], events: &mut impl Extend<Event>) {
        for &byte in bytes {
            let ends_cr_lf = std::mem::replace(&mut self.after_cr, byte == b'\r') && byte == b'\n';
            match byte {
                b'\n' if ends_cr_lf => {}
                b'\n' | b'\r' => events.extend(self.end_line()),
                _ => self.line.push(byte),
            }
        }
    }

    fn end_line(&mut self) -> Option<Event> {
        let line = std::mem::take(&mut self.line);
        let line = match line.strip_prefix(b"\xef\xbb\xbf") {
            Some(rest) if !self.begun => rest,
            _ => &line,
        };
        self.begun = true;
        if line.is_empty() {
            return self.dispatch();
        }
        match line.iter().position(|&byte| byte == b':') {
            Some(0) => self.comments += 1,
            Some(colon) => {
                let value = &line[colon + 1..];
                self.process(&line[..colon], value.strip_prefix(b" ").unwrap_or(value));
            }
            None => self.process(line, b""),
        }
        None
    }

    fn process(&mut self, field: &[u8], value: &[u8]) {
        match field {
            b"event" => self.kind = value.to_vec(),
            b"data" => {
                self.data.extend_from_slice(value);
                self.data.push(b'\n');
            }
            b"id" if !value.contains(&0) => self.last_event_id = value.to_vec(),
            b"retry" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                self.retry = std::str::from_utf8(value).unwrap().parse().ok();
            }
            _ => {}
        }
    }

    fn dispatch(&mut self) -> Option<Event> {
        let id = String::from_utf8_lossy(&self.last_event_id).into_owned();
        self.committed_id = Some(id.clone());
        let kind = std::mem::take(&mut self.kind);
        let mut data = std::mem::take(&mut self.data);
        // Its last byte is the line feed after the last line.
        data.pop()?;
        let kind = if kind.is_empty() { "message".to_owned() } else { String::from_utf8_lossy(&kind).into_owned() };
        // Skip ssecast's own events other than gaps, as a page does that does not listen for them.
        match &*kind {
            "ssecast.ping" => self.pings += 1,
            "ssecast.open" | "ssecast.close" => {}
            _ => return Some(Event { kind, data, id }),
        }
        assert_eq!(data, b"{}", "{kind}");
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kind, data and id of each event, whatever the pieces the stream comes in.
    fn parse(stream: &[u8]) -> (Vec<(String, String, String)>, Parser) {
        let in_pieces = |size: usize| {
            let (mut parser, mut events) = (Parser::default(), Vec::new());
            for piece in stream.chunks(size) {
                parser.feed(piece, &mut events);
            }
            (events, parser)
        };
        let (events, parser) = in_pieces(stream.len().max(1));
        for size in 1..stream.len() {
            assert_eq!(in_pieces(size).0, events, "in pieces of {size}");
        }
        (events.into_iter().map(|event| (event.kind.clone(), event.text(), event.id)).collect(), parser)
    }

    fn data(stream: &[u8]) -> Vec<String> {
        parse(stream).0.into_iter().map(|(_, data, _)| data).collect()
    }

    #[test]
    fn the_examples_of_the_standard_are_parsed() {
        assert_eq!(data(b"data: YHOO\ndata: +2\ndata: 10\n\n"), ["YHOO\n+2\n10"]);
        let (events, parser) =
            parse(b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n");
        let expected = [("message", "first event", "1"), ("message", "second event", "")];
        assert_eq!(events, expected.map(|(kind, data, id)| (kind.into(), data.into(), id.into())));
        assert_eq!((parser.committed_id.as_deref(), parser.comments), (Some(""), 1));
        assert_eq!(data(b"data\n\ndata\ndata\n\ndata:"), ["", "\n"]);
        assert_eq!(data(b"data:test\n\ndata: test\n\n"), ["test", "test"]);
    }

    #[test]
    fn lines_end_with_cr_lf_cr_or_lf() {
        assert_eq!(
            data(b"data: a\r\ndata: b\rdata: c\ndata: d\r\n\r\ndata: e\r\rdata: f\n\n"),
            ["a\nb\nc\nd", "e", "f"]
        );
        assert_eq!(data(b"data: a\n\r\n"), ["a"]);
    }

    #[test]
    fn a_byte_order_mark_is_skipped_at_the_beginning_only() {
        assert_eq!(data(b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n"), ["a"]);
        assert_eq!(data(b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n"), [""; 0]);
    }

    #[test]
    fn an_id_with_nul_and_a_retry_that_is_no_number_are_ignored() {
        let (events, parser) =
            parse(b"id: 1\nid: 2\0\nretry: 10\nretry: 1s\nretry: -1\nretry:\nunknown: x\ndata: a\n\n");
        assert_eq!(events, [("message".into(), "a".into(), "1".into())]);
        assert_eq!(parser.retry, Some(10));
    }

    #[test]
    fn an_id_counts_only_after_its_blank_line() {
        let (events, parser) = parse(b"id: 1\n\nid: 2\ndata: half");
        assert_eq!((events.len(), parser.committed_id.as_deref()), (0, Some("1")));
        let (events, parser) = parse(b"event: price\nid: 1\n\ndata: a\n\n");
        assert_eq!(events, [("message".into(), "a".into(), "1".into())], "a type without data is forgotten");
        assert_eq!(parser.committed_id.as_deref(), Some("1"));
    }
}
