//! Makes the responses of the public socket: heads of streams and polls, CORS headers, errors. It decides nothing.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::Full;
use hyper::{
    HeaderMap, Response, StatusCode,
    header::{self, HeaderValue},
};

use super::request::{RequestError, SubscribeRequest};
use crate::{
    config::Stream,
    cursor::Start,
    event::Coding,
    http::reply::{self, Reply},
    hub::Kind,
    name::ChannelName,
    shard::PollReply,
    sse,
};

/// The standard has UTF-8 for every event stream (WHATWG HTML, 9.2.5). Some clients other than browsers need the charset here.
const EVENT_STREAM: &str = "text/event-stream; charset=utf-8";
/// Headers that a page of another origin may send: those of EventSource, of its replacements with `fetch`, and a token.
const ALLOWED_HEADERS: &str =
    "Authorization, Last-Event-ID, X-Requested-With, Accept, Cache-Control, Content-Type, Pragma";

/// The complete response head of a stream; or the head of a poll without `Content-Length` and the blank line.
pub(super) fn head(request: &SubscribeRequest, headers: &HeaderMap, config: &Stream) -> Bytes {
    let mut head = BytesMut::with_capacity(256);
    let mut put = |parts: [&str; 4]| parts.iter().for_each(|part| head.put_slice(part.as_bytes()));
    let content_type = match request.reply {
        Some(PollReply::Json) => "application/json",
        Some(PollReply::EventStream(_)) | None => EVENT_STREAM,
    };
    put(["HTTP/1.1 200 OK\r\nContent-Type: ", content_type, "\r\nCache-Control: no-store", "\r\n"]);
    put(["X-Accel-Buffering: no\r\n", "Connection: close\r\n", "", ""]);
    let cors = cors(headers, config);
    let mut vary = cors.vary;
    for (name, value) in cors.headers {
        put([name.as_str(), ": ", &value, "\r\n"]);
    }
    if let Kind::Stream(_, coding) = request.kind
        && config.gzip
    {
        vary = if vary.is_empty() { "Accept-Encoding" } else { "Origin, Accept-Encoding" };
        if coding == Coding::Gzip {
            put(["Content-Encoding: gzip\r\n", "", "", ""]);
        }
    }
    if !vary.is_empty() {
        put(["Vary: ", vary, "\r\n", ""]);
    }
    if request.reply.is_none() {
        put(["\r\n", "", "", ""]);
    }
    head.freeze()
}

