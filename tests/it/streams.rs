//! Streams on the public socket: their head, their bytes, their limits, and how they end.

use crate::support::{Daemon, Folder, Request, Stream, Subscription, eventually, publisher::refused};

/// A daemon with the configuration `tables`, and its folder.
fn daemon(tables: &str) -> (Folder, Daemon) {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, tables);
    (folder, daemon)
}

fn open(daemon: &Daemon, channels: &[&str]) -> Stream {
    Subscription::to(channels).open(daemon.public())
}

/// The first `count` bytes of a stream's body.
fn body(daemon: &Daemon, target: &str, count: impl Fn(&[u8]) -> bool) -> String {
    let mut response = Request::get(target).send(daemon.public());
    let mut body = Vec::new();
    while !count(&body) {
        body.extend(response.read_some().unwrap().expect("the stream goes on"));
    }
    String::from_utf8(body).unwrap()
}

#[test]
fn the_head_has_the_headers_that_proxies_and_browsers_need() {
    let (_folder, daemon) = daemon("");
    let stream = open(&daemon, &["cats"]);
    let head = stream.response().head();
    assert_eq!((head.version.as_str(), head.status), ("HTTP/1.1", 200));
    assert_eq!(head.header("content-type"), Some("text/event-stream; charset=utf-8"));
    assert_eq!(head.header("cache-control"), Some("no-store"));
    assert_eq!(head.header("x-accel-buffering"), Some("no"));
    assert_eq!(head.header("connection"), Some("close"), "the body ends with the connection");
    assert_eq!(head.header("content-length"), None);
    assert_eq!(head.header("transfer-encoding"), None);
    assert_eq!(head.header("access-control-allow-origin"), None, "no other origin, unless one is configured");
}

#[test]
fn a_stream_has_exactly_these_bytes() {
    let (_folder, daemon) = daemon("[stream]\nretry = \"1500ms..1600ms\"\n");
    let mut response = Request::get("/?channels=cats").send(daemon.public());
    let mut received = Vec::new();
    let mut read_until = |end: &str| {
        while !received.ends_with(end.as_bytes()) {
            received.extend(response.read_some().unwrap().expect("the stream goes on"));
        }
        String::from_utf8(std::mem::take(&mut received)).unwrap()
    };

    let preamble = read_until("\n\n");
    let lines: Vec<&str> = preamble.split('\n').collect();
    let [":", "event: ssecast.open", retry, "data: {}", id, "", ""] = lines[..] else {
        panic!("not an opening event: {preamble:?}")
    };
    let retry: u64 = retry.strip_prefix("retry: ").unwrap().parse().unwrap();
    assert!((1500..=1600).contains(&retry), "{retry}");
    let (node, position) = id.strip_prefix("id: ").unwrap().split_once('-').unwrap();
    assert_eq!(node.len(), 8, "{id}");
    assert!(position.parse::<u64>().is_ok(), "{id}");

    let id = daemon.publish("cats", "[1,2,3]").id.unwrap();
    assert_eq!(read_until("\n\n"), format!("data: [1,2,3]\nid: {id}\n\n"));
    let fields = [("channel", "cats"), ("message", "7"), ("event", "price")];
    let id = daemon.publish_form(&fields).id.unwrap();
    assert_eq!(read_until("\n\n"), format!("event: price\ndata: 7\nid: {id}\n\n"));
    let id = daemon.publish("cats", "a\r\nb\rc\n\nd ").id.unwrap();
    assert_eq!(read_until("\n\n"), format!("data: a\ndata: b\ndata: c\ndata: \ndata: d \nid: {id}\n\n"));
    let id = daemon.publish("cats", "").id.unwrap();
    assert_eq!(read_until("\n\n"), format!("data: \nid: {id}\n\n"));
    assert_eq!(id.split_once('-').unwrap().0, node, "ids are of one node");
}

#[test]
fn retry_times_are_spread_over_their_range() {
    let (_folder, daemon) = daemon("[stream]\nretry = \"1s..4s\"\n");
    let times: Vec<u64> = (0..20).map(|_| open(&daemon, &["cats"]).retry()).collect();
    assert!(times.iter().all(|time| (1000..=4000).contains(time)), "{times:?}");
    assert!(times.iter().any(|time| *time != times[0]), "{times:?}");
}

#[test]
fn channels_can_be_repeated_or_separated_by_commas_or_have_brackets() {
    let (_folder, daemon) = daemon("");
    let names = ["cats", "dogs", "user:42", "größe", "a b", "news/2024"];
    let queries = [
        "channels=cats,dogs,user:42,gr%C3%B6%C3%9Fe,a+b,news/2024",
        "channels=cats&channels=dogs&channels=user%3A42&channels=gr%c3%b6%c3%9fe&channels=a%20b&channels=news%2F2024",
        "x=y&channels=cats,dogs&channels=user:42,gr%C3%B6%C3%9Fe&channels=a+b%2Cnews/2024&unknown",
    ];
    for query in queries {
        for path in ["/", "/sse/"] {
            let mut stream = Stream::new(Request::get(format!("{path}?{query}")).send(daemon.public()));
            for name in names {
                assert!(daemon.publish(name, name).subscribers > 0, "{name} of {query}");
            }
            assert_eq!(stream.texts(names.len()), names, "{query}");
        }
    }
}

