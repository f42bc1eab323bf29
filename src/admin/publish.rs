//! `POST /publish`: reads a body, has it parsed and published, and answers with the result. It parses nothing itself.

use std::convert::Infallible;

use hyper::{StatusCode, header};
use serde::Serialize;

use super::{
    Admin, Asked,
    body::{self, BODY_TIMEOUT, ReadError},
    done,
    guard::{Publisher, forbidden},
    messages::{self, BodyError, Limits, Shape},
    too_late,
};
use crate::{
    broker::{PublishError, Published},
    cursor::{Cursor, MAX_ID_BYTES},
    http::{
        Answer,
        reply::{self, Reply},
    },
};

/// Longest text of an error about a body, in characters.
const LONGEST_ERROR: usize = 500;

impl Admin {
    /// Publishes a form, JSON, an array or NDJSON.
    pub(super) async fn publish(&self, asked: Asked) -> Answer<Infallible> {
        self.take(asked, None).await
    }

    /// Publishes the body as one message, on the channel in the path.
    pub(super) async fn publish_raw(&self, mut asked: Asked) -> Answer<Infallible> {
        let channel = std::mem::take(&mut asked.name);
        self.take(asked, Some(channel)).await
    }

    async fn take(&self, asked: Asked, channel: Option<Vec<u8>>) -> Answer<Infallible> {
        let Asked { request, caller, ending, .. } = asked;
        let _under_way = self.publishers.begin(caller.clone());
        let (head, incoming) = request.into_parts();
        let query = head.uri.query().unwrap_or_default();
        let publisher = match self.publisher(&caller, &head.headers, query, channel.is_none()) {
            Ok(publisher) => publisher,
            Err(refused) => return body::refuse(incoming, forbidden(refused)).await,
        };
        let limits = Limits::new(self.config.max_message);
        let longest = match channel {
            Some(_) => self.config.max_message,
            None => limits.longest_body(),
        };
        let has_right = publisher == Publisher::Allowed;
        let read = tokio::select! {
            read = self.bodies.read(incoming, longest, has_right, BODY_TIMEOUT) => read,
            () = too_late(ending) => return done(broken_off()),
        };
        let body = match read {
            Ok(body) => body,
            // Close the connection, so that the rest of the body is not read as a request.
            Err(error) => return done(reply::closing(unread(&error))),
        };
        let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
        let bytes = body.bytes.clone();
        let request = match (channel, content_type.split(';').next().unwrap_or("").trim()) {
            (Some(channel), _) => messages::from_raw(&channel, query, bytes, limits),
            (None, "application/json") => messages::from_json(&bytes, limits),
            (None, "application/x-ndjson" | "application/ndjson" | "application/jsonl") => {
                messages::from_lines(&bytes, limits)
            }
            (None, "application/x-www-form-urlencoded" | "") => messages::from_form(&bytes, limits),
            (None, other) => return done(unsupported(other)),
        };
        let request = match request {
            Ok(request) => request,
            Err(error) => return done(refused(&error)),
        };
        if publisher == Publisher::KeyInBody
            && let Err(refused) = self.check_key(request.key.as_deref())
        {
            return done(forbidden(refused));
        }
        if request.messages.is_empty() {
            return done(render(&[], request.shape));
        }
        done(match self.publisher.publish(request.messages).await {
            Ok(published) => render(&published, request.shape),
            Err(error @ PublishError::Refused(_)) => {
                reply::error(StatusCode::FORBIDDEN, "publish_refused", &error.to_string())
            }
            Err(error @ PublishError::Unavailable { may_have_arrived, .. }) => {
                let code = if may_have_arrived { "maybe_published" } else { "not_published" };
                reply::unavailable(code, &error.to_string(), 1)
            }
        })
    }
}

/// The result of one publish, as the answer has it.
#[derive(Serialize)]
struct PublishResult<'a> {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    subscribers: u32,
}

fn render(published: &[Published], shape: Shape) -> Reply {
    let mut body = Vec::new();
    match shape {
        Shape::One => {
            // For one message on several channels: the last event's id, and the subscribers of all.
            let id = published.last().and_then(|one| one.id);
            put_result(&mut body, id, published.iter().map(|one| one.subscribers).sum());
        }
        Shape::Array => {
            body.push(b'[');
            for (index, one) in published.iter().enumerate() {
                if index > 0 {
                    body.push(b',');
                }
                put_result(&mut body, one.id, one.subscribers);
            }
            body.push(b']');
        }
        Shape::Lines => {
            for one in published {
                put_result(&mut body, one.id, one.subscribers);
                body.push(b'\n');
            }
            return reply::with_type(StatusCode::OK, "application/x-ndjson", body);
        }
    }
    body.push(b'\n');
    reply::with_type(StatusCode::OK, "application/json", body)
}

/// Appends a result. It goes by no `serde_json::Value`, which took a quarter of the time of a publish in NDJSON.
fn put_result(body: &mut Vec<u8>, id: Option<Cursor>, subscribers: u32) {
    let mut text = [0; MAX_ID_BYTES];
    let id = id.and_then(|id| {
        let mut left = &mut text[..];
        id.put(&mut left);
        let length = MAX_ID_BYTES - left.len();
        std::str::from_utf8(&text[..length]).ok()
    });
    // A struct of a text and a number can't fail to serialize, and a `Vec` takes every write.
    let _ = serde_json::to_writer(body, &PublishResult { status: "ok", id, subscribers });
}

/// The answer if the body could not be read.
fn unread(error: &ReadError) -> Reply {
    match error {
        ReadError::TooLong(_) => {
            let what = format!("{error} (publish.max_message, 16 times it for a list)");
            reply::error(StatusCode::PAYLOAD_TOO_LARGE, "too_long", &what)
        }
        ReadError::TooSlow(_) => reply::error(StatusCode::REQUEST_TIMEOUT, "too_slow", &error.to_string()),
        ReadError::NoMemory => reply::unavailable("too_many_bodies", &error.to_string(), 1),
        ReadError::Broken(_) => reply::error(StatusCode::BAD_REQUEST, "broken_body", &error.to_string()),
    }
}

/// The answer to a publish that did not arrive completely in time. The connection is closed after it.
fn broken_off() -> Reply {
    let what = "ssecast stops or a new process takes over, and the request was not whole in time; nothing was published: \
                publish again";
    reply::closing(reply::unavailable("stopping", what, 1))
}

fn unsupported(content_type: &str) -> Reply {
    let what = format!(
        "{content_type:?} can't be published: send a form, application/json, application/x-ndjson, or the message itself \
         to /publish/CHANNEL"
    );
    reply::error(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_type", &what)
}

fn refused(error: &BodyError) -> Reply {
    let status = if error.is_too_large() { StatusCode::PAYLOAD_TOO_LARGE } else { StatusCode::BAD_REQUEST };
    let mut what = error.to_string();
    // serde's errors quote a value of the wrong type, which may be as long as the body.
    if let Some((end, _)) = what.char_indices().nth(LONGEST_ERROR) {
        what.truncate(end);
        what.push('…');
    }
    reply::error(status, error.code(), &what)
}
