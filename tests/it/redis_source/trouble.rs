//! A Redis that is unreliable: its ACL changes, its connections break, it hangs, it is a replica, it sends too much. Each loss is
//! reported, and each accepted publish is delivered.

use std::{
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{loss::source_gap, open, start, wait_until_not_ready};
use crate::support::{Daemon, Folder, Gap, RedisServer, Request, Stream, Subscription, eventually, publisher::refused};

/// Gives the user `daemon` all commands and keys, and then `rights`.
fn set_user(redis: &RedisServer, rights: &[&str]) {
    let mut command = redis::cmd("ACL");
    command.arg("SETUSER").arg("daemon").arg("reset").arg("on").arg(">secret").arg("+@all").arg("~*").arg(rights);
    let _: () = redis.query(&command);
}

fn table_of_user(redis: &RedisServer) -> String {
    format!("[redis]\nurl = \"redis://daemon:secret@127.0.0.1:{}\"\n", redis.port())
}

fn start_as_user(rights: &[&str], tables: &str) -> (Folder, RedisServer, Daemon) {
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    set_user(&redis, rights);
    let daemon = Daemon::start(&folder, &format!("{}{tables}", table_of_user(&redis)));
    (folder, redis, daemon)
}

fn answer(daemon: &Daemon, channel: &str) -> u16 {
    Subscription::to(&[channel]).request(daemon.public()).send(daemon.public()).status()
}

fn start_poll(daemon: &Daemon, cursor: &str) -> thread::JoinHandle<Value> {
    let public = daemon.public().clone();
    let target = format!("{}?channels=cats&last_event_id={cursor}", public.base());
    let request = Request::get(target).header("Connection", "close").header("Accept", "application/json");
    thread::spawn(move || request.send(&public).json())
}

#[test]
fn streams_of_a_channel_that_redis_begins_to_refuse_end_and_get_a_gap_once_it_is_allowed_again() {
    needs!("redis-server");
    let (_folder, redis, mut daemon) = start_as_user(&["&*"], "");
    let mut refused = open(&daemon, &["cats", "dogs"]);
    let mut other = open(&daemon, &["dogs"]);
    redis.publish("cats", "1");
    assert_eq!(refused.texts(1), ["1"]);
    let cursor = refused.last_event_id();
    let poll = start_poll(&daemon, &cursor);
    eventually("the poll waits", || (daemon.subscribers("cats") == 2).then_some(()));

    set_user(&redis, &["resetchannels", "&dogs"]); // Redis cuts the subscription.
    assert!(refused.rest().iter().all(|event| event.gap().is_some()), "it ends");
    assert_eq!(poll.join().unwrap()["events"], Value::Array(vec![]), "a poll is answered");
    assert_eq!(answer(&daemon, "cats"), 403, "a client that reconnects gets the reason");
    assert_eq!(other.gap(), source_gap(&["dogs"]));
    redis.publish("cats", "2");
    redis.publish("dogs", "still");
    assert_eq!(other.texts(1), ["still"], "other channels go on");

    set_user(&redis, &["&*"]);
    daemon.wait_until_ready();
    let mut again = Subscription::to(&["cats"]).after(&cursor).open(daemon.public());
    assert_eq!(again.gap().channels, ["cats"]);
    redis.publish("cats", "3");
    assert_eq!(again.texts(1), ["3"]);
}

#[test]
fn a_channel_that_only_the_successor_is_refused_ends_its_streams() {
    needs!("redis-server");
    let (_folder, redis, mut daemon) = start("");
    set_user(&redis, &["resetchannels", "&dogs", "&ssecast:*"]);
    let mut refused = open(&daemon, &["cats"]);
    let mut other = open(&daemon, &["dogs"]);
    redis.publish("cats", "1");
    assert_eq!(refused.texts(1), ["1"]);
    daemon.configure(&table_of_user(&redis));
    daemon.reload();
    assert!(refused.rest().iter().all(|event| event.gap().is_some()), "it ends");
    assert_eq!(answer(&daemon, "cats"), 403);
    assert_eq!(other.gap(), source_gap(&["dogs"]), "another user of Redis is another source");
    redis.publish("dogs", "still");
    assert_eq!(other.texts(1), ["still"]);
}

/// Asserts that an answer has Redis's words alone, not `Pipeline failure: [(Index 0, error: NoPerm: …)]`.
fn assert_has_no_library_words(why: &str) {
    let words = ["Pipeline", "Transaction", "Index", "NoPerm"].into_iter().find(|word| why.contains(word));
    assert!(words.is_none() && why.contains("has no permissions to run the 'publish' command)"), "{why}");
}

/// The log wrote that clients of the marker's channel are closed. There are none.
#[test]
fn a_marker_that_redis_refuses_is_logged_as_what_it_is() {
    needs!("redis-server");
    let (_folder, _redis, mut daemon) = start_as_user(&["resetchannels", "&dogs"], "");
    daemon.reload();
    let words = "Redis refuses the marker's channel: this reload causes a gap event";
    eventually("the log says so", || daemon.child().log().contains(words).then_some(()));
    assert!(!daemon.child().log().contains("their clients are closed"));
}

#[test]
fn a_publish_that_redis_forbids_is_a_403_with_redis_error_text() {
    needs!("redis-server");
    let (_folder, _redis, daemon) = start_as_user(&["&*", "-publish"], "");
    let why = refused(daemon.post_form(&[("channel", "cats"), ("message", "m")]), 403);
    assert!(why.contains("publish") && why.contains("nothing was published"), "{why}");
    assert_has_no_library_words(&why);
    let why = refused(
        daemon.post(
            "/publish",
            "application/x-ndjson",
            "{\"channel\":\"a\",\"message\":\"1\"}\n{\"channel\":\"b\",\"message\":\"2\"}",
        ),
        403,
    );
    assert!(why.contains("nothing was published"), "{why}");
    assert_has_no_library_words(&why);
}

#[test]
fn an_empty_list_is_published_through_redis() {
    needs!("redis-server");
    let (_folder, _redis, daemon) = start("");
    let response = daemon.post("/publish", "application/json", "[]");
    assert_eq!((response.status(), response.json()), (200, Value::Array(vec![])));
}

#[test]
fn a_redis_connection_that_is_cut_many_times_causes_few_gaps() {
    needs!("redis-server");
    let (_folder, redis, daemon) = start("");
    let mut stream = open(&daemon, &["cats"]);
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        redis.cut_subscribers();
        thread::sleep(Duration::from_millis(20));
    }
    eventually("it is subscribed to again", || (redis.publish("cats", "again") == 1).then_some(()));
    let mut gaps = 0;
    while stream.event().gap().is_some() {
        gaps += 1;
    }
    assert!((1..=10).contains(&gaps), "{gaps} gaps for cuts in 5 s");
}

