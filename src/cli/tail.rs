//! `ssecast tail`: prints a stream's events as they come, and reconnects as a browser's EventSource does.
//!
//! SIGINT keeps its default action: it ends the program at once, even while a write to standard output blocks.

use std::{
    io::{self, Write},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::{
    Method, Response, StatusCode,
    body::Incoming,
    header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue},
    http::uri::PathAndQuery,
};

use super::{
    Failure,
    client::{Client, ClientError},
    event_stream::EventStream,
    exit, runtime,
    socket::PublicSocketArgs,
    tail_format::{Format, Printer},
};

/// The wait before reconnecting if the stream has no `retry:`.
const DEFAULT_RETRY: Duration = Duration::from_secs(3);
/// Longest wait between attempts, unless the stream's `retry:` is longer.
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// Print the events of channels as they come
///
/// Reconnects when the connection is lost, and resumes after the last event; a gap (events that may have been missed) is reported
/// on standard error. Ends with Ctrl-C.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ssecast tail cats dogs\n  ssecast tail prices --json | jq .data")]
pub struct TailArgs {
    /// The channels, or patterns such as 'news.*' where a rule allows them
    #[arg(value_name = "CHANNEL", required = true)]
    channels: Vec<String>,

    #[command(flatten)]
    socket: PublicSocketArgs,

    /// Begin after the event with this id; the daemon sends what it has kept since
    #[arg(long, value_name = "ID", value_parser = parse_id)]
    last_event_id: Option<HeaderValue>,

    /// Print each event as a line of JSON: id, channel, event, data
    #[arg(long)]
    json: bool,

    /// Print only the messages, byte for byte, each followed by a line feed
    #[arg(long, conflicts_with = "json")]
    raw: bool,
}

