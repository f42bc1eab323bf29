//! The ordered queue by which everything reaches a shard: deliveries of the dispatcher, connections, phases of an upgrade.
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

/// One thing for a shard to do.
pub enum Op {
    /// What the dispatcher delivers.
    Deliver(Delivery),
    /// Serve a connection.
    Accept(Stream),
    /// Close all clients, telling each to come back within the time; the sender is dropped when all are gone.
    Drain(Duration, oneshot::Sender<()>),
    /// Let requests under way end and begin no others; the sender is used when they have.
    Settle(oneshot::Sender<()>),
    /// After [`Op::Settle`]: give a snapshot of what the shard holds, and do nothing more until [`Op::Thaw`].
    Freeze(oneshot::Sender<Transfer>),
    /// Go on as if [`Op::Settle`] and [`Op::Freeze`] had not been.
    Thaw,
    /// Close what is left.
    Stop,
}

/// Most bytes of events that may wait for a shard; see [`Outlet::wait_for_room`].
const ROOM: usize = 32 << 20;

#[derive(Default)]
struct Waiting {
    ops: Vec<Op>,
    /// Bytes of the events among them.
    weight: usize,
}

/// A shard's queue.
#[derive(Default)]
pub struct Queue {
    /// A lock, and not a channel, since the shard takes everything at once: what arrived together leaves together.
    waiting: Mutex<Waiting>,
    filled: Notify,
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

    /// Takes everything, leaving the empty `into` in its place.
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

    fn wait_for_room(&self, longest: Duration) {
        let waiting = crate::lock::lock(&self.waiting);
        if waiting.weight > ROOM {
            let waited = self.taken.wait_timeout_while(waiting, longest, |waiting| waiting.weight > ROOM);
            drop(waited);
        }
    }
}
