//! Redis: subscribed to on demand, confirmed before a stream opens, and every payload unchanged.

mod loss;
mod trouble;

use crate::support::{
    Daemon, Folder, RedisServer, Stream, Subscription, eventually, holds_for_a_while, redis::in_url, relay::Relay,
};

fn start(tables: &str) -> (Folder, RedisServer, Daemon) {
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let daemon = Daemon::start(&folder, &format!("{}{tables}", redis.table()));
    (folder, redis, daemon)
}

fn open(daemon: &Daemon, channels: &[&str]) -> Stream {
    Subscription::to(channels).open(daemon.public())
}

/// Waits until `/readyz` answers 503, and returns its text.
fn wait_until_not_ready(daemon: &Daemon) -> String {
    eventually("the daemon knows that Redis is disconnected", || {
        let response = daemon.admin_get("/readyz");
        (response.status() == 503).then(|| response.text())
    })
}

#[test]
fn redis_cli_publish_reaches_every_client_unchanged() {
    needs!("redis-server");
    let (_folder, redis, daemon) = start("");
    let mut clients: Vec<Stream> = (0..5).map(|_| open(&daemon, &["base"])).collect();
    let mut other = open(&daemon, &["dogs"]);
    assert_eq!(redis.publish("base", "[1,2,3]"), 1, "one subscription, however many clients");
    redis.publish("dogs", "woof");
    for client in &mut clients {
        assert_eq!(client.texts(1), ["[1,2,3]"]);
    }
    assert_eq!(other.texts(1), ["woof"]);
}

#[test]
fn a_channel_is_subscribed_to_when_its_first_client_joins() {
    needs!("redis-server");
    let (_folder, redis, daemon) = start("[history]\nlinger = \"100ms\"\n");
    assert_eq!(redis.channels(), [""; 0]);
    let first = open(&daemon, &["cats", "dogs"]);
    assert_eq!(redis.channels(), ["cats", "dogs"]);
    let second = open(&daemon, &["cats"]);
    assert_eq!((redis.subscribers("cats"), redis.subscribers("dogs")), (1, 1));
    drop(first);
    eventually("a channel without clients is unsubscribed after its linger", || {
        (redis.channels() == ["cats"]).then_some(())
    });
    drop(second);
    eventually("all are unsubscribed", || redis.channels().is_empty().then_some(()));
    let mut again = open(&daemon, &["cats"]);
    assert_eq!(redis.publish("cats", "again"), 1);
    assert_eq!(again.texts(1), ["again"]);
}

#[test]
fn a_client_that_resumes_within_the_linger_gets_every_event() {
    needs!("redis-server");
    let (_folder, redis, daemon) = start("[history]\nlinger = \"1h\"\n");
    let mut stream = open(&daemon, &["cats"]);
    redis.publish("cats", "1");
    assert_eq!(stream.texts(1), ["1"]);
    let cursor = stream.last_event_id();
    drop(stream);
    eventually("it has left", || daemon.stats().is_empty().then_some(()));
    assert_eq!(redis.publish("cats", "2"), 1, "still subscribed");
    let mut stream = Subscription::to(&["cats"]).after(&cursor).open(daemon.public());
    assert_eq!(stream.texts(1), ["2"], "and no gap");
}

#[test]
fn a_client_that_resumes_an_unsubscribed_channel_gets_a_gap() {
    needs!("redis-server");
    let (_folder, redis, daemon) = start("[history]\nlinger = \"0s\"\n");
    let stream = open(&daemon, &["elsewhere"]);
    let mut cats = open(&daemon, &["cats"]);
    let cursor = cats.last_event_id();
    drop(cats);
    eventually("cats is unsubscribed", || (redis.subscribers("cats") == 0).then_some(()));
    assert_eq!(redis.publish("cats", "lost"), 0);
    let mut cats = Subscription::to(&["cats"]).after(&cursor).open(daemon.public());
    let gap = cats.gap();
    assert_eq!(gap.channels, ["cats"]);
    redis.publish("cats", "received");
    assert_eq!(cats.texts(1), ["received"]);
    drop(stream);
}

#[test]
fn an_event_published_right_after_a_stream_opens_is_delivered() {
    needs!("redis-server");
    let (_folder, redis, daemon) = start("");
    let mut publisher = redis.connect();
    for number in 0..300 {
        let channel = format!("channel {number}");
        let mut stream = open(&daemon, &[&channel]);
        let subscribers: usize = redis::Commands::publish(&mut publisher, &channel, number).unwrap();
        assert_eq!(subscribers, 1, "the head of {channel} came before its subscription");
        assert_eq!(stream.texts(1), [number.to_string()]);
    }
}

