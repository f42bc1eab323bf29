//! A range of durations, from which one is picked at random. Waits for nothing.

use std::time::Duration;

/// A range of durations, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DurationRange {
    /// The shortest.
    pub min: Duration,
    /// The longest, not below `min`.
    pub max: Duration,
}

impl DurationRange {
    /// A random duration of the range, in whole milliseconds.
    #[must_use]
    pub fn pick(&self) -> Duration {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(fastrand::u64(millis(self.min)..=millis(self.max)))
    }
}
