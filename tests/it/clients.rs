//! Third-party clients: curl, the npm package `eventsource`, and Chromium read the same events as the tests' own client.

use std::{path::Path, process::Command};

use serde_json::{Value, json};

use crate::support::{Child, Daemon, Folder, Nginx, Subscription, eventually, program_in_path};

/// A program with an EventSource that prints each event that a page would get.
struct EventSource(Child);

impl EventSource {
    /// Opens `url` with the npm package, listening to events without a type, gaps, and events of type `price`.
    fn open(folder: &Folder, url: &str) -> Self {
        Self::run(folder, "eventsource", &mut Command::new(program_in_path("node")), url)
    }

    /// The same in a page of Chromium's.
    fn open_in_chromium(folder: &Folder, url: &str) -> Self {
        let mut command = Command::new(program_in_path("node"));
        Self::run(folder, "chromium", command.env("CHROMIUM", program_in_path("chromium")), url)
    }

    fn run(folder: &Folder, name: &'static str, command: &mut Command, url: &str) -> Self {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
        assert!(tests.join("node_modules/playwright-core").exists(), "`sh tests/run` installs the npm packages");
        command.arg(tests.join(format!("clients/{name}.mjs"))).arg(url).arg("price");
        Self(Child::start(name, command, folder.path(&format!("{name}.log"))))
    }

    /// All events so far.
    fn received(&self) -> Vec<Value> {
        let log = self.0.log();
        let whole_lines = log.rfind('\n').map_or("", |end| &log[..end]);
        whole_lines.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{log}"))).collect()
    }

    /// The data of all messages so far.
    fn messages(&self) -> Vec<String> {
        let received = self.received().into_iter();
        received
            .filter(|event| event["type"] == "message")
            .map(|event| event["data"].as_str().unwrap().to_owned())
            .collect()
    }

    fn wait_for(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("{what} at the EventSource"), || self.received().into_iter().find(|event| condition(event)))
    }
}

#[test]
fn curl_reads_the_stream_byte_for_byte() {
    needs!("curl", "nginx", "node");
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, "");
    let nginx = Nginx::start(&folder, &daemon);
    let mut ours = Subscription::to(&["cats"]).open(&nginx.sse());
    let mut command = Command::new(program_in_path("curl"));
    command.args(["--silent", "--show-error", "--no-buffer", &nginx.url("/sse/?channels=cats")]);
    let curl = Child::start("curl", &mut command, folder.path("curl.log"));
    eventually("curl is connected", || (daemon.subscribers("cats") == 2).then_some(()));

    let mut expected = String::new();
    for (message, lines) in [("[1,2,3]", "data: [1,2,3]\n"), ("a\r\nb", "data: a\ndata: b\n"), ("", "data: \n")] {
        let id = daemon.publish("cats", message).id.unwrap();
        assert_eq!(ours.event().id, id);
        expected += &format!("{lines}id: {id}\n\n");
    }
    let read = eventually("curl has printed all", || Some(curl.log()).filter(|log| log.ends_with(&expected)));
    let preamble = read.strip_suffix(&expected).unwrap();
    let lines: Vec<&str> = preamble.split('\n').collect();
    assert!(
        matches!(lines[..], [":", "event: ssecast.open", retry, "data: {}", id, "", ""]
            if retry.starts_with("retry: ") && id.starts_with("id: ")),
        "{read}"
    );
}

#[test]
fn curl_publishes_and_resumes_on_the_unix_sockets() {
    needs!("curl", "node");
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, "");
    let cursor = Subscription::to(&["cats"]).open(daemon.public()).last_event_id();
    let curl = || {
        let mut command = Command::new(program_in_path("curl"));
        command.args(["--silent", "--show-error", "--fail-with-body"]);
        command
    };
    let mut publish = curl();
    publish.arg("--unix-socket").arg(daemon.admin().path());
    let output =
        publish.args(["-d", "channel=cats", "--data-urlencode", "message=a & b", "http://localhost/publish"]).output();
    let answer: Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    assert_eq!(answer["status"], "ok");

    let mut read = curl();
    read.arg("--unix-socket").arg(daemon.public().path()).args([
        "--no-buffer",
        "-H",
        &format!("Last-Event-ID: {cursor}"),
    ]);
    read.arg("http://localhost/?channels=cats");
    let curl = Child::start("curl", &mut read, folder.path("curl.log"));
    let frame = format!("data: a & b\nid: {}\n\n", answer["id"].as_str().unwrap());
    eventually("curl has the event", || curl.log().ends_with(&frame).then_some(()));
}

