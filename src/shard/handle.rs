//! What requests use of the shard on whose thread they run: they hold channels, give the shard a connection, or keep one for the
//! successor. It parses no request.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    os::fd::OwnedFd,
    rc::Rc,
};

use tokio::sync::Notify;

use super::{client::Joining, core::Shard};
use crate::{
    clock::Uptime,
    cursor::Start,
    hub::{ChannelId, Subscription},
    name::ChannelName,
    stream::Stream,
};

/// The shard of the current thread, for the requests that this thread serves.
#[derive(Clone)]
pub struct ShardHandle {
    pub(super) shard: Rc<RefCell<Shard>>,
    pub(super) connections: Rc<Connections>,
}

/// The connections that hyper serves on the shard's thread.
#[derive(Default)]
pub(super) struct Connections {
    /// Number of connections that hyper is serving.
    pub(super) open: Cell<usize>,
    /// Notified when one of them ends.
    pub(super) ended: Notify,
    /// Whether an upgrade has begun: connections without a request are kept for the successor.
    pub(super) pausing: Cell<bool>,
    /// Notified when `pausing` becomes true.
    pub(super) pause: Notify,
    /// Connections that are kept for the successor.
    pub(super) kept: RefCell<Vec<Stream>>,
}

/// Counts one connection until it is dropped, also if its task panics.
pub(super) struct OpenConnection(Rc<Connections>);

impl Connections {
    /// Counts one more connection.
    pub(super) fn open(connections: &Rc<Self>) -> OpenConnection {
        connections.open.set(connections.open.get() + 1);
        OpenConnection(Rc::clone(connections))
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.ended.notify_one();
    }
}

/// Channels that a request needs. The hub does not remove them before this is dropped.
pub struct Hold {
    handle: ShardHandle,
    channels: Vec<ChannelId>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut shard = self.handle.shard.borrow_mut();
        for &id in &self.channels {
            shard.hub.release(id, Uptime::now());
        }
    }
}

impl ShardHandle {
    /// Holds the channels for a client that starts at `start`. Waits until each one is confirmed (every source delivers it or is
    /// disconnected), and until the shard has passed all that the client can have read at another shard.
    ///
    /// # Errors
    /// The first channel that no source may deliver.
    pub async fn hold(&self, names: &[ChannelName], start: Start) -> Result<Hold, ChannelName> {
        let mut hold = Hold { handle: self.clone(), channels: Vec::with_capacity(names.len()) };
        let mut answers = Vec::new();
        let passed = {
            let shard = &mut *self.shard.borrow_mut();
            for name in names {
                let id = shard.hub.hold(name);
                hold.channels.push(id);
                if !shard.is_confirmed(id, name) {
                    answers.push((name, shard.wait_for(id)));
                }
            }
            shard.hub.is_before(start).then(|| shard.dispatcher.passed(shard.number))
        };
        if let Some(passed) = passed {
            let _ = passed.await; // A shard that has ended never answers, and this task ends with it.
        }
        for (name, answered) in answers {
            // The sender is dropped only when the shard ends, and this task with it.
            if !answered.await.unwrap_or(true) {
                return Err(name.clone());
            }
        }
        Ok(hold)
    }

    /// Gives a connection to the shard, which makes it a client.
    pub fn attach(&self, fd: OwnedFd, joining: Joining, hold: Hold) {
        self.shard.borrow_mut().flush().attach(fd, joining, &hold.channels);
    }

    /// Resolves when an upgrade begins: then a connection without a request is to be kept for the successor.
    pub fn pausing(&self) -> impl Future<Output = ()> + use<> {
        let connections = Rc::clone(&self.connections);
        async move {
            while !connections.pausing.get() {
                connections.pause.notified().await;
            }
        }
    }

    /// Whether connections are kept for a successor now.
    #[must_use]
    pub fn is_pausing(&self) -> bool {
        self.connections.pausing.get()
    }

    /// Keeps a connection without a request for the successor. If the upgrade fails, it is served again.
    pub fn keep_for_successor(&self, stream: Stream) {
        self.connections.kept.borrow_mut().push(stream);
    }
}

impl Shard {
    /// Whether the channel is confirmed. Subscribes to it if the shard is not subscribed: then the answer comes by the queue, even
    /// if the channel is open for another shard. It may have been unsubscribed and opened again since this shard took its queue,
    /// and what was published between the two is lost.
    fn is_confirmed(&mut self, id: ChannelId, name: &ChannelName) -> bool {
        if !self.hub.is_on_demand(id) {
            return true;
        }
        let (subscription, wanted) = self.hub.subscription(id);
        if wanted {
            return subscription == Subscription::Confirmed;
        }
        self.hub.set_subscribing(id);
        self.dispatcher.subscribe(self.number, name);
        false
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
        assert_eq!(connections.open.get(), 0);
    }
}
