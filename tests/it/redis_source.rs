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

/// Waits until the daemon has nothing to say but that it is not ready.
fn wait_until_not_ready(daemon: &Daemon) -> String {
    eventually("the daemon sees that Redis is away", || {
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
    eventually("nobody's channel is given up after its linger", || (redis.channels() == ["cats"]).then_some(()));
    drop(second);
    eventually("all are given up", || redis.channels().is_empty().then_some(()));
    let mut again = open(&daemon, &["cats"]);
    assert_eq!(redis.publish("cats", "back"), 1);
    assert_eq!(again.texts(1), ["back"]);
}

#[test]
fn a_lingering_channel_is_kept_for_those_who_come_back() {
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
fn a_channel_that_was_not_subscribed_to_is_a_gap_for_those_who_come_back() {
    needs!("redis-server");
    let (_folder, redis, daemon) = start("[history]\nlinger = \"0s\"\n");
    let stream = open(&daemon, &["elsewhere"]);
    let mut cats = open(&daemon, &["cats"]);
    let cursor = cats.last_event_id();
    drop(cats);
    eventually("cats is given up", || (redis.subscribers("cats") == 0).then_some(()));
    assert_eq!(redis.publish("cats", "nobody hears this"), 0);
    let mut cats = Subscription::to(&["cats"]).after(&cursor).open(daemon.public());
    let gap = cats.gap();
    assert_eq!(gap.channels, ["cats"]);
    redis.publish("cats", "heard");
    assert_eq!(cats.texts(1), ["heard"]);
    drop(stream);
}

#[test]
fn an_open_stream_misses_nothing_however_soon_it_is_published() {
    needs!("redis-server");
    let (_folder, redis, daemon) = start("");
    let mut publisher = redis.connect();
    for number in 0..300 {
        let channel = format!("channel {number}");
        let mut stream = open(&daemon, &[&channel]);
        let heard: usize = redis::Commands::publish(&mut publisher, &channel, number).unwrap();
        assert_eq!(heard, 1, "the head of {channel} came before its subscription");
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
fn every_payload_arrives_as_it_was_published() {
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
fn a_payload_may_bring_its_event_type() {
    needs!("redis-server");
    let (_folder, redis, daemon) = start("");
    let mut stream = open(&daemon, &["base"]);
    redis.publish("base", b"\0ssecast:event\0price\0[7]\0");
    let event = stream.event();
    assert_eq!((event.kind.as_str(), event.data.as_slice()), ("price", b"[7]\0".as_slice()));
    let published = daemon.publish_form(&[("channel", "base"), ("message", "8"), ("event", "price")]);
    assert_eq!(published.id, None, "the event has its id only when Redis has passed it on");
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
            "no such frame: it stays a payload"
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
fn the_prefix_is_put_before_every_channel() {
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
fn a_wrong_password_is_told_without_being_shown() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start_with_password(&folder, "right");
    let url = format!("redis://:wr0ng-secret@127.0.0.1:{}", redis.port());
    let mut daemon = Daemon::start_unready(&folder, &format!("[redis]\nurl = {url:?}\n"));
    let said = wait_until_not_ready(&daemon);
    assert!(!said.contains("wr0ng-secret"), "{said}");
    eventually("the log says why", || daemon.child().log().contains("WRONGPASS").then_some(()));
    assert!(!daemon.child().log().contains("wr0ng-secret"), "{}", daemon.child().log());
}

#[test]
fn order_is_kept_through_redis() {
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
fn thousands_of_channels_are_subscribed_to_and_given_up() {
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
    eventually("all are given up", || redis.channels().is_empty().then_some(()));
}
