//! What a shard counts: for the metrics at once, and for the log once a second, so that one cause does not fill the log.

use std::{mem, sync::Arc, time::Duration};

use crate::metrics::Metrics;

/// A shard's counts.
pub(super) struct Counts {
    metrics: Arc<Metrics>,
    /// Clients that were closed because they took no data, since the last [`Counts::log`].
    stalled: u64,
    /// Gap events that were sent, since the last [`Counts::log`].
    gaps: u64,
}

impl Counts {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, stalled: 0, gaps: 0 }
    }

    /// A client has joined.
    pub(super) fn joined(&self) {
        self.metrics.joined.add(1);
    }

    /// `n` clients have ended.
    pub(super) fn left(&self, n: u64) {
        if n > 0 {
            self.metrics.left.add(n);
        }
    }

    /// `n` frames were written to live clients.
    pub(super) fn delivered(&self, n: u64) {
        self.metrics.deliveries.add(n);
    }

    /// `n` frames were written to clients that are behind or have resumed.
    pub(super) fn replayed(&self, n: u64) {
        self.metrics.replayed.add(n);
    }

    /// A client has fallen behind.
    pub(super) fn fell_behind(&self) {
        self.metrics.fell_behind.add(1);
    }

    /// A client is closed because it took no data.
    pub(super) fn stalled(&mut self) {
        self.stalled += 1;
    }

    /// `n` gap events were sent.
    pub(super) fn gaps(&mut self, n: u64) {
        self.metrics.gaps.add(n);
        self.gaps += n;
    }

    /// Logs what was counted since the last call. `stall_limit`: how long the stalled clients took no data.
    pub(super) fn log(&mut self, stall_limit: Duration) {
        let (stalled, gaps) = (mem::take(&mut self.stalled), mem::take(&mut self.gaps));
        if stalled > 0 {
            tracing::info!(
                clients = stalled,
                "clients were closed: they took no data for {stall_limit:?}; they resume when they reconnect"
            );
        }
        if gaps > 0 {
            tracing::warn!(gaps, "gap events were sent: clients may have missed events; each gap event says why");
        }
    }
}