#[test]
fn a_stream_opens_only_when_redis_has_confirmed() {
    needs!("redis-server");
    use std::io::Write;
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let relay = Relay::start(redis.port());
    let daemon = Daemon::start(&folder, &format!("[redis]\nurl = \"redis://127.0.0.1:{}\"\n", relay.port()));
    let mut known = open(&daemon, &["dogs"]);

    relay.hold_replies_with("cats");
    let mut socket = daemon.public().connect().unwrap();
    socket.write_all(&Subscription::to(&["cats"]).request(daemon.public()).to_bytes()).unwrap();
    eventually("Redis has the subscription", || (redis.subscribers("cats") == 1).then_some(()));
    holds_for_a_while("no head before the confirmation", || !socket.is_readable());
    relay.release_replies();
    let mut stream = Stream::new(crate::support::Response::read_head(socket).unwrap());
    redis.publish("cats", "1");
    assert_eq!(stream.texts(1), ["1"]);
    redis.publish("dogs", "2");
    assert_eq!(known.texts(1), ["2"]);
}

#[test]
fn every_payload_arrives_unchanged() {
    needs!("redis-server");
    let (_folder, redis, daemon) = start("");
    let mut stream = open(&daemon, &["base"]);
    let every_byte: Vec<u8> = (0..=255).filter(|byte| !b"\r\n".contains(byte)).collect();
    let long = vec![b'x'; 1 << 20];
    for payload in [
        b"".as_slice(),
        b"[1,2,3]",
        b" lead",
        b"\0",
        b"\0\0\0",
        b"\xff\xfe\x00",
        b"id: 7",
        b": no comment",
        &every_byte,
        &long,
    ] {
        redis.publish("base", payload);
        let event = stream.event();
        assert!(event.data == payload, "{:?} came as {:?}", &payload[..payload.len().min(99)], event.data.len());
        assert_eq!(event.kind, "message");
    }
    for (payload, text) in [("a\r\nb\rc\nd", "a\nb\nc\nd"), ("\r", "\n"), ("\n\n", "\n\n"), ("a\r\n", "a\n")] {
        redis.publish("base", payload);
        assert_eq!(stream.texts(1), [text]);
    }
}

#[test]
fn a_payload_may_contain_its_event_type() {
    needs!("redis-server");
    let (_folder, redis, daemon) = start("");
    let mut stream = open(&daemon, &["base"]);
    redis.publish("base", b"\0ssecast:event\0price\0[7]\0");
    let event = stream.event();
    assert_eq!((event.kind.as_str(), event.data.as_slice()), ("price", b"[7]\0".as_slice()));
    let published = daemon.publish_form(&[("channel", "base"), ("message", "8"), ("event", "price")]);
    assert_eq!(published.id, None, "an event gets its id when it comes back from Redis");
    let event = stream.event();
    assert_eq!((event.kind.as_str(), event.text().as_str()), ("price", "8"));
    for payload in
        [b"\0ssecast:event\0price".as_slice(), b"\0ssecast:event\0", b"ssecast:event\0price\0x", b"\0ssecast"]
    {
        redis.publish("base", payload);
        let event = stream.event();
        assert_eq!(
            (event.kind.as_str(), event.data.as_slice()),
            ("message", payload),
            "not the form with a type: it is the payload"
        );
    }
    redis.publish("base", b"\0ssecast:event\0ssecast.gap\0{}");
    redis.publish("base", b"\0ssecast:event\0a\nid: 7\0{}");
    redis.publish("base", "last");
    let forged =
        |event: &crate::support::Event| event.gap().is_some() || event.id == "7" || event.kind.starts_with('a');
    loop {
        let event = stream.event();
        assert!(event.kind == "message" && !event.id.is_empty() && event.id != "7", "{event:?}");
        if event.text() == "last" {
            break;
        }
        assert!(!forged(&event), "{event:?}");
    }
}

