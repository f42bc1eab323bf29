//! Gzip streams (RFC 1952) put together from pieces that many clients share: bytes only, no sockets.
//!
//! Deflate (RFC 1951) reaches back into what the client has inflated so far, which would make the bytes of each client its
//! own. So a piece reaches back into nothing, or into exactly one piece that its client has inflated just before: then all
//! such clients get the same bytes, and one deflating serves them all. Each piece ends on a whole byte.
//!
//! A stream ends without the last block, checksum and length that the format has at its end: a stream may break off at any time, and
//! clients that were tried (Chromium, Firefox, npm eventsource, Node's fetch, curl) give what has come and, where they reconnect, do so.

use std::sync::OnceLock;

use bytes::{BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, FlushCompress};

/// What a stream begins with: deflate, no time, no name, made on Unix.
pub const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
/// Most bytes in a stored block.
const STORED: usize = 0xffff;
/// As far as deflate reaches back.
const WINDOW: usize = 32 << 10;
/// More takes longer and gains next to nothing on what looks back at one piece.
const LEVEL: u32 = 6;

/// Deflates pieces one at a time, each by itself. Its 300 KiB are there from the first piece on.
#[derive(Default)]
pub struct Deflater(Option<Compress>);

impl Deflater {
    /// Deflates `text` for clients that have inflated `before` immediately before it, which may be empty: then for all.
    pub fn deflate(&mut self, text: &[u8], before: &[u8]) -> Bytes {
        let compress = self.0.get_or_insert_with(|| Compress::new(Compression::new(LEVEL), false));
        compress.reset();
        let before = &before[before.len().saturating_sub(WINDOW)..];
        if !before.is_empty() && compress.set_dictionary(before).is_err() {
            return store(text);
        }
        // What can't be deflated is stored, with 5 bytes for each block of a few KiB.
        let mut deflated = Vec::with_capacity(text.len() + text.len() / 1000 + 64);
        loop {
            let read = usize::try_from(compress.total_in()).unwrap_or(usize::MAX);
            let rest = text.get(read..).unwrap_or_default();
            if compress.compress_vec(rest, &mut deflated, FlushCompress::Sync).is_err() {
                return store(text);
            }
            if deflated.len() < deflated.capacity() {
                break; // All is out where room is left.
            }
            deflated.reserve(text.len() / 2 + 64);
        }
        if deflated.len() > text.len() + text.len().div_ceil(STORED) * 5 {
            return store(text);
        }
        deflated.shrink_to_fit(); // It is kept as long as its event.
        deflated.into()
    }
}

/// `text` as it is, for what is too small to be deflated.
#[must_use]
pub fn store(text: &[u8]) -> Bytes {
    let mut stored = BytesMut::with_capacity(text.len() + 5 + text.len() / STORED * 5);
    for block in text.chunks(STORED) {
        let length = u16::try_from(block.len()).unwrap_or(u16::MAX);
        stored.put_u8(0);
        stored.put_u16_le(length);
        stored.put_u16_le(!length);
        stored.put_slice(block);
    }
    stored.freeze()
}

/// An event's frame as gzip clients get it, made when the first of them asks for it.
#[derive(Debug, Default)]
pub struct Piece {
    /// For whoever comes, whatever it has inflated before.
    alone: OnceLock<Bytes>,
    /// For those who have just inflated the piece of that number, which is smaller.
    after: OnceLock<(u64, Bytes)>,
}

impl Piece {
    /// What its bytes take by now.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.alone.get().map_or(0, Bytes::len) + self.after.get().map_or(0, |(_, bytes)| bytes.len())
    }

    /// Its bytes for a client that has just inflated `before`, a number and a text; with `None`, for any client.
    pub fn bytes(&self, frame: &[u8], before: Option<(u64, &[u8])>, deflater: &mut Deflater) -> &Bytes {
        if let Some((number, text)) = before {
            let (known, bytes) = self.after.get_or_init(|| (number, deflater.deflate(frame, text)));
            if *known == number {
                return bytes;
            }
            // Others come after something else: clients of more channels than this one.
        }
        self.alone.get_or_init(|| deflater.deflate(frame, &[]))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::write::GzDecoder;
    use proptest::prelude::*;

    use super::*;

    /// What a client has of a stream that goes on.
    fn inflate(stream: &[u8]) -> Vec<u8> {
        let mut inflater = GzDecoder::new(Vec::new());
        inflater.write_all(stream).unwrap();
        inflater.flush().unwrap();
        std::mem::take(inflater.get_mut())
    }

    fn text(seed: u8, length: usize) -> Vec<u8> {
        (0..length).map(|at| if at % 7 < 5 { b"abcde"[at % 5] } else { seed.wrapping_mul(at as u8) }).collect()
    }

    proptest! {
        #[test]
        fn a_stream_of_pieces_is_what_was_put_in(
            pieces in prop::collection::vec((any::<u8>(), 0_usize..3000, 0_u8..3), 0..20),
        ) {
            let mut deflater = Deflater::default();
            let (mut stream, mut all) = (HEADER.to_vec(), Vec::new());
            let mut before: Option<(u64, Vec<u8>)> = None;
            for (number, (seed, length, how)) in pieces.into_iter().enumerate() {
                let text = text(seed, length);
                let piece = Piece::default();
                if how == 0 {
                    stream.extend_from_slice(&store(&text));
                } else {
                    let before = before.as_ref().filter(|_| how == 1).map(|(number, text)| (*number, &text[..]));
                    stream.extend_from_slice(piece.bytes(&text, before, &mut deflater));
                }
                all.extend_from_slice(&text);
                before = Some((number as u64, text));
            }
            prop_assert_eq!(inflate(&stream), all);
        }
    }

    #[test]
    fn who_comes_after_something_else_gets_a_piece_of_its_own() {
        let (mut deflater, frame) = (Deflater::default(), text(7, 1000));
        let piece = Piece::default();
        let after = piece.bytes(&frame, Some((1, &frame)), &mut deflater).clone();
        let alone = piece.bytes(&frame, Some((2, &frame)), &mut deflater).clone();
        assert_eq!(piece.bytes(&frame, None, &mut deflater), &alone);
        assert!(after.len() < alone.len() / 4, "{} and {} bytes", after.len(), alone.len());
    }

    #[test]
    fn a_piece_may_come_after_one_longer_than_deflate_reaches_back() {
        let mut deflater = Deflater::default();
        for length in [32_767, 32_768, 32_769, 40_000, 65_535, 65_536, 100_000] {
            let long = text(7, length);
            let last = &long[length - 10_000..];
            let mut stream = HEADER.to_vec();
            stream.extend_from_slice(&deflater.deflate(&long, &[]));
            stream.extend_from_slice(&deflater.deflate(last, &long));
            assert!(inflate(&stream) == [&long, last].concat(), "{length}");
        }
    }

    #[test]
    fn what_cannot_be_deflated_takes_little_more() {
        let mut deflater = Deflater::default();
        let noise: Vec<u8> = (0..200_000).map(|_| fastrand::u8(..)).collect();
        let deflated = deflater.deflate(&noise, &[]);
        assert!(deflated.len() <= noise.len() + 20, "{} bytes", deflated.len());
        let mut stream = HEADER.to_vec();
        stream.extend_from_slice(&deflated);
        assert!(inflate(&stream) == noise);
    }
}
