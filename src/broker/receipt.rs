//! Counts how many clients the events of one publish had, over all shards. It never waits.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, AtomicUsize, Ordering},
};

use tokio::sync::oneshot;

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
            && let Some(done) = crate::lock::lock(&self.done).take()
        {
            // The publisher may have disconnected.
            let _ = done.send(());
        }
    }

    /// Clients of the event at `index`.
    #[must_use]
    pub fn clients(&self, index: usize) -> u32 {
        self.counts[index].load(Ordering::Acquire)
    }
}
