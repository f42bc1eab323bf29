//! Upgrades: connections without a stream, which wait for a request or are in the middle of one.

use std::{
    io::{Read as _, Write as _},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use super::{
    fake_successor,
    traffic::{SetOnDrop, read_answer},
    upgraded_daemon::{UpgradedDaemon, program_in, put_program},
};
use crate::support::{Endpoint, Folder, Request, Response, Socket, Stream, Subscription, eventually};

/// A configuration that allows [`publish_with_a_long_answer`].
const LONG: &str = "[publish]\nmax_message = \"16MiB\"\n";
/// Messages of [`publish_with_a_long_answer`].
const LINES: usize = 20_000;

fn publish(message: &str) -> Vec<u8> {
    Request::new("POST", "/publish/cats").body(message).to_bytes()
}

fn connect(endpoint: &Endpoint) -> Socket {
    endpoint.connect().unwrap()
}

#[test]
fn open_connections_stay_open_over_an_upgrade() {
    let folder = Folder::new();
    let daemon = UpgradedDaemon::start(&folder, "");
    let mut stream = Subscription::to(&["cats"]).open(daemon.public());
    let mut unused = connect(daemon.admin());
    let mut used = connect(daemon.admin());
    let mut health = connect(daemon.public());
    let ask_health = |socket: &mut Socket| {
        socket.write_all(&Request::get("/healthz").to_bytes()).unwrap();
        assert_eq!(read_answer(socket), (200, "ok\n".to_owned()));
    };
    for round in 0..3 {
        used.write_all(&publish(&round.to_string())).unwrap();
        assert_eq!(read_answer(&mut used).0, 200);
        ask_health(&mut health);
        daemon.reload();
    }
    unused.write_all(&publish("3")).unwrap();
    assert_eq!(read_answer(&mut unused).0, 200);
    ask_health(&mut health);
    assert_eq!(stream.texts(4), ["0", "1", "2", "3"]);
}

/// Sends the first `count` bytes of `request`, reloads, and sends the rest.
fn send_in_two(daemon: &UpgradedDaemon, endpoint: &Endpoint, request: &[u8], count: usize) -> Socket {
    let mut socket = connect(endpoint);
    socket.write_all(&request[..count]).unwrap();
    // Give the daemon time to read it. If it does not, the bytes stay in the socket, which is fine too.
    thread::sleep(std::time::Duration::from_millis(20));
    daemon.reload();
    socket.write_all(&request[count..]).unwrap();
    socket
}

#[test]
fn a_half_received_head_is_passed_to_the_successor() {
    let folder = Folder::new();
    let daemon = UpgradedDaemon::start(&folder, "");
    let mut stream = Subscription::to(&["cats"]).open(daemon.public());
    let request = publish("in two");
    for count in [1, 10, 40] {
        let mut socket = send_in_two(&daemon, daemon.admin(), &request, count);
        assert_eq!(read_answer(&mut socket).0, 200);
        assert_eq!(stream.texts(1), ["in two"]);
    }
    let request = Subscription::to(&["cats"]).request(daemon.public()).to_bytes();
    for count in [1, 10, request.len() - 1] {
        let socket = send_in_two(&daemon, daemon.public(), &request, count);
        let mut late = Stream::new(Response::read_head(socket).unwrap());
        daemon.publish("cats", "to one who came late");
        assert_eq!(late.texts(1), ["to one who came late"]);
    }
}

#[test]
fn a_half_received_publish_does_not_delay_an_upgrade_and_is_answered() {
    let folder = Folder::new();
    let daemon = UpgradedDaemon::start(&folder, "");
    let mut stream = Subscription::to(&["cats"]).open(daemon.public());
    let request = publish("in two");
    let mut socket = connect(daemon.admin());
    socket.write_all(&request[..request.len() - 3]).unwrap();
    thread::sleep(std::time::Duration::from_millis(20));
    daemon.reload();
    // Either it is published, or the answer says that it was not.
    let _ = socket.write_all(&request[request.len() - 3..]);
    let (status, answer) = read_answer(&mut socket);
    assert!(matches!(status, 200 | 503), "{status} {answer}");
    if status == 503 {
        assert!(answer.contains("nothing was published"), "{answer}");
        daemon.publish("cats", "in two");
    }
    assert_eq!(stream.texts(1), ["in two"]);
}

#[test]
fn pipelined_requests_are_all_answered() {
    let folder = Folder::new();
    let daemon = UpgradedDaemon::start(&folder, "");
    let mut stream = Subscription::to(&["cats"]).open(daemon.public());
    // One request and a half, which are read together.
    let both = [publish("first"), publish("second")].concat();
    let mut socket = send_in_two(&daemon, daemon.admin(), &both, both.len() - 50);
    assert_eq!((read_answer(&mut socket).0, read_answer(&mut socket).0), (200, 200));
    assert_eq!(stream.texts(2), ["first", "second"]);
    // Many requests, all the time.
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let publishing = scope.spawn(|| {
            let (mut socket, mut count) = (connect(daemon.admin()), 0);
            while !done.load(Ordering::Relaxed) {
                let ten: Vec<u8> = (count..count + 10).flat_map(|number| publish(&number.to_string())).collect();
                socket.write_all(&ten).unwrap();
                for _ in 0..10 {
                    assert_eq!(read_answer(&mut socket).0, 200);
                }
                count += 10;
            }
            count
        });
        let stop = SetOnDrop(&done);
        (0..5).for_each(|_| _ = daemon.reload());
        drop(stop);
        let count = publishing.join().unwrap();
        assert_eq!(stream.texts(count), (0..count).map(|number| number.to_string()).collect::<Vec<_>>());
    });
}

