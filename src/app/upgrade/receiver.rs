//! Taking everything over from the process before: the other end of `handover`.
//!
//! Invariant: nothing is written to a client and nothing accepted before the old process has said `Go`.

use std::{os::fd::OwnedFd, sync::Arc, time::Duration};

use anyhow::{Context as _, bail, ensure};
use tokio::{task::spawn_blocking, time::timeout};

use super::sender::{UpgradeState, origin, until};
use crate::{
    app::daemon::Daemon,
    broker::Dispatcher,
    config::Config,
    cursor::{Cursor, Position},
    hub::Sequencer,
    name::ChannelName,
    process::control_channel::{ControlChannel, InheritedFd, Message, VERSION, read_memfd},
    shard::Transfer,
    stream::Stream,
};

/// Longest wait for the sources.
const TO_SUBSCRIBE: Duration = Duration::from_secs(25);
/// Longest wait for the marker, which the old process has had already.
const TO_DIVIDE: Duration = Duration::from_secs(5);
/// Longest wait for the next message of the old process, which may take its time but not for ever.
const PATIENCE: Duration = Duration::from_secs(60);

/// Longest wait for the old process to name this one.
const TO_BE_NAMED: Duration = Duration::from_secs(2);

/// What was taken over.
pub(in crate::app) struct InheritedState {
    daemon: Daemon,
    /// Connections of the admin socket.
    admin: Vec<Stream>,
    control: Arc<ControlChannel>,
}

impl InheritedState {
    /// Waits until the old process has told the service manager which one is the main process now.
    pub(in crate::app) async fn named(control: Arc<ControlChannel>) {
        // The link closes then; if the old process is slow, the service manager learns the rest a little later.
        let _ = spawn_blocking(move || control.recv(TO_BE_NAMED)).await;
    }

    pub(in crate::app) fn into_parts(self) -> (Daemon, Vec<Stream>, Arc<ControlChannel>) {
        (self.daemon, self.admin, self.control)
    }
}

/// A process on its way to take over: its end of the link, and what came with the first messages.
pub struct UpgradeReceiver {
    control: Arc<ControlChannel>,
    marker: Option<ChannelName>,
    /// Whether the old process's sources are there.
    sources: bool,
    channels: Vec<ChannelName>,
}

impl UpgradeReceiver {
    /// Greets the old process, and hears what the descriptors are that it hands on. It blocks.
    ///
    /// # Errors
    /// The old process is gone, or says something that this version does not know.
    pub fn begin(control: ControlChannel) -> anyhow::Result<(Self, Vec<(InheritedFd, OwnedFd)>)> {
        control.send(&Message::Hello { version: VERSION }, &[])?;
        let (message, mut fds) = control.recv(PATIENCE)?;
        let Message::Subscribe { sockets, marker, sources } = message else {
            bail!("the old process said {message:?}")
        };
        let names = fds.pop().context("the old process gave no names")?;
        ensure!(fds.len() == sockets.len(), "the old process gave {} sockets, not {}", fds.len(), sockets.len());
        let channels = read_names(names)?;
        let marker = marker.as_deref().map(ChannelName::new).transpose()?;
        Ok((Self { control: Arc::new(control), marker, sources, channels }, sockets.into_iter().zip(fds).collect()))
    }

    /// Tells the old process why this one can't take over.
    pub fn refuse(control: &ControlChannel, reason: &str) {
        // A reason must fit into a message; and if nobody hears it any more, nobody needs it.
        let reason = reason.chars().take(4000).collect();
        let _ = control.send(&Message::Failed { reason }, &[]);
    }

    /// The same, over this process's link.
    pub fn refuse_now(&self, reason: &str) {
        Self::refuse(&self.control, reason);
    }

    /// Connects the sources, takes everything, and starts the shards with it.
    pub(in crate::app) async fn succeed(self, config: &Arc<Config>) -> anyhow::Result<InheritedState> {
        let control = Arc::clone(&self.control);
        let taken = self.try_to_succeed(config).await;
        if let Err(error) = &taken {
            Self::refuse(&control, &format!("{error:#}"));
        }
        taken
    }

