//! A progress line on standard error, if that is a terminal. Computes nothing else.

use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

const INTERVAL: Duration = Duration::from_millis(100);
const BAR: usize = 30;

/// The progress line. Dropping it erases the line.
pub struct Progress {
    shown: bool,
    next: Option<Instant>,
}

impl Progress {
    /// On standard error if that is a terminal.
    #[must_use]
    pub fn on_terminal() -> Self {
        Self { shown: false, next: std::io::stderr().is_terminal().then(Instant::now) }
    }

    /// Shows nothing.
    #[must_use]
    pub fn none() -> Self {
        Self { shown: false, next: None }
    }

    /// `done` of `total` `things`; with a `total` of 0 there is no bar. Cheap to call often.
    pub fn show(&mut self, things: &str, done: usize, total: usize) {
        let Some(next) = &mut self.next else { return };
        let now = Instant::now();
        if now < *next {
            return;
        }
        *next = now + INTERVAL;
        self.shown = true;
        let line = match done.saturating_mul(BAR).checked_div(total) {
            Some(filled) => format!("{:<BAR$} {done} of {total} {things}", "#".repeat(filled.min(BAR))),
            None => format!("{done} {things}"),
        };
        // A progress line that can't be shown is no reason to stop.
        let _ = write!(std::io::stderr(), "\r\x1b[K{line}");
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
