//! `ssecast publish`: one message to the daemon's admin socket.

use std::{
    ffi::OsString,
    io::{self, Read as _},
};

use bytes::Bytes;
use hyper::{
    Method, StatusCode,
    header::{CONTENT_TYPE, HeaderValue},
    http::uri::PathAndQuery,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{Failure, client::Client, exit, print, runtime, socket::AdminSocketArgs};
use crate::name::{ChannelName, EventType, EventTypeError};

/// Publish one message on a channel
///
/// Prints the daemon's answer, a line of JSON with the event's id and the number of its subscribers. Ends with 65 if the daemon
/// refuses the message, with 77 if this publisher may not, with 75 if a retry can help, with 69 if there is no daemon.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  ssecast publish cats meow\n  ssecast publish prices --event tick '{\"gold\": 4100}'\n  \
                        curl -s https://example.com/feed.json | ssecast publish feed -"
)]
pub struct PublishArgs {
    /// The channel
    #[arg(value_name = "CHANNEL")]
    channel: ChannelName,

    /// The message; - reads all of standard input, less the line end at its end
    #[arg(value_name = "MESSAGE", allow_negative_numbers = true)]
    message: OsString,

    /// With -, keep the line end at the end of standard input
    #[arg(long)]
    raw: bool,

    /// The event's type: what a browser's addEventListener is given
    #[arg(long, value_name = "TYPE", value_parser = parse_event_type)]
    event: Option<EventType>,

    /// The publisher's key, where the daemon asks for one
    #[arg(long, value_name = "KEY")]
    key: Option<String>,

    #[command(flatten)]
    socket: AdminSocketArgs,
}

/// Publishes, and prints the answer.
///
/// # Errors
/// No daemon (69), not allowed to connect or to publish (77), message refused (65), a retry can help (75), broken off (74), wrong
/// configuration (64), any other answer (1).
pub fn run(args: &PublishArgs) -> Result<(), Failure> {
    let socket = args.socket.socket()?;
    let request = if args.message == "-" {
        let mut message = Vec::new();
        let read = io::stdin().lock().read_to_end(&mut message);
        read.map_err(|error| Failure::new(exit::IO, format_args!("standard input can't be read: {error}")))?;
        if !args.raw {
            cut_line_end(&mut message);
        }
        PublishRequest::raw(args, message)
    } else {
        PublishRequest::form(args)
    };
    let answer = runtime()?.block_on(request.send(&Client::new(socket)))?;
    let mut line = answer.trim_ascii_end().to_vec();
    line.push(b'\n');
    Ok(print(&line)?)
}

/// Removes one line end from the end. `echo` and text files add one, which would be an empty last line in the stream.
fn cut_line_end(message: &mut Vec<u8>) {
    if message.pop_if(|last| *last == b'\n').is_some() {
        message.pop_if(|last| *last == b'\r');
    }
}

/// The request that publishes a message.
struct PublishRequest {
    target: String,
    content_type: &'static str,
    body: Bytes,
}

impl PublishRequest {
    /// A form, as cyclone-sse's clients send it. Percent-encoding can carry any bytes.
    fn form(args: &PublishArgs) -> Self {
        let message = args.message.as_encoded_bytes();
        let mut body = form_urlencoded::Serializer::new(String::new());
        body.append_pair("channel", args.channel.as_str());
        append_options(&mut body, args);
        let mut body = body.finish();
        body.push_str("&message=");
        body.extend(form_urlencoded::byte_serialize(message));
        Self { target: "/publish".to_owned(), content_type: "application/x-www-form-urlencoded", body: body.into() }
    }

