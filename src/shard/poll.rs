//! Encodes the answers of long polls. It writes to no socket.

use std::fmt::Write as _;

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Map, Value, json};

use crate::{
    cursor::Cursor,
    event::{Event, Form},
    hub::ReplayItem,
    sse,
};

/// The form of a poll's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PollReply {
    /// One JSON object: `cursor`, `events`, `gap`.
    Json,
    /// An event stream that ends.
    EventStream(Form),
}

/// The whole response: `head`, to which `Content-Length` is added, and the items in `due`. `cursor`: the client's cursor after it.
pub(super) fn encode_response(head: &Bytes, reply: PollReply, cursor: &Cursor, due: &[ReplayItem]) -> Bytes {
    let body = match reply {
        PollReply::Json => encode_json(cursor, due),
        PollReply::EventStream(form) => encode_event_stream(form, cursor, due),
    };
    let mut response = BytesMut::with_capacity(head.len() + body.len() + 40);
    response.put_slice(head);
    // Writing into a BytesMut, which grows, cannot fail.
    let _ = write!(response, "Content-Length: {}\r\n\r\n", body.len());
    response.put_slice(&body);
    response.freeze()
}

fn encode_json(cursor: &Cursor, due: &[ReplayItem]) -> Vec<u8> {
    let mut events = Vec::new();
    let mut gaps = Vec::new();
    for due in due {
        match due {
            ReplayItem::Event(event, _) => events.push(event_as_json(event, &due.frame(Form::Plain))),
            ReplayItem::Gap { channels, reason, .. } => {
                let channels: Vec<&str> = channels.iter().map(|name| name.as_str()).collect();
                gaps.push(json!({ "channels": channels, "reason": reason.as_str() }));
            }
        }
    }
    let mut body = json!({ "cursor": cursor.to_string(), "events": events, "gap": gaps }).to_string().into_bytes();
    body.push(b'\n');
    body
}

fn event_as_json(event: &Event, frame: &[u8]) -> Value {
    let parts = sse::decode_frame(frame);
    let mut object = Map::new();
    object.insert("id".to_owned(), String::from_utf8_lossy(parts.id).into());
    object.insert("channel".to_owned(), event.channel().as_str().into());
    if let Some(event) = parts.event {
        object.insert("event".to_owned(), event.into());
    }
    object.insert("data".to_owned(), String::from_utf8_lossy(&parts.data).into());
    Value::Object(object)
}

fn encode_event_stream(form: Form, cursor: &Cursor, due: &[ReplayItem]) -> Vec<u8> {
    let mut body = Vec::new();
    for due in due {
        body.extend_from_slice(&due.frame(form));
    }
    // The client needs a cursor for its next poll, also if it got no event.
    let _ = std::io::Write::write_fmt(&mut body, format_args!("id: {cursor}\n\n"));
    body
}