#[test]
fn a_redis_user_without_ping_permission_is_reported_and_costs_one_gap() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    set_user(&redis, &["&*", "-ping"]);
    let mut daemon = Daemon::start_unready(&folder, &table_of_user(&redis));
    let mut stream = open(&daemon, &["cats"]);
    eventually("it names the missing permission", || {
        daemon.admin_get("/readyz").text().contains("+ping").then_some(())
    });
    set_user(&redis, &["&*"]);
    daemon.wait_until_ready();
    assert_eq!(stream.gap(), source_gap(&["cats"]));
    redis.publish("cats", "1");
    assert_eq!(stream.texts(1), ["1"], "one gap, however many tries");
}

#[test]
fn publishes_to_a_redis_that_hangs_fail_within_three_seconds_with_a_code_that_says_if_they_may_have_arrived() {
    needs!("redis-server");
    let (_folder, mut redis, daemon) = start("");
    daemon.publish("cats", "works");
    redis.child().signal(Signal::SIGSTOP);
    for (round, code) in
        [("on the existing connection", "maybe_published"), ("while a new connection is made", "not_published")]
    {
        let publishes: Vec<_> = (0..8)
            .map(|_| {
                thread::sleep(Duration::from_millis(100));
                let admin = daemon.admin().clone();
                let form = Request::post("/publish", "application/x-www-form-urlencoded", "channel=cats&message=m");
                thread::spawn(move || {
                    let began = Instant::now();
                    let response = form.send(&admin);
                    (response.status(), response.json()["code"].as_str().map(str::to_owned), began.elapsed())
                })
            })
            .collect();
        for publish in publishes {
            let (status, actual, took) = publish.join().unwrap();
            assert_eq!((status, actual.as_deref()), (503, Some(code)), "{round}");
            assert!(took < Duration::from_millis(4500), "{round}: {took:?}");
        }
    }
    redis.child().signal(Signal::SIGCONT);
    eventually("it publishes again", || {
        (daemon.post_form(&[("channel", "cats"), ("message", "m")]).status() == 200).then_some(())
    });
}

