//! Compressed streams: they have the same events as plain ones, whatever the client's channels and place, up to the last byte.

use std::process::Command;

use crate::support::{Child, Daemon, Folder, Nginx, Stream, Subscription, eventually, program_in_path};

const GZIP: &str = "[stream]\ngzip = true\n";

fn start(tables: &str) -> (Folder, Daemon) {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, tables);
    (folder, daemon)
}

fn open(daemon: &Daemon, subscription: Subscription) -> Stream {
    let stream = subscription.zipped().open(daemon.public());
    assert!(stream.is_zipped());
    stream
}

/// A JSON message of about 200 bytes, which differs from others in its numbers.
fn quote(number: usize) -> String {
    let price = number.wrapping_mul(7919) % 10_000;
    format!(
        r#"{{"type":"quote","number":{number},"symbol":"ACME","price":{price},"currency":"EUR","change":{},"exchange":"XETRA","state":"open","sellers":{},"buyers":{}}}"#,
        price % 97,
        price % 89,
        price % 83
    )
}

/// Asserts that both streams have the same events, until `ends` events with "the end" have arrived.
fn assert_same(plain: &mut Stream, zipped: &mut Stream, mut ends: usize) {
    while ends > 0 {
        let event = plain.event();
        assert_eq!(event, zipped.event());
        ends -= usize::from(event.text().contains("the end"));
    }
}

#[test]
fn plain_and_compressed_streams_have_the_same_events() {
    let tables = "ping_interval = \"100ms\"\n[process]\nworkers = 2\n[history]\nmessages = 100_000\n";
    let (_folder, daemon) = start(&format!("{GZIP}{tables}"));
    let subscriptions = [
        (1, Subscription::to(&["cats"])),
        (2, Subscription::to(&["dogs", "cats"])),
        (1, Subscription::to(&["dogs"]).in_envelopes()),
        (1, Subscription::to(&["cats"]).in_envelopes()),
    ];
    let mut clients = Vec::new();
    let mut published = 0;
    for round in 0..6 {
        for (channels, subscription) in &subscriptions {
            clients.push((*channels, subscription.open(daemon.public()), open(&daemon, subscription.clone())));
        }
        for channel in ["cats", "dogs", "cats", "cats"] {
            published += 1;
            daemon.publish(channel, &quote(published));
        }
        daemon.publish_raw("cats", b"lines\r\nof\rbytes\n\xc3\xa4 \0");
        daemon.publish("dogs", "");
        daemon.publish("dogs", &"long ".repeat(20_000));
        let burst: Vec<String> = (0..300).map(quote).collect();
        daemon.publish_many("cats", burst.iter().map(String::as_str));
        daemon.publish_many("dogs", burst[..20].iter().map(String::as_str));
        if round % 2 == 1 {
            let (_, plain, zipped) = &mut clients[round * subscriptions.len()];
            plain.ping();
            zipped.ping();
        }
    }
    daemon.publish_many("cats", ["the end"]);
    daemon.publish_many("dogs", ["the end"]);
    for (channels, plain, zipped) in &mut clients {
        assert_same(plain, zipped, *channels);
    }
    daemon.terminate();
    for (_, plain, zipped) in &mut clients {
        assert_eq!(plain.rest(), zipped.rest());
    }
}

#[test]
fn compressed_streams_that_resume_or_read_slowly_get_every_event() {
    let (_folder, daemon) = start(&format!("{GZIP}[history]\nmessages = 20_000\n"));
    let mut first = open(&daemon, Subscription::to(&["cats"]));
    let mut slow = open(&daemon, Subscription::to(&["cats"]));
    let id = first.last_event_id();
    let all: Vec<String> = (0..10_000).map(quote).collect();
    for some in all.chunks(500) {
        daemon.publish_many("cats", some.iter().map(String::as_str));
    }
    assert_eq!(slow.texts(all.len()), all);
    let mut resumed = open(&daemon, Subscription::to(&["cats"]).after(&id));
    assert_eq!(resumed.texts(all.len()), all);
    daemon.publish("cats", "more");
    daemon.publish("cats", "and more");
    for stream in [&mut slow, &mut resumed] {
        assert_eq!(stream.texts(2), ["more", "and more"]);
    }
    assert_eq!(first.texts(all.len() + 2)[..all.len()], all);
    daemon.terminate();
    for stream in [&mut first, &mut slow, &mut resumed] {
        assert_eq!(stream.rest(), []);
    }
}