#[test]
fn eventsources_read_the_same_events_as_our_client() {
    needs!("chromium", "nginx", "node");
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, "");
    let nginx = Nginx::start(&folder, &daemon);
    let mut ours = Subscription::to(&["cats", "dogs"]).open(&nginx.sse());
    let url = nginx.url("/sse/?channels=cats&channels=dogs");
    let theirs = [EventSource::open(&folder, &url), EventSource::open_in_chromium(&folder, &url)];
    eventually("they are connected", || (daemon.subscribers("cats") == 3).then_some(()));
    for message in ["[1,2,3]", " lead", "a\r\nb\rc\nd", "", "größe\u{1f600}", "data: x\n\nid: 7", ": x"] {
        daemon.publish("cats", message);
    }
    daemon.publish_raw("dogs", "NUL\0 and \u{fffd}".as_bytes());
    daemon.publish_form(&[("channel", "dogs"), ("message", "7"), ("event", "price")]);
    let expected: Vec<Value> = ours
        .events(9)
        .into_iter()
        .map(|event| json!({ "type": event.kind, "data": event.text(), "id": event.id }))
        .collect();
    for theirs in theirs {
        theirs.wait_for("the last event", |event| event["type"] == "price");
        assert_eq!(theirs.received()[0], json!({ "type": "open" }));
        assert_eq!(theirs.received()[1..], expected);
    }
}

#[test]
fn an_eventsource_loses_nothing_however_often_its_stream_ends() {
    needs!("nginx", "node");
    read_while_streams_end(EventSource::open, "");
}

#[test]
fn an_eventsource_loses_nothing_of_compressed_streams() {
    needs!("nginx", "node");
    read_while_streams_end(EventSource::open, "gzip = true\n");
}

#[test]
fn chromium_loses_nothing_of_compressed_streams() {
    needs!("nginx", "node");
    read_while_streams_end(EventSource::open_in_chromium, "gzip = true\n");
}

fn read_while_streams_end(open: fn(&Folder, &str) -> EventSource, more: &str) {
    let folder = Folder::new();
    // More than is published while a browser on a busy machine reconnects.
    let history = "[history]\nmessages = 1_000_000\n";
    let tables = format!("{history}[stream]\nmax_lifetime = \"150ms\"\nretry = \"10ms..20ms\"\n{more}");
    let daemon = Daemon::start(&folder, &tables);
    let nginx = Nginx::start(&folder, &daemon);
    let theirs = open(&folder, &nginx.url("/sse/?channels=cats"));
    theirs.wait_for("the first connection", |event| event["type"] == "open");
    let connections = || theirs.received().iter().filter(|event| event["type"] == "open").count();
    let mut published = Vec::new();
    while connections() < 15 || published.len() < 300 {
        let message = published.len().to_string();
        daemon.publish("cats", &message);
        published.push(message);
    }
    eventually("it has all", || (theirs.messages().len() >= published.len()).then_some(()));
    assert_eq!(theirs.messages(), published);
    assert!(theirs.received().iter().all(|event| event["type"] != "ssecast.gap"));
}

#[test]
fn an_eventsource_reconnects_to_a_restarted_daemon_and_gets_a_gap() {
    needs!("nginx", "node");
    let folder = Folder::new();
    let mut daemon = Daemon::start(&folder, "[stream]\nretry = \"10ms..20ms\"\n");
    let nginx = Nginx::start(&folder, &daemon);
    let theirs = EventSource::open(&folder, &nginx.url("/sse/?channels=cats"));
    eventually("it is connected", || (daemon.subscribers("cats") == 1).then_some(()));
    daemon.publish("cats", "before");
    theirs.wait_for("the event", |event| event["data"] == "before");
    daemon.child().kill();
    theirs.wait_for("the end of the stream", |event| event["type"] == "error");
    // Meanwhile nginx answers with an empty stream that ends at once.
    let opens = theirs.received().iter().filter(|event| event["type"] == "open").count();
    eventually("it has connected to an empty stream", || {
        (theirs.received().iter().filter(|event| event["type"] == "open").count() > opens).then_some(())
    });
    daemon.start_again();
    let gap = theirs.wait_for("the gap", |event| event["type"] == "ssecast.gap");
    let gap: Value = serde_json::from_str(gap["data"].as_str().unwrap()).unwrap();
    assert_eq!(gap, json!({ "channels": ["cats"], "reason": "restart" }));
    daemon.publish("cats", "after");
    theirs.wait_for("the event after", |event| event["data"] == "after");
    assert!(theirs.received().iter().all(|event| event["ended"] != true), "it never gave up");
}