#[test]
fn a_client_gets_the_events_of_its_channels_and_no_others() {
    let (_folder, daemon) = daemon("");
    let mut both = open(&daemon, &["cats", "dogs"]);
    let mut cats = open(&daemon, &["cats"]);
    let mut twice = open(&daemon, &["dogs", "dogs"]);
    for (channel, message, subscribers) in [("cats", "1", 2), ("dogs", "2", 2), ("birds", "3", 0), ("cats", "4", 2)] {
        assert_eq!(daemon.publish(channel, message).subscribers, subscribers, "{channel}");
    }
    daemon.publish("dogs", "5");
    assert_eq!(both.texts(4), ["1", "2", "4", "5"]);
    assert_eq!(cats.texts(2), ["1", "4"]);
    assert_eq!(twice.texts(2), ["2", "5"], "a channel named twice is one subscription");
}

#[test]
fn an_envelope_has_channel_and_data() {
    let (_folder, daemon) = daemon("");
    let mut stream = Subscription::to(&["cats", "a \"b\""]).in_envelopes().open(daemon.public());
    let id = daemon.publish("cats", "line 1\nline 2").id.unwrap();
    daemon.publish_form(&[("channel", "a \"b\""), ("message", "[1]"), ("event", "price")]);
    let events = stream.events(2);
    let json = |text: String| serde_json::from_str::<serde_json::Value>(&text).unwrap();
    assert_eq!(json(events[0].text()), serde_json::json!({ "channel": "cats", "data": "line 1\nline 2" }));
    assert_eq!((events[0].kind.as_str(), &events[0].id), ("message", &id));
    assert_eq!(json(events[1].text()), serde_json::json!({ "channel": "a \"b\"", "data": "[1]" }));
    assert_eq!(events[1].kind, "price");
}

#[test]
fn a_silent_stream_gets_pings() {
    let (_folder, daemon) = daemon("[stream]\nping_interval = \"100ms\"\n");
    let mut stream = open(&daemon, &["cats"]);
    stream.ping();
    stream.ping();
    let id = stream.last_event_id();
    daemon.publish("cats", "still here");
    assert_eq!(stream.texts(1), ["still here"]);
    let mut resumed = Subscription::to(&["cats"]).after(&id).open(daemon.public());
    assert_eq!(resumed.texts(1), ["still here"], "the id of a ping is a valid cursor");
}

#[test]
fn streams_end_at_max_lifetime_and_resume_without_loss() {
    let (_folder, daemon) = daemon("[stream]\nmax_lifetime = \"300ms\"\n");
    let mut stream = open(&daemon, &["cats"]);
    daemon.publish("cats", "1");
    assert_eq!(stream.texts(1), ["1"]);
    let start = std::time::Instant::now();
    assert_eq!(stream.rest(), []);
    assert!(start.elapsed() < std::time::Duration::from_secs(30));
    daemon.publish("cats", "2");
    let mut stream = Subscription::to(&["cats"]).after(&stream.last_event_id()).open(daemon.public());
    assert_eq!(stream.texts(1), ["2"]);
}

#[test]
fn a_client_over_max_clients_gets_a_503_with_retry_after() {
    let (_folder, daemon) = daemon("[stream]\nmax_clients = 3\n");
    let mut clients: Vec<Stream> = (0..3).map(|_| open(&daemon, &["cats"])).collect();
    let refusal = Request::get("/?channels=cats").send(daemon.public());
    assert!(refusal.header("retry-after").unwrap().parse::<u64>().is_ok());
    refused(refusal, 503);
    clients.pop();
    eventually("a place is free", || {
        (Request::get("/?channels=cats").send(daemon.public()).status() == 200).then_some(())
    });
    daemon.publish("cats", "1");
    assert_eq!(clients[0].texts(1), ["1"], "the others were not disturbed");
}

#[test]
fn clients_that_connect_at_the_same_time_are_counted() {
    let (_folder, daemon) = daemon("[stream]\nmax_clients = 5\n[process]\nworkers = 2\n");
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let asking: Vec<_> =
            (0..40).map(|_| scope.spawn(|| Request::get("/?channels=cats").send(daemon.public()))).collect();
        let responses: Vec<_> = asking.into_iter().map(|client| client.join().unwrap()).collect();
        responses.iter().map(crate::support::Response::status).collect()
    });
    let count = |status| statuses.iter().filter(|&&given| given == status).count();
    assert_eq!((count(200), count(503)), (5, 35));
}

#[test]
fn a_head_request_gets_the_head_of_a_stream() {
    let (_folder, daemon) = daemon("");
    let response = Request::new("HEAD", "/?channels=cats").header("Connection", "close").send(daemon.public());
    assert_eq!((response.status(), response.header("content-type")), (200, Some("text/event-stream; charset=utf-8")));
    assert!(daemon.stats().is_empty());
}