/// The answer to HEAD: the head of a stream.
pub(super) fn head_only() -> Reply {
    let mut response = Response::new(Full::default());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The headers that let a page of another origin read the response.
pub(super) struct Cors {
    headers: Vec<(header::HeaderName, String)>,
    /// The value of `Vary`; empty for none.
    vary: &'static str,
}

impl Cors {
    /// Adds them to `response`.
    pub(super) fn put(self, response: &mut Reply) {
        for (name, value) in self.headers {
            if let Ok(value) = value.parse() {
                response.headers_mut().insert(name, value);
            }
        }
        if !self.vary.is_empty() {
            response.headers_mut().insert(header::VARY, HeaderValue::from_static(self.vary));
        }
    }
}

/// The headers that `stream.allow_origins` gives for the request's origin (Fetch, 3.3.3).
pub(super) fn cors(headers: &HeaderMap, config: &Stream) -> Cors {
    let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
    let allows = |what: &str| config.allow_origins.iter().any(|allowed| allowed == what);
    match origin {
        Some(origin) if allows(origin) => {
            let origin = (header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.to_owned());
            let credentials = (header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true".to_owned());
            Cors { headers: vec![origin, credentials], vary: "Origin" }
        }
        Some(_) if allows("*") => {
            Cors { headers: vec![(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*".to_owned())], vary: "" }
        }
        _ => Cors { headers: Vec::new(), vary: "" },
    }
}

/// The answer to a preflight request (Fetch, 3.3.2): a browser asks what a page may send.
pub(super) fn preflight() -> Reply {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(ALLOWED_HEADERS));
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET"));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    response
}

pub(super) fn health() -> Reply {
    reply::with_type(StatusCode::OK, "text/plain", "ok\n")
}

pub(super) fn not_found(path: &str) -> Reply {
    let what = format!("nothing is at {path:?}: streams are at /?channels=NAME");
    reply::error(StatusCode::NOT_FOUND, "not_found", &what)
}

pub(super) fn not_allowed() -> Reply {
    reply::not_allowed("GET, HEAD, OPTIONS", "streams are read with GET; publish on the admin socket")
}

pub(super) fn bad_request(error: &RequestError) -> Reply {
    reply::error(StatusCode::BAD_REQUEST, error.code(), &error.to_string())
}

/// The response for a pattern that the rules of its channels don't allow.
pub(super) fn pattern_not_allowed(pattern: &ChannelName) -> Reply {
    let what = format!(
        "pattern {pattern} is not allowed: name the channels, or set patterns = true in the [[channel]] tables that match the \
         channels of the pattern, all of them"
    );
    reply::error(StatusCode::FORBIDDEN, "pattern_not_allowed", &what)
}

/// The response for a channel that a source refuses to deliver.
pub(super) fn refused_by_source(channel: &ChannelName) -> Reply {
    let what = format!("channel {channel} is refused by the source (Redis's ACL): ask for another, or allow it there");
    reply::error(StatusCode::FORBIDDEN, "refused_by_source", &what)
}

/// The response to a client over the limit of `max` clients.
pub(super) fn too_many_clients(max: usize, config: &Stream) -> Reply {
    let what = format!("{max} clients are connected, and no more are allowed (stream.max_clients): try again later");
    reply::unavailable("too_many_clients", &what, config.retry.pick().as_secs().max(1))
}

/// The response to a request that still waits for a source when the daemon stops. An `EventSource` reconnects only after a 200,
/// so a stream gets a whole, empty stream; so does a poll that reads one, without an event, which its client could take for a
/// message. A poll in JSON gets a 503.
pub(super) fn stopping(request: &SubscribeRequest, retry: Duration) -> Reply {
    let mut reply = match request.reply {
        Some(PollReply::Json) => {
            let what = "ssecast is stopping: try again later";
            reply::unavailable("stopping", what, retry.as_secs().max(1))
        }
        Some(PollReply::EventStream(_)) => {
            reply::with_type(StatusCode::OK, EVENT_STREAM, sse::encode_retry(retry, Start::Unknown))
        }
        None => reply::with_type(StatusCode::OK, EVENT_STREAM, sse::encode_retry(retry, request.start)),
    };
    reply.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply::closing(reply)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::public::request::parse;

    fn head_of(headers: &HeaderMap, config: &Stream) -> String {
        let request = parse("channels=a", headers, config).unwrap();
        String::from_utf8(head(&request, headers, config).to_vec()).unwrap()
    }

    #[test]
    fn the_head_has_utf_8_and_forbids_storing_and_buffering() {
        let head = head_of(&HeaderMap::new(), &Stream::default());
        assert!(head.contains("\r\nContent-Type: text/event-stream; charset=utf-8\r\n"), "{head}");
        assert!(head.contains("\r\nCache-Control: no-store\r\n"), "{head}");
        assert!(head.contains("\r\nX-Accel-Buffering: no\r\n"), "{head}");
        assert!(head.ends_with("\r\n\r\n"), "{head}");
    }

    #[test]
    fn the_head_has_content_encoding_and_vary() {
        let mut headers = HeaderMap::new();
        let origins = vec!["https://a.example".to_owned()];
        let gzip = |gzip| Stream { gzip, allow_origins: origins.clone(), ..Stream::default() };
        assert!(!head_of(&headers, &gzip(false)).contains("Vary"));
        assert!(head_of(&headers, &gzip(true)).contains("\r\nVary: Accept-Encoding\r\n"));
        headers.insert("accept-encoding", "gzip".parse().unwrap());
        assert!(!head_of(&headers, &gzip(false)).contains("gzip"));
        assert!(head_of(&headers, &gzip(true)).contains("\r\nContent-Encoding: gzip\r\n"));
        headers.insert("origin", "https://a.example".parse().unwrap());
        assert!(head_of(&headers, &gzip(false)).contains("\r\nVary: Origin\r\n"));
        assert!(head_of(&headers, &gzip(true)).contains("\r\nVary: Origin, Accept-Encoding\r\n"));
    }

    #[test]
    fn cors_headers_are_sent_to_configured_origins_only() {
        let mut headers = HeaderMap::new();
        headers.insert("origin", "https://a.example".parse().unwrap());
        let mut config = Stream::default();
        assert!(cors(&headers, &config).headers.is_empty());
        config.allow_origins = vec!["https://a.example".to_owned()];
        assert_eq!(cors(&headers, &config).headers[0].1, "https://a.example");
        headers.insert("origin", "https://b.example".parse().unwrap());
        assert!(cors(&headers, &config).headers.is_empty());
        config.allow_origins = vec!["*".to_owned()];
        assert_eq!(cors(&headers, &config).headers, [(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*".to_owned())]);
    }
}
