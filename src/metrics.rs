//! What is counted: written from any thread, shown in `/readyz` and in the status line.

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
    /// Frames written, or begun, to clients that were not behind.
    pub deliveries: Counter,
    /// Frames written to clients that were behind or had come back.
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
    /// Messages of a source that were dropped since they could not be events.
    pub invalid: Counter,
}

impl Metrics {
    /// Every counter's name and number so far.
    #[must_use]
    pub fn all(&self) -> [(&'static str, u64); 9] {
        // No `..`: a counter that is not shown does not compile.
        let Self { events, deliveries, replayed, joined, left, fell_behind, gaps, refused, invalid } = self;
        [
            ("events", events.get()),
            ("deliveries", deliveries.get()),
            ("replayed", replayed.get()),
            ("joined", joined.get()),
            ("left", left.get()),
            ("fell_behind", fell_behind.get()),
            ("gaps", gaps.get()),
            ("refused", refused.get()),
            ("invalid", invalid.get()),
        ]
    }
}
