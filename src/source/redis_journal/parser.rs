//! Parses the replies of XREAD from a connection's bytes as they arrive, field by field. It does no I/O, and makes no messages.
//!
//! The client library takes ten allocations to read an entry, more than all later steps together. A reply of XREAD has one
//! fixed form, in RESP2 and in RESP3, so it is parsed here, and no reply has to be in memory as a whole.

use std::fmt;

use bytes::{Buf as _, BytesMut};

/// Longest line that begins an element.
const MAX_LINE_BYTES: usize = 64 << 10;

/// Takes the entries of a reply, in order.
pub(super) trait Visitor {
    /// The entries that follow are those of this stream.
    fn stream(&mut self, key: &[u8]);
    /// An entry begins.
    fn entry(&mut self, id: &[u8]);
    /// A field of the entry. `Err`: its value is longer than the parser takes; the number of its bytes.
    fn field(&mut self, name: &[u8], value: Result<&[u8], usize>);
    /// The entry ends.
    fn end(&mut self);
}

/// What a reply is, once it has come to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    /// Entries, which the visitor has taken.
    Entries,
    /// There are no entries.
    Empty,
    /// Redis's error, with its code.
    Error(String),
}

/// The bytes are no reply of XREAD.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Redis sent what is no answer to XREAD")]
pub(super) struct Malformed;

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// A reply.
    Reply,
    /// The pair of a stream's key and its entries (RESP2).
    Stream,
    /// A stream's key.
    Key,
    /// The list of a stream's entries.
    Entries,
    /// The pair of an entry's id and its fields.
    Entry,
    /// An entry's id.
    Id,
    /// The list of an entry's fields.
    Fields,
    /// A field's name.
    Name,
    /// A field's value.
    Value,
}

/// See the module.
pub(super) struct Parser {
    expected: Expected,
    /// Whether the reply is a map (RESP3).
    is_map: bool,
    /// Streams, entries and fields that are still to come.
    streams: usize,
    entries: usize,
    fields: usize,
    /// The name of the field whose value comes next.
    name: Vec<u8>,
    /// Most bytes of a text. A longer one is skipped.
    longest: usize,
    /// Bytes still to be skipped.
    skip: usize,
}

