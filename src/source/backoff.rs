//! How long to wait before the next try. It does not wait itself.

use std::time::Duration;

/// Waits that double. Each is a random time between half of the wait and all of it, so that nodes that have lost the same
/// server don't reconnect in the same moment.
pub(super) struct Backoff {
    next: Duration,
    first: Duration,
    longest: Duration,
}

impl Backoff {
    /// Waits from `first` to `longest`.
    pub(super) fn new(first: Duration, longest: Duration) -> Self {
        Self { next: first, first, longest }
    }

    /// The next wait.
    pub(super) fn next(&mut self) -> Duration {
        let wait = self.next.mul_f64(0.5 + 0.5 * fastrand::f64());
        self.next = (self.next * 2).min(self.longest);
        wait
    }

    /// The try has succeeded.
    pub(super) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound() {
        let (first, longest) = (Duration::from_millis(50), Duration::from_secs(2));
        let mut backoff = Backoff::new(first, longest);
        for _ in 0..20 {
            assert!(backoff.next() <= longest);
        }
        assert!(backoff.next() >= longest / 2);
        backoff.reset();
        assert!(backoff.next() <= first);
    }
}
