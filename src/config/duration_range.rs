//! A range of durations, from which one is picked at random for each client.

use std::time::Duration;

/// A duration picked at random between two, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DurationRange {
    /// The shortest.
    pub min: Duration,
    /// The longest, not below `min`.
    pub max: Duration,
}

impl DurationRange {
    /// One of them, to the millisecond.
    #[must_use]
    pub fn pick(&self) -> Duration {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(fastrand::u64(millis(self.min)..=millis(self.max)))
    }
}
