//! Tests of a shard without a daemon: each client is a socket pair, whose other end the test reads.

use std::{
    io::{ErrorKind, Read},
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use proptest::prelude::*;
use tokio::sync::oneshot;

use super::{
    client::Joining,
    core::Shard,
    parts::Parts,
    poll::PollReply,
    queue::{Op, Queue},
    state::{ClientState, OtherState},
};
use crate::{
    broker::{Delivery, Dispatcher, JournalReport},
    client_limit::ClientLimit,
    config::Config,
    cursor::{Entries, Entry, EntryId, NodeId, Position, Start},
    event::{Coding, Event, Form, Message},
    hub::{ChannelId, Hole, Hub, Kind, Sequencer},
    metrics::Metrics,
    name::ChannelName,
};

struct TestShard {
    shard: Shard,
    sequencer: Sequencer,
}

/// A client's end of its connection.
struct Peer {
    socket: UnixStream,
    slot: u32,
    read: Vec<u8>,
}

fn name(name: &str) -> ChannelName {
    ChannelName::new(name).unwrap()
}

impl TestShard {
    fn new(config: Config) -> Self {
        let sequencer = Sequencer::new(NodeId::random(), 1_000_000);
        let metrics = Arc::new(Metrics::default());
        let same = Sequencer::after(sequencer.cursor());
        let dispatcher = Dispatcher::new(same, Vec::new(), Vec::new(), Arc::clone(&metrics), Duration::from_secs(2));
        let parts = Parts {
            number: 0,
            client_limit: ClientLimit::new(config.stream.max_clients, 100),
            config: Arc::new(config),
            metrics,
            dispatcher: Arc::new(dispatcher),
            queue: Arc::new(Queue::default()),
            cursor: sequencer.cursor(),
            on_demand: false,
            journals_only: false,
            inherited: None,
        };
        Self { shard: Shard::new(parts).unwrap(), sequencer }
    }

    fn join(&mut self, kind: Kind, reply: Option<PollReply>, start: Start) -> Peer {
        let (ours, socket) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        socket.set_nonblocking(true).unwrap();
        let permit = self.shard.permit_over_limit();
        let channels: Vec<ChannelId> = vec![self.shard.hub.hold(&name("a"))];
        let head = Bytes::from_static(b"HEAD\n");
        let joining = Joining { kind, start, head, reply, permit, identity: None };
        self.shard.flush().attach(OwnedFd::from(ours), joining, &channels);
        let slot =
            self.shard.clients.slots().into_iter().max_by_key(|&slot| self.shard.clients[slot].generation()).unwrap();
        Peer { socket, slot, read: Vec::new() }
    }

    fn stream(&mut self) -> Peer {
        self.join(Kind::Stream(Form::Plain, Coding::Identity), None, Start::Now)
    }

    fn publish(&mut self, data: &[u8]) -> Position {
        let position = self.sequencer.next(0);
        let message = Message::new(name("a"), None, Bytes::copy_from_slice(data));
        let event = Arc::new(Event::new(self.sequencer.node(), position, &Entries::NONE, &message));
        self.turn(vec![Op::Deliver(Delivery::Publish(event, None))]);
        position
    }

    fn turn(&mut self, mut ops: Vec<Op>) {
        self.shard.turn(&mut ops);
    }

    fn ticks(&mut self, time: Duration) {
        for _ in 0..=self.shard.clients.ticks(time) {
            self.shard.flush().tick();
        }
    }

    /// The name of the client's state; "ended" if the client has ended.
    fn state(&self, peer: &Peer) -> &'static str {
        match self.shard.clients.get(peer.slot).map(|client| client.state()) {
            None => "ended",
            Some(ClientState::Live) => "live",
            Some(ClientState::Other(other)) => match **other {
                OtherState::Waiting(_) => "waiting",
                OtherState::CatchingUp(_) => "catching up",
                OtherState::Closing(_) => "closing",
            },
        }
    }

    fn writable(&mut self) {
        while self.shard.flush().on_events().unwrap() {}
    }
}

impl Peer {
    /// Reads what has arrived. True if there was anything.
    fn read_some(&mut self) -> bool {
        let before = self.read.len();
        match self.socket.read_to_end(&mut self.read) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        self.read.len() > before
    }

    fn text(&mut self) -> String {
        self.read_some();
        String::from_utf8_lossy(&self.read).into_owned()
    }
}

/// More bytes than a socket takes.
const LONG: usize = 1 << 20;