#[test]
fn bad_requests_get_an_error_that_says_what_is_wrong() {
    let (_folder, daemon) = daemon("[stream]\nmax_channels_per_client = 3\n");
    let get = |target: &str| Request::get(target).header("Connection", "close").send(daemon.public());
    for target in ["/", "/?", "/?channels=", "/?channels=,", "/?channels", "/?chanels=cats", "/sse/", "/sse"] {
        assert!(refused(get(target), 400).contains("channel"), "{target}");
    }
    for bad in ["a*%5B", "%3F", "%5Ba%5D", "a%5C", "a%0Ab", "a%00", "%FF", "%C3%28", &"x".repeat(256)] {
        refused(get(&format!("/?channels=cats&channels={bad}")), 400);
    }
    assert!(refused(get("/?channels=a,b,c,d"), 400).contains('3'), "the error names the limit");
    assert_eq!(get(&format!("/?channels={}", "x".repeat(255))).status(), 200);
    for target in ["/nothing", "/sse/x", "/publish", "/stats", "//", "/index.html"] {
        refused(get(target), 404);
    }
    for method in ["POST", "PUT", "DELETE", "PATCH", "BREW"] {
        let response = Request::new(method, "/?channels=cats").header("Connection", "close").send(daemon.public());
        assert!(response.header("allow").is_some_and(|allow| allow.contains("GET")), "{method}");
        refused(response, 405);
    }
    assert_eq!(get("/healthz").status(), 200);
}

#[test]
fn a_connection_can_be_used_again_after_a_refusal() {
    use std::io::Write;
    let (_folder, daemon) = daemon("");
    let mut socket = daemon.public().connect().unwrap();
    let mut buffer = [0; 4096];
    for target in ["/nothing", "/?channels=a%3F", "/healthz"] {
        socket.write_all(&Request::get(target).to_bytes()).unwrap();
        let (mut decoder, mut body) = (crate::support::Decoder::default(), Vec::new());
        while !decoder.is_complete() {
            let count = std::io::Read::read(&mut socket, &mut buffer).unwrap();
            assert_ne!(count, 0, "{target} ended the connection");
            decoder.feed(&buffer[..count], &mut body);
        }
    }
    socket.write_all(&Request::get("/?channels=cats").to_bytes()).unwrap();
    let mut stream = Stream::new(crate::support::Response::read_head(socket).unwrap());
    daemon.publish("cats", "1");
    assert_eq!(stream.texts(1), ["1"]);
}

#[test]
fn clients_that_disconnect_are_not_counted() {
    let (_folder, mut daemon) = daemon("");
    let files = daemon.child().open_files();
    let mut clients: Vec<Stream> = (0..50).map(|_| open(&daemon, &["cats", "general"])).collect();
    clients.extend((0..20).map(|_| open(&daemon, &["dogs", "general"])));
    let expected = [("cats", 50), ("dogs", 20), ("general", 70)].map(|(name, count)| (name.to_owned(), count));
    assert_eq!(daemon.stats(), expected);
    clients.drain(..50);
    eventually("those of cats have left", || (daemon.subscribers("cats") == 0).then_some(()));
    let expected = [("dogs", 20), ("general", 20)].map(|(name, count)| (name.to_owned(), count));
    assert_eq!(daemon.stats(), expected, "a channel without subscribers is not listed");
    clients.clear();
    eventually("all have left", || daemon.stats().is_empty().then_some(()));
    eventually("their sockets are closed", || (daemon.child().open_files() <= files + 1).then_some(()));
}

#[test]
fn only_pages_of_configured_origins_can_read_streams() {
    let (_folder, daemon) = daemon("[stream]\nallow_origins = [\"https://a.example\"]\n");
    let ask = |origin: &str| {
        let response = Request::get("/?channels=cats").header("Origin", origin).send(daemon.public());
        response.header("access-control-allow-origin").map(str::to_owned)
    };
    assert_eq!(ask("https://a.example").as_deref(), Some("https://a.example"));
    assert_eq!(ask("https://b.example"), None);
}

#[test]
fn clients_of_all_workers_get_every_event() {
    let (_folder, daemon) = daemon("[process]\nworkers = 3\n");
    let mut clients: Vec<Stream> = (0..12).map(|_| open(&daemon, &["cats"])).collect();
    let messages: Vec<String> = (0..200).map(|number| number.to_string()).collect();
    let published = daemon.publish_many("cats", messages.iter().map(String::as_str));
    assert!(published.iter().all(|answer| answer.subscribers == 12), "{published:?}");
    for client in &mut clients {
        let events = client.events(200);
        assert_eq!(events.iter().map(|event| event.text()).collect::<Vec<_>>(), messages);
        assert!(events.iter().zip(&published).all(|(event, answer)| Some(&event.id) == answer.id.as_ref()));
    }
    assert_eq!(daemon.stats(), [("cats".to_owned(), 12)]);
}

#[test]
fn a_silent_stream_gets_only_the_opening_event() {
    let (_folder, daemon) = daemon("");
    let text = body(&daemon, "/?channels=cats", |body| body.ends_with(b"\n\n"));
    assert_eq!(text.matches('\n').count(), 6, "{text:?}");
}
