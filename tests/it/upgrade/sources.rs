//! Redis and upgrades: subscriptions, the marker of the cut-over, and gap events where the cut-over can't be exact.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;

use super::{
    traffic::{ByAdmin, ByRedis, LIGHT, SetOnDrop},
    upgraded_daemon::{UpgradedDaemon, children, send},
};
use crate::support::{Folder, Gap, RedisServer, Response, Stream, Subscription, eventually, relay::Relay};

/// Every channel with a subscriber, including ssecast's own.
fn all_channels(redis: &RedisServer) -> Vec<String> {
    let mut channels: Vec<String> = redis.query(redis::cmd("PUBSUB").arg("CHANNELS"));
    channels.retain(|name| !name.contains("ssecast:probe:"));
    channels.sort();
    channels
}

fn source_gap(channel: &str) -> Gap {
    Gap { channels: vec![channel.to_owned()], reason: "source".to_owned() }
}

#[test]
fn the_successor_has_all_subscriptions_and_none_is_left_over() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let daemon = UpgradedDaemon::start(&folder, &format!("{}[history]\nlinger = \"300ms\"\n", redis.table()));
    let mut stays = Subscription::to(&["stays"]).open(daemon.public());
    let left = Subscription::to(&["left"]).open(daemon.public()).last_event_id();
    for round in 0..3 {
        daemon.reload();
        redis.publish("stays", round.to_string());
    }
    assert_eq!(stays.texts(3), ["0", "1", "2"]);
    eventually("the processes before are not subscribed", || (redis.subscribers("stays") == 1).then_some(()));
    eventually("channels without clients are unsubscribed", || (all_channels(&redis) == ["stays"]).then_some(()));
    assert_eq!(Subscription::to(&["left"]).after(&left).open(daemon.public()).gap().channels, ["left"]);
    drop(stays);
    eventually("all channels are unsubscribed", || all_channels(&redis).is_empty().then_some(()));
    assert_eq!(daemon.exact(), [true; 3]);
}

