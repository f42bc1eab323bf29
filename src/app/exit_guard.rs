//! Reports a thread or a task that ends or panics and must not end while the daemon serves. It ends nothing itself.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use tokio::sync::oneshot;

/// Makes guards. Only the first end is reported.
#[derive(Clone)]
pub(super) struct ExitGuards(Arc<Mutex<Option<oneshot::Sender<String>>>>);

impl ExitGuards {
    /// Returns the maker of guards, and a receiver that gets the name and the reason of the first end.
    pub(super) fn new() -> (Self, oneshot::Receiver<String>) {
        let (sender, ended) = oneshot::channel();
        (Self(Arc::new(Mutex::new(Some(sender)))), ended)
    }

    /// Makes a guard. The thread or task `name` holds it while it must not end; the name is for the log.
    pub(super) fn guard(&self, name: &str) -> ExitGuard {
        ExitGuard { guards: self.clone(), why: format!("{name} has ended") }
    }
}

/// When it is dropped, reports to the daemon that its thread or task has ended. The daemon can't serve without one of them.
pub(super) struct ExitGuard {
    guards: ExitGuards,
    /// What is reported. Empty: the end is expected.
    why: String,
}

impl ExitGuard {
    /// From now on an end is expected, and is not reported.
    pub(super) fn disarm(&mut self) {
        self.why.clear();
    }

    /// Adds the reason for an unexpected end.
    pub(super) fn note(&mut self, error: &impl fmt::Display) {
        use fmt::Write as _;
        // Writing into a String can't fail.
        let _ = write!(self.why, ": {error}");
    }
}

impl Drop for ExitGuard {
    fn drop(&mut self) {
        if self.why.is_empty() {
            return;
        }
        if let Some(sender) = crate::lock::lock(&self.guards.0).take() {
            // The daemon may be stopping for another reason.
            let _ = sender.send(std::mem::take(&mut self.why));
        }
    }
}
