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
