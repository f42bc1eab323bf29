//! `stream.coalesce`: events of one window are sent together, in order, and none is lost when something else happens meanwhile.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::support::{Daemon, Event, Folder, Request, Stream, Subscription};

fn start(tables: &str) -> (Folder, Daemon) {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, tables);
    (folder, daemon)
}

fn open(daemon: &Daemon) -> Stream {
    let mut stream = Subscription::to(&["cats"]).open(daemon.public());
    stream.last_event_id();
    stream
}

fn numbers(from: usize, to: usize) -> Vec<String> {
    (from..to).map(|number| number.to_string()).collect()
}

#[test]
fn publishers_are_answered_at_once_and_events_are_sent_together() {
    let (_folder, daemon) = start("[stream]\ncoalesce = \"1s\"\nping_interval = \"1h\"\n");
    let mut stream = open(&daemon);
    // The shard also sends at the tick of its timer. If a tick falls into the window, try again.
    for first in (0..500).step_by(5) {
        let start = Instant::now();
        for number in first..first + 5 {
            assert_eq!(daemon.publish("cats", &number.to_string()).subscribers, 1);
        }
        let arrived = stream.arrived();
        let answered = start.elapsed();
        let texts: Vec<String> = arrived.iter().map(Event::text).chain(stream.texts(5 - arrived.len())).collect();
        assert_eq!(texts, numbers(first, first + 5));
        if arrived.is_empty() && answered < Duration::from_millis(500) {
            return;
        }
    }
    panic!("five publishes were never answered before their events were sent");
}

#[test]
fn clients_that_join_resume_poll_or_read_slowly_get_every_event() {
    let (_folder, daemon) = start("[stream]\ncoalesce = \"30ms\"\ngzip = true\n[history]\nmessages = 100_000\n");
    let mut clients = vec![(0, open(&daemon)), (0, Subscription::to(&["cats"]).zipped().open(daemon.public()))];
    let start = clients[0].1.last_event_id();
    let padding = "x".repeat(300);
    let texts = |from: usize| -> Vec<String> { (from..8000).map(|number| format!("{number} {padding}")).collect() };
    let all = texts(0);
    thread::scope(|scope| {
        let publishing = scope.spawn(|| {
            for some in all.chunks(40) {
                daemon.publish_many("cats", some.iter().map(String::as_str));
            }
        });
        while !publishing.is_finished() {
            drop(open(&daemon)); // One client disconnects.
            let poll = Request::get(format!("/?channels=cats&last_event_id={start}"))
                .header("Accept", "application/json")
                .send(daemon.public());
            assert!(!poll.json()["events"].as_array().unwrap().is_empty());
            let mut joined = open(&daemon);
            let first = joined.event().text();
            clients.push((first.split_once(' ').unwrap().0.parse::<usize>().unwrap() + 1, joined));
            clients.push((0, Subscription::to(&["cats"]).after(&start).open(daemon.public())));
            clients.push((0, Subscription::to(&["cats"]).after(&start).zipped().open(daemon.public())));
            if clients.len() > 30 {
                break;
            }
        }
    });
    for (from, stream) in &mut clients {
        assert!(stream.texts(8000 - *from) == texts(*from), "from {from} on");
    }
}

#[test]
fn events_of_a_window_are_delivered_over_a_reload() {
    let (_folder, mut daemon) = start("[stream]\ncoalesce = \"1s\"\n");
    let mut streams: Vec<Stream> = (0..5).map(|_| open(&daemon)).collect();
    let mut next = 0;
    for _ in 0..4 {
        for number in next..next + 3 {
            daemon.publish("cats", &number.to_string());
        }
        next += 3;
        daemon.reload();
    }
    for stream in &mut streams {
        assert_eq!(stream.texts(next), numbers(0, next));
    }
}
