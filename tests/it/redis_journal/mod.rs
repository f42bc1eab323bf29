//! The Redis journal on a real Redis: entries reach clients, lost ones are reported, publishes are answered with the entry's id,
//! and a client goes on exactly after its last entry, at any node.

mod alternate;
mod loss;
mod publish;
mod resume;
mod upgrade;

use crate::support::{Daemon, Folder, RedisServer, Stream, Subscription, eventually};

/// The table for one journal.
fn table(redis: &RedisServer) -> String {
    format!("{}journal = \"ssecast\"\n", redis.table())
}

fn start(tables: &str) -> (Folder, RedisServer, Daemon) {
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let daemon = Daemon::start(&folder, &format!("{}{tables}", table(&redis)));
    (folder, redis, daemon)
}

/// Two nodes on one Redis.
fn nodes(folder: &Folder, redis: &RedisServer) -> [Daemon; 2] {
    ["one", "other"].map(|name| {
        let mut daemon = Daemon::start_named(folder, name, &table(redis));
        daemon.wait_until_ready();
        daemon
    })
}

fn open(daemon: &Daemon, channels: &[&str]) -> Stream {
    Subscription::to(channels).open(daemon.public())
}

impl RedisServer {
    /// `XADD` of an entry to `ssecast`. Returns its id.
    fn add(&self, channel: &str, data: &str) -> String {
        self.add_to("ssecast", channel, data)
    }

    fn add_to(&self, key: &str, channel: &str, data: &str) -> String {
        self.query(redis::cmd("XADD").arg(key).arg("*").arg("channel").arg(channel).arg("data").arg(data))
    }

    /// `XADD` of the fields, to `ssecast`.
    fn add_fields(&self, fields: &[(&str, &[u8])]) -> String {
        let mut command = redis::cmd("XADD");
        command.arg("ssecast").arg("*");
        for (name, value) in fields {
            command.arg(name).arg(value);
        }
        self.query(&command)
    }

    /// `XADD` of numbered entries, all in one pipeline.
    fn add_many(&self, channel: &str, numbers: std::ops::Range<usize>) {
        let mut pipe = redis::pipe();
        for number in numbers {
            pipe.cmd("XADD").arg("ssecast").arg("*").arg("channel").arg(channel).arg("data").arg(number).ignore();
        }
        pipe.exec(&mut self.connect()).unwrap();
    }

    /// How often a command was called.
    fn calls(&self, command: &str) -> u64 {
        let info: String = self.query(redis::cmd("INFO").arg("commandstats"));
        let line = info.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
        line.and_then(|line| line.split(',').next()?.parse().ok()).unwrap_or(0)
    }
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[test]
fn an_entry_reaches_the_clients_of_its_channel_on_every_node() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let [one, other] = nodes(&folder, &redis);
    let mut clients = [open(&one, &["base"]), open(&other, &["base", "dogs"]), open(&one, &["dogs"])];
    let id = redis.add("base", "[1,2,3]");
    redis.add_fields(&[("data", b"woof"), ("trace", b"7"), ("event", b"bark"), ("channel", b"dogs")]);
    for client in &mut clients[..2] {
        let event = client.event();
        assert_eq!((event.text().as_str(), event.kind.as_str()), ("[1,2,3]", "message"));
        assert!(event.id.ends_with(&format!("~{id}")), "{} names the entry {id}", event.id);
    }
    for client in &mut clients[1..] {
        let event = client.event();
        assert_eq!((event.text().as_str(), event.kind.as_str()), ("woof", "bark"));
    }
}

#[test]
fn entries_that_can_not_be_events_are_counted_logged_and_skipped() {
    needs!("redis-server");
    let (_folder, redis, mut daemon) = start("");
    let mut stream = open(&daemon, &["base"]);
    redis.add("base", "before");
    for fields in [
        &[("data", b"no channel" as &[u8])] as &[(&str, &[u8])],
        &[("channel", b"base")],
        &[("channel", b"ba*e"), ("data", b"x")],
        &[("channel", b"\xff"), ("data", b"x")],
        &[("channel", b"base"), ("data", b"x"), ("event", b"a\nid: 7")],
        &[("channel", b"ssecast:x"), ("data", b"x")],
    ] {
        redis.add_fields(fields);
    }
    redis.add("base", "after");
    assert_eq!(stream.texts(2), ["before", "after"]);
    assert!(daemon.admin_get("/readyz").text().contains("\"invalid\":6"), "{}", daemon.admin_get("/readyz").text());
    assert!(daemon.child().log().contains("messages were dropped: they can't be events"));
}

#[test]
fn an_entry_that_is_too_long_is_dropped_with_a_gap() {
    needs!("redis-server");
    let (_folder, redis, daemon) = start("[publish]\nmax_message = \"1KiB\"\n");
    let mut stream = open(&daemon, &["base", "dogs"]);
    redis.add("base", "before");
    redis.add("base", &"x".repeat(16 << 10));
    redis.add("base", &"x".repeat((16 << 10) + 1));
    redis.add("dogs", "after");
    assert_eq!(stream.texts(1), ["before"]);
    assert_eq!(stream.event().data.len(), 16 << 10);
    let gap = stream.gap();
    assert_eq!((gap.channels, gap.reason.as_str()), (vec!["base".to_owned()], "source"));
    assert_eq!(stream.texts(1), ["after"]);
}