/// Sends a publish whose answer is larger than the socket's buffer. Returns when the answer begins to arrive.
fn publish_with_a_long_answer(daemon: &UpgradedDaemon) -> Socket {
    let lines = "{\"channel\":\"cats\",\"message\":\"1\"}\n".repeat(LINES);
    let mut socket = connect(daemon.admin());
    let request = Request::new("POST", "/publish").header("Content-Type", "application/x-ndjson").body(lines);
    socket.write_all(&request.to_bytes()).unwrap();
    eventually("it is published", || socket.is_readable().then_some(()));
    socket
}

#[test]
fn an_answer_that_is_read_slowly_is_not_cut_off() {
    let folder = Folder::new();
    let daemon = UpgradedDaemon::start(&folder, LONG);
    let mut socket = publish_with_a_long_answer(&daemon);
    thread::scope(|scope| {
        let reload = scope.spawn(|| daemon.reload());
        thread::sleep(std::time::Duration::from_millis(500));
        let (status, answer) = read_answer(&mut socket);
        assert_eq!((status, answer.lines().count()), (200, LINES));
        reload.join().unwrap()
    });
}

/// It was kept for the next reload, and answered no more.
#[test]
fn a_connection_whose_answers_are_read_after_a_failed_reload_is_served() {
    const REQUESTS: usize = 4_000;
    let folder = Folder::new();
    let daemon = UpgradedDaemon::start_copy(&folder, "");
    let mut socket = connect(daemon.public());
    let Socket::Unix(stream) = &socket else { unreachable!() };
    let mut sender = stream.try_clone().unwrap();
    // More answers than the socket holds, so that one of them is under way while the shards stand still.
    let sending = thread::spawn(move || sender.write_all(&Request::get("/healthz").to_bytes().repeat(REQUESTS)));
    eventually("answers wait to be read", || socket.is_readable().then_some(()));
    thread::sleep(std::time::Duration::from_millis(200));
    fake_successor::put(&program_in(&folder), "Hello receive Ready receive Ready receive fail");
    daemon.refused_reload();
    for number in 0..REQUESTS {
        assert_eq!(read_answer(&mut socket), (200, "ok\n".to_owned()), "answer {number}");
    }
    sending.join().unwrap().unwrap();
}

/// The reload after the failed one did not wait for such a connection, and cut it off.
#[test]
fn a_connection_with_a_long_answer_is_used_again_after_a_failed_reload_and_by_the_next_process() {
    let folder = Folder::new();
    let daemon = UpgradedDaemon::start_copy(&folder, LONG);
    let mut socket = publish_with_a_long_answer(&daemon);
    // This one fails after the daemon has stopped serving.
    fake_successor::put(&program_in(&folder), "Hello receive Ready receive fail");
    thread::scope(|scope| {
        let reload = scope.spawn(|| daemon.refused_reload());
        thread::sleep(std::time::Duration::from_millis(500));
        let (status, body) = read_answer(&mut socket);
        assert_eq!((status, body.lines().count()), (200, LINES));
        reload.join().unwrap()
    });
    put_program(&program_in(&folder));
    // The connection is used again here, and by the next process.
    for text in ["here", "there"] {
        socket.write_all(&publish(text)).unwrap();
        assert_eq!(read_answer(&mut socket).0, 200);
        daemon.reload();
    }
}

/// Each reload failed after 5 s, and the error did not say which client it was.
#[test]
fn a_client_that_never_reads_its_answer_does_not_fail_a_reload() {
    let folder = Folder::new();
    let daemon = UpgradedDaemon::start(&folder, LONG);
    let mut stream = Subscription::to(&["other"]).open(daemon.public());
    let mut socket = publish_with_a_long_answer(&daemon);
    daemon.reload();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", String::from_utf8_lossy(&answer[..100]));
    let lines = answer.iter().filter(|&&byte| byte == b'{').count();
    assert!(lines < LINES, "the answer was not cut off: the socket holds all of it");
    let client = format!("process {} of user {}", std::process::id(), nix::unistd::geteuid());
    let line = |line: &&str| line.contains("because its client did not read it") && line.contains(&client);
    assert_eq!(daemon.log().lines().filter(line).count(), 1, "{}", daemon.log());
    daemon.publish("other", "after");
    assert_eq!(stream.texts(1), ["after"]);
}

#[test]
fn clients_that_connect_during_an_upgrade_are_accepted() {
    const COMERS: usize = 4;
    let folder = Folder::new();
    let daemon = UpgradedDaemon::start(&folder, "[process]\nworkers = 2\n");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let comers: Vec<_> = (0..COMERS)
            .map(|comer| {
                let (done, daemon) = (&done, &daemon);
                scope.spawn(move || {
                    let mut streams = Vec::new();
                    while !done.load(Ordering::Relaxed) && streams.len() < 1_000 {
                        let name = format!("{comer} {}", streams.len());
                        let mut stream = Subscription::to(&[&name]).open(daemon.public());
                        assert!(!stream.last_event_id().is_empty());
                        daemon.publish(&name, &name);
                        streams.push((name, stream));
                        // Some clients disconnect.
                        if streams.len() % 3 == 0 {
                            let at = streams.len() - 2;
                            streams[at].1.response().socket().finish_sending();
                        }
                    }
                    streams
                })
            })
            .collect();
        let stop = SetOnDrop(&done);
        (0..6).for_each(|_| _ = daemon.reload());
        drop(stop);
        for comer in comers {
            let streams = comer.join().unwrap();
            println!("{} came", streams.len());
            for (name, mut stream) in streams {
                assert_eq!(stream.texts(1), [name]);
            }
        }
    });
    eventually("all have left", || daemon.stats().is_empty().then_some(()));
}
