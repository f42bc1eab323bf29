//! Waits for conditions.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How long a condition may take before a test fails. It is long, since the machine may be busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Calls `attempt` until it returns a result. Panics, naming `what`, after `PATIENCE`.
pub(crate) fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(result) = attempt() {
            return result;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain: {what}");
        thread::sleep(Duration::from_millis(3));
    }
}

/// Asserts that `condition` holds for a while. A test can't prove that something never happens; this gives it enough time to happen.
pub(crate) fn holds_for_a_while(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(300) {
        assert!(condition(), "did not hold: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
