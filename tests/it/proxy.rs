//! The shipped nginx snippet: what it passes on, what it keeps to itself, and what it answers while the daemon is away.

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

/// Asserts that `endpoint` answers a subscription with an empty event stream that says no more than when to come back.
fn assert_told_to_come_back(endpoint: &Endpoint, last_event_id: &str) {
    let response = Subscription::to(&["cats"]).after(last_event_id).request(endpoint).send(endpoint);
    assert_eq!(response.status(), 200, "EventSource gives up for good on any other status");
    assert_eq!(response.header("content-type"), Some("text/event-stream"));
    assert_eq!(response.header("cache-control"), Some("no-cache"));
    let body = response.body();
    let (mut parser, mut events) = (Parser::default(), Vec::new());
    parser.feed(&body, &mut events);
    assert_eq!(events, []);
    assert!(parser.retry.is_some_and(|retry| (500..60_000).contains(&retry)), "{:?}", String::from_utf8_lossy(&body));
    // The standard has a blank line set the last event id, to the empty string where the connection has named none: the
    // client would forget where it was.
    assert_eq!(parser.committed_id, None, "{:?} makes a client forget its cursor", String::from_utf8_lossy(&body));
}

#[test]
fn nginx_takes_the_shipped_files() {
    let output = nginx::test_config(&Folder::new());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("[warn]"), "{said}");
}

#[test]
fn a_stream_passes_as_it_is_and_at_once() {
    let (_folder, daemon, nginx) = start("");
    let mut stream = Subscription::to(&["cats", "größe &+=%"]).open(&nginx.sse());
    let head = stream.response().head();
    assert_eq!((head.status, head.header("cache-control")), (200, Some("no-cache")));
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
    eventually("the daemon sees that the browser has left", || daemon.stats().is_empty().then_some(()));
}

#[test]
fn resuming_passes_through() {
    let (_folder, daemon, nginx) = start("");
    let cursor = Subscription::to(&["cats"]).open(&nginx.sse()).last_event_id();
    daemon.publish("cats", "1");
    assert_eq!(Subscription::to(&["cats"]).after(&cursor).open(&nginx.sse()).texts(1), ["1"]);
    let request = Request::get(format!("/sse/?channels=cats&last_event_id={cursor}"));
    assert_eq!(Stream::new(request.send(&nginx.sse())).texts(1), ["1"]);
}

#[test]
fn while_the_daemon_is_away_clients_are_told_to_come_back() {
    let (_folder, mut daemon, nginx) = start("");
    let mut stream = Subscription::to(&["cats"]).open(&nginx.sse());
    let cursor = stream.last_event_id();
    daemon.child().kill();
    stream.rest();
    assert_told_to_come_back(&nginx.sse(), &cursor);
    std::fs::remove_file(daemon.public().path()).unwrap();
    assert_told_to_come_back(&nginx.sse(), &cursor);
    daemon.start_again();
    let mut stream = Subscription::to(&["cats"]).after(&cursor).open(&nginx.sse());
    assert_eq!(stream.gap().reason, "restart");
}

#[test]
fn beyond_the_most_clients_a_browser_is_told_to_come_back() {
    let (_folder, _daemon, nginx) = start("[stream]\nmax_clients = 1\n");
    let mut first = Subscription::to(&["cats"]).open(&nginx.sse());
    assert_told_to_come_back(&nginx.sse(), &first.last_event_id());
}

#[test]
fn refusals_pass_as_ssecast_wrote_them() {
    let (_folder, _daemon, nginx) = start("");
    refused(Request::get("/sse/?channels=a*").send(&nginx.sse()), 400);
    refused(Request::get("/sse/nothing").send(&nginx.sse()), 404);
    for admin in ["/sse/publish", "/sse/stats", "/sse/metrics", "/sse/..%2fpublish"] {
        assert_eq!(Request::get(admin).send(&nginx.sse()).status(), 404, "{admin} is the admin socket's");
    }
    assert_eq!(Request::post("/sse/publish", "", "channel=cats&message=x").send(&nginx.sse()).status(), 404);
}

#[test]
fn headers_that_ssecast_trusts_cannot_be_forged() {
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
        .header("Last-Event-ID", "abcdefgh-1")
        .header("Accept", "text/event-stream");
    assert_eq!(request.send(&nginx.sse()).status(), 200);
    let received = received.join().unwrap();
    assert!(received.starts_with("GET /?channels=cats&last_event_id=x%2C HTTP/1.1\r\n"), "{received}");
    assert!(received.contains("\r\nX-Real-IP: 127.0.0.1\r\n"), "{received}");
    assert!(received.contains("\r\nLast-Event-ID: abcdefgh-1\r\n"), "{received}");
    assert!(received.contains("\r\nAccept: text/event-stream\r\n"), "{received}");
    assert!(!received.contains("6.6.6.6") && !received.to_lowercase().contains("ssecast-user"), "{received}");
}

#[test]
fn nginx_ends_its_wait_where_the_daemon_hangs_only_far_above_the_pings() {
    let (_folder, daemon, nginx) = start("[stream]\nping_interval = \"50ms\"\n");
    let mut stream = Subscription::to(&["cats"]).open(&nginx.sse());
    for _ in 0..5 {
        stream.ping();
    }
    daemon.publish("cats", "still here");
    assert_eq!(stream.texts(1), ["still here"]);
}
