//! `POST /reload`: asks for a new process, and waits for the outcome. What a reload does is not this room's business.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{mpsc, oneshot};

/// Somebody wants a new process: whom to tell the outcome, the new process's id or why there is none.
pub type ReloadRequest = oneshot::Sender<Result<u32, String>>;

/// Where reloads are asked for, and what became of the last one.
pub struct Reloads {
    requests: mpsc::Sender<ReloadRequest>,
    waiting: AtomicUsize,
    last_failure: Mutex<Option<String>>,
}

impl Reloads {
    /// Asks by `requests`.
    #[must_use]
    pub fn new(requests: mpsc::Sender<ReloadRequest>) -> Self {
        Self { requests, waiting: AtomicUsize::new(0), last_failure: Mutex::new(None) }
    }

    /// Asks for a new process. Gives back its id, or why there is none: then everything is as it was.
    ///
    /// # Errors
    /// The reason.
    pub async fn ask(&self) -> Result<u32, String> {
        let (answer, answered) = oneshot::channel();
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let asked = self.requests.send(answer).await;
        let outcome = match asked {
            Ok(()) => answered.await.unwrap_or_else(|_| Err("ssecast is stopping".to_owned())),
            Err(_) => Err("ssecast is stopping, or was started in a way that knows no reload".to_owned()),
        };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        outcome
    }

    /// Requests that wait for an outcome.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Why the last reload failed, if it did.
    #[must_use]
    pub fn last_failure(&self) -> Option<String> {
        self.last_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes what became of a reload.
    pub fn note(&self, failure: Option<String>) {
        *self.last_failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }
}
