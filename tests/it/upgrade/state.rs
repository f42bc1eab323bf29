//! The state that a successor takes over: histories, cursors, clients that are behind, polls, timers, limits, files.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{
    fake_successor,
    upgraded_daemon::{UpgradedDaemon, lives, program_in, put_program},
};
use crate::support::{Endpoint, Folder, Request, Stream, Subscription, eventually, publisher};

fn node(id: &str) -> &str {
    id.split_once('-').unwrap().0
}

fn position(id: &str) -> u64 {
    id.split_once('-').unwrap().1.parse().unwrap()
}

#[test]
fn histories_and_cursors_are_the_same_after_an_upgrade() {
    let folder = Folder::new();
    let daemon = UpgradedDaemon::start(&folder, "[history]\nmessages = 5\n");
    let mut stream = Subscription::to(&["cats", "dogs"]).open(daemon.public());
    let begin = stream.last_event_id();
    let ids: Vec<String> =
        (0..8).map(|number| daemon.publish(["cats", "dogs"][number / 7], &number.to_string()).id.unwrap()).collect();
    daemon.publish("nobody", "kept for nobody");
    daemon.reload();
    let resume = |channels: &[&str], id: &str| Subscription::to(channels).after(id).open(daemon.public());
    assert_eq!(resume(&["cats", "dogs"], &ids[4]).texts(3), ["5", "6", "7"]);
    assert_eq!(resume(&["dogs"], &begin).texts(1), ["7"]);
    let mut late = resume(&["cats"], &begin);
    assert_eq!(late.gap().reason, "history", "a dropped event causes a gap");
    assert_eq!(late.texts(5), ["2", "3", "4", "5", "6"]);
    assert_eq!(resume(&["nobody"], &begin).texts(1), ["kept for nobody"]);
    let next = daemon.publish("cats", "8").id.unwrap();
    assert!(node(&next) == node(&begin) && position(&next) > position(&ids[7]), "{next} after {ids:?}");
    assert_eq!(stream.texts(9), ["0", "1", "2", "3", "4", "5", "6", "7", "8"]);
    assert_eq!(resume(&["cats", "dogs"], &ids[7]).texts(1), ["8"]);
    drop(late);
    let expected = [("cats".to_owned(), 1), ("dogs".to_owned(), 1)];
    eventually("disconnected clients are not counted", || (daemon.stats() == expected).then_some(()));
    let mut unused = resume(&["unused"], &begin);
    daemon.publish("unused", "first");
    assert_eq!(unused.texts(1), ["first"], "a channel without events has no gap");
}

#[test]
fn clients_that_are_behind_continue_in_the_middle_of_a_frame() {
    let folder = Folder::new();
    let daemon = UpgradedDaemon::start(&folder, "[history]\nstretch = \"60s\"\n");
    let plain = Subscription::to(&["cats"]);
    let mut streams: Vec<Stream> = (0..4).map(|_| plain.open(daemon.public())).collect();
    streams.push(plain.clone().in_envelopes().open(daemon.public()));
    let long = |number: usize| format!("{number} {}", "x".repeat(1_000_000));
    daemon.publish_many("cats", [long(0).as_str(), &long(1)]);
    daemon.reload();
    daemon.publish_many("cats", [long(2).as_str(), &long(3)]);
    // Some read now, the others after one more upgrade.
    let read = |stream: &mut Stream, numbers: std::ops::Range<usize>| {
        for number in numbers {
            assert!(stream.texts(1)[0] == long(number), "number {number} is not whole");
        }
    };
    read(&mut streams[0], 0..4);
    read(&mut streams[1], 0..1);
    daemon.reload();
    daemon.publish("cats", &long(4));
    read(&mut streams[0], 4..5);
    read(&mut streams[1], 1..5);
    read(&mut streams[2], 0..5);
    for number in 0..5 {
        let enveloped: Value = serde_json::from_str(&streams[4].texts(1)[0]).unwrap();
        assert!(enveloped["channel"] == "cats" && enveloped["data"] == long(number));
    }
    drop(streams.remove(3));
    eventually("a client that disconnects while it is behind is not counted", || {
        (daemon.subscribers("cats") == 4).then_some(())
    });
}

