//! How long each test takes: `tests/run` prints the slowest ones. A test is measured by its folders, which nearly every test has.

use std::{
    env,
    fs::File,
    io::Write as _,
    thread,
    time::{Duration, Instant},
};

/// From its making to its drop, the time of a test.
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
            // A time that can't be written is no reason for a test to fail.
            let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
        }
    }
}

/// Seconds and the test's name, in one write: tests end at the same time.
fn line(elapsed: Duration, test: &str) -> String {
    format!("{:.2} {test}\n", elapsed.as_secs_f64())
}
