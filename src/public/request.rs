//! Parses the query and the headers of a request on the public socket. It grants nothing and writes no response.

use std::borrow::Cow;

use hyper::{HeaderMap, header};
use percent_encoding::percent_decode;

use crate::{
    config::Stream,
    cursor::Start,
    event::{Coding, Form},
    hub::Kind,
    name::{ChannelError, ChannelName},
    pattern,
    shard::PollReply,
};

/// Most stars of a pattern. Redis before 6.2.11 and 7.0.9 may compare a name with each way to place them, at each publish.
const MAX_STARS: usize = 4;

/// Why a request is answered with 400.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    /// No channel was named.
    #[error("no channel: ask for one with ?channels=NAME (repeat it, or separate names by commas)")]
    NoChannel,
    /// More channels than one client may have.
    #[error("{given} channels; one client may have at most {allowed} (stream.max_channels_per_client)")]
    TooManyChannels {
        /// Number of channels in the request, counted up to the first one too many.
        given: usize,
        /// The limit.
        allowed: usize,
    },
    /// An invalid name.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// A pattern with more stars than [`MAX_STARS`].
    #[error("pattern {0} has more than {MAX_STARS} stars; read by one with fewer, and drop what you don't need")]
    TooManyStars(ChannelName),
    /// A reserved name.
    #[error(
        "channel {0} can't be subscribed to: names that begin with __ or ssecast: are reserved for Redis's and ssecast's \
         own messages; use another name"
    )]
    Reserved(ChannelName),
    /// A `%` that is not followed by two hexadecimal digits.
    #[error("the query has a % that is not followed by two hexadecimal digits; write a literal % as %25")]
    PercentEncoding,
    /// A parameter with an invalid value.
    #[error("{name}={value:?} is not understood; allowed: {allowed}")]
    Value {
        /// The parameter.
        name: &'static str,
        /// The value in the request.
        value: String,
        /// The valid values.
        allowed: &'static str,
    },
}

impl RequestError {
    /// The error's `code` for programs.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::NoChannel => "no_channel",
            Self::TooManyChannels { .. } => "too_many_channels",
            Self::Channel(_) | Self::TooManyStars(_) => "bad_channel",
            Self::Reserved(_) => "reserved_channel",
            Self::PercentEncoding | Self::Value { .. } => "bad_query",
        }
    }
}

/// A request for a stream or a poll.
#[derive(Debug)]
pub(super) struct SubscribeRequest {
    /// The channels and patterns, none twice.
    pub(super) channels: Vec<ChannelName>,
    /// Stream or poll.
    pub(super) kind: Kind,
    /// Where the client begins to read.
    pub(super) start: Start,
    /// How a poll is answered; `None` for a stream.
    pub(super) reply: Option<PollReply>,
}

/// Parses a request for a stream or a poll.
///
/// # Errors
/// [`RequestError`] says what is wrong and how to fix it.
pub(super) fn parse(query: &str, headers: &HeaderMap, config: &Stream) -> Result<SubscribeRequest, RequestError> {
    let mut channels: Vec<ChannelName> = Vec::new();
    let mut form = None;
    let (mut last_event_id, mut polyfill_id) = (None, None);
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match name {
            "channels" | "channels%5B%5D" | "channels[]" => add_channels(&mut channels, &decode(value)?, config)?,
            "envelope" => form = Some(envelope(&decode(value)?)?),
            "last_event_id" => last_event_id = Some(decode(value)?),
            // event-source-polyfill adds this when it reconnects, so it is newer than the page's own parameter.
            "lastEventId" => polyfill_id = Some(decode(value)?),
            _ => {} // Pages may add other parameters, for example against caches.
        }
    }
    if channels.is_empty() {
        return Err(RequestError::NoChannel);
    }
    drop_covered(&mut channels);
    // Else a client that reads by a pattern could not know an event's channel.
    let has_pattern = channels.iter().any(ChannelName::is_pattern);
    let form = form.unwrap_or(if has_pattern { Form::Envelope } else { Form::Plain });
    let header = headers.get("last-event-id").map(header::HeaderValue::as_bytes);
    let given = [header, polyfill_id.as_deref(), last_event_id.as_deref()];
    let id = given.into_iter().flatten().find(|id| !id.is_empty());
    let reply = poll_reply(headers, form);
    let coding = if config.gzip && accepts_gzip(headers) { Coding::Gzip } else { Coding::Identity };
    let kind = if reply.is_some() { Kind::Poll } else { Kind::Stream(form, coding) };
    Ok(SubscribeRequest { channels, kind, start: Start::from_last_event_id(id), reply })
}

/// Whether `Accept-Encoding` names gzip (RFC 9110, 12.5.3). A `*` alone does not ask for it.
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
        let name = std::str::from_utf8(name).map_err(|_| ChannelError::NotUtf8)?;
        let name = ChannelName::subscribable(&merge_stars(name))?;
        if name.is_reserved() {
            return Err(RequestError::Reserved(name));
        }
        if name.as_str().matches('*').count() > MAX_STARS {
            return Err(RequestError::TooManyStars(name));
        }
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

/// Writes each run of stars as one star, which means the same: each pattern is subscribed to and kept by one text.
fn merge_stars(name: &str) -> Cow<'_, str> {
    if !name.contains("**") {
        return name.into();
    }
    let mut merged = String::with_capacity(name.len());
    for c in name.chars() {
        if c != '*' || !merged.ends_with('*') {
            merged.push(c);
        }
    }
    merged.into()
}