fn json_poll(endpoint: &Endpoint, channels: &str) -> Request {
    let target = format!("{}?channels={channels}", endpoint.base());
    Request::get(target).header("Accept", "application/json").header("Connection", "close")
}

#[test]
fn waiting_polls_are_answered_by_the_successor() {
    let folder = Folder::new();
    let daemon = UpgradedDaemon::start(&folder, "[stream]\nping_interval = \"3s\"\n");
    let (public, daemon) = (daemon.public(), &daemon);
    let jquery = || {
        Request::get(format!("{}?channels=cats", public.base()))
            .header("X-Requested-With", "XMLHttpRequest")
            .header("Connection", "close")
    };
    thread::scope(|scope| {
        let polls: Vec<_> =
            (0..3).map(|_| scope.spawn(|| json_poll(public, "cats,dogs").send(public).json())).collect();
        let in_vain = scope.spawn(|| json_poll(public, "nothing").send(public).json());
        let plugin = scope.spawn(|| jquery().send(public).text());
        eventually("they wait", || (daemon.subscribers("cats") == 4).then_some(()));
        eventually("it waits", || (daemon.subscribers("nothing") == 1).then_some(()));
        daemon.reload();
        assert_eq!(daemon.subscribers("cats"), 4, "they still wait");
        let id = daemon.publish("cats", "meow").id.unwrap();
        for poll in polls {
            let answer = poll.join().unwrap();
            assert_eq!(answer["events"], json!([{ "id": id, "channel": "cats", "data": "meow" }]));
            assert_eq!((&answer["cursor"], &answer["gap"]), (&Value::from(id.as_str()), &json!([])));
        }
        assert!(plugin.join().unwrap().contains("data: meow"));
        assert_eq!(in_vain.join().unwrap()["events"], json!([]), "the empty answer after the ping interval");
    });
}

#[test]
fn pings_and_max_lifetime_are_on_time_over_upgrades() {
    let folder = Folder::new();
    let daemon = UpgradedDaemon::start(&folder, "[stream]\nping_interval = \"1s\"\nmax_lifetime = \"6s\"\n");
    let began = Instant::now();
    let mut quiet = Subscription::to(&["quiet"]).open(daemon.public());
    let mut ending = Subscription::to(&["ending"]).open(daemon.public());
    quiet.last_event_id();
    // The upgrades are so frequent that no ping would be sent if each process restarted the timer.
    for _ in 0..6 {
        thread::sleep(Duration::from_millis(300));
        daemon.reload();
    }
    assert!(quiet.arrived().is_empty() && quiet.pings() > 0, "no ping in {:?}", began.elapsed());
    quiet.ping();
    assert_eq!(ending.rest(), []);
    let lived = began.elapsed();
    assert!(lived >= Duration::from_millis(4_500), "it ended after {lived:?}");
    daemon.publish("ending", "nobody there");
    assert_eq!(daemon.subscribers("ending"), 0);
}

#[test]
fn the_number_of_workers_can_change() {
    let folder = Folder::new();
    let workers = |count: usize| format!("[process]\nworkers = {count}\n");
    let daemon = UpgradedDaemon::start(&folder, &workers(1));
    let names: Vec<String> = (0..10).map(|number| format!("channel {number}")).collect();
    let mut streams: Vec<Stream> =
        names.iter().chain(&names).map(|name| Subscription::to(&[name]).open(daemon.public())).collect();
    let begin = streams[0].last_event_id();
    for (round, count) in [2, 2, 1, 1].into_iter().enumerate() {
        for name in &names {
            daemon.publish(name, &format!("{round} on {name}"));
        }
        daemon.configure(&workers(count));
        let pid = daemon.reload();
        eventually("it has as many shards", || {
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
            let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
            (names.filter(|name| name.starts_with("shard-")).count() == count).then_some(())
        });
    }
    let expected = |name: &str| (0..4).map(|round| format!("{round} on {name}")).collect::<Vec<_>>();
    for (stream, name) in streams.iter_mut().zip(names.iter().chain(&names)) {
        assert_eq!(stream.texts(4), expected(name));
    }
    for name in &names {
        // The clients may be on any shard.
        for _ in 0..2 {
            assert_eq!(Subscription::to(&[name]).after(&begin).open(daemon.public()).texts(4), expected(name));
        }
        eventually("the other clients are not counted", || (daemon.subscribers(name) == 2).then_some(()));
        assert_eq!(daemon.publish(name, "all are counted").subscribers, 2);
    }
}

