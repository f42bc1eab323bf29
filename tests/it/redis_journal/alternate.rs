//! Polls and streams that go to two nodes by turns, as nginx sends them: each event comes once, and a poll without events waits.

use std::{
    collections::BTreeSet,
    io::Write as _,
    thread,
    time::{Duration, Instant},
};

use super::*;
use crate::support::{Endpoint, Nginx, Parser, Request, Response, Socket};

/// Two nodes behind one nginx.
fn behind_nginx(folder: &Folder, redis: &RedisServer, tables: &str) -> (Vec<Daemon>, Nginx) {
    let tables = format!("{}{tables}", table(redis));
    let mut nodes: Vec<Daemon> =
        ["one", "other"].map(|name| Daemon::start_named(folder, name, &tables)).into_iter().collect();
    nodes.iter_mut().for_each(Daemon::wait_until_ready);
    let nginx = Nginx::start_before_nodes(folder, &nodes);
    (nodes, nginx)
}

/// Adds numbered entries to the channels by turns, slowly enough for many polls.
fn add_slowly(redis: &RedisServer, channels: &[&str], count: usize) {
    let mut connection = redis.connect();
    for number in 0..count {
        let mut add = redis::cmd("XADD");
        add.arg("ssecast").arg("*").arg("channel").arg(channels[number % channels.len()]).arg("data").arg(number);
        let _: String = add.query(&mut connection).unwrap();
        thread::sleep(Duration::from_millis(5));
    }
}

/// A client that polls again and again, with the cursor of the last answer.
#[derive(Debug)]
pub(super) struct Poller {
    channels: String,
    cursor: String,
    /// In the form of an event stream, not in JSON.
    as_events: bool,
    sent: Option<Socket>,
}

impl Poller {
    pub(super) fn new(channels: &[&str], cursor: &str) -> Self {
        Self { channels: channels.join(","), cursor: cursor.to_owned(), as_events: false, sent: None }
    }

    /// Sends the next poll.
    pub(super) fn send(&mut self, endpoint: &Endpoint) {
        let target = format!("{}?channels={}&last_event_id={}", endpoint.base(), self.channels, self.cursor);
        let request = Request::get(target).header("Connection", "close");
        let request = match self.as_events {
            true => request.header("X-Requested-With", "XMLHttpRequest"),
            false => request.header("Accept", "application/json"),
        };
        let mut socket = endpoint.connect().unwrap();
        socket.write_all(&request.to_bytes()).unwrap();
        self.sent = Some(socket);
    }

    /// The texts of the answer. Panics at a gap.
    pub(super) fn answer(&mut self) -> Vec<String> {
        let response = Response::read_head(self.sent.take().unwrap()).unwrap();
        assert_eq!(response.status(), 200);
        if self.as_events {
            let (mut parser, mut events) = (Parser::default(), Vec::new());
            parser.feed(&response.body(), &mut events);
            self.cursor = parser.committed_id.unwrap();
            assert!(events.iter().all(|event| event.gap().is_none()), "a gap where none is due: {events:?}");
            return events.into_iter().map(|event| event.text()).collect();
        }
        let answer = response.json();
        assert_eq!(answer["gap"], serde_json::json!([]), "a gap where none is due: {answer}");
        self.cursor = answer["cursor"].as_str().unwrap().to_owned();
        let events = answer["events"].as_array().unwrap();
        events.iter().map(|event| event["data"].as_str().unwrap().to_owned()).collect()
    }

    /// The node that answered last.
    fn node(&self) -> String {
        self.cursor.split('-').next().unwrap().to_owned()
    }
}

#[test]
fn polls_that_alternate_between_two_nodes_get_each_event_once() {
    needs!("redis-server", "nginx");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let (_nodes, nginx) = behind_nginx(&folder, &redis, "[stream]\nping_interval = \"250ms\"\n");
    let endpoint = nginx.sse();
    let pollers = [false, true].map(|as_events| {
        let mut poller = Poller { as_events, ..Poller::new(&["a", "b"], "") };
        poller.send(&endpoint);
        assert_eq!(poller.answer(), [""; 0], "nothing was published yet");
        poller
    });
    thread::scope(|scope| {
        for mut poller in pollers {
            let endpoint = &endpoint;
            scope.spawn(move || {
                let (mut texts, mut nodes, mut polls) = (Vec::new(), BTreeSet::new(), 0);
                while texts.len() < 400 {
                    poller.send(endpoint);
                    texts.extend(poller.answer());
                    nodes.insert(poller.node());
                    polls += 1;
                }
                assert_eq!(texts, numbers(0..400), "each event once, in order");
                assert_eq!(nodes.len(), 2, "nginx sends polls to both nodes");
                assert!(polls > 20, "only {polls} polls");
                // Where nothing new comes, a poll waits: the other node does not repeat anything.
                let began = Instant::now();
                for _ in 0..4 {
                    poller.send(endpoint);
                    assert_eq!(poller.answer(), [""; 0]);
                }
                assert!(began.elapsed() > Duration::from_millis(500), "polls are answered after {:?}", began.elapsed());
            });
        }
        add_slowly(&redis, &["a", "b"], 400);
    });
}

#[test]
fn streams_that_alternate_between_two_nodes_get_each_event_once_and_no_id_goes_back() {
    needs!("redis-server", "nginx");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let (_nodes, nginx) = behind_nginx(&folder, &redis, "[stream]\nmax_lifetime = \"100ms\"\n");
    let entry = |id: &str| -> (u64, u64) {
        let (millis, number) = id.split('~').nth(1).unwrap().split_once('-').unwrap();
        (millis.parse().unwrap(), number.parse().unwrap())
    };
    let mut id = Subscription::to(&["a", "b"]).open(&nginx.sse()).last_event_id();
    thread::scope(|scope| {
        scope.spawn(|| add_slowly(&redis, &["a", "b"], 300));
        let (mut texts, mut nodes) = (Vec::new(), BTreeSet::new());
        while texts.len() < 300 {
            let mut stream = Subscription::to(&["a", "b"]).after(&id).open(&nginx.sse());
            let first = stream.last_event_id();
            assert!(entry(&first) >= entry(&id), "{first} is before {id}");
            nodes.insert(first.split('-').next().unwrap().to_owned());
            for event in stream.rest() {
                assert_eq!(event.gap(), None, "nothing was lost");
                assert!(entry(&event.id) > entry(&id), "{} is not after {id}", event.id);
                id.clone_from(&event.id);
                texts.push(event.text());
            }
            id = stream.last_event_id();
        }
        assert_eq!(texts, numbers(0..300), "each event once, in order");
        assert_eq!(nodes.len(), 2, "nginx sends streams to both nodes");
    });
}