    /// A request with the message as its body, which may be large and have any bytes.
    fn raw(args: &PublishArgs, message: Vec<u8>) -> Self {
        /// All but the unreserved characters of RFC 3986.
        const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
        // As a path segment, "." or ".." would be resolved, not sent.
        let channel = match args.channel.as_str() {
            "." => "%2E".to_owned(),
            ".." => "%2E%2E".to_owned(),
            channel => utf8_percent_encode(channel, ESCAPED).to_string(),
        };
        let mut query = form_urlencoded::Serializer::new(String::new());
        append_options(&mut query, args);
        let query = query.finish();
        let separator = if query.is_empty() { "" } else { "?" };
        Self {
            target: format!("/publish/{channel}{separator}{query}"),
            content_type: "application/octet-stream",
            body: message.into(),
        }
    }

    async fn send(self, client: &Client) -> Result<Bytes, Failure> {
        let target: PathAndQuery = self.target.parse().map_err(|error| Failure::new(exit::USAGE, error))?;
        let headers = [(CONTENT_TYPE, HeaderValue::from_static(self.content_type))];
        let answer = client.send(Method::POST, &target, headers, self.body).await?;
        if answer.status() != StatusCode::OK {
            return Err(client.refusal(answer).await);
        }
        Ok(client.read_body(answer).await?)
    }
}

fn append_options(pairs: &mut form_urlencoded::Serializer<'_, String>, args: &PublishArgs) {
    if let Some(event) = &args.event {
        pairs.append_pair("event", event.as_str());
    }
    if let Some(key) = &args.key {
        pairs.append_pair("key", key);
    }
}

fn parse_event_type(text: &str) -> Result<EventType, EventTypeError> {
    EventType::new(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::{
        super::{socket::Socket, stub::Stub},
        *,
    };

    fn args(channel: &str, message: &[u8]) -> PublishArgs {
        PublishArgs {
            channel: channel.parse().unwrap(),
            message: OsString::from_vec(message.to_vec()),
            event: Some(EventType::new("a b").unwrap()),
            key: Some("k&\u{e4}".to_owned()),
            raw: false,
            socket: AdminSocketArgs::default(),
        }
    }

    /// Returns the head and the body of the request as sent.
    fn sent(request: PublishRequest) -> (String, Vec<u8>) {
        let stub = Stub::start(&[b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{\"status\":\"ok\"}"]);
        let answer = runtime()
            .unwrap()
            .block_on(request.send(&Client::new(Socket::given(stub.address(), "--admin-socket"))))
            .unwrap();
        assert_eq!(answer, r#"{"status":"ok"}"#);
        let request = stub.requests().remove(0);
        let end = request.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        (String::from_utf8_lossy(&request[..end]).into_owned(), request[end + 4..].to_vec())
    }

    #[test]
    fn a_form_carries_a_message_of_any_bytes() {
        let (head, body) = sent(PublishRequest::form(&args("user/1 x", b"\xff\r\n=&\0")));
        assert!(head.starts_with("POST /publish HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("content-type: application/x-www-form-urlencoded"), "{head}");
        assert_eq!(
            String::from_utf8_lossy(&body),
            "channel=user%2F1+x&event=a+b&key=k%26%C3%A4&message=%FF%0D%0A%3D%26%00"
        );
    }

    #[test]
    fn one_line_end_is_removed_from_standard_input() {
        for (read, published) in
            [("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a", "a"), ("a\r", "a\r"), ("\n", ""), ("", "")]
        {
            let mut message = read.as_bytes().to_vec();
            cut_line_end(&mut message);
            assert_eq!(message, published.as_bytes(), "{read:?}");
        }
    }

    #[test]
    fn standard_input_is_sent_unchanged() {
        let (head, body) = sent(PublishRequest::raw(&args("user/1 \u{e4}#x", b"-"), b"\xff\r\n\0\n".to_vec()));
        assert!(
            head.starts_with("POST /publish/user%2F1%20%C3%A4%23x?event=a+b&key=k%26%C3%A4 HTTP/1.1\r\n"),
            "{head}"
        );
        assert_eq!(body, b"\xff\r\n\0\n");
        let dots = PublishRequest::raw(&PublishArgs { event: None, key: None, ..args("..", b"-") }, Vec::new());
        assert_eq!(dots.target, "/publish/%2E%2E");
    }
}
