//! What a request waits for before its client joins, where shards are not equally fast. The test takes what is in shard 0's
//! queue; shard 1 is only a queue that nobody takes.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    task::{JoinHandle, LocalSet, spawn_local, yield_now},
};

use super::{
    core::Shard,
    handle::{Hold, ShardHandle},
    parts::Parts,
    queue::Queue,
};
use crate::{
    broker::{Delivers, Dispatcher, Interest, Interested, Spec},
    client_limit::ClientLimit,
    clock::unix_micros,
    config::Config,
    cursor::{NodeId, Start},
    event::{Coding, Form, Message},
    hub::{Kind, ReplayItem, Sequencer},
    metrics::Metrics,
    name::ChannelName,
};

const SOURCE: Spec = Spec { id: "fake", delivers: Delivers::Fanout, interest: Interested::OnDemand, journals: 0 };

fn a() -> ChannelName {
    ChannelName::new("a").unwrap()
}

struct Bench {
    handle: ShardHandle,
    queue: Arc<Queue>,
    dispatcher: Arc<Dispatcher>,
    asked: UnboundedReceiver<Interest>,
}

impl Bench {
    fn new() -> Self {
        let config = Config::default();
        let metrics = Arc::new(Metrics::default());
        let sequencer = Sequencer::new(NodeId::random(), unix_micros());
        let cursor = sequencer.cursor();
        let queue = Arc::new(Queue::default());
        let (interest, asked) = unbounded_channel();
        let outlets: Vec<Arc<dyn crate::broker::Outlet>> = vec![queue.clone(), Arc::new(Queue::default())];
        let skew = Duration::from_secs(2);
        let sources = vec![(SOURCE, interest)];
        let dispatcher = Arc::new(Dispatcher::new(sequencer, outlets, sources, Arc::clone(&metrics), skew));
        dispatcher.reconnected(0, unix_micros(), []);
        let parts = Parts {
            number: 0,
            client_limit: ClientLimit::new(config.stream.max_clients, 100),
            config: Arc::new(config),
            metrics,
            dispatcher: Arc::clone(&dispatcher),
            queue: Arc::clone(&queue),
            cursor,
            on_demand: true,
            journals_only: false,
            inherited: None,
        };
        let handle = ShardHandle::new(Shard::new(parts).unwrap());
        Self { handle, queue, dispatcher, asked }
    }

    /// Shard 1 subscribes to the channel, and the source confirms it.
    fn open_for_shard_1(&mut self) {
        self.dispatcher.subscribe(1, &a());
        let generation = loop {
            if let Interest::Subscribe(_, generation) = self.asked.try_recv().unwrap() {
                break generation;
            }
        };
        self.dispatcher.confirmed(0, [(&a(), generation)]);
    }

    fn publish(&self) -> Start {
        self.dispatcher.publish(0, [Message::new(a(), None, "x".into())], None);
        Start::After(self.dispatcher.cursor())
    }

    /// Shard 0 takes what is in its queue.
    fn turn(&self) {
        let mut ops = Vec::new();
        self.queue.take(&mut ops);
        self.handle.shard().turn(&mut ops);
    }

    /// A request for the channel.
    fn request(&self, start: Start) -> JoinHandle<Result<Hold, ChannelName>> {
        let handle = self.handle.clone();
        spawn_local(async move { handle.hold(&[a()], start).await })
    }
}

/// Lets the request go as far as it can.
async fn goes_on(request: &JoinHandle<Result<Hold, ChannelName>>) -> bool {
    for _ in 0..10 {
        yield_now().await;
    }
    request.is_finished()
}

#[tokio::test(flavor = "current_thread")]
async fn a_client_that_comes_from_a_faster_shard_is_given_nothing_again() {
    let mut bench = Bench::new();
    let local = LocalSet::new();
    local
        .run_until(async {
            bench.open_for_shard_1();
            bench.turn();
            let held = bench.request(bench.publish());
            assert!(!goes_on(&held).await, "it joins before the shard has passed what the client has");
            bench.turn();
            drop(held.await.unwrap().unwrap());
            let start = bench.publish();
            bench.turn();
            assert!(goes_on(&bench.request(start)).await, "it waits though the shard has passed everything");
        })
        .await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_channel_that_was_unsubscribed_from_and_opened_again_meanwhile_gives_a_gap() {
    let mut bench = Bench::new();
    let local = LocalSet::new();
    local
        .run_until(async {
            bench.open_for_shard_1();
            let start = bench.publish();
            bench.turn();
            // What is published between these two is lost; shard 0 has taken neither.
            bench.dispatcher.release(1, &a());
            bench.open_for_shard_1();
            let request = bench.request(start);
            assert!(!goes_on(&request).await, "it joins before the shard knows since when the channel is open");
            bench.turn();
            let _hold = request.await.unwrap().unwrap();
            let hub = &mut bench.handle.shard().hub;
            let channels = vec![hub.id(&a()).unwrap()];
            let reader = hub.reader(start, unix_micros());
            let (group, _) = hub.join(channels, Kind::Stream(Form::Plain, Coding::Identity), 0);
            let due: Vec<ReplayItem> = hub.replay(group, &reader).collect();
            assert!(matches!(due[..], [ReplayItem::Gap { .. }]), "{due:?}");
        })
        .await;
}
