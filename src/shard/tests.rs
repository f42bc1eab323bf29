//! Tests of a shard without a daemon: each client is a socket pair, whose other end the test reads.

use std::{
    io::{ErrorKind, Read},
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::Arc,
    time::Duration,
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
    broker::{Delivery, Dispatcher},
    client_limit::ClientLimit,
    config::Config,
    cursor::{Entries, NodeId, Position, Start},
    event::{Coding, Event, Form, Message},
    hub::{ChannelId, Hub, Kind, Sequencer},
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
