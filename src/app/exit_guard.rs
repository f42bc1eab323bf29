//! Notices the end of what must not end while the daemon serves: a thread or a task, also where it panics. It ends nothing itself.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use tokio::sync::oneshot;

/// Makes guards. The first one that reports an end counts.
#[derive(Clone)]
pub(super) struct ExitGuards(Arc<Mutex<Option<oneshot::Sender<String>>>>);

impl ExitGuards {
    /// Guards, and what resolves with the name and the reason of the first end.
    pub(super) fn new() -> (Self, oneshot::Receiver<String>) {
        let (sender, ended) = oneshot::channel();
        (Self(Arc::new(Mutex::new(Some(sender)))), ended)
    }

    /// A guard to be held for as long as something must not end; `name` is for the log.
    pub(super) fn guard(&self, name: &str) -> ExitGuard {
        ExitGuard { guards: self.clone(), why: format!("{name} has ended") }
    }
}

/// Reports the end of something to the daemon when it is dropped: without one of its threads the daemon serves nobody.
pub(super) struct ExitGuard {
    guards: ExitGuards,
    /// Empty where it has ended as it should.
    why: String,
}

impl ExitGuard {
    /// Notes that it is right to end from now on.
    pub(super) fn disarm(&mut self) {
        self.why.clear();
    }

    /// Notes the reason for an end that is not right.
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
