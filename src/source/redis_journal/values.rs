//! Reads the library's answers to `XINFO STREAM`, XREAD and XREVRANGE. It does no I/O.

use redis::Value;

use super::stream::Info;
use crate::cursor::EntryId;

/// An entry: its id, and its fields with their values.
pub(super) struct RawEntry<'v> {
    pub(super) id: EntryId,
    fields: &'v [Value],
}

impl<'v> RawEntry<'v> {
    /// The names and values of its fields.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&'v [u8], &'v [u8])> {
        let (pairs, _) = self.fields.as_chunks::<2>();
        pairs.iter().filter_map(|[name, value]| Some((bytes(name)?, bytes(value)?)))
    }

    /// Bytes of all its names and values.
    pub(super) fn len(&self) -> usize {
        self.fields().map(|(name, value)| name.len() + value.len()).sum()
    }
}

/// The entries of an answer to XREVRANGE or XRANGE.
pub(super) fn entries(value: &Value) -> impl Iterator<Item = RawEntry<'_>> {
    list(value).iter().filter_map(|entry| match list(entry) {
        [entry_id, fields] => Some(RawEntry { id: id(entry_id)?, fields: list(fields) }),
        _ => None,
    })
}

/// The entries of an answer to XREAD for one stream.
pub(super) fn entries_of_one_stream(value: &Value) -> impl Iterator<Item = RawEntry<'_>> {
    let of_stream = match value {
        Value::Map(streams) => streams.first().map(|(_, entries)| entries),
        other => list(other).first().and_then(|stream| list(stream).get(1)),
    };
    of_stream.into_iter().flat_map(entries)
}

/// An answer to `XINFO STREAM`; `None` if it is none.
pub(super) fn info(value: &Value) -> Option<Info> {
    let mut info = Info::default();
    let mut is_info = false;
    for (name, value) in value.as_map_iter()? {
        match bytes(name) {
            Some(b"first-entry") => info.first = list(value).first().and_then(id),
            Some(b"last-entry") => info.last = list(value).first().and_then(id),
            Some(b"last-generated-id") => (info.generated, is_info) = (id(value)?, true),
            Some(b"max-deleted-entry-id") => info.deleted = id(value),
            Some(b"length") => info.length = number(value).unwrap_or_default(),
            Some(b"entries-added") => info.added = number(value),
            _ => {}
        }
    }
    is_info.then_some(info)
}

fn list(value: &Value) -> &[Value] {
    match value {
        Value::Array(items) => items,
        _ => &[],
    }
}

fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}

fn id(value: &Value) -> Option<EntryId> {
    std::str::from_utf8(bytes(value)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Value {
        redis::parse_redis_value(text.as_bytes()).unwrap()
    }

    const ENTRY: &str = "*2\r\n$3\r\n5-1\r\n*4\r\n$7\r\nchannel\r\n$1\r\na\r\n$4\r\ndata\r\n$2\r\nxy\r\n";

    #[test]
    fn the_answer_about_a_stream_is_read_in_both_protocols() {
        let id = |millis, seq| EntryId { millis, seq };
        let fields = "$17\r\nlast-generated-id\r\n$3\r\n5-1\r\n$11\r\nfirst-entry\r\n".to_owned() + ENTRY;
        let newer = "$6\r\nlength\r\n:2\r\n$13\r\nentries-added\r\n:7\r\n$20\r\nmax-deleted-entry-id\r\n$3\r\n4-0\r\n$10\r\nlast-entry\r\n_\r\n";
        for text in [format!("%6\r\n{fields}{newer}"), format!("*12\r\n{fields}{}", newer.replace('_', "$-1"))] {
            let expected = Info {
                first: Some(id(5, 1)),
                last: None,
                generated: id(5, 1),
                length: 2,
                added: Some(7),
                deleted: Some(id(4, 0)),
            };
            assert_eq!(info(&parsed(&text)), Some(expected));
        }
        assert_eq!(info(&parsed(&format!("%2\r\n{fields}"))).unwrap().added, None, "a Redis before 7.0");
        assert_eq!(info(&parsed("%0\r\n")), None);
    }

    #[test]
    fn entries_are_read_in_both_protocols() {
        let of = |entry: RawEntry<'_>| {
            (
                entry.id,
                entry.len(),
                entry.fields().map(|(name, value)| (name.to_vec(), value.to_vec())).collect::<Vec<_>>(),
            )
        };
        let fields = vec![(b"channel".to_vec(), b"a".to_vec()), (b"data".to_vec(), b"xy".to_vec())];
        let expected = [(EntryId { millis: 5, seq: 1 }, 14, fields)];
        assert_eq!(entries(&parsed(&format!("*1\r\n{ENTRY}"))).map(of).collect::<Vec<_>>(), expected);
        for text in [format!("%1\r\n$1\r\nk\r\n*1\r\n{ENTRY}"), format!("*1\r\n*2\r\n$1\r\nk\r\n*1\r\n{ENTRY}")] {
            assert_eq!(entries_of_one_stream(&parsed(&text)).map(of).collect::<Vec<_>>(), expected);
        }
        assert_eq!(entries_of_one_stream(&parsed("_\r\n")).count(), 0);
    }
}
