//! What a client asks for: reads the query and the headers of a request on the public socket. No I/O.

use bytes::{BufMut, Bytes, BytesMut};
use hyper::{HeaderMap, header};
use percent_encoding::percent_decode;

use crate::{
    client_limit::ClientPermit,
    config::Stream,
    cursor::Start,
    event::{Coding, Form},
    hub::Kind,
    name::{ChannelError, ChannelName},
    shard::{Joining, PollReply},
};

/// Why a request is a 400.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    /// No channel was named.
    #[error("no channel: ask for one with ?channels=NAME (repeat it, or separate names by commas)")]
    NoChannel,
    /// More channels than one client may have.
    #[error("{given} channels; one client may have at most {allowed} (stream.max_channels_per_client)")]
    TooManyChannels {
        /// As many as were asked for.
        given: usize,
        /// The limit.
        allowed: usize,
    },
    /// A name that no channel can have.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// A `%` that is not followed by two hexadecimal digits.
    #[error("the query has a % that is not followed by two hexadecimal digits; write a literal % as %25")]
    PercentEncoding,
    /// A parameter with a value that is not one of its own.
    #[error("{name}={value:?} is not understood; allowed: {allowed}")]
    Value {
        /// The parameter.
        name: &'static str,
        /// As given.
        value: String,
        /// What could be given.
        allowed: &'static str,
    },
}

/// What was asked for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) channels: Vec<ChannelName>,
    kind: Kind,
    pub(super) start: Start,
    head: Bytes,
    reply: Option<PollReply>,
}

impl Asked {
    /// What the shard is to do, once there is a permit.
    pub(super) fn into_joining(self, permit: ClientPermit) -> Joining {
        let Self { channels, kind, start, head, reply } = self;
        Joining { channels, kind, start, head, reply, permit }
    }
}

/// Reads a request for a stream or a poll.
///
/// # Errors
/// [`RequestError`] says what is wrong and how to mend it.
pub(super) fn parse(query: &str, headers: &HeaderMap, config: &Stream) -> Result<Asked, RequestError> {
    let mut channels: Vec<ChannelName> = Vec::new();
    let mut form = Form::Plain;
    let mut last_event_id = None;
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match name {
            "channels" | "channels%5B%5D" | "channels[]" => add_channels(&mut channels, &decode(value)?, config)?,
            "envelope" => form = envelope(&decode(value)?)?,
            "last_event_id" => last_event_id = Some(decode(value)?),
            _ => {} // Pages add parameters of their own, against caches for instance.
        }
    }
    if channels.is_empty() {
        return Err(RequestError::NoChannel);
    }
    let id = headers
        .get("last-event-id")
        .map(header::HeaderValue::as_bytes)
        .filter(|id| !id.is_empty())
        .or(last_event_id.as_deref());
    let reply = poll_reply(headers, form);
    let coding = if config.gzip && accepts_gzip(headers) { Coding::Gzip } else { Coding::Identity };
    let mut more = cors(headers, config);
    if config.gzip && reply.is_none() {
        more.push(("Vary", "Accept-Encoding".to_owned()));
        if coding == Coding::Gzip {
            more.push(("Content-Encoding", "gzip".to_owned()));
        }
    }
    Ok(Asked {
        channels,
        kind: if reply.is_some() { Kind::Poll } else { Kind::Stream(form, coding) },
        start: Start::from_last_event_id(id),
        head: head(reply, &more),
        reply,
    })
}

/// Whether `Accept-Encoding` names gzip (RFC 9110, 12.5.3). A mere `*` is no wish for it.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let gzip = name.trim().eq_ignore_ascii_case("gzip") || name.trim().eq_ignore_ascii_case("x-gzip");
        let weight = weight.trim().trim_start_matches(['q', 'Q']).trim_start().trim_start_matches('=').trim();
        gzip && (weight.is_empty() || weight.parse().is_ok_and(|weight: f32| weight > 0.0))
    })
}

fn add_channels(channels: &mut Vec<ChannelName>, value: &[u8], config: &Stream) -> Result<(), RequestError> {
    for name in value.split(|&byte| byte == b',').filter(|name| !name.is_empty()) {
        let name = ChannelName::from_bytes(name)?;
        if !channels.contains(&name) {
            channels.push(name);
        }
        if channels.len() > config.max_channels_per_client {
            let (given, allowed) = (channels.len(), config.max_channels_per_client);
            return Err(RequestError::TooManyChannels { given, allowed });
        }
    }
    Ok(())
}

fn envelope(value: &[u8]) -> Result<Form, RequestError> {
    match value {
        b"1" | b"true" => Ok(Form::Envelope),
        b"0" | b"false" | b"" => Ok(Form::Plain),
        other => Err(RequestError::Value {
            name: "envelope",
            value: String::from_utf8_lossy(other).into_owned(),
            allowed: "1, 0",
        }),
    }
}