/// Drops the names and patterns whose channels another pattern has too.
fn drop_covered(channels: &mut Vec<ChannelName>) {
    let patterns: Vec<ChannelName> = channels.iter().filter(|name| name.is_pattern()).cloned().collect();
    channels.retain(|name| {
        let covers = |pattern: &&ChannelName| *pattern != name && pattern::matches(pattern.as_str(), name.as_str());
        // Of two that match the same names, the first in the alphabet stays.
        let is_same = |pattern: &ChannelName| pattern::matches(name.as_str(), pattern.as_str());
        !patterns.iter().filter(covers).any(|pattern| !is_same(pattern) || pattern < name)
    });
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

/// Decodes a value of a query: `+` is a space, `%` and two digits are a byte.
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

/// How a long poll is answered; `None` for a stream. A request that accepts JSON, or that jQuery made, is a long poll.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn names(query: &str) -> Result<Vec<String>, String> {
        let request = parse(query, &HeaderMap::new(), &Stream::default()).map_err(|error| error.to_string())?;
        Ok(request.channels.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn channels_are_repeated_or_separated_by_commas_and_duplicates_are_dropped() {
        assert_eq!(names("channels=a&channels=b").unwrap(), ["a", "b"]);
        assert_eq!(names("x=1&channels=a,b%2Cc,,a").unwrap(), ["a", "b", "c"]);
        assert_eq!(names("channels[]=gr%C3%B6%C3%9Fe+1").unwrap(), ["größe 1"]);
    }

    #[test]
    fn the_error_of_a_wrong_query_says_what_is_wrong() {
        assert!(names("").unwrap_err().starts_with("no channel"));
        assert!(names("channels=").unwrap_err().starts_with("no channel"));
        assert!(names("channels=%zz").unwrap_err().contains("%25"));
        assert!(names("channels=%").unwrap_err().contains("%25"));
        assert!(names("channels=%FF").unwrap_err().contains("UTF-8"));
        assert!(names("channels=a?").unwrap_err().contains("not allowed, and * makes it a pattern"));
        assert!(names("channels=a&envelope=2").unwrap_err().contains("envelope"));
        let many: Vec<String> = (0..65).map(|n| n.to_string()).collect();
        assert!(names(&format!("channels={}", many.join(","))).unwrap_err().contains("at most 64"));
    }

    #[test]
    fn who_reads_by_a_pattern_gets_envelopes_unless_it_asks_for_none() {
        let form = |query| match parse(query, &HeaderMap::new(), &Stream::default()).unwrap().kind {
            Kind::Stream(form, _) => form,
            Kind::Poll => panic!("a poll"),
        };
        assert_eq!((form("channels=a"), form("channels=a,b*")), (Form::Plain, Form::Envelope));
        assert_eq!((form("channels=b*&envelope=0"), form("channels=a&envelope=1")), (Form::Plain, Form::Envelope));
        assert_eq!(names("channels=news.*,%2Ab,a*b").unwrap(), ["news.*", "*b"]);
    }

    #[test]
    fn what_another_pattern_has_is_not_subscribed_to_twice() {
        assert_eq!(names("channels=news.1,cats,news.*,news.2*").unwrap(), ["cats", "news.*"]);
        assert_eq!(names("channels=a**,a*,b").unwrap(), ["a*", "b"]);
        assert_eq!(names("channels=***a***b**").unwrap(), ["*a*b*"], "each pattern has one text");
        assert_eq!(names("channels=a*,*b").unwrap(), ["a*", "*b"], "each has names that the other has not");
    }

    /// Seen as a way to make each publish expensive for Redis.
    #[test]
    fn a_pattern_has_at_most_four_stars() {
        assert_eq!(names("channels=a*b*c**d*").unwrap(), ["a*b*c*d*"]);
        assert!(names("channels=a*b*c*d*e*").unwrap_err().contains("more than 4 stars"));
    }

    #[test]
    fn reserved_names_are_refused_with_the_reason() {
        for name in
            ["__keyevent@0__:set", "__sentinel__:hello", "ssecast:handover:1", "a,ssecast:x", "ssecast:*", "__*"]
        {
            assert!(names(&format!("channels={name}")).unwrap_err().contains("reserved"), "{name}");
        }
        assert_eq!(names("channels=_a,ssecast,a__b,ssecast.gap").unwrap(), ["_a", "ssecast", "a__b", "ssecast.gap"]);
    }

    #[test]
    fn the_parameter_of_event_source_polyfill_is_a_cursor_too() {
        let start = |query| parse(query, &HeaderMap::new(), &Stream::default()).unwrap().start;
        let newer = Start::After("abcdefgh-2".parse().unwrap());
        assert_eq!(start("channels=a&lastEventId=abcdefgh-2"), newer);
        assert_eq!(start("channels=a&lastEventId=abcdefgh-2&last_event_id=abcdefgh-1"), newer);
        assert_eq!(start("channels=a&lastEventId=&last_event_id=abcdefgh-2"), newer);
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
    fn gzip_is_used_if_it_is_configured_and_the_client_accepts_it() {
        let coding = |accepted: &'static str, gzip| {
            let mut headers = HeaderMap::new();
            headers.insert("accept-encoding", accepted.parse().unwrap());
            let asked = parse("channels=a", &headers, &Stream { gzip, ..Stream::default() }).unwrap();
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
}
