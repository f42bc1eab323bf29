//! A client's identity, from the authorizer over the shard and the snapshot to the successor's shard.

use std::{
    io::{Read, Write},
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::Arc,
    thread,
    time::Duration,
};

use tokio::sync::oneshot;

use super::{Public, serve};
use crate::{
    access::{Authorizer, Authorizing, Grant, Identity, Subscriber},
    broker::Dispatcher,
    client_limit::ClientLimit,
    config::Config,
    cursor::NodeId,
    hub::Sequencer,
    metrics::Metrics,
    shard::{self, Op, Parts, Queue},
    snapshot::{Snapshot, Transfer},
    stream::{Socket, Stream},
};

/// Names each client as the query says (`name=alice`). A client that gives no name has no identity.
struct ByName;

impl Authorizer for ByName {
    fn authorize<'a>(&'a self, subscriber: Subscriber<'a>) -> Authorizing<'a> {
        let subject = subscriber.query.split('&').find_map(|pair| pair.strip_prefix("name="));
        let identity = subject.map(|subject| Box::new(Identity { subject: subject.to_owned() }));
        Box::pin(async move { Ok(Grant { channels: subscriber.channels.to_vec(), identity }) })
    }
}

/// Runs a shard on a thread of its own. Returns its queue; when the sender is dropped, the shard ends.
fn run_shard(inherited: Option<Transfer>) -> (Arc<Queue>, oneshot::Sender<()>) {
    let (config, metrics) = (Arc::new(Config::default()), Arc::new(Metrics::default()));
    let client_limit = ClientLimit::new(config.stream.max_clients, 100);
    let sequencer = Sequencer::new(NodeId::random(), 1_000_000);
    let cursor = sequencer.cursor();
    let skew = Duration::from_secs(2);
    let dispatcher = Dispatcher::new(sequencer, Vec::new(), Vec::new(), Arc::clone(&metrics), skew);
    let queue = Arc::new(Queue::default());
    let parts = Parts {
        number: 0,
        config: Arc::clone(&config),
        metrics: Arc::clone(&metrics),
        client_limit: Arc::clone(&client_limit),
        dispatcher: Arc::new(dispatcher),
        queue: Arc::clone(&queue),
        cursor,
        on_demand: false,
        journals_only: false,
        inherited,
    };
    let (stop, stopped) = oneshot::channel::<()>();
    thread::spawn(move || {
        let rules = config.channel_rules();
        let serve = serve(Public { config, metrics, client_limit, authorizer: Arc::new(ByName), rules });
        let stopped = async { drop(stopped.await) };
        shard::run(parts, &serve, oneshot::channel().0, async { true }, stopped).unwrap();
    });
    (queue, stop)
}

/// Sends a request to the shard, and reads until the stream has begun.
fn subscribe(queue: &Queue, query: &str) -> UnixStream {
    let (ours, mut client) = UnixStream::pair().unwrap();
    queue.push([Op::Accept(Stream::new(Socket::Unix(ours)))]);
    write!(client, "GET /?channels=a{query} HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    let mut text = Vec::new();
    while !String::from_utf8_lossy(&text).contains("event: ssecast.open") {
        let mut bytes = [0; 1024];
        let n = client.read(&mut bytes).unwrap();
        assert!(n > 0, "{}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&bytes[..n]);
    }
    client
}

fn capture(queue: &Queue) -> Transfer {
    let (send, captured) = oneshot::channel();
    queue.push([Op::Capture(send)]);
    captured.blocking_recv().unwrap()
}

fn subjects(transfer: &Transfer) -> Vec<Option<&str>> {
    transfer.state.clients.iter().map(|client| client.subject.as_deref()).collect()
}

#[test]
fn a_client_keeps_the_identity_of_its_grant_over_upgrades() {
    let (queue, _stop) = run_shard(None);
    let _clients = [subscribe(&queue, ""), subscribe(&queue, "&name=alice"), subscribe(&queue, "&name=bob")];
    let captured = capture(&queue);
    assert_eq!(subjects(&captured), [None, Some("alice"), Some("bob")]);

    let bytes = Snapshot { shards: captured.state.clone(), ..Snapshot::default() }.encode().unwrap();
    let snapshot = Snapshot::decode(&bytes, 2).unwrap();
    #[expect(unsafe_code, reason = "the shard lends its clients' descriptors as numbers")]
    // SAFETY: the shard does nothing before `Op::Resume`, so its clients' descriptors stay open.
    let owned = |&fd| unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned().unwrap();
    let owned_fds: Vec<OwnedFd> = captured.borrowed_fds.iter().map(owned).collect();
    let (successor, _stop) = run_shard(Some(Transfer::received(snapshot.shards, owned_fds).unwrap()));
    assert_eq!(subjects(&capture(&successor)), [None, Some("alice"), Some("bob")]);
}
