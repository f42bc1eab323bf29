//! The shipped nginx snippet: what it passes on, what it does not, and what it answers while the daemon is down.

use std::{
    io::{Read, Write},
    os::unix::net::UnixListener,
};

use crate::support::{
    Daemon, Endpoint, Folder, Nginx, Parser, Request, Stream, Subscription, eventually, nginx, publisher::refused,
};

fn start(tables: &str) -> (Folder, Daemon, Nginx) {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, tables);
    let nginx = Nginx::start(&folder, &daemon);
    (folder, daemon, nginx)
}

/// Asserts that `endpoint` answers `request` with a stream that has a retry time and one event, after which the client's last
/// event id is `cursor` (`None` for a client without one).
fn assert_retry_later(endpoint: &Endpoint, request: &Request, cursor: Option<&str>) {
    let response = request.send(endpoint);
    assert_eq!(response.status(), 200, "EventSource never retries after any other status");
    assert_eq!(response.header("content-type"), Some("text/event-stream; charset=utf-8"));
    assert_eq!(response.header("cache-control"), Some("no-store"));
    let body = response.text();
    let (mut parser, mut events) = (Parser::default(), Vec::new());
    parser.feed(body.as_bytes(), &mut events);
    assert!(parser.retry.is_some_and(|retry| (500..60_000).contains(&retry)), "{body:?}");
    let kinds: Vec<(&str, String)> = events.iter().map(|event| (event.kind.as_str(), event.text())).collect();
    assert_eq!(kinds, [("ssecast.down", "{}".to_owned())], "{body:?}");
    // At a blank line, a client sets its last event id to the last `id:` of the connection, even if that is empty.
    assert_eq!(body.contains("\nid:"), cursor.is_some(), "an empty id makes a client forget its cursor: {body:?}");
    assert_eq!(parser.committed_id.as_deref().unwrap_or_default(), cursor.unwrap_or_default(), "{body:?}");
}

/// The request of a stream that resumes after `last_event_id`.
fn resuming(endpoint: &Endpoint, last_event_id: &str) -> Request {
    Subscription::to(&["cats"]).after(last_event_id).request(endpoint)
}

#[test]
fn nginx_accepts_the_shipped_files() {
    let output = nginx::test_config(&Folder::new());
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}");
    assert!(!printed.contains("[warn]"), "{printed}");
}

#[test]
fn nginx_accepts_the_optional_lines_of_the_shipped_files() {
    needs!("nginx");
    let output = nginx::test_config_with_options(&Folder::new());
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !printed.contains("[warn]"), "{printed}");
}

#[test]
fn a_stream_passes_unchanged_and_without_delay() {
    needs!("nginx");
    let (_folder, daemon, nginx) = start("");
    let mut stream = Subscription::to(&["cats", "größe &+=%"]).open(&nginx.sse());
    let head = stream.response().head();
    assert_eq!((head.status, head.header("cache-control")), (200, Some("no-store")));
    assert_eq!(head.header("content-encoding"), None);
    for number in 0..50 {
        let id = daemon.publish("größe &+=%", &number.to_string()).id;
        let event = stream.event();
        assert_eq!((event.text(), Some(event.id)), (number.to_string(), id));
    }
    let long = "x".repeat(1 << 20);
    daemon.publish("cats", &long);
    assert!(stream.texts(1)[0] == long);
    drop(stream);
    eventually("the daemon sees that the browser has closed its stream", || daemon.stats().is_empty().then_some(()));
}

#[test]
fn last_event_id_passes_by_header_and_query() {
    needs!("nginx");
    let (_folder, daemon, nginx) = start("");
    let cursor = Subscription::to(&["cats"]).open(&nginx.sse()).last_event_id();
    daemon.publish("cats", "1");
    assert_eq!(Subscription::to(&["cats"]).after(&cursor).open(&nginx.sse()).texts(1), ["1"]);
    let request = Request::get(format!("/sse/?channels=cats&last_event_id={cursor}"));
    assert_eq!(Stream::new(request.send(&nginx.sse())).texts(1), ["1"]);
}

#[test]
fn while_the_daemon_is_down_streams_get_a_retry_time() {
    needs!("nginx");
    let (_folder, mut daemon, nginx) = start("");
    let mut stream = Subscription::to(&["cats"]).open(&nginx.sse());
    let cursor = stream.last_event_id();
    daemon.child().kill();
    stream.rest();
    assert_retry_later(&nginx.sse(), &resuming(&nginx.sse(), &cursor), Some(&cursor));
    std::fs::remove_file(daemon.public().path()).unwrap();
    assert_retry_later(&nginx.sse(), &resuming(&nginx.sse(), &cursor), Some(&cursor));
    daemon.start_again();
    let mut stream = Subscription::to(&["cats"]).after(&cursor).open(&nginx.sse());
    assert_eq!(stream.gap().reason, "restart");
}

#[test]
fn while_the_daemon_is_down_a_client_keeps_its_cursor_from_header_or_query() {
    needs!("nginx");
    let (_folder, mut daemon, nginx) = start("");
    daemon.child().kill();
    let stream =
        |query: &str| Request::get(format!("/sse/?channels=cats{query}")).header("Accept", "text/event-stream");
    assert_retry_later(&nginx.sse(), &stream(""), None);
    assert_retry_later(&nginx.sse(), &stream("").header("Last-Event-ID", ""), None);
    assert_retry_later(&nginx.sse(), &stream("").header("Last-Event-ID", "abcdefgh-1~7-0"), Some("abcdefgh-1~7-0"));
    assert_retry_later(&nginx.sse(), &stream("&last_event_id=abcdefgh-1"), Some("abcdefgh-1"));
    assert_retry_later(&nginx.sse(), &stream("&lastEventId=abcdefgh-2&last_event_id=abcdefgh-1"), Some("abcdefgh-2"));
    let header = stream("&lastEventId=abcdefgh-2").header("Last-Event-ID", "abcdefgh-3");
    assert_retry_later(&nginx.sse(), &header, Some("abcdefgh-3"));
}

