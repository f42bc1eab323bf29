//! Ten upgrades under load: every client gets every event once, in order, on the same connection.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{
    swarm::Swarm,
    traffic::{ByAdmin, ByRedis, Publish, Traffic},
    upgraded_daemon::UpgradedDaemon,
};
use crate::support::{Folder, Nginx, RedisServer};

const RELOADS: usize = 10;
/// The histories are long enough that clients that are behind on a slow machine get no gap.
const TABLES: &str = "[history]\nmessages = 100000\nbytes = \"512MiB\"\nstretch = \"60s\"\n";

fn median_and_worst(mut all: Vec<Duration>) -> String {
    all.sort();
    format!("median {:?}, worst {:?}", all[all.len() / 2], all[all.len() - 1])
}

/// Reloads ten times while `publisher` publishes, and prints how long clients got nothing.
fn reload_under_load(folder: &Folder, daemon: &UpgradedDaemon, publisher: &mut dyn Publish) {
    let nginx = Nginx::start(folder, daemon);
    let through = nginx.sse();
    let traffic = Traffic { clients: 4_700, through: Some((&through, 300)), channels: 1_000, rate: 2_000, batch: 10 };
    let (mut silences, mut ways) = (Vec::new(), Vec::new());
    traffic.during(daemon, publisher, |swarm: &Swarm| {
        for _ in 0..RELOADS {
            thread::sleep(Duration::from_millis(200));
            let _ = swarm.stood_still();
            let began = Instant::now();
            daemon.reload();
            let took = began.elapsed();
            thread::sleep(Duration::from_millis(100));
            let (silence, way) = swarm.stood_still();
            println!("reload in {took:?}; nothing came for {silence:?}, the longest way of an event {way:?}");
            silences.push(silence);
            ways.push(way);
            swarm.assert_well();
        }
    });
    assert_eq!(daemon.exact(), [true; RELOADS]);
    println!("stood still, as the daemon reports: {}", median_and_worst(daemon.stood_still()));
    println!("nothing came to any client for: {}", median_and_worst(silences));
    println!("longest way of an event: {}", median_and_worst(ways));
}

#[test]
fn ten_reloads_while_redis_publishes_cut_no_client_and_lose_no_event() {
    needs!("nginx", "redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let daemon = UpgradedDaemon::start(&folder, &format!("{}{TABLES}", redis.table()));
    reload_under_load(&folder, &daemon, &mut ByRedis(redis.connect()));
}

#[test]
fn ten_reloads_while_the_admin_socket_publishes_cut_no_client_and_lose_no_event() {
    needs!("nginx");
    let folder = Folder::new();
    let daemon = UpgradedDaemon::start(&folder, TABLES);
    let mut publisher = ByAdmin::connect(&daemon);
    reload_under_load(&folder, &daemon, &mut publisher);
}
