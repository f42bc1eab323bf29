//! HTTP/1.1 (RFC 9112), as far as a test client needs it: encodes requests, and decodes responses from pieces of bytes.

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    method: &'static str,
    target: String,
    headers: Vec<(&'static str, Vec<u8>)>,
    body: Option<Vec<u8>>,
}

impl Request {
    pub(crate) fn new(method: &'static str, target: impl Into<String>) -> Self {
        Self { method, target: target.into(), headers: vec![("Host", b"localhost".to_vec())], body: None }
    }

    pub(crate) fn get(target: impl Into<String>) -> Self {
        Self::new("GET", target)
    }

    /// A POST of `body`, with `Connection: close`.
    pub(crate) fn post(target: impl Into<String>, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let request = Self::new("POST", target).header("Connection", "close");
        let request = if content_type.is_empty() { request } else { request.header("Content-Type", content_type) };
        Self { body: Some(body.into()), ..request }
    }

    /// Adds a body. The connection stays open.
    pub(crate) fn body(self, body: impl Into<Vec<u8>>) -> Self {
        Self { body: Some(body.into()), ..self }
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name, value.as_ref().to_vec()));
        self
    }

    /// Sets another `Host`.
    pub(crate) fn host(mut self, host: &str) -> Self {
        self.headers.retain(|(name, _)| *name != "Host");
        self.header("Host", host)
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        let mut put_header = |name: &str, value: &[u8]| {
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        };
        for (name, value) in &self.headers {
            put_header(name, value);
        }
        if let Some(body) = &self.body {
            put_header("Content-Length", body.len().to_string().as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        bytes
    }
}

/// The head of a response.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) version: String,
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
}

impl Head {
    fn parse(text: &str) -> Self {
        let mut lines = text.split("\r\n");
        let status_line = lines.next().unwrap();
        let mut words = status_line.splitn(3, ' ');
        let version = words.next().unwrap().to_owned();
        assert!(version.starts_with("HTTP/1."), "not a status line: {status_line:?}");
        let status = words.next().and_then(|word| word.parse().ok());
        let status = status.unwrap_or_else(|| panic!("not a status line: {status_line:?}"));
        let headers = lines
            .map(|line| line.split_once(':').unwrap_or_else(|| panic!("not a header line: {line:?}")))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Self { version, status, headers }
    }

    /// The value of a header. Panics if there are two: ssecast never sends a header twice.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let name = name.to_ascii_lowercase();
        let mut found = self.headers.iter().filter(|(header, _)| *header == name);
        let first = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "two headers {name:?}: {:?}", self.headers);
        first
    }
}

/// Decodes one response, given its bytes in pieces of any size.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    head: Option<Head>,
    framing: Framing,
    /// Bytes that are not decoded yet: part of the head, or of a chunk's size line.
    pending: Vec<u8>,
    /// Bytes that came after the response's end.
    pub(crate) surplus: usize,
}

/// What the next byte belongs to.
#[derive(Debug, Default, PartialEq)]
enum Framing {
    /// The body ends with the connection.
    #[default]
    UntilClose,
    /// This many bytes of the body are left.
    Length(usize),
    /// A chunk's size line comes next.
    ChunkSize,
    /// This many bytes of the chunk are left.
    Chunk(usize),
    /// The line end after a chunk.
    ChunkEnd,
    /// The empty line after the last chunk.
    LastLine,
    Complete,
}

impl Decoder {
    /// The head, if it is complete.
    pub(crate) fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    /// Whether the response is complete by its own framing.
    pub(crate) fn is_complete(&self) -> bool {
        self.head.is_some() && matches!(self.framing, Framing::Complete | Framing::Length(0))
    }

    /// How many bytes belong to this response for certain: the next read may take as many, and no byte of the next response.
    pub(crate) fn bytes_left(&self) -> usize {
        match (&self.head, &self.framing) {
            (Some(_), Framing::Length(left) | Framing::Chunk(left)) => (*left).max(1),
            _ => 1,
        }
    }

    /// Whether the response is complete if the connection ends here.
    pub(crate) fn is_complete_at_close(&self) -> bool {
        self.head.is_some() && (self.is_complete() || self.framing == Framing::UntilClose)
    }

