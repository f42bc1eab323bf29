//! A shard's queue: deliveries of the dispatcher, connections, phases of an upgrade, in one order. It knows no shard.
//!
//! The dispatcher pushes with its lock held, so all shards see the same events in the same order.

use std::{
    mem,
    sync::{Condvar, Mutex},
    time::Duration,
};

use tokio::sync::{Notify, oneshot};

use crate::{
    broker::{Delivery, Outlet},
    snapshot::Transfer,
    stream::Stream,
};

/// An operation that a shard is to do.
pub enum Op {
    /// What the dispatcher delivers.
    Deliver(Delivery),
    /// Serve a connection.
    Accept(Stream),
    /// Close all clients; they are to reconnect within the time. The sender is dropped when no client and no
    /// connection that hyper serves is left.
    Drain(Duration, oneshot::Sender<()>),
    /// Begin no requests, and report to the sender when those under way have ended.
    Pause(oneshot::Sender<()>),
    /// After [`Op::Pause`]: send a snapshot of the shard, and do nothing until [`Op::Resume`].
    Capture(oneshot::Sender<Transfer>),
    /// The upgrade failed: go on as before [`Op::Pause`].
    Resume,
    /// Cut all clients that are left.
    Stop,
}

/// While more bytes of events than this wait for a shard, sources are slowed down ([`Outlet::wait_for_space`]).
const SLOW_DOWN_BYTES: usize = 32 << 20;

#[derive(Default)]
struct Waiting {
    ops: Vec<Op>,
    /// Bytes of the events in `ops`.
    weight: usize,
}

/// A shard's queue.
#[derive(Default)]
pub struct Queue {
    /// A lock and not a channel, since the shard takes everything at once and sends it in one write per client.
    waiting: Mutex<Waiting>,
    /// Notified when the queue is no longer empty.
    filled: Notify,
    /// Notified when the shard has taken everything.
    taken: Condvar,
}

impl Queue {
    /// Appends `ops`.
    pub fn push(&self, new: impl IntoIterator<Item = Op>) {
        let mut waiting = crate::lock::lock(&self.waiting);
        let was_empty = waiting.ops.is_empty();
        for op in new {
            if let Op::Deliver(Delivery::Publish(event, _)) = &op {
                waiting.weight += event.weight();
            }
            waiting.ops.push(op);
        }
        drop(waiting);
        if was_empty {
            self.filled.notify_one();
        }
    }

    /// Takes everything by swapping it with `into`, which must be empty.
    pub fn take(&self, into: &mut Vec<Op>) {
        let mut waiting = crate::lock::lock(&self.waiting);
        mem::swap(&mut waiting.ops, into);
        waiting.weight = 0;
        drop(waiting);
        self.taken.notify_all();
    }

    /// Waits until there is something to take.
    pub async fn filled(&self) {
        self.filled.notified().await;
    }
}

impl Outlet for Queue {
    fn push(&self, deliveries: &mut dyn Iterator<Item = Delivery>) {
        Self::push(self, deliveries.map(Op::Deliver));
    }

    fn wait_for_space(&self, longest: Duration) {
        let waiting = crate::lock::lock(&self.waiting);
        if waiting.weight > SLOW_DOWN_BYTES {
            let waited = self.taken.wait_timeout_while(waiting, longest, |waiting| waiting.weight > SLOW_DOWN_BYTES);
            drop(waited);
        }
    }
}
