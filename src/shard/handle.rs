//! What the rooms of a shard's thread may ask of it: hold channels, give it a connection, hand one on.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    os::fd::OwnedFd,
    rc::Rc,
};

use tokio::sync::{Notify, oneshot};

use super::{client::Joining, core::Shard};
use crate::{
    clock::Uptime,
    hub::{ChannelId, Subscription},
    name::ChannelName,
    stream::Stream,
};

/// A shard, as the requests that its thread parses see it.
#[derive(Clone)]
pub struct ShardHandle {
    pub(super) shard: Rc<RefCell<Shard>>,
    pub(super) connections: Rc<Connections>,
}

/// Connections on the shard's thread that hyper serves.
#[derive(Default)]
pub(super) struct Connections {
    /// Number of connections that hyper is serving.
    pub(super) open: Cell<usize>,
    /// Notified when one of them ends.
    pub(super) ended: Notify,
    /// Whether they are to be handed on.
    pub(super) leaving: Cell<bool>,
    /// That has become so.
    pub(super) leave: Notify,
    /// Those that were handed on.
    pub(super) handed: RefCell<Vec<Stream>>,
}

/// One of the connections, counted until this is dropped, by a panic of its task as well.
pub(super) struct OpenConnection(Rc<Connections>);

impl Connections {
    /// Counts one more.
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

/// Channels that a request needs, kept from being forgotten while it waits.
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
    /// Holds the channels, and waits until their events arrive or a source is known to be away.
    ///
    /// # Errors
    /// The first channel that a source may not deliver.
    pub async fn hold(&self, names: &[ChannelName]) -> Result<Hold, ChannelName> {
        let mut hold = Hold { handle: self.clone(), channels: Vec::with_capacity(names.len()) };
        let mut answers = Vec::new();
        {
            let shard = &mut *self.shard.borrow_mut();
            for name in names {
                let id = shard.hub.hold(name);
                hold.channels.push(id);
                if !shard.is_confirmed(id, name) {
                    let (answer, answered) = oneshot::channel();
                    shard.waiting.entry(id).or_default().push(answer);
                    answers.push((name, answered));
                }
            }
        }
        for (name, answered) in answers {
            // An answer that never comes is a shard that has ended, and this task with it.
            if !answered.await.unwrap_or(true) {
                return Err(name.clone());
            }
        }
        Ok(hold)
    }

    /// Gives a connection to the shard, which owns it from now on.
    pub fn attach(&self, fd: OwnedFd, joining: Joining, hold: Hold) {
        self.shard.borrow_mut().flush().attach(fd, joining, &hold.channels);
    }

    /// Resolves when connections are to be handed on.
    pub fn leaving(&self) -> impl Future<Output = ()> + use<> {
        let connections = Rc::clone(&self.connections);
        async move {
            while !connections.leaving.get() {
                connections.leave.notified().await;
            }
        }
    }

    /// Hands a connection on that has no request under way.
    pub fn hand_on(&self, stream: Stream) {
        self.connections.handed.borrow_mut().push(stream);
    }
}

impl Shard {
    /// Whether the channel's events arrive; asks for them if need be.
    fn is_confirmed(&mut self, id: ChannelId, name: &ChannelName) -> bool {
        if !self.hub.is_on_demand() {
            return true;
        }
        let (subscription, wanted) = self.hub.subscription(id);
        if wanted {
            return subscription == Subscription::Confirmed;
        }
        self.hub.set_wanted(id, true);
        // It may be open for another shard, and have been let go since this one has last looked.
        self.dispatcher.subscribe(self.number, name) && subscription == Subscription::Confirmed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_in_a_connection_s_task_leaves_it_counted_no_longer() {
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
