//! The ordered queue by which everything reaches a shard: events, answers of sources, connections, questions.
//!
//! Whoever pushes holds the dispatcher's lock (or needs no order), so all shards see the same events in the same order.

use std::{
    mem,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, oneshot};

use super::{Shard, Transfer};
use crate::{cursor::Position, event::Event, name::ChannelName, stream::Stream};

/// One thing for a shard to do.
pub enum Op {
    /// Pass an event on; the receipt, if there is one, learns how many clients it had.
    Publish(Arc<Event>, Option<(Arc<Receipt>, u32)>),
    /// The channel's demand is answered: complete from the position, or (`None`) a source is away.
    Open(ChannelName, Option<Position>),
    /// A source is back: the channels are complete again from the position.
    Restored(Arc<[ChannelName]>, Position),
    /// A source may not deliver the channel.
    Refused(ChannelName),
    /// Nothing more has a position up to this one.
    Advance(Position),
    /// Nobody in the process wants the channel any more.
    Unasked(ChannelName),
    /// Serve a connection.
    Accept(Stream),
    /// Send all clients away, telling each to come back within the time; the sender is dropped when all are gone.
    Drain(Duration, oneshot::Sender<()>),
    /// Let requests under way end and begin no others; the sender hears of it when they have.
    Settle(oneshot::Sender<()>),
    /// After [`Op::Settle`]: give away what the shard holds, and do nothing more until [`Op::Thaw`].
    Freeze(oneshot::Sender<Transfer>),
    /// Go on as if [`Op::Settle`] and [`Op::Freeze`] had not been.
    Thaw,
    /// Close what is left.
    Stop,
    /// Look at the shard.
    Ask(Box<dyn FnOnce(&Shard) + Send>),
}

/// How many clients the events of one publish had, over all shards.
#[derive(Debug)]
pub struct Receipt {
    counts: Box<[AtomicU32]>,
    /// Events times shards that have not counted yet.
    left: AtomicUsize,
    done: Mutex<Option<oneshot::Sender<()>>>,
}

impl Receipt {
    /// A receipt for `events` events and `shards` shards, and what resolves when all is counted.
    #[must_use]
    pub fn new(events: usize, shards: usize) -> (Arc<Self>, oneshot::Receiver<()>) {
        let (done, counted) = oneshot::channel();
        let counts = (0..events).map(|_| AtomicU32::new(0)).collect();
        let left = AtomicUsize::new(events * shards);
        (Arc::new(Self { counts, left, done: Mutex::new(Some(done)) }), counted)
    }

    /// One shard had `clients` clients for the event at `index`.
    pub fn count(&self, index: u32, clients: u32) {
        self.counts[index as usize].fetch_add(clients, Ordering::Relaxed);
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(done) = self.done.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            // Nobody may be waiting any more; then nobody needs to know.
            let _ = done.send(());
        }
    }

    /// Clients of the event at `index`.
    #[must_use]
    pub fn clients(&self, index: usize) -> u32 {
        self.counts[index].load(Ordering::Acquire)
    }
}

/// Most bytes of events that may wait for a shard; see [`Queue::wait_for_room`].
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
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let was_empty = waiting.ops.is_empty();
        for op in new {
            if let Op::Publish(event, _) = &op {
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
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        mem::swap(&mut waiting.ops, into);
        waiting.weight = 0;
        drop(waiting);
        self.taken.notify_all();
    }

    /// Waits until there is something to take.
    pub async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Blocks the thread of a source that publishes faster than the shard can send, at most for `longest`, so that what
    /// waits is bounded. Publishers on the admin socket need no such brake: they wait for their answers.
    pub fn wait_for_room(&self, longest: Duration) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.weight > ROOM {
            let waited = self.taken.wait_timeout_while(waiting, longest, |waiting| waiting.weight > ROOM);
            drop(waited);
        }
    }
}
