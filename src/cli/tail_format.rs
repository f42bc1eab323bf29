//! Prints events for `ssecast tail`: as text for people, as JSON, or as the messages alone. Gaps and notes go to another output.
//! Reads no stream.

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
    io::{self, Write},
};

use serde::{Deserialize, Serialize};

use super::{event_stream::StreamEvent, printable};
use crate::sse::own_event;

/// How the types of ssecast's own events begin. No publisher can send these.
const OWN_EVENTS: &[u8] = b"ssecast.";

/// How events are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// `channel (type): message`, for people: control characters can't reach their terminal.
    Text,
    /// A line of JSON for each.
    Json,
    /// The message, byte for byte, and a line feed.
    Raw,
}

impl Format {
    /// Whether the stream must name the channel of each event.
    pub(super) fn needs_envelope(self) -> bool {
        !matches!(self, Self::Raw)
    }
}

/// Writes events to `out`, and everything else to `notes`.
pub(super) struct Printer<O, E> {
    format: Format,
    out: O,
    notes: E,
}

/// The `data:` of an event with `envelope=1`.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    channel: Cow<'a, str>,
    #[serde(borrow)]
    data: Cow<'a, str>,
}

#[derive(Serialize)]
struct JsonEvent<'a> {
    id: &'a str,
    channel: Option<&'a str>,
    event: Option<&'a str>,
    data: &'a str,
}

#[derive(Deserialize)]
struct Gap<'a> {
    channels: Vec<String>,
    #[serde(borrow)]
    reason: Cow<'a, str>,
}

impl<O: Write, E: Write> Printer<O, E> {
    pub(super) fn new(format: Format, out: O, notes: E) -> Self {
        Self { format, out, notes }
    }

    /// Prints an event. A gap is printed as a note; ssecast's other events are not printed.
    ///
    /// # Errors
    /// What the operating system reports about `out`: a broken pipe, if its reader has ended.
    pub(super) fn print(&mut self, event: &StreamEvent) -> io::Result<()> {
        if event.event == own_event::GAP.as_bytes() {
            self.report_gap(&event.data);
            return Ok(());
        }
        if event.event.starts_with(OWN_EVENTS) {
            return Ok(()); // `ssecast.open`, `ssecast.ping` or `ssecast.close`.
        }
        if self.format == Format::Raw {
            self.out.write_all(&event.data)?;
            return self.out.write_all(b"\n");
        }
        let data = String::from_utf8_lossy(&event.data);
        let event_type = String::from_utf8_lossy(&event.event);
        // Data that is not an envelope comes from another server. It is shown as it is.
        let envelope: Option<Envelope<'_>> = serde_json::from_str(&data).ok();
        let (channel, data) = match &envelope {
            Some(envelope) => (Some(&*envelope.channel), &*envelope.data),
            None => (None, &*data),
        };
        let event_type = Some(&*event_type).filter(|event_type| !event_type.is_empty());
        if self.format == Format::Json {
            let id = String::from_utf8_lossy(&event.id);
            serde_json::to_writer(&mut self.out, &JsonEvent { id: &id, channel, event: event_type, data })?;
            return self.out.write_all(b"\n");
        }
        self.out.write_all(as_text(channel, event_type, data).as_bytes())
    }

    /// Flushes what was printed.
    ///
    /// # Errors
    /// As [`Printer::print`].
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Writes a note. Errors are ignored.
    pub(super) fn note(&mut self, note: fmt::Arguments<'_>) {
        let _ = writeln!(self.notes, "ssecast tail: {}", printable(&note.to_string(), " "));
    }

    fn report_gap(&mut self, data: &[u8]) {
        let Ok(gap) = serde_json::from_slice::<Gap<'_>>(data) else {
            self.note(format_args!("events may have been missed: {}", String::from_utf8_lossy(data)));
            return;
        };
        let why = match &*gap.reason {
            "history" => "what followed is no longer kept",
            "restart" => "the daemon was restarted, and has no events from before",
            "source" => "the daemon was disconnected from its source",
            "slow" => "they were not read in time",
            other => other,
        };
        let channels = gap.channels.join(", ");
        self.note(format_args!("events of {channels} may have been missed: {why}"));
    }
}

fn as_text(channel: Option<&str>, event_type: Option<&str>, data: &str) -> String {
    let mut text = printable(channel.unwrap_or("?"), " ");
    if let Some(event_type) = event_type {
        // Writing into a String cannot fail.
        let _ = write!(text, " ({})", printable(event_type, " "));
    }
    text.push_str(": ");
    text.push_str(&printable(data, "\n  "));
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns what is printed, and the notes.
    fn show(format: Format, event: &str, data: &[u8]) -> (String, String) {
        let mut printer = Printer::new(format, Vec::new(), Vec::new());
        let event = StreamEvent { id: b"abcdefgh-7".to_vec(), event: event.into(), data: data.to_vec() };
        printer.print(&event).unwrap();
        (String::from_utf8_lossy(&printer.out).into_owned(), String::from_utf8_lossy(&printer.notes).into_owned())
    }

    #[test]
    fn text_escapes_control_characters() {
        let message = br#"{"channel":"cats","data":"meow\nand \u001b[31mpurr"}"#;
        assert_eq!(show(Format::Text, "", message).0, "cats: meow\n  and \\u{1b}[31mpurr\n");
        assert_eq!(show(Format::Text, "mood", message).0, "cats (mood): meow\n  and \\u{1b}[31mpurr\n");
        assert_eq!(show(Format::Text, "", b"of someone else").0, "?: of someone else\n");
    }

    #[test]
    fn json_has_id_channel_type_and_data() {
        let message = r#"{"channel":"größe","data":"a\nb"}"#.as_bytes();
        assert_eq!(
            show(Format::Json, "mood", message).0,
            "{\"id\":\"abcdefgh-7\",\"channel\":\"größe\",\"event\":\"mood\",\"data\":\"a\\nb\"}\n"
        );
        assert!(show(Format::Json, "", message).0.contains("\"event\":null"));
    }

    #[test]
    fn raw_prints_the_message_alone() {
        assert_eq!(show(Format::Raw, "mood", b"[1,2,3]").0, "[1,2,3]\n");
    }

    #[test]
    fn gaps_are_printed_as_notes_and_other_own_events_not_at_all() {
        let (out, notes) = show(Format::Raw, own_event::GAP, br#"{"channels":["cats","dogs"],"reason":"history"}"#);
        assert_eq!(out, "");
        assert_eq!(notes, "ssecast tail: events of cats, dogs may have been missed: what followed is no longer kept\n");
        for own in ["ssecast.open", "ssecast.ping"] {
            assert_eq!(show(Format::Text, own, b"{}"), (String::new(), String::new()));
        }
        let (_, notes) = show(Format::Json, own_event::GAP, b"{}\x1b");
        assert_eq!(notes, "ssecast tail: events may have been missed: {}\\u{1b}\n");
    }
}
