//! Waiting for conditions.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How long anything may take before a test gives up. A machine that is busy with everything else at once is no failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Calls `attempt` until it has a result; panics, naming `what`, when patience is over.
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

/// Asserts that `condition` holds now and for a while. That something never happens can't be waited for; this gives it
/// a fair chance to happen.
pub(crate) fn holds_for_a_while(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(300) {
        assert!(condition(), "did not hold: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
