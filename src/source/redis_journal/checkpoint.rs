//! How far the streams have been read, as bytes: an upgrade hands them to the successor, which goes on there. It reads nothing.

use serde::{Deserialize, Serialize};

use crate::{broker::Checkpoint, cursor::EntryId};

/// The version of the bytes. A successor that does not know it begins as after a restart.
const VERSION: u8 = 1;

#[derive(Serialize, Deserialize)]
struct Saved {
    version: u8,
    streams: Vec<SavedStream>,
}

#[derive(Serialize, Deserialize)]
struct SavedStream {
    key: String,
    millis: u64,
    seq: u64,
    /// How many entries had been added to the stream then.
    added: Option<u64>,
}

/// The checkpoint of streams, each with its last delivered entry, and how many entries had been added then.
pub(super) fn encode<'a>(streams: impl IntoIterator<Item = (&'a str, EntryId, Option<u64>)>) -> Checkpoint {
    let streams = streams.into_iter();
    let streams =
        streams.map(|(key, EntryId { millis, seq }, added)| SavedStream { key: key.to_owned(), millis, seq, added });
    // Encoding into memory cannot fail.
    Checkpoint(postcard::to_stdvec(&Saved { version: VERSION, streams: streams.collect() }).unwrap_or_default().into())
}

/// What a checkpoint says of the stream `key`; `None` if it has no such stream, or is no checkpoint that this version knows.
pub(super) fn of(checkpoint: &Checkpoint, key: &str) -> Option<(EntryId, Option<u64>)> {
    let saved: Saved = postcard::from_bytes(&checkpoint.0).ok().filter(|saved: &Saved| saved.version == VERSION)?;
    let SavedStream { millis, seq, added, .. } = saved.streams.into_iter().find(|stream| stream.key == key)?;
    Some((EntryId { millis, seq }, added))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_gives_back_the_entries() {
        let (one, other) = (EntryId { millis: 1_700_000_000_000, seq: 3 }, EntryId::ZERO);
        let checkpoint = encode([("ssecast:{0}", one, Some(9)), ("ssecast:{1}", other, None)]);
        assert_eq!(of(&checkpoint, "ssecast:{0}"), Some((one, Some(9))));
        assert_eq!(of(&checkpoint, "ssecast:{1}"), Some((other, None)));
        assert_eq!(of(&checkpoint, "ssecast:{2}"), None);
    }

    /// A released version has written these bytes, and its successor must read them.
    #[test]
    fn a_stored_checkpoint_is_read() {
        let stored = Checkpoint(bytes::Bytes::from_static(b"\x01\x01\x01k\xe8\x07\x02\x01\x03"));
        assert_eq!(of(&stored, "k"), Some((EntryId { millis: 1000, seq: 2 }, Some(3))));
        for bad in [b"".as_slice(), b"\x02\x01\x01k\xe8\x07\x02\0", b"\x01\x05"] {
            assert_eq!(of(&Checkpoint(bytes::Bytes::from_static(bad)), "k"), None);
        }
    }
}
