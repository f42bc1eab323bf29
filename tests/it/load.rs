//! Load: cyclone-sse's own test, 3,600 clients of two channels each, through nginx. Order and completeness, not speed.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    task::JoinSet,
};

use crate::support::{Daemon, Decoder, Endpoint, Event, Folder, Nginx, PATIENCE, Parser, Subscription, eventually};

const CLIENTS: usize = 3_600;
const TOPICS: [&str; 4] = ["base", "extras", "cats", "dogs"];
/// Events on `general`, and on each topic.
const EVENTS: usize = 60;

fn raise_file_limit() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

/// A client: opens its stream, counts itself in `open`, and reads until it has `expected` events.
async fn client(
    mut socket: impl AsyncReadExt + AsyncWriteExt + Unpin,
    request: Vec<u8>,
    open: Arc<AtomicUsize>,
    expected: usize,
) -> Vec<Event> {
    socket.write_all(&request).await.unwrap();
    let (mut decoder, mut parser) = (Decoder::default(), Parser::default());
    let (mut buffer, mut body, mut events) = (vec![0; 4096], Vec::new(), Vec::new());
    let mut is_open = false;
    while events.len() < expected {
        let count = socket.read(&mut buffer).await.unwrap();
        decoder.feed(&buffer[..count], &mut body);
        parser.feed(&body, &mut events);
        body.clear();
        // Skip ssecast's own events, but fail on a gap.
        events.retain(|event: &Event| !event.is_bookkeeping());
        assert_ne!(count, 0, "the stream has ended: {:?} {parser:?}", decoder.head());
        if !is_open && parser.committed_id.as_ref().is_some_and(|id| !id.is_empty()) {
            is_open = true;
            open.fetch_add(1, Ordering::Relaxed);
        }
    }
    events
}

/// Asserts that a client of `general` and `topic` has all of both, each in its order.
fn assert_complete(events: &[Event], topic: &str) {
    let mut next = HashMap::from([("general", 0), (topic, 0)]);
    let mut last_position = 0;
    for event in events {
        let text = event.text();
        let (channel, number) = text.split_once(' ').unwrap();
        let expected = next.get_mut(channel).unwrap_or_else(|| panic!("{text:?} reached a client of {topic}"));
        assert_eq!(number.parse(), Ok(*expected), "of {channel}");
        *expected += 1;
        let position: u64 = event.id.split_once('-').unwrap().1.parse().unwrap();
        assert!(position > last_position, "ids grow");
        last_position = position;
    }
    assert_eq!(next, HashMap::from([("general", EVENTS), (topic, EVENTS)]));
}

/// The load of a test.
struct Load {
    clients: usize,
    /// Number of reloads while events are published.
    reloads: usize,
}

/// Opens all clients at once with `connect`, publishes to them, and asserts that each gets every event.
async fn run<Socket, Connecting>(mut daemon: Daemon, endpoint: &Endpoint, load: Load, connect: impl Fn() -> Connecting)
where
    Socket: AsyncReadExt + AsyncWriteExt + Unpin + Send + 'static,
    Connecting: Future<Output = std::io::Result<Socket>> + Send + 'static,
{
    let Load { clients: count, reloads } = load;
    let open = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    for number in 0..count {
        let topic = TOPICS[number % TOPICS.len()];
        let request = Subscription::to(&["general", topic]).request(endpoint).to_bytes();
        let (connecting, open) = (connect(), Arc::clone(&open));
        clients.spawn(async move { (topic, client(connecting.await.unwrap(), request, open, 2 * EVENTS).await) });
    }
    let publisher = tokio::task::spawn_blocking(move || {
        eventually("all streams are open", || (open.load(Ordering::Relaxed) == count).then_some(()));
        let stats = daemon.stats();
        assert_eq!(stats.iter().find(|(name, _)| name == "general"), Some(&("general".to_owned(), count)));
        let start = Instant::now();
        for number in 0..EVENTS {
            assert_eq!(daemon.publish("general", &format!("general {number}")).subscribers, count);
            for topic in TOPICS {
                daemon.publish(topic, &format!("{topic} {number}"));
            }
            if reloads > 0 && number % (EVENTS / (reloads + 1)) == 1 {
                daemon.reload();
            }
        }
        (daemon, start)
    });
    let mut served = 0;
    while let Some(client) =
        tokio::time::timeout(2 * PATIENCE, clients.join_next()).await.expect("all are served in time")
    {
        let (topic, events) = client.unwrap();
        assert_complete(&events, topic);
        served += 1;
    }
    assert_eq!(served, count);
    let (mut daemon, start) = publisher.await.unwrap();
    println!("{} deliveries to {count} clients in {:?}", count * EVENTS * 2, start.elapsed());
    daemon.assert_serving();
    eventually("all have left", || daemon.stats().is_empty().then_some(()));
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn thousands_of_clients_through_nginx_get_everything_in_order() {
    needs!("nginx");
    raise_file_limit();
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, "");
    let nginx = Nginx::start(&folder, &daemon);
    let endpoint = nginx.sse();
    let address: SocketAddr = endpoint.tcp_address();
    runtime()
        .block_on(run(daemon, &endpoint, Load { clients: CLIENTS, reloads: 0 }, move || TcpStream::connect(address)));
}

#[test]
fn thousands_of_clients_get_every_event_over_reloads() {
    raise_file_limit();
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, "[history]\nmessages = 1000\n");
    let endpoint = daemon.public().clone();
    let path = endpoint.path().to_owned();
    runtime().block_on(run(daemon, &endpoint, Load { clients: 3_000, reloads: 3 }, move || {
        UnixStream::connect(path.clone())
    }));
}

#[test]
fn a_thousand_clients_that_connect_at_once_are_all_accepted() {
    raise_file_limit();
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, "[process]\nworkers = 2\n");
    let endpoint = daemon.public().clone();
    let path = endpoint.path().to_owned();
    runtime().block_on(run(daemon, &endpoint, Load { clients: 1_000, reloads: 0 }, move || {
        UnixStream::connect(path.clone())
    }));
}