#[test]
fn a_stream_falls_behind_catches_up_and_is_closed_with_a_retry_time() {
    let mut test = TestShard::new(Config::default());
    let mut peer = test.stream();
    assert_eq!(test.state(&peer), "live");
    assert!(peer.text().starts_with("HEAD\n:\nevent: ssecast.open\nretry: "));
    let first = test.publish(&vec![b'x'; LONG]);
    let second = test.publish(b"small");
    assert_eq!(test.state(&peer), "catching up");
    while peer.read_some() {
        test.writable();
    }
    assert_eq!(test.state(&peer), "live");
    let text = peer.text();
    assert!(text.contains(&format!("id: {}\n\n", test.shard.hub.cursor_at(first))));
    assert!(text.ends_with(&format!("data: small\nid: {}\n\n", test.shard.hub.cursor_at(second))));

    test.publish(&vec![b'x'; LONG]);
    let (gone, mut left) = oneshot::channel();
    test.turn(vec![Op::Drain(Duration::from_millis(1), gone)]);
    assert_eq!(test.state(&peer), "closing", "the frame is written to its end first");
    assert!(left.try_recv().is_err());
    while peer.read_some() {
        test.writable();
    }
    assert_eq!((test.state(&peer), left.try_recv()), ("ended", Err(oneshot::error::TryRecvError::Closed)));
    let text = peer.text();
    let close = &text[text.rfind("event: ssecast.close\n").unwrap()..];
    assert!(
        close.starts_with("event: ssecast.close\nretry: 1000\ndata: {}\nid: ") && close.ends_with("\n\n"),
        "{close}"
    );
}

#[test]
fn a_poll_waits_is_answered_and_ends() {
    let mut test = TestShard::new(Config::default());
    let mut peer = test.join(Kind::Poll, Some(PollReply::Json), Start::Now);
    assert_eq!(test.state(&peer), "waiting");
    let position = test.publish(b"x");
    assert_eq!(test.state(&peer), "ended");
    let cursor = test.shard.hub.cursor_at(position).to_string();
    assert!(peer.text().contains(&format!("\"cursor\":\"{cursor}\"")), "{}", peer.text());

    let mut empty = test.join(Kind::Poll, Some(PollReply::Json), Start::Now);
    test.ticks(test.shard.config().stream.ping_interval);
    assert_eq!(test.state(&empty), "ended");
    assert!(empty.text().contains("\"events\":[]"));
}

#[test]
fn a_stream_that_takes_no_ping_is_behind_and_closed_after_a_minute() {
    let mut test = TestShard::new(Config::default());
    let peer = test.stream();
    // The client's socket is filled, and nothing is published.
    let now = test.shard.clients.now();
    while test.shard.clients[peer.slot].send(&[b'\n'; 4096], now) != super::socket::Sent::Full {}
    test.ticks(test.shard.config().stream.ping_interval);
    assert_eq!(test.state(&peer), "catching up");
    test.ticks(Duration::from_secs(61));
    assert_eq!(test.state(&peer), "ended");
}

#[test]
fn a_refused_channel_closes_its_clients() {
    let mut test = TestShard::new(Config::default());
    let mut peer = test.stream();
    let poll = test.join(Kind::Poll, Some(PollReply::Json), Start::Now);
    test.turn(vec![Op::Deliver(Delivery::Refused(name("a"), "no".into()))]);
    assert_eq!((test.state(&peer), test.state(&poll)), ("ended", "ended"));
    assert!(peer.text().contains("event: ssecast.close\n"));
}

#[test]
fn a_client_whose_channel_was_refused_while_it_joined_is_closed() {
    let mut test = TestShard::new(Config::default());
    // Channels are not confirmed by themselves, and this one's refusal has passed.
    test.shard.hub = Hub::new(test.sequencer.cursor(), Config::default().history, true);
    let (ours, mut socket) = UnixStream::pair().unwrap();
    let permit = test.shard.permit_over_limit();
    let channels = vec![test.shard.hub.hold(&name("a"))];
    let (kind, head) = (Kind::Stream(Form::Plain, Coding::Identity), Bytes::from_static(b"HEAD\n"));
    let joining = Joining { kind, start: Start::Now, head, reply: None, permit, identity: None };
    test.shard.flush().attach(OwnedFd::from(ours), joining, &channels);
    assert!(test.shard.clients.is_empty());
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    assert!(text.contains("event: ssecast.close\n"), "{text:?}");
}

