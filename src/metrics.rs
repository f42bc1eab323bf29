//! The counters of the process: written by any thread, shown in `/readyz` and in the status line. Computes no rates.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The number so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// All counters of the process.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Events that got a position.
    pub events: Counter,
    /// Frames whose writing began to clients that were not behind.
    pub deliveries: Counter,
    /// Frames written to clients that were behind or resumed.
    pub replayed: Counter,
    /// Streams and polls begun.
    pub joined: Counter,
    /// Streams and polls ended.
    pub left: Counter,
    /// Clients that fell behind.
    pub fell_behind: Counter,
    /// Gap events sent to clients.
    pub gaps: Counter,
    /// Clients and connections refused because of `stream.max_clients` or the limit of open files.
    pub refused: Counter,
    /// Connections closed at an upgrade or a stop because their client did not read its answer.
    pub unread: Counter,
    /// Messages of a source that were dropped because they were invalid.
    pub invalid: Counter,
}

impl Metrics {
    /// The name and value of every counter.
    #[must_use]
    pub fn all(&self) -> [(&'static str, u64); 10] {
        // Without `..`, so that this does not compile if a counter is left out.
        let Self { events, deliveries, replayed, joined, left, fell_behind, gaps, refused, unread, invalid } = self;
        [
            ("events", events.get()),
            ("deliveries", deliveries.get()),
            ("replayed", replayed.get()),
            ("joined", joined.get()),
            ("left", left.get()),
            ("fell_behind", fell_behind.get()),
            ("gaps", gaps.get()),
            ("refused", refused.get()),
            ("unread", unread.get()),
            ("invalid", invalid.get()),
        ]
    }
}
