//! Requests for reloads, from the admin socket or a signal, one at a time. It carries out none of them.

use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{Notify, oneshot};

/// The outcome of a reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reloaded {
    /// The process with this id has taken over.
    By(u32),
    /// It failed, and nothing has changed. The text is the reason.
    Failed(String),
    /// Another reload is under way. Its process may have read the configuration before the last change, so ask again.
    Busy,
}

/// A reload that must be carried out.
#[derive(Debug)]
pub struct ReloadRequest(Option<oneshot::Sender<Reloaded>>);

impl ReloadRequest {
    /// Answers the request, if it came from the admin socket. A signal gets no answer.
    pub fn answer(self, outcome: Reloaded) {
        if let Some(answer) = self.0 {
            // Fails if the client has disconnected.
            let _ = answer.send(outcome);
        }
    }
}

#[derive(Debug, Default)]
struct State {
    /// A request from the admin socket that has not begun.
    asked: Option<oneshot::Sender<Reloaded>>,
    /// Whether a signal has requested a reload that has not begun.
    signalled: bool,
    /// Whether a signal has had the log reopened since the last reload began.
    log_reopened: bool,
    /// Whether a reload is under way.
    running: bool,
    /// If reloads are refused: the reason.
    closed: Option<String>,
    phase: Option<&'static str>,
    last_failure: Option<String>,
}

/// Requests for reloads, and the outcome of the last one.
#[derive(Debug, Default)]
pub struct Reloads {
    /// Locked for a few instructions only: a request is accepted or refused at once.
    state: Mutex<State>,
    requested: Notify,
    /// Number of requests on the admin socket that wait for their outcome.
    waiting: AtomicUsize,
}

/// Counts a waiting request until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Reloads {
    /// Requests a reload, and waits for the outcome.
    pub async fn ask(&self) -> Reloaded {
        let (answer, answered) = oneshot::channel();
        let waiting = {
            let mut state = self.lock();
            if let Some(why) = &state.closed {
                return Reloaded::Failed(why.clone());
            }
            if state.running || state.asked.is_some() {
                return Reloaded::Busy;
            }
            state.asked = Some(answer);
            self.waiting.fetch_add(1, Ordering::Relaxed);
            Waiting(&self.waiting)
        };
        self.requested.notify_one();
        let outcome = answered.await.unwrap_or_else(|_| Reloaded::Failed("ssecast is stopping".to_owned()));
        drop(waiting);
        outcome
    }

    /// Requests a reload without waiting. If one is under way, another one follows it.
    pub fn signal(&self) {
        self.lock().signalled = true;
        self.requested.notify_one();
    }

    /// Waits for the next request. From then on a reload is under way, until [`Reloads::finish`].
    pub async fn next(&self) -> ReloadRequest {
        loop {
            {
                let mut state = self.lock();
                let asked = state.asked.take();
                if asked.is_some() || state.signalled {
                    (state.signalled, state.log_reopened, state.running) = (false, false, true);
                    return ReloadRequest(asked);
                }
            }
            self.requested.notified().await;
        }
    }

    /// Records that the reload has ended, and the reason if it failed.
    pub fn finish(&self, failure: Option<String>) {
        let mut state = self.lock();
        (state.running, state.phase) = (false, None);
        state.last_failure = failure;
    }

    /// Whether a signal has requested another reload since the last one began.
    #[must_use]
    pub fn is_signalled(&self) -> bool {
        self.lock().signalled
    }

    /// Notes that a signal has had the log reopened: a successor may have opened the old file by then.
    pub fn note_log_reopened(&self) {
        self.lock().log_reopened = true;
    }

    /// Whether a signal has had the log reopened since the last reload began.
    #[must_use]
    pub fn is_log_reopened(&self) -> bool {
        self.lock().log_reopened
    }

    /// Refuses reloads from now on.
    pub fn close(&self, why: &str) {
        let mut state = self.lock();
        state.closed = Some(why.to_owned());
        if let Some(asked) = state.asked.take() {
            let _ = asked.send(Reloaded::Failed(why.to_owned()));
        }
    }

    /// Number of requests on the admin socket that wait for the outcome of the reload under way: 0 or 1.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Records the phase of the reload under way.
    pub fn show_phase(&self, phase: &'static str) {
        self.lock().phase = Some(phase);
    }

    /// The phase of the reload under way.
    #[must_use]
    pub fn phase(&self) -> Option<&'static str> {
        self.lock().phase
    }

    /// The reason if the last reload failed.
    #[must_use]
    pub fn last_failure(&self) -> Option<String> {
        self.lock().last_failure.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        crate::lock::lock(&self.state)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn one_reload_runs_at_a_time_and_a_signal_meanwhile_requests_another() {
        let reloads = Arc::new(Reloads::default());
        let asking = tokio::spawn({
            let reloads = Arc::clone(&reloads);
            async move { reloads.ask().await }
        });
        let request = reloads.next().await;
        assert_eq!(reloads.waiting(), 1);
        assert_eq!(reloads.ask().await, Reloaded::Busy);
        reloads.signal();
        reloads.signal();
        request.answer(Reloaded::Failed("no".to_owned()));
        reloads.finish(Some("no".to_owned()));
        assert_eq!(asking.await.unwrap(), Reloaded::Failed("no".to_owned()));
        assert_eq!((reloads.waiting(), reloads.last_failure()), (0, Some("no".to_owned())));
        assert!(reloads.is_signalled());
        reloads.next().await.answer(Reloaded::By(1));
        assert!(!reloads.is_signalled());
        reloads.finish(None);
        reloads.close("ssecast is stopping");
        assert_eq!(reloads.ask().await, Reloaded::Failed("ssecast is stopping".to_owned()));
    }
}