/// An element of RESP. A list or a map comes without its content.
enum Element<'b> {
    List(usize),
    Map(usize),
    Text(&'b [u8]),
    /// The content of a text that is too long follows, with its line end.
    Long(usize),
    Null,
    Error(&'b [u8]),
}

impl Parser {
    /// A parser that skips fields whose values are longer than `longest` bytes.
    pub(super) fn new(longest: usize) -> Self {
        Self {
            expected: Expected::Reply,
            is_map: false,
            streams: 0,
            entries: 0,
            fields: 0,
            name: Vec::new(),
            longest,
            skip: 0,
        }
    }

    /// Parses as much of `bytes` as there is, and removes it. Returns the reply at its end; `None`: more bytes are needed.
    pub(super) fn parse(
        &mut self,
        bytes: &mut BytesMut,
        visitor: &mut impl Visitor,
    ) -> Result<Option<Reply>, Malformed> {
        let mut at = 0;
        let mut reply = None;
        while reply.is_none() {
            let skipped = self.skip.min(bytes.len() - at);
            (self.skip, at) = (self.skip - skipped, at + skipped);
            if self.skip > 0 {
                break;
            }
            // A list may end without another element.
            reply = self.ended();
            if reply.is_some() {
                break;
            }
            let Some((element, length)) = element(&bytes[at..], self.longest)? else { break };
            reply = self.take(element, visitor)?;
            at += length;
        }
        bytes.advance(at);
        Ok(reply)
    }

    /// Ends lists of which nothing is left. Returns the reply if it has ended.
    fn ended(&mut self) -> Option<Reply> {
        if self.expected == Expected::Entry && self.entries == 0 {
            self.streams -= 1;
            self.expected = if self.is_map { Expected::Key } else { Expected::Stream };
        }
        if matches!(self.expected, Expected::Key | Expected::Stream) && self.streams == 0 {
            self.expected = Expected::Reply;
            return Some(Reply::Entries);
        }
        None
    }

    fn take(&mut self, element: Element<'_>, visitor: &mut impl Visitor) -> Result<Option<Reply>, Malformed> {
        self.expected = match (self.expected, element) {
            (Expected::Reply, Element::Null) => return Ok(Some(Reply::Empty)),
            (Expected::Reply, Element::Error(text)) => {
                return Ok(Some(Reply::Error(String::from_utf8_lossy(text).into_owned())));
            }
            (Expected::Reply, Element::List(streams)) => {
                (self.is_map, self.streams) = (false, streams);
                Expected::Stream
            }
            (Expected::Reply, Element::Map(streams)) => {
                (self.is_map, self.streams) = (true, streams);
                Expected::Key
            }
            (Expected::Stream, Element::List(2)) => Expected::Key,
            (Expected::Key, Element::Text(key)) => {
                visitor.stream(key);
                Expected::Entries
            }
            (Expected::Entries, Element::List(entries)) => {
                self.entries = entries;
                Expected::Entry
            }
            (Expected::Entry, Element::List(2)) => Expected::Id,
            (Expected::Id, Element::Text(id)) => {
                visitor.entry(id);
                Expected::Fields
            }
            (Expected::Fields, Element::List(texts)) if texts % 2 == 0 => {
                self.fields = texts / 2;
                self.next_field(visitor)
            }
            (Expected::Name, Element::Text(name)) => {
                self.name.clear();
                self.name.extend_from_slice(name);
                Expected::Value
            }
            // No field with such a name is known.
            (Expected::Name, Element::Long(bytes)) => {
                self.name.clear();
                self.skip = bytes + 2;
                Expected::Value
            }
            (Expected::Value, Element::Text(value)) => {
                visitor.field(&self.name, Ok(value));
                self.fields -= 1;
                self.next_field(visitor)
            }
            (Expected::Value, Element::Long(bytes)) => {
                visitor.field(&self.name, Err(bytes));
                self.skip = bytes + 2;
                self.fields -= 1;
                self.next_field(visitor)
            }
            _ => return Err(Malformed),
        };
        Ok(None)
    }

    fn next_field(&mut self, visitor: &mut impl Visitor) -> Expected {
        if self.fields > 0 {
            return Expected::Name;
        }
        visitor.end();
        self.entries -= 1;
        Expected::Entry
    }
}

/// The first element of `bytes`, and its length; `None`: it has not come as a whole.
fn element(bytes: &[u8], longest: usize) -> Result<Option<(Element<'_>, usize)>, Malformed> {
    let Some(end) = memchr::memchr(b'\n', &bytes[..bytes.len().min(MAX_LINE_BYTES)]) else {
        return if bytes.len() < MAX_LINE_BYTES { Ok(None) } else { Err(Malformed) };
    };
    let line = bytes[..end].strip_suffix(b"\r").ok_or(Malformed)?;
    let (&kind, rest) = line.split_first().ok_or(Malformed)?;
    let head = end + 1;
    let element = match kind {
        b'*' => count(rest)?.map_or(Element::Null, Element::List),
        b'%' => count(rest)?.map_or(Element::Null, Element::Map),
        b'_' => Element::Null,
        b'-' => Element::Error(rest),
        b'$' => match count(rest)? {
            None => Element::Null,
            Some(length) if length > longest => Element::Long(length),
            Some(length) => {
                let Some(text) = bytes.get(head..head + length + 2) else { return Ok(None) };
                return Ok(Some((Element::Text(&text[..length]), head + length + 2)));
            }
        },
        _ => return Err(Malformed),
    };
    Ok(Some((element, head)))
}

/// A number; `None` for -1, which stands for null.
fn count(digits: &[u8]) -> Result<Option<usize>, Malformed> {
    if digits == b"-1" {
        return Ok(None);
    }
    if digits.is_empty() || digits.len() > 15 {
        return Err(Malformed);
    }
    digits
        .iter()
        .try_fold(0, |number: usize, digit| match digit {
            b'0'..=b'9' => Ok(number * 10 + usize::from(digit - b'0')),
            _ => Err(Malformed),
        })
        .map(Some)
}

impl fmt::Debug for Parser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parser").field("expected", &self.expected).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Fields = Vec<(Vec<u8>, Vec<u8>)>;
    type Streams = Vec<(Vec<u8>, Vec<(Vec<u8>, Fields)>)>;

    #[derive(Debug, Default, PartialEq, Eq)]
    struct Recorder(Streams);

    impl Visitor for Recorder {
        fn stream(&mut self, key: &[u8]) {
            self.0.push((key.to_vec(), Vec::new()));
        }

        fn entry(&mut self, id: &[u8]) {
            self.0.last_mut().unwrap().1.push((id.to_vec(), Vec::new()));
        }

        fn field(&mut self, name: &[u8], value: Result<&[u8], usize>) {
            let value = value.map_or_else(|bytes| format!("{bytes} bytes").into_bytes(), <[u8]>::to_vec);
            self.0.last_mut().unwrap().1.last_mut().unwrap().1.push((name.to_vec(), value));
        }

        fn end(&mut self) {}
    }

    fn text(out: &mut Vec<u8>, text: &[u8]) {
        out.extend_from_slice(format!("${}\r\n", text.len()).as_bytes());
        out.extend_from_slice(text);
        out.extend_from_slice(b"\r\n");
    }

    fn reply(streams: &Streams, is_map: bool) -> Vec<u8> {
        let mut out = format!("{}{}\r\n", if is_map { '%' } else { '*' }, streams.len()).into_bytes();
        for (key, entries) in streams {
            if !is_map {
                out.extend_from_slice(b"*2\r\n");
            }
            text(&mut out, key);
            out.extend_from_slice(format!("*{}\r\n", entries.len()).as_bytes());
            for (id, fields) in entries {
                out.extend_from_slice(b"*2\r\n");
                text(&mut out, id);
                out.extend_from_slice(format!("*{}\r\n", fields.len() * 2).as_bytes());
                for (name, value) in fields {
                    text(&mut out, name);
                    text(&mut out, value);
                }
            }
        }
        out
    }

    /// Parses replies that come in pieces of `size` bytes.
    fn in_pieces(all: &[u8], size: usize, longest: usize) -> Result<(Vec<Reply>, Streams), Malformed> {
        let (mut parser, mut recorder) = (Parser::new(longest), Recorder::default());
        let (mut bytes, mut replies) = (BytesMut::new(), Vec::new());
        for piece in all.chunks(size) {
            bytes.extend_from_slice(piece);
            while let Some(reply) = parser.parse(&mut bytes, &mut recorder)? {
                replies.push(reply);
            }
        }
        assert!(bytes.is_empty(), "{bytes:?}");
        Ok((replies, recorder.0))
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'$'), any::<u8>()], 0..30)
    }

    fn streams() -> impl Strategy<Value = Streams> {
        let entry = (bytes(), prop::collection::vec((bytes(), bytes()), 0..4));
        prop::collection::vec((bytes(), prop::collection::vec(entry, 0..4)), 1..4)
    }

    proptest! {
        #[test]
        fn a_reply_is_parsed_alike_however_it_is_cut(streams in streams(), is_map: bool, size in 1_usize..40) {
            let mut all = reply(&streams, is_map);
            all.extend_from_slice(b"*-1\r\n_\r\n-NOPERM no\r\n");
            let (replies, parsed) = in_pieces(&all, size, 1000).unwrap();
            prop_assert_eq!(parsed, streams);
            let error = Reply::Error("NOPERM no".to_owned());
            prop_assert_eq!(replies, [Reply::Entries, Reply::Empty, Reply::Empty, error]);
        }

        #[test]
        fn no_bytes_make_it_panic(all in bytes(), size in 1_usize..10) {
            let (mut parser, mut recorder) = (Parser::new(10), Recorder::default());
            let mut bytes = BytesMut::new();
            for piece in all.chunks(size) {
                bytes.extend_from_slice(piece);
                while let Ok(Some(_)) = parser.parse(&mut bytes, &mut recorder) {}
            }
        }
    }

    #[test]
    fn a_value_that_is_too_long_is_skipped_and_the_next_one_is_read() {
        let long = vec![b'x'; 500];
        let fields = |value: &[u8]| vec![(b"channel".to_vec(), b"a".to_vec()), (b"data".to_vec(), value.to_vec())];
        let streams = vec![(b"k".to_vec(), vec![(b"1-0".to_vec(), fields(&long)), (b"2-0".to_vec(), fields(b"y"))])];
        for size in [1, 7, 64, 10_000] {
            let (replies, parsed) = in_pieces(&reply(&streams, true), size, 100).unwrap();
            assert_eq!(replies, [Reply::Entries]);
            assert_eq!(parsed[0].1[0].1, fields(b"500 bytes"));
            assert_eq!(parsed[0].1[1].1, fields(b"y"));
        }
    }

    #[test]
    fn what_is_no_reply_is_an_error() {
        for bad in ["+OK\r\n", "*1\r\n:1\r\n", "*x\r\n", "\r\n", "%1\r\n$1\r\nk\r\n*1\r\n*3\r\n", "*1\n"] {
            assert_eq!(in_pieces(bad.as_bytes(), 100, 100), Err(Malformed), "{bad:?}");
        }
    }
}
