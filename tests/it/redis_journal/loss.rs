//! Entries that are lost before a node has read them end in a gap event; a lost connection loses none.

use nix::sys::signal::Signal;

use super::*;
use crate::support::Gap;

fn source_gap() -> Gap {
    Gap { channels: vec!["base".to_owned()], reason: "source".to_owned() }
}

/// Waits until no thread of the process runs: a signal takes a moment.
fn wait_until_stopped(pid: u32) {
    let is_stopped = |stat: String| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'));
    eventually("all threads are stopped", || {
        let mut threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        threads
            .all(|thread| is_stopped(std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap()))
            .then_some(())
    });
}

/// Runs `lose` while the daemon is stopped. The client gets what was read before, a gap, and what follows.
fn loses(lose: impl FnOnce(&RedisServer), follows: &[String]) {
    let (_folder, redis, mut daemon) = start("");
    let mut stream = open(&daemon, &["base"]);
    redis.add("base", "before");
    assert_eq!(stream.texts(1), ["before"]);
    daemon.child().signal(Signal::SIGSTOP);
    wait_until_stopped(daemon.child().pid());
    lose(&redis);
    daemon.child().signal(Signal::SIGCONT);
    assert_eq!(stream.gap(), source_gap());
    assert_eq!(stream.texts(follows.len()), follows);
    redis.add("base", "later");
    assert_eq!(stream.texts(1), ["later"], "one gap, and reading goes on");
    assert!(daemon.child().log().contains("events of the Redis journal may have been lost"));
}

#[test]
fn entries_that_are_trimmed_before_they_are_read_are_reported_by_a_gap() {
    needs!("redis-server");
    loses(
        |redis| {
            redis.add_many("base", 0..100);
            let _: usize = redis.query(redis::cmd("XTRIM").arg("ssecast").arg("MAXLEN").arg(3));
        },
        &numbers(97..100),
    );
}

#[test]
fn entries_that_are_all_trimmed_before_they_are_read_are_reported_by_a_gap() {
    needs!("redis-server");
    loses(
        |redis| {
            redis.add_many("base", 0..100);
            let _: usize = redis.query(redis::cmd("XTRIM").arg("ssecast").arg("MAXLEN").arg(0));
        },
        &[],
    );
}

#[test]
fn a_stream_that_is_deleted_is_reported_by_a_gap() {
    needs!("redis-server");
    loses(
        |redis| {
            let _: usize = redis.query(redis::cmd("DEL").arg("ssecast"));
        },
        &[],
    );
}

#[test]
fn a_stream_that_is_deleted_and_made_again_is_reported_and_read_from_its_beginning() {
    needs!("redis-server");
    loses(
        |redis| {
            let _: () = redis.query(&redis::cmd("FLUSHALL"));
            redis.add_many("base", 0..3);
        },
        &numbers(0..3),
    );
}

/// Redis's clock went back, or another program chose the ids.
#[test]
fn a_stream_that_is_made_again_with_lower_ids_does_not_leave_the_reader_waiting() {
    needs!("redis-server");
    loses(
        |redis| {
            let _: usize = redis.query(redis::cmd("DEL").arg("ssecast"));
            let add = |id: &str| -> String {
                redis.query(redis::cmd("XADD").arg("ssecast").arg(id).arg("channel").arg("base").arg("data").arg("0"))
            };
            add("5-1");
            // The next ids that Redis gives are times again.
        },
        &numbers(0..1),
    );
}

#[test]
fn a_stream_that_is_deleted_while_it_is_read_is_reported_once() {
    needs!("redis-server");
    let (_folder, redis, daemon) = start("");
    let mut stream = open(&daemon, &["base"]);
    redis.add("base", "1");
    assert_eq!(stream.texts(1), ["1"]);
    let _: usize = redis.query(redis::cmd("DEL").arg("ssecast"));
    assert_eq!(stream.gap(), source_gap());
    for number in 0..20 {
        redis.add("base", &number.to_string());
    }
    assert_eq!(stream.texts(20), numbers(0..20));
}