#[test]
fn a_compressed_stream_gets_a_gap_event() {
    let (_folder, daemon) = start(&format!("{GZIP}[history]\nmessages = 10\n[process]\nworkers = 1\n"));
    let mut live = open(&daemon, Subscription::to(&["cats"]));
    let id = live.last_event_id();
    let all: Vec<String> = (0..50).map(quote).collect();
    daemon.publish_many("cats", all.iter().map(String::as_str));
    // Once a client has the events, the one worker drops the oldest ones before it takes another request.
    assert_eq!(live.texts(50), all);
    let mut resumed = open(&daemon, Subscription::to(&["cats"]).after(&id));
    assert_eq!(resumed.gap().reason, "history");
    assert_eq!(resumed.texts(10), all[40..]);
}

#[test]
fn a_compressed_stream_continues_over_a_reload() {
    let (_folder, mut daemon) = start(GZIP);
    let mut streams: Vec<Stream> = (0..20).map(|_| open(&daemon, Subscription::to(&["cats"]))).collect();
    let mut published = Vec::new();
    for round in 0..4 {
        for number in 0..5 {
            published.push(quote(10 * round + number));
            daemon.publish("cats", published.last().unwrap());
        }
        if round == 2 {
            daemon.configure("[stream]\ngzip = false\n");
        }
        daemon.reload();
    }
    assert!(
        !Subscription::to(&["cats"]).zipped().open(daemon.public()).is_zipped(),
        "the new configuration is for new streams"
    );
    daemon.terminate();
    for stream in &mut streams {
        assert_eq!(stream.texts(published.len()), published);
        assert_eq!(stream.rest(), []);
    }
}

#[test]
fn a_compressed_stream_ends_at_max_lifetime_and_resumes() {
    let (_folder, daemon) = start(&format!("{GZIP}max_lifetime = \"300ms\"\n"));
    let mut stream = open(&daemon, Subscription::to(&["cats"]));
    assert_eq!(stream.rest(), []);
    let last = stream.last_event_id();
    daemon.publish("cats", "later");
    assert_eq!(open(&daemon, Subscription::to(&["cats"]).after(&last)).texts(1), ["later"]);
}

#[test]
fn only_streams_whose_client_accepts_gzip_are_compressed() {
    let (_folder, daemon) = start(GZIP);
    let plain = Subscription::to(&["cats"]).open(daemon.public());
    assert!(!plain.is_zipped());
    assert_eq!(plain.response().header("vary"), Some("Accept-Encoding"));
    let zipped = open(&daemon, Subscription::to(&["cats"]));
    assert_eq!(zipped.response().header("vary"), Some("Accept-Encoding"));
    let (_folder, without) = start("");
    let plain = Subscription::to(&["cats"]).zipped().open(without.public());
    assert!(!plain.is_zipped());
    assert_eq!(plain.response().header("vary"), None);
}

#[test]
fn curl_inflates_a_compressed_stream_through_nginx() {
    needs!("curl", "nginx");
    let (folder, daemon) = start(GZIP);
    let nginx = Nginx::start(&folder, &daemon);
    let mut plain = Subscription::to(&["cats"]).open(&nginx.sse());
    let mut command = Command::new(program_in_path("curl"));
    let url = nginx.url("/sse/?channels=cats");
    command.args(["--silent", "--show-error", "--no-buffer", "--compressed", "--dump-header"]);
    command.arg(folder.path("curl.head")).arg(&url);
    let mut curl = Child::start("curl", &mut command, folder.path("curl.log"));
    eventually("curl is connected", || (daemon.subscribers("cats") == 2).then_some(()));
    let mut expected = String::new();
    for number in 0..30 {
        let message = quote(number);
        let id = daemon.publish("cats", &message).id.unwrap();
        expected += &format!("data: {message}\nid: {id}\n\n");
        // Each event arrives before the next is published: nginx delays none.
        eventually("curl has it", || curl.log().ends_with(&expected).then_some(()));
        assert_eq!(plain.texts(1), [message]);
    }
    let head = std::fs::read_to_string(folder.path("curl.head")).unwrap();
    assert!(head.to_lowercase().contains("content-encoding: gzip"), "{head}");
    daemon.terminate();
    assert!(curl.wait().success(), "curl reports a broken stream: {}", curl.log());
}
