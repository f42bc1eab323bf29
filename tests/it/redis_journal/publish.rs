//! Publishes on the admin socket go to the journal, and are answered with the entry's id, or with the reason why not.

use std::{
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use super::*;
use crate::support::{Request, publisher::refused};

fn entry_of(id: &str) -> String {
    id.split('~').nth(1).unwrap_or_else(|| panic!("{id} names no entry")).to_owned()
}

#[test]
fn a_publish_is_an_entry_and_is_answered_with_its_id() {
    needs!("redis-server");
    let (_folder, redis, daemon) = start("");
    let mut stream = open(&daemon, &["base"]);
    let published = daemon.publish_form(&[("channel", "base"), ("message", "hello"), ("event", "greeting")]);
    assert_eq!(published.subscribers, 1);
    let event = stream.event();
    assert_eq!((event.text().as_str(), event.kind.as_str()), ("hello", "greeting"));
    let entry = entry_of(&published.id.unwrap());
    assert_eq!(entry, entry_of(&event.id));
    let entries: Vec<(String, Vec<String>)> = redis.query(redis::cmd("XRANGE").arg("ssecast").arg("-").arg("+"));
    let fields = ["channel", "base", "data", "hello", "event", "greeting"].map(str::to_owned).to_vec();
    assert_eq!(entries, [(entry, fields)]);

    let ids: Vec<String> =
        daemon.publish_many("base", ["1", "2", "3"]).into_iter().map(|one| entry_of(&one.id.unwrap())).collect();
    let events: Vec<String> = stream.events(3).into_iter().map(|event| entry_of(&event.id)).collect();
    assert_eq!(ids, events);
}

#[test]
fn the_streams_length_is_limited() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let daemon = Daemon::start(&folder, &format!("{}journal_maxlen = 100\n", table(&redis)));
    for _ in 0..5 {
        daemon.publish_many("base", ["x"; 100]);
    }
    let length: usize = redis.query(redis::cmd("XLEN").arg("ssecast"));
    assert!((100..300).contains(&length), "{length}: Redis trims in steps");
}

#[test]
fn a_publish_that_is_not_durable_is_no_entry() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let daemon = Daemon::start(&folder, &format!("{}pubsub = true\n", table(&redis)));
    let mut stream = open(&daemon, &["base"]);
    let fields = [("channel", "base"), ("message", "form"), ("durable", "false")];
    assert_eq!(daemon.publish_form(&fields).id, None);
    assert_eq!(
        daemon.post_json(&serde_json::json!({"channel": "base", "message": "json", "durable": false})).status(),
        200
    );
    assert_eq!(daemon.post("/publish/base?durable=false", "text/plain", "raw").status(), 200);
    assert_eq!(stream.texts(3), ["form", "json", "raw"]);
    let length: usize = redis.query(redis::cmd("XLEN").arg("ssecast"));
    assert_eq!(length, 0);
    let why = refused(daemon.post_form(&[("channel", "base"), ("message", "m"), ("durable", "no")]), 400);
    assert!(why.contains("durable must be true or false"), "{why}");
}

#[test]
fn a_publish_that_redis_refuses_says_why() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let rights = "ACL SETUSER daemon reset on >secret +@all ~* &* -xadd".split(' ');
    let words: Vec<&str> = rights.collect();
    let _: () = redis.query(redis::cmd(words[0]).arg(&words[1..]));
    let url = format!("redis://daemon:secret@127.0.0.1:{}", redis.port());
    let daemon = Daemon::start(&folder, &format!("[redis]\nurl = {url:?}\njournal = \"ssecast\"\n"));
    let why = refused(daemon.post_form(&[("channel", "base"), ("message", "m")]), 403);
    assert!(why.contains("xadd") && why.contains("nothing was published"), "{why}");
    let list = serde_json::json!([{"channel": "a", "message": 1}, {"channel": "b", "message": 2}]);
    let why = refused(daemon.post_json(&list), 403);
    assert!(why.contains("xadd") && why.contains("nothing was published"), "{why}");

    let _: () = redis.query(redis::cmd("ACL").arg("SETUSER").arg("daemon").arg("+xadd"));
    let _: () = redis.query(redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("1"));
    let unavailable = |body: &serde_json::Value, word: &str| {
        let response = daemon.post_json(body);
        assert_eq!(response.status(), 503);
        let answer = response.json();
        assert_eq!(answer["code"], "not_published", "{answer}");
        assert!(answer["error"].as_str().unwrap().contains(word), "{answer}");
    };
    unavailable(&list, "maxmemory");
    unavailable(&list[0], "maxmemory");
    let _: () = redis.query(redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("0"));
    let _: () = redis.query(redis::cmd("CONFIG").arg("SET").arg("min-replicas-to-write").arg("1"));
    unavailable(&list, "replicas");
    unavailable(&list[0], "replicas");
    let length: usize = redis.query(redis::cmd("XLEN").arg("ssecast"));
    assert_eq!(length, 0);
}

#[test]
fn publishes_to_a_journal_whose_redis_hangs_fail_within_three_seconds() {
    needs!("redis-server");
    let (_folder, mut redis, daemon) = start("");
    daemon.publish("base", "works");
    redis.child().signal(Signal::SIGSTOP);
    for code in ["maybe_published", "not_published"] {
        let publishes: Vec<_> = (0..4)
            .map(|_| {
                let admin = daemon.admin().clone();
                let form = Request::post("/publish", "application/x-www-form-urlencoded", "channel=base&message=m");
                thread::spawn(move || {
                    let began = Instant::now();
                    let response = form.send(&admin);
                    (response.status(), response.json()["code"].as_str().map(str::to_owned), began.elapsed())
                })
            })
            .collect();
        for publish in publishes {
            let (status, said, took) = publish.join().unwrap();
            assert_eq!((status, said.as_deref()), (503, Some(code)));
            assert!(took < Duration::from_millis(4500), "{took:?}");
        }
    }
    redis.child().signal(Signal::SIGCONT);
    eventually("it publishes again", || {
        (daemon.post_form(&[("channel", "base"), ("message", "m")]).status() == 200).then_some(())
    });
}