#[test]
fn while_the_daemon_is_down_a_jquery_poll_gets_no_event_and_a_json_poll_a_503() {
    needs!("nginx");
    let (_folder, mut daemon, nginx) = start("");
    daemon.child().kill();
    let jquery = Request::get("/sse/?channels=cats").header("X-Requested-With", "XMLHttpRequest");
    let response = jquery.send(&nginx.sse());
    assert_eq!(response.status(), 200);
    let body = response.text();
    assert!(body.starts_with("retry: ") && body.lines().count() == 1, "{body:?}");
    let json = Request::get("/sse/?channels=cats").header("Accept", "application/json");
    assert_eq!(json.send(&nginx.sse()).status(), 503);
}

#[test]
fn a_preflight_allows_authorization_while_the_daemon_is_up_and_while_it_is_down() {
    needs!("nginx");
    let (_folder, mut daemon, nginx) = start("[stream]\nallow_origins = [\"https://a.example\"]\n");
    let preflight = Request::new("OPTIONS", "/sse/?channels=cats")
        .header("Origin", "https://a.example")
        .header("Access-Control-Request-Method", "GET")
        .header("Access-Control-Request-Headers", "authorization,last-event-id");
    let allowed = || {
        let response = preflight.send(&nginx.sse());
        assert_eq!(response.status(), 204);
        assert_eq!(response.header("access-control-allow-origin"), Some("https://a.example"));
        let allowed = response.header("access-control-allow-headers").unwrap_or_default().to_ascii_lowercase();
        assert!(["authorization", "last-event-id", "cache-control"].iter().all(|name| allowed.contains(name)));
        allowed
    };
    let up = allowed();
    daemon.child().kill();
    assert_eq!(allowed(), up);
}

#[test]
fn over_max_clients_streams_get_a_retry_time() {
    needs!("nginx");
    let (_folder, _daemon, nginx) = start("[stream]\nmax_clients = 1\n");
    let mut first = Subscription::to(&["cats"]).open(&nginx.sse());
    let cursor = first.last_event_id();
    assert_retry_later(&nginx.sse(), &resuming(&nginx.sse(), &cursor), Some(&cursor));
}

#[test]
fn refusals_pass_unchanged() {
    needs!("nginx");
    let (_folder, _daemon, nginx) = start("");
    refused(Request::get("/sse/?channels=a%3F").send(&nginx.sse()), 400);
    refused(Request::get("/sse/nothing").send(&nginx.sse()), 404);
    for admin in ["/sse/publish", "/sse/stats", "/sse/metrics", "/sse/..%2fpublish"] {
        assert_eq!(Request::get(admin).send(&nginx.sse()).status(), 404, "{admin} is the admin socket's");
    }
    assert_eq!(Request::post("/sse/publish", "", "channel=cats&message=x").send(&nginx.sse()).status(), 404);
}

#[test]
fn headers_that_ssecast_trusts_cannot_be_forged() {
    needs!("nginx");
    let folder = Folder::new();
    let socket = folder.path("upstream.sock");
    let upstream = UnixListener::bind(&socket).unwrap();
    let nginx = Nginx::start_before(&folder, &socket);
    let received = std::thread::spawn(move || {
        let (mut connection, _) = upstream.accept().unwrap();
        let (mut received, mut buffer) = (Vec::new(), [0; 4096]);
        while !received.windows(4).any(|window| window == b"\r\n\r\n") {
            let count = connection.read(&mut buffer).unwrap();
            received.extend_from_slice(&buffer[..count]);
        }
        connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        String::from_utf8(received).unwrap()
    });
    let request = Request::get("/sse/?channels=cats&last_event_id=x%2C")
        .header("X-Real-IP", "6.6.6.6")
        .header("X-Forwarded-For", "6.6.6.6")
        .header("X-SSEcast-User", "root")
        .header("X_Real_IP", "6.6.6.6")
        .header("Authorization", "Bearer x")
        .header("Cookie", "a=b")
        .header("If-None-Match", "\"x\"")
        .header("Last-Event-ID", "abcdefgh-1")
        .header("Accept", "text/event-stream");
    assert_eq!(request.send(&nginx.sse()).status(), 200);
    let received = received.join().unwrap();
    assert!(received.starts_with("GET /?channels=cats&last_event_id=x%2C HTTP/1.1\r\n"), "{received}");
    assert!(received.contains("\r\nX-Real-IP: 127.0.0.1\r\n"), "{received}");
    assert!(received.contains("\r\nLast-Event-ID: abcdefgh-1\r\n"), "{received}");
    assert!(received.contains("\r\nAccept: text/event-stream\r\n"), "{received}");
    let unread = ["Authorization", "Cookie", "If-None-Match"];
    assert!(!unread.iter().any(|name| received.contains(name)), "what ssecast does not read is not sent: {received}");
    assert!(!received.contains("6.6.6.6") && !received.to_lowercase().contains("ssecast-user"), "{received}");
}

#[test]
fn a_stream_through_nginx_gets_pings_and_stays_open() {
    needs!("nginx");
    let (_folder, daemon, nginx) = start("[stream]\nping_interval = \"50ms\"\n");
    let mut stream = Subscription::to(&["cats"]).open(&nginx.sse());
    for _ in 0..5 {
        stream.ping();
    }
    daemon.publish("cats", "still here");
    assert_eq!(stream.texts(1), ["still here"]);
}