#[test]
fn a_client_that_has_left_is_removed_at_the_end_of_the_turn() {
    let mut test = TestShard::new(Config::default());
    let (peer, other) = (test.stream(), test.stream());
    let Peer { socket, slot, .. } = peer;
    drop(socket);
    test.writable();
    assert!(test.shard.clients.get(slot).is_none());
    test.publish(b"x");
    assert_eq!(test.state(&other), "live");
    assert_eq!(test.shard.hub.subscribers_of(&name("a")), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// A client gets each event once and in order, however much is published and read at a time.
    #[test]
    fn each_event_is_delivered_once_and_in_order_whatever_a_socket_takes(
        steps in prop::collection::vec((0..3_u8, 1..300_000_usize), 1..25),
        form in prop_oneof![Just(Form::Plain), Just(Form::Envelope)],
    ) {
        let mut config = Config::default();
        config.history.messages = 1000;
        let mut test = TestShard::new(config);
        let mut peer = test.join(Kind::Stream(form, Coding::Identity), None, Start::Now);
        let mut published = Vec::new();
        for (what, size) in steps {
            match what {
                0 => {
                    peer.read_some();
                    test.writable();
                }
                _ => published.push(test.publish(&vec![b'x'; size])),
            }
        }
        while peer.read_some() {
            test.writable();
        }
        prop_assert_eq!(test.state(&peer), "live");
        let text = peer.text();
        let ids: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("id: ")).skip(1).collect();
        let expected: Vec<String> = published.iter().map(|&at| test.shard.hub.cursor_at(at).to_string()).collect();
        prop_assert_eq!(ids, expected);
    }
}

/// A cursor of another node, whose client has read the only journal up to `millis`.
fn elsewhere(millis: u64) -> Start {
    Start::from_last_event_id(Some(format!("zzzzzzzz-1~{millis}-0").as_bytes()))
}

impl TestShard {
    /// A shard whose events are entries of one journal.
    fn with_journal() -> Self {
        let mut test = Self::new(Config::default());
        test.sequencer = Sequencer::after(test.sequencer.cursor()).with_journals(1);
        test.shard.hub = Hub::new(test.sequencer.cursor(), Config::default().history, false).with_journals_only();
        test
    }

    /// Reads an entry from the journal.
    fn entry(&mut self, millis: u64) {
        let position = self.sequencer.next(0);
        let entry = Entry { journal: 0, id: EntryId { millis, seq: 0 } };
        self.sequencer.passed.set(entry);
        let message = Message::new(name("a"), None, Bytes::from(format!("entry {millis}"))).with_entry(entry);
        let event = Arc::new(Event::new(self.sequencer.node(), position, &self.sequencer.passed, &message));
        self.turn(vec![Op::Deliver(Delivery::Publish(event, None))]);
    }

    fn report(&mut self, report: JournalReport) {
        let begin = self.sequencer.last();
        let hole = Hole::new(begin, self.sequencer.next(0));
        self.turn(vec![Op::Deliver(Delivery::Journal(0, report, hole))]);
    }
}

impl Peer {
    /// The `data:` lines since the last call.
    fn data(&mut self) -> Vec<String> {
        while self.read_some() {}
        let text = String::from_utf8(std::mem::take(&mut self.read)).unwrap();
        text.lines().filter_map(|line| line.strip_prefix("data: ")).map(str::to_owned).collect()
    }
}

#[test]
fn a_client_that_is_ahead_of_a_lagging_node_gets_no_entry_twice_and_misses_none() {
    for kind in [Coding::Identity, Coding::Gzip].map(|coding| Kind::Stream(Form::Plain, coding)) {
        let mut test = TestShard::with_journal();
        test.entry(10);
        let mut client = test.join(kind, None, elsewhere(30));
        assert_eq!(test.state(&client), "catching up");
        test.entry(20);
        test.entry(30);
        assert_eq!(test.state(&client), "live", "the node has read what the client has");
        let before = client.read.len();
        test.entry(40);
        if kind == Kind::Stream(Form::Plain, Coding::Identity) {
            assert_eq!(client.data(), ["{}", "entry 40"], "the open event, and nothing twice");
        } else {
            assert!(client.read_some() && client.read.len() > before);
        }
    }
}

#[test]
fn a_poll_that_is_ahead_waits_and_gets_no_entry_twice() {
    let mut test = TestShard::with_journal();
    test.entry(10);
    let mut poll = test.join(Kind::Poll, Some(PollReply::EventStream(Form::Plain)), elsewhere(30));
    test.entry(20);
    test.entry(30);
    assert_eq!((test.state(&poll), poll.data()), ("waiting", Vec::new()));
    test.entry(40);
    assert_eq!(poll.data(), ["entry 40"]);
}