#[test]
fn channels_are_subscribed_and_unsubscribed_at_any_moment_of_an_upgrade() {
    needs!("redis-server");
    const COMERS: usize = 4;
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let daemon = UpgradedDaemon::start(&folder, &format!("{}[history]\nlinger = \"0s\"\n", redis.table()));
    let done = AtomicBool::new(false);
    let came = thread::scope(|scope| {
        let comers: Vec<_> = (0..COMERS)
            .map(|comer| {
                let (done, daemon, redis) = (&done, &daemon, &redis);
                scope.spawn(move || {
                    let mut connection = redis.connect();
                    let mut count = 0;
                    while !done.load(Ordering::Relaxed) {
                        // Some names are used again just as they are unsubscribed.
                        let name = format!("{comer} {}", count % 50);
                        let mut stream = Subscription::to(&[&name]).open(daemon.public());
                        let text = format!("{count}");
                        let subscribers: usize =
                            redis::cmd("PUBLISH").arg(&name).arg(&text).query(&mut connection).unwrap();
                        assert!(subscribers > 0, "no process is subscribed to {name}");
                        assert_eq!(stream.texts(1), [text], "no event is missing, and there is no gap");
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        let stop = SetOnDrop(&done);
        for _ in 0..10 {
            thread::sleep(Duration::from_millis(150));
            daemon.reload();
        }
        drop(stop);
        comers.into_iter().map(|comer| comer.join().unwrap()).sum::<usize>()
    });
    println!("{came} came");
    assert_eq!(daemon.exact(), [true; 10]);
    eventually("all channels are unsubscribed", || all_channels(&redis).is_empty().then_some(()));
    // Each channel can be subscribed again.
    let mut connection = redis.connect();
    for comer in 0..COMERS {
        for count in 0..50 {
            let name = format!("{comer} {count}");
            let mut stream = Subscription::to(&[&name]).open(daemon.public());
            redis::cmd("PUBLISH").arg(&name).arg("again").exec(&mut connection).unwrap();
            assert_eq!(stream.texts(1), ["again"]);
        }
    }
}

#[test]
fn the_cut_over_is_exact_for_publishes_through_redis() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let daemon = UpgradedDaemon::start(&folder, &format!("{}[history]\nmessages = 100000\n", redis.table()));
    let mut publisher = ByAdmin::connect(&daemon);
    LIGHT.during(&daemon, &mut publisher, |_| {
        for workers in [2, 1, 2] {
            daemon
                .configure(&format!("{}[history]\nmessages = 100000\n[process]\nworkers = {workers}\n", redis.table()));
            daemon.reload();
        }
    });
    assert_eq!(daemon.exact(), [true; 3]);
}

#[test]
fn an_upgrade_while_redis_is_disconnected_succeeds_and_clients_get_a_gap() {
    needs!("redis-server");
    let folder = Folder::new();
    let mut redis = RedisServer::start(&folder);
    let daemon = UpgradedDaemon::start(&folder, &redis.table());
    let mut cats = Subscription::to(&["cats"]).open(daemon.public());
    redis.publish("cats", "before");
    assert_eq!(cats.texts(1), ["before"]);
    redis.kill();
    eventually("the daemon knows that Redis is disconnected", || {
        (daemon.admin_get("/readyz").status() == 503).then_some(())
    });
    daemon.reload();
    let mut newcomer = Subscription::to(&["dogs"]).open(daemon.public());
    redis.start_again();
    daemon.wait_until_sources_are_connected();
    redis.publish("cats", "after");
    redis.publish("dogs", "after");
    for (stream, name) in [(&mut cats, "cats"), (&mut newcomer, "dogs")] {
        let (mut gaps, mut event) = (0, stream.event());
        while let Some(gap) = event.gap() {
            assert_eq!(gap, source_gap(name));
            (gaps, event) = (gaps + 1, stream.event());
        }
        assert_eq!((event.text().as_str(), gaps), ("after", 1), "there is one gap event on {name}");
    }
    daemon.reload();
    redis.publish("cats", "all is well");
    assert_eq!(cats.texts(1), ["all is well"]);
    assert_eq!(daemon.exact(), [false, true]);
}

#[test]
fn a_new_process_without_redis_does_not_replace_one_that_is_connected() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let daemon = UpgradedDaemon::start(&folder, &redis.table());
    let mut stream = Subscription::to(&["cats"]).open(daemon.public());
    // No process listens on this port. The new process waits for some time.
    daemon.configure("[redis]\nurl = \"redis://127.0.0.1:1\"\n");
    let why = daemon.refused_reload();
    assert!(why.contains("[redis]"), "{why}");
    redis.publish("cats", "meow");
    assert_eq!(stream.texts(1), ["meow"]);
    eventually("no marker is left over", || (all_channels(&redis) == ["cats"]).then_some(()));
}

#[test]
fn clients_get_a_gap_if_the_marker_can_not_be_published() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let user = ["SETUSER", "daemon", "on", ">secret", "+@all", "-publish", "~*", "&*"];
    let _: () = redis.query(redis::cmd("ACL").arg(&user));
    let table = format!("[redis]\nurl = \"redis://daemon:secret@127.0.0.1:{}\"\n", redis.port());
    let daemon = UpgradedDaemon::start(&folder, &table);
    let mut stream = Subscription::to(&["cats"]).open(daemon.public());
    redis.publish("cats", "before");
    assert_eq!(stream.texts(1), ["before"]);
    daemon.reload();
    redis.publish("cats", "after");
    assert_eq!(stream.gap(), source_gap("cats"));
    assert_eq!(stream.texts(1), ["after"]);
    assert_eq!(daemon.exact(), [false]);
    assert!(daemon.log().contains("the marker can't be published"), "{}", daemon.log());
}

#[test]
fn clients_get_a_gap_if_the_marker_s_channel_can_not_be_subscribed() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let user = ["SETUSER", "daemon", "on", ">secret", "+@all", "~*", "resetchannels", "&cats"];
    let _: () = redis.query(redis::cmd("ACL").arg(&user));
    let table = format!("[redis]\nurl = \"redis://daemon:secret@127.0.0.1:{}\"\n", redis.port());
    let daemon = UpgradedDaemon::start(&folder, &table);
    let mut stream = Subscription::to(&["cats"]).open(daemon.public());
    daemon.reload();
    redis.publish("cats", "after");
    assert_eq!(stream.gap(), source_gap("cats"));
    assert_eq!(stream.texts(1), ["after"]);
}

/// The connection was cut without an answer, because the upgrade waited for the request only a second.
#[test]
fn a_request_that_waits_for_a_late_confirmation_during_an_upgrade_is_answered_by_the_successor() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let relay = Relay::start(redis.port());
    // Without a marker, the predecessor waits for nothing from Redis once the successor is subscribed.
    let user = ["SETUSER", "daemon", "on", ">secret", "+@all", "~*", "resetchannels", "&cats", "&late"];
    let _: () = redis.query(redis::cmd("ACL").arg(&user));
    let table = format!("[redis]\nurl = \"redis://daemon:secret@127.0.0.1:{}\"\n", relay.port());
    let daemon = UpgradedDaemon::start(&folder, &table);
    let mut stream = Subscription::to(&["cats"]).open(daemon.public());
    let (of_predecessor, of_successor) = (0..relay.connections(), relay.connections()..usize::MAX);

    relay.hold_replies_of(of_successor.clone(), "");
    let socket = thread::scope(|scope| {
        let reload = scope.spawn(|| daemon.reload());
        eventually("the successor connects", || (relay.connections() > of_predecessor.end).then_some(()));
        relay.hold_replies_of(of_predecessor, "late");
        let mut socket = daemon.public().connect().unwrap();
        socket.write_all(&Subscription::to(&["late"]).request(daemon.public()).to_bytes()).unwrap();
        eventually("Redis has the subscription", || (redis.subscribers("late") == 1).then_some(()));
        relay.release_replies_of(&of_successor);
        // The predecessor is never sent the confirmation.
        reload.join().unwrap();
        socket
    });
    relay.release_replies();
    socket.set_timeout(Duration::from_secs(15));
    let mut late = Stream::new(Response::read_head(socket).unwrap());
    redis.publish("late", "1");
    assert_eq!(late.texts(1), ["1"]);
    redis.publish("cats", "2");
    assert_eq!((stream.gap(), stream.texts(1)), (source_gap("cats"), vec!["2".to_owned()]));
}

