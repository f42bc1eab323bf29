//! What is asked of the daemon while it hands over: noted here, and done by whichever process serves in the end.

use std::{future::Future, pin::Pin};

use tokio::sync::mpsc;

use crate::admin::{ReloadRequest, Reloaded};

/// What is asked of the daemon while it hands over.
pub(in crate::app) struct DeferredRequests<'a, S> {
    /// It is to stop.
    pub(in crate::app) stop: Pin<&'a mut S>,
    /// It was asked to stop, and `stop` has resolved.
    pub(in crate::app) stopped: bool,
    /// It is to hand over again.
    pub(in crate::app) requests: &'a mut mpsc::Receiver<ReloadRequest>,
    /// It was asked for that by a signal, which nobody waits for.
    pub(in crate::app) again: bool,
}

impl<S: Future<Output = ()>> DeferredRequests<'_, S> {
    /// Resolves when the daemon is to stop.
    pub(in crate::app) async fn stop(&mut self) {
        self.stop.as_mut().await;
        self.stopped = true;
    }

    /// Has every request asked again, of whichever process it will be that serves, until this is dropped.
    pub(in crate::app) async fn put_off_requests(&mut self) {
        while let Some(request) = self.requests.recv().await {
            self.again |= !request.is_heard();
            request.answer(Reloaded::Again);
        }
        // Nobody can ask any more.
        std::future::pending().await
    }

    /// Takes note of what was asked for and not looked at.
    pub(in crate::app) async fn catch_up(&mut self) {
        if !self.stopped {
            tokio::select! {
                biased;
                () = self.stop() => {}
                () = std::future::ready(()) => {}
            }
        }
        while let Ok(request) = self.requests.try_recv() {
            self.again |= !request.is_heard();
            request.answer(Reloaded::Again);
        }
    }
}
