//! Clients that read by patterns, over upgrades: their subscriptions, histories and the channels of their events are taken over.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use super::{traffic::SetOnDrop, upgraded_daemon::UpgradedDaemon};
use crate::{
    kept,
    patterns::events,
    support::{Folder, RedisServer, Subscription, eventually},
};

const ALLOWED: &str = "[[channel]]\nmatch = \"*\"\npatterns = true\npattern_messages = 100000\n";

#[test]
fn nothing_is_lost_or_doubled_by_patterns_over_reloads() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let tables = format!("{}[process]\nworkers = 2\n{ALLOWED}", redis.table());
    let daemon = UpgradedDaemon::start(&folder, &tables);
    let open = |channels: &[&str]| Subscription::to(channels).open(daemon.public());
    let (mut by_pattern, mut by_two, mut by_name) = (open(&["a*"]), open(&["a*", "*b"]), open(&["ab"]));
    let id = by_pattern.last_event_id();
    let done = AtomicBool::new(false);
    let count = thread::scope(|scope| {
        let publishing = scope.spawn(|| {
            let mut connection = redis.connect();
            let mut count = 0;
            while !done.load(Ordering::Relaxed) {
                for channel in ["ab", "ac"] {
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
    let expected: Vec<String> =
        (0..count).flat_map(|number| [format!("ab={number}"), format!("ac={number}")]).collect();
    assert_eq!(events(&mut by_pattern, 2 * count), expected);
    assert_eq!(events(&mut by_two, 2 * count), expected);
    assert_eq!(by_name.texts(count), (0..count).map(|number| number.to_string()).collect::<Vec<_>>());
    // The history of the pattern was taken over with the channels of its events.
    let mut resumed = Subscription::to(&["a*"]).after(&id).open(daemon.public());
    assert_eq!(events(&mut resumed, 2 * count), expected);
    eventually("only one process is subscribed", || (kept::patterns(&redis) == 2).then_some(()));
}

#[test]
fn a_pattern_without_redis_is_taken_over_too() {
    let folder = Folder::new();
    let daemon = UpgradedDaemon::start(&folder, ALLOWED);
    let mut stream = Subscription::to(&["a*"]).open(daemon.public());
    let id = stream.last_event_id();
    daemon.publish("ab", "1");
    daemon.reload();
    daemon.publish("ac", "2");
    assert_eq!(events(&mut stream, 2), ["ab=1", "ac=2"]);
    let mut resumed = Subscription::to(&["a*"]).after(&id).open(daemon.public());
    assert_eq!(events(&mut resumed, 2), ["ab=1", "ac=2"]);
}
