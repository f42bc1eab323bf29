//! Gzip streams (RFC 1952), made from compressed pieces that many clients share. Bytes only, no sockets.
//!
//! Deflate (RFC 1951) refers back to earlier data of the stream, so the bytes would be different for each client. To share
//! them, a piece refers back to nothing, or to exactly the piece before it. All clients that had the same piece before get the
//! same bytes, and these are compressed once. Each piece ends on a whole byte.
//!
//! A stream ends without the format's last block, checksum and length. Any stream may break off without these; the clients that
//! were tried (Chromium, Firefox, npm eventsource, Node's fetch, curl) deliver what has arrived, and reconnect as usual.

use std::sync::OnceLock;

use bytes::{BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, FlushCompress};

/// The header of a stream: deflate, no time, no name, made on Unix.
pub const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
/// Most bytes in a stored block.
const STORED: usize = 0xffff;
/// Deflate refers back at most this many bytes.
const WINDOW: usize = 32 << 10;
/// A higher level takes longer, and saves almost nothing on a piece that refers to one other piece.
const LEVEL: u32 = 6;

/// Compresses pieces, one at a time. It allocates 300 KiB with the first piece.
#[derive(Default)]
pub struct Deflater(Option<Compress>);

impl Deflater {
    /// Compresses `text` for clients that have just read `before`; with an empty `before`, for any client.
    pub fn deflate(&mut self, text: &[u8], before: &[u8]) -> Bytes {
        let compress = self.0.get_or_insert_with(|| Compress::new(Compression::new(LEVEL), false));
        compress.reset();
        let before = &before[before.len().saturating_sub(WINDOW)..];
        if !before.is_empty() && compress.set_dictionary(before).is_err() {
            return store(text);
        }
        // Deflate stores what it can't compress, with 5 bytes of overhead for each block of a few KiB.
        let mut deflated = Vec::with_capacity(text.len() + text.len() / 1000 + 64);
        loop {
            let read = usize::try_from(compress.total_in()).unwrap_or(usize::MAX);
            let rest = text.get(read..).unwrap_or_default();
            if compress.compress_vec(rest, &mut deflated, FlushCompress::Sync).is_err() {
                return store(text);
            }
            if deflated.len() < deflated.capacity() {
                break; // The buffer has free space, so the output is complete.
            }
            deflated.reserve(text.len() / 2 + 64);
        }
        if deflated.len() > text.len() + text.len().div_ceil(STORED) * 5 {
            return store(text);
        }
        deflated.shrink_to_fit(); // The event keeps it.
        deflated.into()
    }
}

/// `text` in stored (uncompressed) blocks, for text that is too small to be compressed.
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

/// An event's frame, compressed when the first client needs it.
#[derive(Debug, Default)]
pub struct Piece {
    /// For any client, whatever it had before.
    alone: OnceLock<Bytes>,
    /// For clients whose last piece has this number. It is smaller.
    after: OnceLock<(u64, Bytes)>,
}

impl Piece {
    /// Memory of what is compressed by now, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.alone.get().map_or(0, Bytes::len) + self.after.get().map_or(0, |(_, bytes)| bytes.len())
    }

    /// Its bytes for a client whose last piece was `before`, a number and a text; with `None`, for any client.
    pub fn bytes(&self, frame: &[u8], before: Option<(u64, &[u8])>, deflater: &mut Deflater) -> &Bytes {
        if let Some((number, text)) = before {
            let (known, bytes) = self.after.get_or_init(|| (number, deflater.deflate(frame, text)));
            if *known == number {
                return bytes;
            }
            // Clients with more channels may have had another piece last.
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

    /// What a client has read of a stream that has not ended.
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
        fn a_stream_of_pieces_inflates_to_the_texts(
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
    fn a_client_with_another_last_piece_gets_the_piece_for_any_client() {
        let (mut deflater, frame) = (Deflater::default(), text(7, 1000));
        let piece = Piece::default();
        let after = piece.bytes(&frame, Some((1, &frame)), &mut deflater).clone();
        let alone = piece.bytes(&frame, Some((2, &frame)), &mut deflater).clone();
        assert_eq!(piece.bytes(&frame, None, &mut deflater), &alone);
        assert!(after.len() < alone.len() / 4, "{} and {} bytes", after.len(), alone.len());
    }

    #[test]
    fn a_piece_may_follow_one_longer_than_the_window() {
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
    fn incompressible_text_grows_by_a_few_bytes_only() {
        let mut deflater = Deflater::default();
        let noise: Vec<u8> = (0..200_000).map(|_| fastrand::u8(..)).collect();
        let deflated = deflater.deflate(&noise, &[]);
        assert!(deflated.len() <= noise.len() + 20, "{} bytes", deflated.len());
        let mut stream = HEADER.to_vec();
        stream.extend_from_slice(&deflated);
        assert!(inflate(&stream) == noise);
    }
}
