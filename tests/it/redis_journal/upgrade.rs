//! A new process takes over while entries come: none is lost, none comes twice.

use std::thread;

use super::*;

#[test]
fn reloads_under_load_lose_no_entry_and_repeat_none() {
    needs!("redis-server");
    let (_folder, redis, mut daemon) = start("");
    let mut stream = open(&daemon, &["base"]);
    let publisher = thread::spawn(move || {
        let mut connection = redis.connect();
        for number in 0..4000 {
            let mut add = redis::cmd("XADD");
            add.arg("ssecast").arg("*").arg("channel").arg("base").arg("data").arg(number);
            let _: String = add.query(&mut connection).unwrap();
        }
        redis
    });
    for _ in 0..3 {
        daemon.reload();
    }
    let redis = publisher.join().unwrap();
    redis.add("base", "4000");
    assert_eq!(stream.texts(4001), numbers(0..4001));
}

#[test]
fn a_reload_while_redis_is_down_reports_no_gap() {
    needs!("redis-server");
    let folder = Folder::new();
    let mut redis = RedisServer::start_with_options(&folder, &["--appendonly", "yes", "--appendfsync", "always"]);
    let mut daemon = Daemon::start(&folder, &table(&redis));
    let mut stream = open(&daemon, &["base"]);
    redis.add("base", "1");
    assert_eq!(stream.texts(1), ["1"]);
    redis.kill();
    eventually("the loss of the connection is noticed", || (daemon.admin_get("/readyz").status() == 503).then_some(()));
    daemon.reload();
    redis.start_again();
    redis.add("base", "2");
    assert_eq!(stream.texts(1), ["2"]);

    // Also where the process before has read nothing.
    redis.kill();
    daemon.start_again();
    let id = stream.last_event_id();
    let mut stream = Subscription::to(&["base"]).after(&id).open(daemon.public());
    daemon.reload();
    redis.start_again();
    redis.add("base", "3");
    assert_eq!(stream.texts(1), ["3"]);
}
