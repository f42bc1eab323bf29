//! `POST /reload`: asks for a new process, and waits for the outcome. What a reload does is not this room's business.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{mpsc, oneshot};

/// What became of a request for a new process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reloaded {
    /// The process with this id has taken over.
    By(u32),
    /// There is none, and everything is as it was; with the reason.
    Failed(String),
    /// It came while a new process was on its way, which may have read its configuration before: it is to be asked again.
    Again,
}

/// Somebody wants a new process.
#[derive(Debug)]
pub struct ReloadRequest {
    answer: oneshot::Sender<Reloaded>,
    asker: Weak<()>,
}

impl ReloadRequest {
    /// A request that nobody waits for: a signal.
    #[must_use]
    pub fn unheard() -> Self {
        Self { answer: oneshot::channel().0, asker: Weak::new() }
    }

    /// Whether somebody waits for the answer.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        self.asker.strong_count() > 0
    }

    /// Answers, if somebody waits for it.
    pub fn answer(self, outcome: Reloaded) {
        // Whoever has asked may have gone.
        let _ = self.answer.send(outcome);
    }
}

/// Where reloads are asked for, and what became of the last one.
pub struct Reloads {
    requests: mpsc::Sender<ReloadRequest>,
    /// Who has asked for the reload that is under way.
    asker: Mutex<Weak<()>>,
    last_failure: Mutex<Option<String>>,
}

impl Reloads {
    /// Asks by `requests`.
    #[must_use]
    pub fn new(requests: mpsc::Sender<ReloadRequest>) -> Self {
        Self { requests, asker: Mutex::default(), last_failure: Mutex::new(None) }
    }

    /// Asks for a new process, and waits for the outcome.
    pub async fn ask(&self) -> Reloaded {
        let (answer, answered) = oneshot::channel();
        // It goes with this call, also where that is not waited for to its end.
        let asker = Arc::new(());
        match self.requests.send(ReloadRequest { answer, asker: Arc::downgrade(&asker) }).await {
            Ok(()) => answered.await.unwrap_or_else(|_| Reloaded::Failed("ssecast is stopping".to_owned())),
            Err(_) => Reloaded::Failed("ssecast is stopping, or was started in a way that knows no reload".to_owned()),
        }
    }

    /// Notes that the reload that `request` asks for is under way.
    pub fn begin(&self, request: &ReloadRequest) {
        *self.asker.lock().unwrap_or_else(PoisonError::into_inner) = request.asker.clone();
    }

    /// How many wait for the outcome of the reload that is under way: one, or none.
    #[must_use]
    pub fn waiting(&self) -> usize {
        usize::from(self.asker.lock().unwrap_or_else(PoisonError::into_inner).strong_count() > 0)
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
