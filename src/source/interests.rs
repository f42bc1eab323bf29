//! The channels that a source is asked for. It asks no source itself.

use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use crate::broker::Interest;

/// The requests to a source: which channels it must deliver. They are few and small, and wait here while the source is
/// disconnected.
#[derive(Debug)]
pub struct Interests(UnboundedReceiver<Interest>);

impl Interests {
    /// A list of requests, and what adds to it.
    pub(crate) fn channel() -> (UnboundedSender<Interest>, Self) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (sender, Self(receiver))
    }

    /// Waits for the next request; `None` once the daemon has ended. If it is cancelled, no request is lost, so it can stand in
    /// `tokio::select!`.
    pub async fn next(&mut self) -> Option<Interest> {
        self.0.recv().await
    }

    /// The next request, if there is one now. A source that connects takes them all, and asks its server for them at once.
    pub fn try_next(&mut self) -> Option<Interest> {
        self.0.try_recv().ok()
    }

    /// Whether the daemon has ended, so that no request follows.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}
