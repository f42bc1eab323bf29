//! Channels that a rule keeps always, over upgrades: nothing is lost, also of those that have no client.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use super::{traffic::SetOnDrop, upgraded_daemon::UpgradedDaemon};
use crate::{
    kept::{ALWAYS, patterns},
    support::{Folder, RedisServer, Subscription, eventually},
};

#[test]
fn nothing_is_lost_or_doubled_over_reloads_with_or_without_clients() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let tables = format!("{}[history]\nmessages = 100000\n[process]\nworkers = 2\n{ALWAYS}", redis.table());
    let daemon = UpgradedDaemon::start(&folder, &tables);
    let mut stream = Subscription::to(&["news.1"]).open(daemon.public());
    let id = stream.last_event_id();
    let done = AtomicBool::new(false);
    let count = thread::scope(|scope| {
        let publishing = scope.spawn(|| {
            let mut connection = redis.connect();
            let mut count = 0;
            while !done.load(Ordering::Relaxed) {
                for channel in ["news.1", "news.2"] {
                    redis::cmd("PUBLISH").arg(channel).arg(count.to_string()).exec(&mut connection).unwrap();
                }
                count += 1;
                thread::sleep(Duration::from_millis(1));
            }
            count
        });
        let stop = SetOnDrop(&done);
        for _ in 0..3 {
            daemon.reload();
        }
        drop(stop);
        publishing.join().unwrap()
    });
    assert_eq!(daemon.exact(), [true; 3]);
    let numbers: Vec<String> = (0..count).map(|number| number.to_string()).collect();
    assert_eq!(stream.texts(count), numbers);
    // Nobody has read this one yet.
    assert_eq!(Subscription::to(&["news.2"]).after(&id).open(daemon.public()).texts(count), numbers);
    // One without events has lost nothing either.
    redis.publish("news.3", "x");
    assert_eq!(Subscription::to(&["news.3"]).after(&id).open(daemon.public()).texts(1), ["x"]);
    eventually("only one process is subscribed", || (patterns(&redis) == 1).then_some(()));
}

#[test]
fn a_reload_may_add_a_rule_and_take_one_away() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let daemon = UpgradedDaemon::start(&folder, &redis.table());
    let mut stream = Subscription::to(&["news.1"]).open(daemon.public());
    redis.publish("news.1", "1");
    let id = stream.last_event_id();
    daemon.configure(&format!("{}{ALWAYS}", redis.table()));
    daemon.reload();
    redis.publish("news.1", "2");
    redis.publish("news.2", "3");
    assert_eq!(stream.texts(2), ["1", "2"], "no gap");
    let mut late = Subscription::to(&["news.2"]).after(&id).open(daemon.public());
    assert_eq!(late.gap().channels, ["news.2"], "it was not kept before the reload");
    assert_eq!(late.texts(1), ["3"]);
    eventually("the pattern replaces the name", || (redis.subscribers("news.1") == 0).then_some(()));
    daemon.configure(&redis.table());
    daemon.reload();
    assert_eq!(stream.gap().channels, ["news.1"], "it was not subscribed to by its name");
    redis.publish("news.1", "4");
    assert_eq!(stream.texts(1), ["4"]);
    eventually("the pattern is unsubscribed", || (patterns(&redis) == 0).then_some(()));
}
