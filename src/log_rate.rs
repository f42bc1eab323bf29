//! Limits how often a log line is written that clients can cause: the first time, then at most once a minute with a count.
//! Writes nothing itself.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

/// Shortest time between two lines about the same thing.
const INTERVAL: Duration = Duration::from_secs(60);

/// Decides which occurrences of one event are logged. Each kind of line has its own value, usually a `static`.
/// `if let Some(count) = RATE.count() { tracing::warn!(count, …) }`.
#[derive(Debug)]
pub struct LogRate {
    /// Locked only for the few instructions of a count, and never on the path of a delivery.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When the last line was written.
    logged: Option<Instant>,
    /// Occurrences since then.
    unlogged: u64,
}

impl LogRate {
    /// A limit whose first occurrence is logged.
    #[must_use]
    pub const fn new() -> Self {
        Self { state: Mutex::new(State { logged: None, unlogged: 0 }) }
    }

    /// Counts an occurrence. `Some` if it is to be logged: the number of occurrences since the last line, this one included.
    /// `None` if a line was logged less than a minute ago; the next line counts this one.
    pub fn count(&self) -> Option<u64> {
        self.count_at(Instant::now())
    }

    fn count_at(&self, now: Instant) -> Option<u64> {
        let mut state = crate::lock::lock(&self.state);
        state.unlogged += 1;
        if state.logged.is_some_and(|logged| now.saturating_duration_since(logged) < INTERVAL) {
            return None;
        }
        state.logged = Some(now);
        Some(std::mem::take(&mut state.unlogged))
    }
}

impl Default for LogRate {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_logged_at_once_and_the_next_ones_are_counted_for_a_minute() {
        let rate = LogRate::new();
        let start = Instant::now();
        assert_eq!(rate.count_at(start), Some(1));
        for millis in 0..1000 {
            assert_eq!(rate.count_at(start + Duration::from_millis(millis)), None);
        }
        assert_eq!(rate.count_at(start + INTERVAL), Some(1001));
        assert_eq!(rate.count_at(start + INTERVAL), None);
        assert_eq!(rate.count_at(start + INTERVAL * 10), Some(2));
    }
}