#[test]
fn streams_that_are_trimmed_to_a_few_entries_lose_nothing_where_the_node_keeps_up() {
    needs!("redis-server");
    let (_folder, redis, daemon) = start("");
    let mut stream = open(&daemon, &["base"]);
    for number in 0..200 {
        let mut add = redis::cmd("XADD");
        add.arg("ssecast").arg("MAXLEN").arg(1).arg("*").arg("channel").arg("base").arg("data").arg(number);
        let _: String = redis.query(&add);
        assert_eq!(stream.texts(1), [number.to_string()]);
    }
}

#[test]
fn a_lost_connection_loses_nothing_and_causes_no_gap() {
    needs!("redis-server");
    let (_folder, redis, mut daemon) = start("");
    let mut stream = open(&daemon, &["base"]);
    for round in 0..20 {
        let _: usize = redis.query(redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal"));
        redis.add_many("base", round * 50..(round + 1) * 50);
    }
    assert_eq!(stream.texts(1000), numbers(0..1000));
    daemon.wait_until_ready();
}

#[test]
fn a_redis_that_is_killed_and_has_an_append_only_file_loses_nothing() {
    needs!("redis-server");
    let folder = Folder::new();
    let options = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut redis = RedisServer::start_with_options(&folder, &options);
    let mut daemon = Daemon::start(&folder, &table(&redis));
    let mut stream = open(&daemon, &["base"]);
    let mut texts = Vec::new();
    for round in 0..3 {
        redis.add_many("base", round * 100..round * 100 + 50);
        redis.kill();
        redis.start_again();
        redis.add_many("base", round * 100 + 50..(round + 1) * 100);
        texts.extend(stream.texts(100));
    }
    assert_eq!(texts, numbers(0..300));
    assert!(!daemon.child().log().contains("events of the Redis journal may have been lost"));
}

#[test]
fn a_redis_that_hangs_is_noticed_and_loses_nothing() {
    needs!("redis-server");
    let (_folder, mut redis, mut daemon) = start("");
    let mut stream = open(&daemon, &["base"]);
    redis.add("base", "0");
    redis.child().signal(Signal::SIGSTOP);
    eventually("/readyz names the journal", || {
        daemon.admin_get("/readyz").text().contains("redis journal").then_some(())
    });
    redis.child().signal(Signal::SIGCONT);
    redis.add("base", "1");
    assert_eq!(stream.texts(2), ["0", "1"]);
    daemon.wait_until_ready();
    assert!(!daemon.child().log().contains("events of the Redis journal may have been lost"));
}

#[test]
fn after_a_failover_to_a_replica_that_lagged_a_gap_comes_and_nothing_twice() {
    needs!("redis-server");
    let (_folder, redis, mut daemon) = start("");
    let other_folder = Folder::new();
    let replica = RedisServer::start(&other_folder);
    let _: () = replica.query(redis::cmd("REPLICAOF").arg("127.0.0.1").arg(redis.port()));
    let mut stream = open(&daemon, &["base"]);
    redis.add_many("base", 0..10);
    eventually("the replica has them", || {
        let length: usize = replica.query(redis::cmd("XLEN").arg("ssecast"));
        (length == 10).then_some(())
    });
    let _: () = replica.query(redis::cmd("REPLICAOF").arg("NO").arg("ONE"));
    redis.add("base", "the replica lacks this");
    assert_eq!(stream.texts(11)[10], "the replica lacks this");
    // The daemon keeps its address: what was the primary takes the replica's data.
    let _: () = redis.query(redis::cmd("REPLICAOF").arg("127.0.0.1").arg(replica.port()));
    replica.add("base", "after the failover");
    assert_eq!(stream.gap(), source_gap());
    assert_eq!(stream.texts(1), ["after the failover"], "and nothing twice");
    eventually("the log says why", || daemon.child().log().contains("a replica that lagged").then_some(()));
}