#[test]
fn a_replica_that_has_lost_its_primary_counts_as_disconnected() {
    needs!("redis-server");
    let (_folder, redis, mut daemon) = start("");
    let mut stream = open(&daemon, &["cats"]);
    // No process listens on port 1 of the loopback interface.
    let _: () = redis.query(redis::cmd("REPLICAOF").arg("127.0.0.1").arg(1));
    let reason = wait_until_not_ready(&daemon);
    assert!(reason.contains("replica"), "{reason}");
    let why = refused(daemon.post_form(&[("channel", "cats"), ("message", "m")]), 503);
    assert!(why.contains("replica"), "{why}");
    let _: () = redis.query(redis::cmd("REPLICAOF").arg("NO").arg("ONE"));
    daemon.wait_until_ready();
    assert_eq!(stream.gap(), source_gap(&["cats"]));
    daemon.publish("cats", "accepted");
    assert_eq!(stream.texts(1), ["accepted"]);
}

#[test]
fn a_demoted_primary_causes_a_gap_even_if_its_connection_stays() {
    needs!("redis-server");
    let (other_folder, (_folder, redis, mut daemon)) = (Folder::new(), start(""));
    let primary = RedisServer::start(&other_folder);
    let mut stream = open(&daemon, &["cats"]);
    let _: () = redis.query(redis::cmd("REPLICAOF").arg("127.0.0.1").arg(primary.port()));
    assert_eq!(stream.gap(), source_gap(&["cats"]));
    daemon.wait_until_ready();
    let reached = |stream: &mut Stream| {
        primary.publish("cats", "from the primary");
        stream.arrived().iter().any(|event| event.text() == "from the primary")
    };
    eventually("the replica delivers what its primary publishes", || reached(&mut stream).then_some(()));
    refused(daemon.post_form(&[("channel", "cats"), ("message", "m")]), 503);
}

#[test]
fn a_redis_message_that_is_too_long_is_dropped_with_a_gap() {
    needs!("redis-server");
    let (_folder, redis, daemon) = start("[publish]\nmax_message = \"1KiB\"\n");
    let mut stream = open(&daemon, &["cats", "dogs"]);
    redis.publish("cats", "before");
    redis.publish("cats", vec![b'x'; 16 << 10]);
    redis.publish("cats", vec![b'x'; (16 << 10) + 1]);
    redis.publish("dogs", "after");
    assert_eq!(stream.texts(1), ["before"]);
    assert_eq!(stream.event().data.len(), 16 << 10);
    assert_eq!(stream.gap(), Gap { channels: vec!["cats".to_owned()], reason: "source".to_owned() });
    assert_eq!(stream.texts(1), ["after"]);
}

