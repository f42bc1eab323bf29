//! Publishing on the admin socket: every form, every refusal, and what subscribers see of it.

use serde_json::{Value, json};

use crate::support::{
    Daemon, Folder, Published, Request, Stream, Subscription,
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
fn a_form_publishes_as_cyclone_sse_s_clients_do() {
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
fn json_publishes_strings_as_they_are_and_other_values_as_their_text() {
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
fn an_array_and_ndjson_publish_many_in_order() {
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
fn one_bad_message_among_many_is_named_and_none_is_published() {
    let (_folder, daemon) = daemon("");
    let mut stream = open(&daemon, &["cats"]);
    let array = json!([
        { "channel": "cats", "message": "1" },
        { "channel": "c*ts", "message": "2" },
        { "channel": "cats", "message": "3" },
    ]);
    let said = refused(daemon.post_json(&array), 400);
    assert!(said.contains("message 1 ") && said.contains('*'), "{said}");
    let lines = "{\"channel\":\"cats\",\"message\":\"1\"}\nnonsense\n";
    assert!(refused(daemon.post("/publish", "application/x-ndjson", lines), 400).contains("message 1"));
    daemon.publish("cats", "the first");
    assert_eq!(stream.texts(1), ["the first"]);
}

#[test]
fn a_raw_body_is_the_message_whatever_its_bytes() {
    let (_folder, daemon) = daemon("");
    let mut stream = open(&daemon, &["a b/ü"]);
    let every_byte: Vec<u8> = (0..=255).filter(|byte| !b"\r\n".contains(byte)).collect();
    let long = vec![b'x'; 1 << 20];
    for message in [b"".as_slice(), b" lead and trail ", b"\0", b"\xff\xfe", b"data: x", b":", &every_byte, &long] {
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
fn what_could_write_fields_of_its_own_is_refused() {
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
fn bodies_that_say_too_little_are_refused_with_the_reason() {
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
fn a_message_may_be_as_long_as_is_configured_and_no_longer() {
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
fn where_keys_are_configured_a_publisher_needs_one() {
    let folder = Folder::new();
    let keys = folder.write("keys", "first-secret\nsecond-secret\n");
    let daemon = Daemon::start(&folder, &format!("[publish]\nkey_files = [{keys:?}]\n"));
    let mut stream = open(&daemon, &["cats"]);
    for key in [None, Some("wrong"), Some(""), Some("first-secre"), Some("first-secret2"), Some("first-secret\n")] {
        let mut fields = vec![("channel", "cats"), ("message", "forbidden")];
        fields.extend(key.map(|key| ("key", key)));
        let said = refused(daemon.post_form(&fields), 403);
        assert!(!said.contains("first-secret") || key.is_some_and(|key| key.contains("first-secret")), "{said}");
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
fn what_is_published_to_nobody_is_kept_for_those_who_come() {
    let (_folder, daemon) = daemon("");
    let cursor = open(&daemon, &["elsewhere"]).last_event_id();
    assert_eq!(daemon.publish("cats", "early").subscribers, 0);
    let mut stream = Subscription::to(&["cats"]).after(&cursor).open(daemon.public());
    assert_eq!(stream.texts(1), ["early"]);
}

#[test]
fn health_and_readiness_are_told() {
    let (_folder, daemon) = daemon("");
    assert_eq!(daemon.admin_get("/healthz").status(), 200);
    assert_eq!(daemon.admin_get("/readyz").status(), 200);
    assert_eq!(daemon.admin_get("/stats").json(), json!([]));
}
