//! Reloads: asked for on the admin socket or by a signal, one at a time. What a reload does is not this module's business.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{Notify, oneshot};

/// What became of a reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reloaded {
    /// The process with this id has taken over.
    By(u32),
    /// None has, and everything is as it was; with the reason.
    Failed(String),
    /// Another reload is under way, and its process may have read its configuration already: ask again.
    Busy,
}

/// A reload that is to be carried out.
#[derive(Debug)]
pub struct ReloadRequest(Option<oneshot::Sender<Reloaded>>);

impl ReloadRequest {
    /// Answers, if somebody waits for it: a signal doesn't.
    pub fn answer(self, outcome: Reloaded) {
        if let Some(answer) = self.0 {
            // The client may have gone.
            let _ = answer.send(outcome);
        }
    }
}

#[derive(Debug, Default)]
struct State {
    /// Asked for on the admin socket, and not begun.
    asked: Option<oneshot::Sender<Reloaded>>,
    /// Asked for by a signal, and not begun.
    signalled: bool,
    /// One is under way.
    running: bool,
    /// Why there will be none.
    closed: Option<String>,
    phase: Option<&'static str>,
    last_failure: Option<String>,
}

/// Where reloads are asked for, and what became of the last one.
#[derive(Debug, Default)]
pub struct Reloads {
    /// A lock, since a request is accepted or refused at once.
    state: Mutex<State>,
    requested: Notify,
    /// Requests on the admin socket that wait for their outcome.
    waiting: AtomicUsize,
}

/// Counts a request as long as it waits.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Reloads {
    /// Asks for a reload, and waits for the outcome.
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

    /// Asks for a reload without waiting. While one is under way, another one follows it.
    pub fn signal(&self) {
        self.lock().signalled = true;
        self.requested.notify_one();
    }

    /// Waits for the next request. The reload is under way from then on, until [`Reloads::finish`].
    pub async fn next(&self) -> ReloadRequest {
        loop {
            {
                let mut state = self.lock();
                let asked = state.asked.take();
                if asked.is_some() || state.signalled {
                    (state.signalled, state.running) = (false, true);
                    return ReloadRequest(asked);
                }
            }
            self.requested.notified().await;
        }
    }

    /// Notes that the reload has ended, and why it failed if it did.
    pub fn finish(&self, failure: Option<String>) {
        let mut state = self.lock();
        (state.running, state.phase) = (false, None);
        state.last_failure = failure;
    }

    /// Whether a signal has asked for another reload since the last one began.
    #[must_use]
    pub fn is_signalled(&self) -> bool {
        self.lock().signalled
    }

    /// Refuses reloads from now on.
    pub fn close(&self, why: &str) {
        let mut state = self.lock();
        state.closed = Some(why.to_owned());
        if let Some(asked) = state.asked.take() {
            let _ = asked.send(Reloaded::Failed(why.to_owned()));
        }
    }

    /// Requests that wait for the outcome of the reload that is under way: one, or none.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Notes how far the reload is.
    pub fn show_phase(&self, phase: &'static str) {
        self.lock().phase = Some(phase);
    }

    /// How far the reload is that is under way.
    #[must_use]
    pub fn phase(&self) -> Option<&'static str> {
        self.lock().phase
    }

    /// Why the last reload failed, if it did.
    #[must_use]
    pub fn last_failure(&self) -> Option<String> {
        self.lock().last_failure.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn one_reload_at_a_time_and_a_signal_is_not_forgotten() {
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