#[test]
fn ids_of_a_stopped_node_hide_no_events_at_another_node() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let mut lagging = Daemon::start_named(&folder, "lagging", &redis.table());
    let other = Daemon::start_named(&folder, "other", &redis.table());
    let (mut stream, mut witness) = (open(&lagging, &["cats"]), open(&other, &["cats"]));
    lagging.child().signal(Signal::SIGSTOP);
    for text in ["1", "2", "3"] {
        redis.publish("cats", text);
    }
    assert_eq!(witness.texts(3), ["1", "2", "3"]);
    thread::sleep(Duration::from_secs(5)); // Longer than history.skew.
    lagging.child().signal(Signal::SIGCONT);
    let first = eventually("the first event", || Some(stream.event()).filter(|event| event.gap().is_none()));
    assert_eq!(first.text(), "1");
    let mut moved = Subscription::to(&["cats"]).after(&first.id).open(other.public());
    redis.publish("cats", "last");
    let mut texts = Vec::new();
    while texts.last().is_none_or(|text| text != "last") {
        // If the other node has started too recently to have all events, it sends a gap event first.
        texts.extend(Some(moved.event()).filter(|event| event.gap().is_none()).map(|event| event.text()));
    }
    assert!(texts.ends_with(&["2", "3", "last"].map(str::to_owned)), "{texts:?}");
}

#[test]
fn a_connection_that_redis_cuts_because_its_output_buffer_is_full_is_logged_and_reported() {
    needs!("redis-server");
    let (_folder, redis, mut daemon) = start("");
    let limit = ["SET", "client-output-buffer-limit", "pubsub 200kb 0 0"];
    let _: () = redis.query(redis::cmd("CONFIG").arg(&limit));
    let mut stream = open(&daemon, &["cats"]);
    daemon.child().signal(Signal::SIGSTOP);
    // Shorter than the limit, so that Redis has sent a part of what it drops.
    let long = "x".repeat(50_000);
    let cut = (0..2000).any(|_| redis.publish("cats", &long) == 0);
    daemon.child().signal(Signal::SIGCONT);
    assert!(cut, "Redis has cut nothing");
    // Redis before 7.4 does not count such connections: there, the message that was cut off says it.
    eventually("the log says why", || daemon.child().log().contains("its output buffer was full").then_some(()));
    daemon.wait_until_ready();
    eventually("it is subscribed to again", || (redis.publish("cats", "after") > 0).then_some(()));
    let mut gaps = 0;
    loop {
        let event = stream.event();
        match event.gap() {
            Some(gap) => {
                assert_eq!(gap, source_gap(&["cats"]));
                gaps += 1;
            }
            None if event.text() == "after" => break,
            None => assert_eq!(gaps, 0, "what came before the cut comes before the gap"),
        }
    }
    assert_eq!(gaps, 1);
}

#[test]
fn a_thousand_refused_requests_write_few_log_lines() {
    needs!("redis-server");
    let (_folder, _redis, mut daemon) = start_as_user(&["resetchannels", "&dogs", "&ssecast:*"], "");
    let began = Instant::now();
    thread::scope(|scope| {
        for thread in 0..4 {
            let daemon = &daemon;
            scope.spawn(move || {
                for number in 0..250 {
                    assert_eq!(answer(daemon, &format!("secret {thread} {number}")), 403);
                }
            });
        }
    });
    // One at once, and then one a minute.
    let most = 1 + usize::try_from(began.elapsed().as_secs() / 60).unwrap();
    let log = daemon.child().log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("Redis refuses channels")).collect();
    assert!((1..=most).contains(&lines.len()) && lines[0].contains("count=1"), "{lines:#?}");
    assert!(log.lines().count() < 50, "{} lines", log.lines().count());
}

#[test]
fn a_redis_that_asks_for_a_password_is_reported_with_what_to_do() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start_with_password(&folder, "secret");
    let mut daemon = Daemon::start_unready(&folder, &redis.table());
    let words = "Redis asks for a password: put one into the URL, redis://USER:PASSWORD@HOST";
    eventually("the log says what to do", || daemon.child().log().contains(words).then_some(()));
    assert!(wait_until_not_ready(&daemon).contains(words), "and so does /readyz");
    let why = refused(daemon.post_form(&[("channel", "cats"), ("message", "m")]), 503);
    assert!(why.contains(words), "and so does the answer to a publish: {why}");
}