    /// Decodes the next bytes of the connection, and adds those of the body to `body`.
    pub(crate) fn feed(&mut self, bytes: &[u8], body: &mut Vec<u8>) {
        let mut rest = bytes;
        if self.head.is_none() {
            self.pending.extend_from_slice(bytes);
            let Some(end) = memchr::memmem::find(&self.pending, b"\r\n\r\n") else { return };
            let received = std::mem::take(&mut self.pending);
            let head = Head::parse(std::str::from_utf8(&received[..end]).expect("a head is text"));
            // An interim response (100 Continue) is followed by the final one.
            if head.status < 200 {
                return self.feed(&received[end + 4..], body);
            }
            self.framing = Self::framing_of(&head);
            self.head = Some(head);
            rest = &bytes[bytes.len() - (received.len() - end - 4)..];
        }
        while !rest.is_empty() {
            rest = self.take(rest, body);
        }
    }

    fn framing_of(head: &Head) -> Framing {
        if head.header("transfer-encoding") == Some("chunked") {
            return Framing::ChunkSize;
        }
        match head.header("content-length") {
            Some(length) => Framing::Length(length.parse().unwrap()),
            None if head.status == 204 || head.status == 304 => Framing::Complete,
            None => Framing::UntilClose,
        }
    }

    /// Decodes some of `bytes`, and returns the rest.
    fn take<'a>(&mut self, bytes: &'a [u8], body: &mut Vec<u8>) -> &'a [u8] {
        match &mut self.framing {
            Framing::UntilClose => {
                body.extend_from_slice(bytes);
                &[]
            }
            Framing::Length(left) | Framing::Chunk(left) if *left > 0 => {
                let (now, rest) = bytes.split_at(bytes.len().min(*left));
                body.extend_from_slice(now);
                *left -= now.len();
                if self.framing == Framing::Chunk(0) {
                    self.framing = Framing::ChunkEnd;
                }
                rest
            }
            Framing::ChunkSize | Framing::ChunkEnd | Framing::LastLine => {
                let Some(end) = memchr::memchr(b'\n', bytes) else {
                    self.pending.extend_from_slice(bytes);
                    return &[];
                };
                self.pending.extend_from_slice(&bytes[..=end]);
                let line = std::mem::take(&mut self.pending);
                self.framing = self.after_line(std::str::from_utf8(&line).unwrap().trim_end_matches("\r\n"));
                &bytes[end + 1..]
            }
            _ => {
                self.surplus += bytes.len();
                &[]
            }
        }
    }

    fn after_line(&self, line: &str) -> Framing {
        if self.framing != Framing::ChunkSize {
            assert_eq!(line, "", "a chunk is followed by a line end");
            return if self.framing == Framing::ChunkEnd { Framing::ChunkSize } else { Framing::Complete };
        }
        match usize::from_str_radix(line, 16).unwrap_or_else(|_| panic!("not the size of a chunk: {line:?}")) {
            0 => Framing::LastLine,
            size => Framing::Chunk(size),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The body of `response`, given in pieces of `size` bytes, and whether it was complete.
    fn decode(response: &str, size: usize) -> (String, bool) {
        let (mut decoder, mut body) = (Decoder::default(), Vec::new());
        for piece in response.as_bytes().chunks(size) {
            decoder.feed(piece, &mut body);
        }
        (String::from_utf8(body).unwrap(), decoder.is_complete())
    }

    #[test]
    fn bodies_are_read_in_any_framing_and_in_any_pieces() {
        let chunked =
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n11\r\n, world, and all!\r\n0\r\n\r\n";
        let length = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
        let close = "HTTP/1.1 200 OK\r\n\r\nhello";
        for size in 1..=chunked.len() {
            assert_eq!(decode(chunked, size), ("hello, world, and all!".to_owned(), true));
            assert_eq!(decode(length, size), ("hello".to_owned(), true));
            assert_eq!(decode(close, size), ("hello".to_owned(), false));
        }
        assert!(!decode(&chunked[..chunked.len() - 2], 7).1, "the last line is missing");
    }

    #[test]
    fn an_interim_response_is_skipped() {
        let response = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n";
        for size in 1..=response.len() {
            assert_eq!(decode(response, size), (String::new(), true));
        }
    }
}
