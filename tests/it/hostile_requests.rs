//! Hostile requests: each is answered with a clear status, or its connection is closed, and the daemon still serves others.

use std::{
    io::{ErrorKind, Read, Write},
    time::Duration,
};

use crate::support::{Daemon, Endpoint, Folder, Nginx, Request, Response, Socket, Subscription, daemon, eventually};

/// The outcome of a request.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Outcome {
    Status(u16),
    /// The connection is closed without an answer.
    Closed,
}

use Outcome::{Closed, Status};

/// A malformed or hostile request, and its allowed outcomes.
struct Form {
    what: &'static str,
    bytes: Vec<u8>,
    outcomes: &'static [Outcome],
}

fn form(what: &'static str, bytes: impl Into<Vec<u8>>, outcomes: &'static [Outcome]) -> Form {
    Form { what, bytes: bytes.into(), outcomes }
}

/// `GET target`, with `headers`, each ended by CR LF.
fn get(target: &str, headers: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n").into_bytes()
}

fn joined(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// It is not HTTP.
const NOT_HTTP: &[Outcome] = &[Status(400), Closed];
/// It is too large.
const TOO_LARGE: &[Outcome] = &[Status(400), Status(414), Status(431), Closed];
/// It is valid HTTP, but is refused.
const REFUSED: &[Outcome] = &[Status(400)];
/// It is unusual, but valid.
const SERVED: &[Outcome] = &[Status(200)];
/// A strict server refuses it, a lenient one serves it. Both are safe.
const EITHER: &[Outcome] = &[Status(200), Status(400), Closed];

/// Requests with a bad target or query.
fn targets() -> Vec<Form> {
    let names = |count: usize| (0..count).map(|name| format!("channels={name}")).collect::<Vec<_>>().join("&");
    vec![
        form("a channel of 256 bytes", get(&format!("/?channels={}", "x".repeat(256)), ""), REFUSED),
        form("a channel of 60,000 bytes", get(&format!("/?channels={}", "x".repeat(60_000)), ""), TOO_LARGE),
        form("a target of 2 MB", get(&format!("/{}", "x".repeat(2_000_000)), ""), TOO_LARGE),
        form("10,000 channels", get(&format!("/?{}", names(10_000)), ""), TOO_LARGE),
        form("10,000 channels in one", get(&format!("/?channels={}", "a,".repeat(10_000)), ""), EITHER),
        form("1,000 different channels", get(&format!("/?{}", names(1_000)), ""), TOO_LARGE),
        form("a query of ampersands", get(&format!("/?{}", "&".repeat(30_000)), ""), REFUSED),
        form("a query of equal signs", get(&format!("/?{}", "=".repeat(30_000)), ""), REFUSED),
        form("a query of percent signs", get(&format!("/?channels={}", "%".repeat(200)), ""), EITHER),
        form("half a percent escape", get("/?channels=%4", ""), EITHER),
        form("a percent escape of no digits", get("/?channels=%zz", ""), EITHER),
        form("an escaped NUL", get("/?channels=%00", ""), REFUSED),
        form("an escaped line feed", get("/?channels=a%0d%0ab", ""), REFUSED),
        form("an overlong escape", get("/?channels=%c0%af", ""), REFUSED),
        form("a surrogate", get("/?channels=%ed%a0%80", ""), REFUSED),
        form("a pattern", get("/?channels=*", ""), &[Status(403)]),
        form("a raw NUL", get("/?channels=\0", ""), NOT_HTTP),
        form("raw UTF-8", get("/?channels=größe", ""), EITHER),
        form("raw bytes", joined(&[b"GET /?channels=\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n"]), EITHER),
        form("a fragment", get("/?channels=cats#x", ""), EITHER),
        form("two question marks", get("/?channels=cats?x", ""), REFUSED),
        form("a path that climbs", get("/../../etc/passwd?channels=cats", ""), &[Status(404), Status(400)]),
        form(
            "an encoded path that climbs",
            get("/%2e%2e/%2e%2e/etc/passwd", ""),
            &[Status(404), Status(400), Status(200)],
        ),
        form("no slash", get("channels=cats", ""), &[Status(400), Status(404), Closed]),
        form("an asterisk", get("*", ""), &[Status(400), Status(404), Closed]),
        form("an absolute target", get("http://localhost/?channels=cats", ""), EITHER),
        form("an absolute target elsewhere", get("http://example.org:99/?channels=cats", ""), EITHER),
        form("a semicolon query", get("/?channels=a;channels=b", ""), EITHER),
    ]
}

/// Requests with a bad request line, and other protocols than HTTP/1.1.
fn beginnings() -> Vec<Form> {
    let line = |line: &str| format!("{line}\r\nHost: localhost\r\n\r\n").into_bytes();
    vec![
        form("HTTP/0.9", "GET /?channels=cats\r\n", NOT_HTTP),
        form("HTTP/1.0", "GET /?channels=cats HTTP/1.0\r\n\r\n", SERVED),
        form("HTTP/1.2", line("GET /?channels=cats HTTP/1.2"), &[Status(200), Status(400), Status(505), Closed]),
        form("HTTP/3.0", line("GET /?channels=cats HTTP/3.0"), &[Status(400), Status(505), Closed]),
        form(
            "HTTP/2 preface",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
            &[Status(400), Status(505), Closed],
        ),
        form("TLS client hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03random".to_vec(), NOT_HTTP),
        form("an SSH client", "SSH-2.0-OpenSSH_9.0\r\n", NOT_HTTP),
        form("a Redis client", "*2\r\n$9\r\nSUBSCRIBE\r\n$4\r\ncats\r\n", NOT_HTTP),
        form("random bytes", (0..4000u32).map(|n| (n * 7919 % 251) as u8).collect::<Vec<_>>(), NOT_HTTP),
        form("NULs", vec![0; 5000], NOT_HTTP),
        form("line feeds", vec![b'\n'; 5000], NOT_HTTP),
        form("nothing", "", &[Closed]),
        form("a method of 100,000 bytes", line(&format!("{} / HTTP/1.1", "G".repeat(100_000))), TOO_LARGE),
        form("TRACE", line("TRACE /?channels=cats HTTP/1.1"), &[Status(405)]),
        form("CONNECT", line("CONNECT localhost:80 HTTP/1.1"), &[Status(400), Status(404), Status(405), Closed]),
        form(
            "OPTIONS *",
            line("OPTIONS * HTTP/1.1"),
            &[Status(200), Status(204), Status(400), Status(404), Status(405), Closed],
        ),
        form("a lower-case method", line("get /?channels=cats HTTP/1.1"), &[Status(400), Status(405), Closed]),
        form("an empty method", line(" /?channels=cats HTTP/1.1"), NOT_HTTP),
        form("line ends of LF", "GET /?channels=cats HTTP/1.1\nHost: localhost\n\n", EITHER),
        form("line ends of CR", "GET /?channels=cats HTTP/1.1\rHost: localhost\r\r", NOT_HTTP),
        form("a head that is cut off", "GET /?channels=cats HTTP/1.1\r\nHost: loc", NOT_HTTP),
        form("a request line that is cut off", "GET /?cha", NOT_HTTP),
    ]
}

/// Requests with bad headers.
fn headers() -> Vec<Form> {
    let with = |headers: &str| get("/?channels=cats", headers);
    vec![
        form("1,000 headers", with(&"X-Flood: x\r\n".repeat(1_000)), TOO_LARGE),
        form("100,000 headers", with(&"X: y\r\n".repeat(100_000)), TOO_LARGE),
        form("a header of 1 MB", with(&format!("X-Long: {}\r\n", "x".repeat(1_000_000))), TOO_LARGE),
        form("a Last-Event-ID of 10,000 bytes", with(&format!("Last-Event-ID: {}\r\n", "9".repeat(10_000))), EITHER),
        form(
            "a Last-Event-ID of raw bytes",
            joined(&[b"GET /?channels=cats HTTP/1.1\r\nHost: a\r\nLast-Event-ID: \xff\xfe\r\n\r\n"]),
            EITHER,
        ),
        form("a Last-Event-ID with NUL", with("Last-Event-ID: a\0b\r\n"), NOT_HTTP),
        form("two Last-Event-IDs", with("Last-Event-ID: 1\r\nLast-Event-ID: 2\r\n"), EITHER),
        form("a header without a colon", with("nonsense\r\n"), NOT_HTTP),
        form("a header without a name", with(": x\r\n"), NOT_HTTP),
        form("a space before the colon", with("X-Space : x\r\n"), EITHER),
        form("a folded header", with("X-Fold: a\r\n b\r\n"), EITHER),
        form("no Host", "GET /?channels=cats HTTP/1.1\r\n\r\n", EITHER),
        form("two Hosts", with("Host: other\r\n"), EITHER),
        form("a bad Accept", with("Accept: ;;;,,,q=q=q/*//\r\n"), SERVED),
        form("an Accept of 20,000 bytes", with(&format!("Accept: {}\r\n", "a/b,".repeat(5_000))), EITHER),
        form("an upgrade to WebSocket", with("Connection: Upgrade\r\nUpgrade: websocket\r\n"), SERVED),
        form(
            "an upgrade to HTTP/2",
            with("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAAA\r\n"),
            SERVED,
        ),
        form("Expect", with("Expect: 100-continue\r\n"), &[Status(200), Status(417)]),
        form("a bad Expect", with("Expect: the unexpected\r\n"), &[Status(200), Status(400), Status(417), Closed]),
        form("a range", with("Range: bytes=0-10,5-6,-1\r\n"), SERVED),
    ]
}

/// Requests with a body, although a subscription has none.
fn bodies() -> Vec<Form> {
    let with = |headers: &str, body: &[u8]| joined(&[&get("/?channels=cats", headers), body]);
    vec![
        form(
            "a huge Content-Length",
            with("Content-Length: 999999999999\r\n", b"x"),
            &[Status(200), Status(400), Status(413), Closed],
        ),
        form("a Content-Length beyond 64 bits", with("Content-Length: 99999999999999999999999\r\n", b""), NOT_HTTP),
        form("a negative Content-Length", with("Content-Length: -1\r\n", b""), NOT_HTTP),
        form("two Content-Lengths", with("Content-Length: 1\r\nContent-Length: 2\r\n", b"xy"), NOT_HTTP),
        form("chunks of garbage", with("Transfer-Encoding: chunked\r\n", b"zz\r\nnonsense\r\n"), EITHER),
        form("an endless chunk size", with("Transfer-Encoding: chunked\r\n", &[b'f'; 5000]), EITHER),
        form("both lengths", with("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"), EITHER),
        form(
            "an unknown coding",
            with("Transfer-Encoding: gzip, x\r\n", b"x"),
            &[Status(200), Status(400), Status(501), Closed],
        ),
        form("a body", with("Content-Length: 5\r\n", b"hello"), EITHER),
        form("bytes after the request", with("", b"what is this?"), EITHER),
        form(
            "a request behind a stream's",
            joined(&[&get("/?channels=cats", ""), &get("/?channels=dogs", "")]),
            SERVED,
        ),
        form("a hundred requests at once", get("/nothing", "").repeat(100), &[Status(404)]),
        form("a smuggled request", with("Content-Length: 40\r\n", &get("/?channels=dogs", "")), EITHER),
        form("1 MB after the request", with("", &vec![b'x'; 1_000_000]), EITHER),
    ]
}

/// Sends `bytes` and returns the outcome.
fn outcome(endpoint: &Endpoint, bytes: &[u8]) -> Outcome {
    let mut socket = endpoint.connect().unwrap();
    // A server that refuses the request may close before it has read everything.
    let _ = socket.write_all(bytes);
    // The server would wait for the rest of an incomplete head. Say that nothing more will be sent.
    if !bytes.windows(4).any(|window| window == b"\r\n\r\n") {
        socket.finish_sending();
    }
    match Response::read_head(socket) {
        Ok(response) => Status(response.status()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("neither an answer nor an end"),
        Err(_) => Closed,
    }
}

#[test]
fn the_public_socket_answers_or_closes_each_request_and_still_serves() {
    let folder = Folder::new();
    let mut daemon = Daemon::start(&folder, "");
    let mut bystander = Subscription::to(&["cats"]).open(daemon.public());
    let mut wrong = Vec::new();
    let forms: Vec<Form> = [targets(), beginnings(), headers(), bodies()].into_iter().flatten().collect();
    assert!(forms.len() >= 50);
    for Form { what, bytes, outcomes } in forms {
        let outcome = outcome(daemon.public(), &bytes);
        if !outcomes.contains(&outcome) {
            wrong.push(format!("{what}: {outcome:?}, not one of {outcomes:?}"));
        }
        daemon.assert_serving();
        daemon.publish("cats", what);
        assert_eq!(bystander.texts(1), [what], "the other clients are served as before");
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn the_daemon_behind_nginx_still_serves() {
    needs!("nginx");
    let folder = Folder::new();
    let mut daemon = Daemon::start(&folder, "");
    let nginx = Nginx::start(&folder, &daemon);
    let mut bystander = Subscription::to(&["cats"]).open(&nginx.sse());
    for Form { what, mut bytes, .. } in [targets(), beginnings(), headers(), bodies()].into_iter().flatten() {
        if let Some(rest) = bytes.strip_prefix(b"GET /") {
            bytes = joined(&[b"GET /sse/", rest]);
        }
        if bytes.is_empty() {
            continue;
        }
        if let Status(status) = outcome(&nginx.sse(), &bytes) {
            assert!(status < 500 || status == 505 || status == 501, "{what}: {status}");
        }
        daemon.assert_serving();
        daemon.publish("cats", what);
        assert_eq!(bystander.texts(1), [what]);
    }
}

#[test]
fn the_admin_socket_answers_or_closes_each_request_and_still_serves() {
    let folder = Folder::new();
    let mut daemon = Daemon::start(&folder, "");
    let post = |headers: &str, body: &str| {
        format!("POST /publish HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n{body}").into_bytes()
    };
    let json = |body: &[u8]| {
        let headers = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        joined(&[&post(&headers, ""), body])
    };
    let deep = "[".repeat(100_000);
    let deep_message = format!("{{\"channel\":\"cats\",\"message\":{deep}");
    let forms = [
        form("chunks of garbage", post("Transfer-Encoding: chunked\r\n", "zz\r\nnonsense"), NOT_HTTP),
        form(
            "a huge Content-Length",
            post("Content-Length: 99999999999\r\n", "x"),
            &[Status(400), Status(413), Closed],
        ),
        form("a body that is cut off", post("Content-Length: 100\r\n", "channel=cats"), NOT_HTTP),
        form("deep JSON", json(deep.as_bytes()), &[Status(400), Status(413)]),
        form("a deep message", json(deep_message.as_bytes()), &[Status(400), Status(413)]),
        form("JSON that is not UTF-8", json(b"\xff\xfe"), &[Status(400)]),
        form("no length", post("", ""), &[Status(400), Status(411)]),
        form("a header flood", post(&"X: y\r\n".repeat(100_000), ""), TOO_LARGE),
        form("TRACE", "TRACE /publish HTTP/1.1\r\nHost: a\r\n\r\n", &[Status(405)]),
        form(
            "a channel that climbs",
            "POST /publish/../stats HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            &[Status(200), Status(400), Status(404), Status(405)],
        ),
        form(
            "a channel with NUL",
            "POST /publish/%00 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            &[Status(400)],
        ),
        form(
            "no channel",
            "POST /publish/ HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            &[Status(400), Status(404)],
        ),
        form("garbage", vec![0xff; 10_000], NOT_HTTP),
    ];
    for Form { what, bytes, outcomes } in forms {
        let mut socket = daemon.admin().connect().unwrap();
        let _ = socket.write_all(&bytes);
        if outcomes.contains(&Closed) {
            socket.finish_sending();
        }
        let outcome = Response::read_head(socket).map_or(Closed, |response| Status(response.status()));
        assert!(outcomes.contains(&outcome), "{what}: {outcome:?}, not one of {outcomes:?}");
        daemon.assert_serving();
    }
}

#[test]
fn incomplete_requests_delay_no_other_client_and_time_out() {
    let folder = Folder::new();
    let mut daemon = Daemon::start(&folder, "");
    let halves: Vec<Socket> = (0..200)
        .map(|number| {
            let mut socket = daemon.public().connect().unwrap();
            let request = b"GET /?channels=cats HTTP/1.1\r\nHost: localhost\r\nX-Slow: 1\r\n";
            socket.write_all(&request[..number % request.len()]).unwrap();
            socket
        })
        .collect();
    daemon.assert_serving();
    let mut stream = Subscription::to(&["cats"]).open(daemon.public());
    daemon.publish("cats", "1");
    assert_eq!(stream.texts(1), ["1"]);
    for mut half in halves {
        half.set_timeout(Duration::from_secs(60));
        let mut answer = Vec::new();
        let ended = half.read_to_end(&mut answer);
        assert!(
            ended.is_ok() || ended.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset),
            "a request whose head never arrives is closed"
        );
    }
}

#[test]
fn bytes_sent_on_a_stream_s_connection_harm_no_other_client() {
    let folder = Folder::new();
    let mut daemon = Daemon::start(&folder, "");
    let mut socket = daemon.public().connect().unwrap();
    socket.write_all(&get("/?channels=cats", "")).unwrap();
    let response = Response::read_head(socket).unwrap();
    let mut stream = crate::support::Stream::new(response);
    stream.last_event_id();
    for round in 0..20 {
        let text = format!("event {round}");
        // The daemon may close the connection of a client that sends more on it.
        if stream.send_bytes(b"GET /?channels=dogs HTTP/1.1\r\n\r\n").is_err() {
            break;
        }
        daemon.publish("cats", &text);
        match stream.next() {
            Some(event) => assert_eq!(event.text(), text),
            None => break,
        }
    }
    daemon.assert_serving();
}

/// The program with a limit of `files` open files.
fn program_with_files(folder: &Folder, files: usize) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let text = format!("#!/bin/sh\nulimit -n {files}\nexec {} \"$@\"\n", daemon::PROGRAM);
    let program = folder.write("ssecast-with-few-files", &text);
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    program
}

#[test]
fn too_many_connections_leave_file_descriptors_for_publishing_reloads_and_redis() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = crate::support::RedisServer::start(&folder);
    let program = program_with_files(&folder, 128);
    let mut daemon = Daemon::start_program(&program, &folder, "ssecast", &redis.table());
    daemon.wait_until_ready();
    let mut stream = Subscription::to(&["cats"]).open(daemon.public());
    let request = Subscription::to(&["cats"]).request(daemon.public()).to_bytes();
    // Half of them ask for a stream; half send nothing.
    let others: Vec<Socket> = (0..300)
        .map(|number| {
            let mut socket = daemon.public().connect().unwrap();
            if number % 2 == 0 {
                // Fails if the connection has been refused already.
                let _ = socket.write_all(&request);
            }
            socket
        })
        .collect();
    let refused = eventually("all beyond the limit are answered", || {
        let mut last = Request::get("/healthz").header("Connection", "close").send(daemon.public());
        (last.status() == 503).then(|| last.read_some().unwrap().unwrap())
    });
    assert!(String::from_utf8(refused).unwrap().contains("too_many_connections"));
    daemon.publish("cats", "published");
    assert_eq!(stream.texts(1), ["published"]);
    redis.cut_subscribers();
    assert_eq!(stream.gap().reason, "source", "Redis is connected again");
    daemon.reload();
    daemon.publish("cats", "published after a reload");
    assert_eq!(stream.texts(1), ["published after a reload"]);
    drop(others);
    let again = eventually("new clients are accepted after others have left", || {
        let response = Subscription::to(&["cats"]).request(daemon.public()).send(daemon.public());
        (response.status() == 200).then_some(response)
    });
    daemon.publish("cats", "to both");
    assert_eq!(crate::support::Stream::new(again).texts(1), ["to both"]);
    assert_eq!(stream.texts(1), ["to both"]);
    let log = daemon.child().log();
    assert!(log.contains("stream.max_clients is lowered") && log.contains("lowered_to=64"), "{log}");
    assert!(log.matches("connections are refused").count() <= 2, "one line a process and minute: {log}");
}

/// If an upgrade began right after the answer, the successor could read the body as the next request.
#[test]
fn a_connection_ends_after_the_answer_to_a_request_whose_body_nobody_reads() {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, "");
    for (endpoint, target) in
        [(daemon.public(), "/nothing"), (daemon.public(), "/healthz"), (daemon.admin(), "/healthz")]
    {
        let next = get("/healthz", "");
        let head = get(target, &format!("Content-Length: {}\r\n", next.len()));
        let mut socket = endpoint.connect().unwrap();
        socket.set_timeout(Duration::from_secs(15));
        socket.write_all(&joined(&[&head, &next])).unwrap();
        let mut answers = Vec::new();
        let _ = socket.read_to_end(&mut answers); // The end may be a reset, because the body was not read.
        let answers = String::from_utf8(answers).unwrap().to_ascii_lowercase();
        assert_eq!(answers.matches("http/1.1 ").count(), 1, "{answers}");
        assert!(answers.contains("\r\nconnection: close\r\n"), "{answers}");
    }
}
