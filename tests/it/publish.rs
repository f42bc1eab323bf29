//! Publishing on the admin socket: every form of a request, every refusal, and what subscribers get.

use std::io::Write as _;

use serde_json::{Value, json};

use crate::support::{
    Daemon, Folder, Published, Request, Response, Socket, Stream, Subscription, eventually,
    publisher::{accepted, accepted_lines, refused},
};

fn daemon(tables: &str) -> (Folder, Daemon) {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, tables);
    (folder, daemon)
}

fn open(daemon: &Daemon, channels: &[&str]) -> Stream {
    Subscription::to(channels).open(daemon.public())
}

#[test]
fn a_form_as_cyclone_sse_s_clients_send_it_is_published() {
    let (_folder, daemon) = daemon("");
    let mut stream = open(&daemon, &["base"]);
    let response =
        daemon.post("/publish", "application/x-www-form-urlencoded", "channel=base&message=%5B1%2C2%2C+3%5D");
    assert_eq!(response.header("content-type").map(|kind| kind.starts_with("application/json")), Some(true));
    let published = accepted(response);
    let event = stream.event();
    assert_eq!((event.text().as_str(), Some(event.id)), ("[1,2, 3]", published.id));
    assert_eq!(published.subscribers, 1);
}

#[test]
fn a_form_may_name_several_channels() {
    let (_folder, daemon) = daemon("");
    let (mut cats, mut dogs) = (open(&daemon, &["cats"]), open(&daemon, &["dogs"]));
    let mut both = open(&daemon, &["cats", "dogs"]);
    let published = daemon.publish_form(&[("channel", "cats"), ("channel", "dogs"), ("message", "all")]);
    assert_eq!(published.subscribers, 4, "each delivery counts");
    assert_eq!(cats.texts(1), ["all"]);
    assert_eq!(dogs.texts(1), ["all"]);
    assert_eq!(both.texts(2), ["all", "all"]);
}

