//! Makes messages of the fields of entries. It does no I/O, and knows no stream.

use bytes::Bytes;

use crate::{
    cursor::{Entry, EntryId, journal_of},
    event::Message,
    name::{ChannelError, ChannelName, EventType, EventTypeError},
};

/// Why an entry can't be an event.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum EntryError {
    #[error("an entry has no field \"channel\"; write XADD … '*' channel NAME data TEXT")]
    NoChannel,
    #[error("an entry for channel {0} has no field \"data\"; write XADD … '*' channel NAME data TEXT")]
    NoData(ChannelName),
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error(
        "an entry is for channel {0}, to which no client may subscribe: names that begin with __ or ssecast: are reserved"
    )]
    Reserved(ChannelName),
    #[error(transparent)]
    EventType(#[from] EventTypeError),
    #[error(
        "an entry for channel {channel} is in the wrong stream: it belongs to number {belongs} of redis.journal, counted from 0 (the \
         CRC-32 of the channel's name modulo the number of streams)"
    )]
    WrongJournal { channel: ChannelName, belongs: u8 },
    #[error("an entry for channel {channel} has {bytes} bytes of data, more than 16 times publish.max_message")]
    TooLong { channel: ChannelName, bytes: usize },
}

impl EntryError {
    /// The channel whose clients miss the entry, where that is known.
    pub(super) fn channel(&self) -> Option<&ChannelName> {
        match self {
            Self::WrongJournal { channel, .. } | Self::TooLong { channel, .. } => Some(channel),
            Self::NoChannel | Self::NoData(_) | Self::Channel(_) | Self::Reserved(_) | Self::EventType(_) => None,
        }
    }
}

/// A name as it was received, and what it is; the next entry often has the same.
type Known<T> = Option<(Vec<u8>, T)>;

/// Takes the fields of one entry after the other. Of a field that occurs several times the last one counts. Fields with other
/// names are the application's own, and are ignored.
#[derive(Debug)]
pub(super) struct Assembler {
    /// Number of journals.
    journals: usize,
    channel: Option<Result<ChannelName, ChannelError>>,
    event: Option<Result<EventType, EventTypeError>>,
    data: Option<Result<Bytes, usize>>,
    last_channel: Known<ChannelName>,
    last_event: Known<EventType>,
}

impl Assembler {
    /// An assembler for the entries of `journals` journals.
    pub(super) fn new(journals: usize) -> Self {
        Self { journals, channel: None, event: None, data: None, last_channel: None, last_event: None }
    }

    /// Takes a field. `Err`: its value is too long; the number of its bytes.
    pub(super) fn field(&mut self, name: &[u8], value: Result<&[u8], usize>) {
        match name {
            b"channel" => {
                let channel = |name: &[u8]| known(&mut self.last_channel, name, ChannelName::from_bytes);
                self.channel = Some(value.map_err(ChannelError::TooLong).and_then(channel));
            }
            b"data" => self.data = Some(value.map(Bytes::copy_from_slice)),
            b"event" => {
                let event = |name: &[u8]| known(&mut self.last_event, name, event_type);
                // An empty type is none.
                let given = value.is_err() || value.is_ok_and(|value| !value.is_empty());
                self.event = given.then(|| value.map_err(EventTypeError::Length).and_then(event));
            }
            _ => {}
        }
    }

    /// Ends an entry: number `id` of journal `journal`.
    pub(super) fn end(&mut self, journal: u8, id: EntryId) -> Result<Message, EntryError> {
        let (channel, event, data) = (self.channel.take(), self.event.take(), self.data.take());
        let channel = channel.ok_or(EntryError::NoChannel)??;
        if channel.is_reserved() {
            return Err(EntryError::Reserved(channel));
        }
        // Clients of the channel go on after an entry of its own journal.
        if self.journals > 1 {
            let belongs = journal_of(channel.as_str(), self.journals);
            if belongs != journal {
                return Err(EntryError::WrongJournal { channel, belongs });
            }
        }
        let event = event.transpose()?;
        match data {
            None => Err(EntryError::NoData(channel)),
            Some(Err(bytes)) => Err(EntryError::TooLong { channel, bytes }),
            Some(Ok(data)) => Ok(Message::new(channel, event, data).with_entry(Entry { journal, id })),
        }
    }
}

