//! Measures how long each test takes, so that `tests/run` can print the slowest. It measures the lifetime of a test's folder, which
//! nearly every test has.

use std::{
    env,
    fs::File,
    io::Write as _,
    thread,
    time::{Duration, Instant},
};

/// Measures the time from its creation to its drop.
pub(crate) struct Timer(Instant);

impl Timer {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // The harness names a test's thread after the test.
        if let (Some(path), Some(test)) = (env::var_os("SSECAST_TEST_TIMES"), thread::current().name()) {
            let line = line(self.0.elapsed(), test);
            let file = File::options().create(true).append(true).open(path);
            // An error is ignored: the test itself has not failed.
            let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
        }
    }
}

/// Seconds and the test's name, in one write: tests end at the same time.
fn line(elapsed: Duration, test: &str) -> String {
    format!("{:.2} {test}\n", elapsed.as_secs_f64())
}
