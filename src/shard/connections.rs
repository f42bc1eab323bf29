//! The connections that hyper serves on a shard's thread: how many there are, and those that are kept for a successor. It serves
//! none.

use std::{
    cell::{Cell, RefCell},
    mem,
    rc::Rc,
    time::Duration,
};

use tokio::sync::{Notify, oneshot};

use crate::stream::Stream;

/// The connections that hyper serves on the shard's thread.
#[derive(Default)]
pub(super) struct Connections {
    /// Number of connections that hyper is serving.
    open: Cell<usize>,
    /// Notified when one of them ends.
    ended: Notify,
    /// Whether an upgrade has begun: connections without a request are kept for the successor.
    pausing: Cell<bool>,
    /// Notified when `pausing` becomes true.
    pause: Notify,
    /// Set when the daemon stops: the time within which clients are to reconnect.
    draining: Cell<Option<Duration>>,
    /// Notified when `draining` is set.
    drain: Notify,
    /// While the daemon stops: dropped when hyper serves no connection any more.
    gone: RefCell<Option<Rc<oneshot::Sender<()>>>>,
    /// Connections that are kept for the successor.
    kept: RefCell<Vec<Stream>>,
}

/// Counts one connection until it is dropped, also if its task panics.
pub(super) struct OpenConnection(Rc<Connections>);

impl Connections {
    /// Counts one more connection.
    pub(super) fn open(connections: &Rc<Self>) -> OpenConnection {
        connections.open.set(connections.open.get() + 1);
        OpenConnection(Rc::clone(connections))
    }

    /// Number of connections that hyper is serving.
    pub(super) fn count(&self) -> usize {
        self.open.get()
    }

    /// Resolves when a connection ends.
    pub(super) async fn ended(&self) {
        self.ended.notified().await;
    }

    /// An upgrade has begun: from now on connections without a request are kept for the successor.
    pub(super) fn begin_pause(&self) {
        self.pausing.set(true);
        self.pause.notify_waiters();
    }

    /// The upgrade has failed. Take what was kept with [`Connections::take_kept`].
    pub(super) fn end_pause(&self) {
        self.pausing.set(false);
    }

    /// Whether connections are kept for a successor now.
    pub(super) fn is_pausing(&self) -> bool {
        self.pausing.get()
    }

    /// Resolves when an upgrade has begun.
    pub(super) async fn pausing(&self) {
        while !self.pausing.get() {
            self.pause.notified().await;
        }
    }

    /// The daemon stops: requests that wait are to be answered, and all connections end. Clients are to reconnect within `spread`.
    /// `gone` is dropped when no connection is left.
    pub(super) fn begin_draining(&self, spread: Duration, gone: Rc<oneshot::Sender<()>>) {
        self.draining.set(Some(spread));
        if self.open.get() > 0 {
            self.gone.replace(Some(gone));
        }
        self.drain.notify_waiters();
    }

    /// Whether the daemon stops.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.get().is_some()
    }

    /// Resolves when the daemon stops, with the time within which clients are to reconnect.
    pub(super) async fn draining(&self) -> Duration {
        loop {
            if let Some(spread) = self.draining.get() {
                return spread;
            }
            self.drain.notified().await;
        }
    }

    /// Keeps a connection for the successor.
    pub(super) fn keep(&self, stream: Stream) {
        self.kept.borrow_mut().push(stream);
    }

    /// Takes the connections that were kept.
    pub(super) fn take_kept(&self) -> Vec<Stream> {
        mem::take(&mut *self.kept.borrow_mut())
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.ended.notify_one();
        if self.0.open.get() == 0 {
            self.0.gone.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_whose_task_panics_is_no_longer_counted() {
        let connections = Rc::new(Connections::default());
        let local = tokio::task::LocalSet::new();
        let open = Connections::open(&connections);
        let ended = local.run_until(async {
            tokio::task::spawn_local(async move {
                let _open = open;
                panic!("a bug in a request's handling (this test's own)");
            })
            .await
        });
        assert!(ended.await.unwrap_err().is_panic());
        assert_eq!(connections.count(), 0);
    }
}