/// Prints events until standard output is closed or the daemon answers 204: nothing more will come.
///
/// # Errors
/// No daemon at the start (69), not allowed to connect or to read (77), channels refused (65), too many clients (75), wrong
/// configuration (64). If the daemon ends later, `tail` waits and reconnects.
pub fn run(args: &TailArgs) -> Result<(), Failure> {
    let socket = args.socket.socket()?;
    let format = match (args.json, args.raw) {
        (true, _) => Format::Json,
        (_, true) => Format::Raw,
        _ => Format::Text,
    };
    let target = target(&args.channels, format).map_err(|error| Failure::new(exit::USAGE, error))?;
    runtime()?.block_on(async {
        let last_event_id = args.last_event_id.as_ref().map_or(&b""[..], HeaderValue::as_bytes);
        let mut tail = Tail {
            client: Client::new(socket),
            target,
            stream: EventStream::resume(last_event_id),
            printer: Printer::new(format, io::stdout().lock(), io::stderr()),
        };
        match tail.follow().await {
            Err(End::Reader(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(End::Reader(error)) => Err(error.into()),
            Err(End::Failed(failure)) => Err(failure),
            Ok(()) => Ok(()),
        }
    })
}

fn parse_id(text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(text).map_err(|_| "an id has no control characters".to_owned())
}

fn target(channels: &[String], format: Format) -> Result<PathAndQuery, String> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for channel in channels {
        query.append_pair("channels", channel);
    }
    if format.needs_envelope() {
        query.append_pair("envelope", "1");
    } else if channels.iter().any(|channel| channel.contains('*')) {
        query.append_pair("envelope", "0");
    }
    let target: Result<PathAndQuery, _> = format!("/?{}", query.finish()).parse();
    target.map_err(|error| format!("too many channels for one request: {error}"))
}

/// Why `tail` ends before the daemon answers 204.
#[derive(Debug)]
enum End {
    /// Standard output can't be written.
    Reader(io::Error),
    /// Retrying can't help.
    Failed(Failure),
}

struct Tail<O, E> {
    client: Client,
    target: PathAndQuery,
    stream: EventStream,
    printer: Printer<O, E>,
}

impl<O: Write, E: Write> Tail<O, E> {
    /// Connects again and again until the daemon answers 204, which ends an EventSource too.
    async fn follow(&mut self) -> Result<(), End> {
        let mut connected_once = false;
        let mut failures = 0;
        loop {
            match self.connect().await {
                Ok(answer) if answer.status() == StatusCode::NO_CONTENT => return Ok(()),
                Ok(answer) if is_event_stream(&answer) => {
                    if failures > 0 {
                        self.printer.note(format_args!("{} answers again", self.client.address()));
                    }
                    connected_once = true;
                    failures = 0;
                    self.read(answer).await?;
                }
                // While a daemon restarts, it or a proxy in front of it may answer like this.
                Ok(answer) if connected_once && answer.status().is_server_error() => {
                    if failures == 0 {
                        self.printer.note(format_args!("{}; trying on", self.client.refusal(answer).await));
                    }
                    failures += 1;
                }
                Ok(answer) if answer.status() == StatusCode::OK => {
                    let what = format!("{} answers, but with no event stream: is it ssecast's?", self.client.address());
                    return Err(End::Failed(Failure::new(1, what)));
                }
                Ok(answer) => return Err(End::Failed(self.client.refusal(answer).await)),
                Err(error) if connected_once => {
                    if failures == 0 {
                        self.printer.note(format_args!("the connection is lost: {error}; trying on"));
                    }
                    failures += 1;
                }
                Err(error) => return Err(End::Failed(error.into())),
            }
            tokio::time::sleep(wait(self.stream.retry(), failures)).await;
        }
    }

    async fn connect(&mut self) -> Result<Response<Incoming>, ClientError> {
        let mut headers = vec![(ACCEPT, HeaderValue::from_static("text/event-stream"))];
        let id = self.stream.last_event_id();
        // Every id of ssecast fits in a header. Another server's may not, and is left out.
        if let Some(id) = Some(id).filter(|id| !id.is_empty()).and_then(|id| HeaderValue::from_bytes(id).ok()) {
            headers.push((HeaderName::from_static("last-event-id"), id));
        }
        self.client.send(Method::GET, &self.target, headers, Bytes::new()).await
    }

    /// Prints a connection's events until it ends, for whatever reason: the next connection resumes after the last whole event.
    async fn read(&mut self, answer: Response<Incoming>) -> Result<(), End> {
        self.stream.reconnect();
        let mut body = answer.into_body();
        while let Some(Ok(frame)) = body.frame().await {
            let Ok(chunk) = frame.into_data() else { continue };
            for event in self.stream.feed(&chunk) {
                self.printer.print(&event).map_err(End::Reader)?;
            }
            self.printer.flush().map_err(End::Reader)?;
        }
        Ok(())
    }
}

fn is_event_stream(answer: &Response<Incoming>) -> bool {
    let content_type = answer.headers().get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let essence = content_type.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
    answer.status() == StatusCode::OK && essence.eq_ignore_ascii_case(b"text/event-stream")
}

/// How long to wait before the next attempt: `retry`, doubled with each failed attempt after the first.
fn wait(retry: Option<Duration>, failures: u32) -> Duration {
    let retry = retry.unwrap_or(DEFAULT_RETRY);
    // With `retry: 0`, attempts that fail are still at least this far apart.
    let floor = if failures == 0 { retry } else { retry.max(Duration::from_millis(100)) };
    floor.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_RETRY.max(retry))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{socket::Socket, stub::Stub},
        *,
    };
    use crate::config::Address;

    const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";

    /// Returns what is printed on standard output and on standard error, and how `tail` ended.
    fn follow(address: Address, id: &[u8]) -> (String, String, Result<(), End>) {
        runtime().unwrap().block_on(async {
            let (mut out, mut notes) = (Vec::new(), Vec::new());
            let mut tail = Tail {
                client: Client::new(Socket::given(address, "--socket")),
                target: target(&["a b".into(), "c".into()], Format::Raw).unwrap(),
                stream: EventStream::resume(id),
                printer: Printer::new(Format::Raw, &mut out, &mut notes),
            };
            let end = tail.follow().await;
            (String::from_utf8(out).unwrap(), String::from_utf8(notes).unwrap(), end)
        })
    }

    #[test]
    fn a_pattern_is_read_as_plain_data_where_only_data_is_shown() {
        let target_of = |format| target(&["news.*".to_owned()], format).unwrap().to_string();
        assert!(target_of(Format::Raw).ends_with("channels=news.*&envelope=0"), "{}", target_of(Format::Raw));
        assert!(target_of(Format::Json).ends_with("&envelope=1"), "{}", target_of(Format::Json));
    }

    #[test]
    fn resumes_after_the_last_complete_event() {
        let first = format!(
            "{HEAD}:\nevent: ssecast.open\nretry: 1\ndata: {{}}\nid: n-1\n\n\
             data: one\nid: n-2\n\nevent: ssecast.ping\ndata: {{}}\nid: n-2\n\ndata: half\nid: n-3"
        );
        let second = format!("{HEAD}\u{feff}data: two\nid: n-3\n\n");
        let unavailable = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
        let end = "HTTP/1.1 204 No Content\r\n\r\n";
        let stub = Stub::start(&[first.as_bytes(), unavailable.as_bytes(), second.as_bytes(), end.as_bytes()]);
        let address = stub.address();
        let (out, notes, end) = follow(stub.address(), b"");
        assert!(end.is_ok(), "{end:?}");
        assert_eq!(out, "one\ntwo\n");
        let expected = format!(
            "ssecast tail: {address} answered 503 Service Unavailable; trying on\nssecast tail: {address} answers again\n"
        );
        assert_eq!(notes, expected);
        let requests: Vec<_> = stub.requests().into_iter().map(|head| String::from_utf8(head).unwrap()).collect();
        assert!(requests.iter().all(|head| head.starts_with("GET /?channels=a+b&channels=c HTTP/1.1\r\n")));
        let id = |head: &String| head.lines().find_map(|line| line.strip_prefix("last-event-id: ").map(str::to_owned));
        let ids: Vec<_> = requests.iter().map(id).collect();
        assert_eq!(ids, [None, Some("n-2".into()), Some("n-2".into()), Some("n-3".into())]);
    }

    #[test]
    fn the_first_request_has_the_given_last_event_id() {
        let stub = Stub::start(&[b"HTTP/1.1 204 No Content\r\n\r\n"]);
        assert!(follow(stub.address(), b"n-7").2.is_ok());
        assert!(String::from_utf8_lossy(&stub.requests()[0]).contains("last-event-id: n-7\r\n"));
    }

    #[test]
    fn a_refusal_at_the_first_attempt_ends_it() {
        for (answer, code, said) in [
            ("HTTP/1.1 400 Bad Request\r\nContent-Length: 12\r\n\r\n{\"error\":\"\"}", exit::DATA, "{\"error\":\"\"}"),
            ("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", exit::TEMPORARY, "503"),
            ("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n", 1, "no event stream"),
        ] {
            let stub = Stub::start(&[answer.as_bytes()]);
            let (_, _, end) = follow(stub.address(), b"");
            let Err(End::Failed(failure)) = end else { panic!("{end:?}") };
            assert!(failure.code() == code && failure.to_string().contains(said), "{failure}");
        }
        let (_, _, end) = follow(Address::Unix("/nowhere/s.sock".into()), b"");
        assert!(matches!(end, Err(End::Failed(failure)) if failure.code() == exit::UNAVAILABLE));
    }

    #[test]
    fn waits_for_retry_and_longer_with_each_failed_attempt() {
        let seconds = Duration::from_secs;
        assert_eq!(wait(None, 0), DEFAULT_RETRY);
        assert_eq!(wait(Some(seconds(0)), 0), seconds(0));
        assert_eq!(wait(Some(seconds(2)), 1), seconds(2));
        assert_eq!(wait(Some(seconds(2)), 3), seconds(8));
        assert_eq!(wait(Some(seconds(2)), 40), LONGEST_RETRY);
        assert_eq!(wait(Some(seconds(60)), 5), seconds(60));
        assert!(wait(Some(seconds(0)), 1) > seconds(0));
    }
}