/// Decodes a query's value: `+` is a space, `%` begins a byte.
fn decode(value: &str) -> Result<Vec<u8>, RequestError> {
    let spaced = value.replace('+', " ");
    let bytes = spaced.as_bytes();
    let broken = |at: usize| {
        bytes[at] == b'%' && !bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if (0..bytes.len()).any(broken) {
        return Err(RequestError::PercentEncoding);
    }
    Ok(percent_decode(bytes).collect())
}

/// A request that wants JSON, or that jQuery made, is a long poll.
fn poll_reply(headers: &HeaderMap, form: Form) -> Option<PollReply> {
    let has = |name: header::HeaderName, what: &str| {
        headers.get_all(name).iter().any(|value| value.to_str().is_ok_and(|value| value.contains(what)))
    };
    if has(header::ACCEPT, "text/event-stream") {
        None
    } else if has(header::ACCEPT, "application/json") {
        Some(PollReply::Json)
    } else if headers.get("x-requested-with").is_some_and(|value| value == "XMLHttpRequest") {
        Some(PollReply::EventStream(form))
    } else {
        None
    }
}

/// The headers that let a page of another origin read the response, as configured.
#[must_use]
pub(super) fn cors(headers: &HeaderMap, config: &Stream) -> Vec<(&'static str, String)> {
    let Some(origin) = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok()) else { return Vec::new() };
    if config.allow_origins.iter().any(|allowed| allowed == origin) {
        let mut allowed = vec![("Access-Control-Allow-Origin", origin.to_owned()), ("Vary", "Origin".to_owned())];
        allowed.push(("Access-Control-Allow-Credentials", "true".to_owned()));
        allowed
    } else if config.allow_origins.iter().any(|allowed| allowed == "*") {
        vec![("Access-Control-Allow-Origin", "*".to_owned())]
    } else {
        Vec::new()
    }
}

/// The response head of a stream, whole; of a poll, without its length and the blank line.
fn head(reply: Option<PollReply>, more: &[(&'static str, String)]) -> Bytes {
    let mut head = BytesMut::with_capacity(256);
    head.put_slice(b"HTTP/1.1 200 OK\r\nContent-Type: ");
    head.put_slice(match reply {
        Some(PollReply::Json) => b"application/json" as &[u8],
        Some(PollReply::EventStream(_)) | None => b"text/event-stream",
    });
    head.put_slice(b"\r\nCache-Control: no-cache\r\nX-Accel-Buffering: no\r\nConnection: close\r\n");
    for (name, value) in more {
        head.put_slice(name.as_bytes());
        head.put_slice(b": ");
        head.put_slice(value.as_bytes());
        head.put_slice(b"\r\n");
    }
    if reply.is_none() {
        head.put_slice(b"\r\n");
    }
    head.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(query: &str) -> Result<Vec<String>, String> {
        let joining = parse(query, &HeaderMap::new(), &Stream::default()).map_err(|error| error.to_string())?;
        Ok(joining.channels.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn channels_are_repeated_or_separated_by_commas_and_taken_once() {
        assert_eq!(names("channels=a&channels=b").unwrap(), ["a", "b"]);
        assert_eq!(names("x=1&channels=a,b%2Cc,,a").unwrap(), ["a", "b", "c"]);
        assert_eq!(names("channels[]=gr%C3%B6%C3%9Fe+1").unwrap(), ["größe 1"]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(names("").unwrap_err().starts_with("no channel"));
        assert!(names("channels=").unwrap_err().starts_with("no channel"));
        assert!(names("channels=%zz").unwrap_err().contains("%25"));
        assert!(names("channels=%").unwrap_err().contains("%25"));
        assert!(names("channels=%FF").unwrap_err().contains("UTF-8"));
        assert!(names("channels=a*").unwrap_err().contains("not allowed"));
        assert!(names("channels=a&envelope=2").unwrap_err().contains("envelope"));
        let many: Vec<String> = (0..65).map(|n| n.to_string()).collect();
        assert!(names(&format!("channels={}", many.join(","))).unwrap_err().contains("at most 64"));
    }

    #[test]
    fn the_header_wins_over_the_query_for_the_cursor() {
        let mut headers = HeaderMap::new();
        let start = |headers: &HeaderMap| {
            parse("channels=a&last_event_id=abcdefgh-1", headers, &Stream::default()).unwrap().start
        };
        assert_eq!(start(&headers), Start::After("abcdefgh-1".parse().unwrap()));
        headers.insert("last-event-id", "abcdefgh-2".parse().unwrap());
        assert_eq!(start(&headers), Start::After("abcdefgh-2".parse().unwrap()));
    }

    #[test]
    fn gzip_is_for_those_who_ask_for_it_where_it_is_configured() {
        let coding = |accepted: &'static str, gzip| {
            let mut headers = HeaderMap::new();
            headers.insert("accept-encoding", accepted.parse().unwrap());
            let asked = parse("channels=a", &headers, &Stream { gzip, ..Stream::default() }).unwrap();
            let head = String::from_utf8(asked.head.to_vec()).unwrap();
            assert_eq!(head.contains("Vary: Accept-Encoding\r\n"), gzip, "{head}");
            assert_eq!(
                head.contains("Content-Encoding: gzip\r\n"),
                asked.kind == Kind::Stream(Form::Plain, Coding::Gzip)
            );
            match asked.kind {
                Kind::Stream(_, coding) => coding,
                Kind::Poll => panic!("a poll"),
            }
        };
        for yes in ["gzip", "deflate, gzip;q=0.5, br", "GZIP ; q = 1", "x-gzip"] {
            assert_eq!(coding(yes, true), Coding::Gzip, "{yes}");
            assert_eq!(coding(yes, false), Coding::Identity, "{yes}");
        }
        for no in ["", "identity", "gzip;q=0", "gzip;q=0.000", "br", "*", "gzipped"] {
            assert_eq!(coding(no, true), Coding::Identity, "{no}");
        }
    }

    #[test]
    fn origins_are_allowed_only_as_configured() {
        let mut headers = HeaderMap::new();
        headers.insert("origin", "https://a.example".parse().unwrap());
        let mut config = Stream::default();
        assert!(cors(&headers, &config).is_empty());
        config.allow_origins = vec!["https://a.example".to_owned()];
        assert_eq!(cors(&headers, &config)[0].1, "https://a.example");
        headers.insert("origin", "https://b.example".parse().unwrap());
        assert!(cors(&headers, &config).is_empty());
        config.allow_origins = vec!["*".to_owned()];
        assert_eq!(cors(&headers, &config), [("Access-Control-Allow-Origin", "*".to_owned())]);
    }
}
