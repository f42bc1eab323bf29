//! The clocks, and nothing else: no timers, no sleeping.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// The time, in microseconds since 1970. It may jump.
#[must_use]
pub fn unix_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Time since the machine started, in tenths of a second (`CLOCK_MONOTONIC`). It never jumps, and is the same in all processes, so
/// it can be part of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Uptime(pub u32);

impl Uptime {
    /// The current time.
    #[must_use]
    pub fn now() -> Self {
        // Every Linux has this clock. Without it, no event would ever expire.
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
        Self(tenths(now))
    }

    /// The time `duration` ago, or the machine's start if that is later.
    #[must_use]
    pub fn before(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(tenths(duration)))
    }
}

fn tenths(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis().div_ceil(100)).unwrap_or(u32::MAX)
}
