//! Parses the response of one client: bytes in, `data:` lines out. Reads may cut the bytes anywhere. No I/O.
//!
//! It parses as much of HTTP/1.1 and of event streams as a load generator needs, and keeps only the incomplete last line. It must be
//! cheap, since thousands of clients share the machine with the server: it does not allocate for complete lines.

use memchr::memchr;

/// Most bytes kept of an incomplete line. The rest of a longer line is dropped: a stamp is at the beginning.
const MAX_KEPT_LINE: usize = 256;

/// What a client has read.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen<'a> {
    /// The response's head, with its status.
    Head(u16),
    /// A `data:` line's value.
    Data(&'a [u8]),
    /// The last chunk of a chunked body: the stream has ended.
    End,
}

/// Where in its response a client is.
#[derive(Debug)]
pub struct Parser {
    stage: Stage,
    /// Whether the event that is being read is the server's own: its data is nothing that was published.
    own: bool,
    line: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Head { status: u16, chunked: bool },
    Plain,
    ChunkSize { size: u32, digits: bool, extension: bool },
    Chunk { left: u32 },
    Ended,
}

const NEXT_CHUNK: Stage = Stage::ChunkSize { size: 0, digits: false, extension: false };

impl Default for Parser {
    fn default() -> Self {
        Self { stage: Stage::Head { status: 0, chunked: false }, own: false, line: Vec::new() }
    }
}

impl Parser {
    /// Parses the next bytes, and calls `seen` with what it finds.
    pub fn feed(&mut self, mut bytes: &[u8], seen: &mut impl FnMut(Seen<'_>)) {
        while !bytes.is_empty() {
            match self.stage {
                Stage::Head { .. } => bytes = self.head(bytes, seen),
                Stage::Plain => return self.body(bytes, seen),
                Stage::ChunkSize { .. } => bytes = self.chunk_size(bytes, seen),
                Stage::Chunk { left } => {
                    let (chunk, rest) = bytes.split_at((left as usize).min(bytes.len()));
                    self.body(chunk, seen);
                    // The chunk is not longer than `left`.
                    let left = left - chunk.len() as u32;
                    self.stage = if left == 0 { NEXT_CHUNK } else { Stage::Chunk { left } };
                    bytes = rest;
                }
                Stage::Ended => return,
            }
        }
    }

    /// Reads one line of the head. Returns the bytes after it.
    fn head<'a>(&mut self, bytes: &'a [u8], seen: &mut impl FnMut(Seen<'_>)) -> &'a [u8] {
        let Stage::Head { mut status, mut chunked } = self.stage else { return bytes };
        let Some(end) = memchr(b'\n', bytes) else {
            self.keep(bytes);
            return b"";
        };
        self.keep(&bytes[..end]);
        let line = self.line.trim_ascii_end();
        let whole = line.is_empty();
        if status == 0 {
            // `HTTP/1.1 200 OK`
            let code = line.split(|&byte| byte == b' ').nth(1).and_then(|code| std::str::from_utf8(code).ok());
            status = code.and_then(|code| code.parse().ok()).unwrap_or(999);
        } else if line.eq_ignore_ascii_case(b"transfer-encoding: chunked") {
            chunked = true;
        }
        self.line = Vec::new();
        self.stage = match (whole, chunked) {
            (false, _) => Stage::Head { status, chunked },
            (true, true) => NEXT_CHUNK,
            (true, false) => Stage::Plain,
        };
        if whole {
            seen(Seen::Head(status));
        }
        &bytes[end + 1..]
    }

    /// Reads a chunk's size (RFC 9112, 7.1) and the line end before it. Returns the bytes after it.
    fn chunk_size<'a>(&mut self, bytes: &'a [u8], seen: &mut impl FnMut(Seen<'_>)) -> &'a [u8] {
        let Stage::ChunkSize { mut size, mut digits, mut extension } = self.stage else { return bytes };
        for (at, &byte) in bytes.iter().enumerate() {
            match (byte as char).to_digit(16) {
                _ if byte == b'\n' && digits => {
                    self.stage = if size == 0 { Stage::Ended } else { Stage::Chunk { left: size } };
                    if size == 0 {
                        seen(Seen::End);
                    }
                    return &bytes[at + 1..];
                }
                Some(digit) if !extension => {
                    size = size.wrapping_shl(4) | digit;
                    digits = true;
                }
                _ => extension |= byte == b';',
            }
        }
        self.stage = Stage::ChunkSize { size, digits, extension };
        b""
    }

    /// Reads lines of the event stream.
    fn body(&mut self, mut bytes: &[u8], seen: &mut impl FnMut(Seen<'_>)) {
        if !self.line.is_empty() {
            let Some(end) = memchr(b'\n', bytes) else { return self.keep(bytes) };
            self.keep(&bytes[..end]);
            line(&self.line, &mut self.own, seen);
            self.line.clear();
            bytes = &bytes[end + 1..];
        }
        while let Some(end) = memchr(b'\n', bytes) {
            line(&bytes[..end], &mut self.own, seen);
            bytes = &bytes[end + 1..];
        }
        self.keep(bytes);
    }

    fn keep(&mut self, bytes: &[u8]) {
        let free = MAX_KEPT_LINE.saturating_sub(self.line.len());
        self.line.extend_from_slice(&bytes[..bytes.len().min(free)]);
    }
}

fn line(line: &[u8], own: &mut bool, seen: &mut impl FnMut(Seen<'_>)) {
    if let Some(data) = line.strip_prefix(b"data:") {
        if !*own {
            seen(Seen::Data(data.strip_prefix(b" ").unwrap_or(data)));
        }
    } else if line.is_empty() {
        *own = false;
    } else if line.starts_with(b"event: ssecast.") {
        *own = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n\
        :\nevent: ssecast.open\nretry: 1000\ndata: {}\nid: a-1\n\ndata: one\nid: a-2\n\n:\n\ndata:two\n\n";
    const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n\
        1c\r\nid: a-2\ndata: one\n\n:\n\ndata:t\r\nA;x=feed\nwo\n\n: ping\r\n0\r\n\r\n";

    /// What is seen of `bytes`, read in pieces of `step`.
    fn read(bytes: &[u8], step: usize) -> Vec<String> {
        let mut parser = Parser::default();
        let mut all = Vec::new();
        for piece in bytes.chunks(step) {
            parser.feed(piece, &mut |seen| {
                all.push(match seen {
                    Seen::Head(status) => status.to_string(),
                    Seen::Data(data) => String::from_utf8_lossy(data).into_owned(),
                    Seen::End => "end".to_owned(),
                });
            });
        }
        all
    }

    #[test]
    fn lines_are_complete_wherever_reads_cut_them() {
        for step in 1..PLAIN.len() {
            assert_eq!(read(PLAIN, step), ["200", "one", "two"], "in pieces of {step}");
        }
    }

    #[test]
    fn chunks_are_decoded_wherever_reads_cut_them() {
        for step in 1..CHUNKED.len() {
            assert_eq!(read(CHUNKED, step), ["200", "one", "two", "end"], "in pieces of {step}");
        }
    }

    #[test]
    fn a_long_line_is_not_kept_whole() {
        let mut parser = Parser::default();
        parser.feed(b"HTTP/1.1 503 No\r\n\r\ndata: ", &mut |_| ());
        for _ in 0..1000 {
            parser.feed(b"xxxxxxxxxx", &mut |_| ());
        }
        assert_eq!(parser.line.len(), MAX_KEPT_LINE);
    }
}