#[test]
fn json_strings_are_published_as_their_text_and_other_values_as_json() {
    let (_folder, daemon) = daemon("");
    let mut stream = open(&daemon, &["cats"]);
    let bodies = [
        (r#"{"channel":"cats","message":"plain \u00e9\n2"}"#, "plain é\n2"),
        (r#"{"channel":"cats","message":[1, 2,  3.50]}"#, "[1, 2,  3.50]"),
        (r#"{"channel":"cats","message":{"b":1,"a":{"c":"\u00e9"}}}"#, r#"{"b":1,"a":{"c":"\u00e9"}}"#),
        (r#"{"channel":"cats","message":12345678901234567890123}"#, "12345678901234567890123"),
        (r#"{"channel":"cats","message":null}"#, "null"),
        (r#"{"channel":"cats","message":true}"#, "true"),
        (r#"{"channel":"cats","message":""}"#, ""),
    ];
    for (body, text) in bodies {
        accepted(daemon.post("/publish", "application/json", body));
        assert_eq!(stream.texts(1), [text], "{body}");
    }
    accepted(daemon.post_json(&json!({ "channel": "cats", "message": "7", "event": "price" })));
    assert_eq!(stream.event().kind, "price");
    accepted(daemon.post("/publish", "application/json; charset=utf-8", bodies[0].0));
    assert_eq!(stream.texts(1), [bodies[0].1]);
}

#[test]
fn an_array_and_ndjson_publish_their_messages_in_order() {
    let (_folder, daemon) = daemon("");
    let mut stream = open(&daemon, &["cats", "dogs"]);
    let items = [("cats", "1"), ("dogs", "2"), ("cats", "3")]
        .map(|(channel, message)| json!({ "channel": channel, "message": message }));
    let array: Vec<Published> = {
        let response = daemon.post_json(&Value::from(items.to_vec()));
        assert_eq!(response.status(), 200);
        serde_json::from_value(response.json()).unwrap()
    };
    let lines = items.map(|item| item.to_string()).join("\n");
    let ndjson = accepted_lines(daemon.post("/publish", "application/x-ndjson", lines + "\n"));
    let events = stream.events(6);
    assert_eq!(events.iter().map(|event| event.text()).collect::<Vec<_>>(), ["1", "2", "3", "1", "2", "3"]);
    let ids: Vec<_> = array.iter().chain(&ndjson).map(|answer| answer.id.clone().unwrap()).collect();
    assert_eq!(events.iter().map(|event| event.id.clone()).collect::<Vec<_>>(), ids);
    let positions: Vec<u64> = ids.iter().map(|id| id.split_once('-').unwrap().1.parse().unwrap()).collect();
    assert!(positions.is_sorted_by(|earlier, later| earlier < later), "{positions:?}");
}

#[test]
fn an_invalid_message_in_a_list_is_named_and_none_is_published() {
    let (_folder, daemon) = daemon("");
    let mut stream = open(&daemon, &["cats"]);
    let array = json!([
        { "channel": "cats", "message": "1" },
        { "channel": "c*ts", "message": "2" },
        { "channel": "cats", "message": "3" },
    ]);
    let error = refused(daemon.post_json(&array), 400);
    assert!(error.contains("message 1 ") && error.contains('*'), "{error}");
    let lines = "{\"channel\":\"cats\",\"message\":\"1\"}\nnonsense\n";
    assert!(refused(daemon.post("/publish", "application/x-ndjson", lines), 400).contains("message 1"));
    daemon.publish("cats", "the first");
    assert_eq!(stream.texts(1), ["the first"]);
}

#[test]
fn a_raw_body_is_the_message_byte_for_byte() {
    let (_folder, daemon) = daemon("");
    let mut stream = open(&daemon, &["a b/ü"]);
    let ascii: Vec<u8> = (0..=127).filter(|byte| !b"\r\n".contains(byte)).collect();
    let long = vec![b'x'; 1 << 20];
    for message in
        [b"".as_slice(), b" lead and trail ", b"\0", "ü\u{10ffff}".as_bytes(), b"data: x", b":", &ascii, &long]
    {
        let published = daemon.publish_raw("a b/ü", message);
        let event = stream.event();
        assert!(event.data == message, "{} bytes came as {}", message.len(), event.data.len());
        assert_eq!((event.kind.as_str(), Some(event.id)), ("message", published.id));
    }
    for (message, text) in [("a\r\n\rb\n", "a\n\nb\n"), ("\n", "\n"), ("\r\n", "\n"), ("\r\r", "\n\n")] {
        daemon.publish_raw("a b/ü", message.as_bytes());
        assert_eq!(stream.texts(1), [text], "line ends become LF: {message:?}");
    }
    accepted(daemon.post("/publish/a%20b%2F%C3%BC?event=price", "", "7"));
    assert_eq!(stream.event().kind, "price");
}

#[test]
fn invalid_event_types_and_channel_names_are_refused() {
    let (_folder, mut daemon) = daemon("");
    let mut stream = open(&daemon, &["cats"]);
    for event in ["a\nid: 7", "a\rdata: b", "a\0b", "ssecast.gap", &"x".repeat(256)] {
        refused(daemon.post_form(&[("channel", "cats"), ("message", "m"), ("event", event)]), 400);
        refused(daemon.post_json(&json!({ "channel": "cats", "message": "m", "event": event })), 400);
        let encoded: String = form_urlencoded::byte_serialize(event.as_bytes()).collect();
        refused(daemon.post(&format!("/publish/cats?event={encoded}"), "", "m"), 400);
    }
    for channel in ["", "a*", "a,b", "a\nb", "a?", "[a]", "a\\", &"x".repeat(256)] {
        refused(daemon.post_form(&[("channel", channel), ("message", "m")]), 400);
        refused(daemon.post_json(&json!({ "channel": channel, "message": "m" })), 400);
    }
    daemon.publish("cats", "untouched");
    assert_eq!(stream.texts(1), ["untouched"]);
    daemon.assert_serving();
}

#[test]
fn bodies_without_channel_or_message_are_refused_with_the_reason() {
    let (_folder, mut daemon) = daemon("");
    assert!(refused(daemon.post_form(&[("message", "m")]), 400).contains("channel"));
    assert!(refused(daemon.post_form(&[("channel", "cats")]), 400).contains("message"));
    assert!(refused(daemon.post_json(&json!({ "message": "m" })), 400).contains("channel"));
    assert!(refused(daemon.post_json(&json!({ "channel": "cats" })), 400).contains("message"));
    for body in ["", "{", "7", "\"x\"", "{\"channel\":7,\"message\":\"m\"}", "nonsense", "{\"channel\":\"cats\""] {
        refused(daemon.post("/publish", "application/json", body), 400);
    }
    let response = Request::get("/publish").header("Connection", "close").send(daemon.admin());
    assert!(response.header("allow").is_some_and(|allow| allow.contains("POST")));
    refused(response, 405);
    refused(daemon.admin_get("/nothing"), 404);
    daemon.assert_serving();
}

#[test]
fn a_message_longer_than_max_message_is_refused() {
    let (_folder, daemon) = daemon("[publish]\nmax_message = \"1KiB\"\n");
    let mut stream = open(&daemon, &["cats"]);
    let (longest, too_long) = ("x".repeat(1024), "x".repeat(1025));
    daemon.publish_raw("cats", longest.as_bytes());
    daemon.publish("cats", &longest);
    accepted(daemon.post_json(&json!({ "channel": "cats", "message": longest })));
    refused(daemon.post("/publish/cats", "", too_long.as_str()), 413);
    refused(daemon.post_form(&[("channel", "cats"), ("message", &too_long)]), 413);
    refused(daemon.post_json(&json!({ "channel": "cats", "message": too_long })), 413);
    let endless = "x".repeat(50 << 20);
    refused(daemon.post("/publish/cats", "", endless.as_str()), 413);
    assert_eq!(stream.texts(3), [longest.as_str(); 3]);
}

#[test]
fn a_publisher_needs_a_key_if_keys_are_configured() {
    let folder = Folder::new();
    let keys = folder.write("keys", "first-secret\nsecond-secret\n");
    let daemon = Daemon::start(&folder, &format!("[publish]\nkey_files = [{keys:?}]\n"));
    let mut stream = open(&daemon, &["cats"]);
    for key in [None, Some("wrong"), Some(""), Some("first-secre"), Some("first-secret2"), Some("first-secret\n")] {
        let mut fields = vec![("channel", "cats"), ("message", "forbidden")];
        fields.extend(key.map(|key| ("key", key)));
        let error = refused(daemon.post_form(&fields), 403);
        assert!(!error.contains("first-secret") || key.is_some_and(|key| key.contains("first-secret")), "{error}");
        let mut object = json!({ "channel": "cats", "message": "forbidden" });
        if let Some(key) = key {
            object["key"] = key.into();
        }
        refused(daemon.post_json(&object), 403);
    }
    refused(daemon.post("/publish/cats", "", "forbidden"), 403);
    daemon.publish_form(&[("channel", "cats"), ("message", "1"), ("key", "first-secret")]);
    accepted(daemon.post_json(&json!({ "channel": "cats", "message": "2", "key": "second-secret" })));
    assert_eq!(stream.texts(2), ["1", "2"]);
    assert_eq!(daemon.admin_get("/healthz").status(), 200, "health needs no key");
}

#[test]
fn events_published_without_clients_are_kept_for_later_clients() {
    let (_folder, daemon) = daemon("");
    let cursor = open(&daemon, &["elsewhere"]).last_event_id();
    assert_eq!(daemon.publish("cats", "early").subscribers, 0);
    let mut stream = Subscription::to(&["cats"]).after(&cursor).open(daemon.public());
    assert_eq!(stream.texts(1), ["early"]);
}

#[test]
fn health_readiness_and_stats_are_answered() {
    let (_folder, daemon) = daemon("");
    assert_eq!(daemon.admin_get("/healthz").status(), 200);
    assert_eq!(daemon.admin_get("/readyz").status(), 200);
    assert_eq!(daemon.admin_get("/stats").json(), json!([]));
    daemon.publish("cats", "1");
    assert_eq!(daemon.admin_get("/readyz").json()["counters"]["events"], 1);
}

/// Sends `head` with a `Content-Length` of `length`, and only `sent` bytes of the body.
fn unfinished(daemon: &Daemon, head: &str, length: usize, sent: usize) -> Socket {
    let mut socket = daemon.admin().connect().unwrap();
    let head = format!("POST {head}\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
    socket.write_all(head.as_bytes()).unwrap();
    // The request may have been refused already.
    let _ = socket.write_all(&vec![b'x'; sent]);
    socket
}

#[test]
fn a_body_is_not_read_for_a_user_who_may_not_publish() {
    let folder = Folder::new();
    let nobody_here = nix::unistd::geteuid().as_raw() + 1;
    let daemon = Daemon::start(&folder, &format!("[publish]\nusers = [{nobody_here}]\n"));
    for target in ["/publish", "/publish/cats"] {
        let socket = unfinished(&daemon, &format!("{target} HTTP/1.1"), 1 << 20, 0);
        let response = Response::read_head(socket).unwrap();
        assert_eq!(response.header("connection"), Some("close"), "the body must not be read as a request");
        refused(response, 403);
    }
    // A small body is dropped, and the connection stays open.
    let mut socket = daemon.admin().connect().unwrap();
    for _ in 0..2 {
        socket.write_all(&Request::new("POST", "/publish/cats").body("m").to_bytes()).unwrap();
        let mut response = Response::read_head(socket).unwrap();
        assert_eq!((response.status(), response.header("connection")), (403, None));
        assert!(response.read_some().unwrap().is_some());
        assert_eq!(response.read_some().unwrap(), None);
        socket = response.into_socket();
    }
}

#[test]
fn a_body_is_not_read_with_a_wrong_key_in_the_head_or_none_for_a_raw_message() {
    let folder = Folder::new();
    let keys = folder.write("keys", "secret\n");
    let daemon = Daemon::start(&folder, &format!("[publish]\nkey_files = [{keys:?}]\n"));
    for head in [
        "/publish HTTP/1.1\r\nAuthorization: Bearer wrong",
        "/publish?key=wrong HTTP/1.1",
        "/publish/cats?key=wrong HTTP/1.1",
        "/publish/cats HTTP/1.1",
    ] {
        refused(Response::read_head(unfinished(&daemon, head, 1 << 20, 0)).unwrap(), 403);
    }
    accepted(daemon.post("/publish?key=secret", "", "channel=cats&message=m"));
    accepted(daemon.post("/publish/cats?key=secret", "", "m"));
}

#[test]
fn bodies_without_a_known_key_use_little_memory_and_delay_no_publisher() {
    let folder = Folder::new();
    let keys = folder.write("keys", "secret\n");
    let mut daemon = Daemon::start(&folder, &format!("[publish]\nkey_files = [{keys:?}]\n"));
    let before = daemon.child().memory();
    // The key may be in the body, so the body must be read. All such bodies together get 16 MiB.
    let mut strangers: Vec<Socket> =
        (0..40).map(|_| unfinished(&daemon, "/publish HTTP/1.1", 16 << 20, 1 << 20)).collect();
    let refused_ones = eventually("those beyond the memory are refused", || {
        let refused = strangers.iter().filter(|socket| socket.is_readable()).count();
        (refused >= 24).then_some(refused)
    });
    assert!(refused_ones <= 30, "too many are refused: {refused_ones}");
    let refusal = strangers.iter().position(Socket::is_readable).unwrap();
    let response = Response::read_head(strangers.swap_remove(refusal)).unwrap();
    assert_eq!(response.header("retry-after"), Some("1"));
    refused(response, 503);
    accepted(daemon.post("/publish/cats?key=secret", "", "x".repeat(1 << 20)));
    let memory = daemon.child().memory() - before;
    assert!(memory < 64 << 20, "{memory} bytes for 40 unfinished requests");
}

#[test]
fn over_tcp_nothing_but_health_is_open_without_a_key() {
    let folder = Folder::new();
    let keys = folder.write("keys", "secret\n");
    let daemon = Daemon::start_with_tcp_admin(&folder, &format!("[publish]\nkey_files = [{keys:?}]\n"));
    let mut stream = open(&daemon, &["user-42"]);
    assert_eq!(daemon.admin_get("/healthz").status(), 200);
    for path in ["/stats", "/readyz", "/stats?key=wrong"] {
        let error = refused(daemon.admin_get(path), 403);
        assert!(error.contains("key") && !error.contains("user-42"), "{error}");
    }
    refused(daemon.post("/reload", "", ""), 403);
    refused(daemon.post("/reload?key=secret", "", ""), 403);
    let bearer = Request::get("/stats").header("Connection", "close").header("Authorization", "Bearer secret");
    assert_eq!(bearer.send(daemon.admin()).json(), json!([["user-42", 1]]));
    assert_eq!(daemon.admin_get("/readyz?key=secret").status(), 200);
    accepted(daemon.post("/publish/user-42?key=secret", "", "for its reader"));
    assert_eq!(stream.texts(1), ["for its reader"]);
}

#[test]
fn pages_in_a_browser_can_not_publish() {
    let (_folder, daemon) = daemon("");
    let mut stream = open(&daemon, &["cats"]);
    let form = || Request::post("/publish", "application/x-www-form-urlencoded", "channel=cats&message=forged");
    for (name, value) in [("Origin", "https://evil.example"), ("Origin", "null"), ("Sec-Fetch-Site", "cross-site")] {
        let error = refused(form().header(name, value).send(daemon.admin()), 403);
        assert!(error.contains("browser"), "{error}");
    }
    daemon.publish("cats", "by the application");
    assert_eq!(stream.texts(1), ["by the application"]);
}

#[test]
fn a_message_that_is_not_utf_8_is_refused() {
    let (_folder, daemon) = daemon("");
    for response in [
        daemon.post("/publish", "", "channel=cats&message=a%FF"),
        daemon.post("/publish/cats", "", b"a\xff".to_vec()),
        daemon.post("/publish", "application/json", b"{\"channel\":\"cats\",\"message\":\"\xff\"}".to_vec()),
    ] {
        refused(response, 400);
    }
}

#[test]
fn a_misspelt_field_is_named_and_nothing_is_published() {
    let (_folder, daemon) = daemon("");
    let mut stream = open(&daemon, &["cats"]);
    let form = refused(daemon.post("/publish", "", "chanel=cats&message=1"), 400);
    assert!(form.contains("\"chanel\"") && form.contains("did you mean \"channel\""), "{form}");
    let json = refused(daemon.post_json(&json!({ "channel": "cats", "mesage": "2" })), 400);
    assert!(json.contains("did you mean \"message\""), "{json}");
    let raw = refused(daemon.post("/publish/cats?evnt=price", "", "3"), 400);
    assert!(raw.contains("did you mean \"event\""), "{raw}");
    let wrong_type = refused(daemon.post_json(&json!({ "channel": 5, "message": "4" })), 400);
    assert!(wrong_type.contains("a channel's name as a string"), "{wrong_type}");
    daemon.publish("cats", "5");
    assert_eq!(stream.texts(1), ["5"]);
}

#[test]
fn the_events_of_an_eventsource_itself_can_not_be_published() {
    let (_folder, daemon) = daemon("");
    for event in ["error", "open"] {
        let error = refused(daemon.post_form(&[("channel", "cats"), ("message", "m"), ("event", event)]), 400);
        assert!(error.contains("EventSource"), "{error}");
    }
    daemon.publish_form(&[("channel", "cats"), ("message", "m"), ("event", "errors")]);
}

#[test]
fn an_error_has_a_code_for_programs() {
    let (_folder, daemon) = daemon("");
    let code = |response: Response| response.json()["code"].as_str().unwrap().to_owned();
    assert_eq!(code(daemon.post("/publish", "", "message=1")), "missing_field");
    assert_eq!(code(daemon.post("/publish", "", "channel=ssecast:x&message=1")), "reserved_channel");
    assert_eq!(code(daemon.admin_get("/nothing")), "not_found");
    assert_eq!(
        code(Request::get("/?channels=a%3F").header("Connection", "close").send(daemon.public())),
        "bad_channel"
    );
}

#[test]
fn an_empty_list_publishes_nothing_and_succeeds() {
    let (_folder, daemon) = daemon("");
    let response = daemon.post("/publish", "application/json", "[]");
    assert_eq!((response.status(), response.json()), (200, json!([])));
}

/// An error repeated names and values that were as long as the body, and compared such a name whole.
#[test]
fn errors_about_a_body_are_short_however_long_its_names_and_values_are() {
    let (_folder, daemon) = daemon("");
    let long = "\u{1}é".repeat(2_000_000);
    let json = |value: &Value| Request::post("/publish", "application/json", value.to_string());
    for request in [
        Request::post("/publish", "application/x-www-form-urlencoded", long.clone()),
        json(&json!({ long.as_str(): 1 })),
        json(&json!({ "channel": "cats", "message": "m", "event": [long] })),
        json(&json!([long])),
    ] {
        let response = request.send(daemon.admin());
        assert_eq!(response.status(), 400);
        let error = response.json()["error"].as_str().unwrap().to_owned();
        assert!(error.chars().count() <= 501, "{} bytes: {}", error.len(), error.chars().take(200).collect::<String>());
    }
}