#[test]
fn clients_get_a_gap_if_the_successor_uses_another_redis() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let (other_folder, daemon) = (Folder::new(), UpgradedDaemon::start(&folder, &redis.table()));
    let other = RedisServer::start(&other_folder);
    let mut stream = Subscription::to(&["cats"]).open(daemon.public());
    daemon.configure(&other.table());
    daemon.reload();
    eventually("the new one is subscribed", || (other.subscribers("cats") == 1).then_some(()));
    other.publish("cats", "from the other one");
    assert_eq!(stream.gap(), source_gap("cats"));
    assert_eq!(stream.texts(1), ["from the other one"]);
    // A successor without any Redis.
    daemon.configure("");
    daemon.reload();
    daemon.publish("cats", "from the admin socket");
    assert_eq!(stream.gap(), source_gap("cats"));
    assert_eq!(stream.texts(1), ["from the admin socket"]);
    daemon.configure(&redis.table());
    daemon.reload();
    eventually("the first one is subscribed again", || (redis.subscribers("cats") == 1).then_some(()));
    redis.publish("cats", "from the first one");
    assert_eq!(stream.gap(), source_gap("cats"));
    assert_eq!(stream.texts(1), ["from the first one"]);
}

/// A relay to Redis. All connections after the first get everything [`LATE`].
struct LateRelay {
    port: u16,
    is_late: Arc<AtomicBool>,
}

