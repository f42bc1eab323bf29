//! The limit on clients (`stream.max_clients`), over all shards. It counts; it closes nothing.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Number of clients connected, and the limit. A semaphore, except that clients inherited from a predecessor are counted even
/// over the limit.
#[derive(Debug)]
pub struct ClientLimit {
    in_use: AtomicUsize,
    max: usize,
}

/// The right to be one of the clients. It is given back when it is dropped.
#[derive(Debug)]
pub struct ClientPermit(Arc<ClientLimit>);

impl Drop for ClientPermit {
    fn drop(&mut self) {
        self.0.in_use.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ClientLimit {
    /// A limit of `max` clients.
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { in_use: AtomicUsize::new(0), max })
    }

    /// A permit, or `None` where the limit is reached.
    #[must_use]
    pub fn acquire(self: &Arc<Self>) -> Option<ClientPermit> {
        let one_more = |in_use| (in_use < self.max).then_some(in_use + 1);
        self.in_use.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(ClientPermit(Arc::clone(self)))
    }

    /// A permit for a client that is connected already, even over the limit.
    #[must_use]
    pub fn acquire_over_limit(self: &Arc<Self>) -> ClientPermit {
        self.in_use.fetch_add(1, Ordering::Relaxed);
        ClientPermit(Arc::clone(self))
    }

    /// Number of permits in use.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.in_use.load(Ordering::Relaxed)
    }

    /// The limit.
    #[must_use]
    pub fn max(&self) -> usize {
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_end_at_the_limit_and_come_back_when_dropped() {
        let limit = ClientLimit::new(1);
        let permit = limit.acquire().unwrap();
        assert!(limit.acquire().is_none());
        let inherited = limit.acquire_over_limit();
        assert_eq!(limit.in_use(), 2);
        drop(permit);
        assert!(limit.acquire().is_none());
        drop(inherited);
        assert!(limit.acquire().is_some());
    }
}
