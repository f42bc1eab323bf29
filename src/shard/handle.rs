//! What requests use of the shard on whose thread they run: they hold channels, give the shard a connection, or keep one for the
//! successor. It parses no request.

use std::{
    cell::{RefCell, RefMut},
    future::Future,
    os::fd::OwnedFd,
    rc::Rc,
    time::Duration,
};

use super::{client::Joining, connections::Connections, core::Shard, drain::pick_retry};
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
    shard: Rc<RefCell<Shard>>,
    connections: Rc<Connections>,
}

/// Channels that a request needs. The hub does not remove them before this is dropped.
pub struct Hold {
    handle: ShardHandle,
    channels: Vec<ChannelId>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut shard = self.handle.shard();
        for &id in &self.channels {
            shard.hub.release(id, Uptime::now());
        }
    }
}

impl ShardHandle {
    /// The handle of a shard without connections.
    pub(super) fn new(shard: Shard) -> Self {
        Self { shard: Rc::new(RefCell::new(shard)), connections: Rc::default() }
    }

    /// The shard. Nothing else of the thread may use it until this is dropped, so it must not be held over an `await`.
    pub(super) fn shard(&self) -> RefMut<'_, Shard> {
        self.shard.borrow_mut()
    }

    /// The connections that hyper serves on the thread.
    pub(super) fn connections(&self) -> &Rc<Connections> {
        &self.connections
    }

    /// Holds the channels for a client that starts at `start`. Waits until each one is confirmed (every source delivers it or is
    /// disconnected), and until the shard has passed all that the client can have read at another shard.
    ///
    /// # Errors
    /// The first channel that no source may deliver.
    pub async fn hold(&self, names: &[ChannelName], start: Start) -> Result<Hold, ChannelName> {
        let mut hold = Hold { handle: self.clone(), channels: Vec::with_capacity(names.len()) };
        let mut answers = Vec::new();
        let passed = {
            let shard = &mut *self.shard();
            for name in names {
                let id = shard.hub.hold(name);
                hold.channels.push(id);
                if shard.hub.is_refused(id) {
                    return Err(name.clone());
                }
                if !shard.is_confirmed(id, name) {
                    answers.push((name, shard.wait_for(id)));
                }
            }
            shard.hub.is_before(start).then(|| shard.passed())
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
        self.shard().flush().attach(fd, joining, &hold.channels);
    }

    /// Resolves when an upgrade begins: then a connection without a request is to be kept for the successor.
    pub fn pausing(&self) -> impl Future<Output = ()> + use<> {
        let connections = Rc::clone(&self.connections);
        async move { connections.pausing().await }
    }

    /// Resolves when the daemon stops: then a request that waits is to be answered at once. Returns how long its client is to wait
    /// before it reconnects.
    pub fn draining(&self) -> impl Future<Output = Duration> + use<> {
        let connections = Rc::clone(&self.connections);
        async move { pick_retry(connections.draining().await) }
    }

    /// Whether the daemon stops.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.connections.is_draining()
    }

    /// Whether connections are kept for a successor now.
    #[must_use]
    pub fn is_pausing(&self) -> bool {
        self.connections.is_pausing()
    }

    /// Keeps a connection without a request for the successor. If the upgrade fails, it is served again.
    pub fn keep_for_successor(&self, stream: Stream) {
        self.connections.keep(stream);
    }
}

impl Shard {
    /// Whether the channel is confirmed. Subscribes to it if the shard is not subscribed: then the answer comes by the queue, even
    /// if the channel is open for another shard. It may have been unsubscribed and opened again since this shard took its queue,
    /// and what was published between the two is lost.
    fn is_confirmed(&mut self, id: ChannelId, name: &ChannelName) -> bool {
        let (subscription, wanted) = self.hub.subscription(id);
        if wanted || !self.hub.is_on_demand(id) {
            return subscription == Subscription::Confirmed;
        }
        self.hub.set_subscribing(id);
        self.subscribe(name);
        false
    }
}