const LATE: Duration = Duration::from_millis(150);

impl LateRelay {
    fn start(target: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let is_late = Arc::new(AtomicBool::new(false));
        let from_now_on = Arc::clone(&is_late);
        thread::spawn(move || {
            for client in listener.incoming() {
                let (mut client, mut server) =
                    (client.unwrap(), TcpStream::connect((Ipv4Addr::LOCALHOST, target)).unwrap());
                let (mut to_server, mut to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let late = if from_now_on.load(Ordering::Relaxed) { LATE } else { Duration::ZERO };
                thread::spawn(move || {
                    let _ = io::copy(&mut client, &mut to_server);
                    let _ = to_server.shutdown(Shutdown::Both);
                });
                thread::spawn(move || {
                    let mut buffer = [0; 64 << 10];
                    while let Ok(count @ 1..) = server.read(&mut buffer) {
                        thread::sleep(late);
                        if to_client.write_all(&buffer[..count]).is_err() {
                            break;
                        }
                    }
                    let _ = to_client.shutdown(Shutdown::Both);
                });
            }
        });
        Self { port, is_late }
    }
}

#[test]
fn the_cut_over_is_exact_if_the_successor_gets_messages_late() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let relay = LateRelay::start(redis.port());
    let daemon = UpgradedDaemon::start(&folder, &format!("[redis]\nurl = \"redis://127.0.0.1:{}\"\n", relay.port));
    let mut publisher = ByRedis(redis.connect());
    LIGHT.during(&daemon, &mut publisher, |_| {
        thread::sleep(Duration::from_millis(100));
        relay.is_late.store(true, Ordering::Relaxed);
        daemon.reload();
        // Now the old process gets its messages as late as the new one.
        daemon.reload();
    });
    assert_eq!(daemon.exact(), [true; 2]);
}

#[test]
fn a_gap_stands_where_the_loss_is_when_both_processes_lose_redis_during_an_upgrade() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let daemon = UpgradedDaemon::start(&folder, &redis.table());
    let mut stream = Subscription::to(&["cats"]).open(daemon.public());
    let mut published = 0..;
    let mut publish = |count: usize| {
        let last = published.by_ref().take(count).inspect(|number: &u32| {
            redis.publish("cats", number.to_string());
        });
        last.last().unwrap()
    };
    let (mut expected, mut holes) = (0, 0);
    for (round, delay) in [0, 10, 20, 40, 80].into_iter().enumerate() {
        let predecessor = daemon.pid();
        let outcomes =
            |log: &str| log.matches("a new process has taken over").count() + log.matches("the reload failed").count();
        send(predecessor, Signal::SIGHUP);
        eventually("the successor is started", || (!children(predecessor).is_empty()).then_some(()));
        thread::sleep(Duration::from_millis(delay));
        send(predecessor, Signal::SIGSTOP);
        publish(3);
        redis.cut_subscribers();
        publish(3);
        thread::sleep(Duration::from_millis(300));
        publish(3);
        send(predecessor, Signal::SIGCONT);
        eventually("the upgrade is over", || (outcomes(&daemon.log()) > round).then_some(()));
        daemon.wait_until_sources_are_connected();
        eventually("one process is subscribed", || (redis.subscribers("cats") == 1).then_some(()));
        let last = publish(1);
        let mut gaps = 0;
        while expected <= last {
            let event = stream.event();
            if let Some(gap) = event.gap() {
                assert_eq!(gap, source_gap("cats"));
                gaps += 1;
                continue;
            }
            let number: u32 = event.text().parse().unwrap();
            assert!(number >= expected, "round {round}: {number} came when {expected} was expected");
            assert!(number == expected || gaps > 0, "round {round}: no gap between {expected} and {number}");
            // Where nothing is missing there is at most the gap of an upgrade that is not exact.
            holes += usize::from(number > expected);
            (expected, gaps) = (number + 1, 0);
        }
    }
    assert!(holes > 0, "no round has lost anything: the test shows nothing");
}
