//! Makes replies for both sockets: JSON, errors, plain text. It knows no route.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Response, StatusCode, header, header::HeaderValue};
use serde_json::{Value, json};

/// A whole response.
pub type Reply = Response<Full<Bytes>>;

/// An error as one line of JSON. `code` is for programs, and never changes. `what` is for people: what is wrong and how to fix it.
#[must_use]
pub fn error(status: StatusCode, code: &'static str, what: &str) -> Reply {
    json(status, &json!({ "status": "error", "code": code, "error": what }))
}

/// 405, with the methods that are allowed.
#[must_use]
pub fn not_allowed(allow: &str, what: &str) -> Reply {
    let mut reply = error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", what);
    if let Ok(allow) = HeaderValue::from_str(allow) {
        reply.headers_mut().insert(header::ALLOW, allow);
    }
    reply
}

/// 503, with the seconds after which to try again (RFC 9110, 10.2.3).
#[must_use]
pub fn unavailable(code: &'static str, what: &str, retry_after: u64) -> Reply {
    let mut reply = error(StatusCode::SERVICE_UNAVAILABLE, code, what);
    reply.headers_mut().insert(header::RETRY_AFTER, retry_after.into());
    reply
}

/// A reply with `body` as one line of JSON.
#[must_use]
pub fn json(status: StatusCode, body: &Value) -> Reply {
    with_type(status, "application/json", format!("{body}\n"))
}

/// A reply with `body` unchanged.
#[must_use]
pub fn with_type(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// Adds `Connection: close`, for a request whose body was not read to its end: the rest of it must not be read as a request.
#[must_use]
pub fn closing(mut reply: Reply) -> Reply {
    reply.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    reply
}
