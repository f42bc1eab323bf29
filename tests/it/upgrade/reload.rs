//! Reloads: a new process takes over everything. No client is cut, and no event is lost or repeated. If the new process fails, the
//! old one serves on.

use std::{
    io::Write,
    sync::mpsc::{self, TryRecvError},
    thread,
};

use nix::sys::signal::Signal;

use crate::support::{
    Daemon, Endpoint, Folder, Nginx, RedisServer, Request, Response, Stream, Subscription,
    daemon::run,
    eventually,
    publisher::{accepted, refused},
};

fn start(tables: &str) -> (Folder, Daemon) {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, tables);
    (folder, daemon)
}

fn open(daemon: &Daemon, count: usize, channels: &[&str]) -> Vec<Stream> {
    (0..count).map(|_| Subscription::to(channels).open(daemon.public())).collect()
}

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

/// The data of all events up to one with `last`.
fn texts_up_to(stream: &mut Stream, last: &str) -> Vec<String> {
    let mut texts = stream.texts(1);
    while texts.last().unwrap() != last {
        texts.extend(stream.texts(1));
    }
    texts
}

#[test]
fn streams_continue_over_reloads_without_loss() {
    let (_folder, mut daemon) = start("[process]\nworkers = 2\n");
    let mut clients = open(&daemon, 50, &["cats", "dogs"]);
    let mut published = Vec::new();
    for round in 0..4 {
        for channel in ["cats", "dogs"] {
            let answer = daemon.publish(channel, &format!("{channel} {round}"));
            assert_eq!(answer.subscribers, 50, "in round {round}");
            published.push(answer.id.unwrap());
        }
        let before = daemon.child().pid();
        daemon.reload();
        assert_ne!(daemon.child().pid(), before);
        assert_eq!(daemon.stats(), [("cats".to_owned(), 50), ("dogs".to_owned(), 50)]);
    }
    for client in &mut clients {
        let events = client.events(published.len());
        assert!(events.iter().all(|event| event.gap().is_none()));
        assert_eq!(events.into_iter().map(|event| event.id).collect::<Vec<_>>(), published);
    }
    let node = |id: &str| id.split_once('-').unwrap().0.to_owned();
    assert!(published.iter().all(|id| node(id) == node(&published[0])), "the node stays the same: {published:?}");
    drop(clients);
    eventually("the successor sees that they have left", || daemon.stats().is_empty().then_some(()));
}

/// Reloads `daemon` eight times, while another thread calls `publish` again and again. `publish` takes the number of events
/// published so far, publishes the next numbers, and returns the new number of events. Asserts that each client gets every number,
/// once and in order.
fn publish_during_reloads(daemon: &mut Daemon, clients: &mut [Stream], mut publish: impl FnMut(usize) -> usize + Send) {
    let published = thread::scope(|scope| {
        // The sender is dropped after the reloads, and also if one of them panics.
        let (reloading, reloaded) = mpsc::channel::<()>();
        let publishing = scope.spawn(move || {
            let mut count = 0;
            while reloaded.try_recv() == Err(TryRecvError::Empty) {
                count = publish(count);
            }
            count
        });
        (0..8).for_each(|_| daemon.reload());
        drop(reloading);
        publishing.join().unwrap()
    });
    assert!(published > 8, "{published}");
    for client in clients {
        assert_eq!(texts_up_to(client, &(published - 1).to_string()), numbers(published));
    }
}

#[test]
fn events_published_during_reloads_arrive_once_and_in_order() {
    let (_folder, mut daemon) = start("[history]\nmessages = 100000\n");
    let mut clients = open(&daemon, 20, &["cats"]);
    let admin = daemon.admin().clone();
    publish_during_reloads(&mut daemon, &mut clients, |count| {
        // Every publish is accepted too.
        accepted(Request::post("/publish/cats", "", count.to_string()).send(&admin));
        count + 1
    });
}

#[test]
fn redis_messages_during_reloads_arrive_once_and_in_order() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let mut daemon = Daemon::start(&folder, &format!("{}[history]\nmessages = 100000\n", redis.table()));
    let mut clients = open(&daemon, 5, &["cats", "dogs"]);
    let mut pace = open(&daemon, 1, &["cats", "dogs"]).remove(0);
    let mut connection = redis.connect();
    publish_during_reloads(&mut daemon, &mut clients, |count| {
        for number in count..count + 20 {
            let channel = ["cats", "dogs"][number % 2];
            let subscribers: usize = redis::Commands::publish(&mut connection, channel, number).unwrap();
            assert!(subscribers > 0, "for a moment no process was subscribed");
        }
        // Publish no faster than this client reads: Redis cuts off a slow subscriber.
        assert_eq!(pace.texts(20), numbers(count + 20)[count..]);
        count + 20
    });
    eventually("the old process's subscriptions are gone", || (redis.subscribers("cats") == 1).then_some(()));
}