    async fn try_to_succeed(self, config: &Arc<Config>) -> anyhow::Result<InheritedState> {
        let mut daemon = Daemon::wire(config)?;
        let dispatcher = Arc::clone(&daemon.dispatcher);
        dispatcher.prepare(&self.channels, self.marker.as_ref());
        daemon.start_sources()?;
        self.subscribe(&daemon).await?;
        let (state, fds) = self.take(&daemon).await?;
        let UpgradeState { cursor: (node, position), exact, origin: before, snapshot, admin } = state;
        let exact = exact && before == origin(config) && self.is_divided(&dispatcher).await?;
        let cursor = Cursor { node: node.parse()?, position: Position(position) };
        let open: Vec<ChannelName> = snapshot.open_channels().filter_map(|name| ChannelName::new(name).ok()).collect();
        let mut fds = fds;
        let admin_fds = fds.split_off(snapshot.descriptors().min(fds.len()));
        let admin = admin_fds.into_iter().zip(admin);
        let admin = admin.filter_map(|(fd, unread)| Stream::from_fd(fd, unread).ok()).collect();
        let inherited = Transfer::received(snapshot, fds).split(config.process.workers.get());
        self.control.send(&Message::Holding, &[])?;
        match self.recv().await? {
            (Message::Go, _) => {}
            (other, _) => bail!("the old process said {other:?} and not Go"),
        }
        // Before the shards, which may ask for channels, and the receipt, after which whatever is published must arrive.
        if !dispatcher.begin(Sequencer::after(cursor), &open, exact) {
            tracing::warn!("what was published during the change of processes may have been missed; clients are told");
        }
        self.control.send(&Message::Serving, &[])?;
        daemon.start_shards(config, cursor, inherited.into_iter().map(Some).collect())?;
        Ok(InheritedState { daemon, admin, control: self.control })
    }

    /// Waits until the sources have confirmed what was asked for, and says so.
    async fn subscribe(&self, daemon: &Daemon) -> anyhow::Result<()> {
        let dispatcher = &daemon.dispatcher;
        let subscribed = until(TO_SUBSCRIBE, || dispatcher.is_subscribed() || (!self.sources && dispatcher.settled()));
        subscribed.await.context("the sources are away (see [redis]), and the old process's are there")?;
        dispatcher.note_subscribed();
        self.control.send(&Message::Ready, &[])?;
        Ok(())
    }

    /// Waits until all that comes before the marker has come, which the old process has passed on. True if the marker divides.
    async fn is_divided(&self, dispatcher: &Dispatcher) -> anyhow::Result<bool> {
        if self.marker.is_none() {
            return Ok(true);
        }
        until(TO_DIVIDE, || dispatcher.is_buffering() || !dispatcher.has_marker() || dispatcher.is_broken())
            .await
            .context("the marker did not come to the new process")?;
        Ok(dispatcher.is_buffering())
    }

    /// Hears more names, until everything comes.
    async fn take(&self, daemon: &Daemon) -> anyhow::Result<(UpgradeState, Vec<OwnedFd>)> {
        loop {
            match self.recv().await? {
                (Message::Subscribe { .. }, mut fds) => {
                    let names = read_names(fds.pop().context("the old process gave no names")?)?;
                    daemon.dispatcher.prepare(&names, None);
                    self.subscribe(daemon).await?;
                }
                (Message::State { descriptors }, mut fds) => {
                    let state = read_memfd(fds.pop().context("the old process gave no state")?)?;
                    let handed = postcard::from_bytes(&state).context("the old process's state can't be read")?;
                    let mut taken = Vec::with_capacity(descriptors);
                    while taken.len() < descriptors {
                        let (message, lot) = self.recv().await?;
                        ensure!(message == Message::Descriptors && !lot.is_empty(), "the old process said {message:?}");
                        taken.extend(lot);
                    }
                    return Ok((handed, taken));
                }
                (other, _) => bail!("the old process said {other:?}"),
            }
        }
    }

    async fn recv(&self) -> anyhow::Result<(Message, Vec<OwnedFd>)> {
        let control = Arc::clone(&self.control);
        Ok(timeout(PATIENCE, spawn_blocking(move || control.recv(PATIENCE))).await???)
    }
}

fn read_names(fd: OwnedFd) -> anyhow::Result<Vec<ChannelName>> {
    let names: Vec<String> = serde_json::from_slice(&read_memfd(fd)?)?;
    // The old process has checked them; one that this version doesn't allow is not subscribed to, and told.
    Ok(names.iter().filter_map(|name| ChannelName::new(name).ok()).collect())
}