#[test]
fn a_client_whose_entry_its_journal_has_lost_gets_a_gap_event_and_what_follows() {
    let mut test = TestShard::with_journal();
    test.entry(10);
    let too_early = Instant::now();
    let mut stream = test.join(Kind::Stream(Form::Plain, Coding::Identity), None, elsewhere(30));
    let mut poll = test.join(Kind::Poll, Some(PollReply::EventStream(Form::Plain)), elsewhere(30));
    let end = EntryId { millis: 10, seq: 0 };
    test.report(JournalReport::Reached { end, asked: too_early });
    assert_eq!((stream.data(), poll.data()), (vec!["{}".to_owned()], Vec::new()), "it may have been added since");
    test.report(JournalReport::Reached { end, asked: Instant::now() });
    let gap = r#"{"channels":["a"],"reason":"source"}"#;
    assert_eq!((stream.data(), poll.data()), (vec![gap.to_owned()], vec![gap.to_owned()]));
    test.entry(20);
    assert_eq!((test.state(&stream), stream.data()), ("live", vec!["entry 20".to_owned()]));
}

#[test]
fn a_client_that_is_ahead_is_pinged_with_its_own_entries_and_not_closed() {
    let mut test = TestShard::with_journal();
    let mut client = test.join(Kind::Stream(Form::Plain, Coding::Identity), None, elsewhere(30));
    client.data();
    test.ticks(Config::default().stream.ping_interval + Duration::from_secs(70));
    while client.read_some() {}
    let text = String::from_utf8(client.read).unwrap();
    assert!(text.contains("event: ssecast.ping\n") && text.contains("~30-0"), "{text}");
    assert!(test.shard.clients.get(client.slot).is_some());
}

#[test]
fn a_client_that_came_with_an_id_gets_a_journals_past_that_its_node_reads_later() {
    let id = |millis| EntryId { millis, seq: 0 };
    // It comes before the node has reached Redis, or while the node reads the past.
    for before in [true, false] {
        let mut test = TestShard::with_journal();
        let began = JournalReport::Began { since: id(0), until: id(40) };
        if !before {
            test.report(began);
            test.entry(10);
        }
        let mut stream = test.join(Kind::Stream(Form::Plain, Coding::Identity), None, elsewhere(20));
        let mut poll = test.join(Kind::Poll, Some(PollReply::EventStream(Form::Plain)), elsewhere(20));
        if before {
            test.report(began);
            test.entry(10);
        }
        [20, 30].into_iter().for_each(|millis| test.entry(millis));
        assert_eq!(poll.data(), ["entry 30"], "{before}");
        let mut poll = test.join(Kind::Poll, Some(PollReply::EventStream(Form::Plain)), elsewhere(30));
        [40, 50].into_iter().for_each(|millis| test.entry(millis));
        assert_eq!(poll.data(), ["entry 40"], "{before}");
        assert_eq!(stream.data(), ["{}", "entry 30", "entry 40", "entry 50"], "{before}");
        assert_eq!(test.state(&stream), "live", "{before}");
    }
}

#[test]
fn an_id_of_a_node_that_had_read_nothing_gets_no_gap_event_where_the_journal_begins() {
    let mut test = TestShard::with_journal();
    let mut stream = test.join(Kind::Stream(Form::Plain, Coding::Identity), None, elsewhere(0));
    let until = EntryId { millis: 20, seq: 0 };
    test.report(JournalReport::Began { since: EntryId::ZERO, until });
    [10, 20, 30].into_iter().for_each(|millis| test.entry(millis));
    assert_eq!(stream.data(), ["{}", "entry 10", "entry 20", "entry 30"]);
}

#[test]
fn entries_that_a_node_reads_from_the_past_are_kept_and_not_sent_to_connected_clients() {
    let mut test = TestShard::with_journal();
    let mut connected = test.stream();
    let (since, until) = (EntryId { millis: 5, seq: 0 }, EntryId { millis: 20, seq: 0 });
    test.report(JournalReport::Began { since, until });
    [10, 20, 30].into_iter().for_each(|millis| test.entry(millis));
    assert_eq!(connected.data()[2..], ["entry 30"], "after the open event and a gap event");
    let mut resumed = test.join(Kind::Stream(Form::Plain, Coding::Identity), None, elsewhere(10));
    assert_eq!(resumed.data(), ["{}", "entry 20", "entry 30"]);
    let mut older = test.join(Kind::Stream(Form::Plain, Coding::Identity), None, elsewhere(4));
    assert_eq!(older.data()[1], r#"{"channels":["a"],"reason":"source"}"#, "the node does not know entry 5");
}