#[test]
fn every_payload_of_an_entry_arrives_unchanged_and_in_order() {
    needs!("redis-server");
    let (_folder, redis, daemon) = start("");
    let mut stream = open(&daemon, &["base"]);
    for payload in ["", " lead", "\0", "id: 7", "$5\r\nx".trim_end_matches('x'), &"long ".repeat(100_000), "last"] {
        redis.add("base", payload);
        assert_eq!(stream.texts(1), [payload.replace("\r\n", "\n")]);
    }
    redis.add_many("base", 0..5000);
    assert_eq!(stream.texts(5000), numbers(0..5000));
}

#[test]
fn what_is_published_to_redis_pub_sub_arrives_beside_a_journal_if_that_is_wanted() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let without = Daemon::start_named(&folder, "without", &table(&redis));
    let daemon = Daemon::start(&folder, &format!("{}pubsub = true\n", table(&redis)));
    let _other = open(&without, &["cats"]);
    assert_eq!(redis.channels(), [""; 0]);
    let mut stream = open(&daemon, &["base"]);
    redis.publish("base", "published");
    assert_eq!(stream.texts(1), ["published"]);
    redis.add("base", "added");
    assert_eq!(stream.texts(1), ["added"]);
}

#[test]
fn several_journals_are_read_and_a_channel_belongs_to_one_of_them() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let journals = "journal = [\"s:{0}\", \"s:{1}\", \"s:{2}\", \"s:{3}\"]\n";
    let mut daemon = Daemon::start(&folder, &format!("{}{journals}", redis.table()));
    // CRC-32 of the names modulo 4: 1, 2, 3, 0.
    let channels = [("base", 1), ("cats", 2), ("dogs", 3), ("news.sport", 0)];
    let mut stream = open(&daemon, &channels.map(|(name, _)| name));
    for (channel, number) in channels {
        redis.add_to(&format!("s:{{{number}}}"), channel, "here");
        let event = stream.event();
        assert_eq!(event.text(), "here");
        assert_eq!(event.id.split('~').nth(1).unwrap().split('.').count(), 4, "{} names all four journals", event.id);
        daemon.publish(channel, "by the admin socket");
        assert_eq!(stream.texts(1), ["by the admin socket"]);
        let length: usize = redis.query(redis::cmd("XLEN").arg(format!("s:{{{number}}}")));
        assert_eq!(length, 2, "{channel}");
    }
    redis.add_to("s:{0}", "base", "in the wrong stream");
    assert_eq!(stream.gap().channels, ["base"]);
    eventually("the log says where it belongs", || {
        daemon.child().log().contains("belongs to number 1 of redis.journal").then_some(())
    });
}

/// The rights that docs/sources.md names.
#[test]
fn a_user_with_few_rights_reads_and_publishes() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/sources.md")).unwrap();
    let command = page.lines().find(|line| line.starts_with("ACL SETUSER ssecast ")).unwrap();
    let words: Vec<&str> = command.split(' ').collect();
    let _: () = redis.query(redis::cmd(words[0]).arg(&words[1..]));
    let url = format!("redis://ssecast:PASSWORD@127.0.0.1:{}", redis.port());
    redis.add("base", "at the start");
    let mut daemon = Daemon::start(&folder, &format!("[redis]\nurl = {url:?}\njournal = \"ssecast\"\n"));
    let mut stream = open(&daemon, &["base"]);
    redis.add("base", "1");
    daemon.publish("base", "2");
    daemon.publish_many("base", ["3", "4"]);
    assert_eq!(stream.texts(4), numbers(1..5));
    let _: usize = redis.query(redis::cmd("DEL").arg("ssecast"));
    assert_eq!(stream.gap().channels, ["base"]);
    assert!(!daemon.child().log().contains("no permissions"), "{}", daemon.child().log());
}

#[test]
fn a_key_that_holds_no_stream_is_named() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let _: () = redis.query(redis::cmd("SET").arg("ssecast").arg("x"));
    let mut daemon = Daemon::start_unready(&folder, &table(&redis));
    let words = "the key ssecast holds no stream: remove or rename it, or set redis.journal to another key";
    eventually("/readyz says so", || daemon.admin_get("/readyz").text().contains(words).then_some(()));
    let why = crate::support::publisher::refused(daemon.post_form(&[("channel", "base"), ("message", "m")]), 403);
    assert!(why.contains("holds no stream"), "{why}");
    let _: () = redis.query(redis::cmd("DEL").arg("ssecast"));
    daemon.wait_until_ready();
    let mut stream = open(&daemon, &["base"]);
    redis.add("base", "1");
    assert_eq!(stream.texts(1), ["1"]);
    // While it is read.
    let _: () = redis.query(redis::cmd("DEL").arg("ssecast"));
    let _: () = redis.query(redis::cmd("SET").arg("ssecast").arg("x"));
    eventually("/readyz says so", || daemon.admin_get("/readyz").text().contains(words).then_some(()));
    let _: () = redis.query(redis::cmd("DEL").arg("ssecast"));
    daemon.wait_until_ready();
    redis.add("base", "2");
    assert_eq!(stream.gap().channels, ["base"]);
    assert_eq!(stream.texts(1), ["2"]);
}