#[test]
fn limits_of_the_new_configuration_are_applied() {
    let folder = Folder::new();
    let daemon = UpgradedDaemon::start(&folder, "");
    let mut two = Subscription::to(&["cats", "dogs"]).open(daemon.public());
    daemon.configure("[stream]\nmax_channels_per_client = 1\nmax_clients = 2\n[publish]\nmax_message = \"100B\"\n");
    daemon.reload();
    let ask = |channels: &str| Request::get(format!("/?channels={channels}")).send(daemon.public());
    assert!(publisher::refused(ask("cats,dogs"), 400).contains("max_channels_per_client"));
    publisher::refused(daemon.post("/publish/cats", "", vec![b'x'; 101]), 413);
    let one = Subscription::to(&["cats"]).open(daemon.public());
    assert!(publisher::refused(ask("cats"), 503).contains("max_clients"), "clients from before the upgrade count");
    daemon.publish("dogs", "woof");
    assert_eq!(two.texts(1), ["woof"], "a client with more channels keeps them");
    drop((one, two));
    eventually("they are not counted", || (daemon.stats().is_empty()).then_some(()));
    daemon.configure("");
    daemon.reload();
    assert_eq!(ask("cats,dogs").status(), 200);
}

/// It was left behind, with the number of a process that had ended.
#[test]
fn a_pidfile_that_moves_at_a_reload_leaves_none_behind() {
    let folder = Folder::new();
    let (before, after) = (folder.path("before.pid"), folder.path("after.pid"));
    let tables = |pidfile: &Path| format!("[process]\npidfile = {pidfile:?}\n");
    let daemon = UpgradedDaemon::start_copy(&folder, &tables(&before));
    daemon.configure(&tables(&after));
    // A reload that fails leaves it where it is.
    fake_successor::put(&program_in(&folder), "Hello receive fail");
    daemon.refused_reload();
    assert!(before.exists() && !after.exists());
    put_program(&program_in(&folder));
    let pid = daemon.reload();
    eventually("the former pidfile is removed", || (!before.exists()).then_some(()));
    assert_eq!(fs::read_to_string(&after).unwrap().trim(), pid.to_string());
    // None is configured any more.
    daemon.configure("");
    daemon.reload();
    eventually("the former pidfile is removed", || (!after.exists()).then_some(()));
}

#[test]
fn sockets_can_move_and_the_pidfile_names_the_successor() {
    let folder = Folder::new();
    let pidfile = folder.path("pid");
    let tables = format!("[process]\npidfile = {pidfile:?}\n");
    let daemon = UpgradedDaemon::start(&folder, &tables);
    let number = || fs::read_to_string(&pidfile).unwrap().trim().parse::<u32>().unwrap();
    assert_eq!(number(), daemon.first_pid());
    let mut stream = Subscription::to(&["cats"]).open(daemon.public());

    let moved = folder.path("moved.sock");
    let (old_public, admin) = (daemon.public().path(), daemon.admin().path());
    fs::write(daemon.config(), format!("[listen]\npublic = {moved:?}\nadmin = {admin:?}\n{tables}")).unwrap();
    let second = daemon.reload();
    eventually("the pidfile names the new process", || (number() == second).then_some(()));
    eventually("the socket at the old place is removed", || (!old_public.exists()).then_some(()));
    let mut newcomer = Subscription::to(&["cats"]).open(&Endpoint::unix(&moved));
    daemon.publish("cats", "meow");
    assert_eq!((stream.texts(1), newcomer.texts(1)), (vec!["meow".to_owned()], vec!["meow".to_owned()]));

    daemon.configure(&tables);
    let third = daemon.reload();
    eventually("the pidfile names the third process", || (number() == third).then_some(()));
    eventually("the socket at the old place is removed", || (!moved.exists()).then_some(()));
    assert!(old_public.exists());
    eventually("the earlier processes have ended", || {
        (!lives(second) && daemon.successors() == [second, third]).then_some(())
    });
    daemon.signal(Signal::SIGTERM);
    eventually("the last one ends", || (!lives(third)).then_some(()));
    let left: Vec<_> = fs::read_dir(folder.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name == "pid" || name.to_string_lossy().ends_with(".sock")), "{left:?}");
}