fn event_type(name: &[u8]) -> Result<EventType, EventTypeError> {
    EventType::new(std::str::from_utf8(name).map_err(|_| EventTypeError::NotUtf8)?)
}

/// What `name` is: as the last time if it is the same, else by `check`.
fn known<T: Clone, E>(last: &mut Known<T>, name: &[u8], check: impl FnOnce(&[u8]) -> Result<T, E>) -> Result<T, E> {
    if let Some((before, value)) = last
        && before == name
    {
        return Ok(value.clone());
    }
    let value = check(name)?;
    *last = Some((name.to_vec(), value.clone()));
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: EntryId = EntryId { millis: 7, seq: 1 };

    fn assemble(fields: &[(&str, &[u8])]) -> Result<Message, EntryError> {
        let mut assembler = Assembler::new(1);
        // What is left of an entry before must not count.
        assembler.field(b"event", Ok(b"before"));
        let _ = assembler.end(0, EntryId::ZERO);
        for &(name, value) in fields {
            assembler.field(name.as_bytes(), Ok(value));
        }
        assembler.end(0, ID)
    }

    #[test]
    fn an_entry_becomes_a_message() {
        let channel = ChannelName::new("base").unwrap();
        let message =
            Message::new(channel, None, Bytes::from_static(b"[1,2,3]")).with_entry(Entry { journal: 0, id: ID });
        assert_eq!(assemble(&[("channel", b"base"), ("data", b"[1,2,3]")]), Ok(message.clone()));
        let own = [("trace", b"x" as &[u8]), ("data", b"[1,2,3]"), ("channel", b"base"), ("event", b"")];
        assert_eq!(assemble(&own), Ok(message.clone()), "in any order, with fields of the application's own");
        let update = Some(EventType::new("update").unwrap());
        let fields = [("channel", b"base" as &[u8]), ("data", b"[1,2,3]"), ("event", b"update")];
        assert_eq!(assemble(&fields), Ok(Message { event: update, ..message }));
    }

    #[test]
    fn an_entry_that_can_not_be_an_event_says_why() {
        let why = |fields: &[(&str, &[u8])]| assemble(fields).unwrap_err().to_string();
        assert!(why(&[("data", b"x")]).contains("no field \"channel\""));
        assert!(why(&[("channel", b"a")]).contains("channel a has no field \"data\""));
        assert!(why(&[("channel", b"a*"), ("data", b"x")]).contains("not allowed"));
        assert!(why(&[("channel", b"\xff"), ("data", b"x")]).contains("not UTF-8"));
        assert!(why(&[("channel", b"ssecast:x"), ("data", b"x")]).contains("reserved"));
        assert!(why(&[("channel", b"a"), ("data", b"x"), ("event", b"a\nb")]).contains("line break"));
        assert!(why(&[("channel", b"a"), ("data", b"x"), ("event", b"\xff")]).contains("not UTF-8"));
        assert_eq!(assemble(&[("channel", b"a"), ("data", b"")]).unwrap().data, "", "an empty message is a message");
    }

    #[test]
    fn an_entry_in_the_wrong_stream_is_refused() {
        let mut assembler = Assembler::new(4);
        let mut put = |journal| {
            assembler.field(b"channel", Ok(b"base"));
            assembler.field(b"data", Ok(b"x"));
            assembler.end(journal, ID)
        };
        assert_eq!(put(1).unwrap().entry, Some(Entry { journal: 1, id: ID }));
        let error = put(3).unwrap_err();
        assert!(error.to_string().contains("belongs to number 1 of redis.journal"), "{error}");
        assert_eq!(error.channel().unwrap().as_str(), "base");
    }

    #[test]
    fn an_entry_with_too_much_data_names_its_channel() {
        let mut assembler = Assembler::new(1);
        assembler.field(b"data", Err(99));
        assembler.field(b"channel", Ok(b"a"));
        let error = assembler.end(0, ID).unwrap_err();
        assert_eq!(error.channel().unwrap().as_str(), "a");
        assert!(error.to_string().contains("99 bytes"), "{error}");
        assembler.field(b"channel", Err(999));
        assert_eq!(assembler.end(0, ID), Err(EntryError::Channel(ChannelError::TooLong(999))));
    }
}