#[test]
fn streams_through_nginx_continue_over_reloads() {
    needs!("nginx");
    let (folder, mut daemon) = start("");
    let nginx = Nginx::start(&folder, &daemon);
    let mut stream = Subscription::to(&["cats"]).open(&nginx.sse());
    for round in 0..5 {
        daemon.publish("cats", &format!("{round} before"));
        daemon.reload();
        daemon.publish("cats", &format!("{round} after"));
        assert_eq!(stream.texts(2), [format!("{round} before"), format!("{round} after")]);
        let mut late = Subscription::to(&["cats"]).open(&nginx.sse());
        daemon.publish("cats", "to both");
        assert_eq!((stream.texts(1), late.texts(1)), (vec!["to both".to_owned()], vec!["to both".to_owned()]));
    }
}

#[test]
fn a_half_written_frame_is_completed_by_the_successor() {
    let (_folder, mut daemon) = start("[publish]\nmax_message = \"16MiB\"\n");
    let mut slow = open(&daemon, 1, &["cats"]).remove(0);
    let long: String = (0..3_000_000).map(|number: u32| char::from(b'a' + (number % 26) as u8)).collect();
    daemon.publish_raw("cats", long.as_bytes());
    daemon.publish("cats", "behind it");
    for _ in 0..3 {
        daemon.reload();
    }
    daemon.publish("cats", "the last");
    let texts = slow.texts(3);
    assert!(texts[0] == long, "{} bytes came as {}", long.len(), texts[0].len());
    assert_eq!(texts[1..], ["behind it", "the last"]);
}

#[test]
fn slow_clients_get_every_event_over_a_reload() {
    let (_folder, mut daemon) = start("[history]\nmessages = 100000\nstretch = \"60s\"\n");
    let mut slow = open(&daemon, 10, &["cats"]);
    let padding = "x".repeat(200);
    let messages: Vec<String> = (0..5000).map(|number| format!("{number} {padding}")).collect();
    for lot in messages.chunks(1000) {
        daemon.publish_many("cats", lot.iter().map(String::as_str));
        daemon.reload();
    }
    for client in &mut slow {
        assert!(client.texts(messages.len()) == messages);
    }
}

#[test]
fn the_successor_has_the_histories() {
    let (_folder, mut daemon) = start("");
    let cursor = Subscription::to(&["elsewhere"]).open(daemon.public()).last_event_id();
    for message in numbers(50) {
        daemon.publish("cats", &message);
    }
    daemon.reload();
    daemon.publish("cats", "50");
    daemon.reload();
    let mut resumed = Subscription::to(&["cats"]).after(&cursor).open(daemon.public());
    assert_eq!(resumed.texts(51), numbers(51), "and no gap");
}

#[test]
fn a_waiting_poll_is_answered_by_the_successor() {
    let (_folder, mut daemon) = start("[stream]\nping_interval = \"1h\"\n");
    let mut socket = daemon.public().connect().unwrap();
    let request = Request::get("/?channels=cats").header("Accept", "application/json").header("Connection", "close");
    socket.write_all(&request.to_bytes()).unwrap();
    eventually("it waits", || (daemon.subscribers("cats") == 1).then_some(()));
    daemon.reload();
    daemon.publish("cats", "by the successor");
    let answer = Response::read_head(socket).unwrap().json();
    assert_eq!(answer["events"][0]["data"], "by the successor");
}

#[test]
fn the_successor_serves_connections_that_wait_for_a_request() {
    let (_folder, mut daemon) = start("");
    let mut idle = daemon.public().connect().unwrap();
    let mut half = daemon.public().connect().unwrap();
    half.write_all(b"GET /?channels=cats HTTP/1.1\r\nHost: loc").unwrap();
    // Both must be accepted before the predecessor ends.
    daemon.assert_serving();
    daemon.reload();
    let request = Subscription::to(&["cats"]).request(daemon.public()).to_bytes();
    idle.write_all(&request).unwrap();
    half.write_all(b"alhost\r\n\r\n").unwrap();
    let mut streams = [idle, half].map(|socket| Stream::new(Response::read_head(socket).unwrap()));
    daemon.publish("cats", "1");
    for stream in &mut streams {
        assert_eq!(stream.texts(1), ["1"]);
    }
}

#[test]
fn the_successor_uses_the_new_configuration() {
    let (_folder, mut daemon) = start("[stream]\nmax_clients = 10\nmax_channels_per_client = 2\n");
    let clients = open(&daemon, 3, &["cats"]);
    daemon.configure("[stream]\nmax_clients = 4\nmax_channels_per_client = 3\nping_interval = \"50ms\"\n");
    daemon.reload();
    let mut fourth = Subscription::to(&["a", "b", "c"]).open(daemon.public());
    fourth.ping();
    refused(Request::get("/?channels=cats").send(daemon.public()), 503);
    drop(clients);
}