#[test]
fn a_publish_on_the_admin_socket_goes_through_redis() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let one = Daemon::start_named(&folder, "one", &redis.table());
    let other = Daemon::start_named(&folder, "other", &redis.table());
    let (mut here, mut there) = (open(&one, &["cats"]), open(&other, &["cats"]));
    one.publish("cats", "to all nodes");
    one.publish_raw("cats", b"\0\xc3\xa4");
    one.publish_many("cats", ["3", "4"]);
    for stream in [&mut here, &mut there] {
        let data: Vec<_> = stream.events(4).into_iter().map(|event| event.data).collect();
        assert_eq!(data, [b"to all nodes".as_slice(), b"\0\xc3\xa4", b"3", b"4"]);
    }
}

#[test]
fn redis_prefix_is_added_to_every_channel() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let daemon = Daemon::start(&folder, &format!("{}prefix = \"sse:\"\n", redis.table()));
    let mut stream = open(&daemon, &["cats"]);
    assert_eq!(redis.channels(), ["sse:cats"]);
    assert_eq!(redis.publish("cats", "another application's"), 0);
    redis.publish("sse:cats", "1");
    daemon.publish("cats", "2");
    assert_eq!(stream.texts(2), ["1", "2"]);
    let mut stream = Subscription::to(&["cats"]).in_envelopes().open(daemon.public());
    redis.publish("sse:cats", "3");
    assert_eq!(stream.texts(1), [r#"{"channel":"cats","data":"3"}"#]);
}

#[test]
fn redis_is_reached_with_a_password_a_database_and_a_unix_socket() {
    needs!("redis-server");
    let folder = Folder::new();
    let password = "p@ss:w/rd%25?";
    let redis = RedisServer::start_with_password(&folder, password);
    let escaped = in_url(password);
    let port = redis.port();
    let socket = folder.path("redis.sock");
    for (number, url) in [
        format!("redis://:{escaped}@127.0.0.1:{port}"),
        format!("redis://default:{escaped}@127.0.0.1:{port}/3"),
        format!("redis+unix://{}?pass={escaped}", socket.display()),
        format!("redis+unix://{}?db=3&user=default&pass={escaped}", socket.display()),
    ]
    .into_iter()
    .enumerate()
    {
        let daemon = Daemon::start_named(&folder, &format!("node{number}"), &format!("[redis]\nurl = {url:?}\n"));
        let mut stream = open(&daemon, &["cats"]);
        redis.publish("cats", "by Redis");
        daemon.publish("cats", "by the admin socket");
        assert_eq!(stream.texts(2), ["by Redis", "by the admin socket"], "{url}");
    }
}

#[test]
fn a_wrong_password_is_reported_without_being_shown() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start_with_password(&folder, "right");
    let url = format!("redis://:wr0ng-secret@127.0.0.1:{}", redis.port());
    let mut daemon = Daemon::start_unready(&folder, &format!("[redis]\nurl = {url:?}\n"));
    let reason = wait_until_not_ready(&daemon);
    assert!(!reason.contains("wr0ng-secret"), "{reason}");
    eventually("the log says why", || daemon.child().log().contains("WRONGPASS").then_some(()));
    assert!(!daemon.child().log().contains("wr0ng-secret"), "{}", daemon.child().log());
}

#[test]
fn events_keep_their_order_through_redis() {
    needs!("redis-server");
    let (_folder, redis, daemon) = start("[history]\nmessages = 100000\n");
    let mut stream = open(&daemon, &["a", "b"]);
    let mut pipe = redis::pipe();
    for number in 0..5000 {
        pipe.publish(["a", "b"][number % 2], number).ignore();
    }
    pipe.exec(&mut redis.connect()).unwrap();
    let expected: Vec<String> = (0..5000).map(|number| number.to_string()).collect();
    assert_eq!(stream.texts(5000), expected);
}

#[test]
fn thousands_of_channels_are_subscribed_and_unsubscribed() {
    needs!("redis-server");
    let (_folder, redis, daemon) = start("[history]\nlinger = \"0s\"\n[stream]\nmax_channels_per_client = 200\n");
    let clients: Vec<Stream> = (0..20)
        .map(|client| {
            let names: Vec<String> = (0..150).map(|channel| format!("{client}.{channel}")).collect();
            Subscription::to(&names).open(daemon.public())
        })
        .collect();
    assert_eq!(redis.channels().len(), 3000);
    redis.cut_subscribers();
    eventually("all are subscribed to again", || (redis.channels().len() == 3000).then_some(()));
    drop(clients);
    eventually("all are unsubscribed", || redis.channels().is_empty().then_some(()));
}