#[test]
fn with_a_wrong_configuration_the_old_process_serves_on() {
    needs!("redis-server");
    let (_folder, mut daemon) = start("");
    let mut client = open(&daemon, 1, &["cats"]).remove(0);
    let pid = daemon.child().pid();
    daemon.configure("[stream]\nretyr = \"1s\"\n");
    let answer = refused(Request::post("/reload", "", "").send(daemon.admin()), 500);
    assert!(answer.contains("retyr") && answer.contains("retry"), "{answer}");
    let output = run(&["reload", "--admin-socket", daemon.admin().path().to_str().unwrap()], b"");
    assert_eq!(output.status.code(), Some(1));
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(printed.contains("stream.retyr: there is no such key") && !printed.contains("{\""), "{printed}");
    assert_eq!(daemon.child().ended(), None, "{}", daemon.child().log());
    assert!(daemon.child().log().contains("retyr"), "the log says why: {}", daemon.child().log());
    daemon.publish("cats", "undisturbed");
    assert_eq!(client.texts(1), ["undisturbed"]);
    daemon.configure("");
    daemon.reload();
    assert_ne!(daemon.child().pid(), pid);
    daemon.publish("cats", "and later");
    assert_eq!(client.texts(1), ["and later"]);
}

#[test]
fn with_an_unreachable_new_redis_the_old_process_serves_on() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let mut daemon = Daemon::start(&folder, &redis.table());
    let mut client = open(&daemon, 1, &["cats"]).remove(0);
    daemon.configure("[redis]\nurl = \"redis://127.0.0.1:1\"\n");
    let answer = Request::post("/reload", "", "").send(daemon.admin());
    assert_ne!(answer.status(), 200, "the new process must not take over without its source");
    assert_eq!(daemon.child().ended(), None);
    redis.publish("cats", "undisturbed");
    assert_eq!(client.texts(1), ["undisturbed"]);
}

#[test]
fn sighup_reloads_and_the_pidfile_names_the_successor() {
    let folder = Folder::new();
    let pidfile = folder.path("ssecast.pid");
    let mut daemon = Daemon::start(&folder, &format!("[process]\npidfile = {pidfile:?}\n"));
    let mut client = open(&daemon, 1, &["cats"]).remove(0);
    let read = || std::fs::read_to_string(&pidfile).ok()?.trim().parse::<u32>().ok();
    let before = daemon.child().pid();
    assert_eq!(read(), Some(before));
    daemon.child().signal(Signal::SIGHUP);
    let after = eventually("another pid in the pidfile", || read().filter(|pid| *pid != before));
    daemon.child().succeed(after);
    daemon.publish("cats", "by the successor");
    assert_eq!(client.texts(1), ["by the successor"]);
    daemon.terminate();
    assert!(daemon.child().wait().success());
    assert!(!pidfile.exists(), "the successor removes it");
    assert!(!daemon.public().path().exists() && !daemon.admin().path().exists());
}

#[test]
fn many_reloads_leave_no_open_files_behind() {
    let (_folder, mut daemon) = start("");
    let _clients = open(&daemon, 10, &["cats"]);
    daemon.reload();
    let files = daemon.child().open_files();
    for _ in 0..12 {
        daemon.reload();
    }
    eventually("as many files are open as before", || (daemon.child().open_files() <= files).then_some(()));
    daemon.assert_serving();
}

/// Requests a reload, and again while another one is under way.
fn ask_until_it_is_not_busy(admin: &Endpoint) -> serde_json::Value {
    eventually("a reload that is not refused as busy", || {
        let answer = Request::post("/reload", "", "").send(admin);
        if answer.status() == 409 {
            assert_eq!(answer.header("Retry-After"), Some("1"));
            return None;
        }
        Some(answer.json())
    })
}

#[test]
fn simultaneous_requests_for_reloads_are_all_answered() {
    let (_folder, mut daemon) = start("");
    let mut client = open(&daemon, 1, &["cats"]).remove(0);
    let admin = daemon.admin().clone();
    let answers: Vec<serde_json::Value> = thread::scope(|scope| {
        let asking: Vec<_> = (0..4).map(|_| scope.spawn(|| ask_until_it_is_not_busy(&admin))).collect();
        asking.into_iter().map(|one| one.join().unwrap()).collect()
    });
    // Each reload replaced the process that served then. Follow the chain of processes.
    let mut successors: Vec<u32> =
        answers.iter().map(|answer| u32::try_from(answer["pid"].as_u64().expect("a pid")).unwrap()).collect();
    successors.sort_unstable();
    successors.dedup();
    for pid in successors {
        daemon.child().succeed(pid);
    }
    daemon.publish("cats", "still here");
    assert_eq!(client.texts(1), ["still here"]);
}
