//! Taking everything over from the process before: the other end of `handover`.
//!
//! Invariant: nothing is written to a client and nothing accepted before the old process has said `Go`.

use std::{os::fd::OwnedFd, sync::Arc, time::Duration};

use anyhow::{Context as _, bail, ensure};
use tokio::{task::spawn_blocking, time::timeout};

use super::{
    daemon::Daemon,
    handover::{Handed, origin, until},
};
use crate::{
    config::Config,
    cursor::{Cursor, Position},
    hub::Sequencer,
    name::ChannelName,
    process::handover::{Link, Part, VERSION, Word, read_memfd},
    shard::{Dispatcher, Frozen},
    stream::Stream,
};

/// Longest wait for the sources.
const TO_SUBSCRIBE: Duration = Duration::from_secs(25);
/// Longest wait for the marker, which the old process has had already.
const TO_DIVIDE: Duration = Duration::from_secs(5);
/// Longest wait for the next word of the old process, which may take its time but not for ever.
const PATIENCE: Duration = Duration::from_secs(60);

/// Longest wait for the old process to name this one.
const TO_BE_NAMED: Duration = Duration::from_secs(2);

/// What was taken over.
pub(super) struct Taken {
    daemon: Daemon,
    /// Connections of the admin socket.
    admin: Vec<Stream>,
    link: Arc<Link>,
}

impl Taken {
    /// Waits until the old process has told the service manager which one is the main process now.
    pub(super) async fn named(link: Arc<Link>) {
        // The link closes then; if the old process is slow, the service manager learns the rest a little later.
        let _ = spawn_blocking(move || link.hear(TO_BE_NAMED)).await;
    }

    pub(super) fn into_parts(self) -> (Daemon, Vec<Stream>, Arc<Link>) {
        (self.daemon, self.admin, self.link)
    }
}

/// A process on its way to take over: its end of the link, and what came with the first words.
pub struct Succession {
    link: Arc<Link>,
    marker: Option<ChannelName>,
    /// Whether the old process's sources are there.
    sources: bool,
    channels: Vec<ChannelName>,
}

impl Succession {
    /// Greets the old process, and hears what the descriptors are that it hands on. It blocks.
    ///
    /// # Errors
    /// The old process is gone, or says something that this version does not know.
    pub fn begin(link: Link) -> anyhow::Result<(Self, Vec<(Part, OwnedFd)>)> {
        link.say(&Word::Hello { version: VERSION }, &[])?;
        let (word, mut fds) = link.hear(PATIENCE)?;
        let Word::Subscribe { sockets, marker, sources } = word else { bail!("the old process said {word:?}") };
        let names = fds.pop().context("the old process gave no names")?;
        ensure!(fds.len() == sockets.len(), "the old process gave {} sockets, not {}", fds.len(), sockets.len());
        let channels = read_names(names)?;
        let marker = marker.as_deref().map(ChannelName::new).transpose()?;
        Ok((Self { link: Arc::new(link), marker, sources, channels }, sockets.into_iter().zip(fds).collect()))
    }

    /// Tells the old process why this one can't take over.
    pub fn refuse(link: &Link, reason: &str) {
        // A reason must fit into a word; and if nobody hears it any more, nobody needs it.
        let reason = reason.chars().take(4000).collect();
        let _ = link.say(&Word::Failed { reason }, &[]);
    }

    /// The same, over this process's link.
    pub fn refuse_now(&self, reason: &str) {
        Self::refuse(&self.link, reason);
    }

    /// Connects the sources, takes everything, and starts the shards with it.
    pub(super) async fn succeed(self, config: &Arc<Config>) -> anyhow::Result<Taken> {
        let link = Arc::clone(&self.link);
        let taken = self.try_to_succeed(config).await;
        if let Err(error) = &taken {
            Self::refuse(&link, &format!("{error:#}"));
        }
        taken
    }

    async fn try_to_succeed(self, config: &Arc<Config>) -> anyhow::Result<Taken> {
        let mut daemon = Daemon::wire(config)?;
        let dispatcher = Arc::clone(&daemon.dispatcher);
        dispatcher.prepare(&self.channels, self.marker.as_ref());
        daemon.start_sources()?;
        self.subscribe(&daemon).await?;
        let (state, fds) = self.take(&daemon).await?;
        let Handed { cursor: (node, position), exact, origin: before, image, admin } = state;
        let exact = exact && before == origin(config) && self.is_divided(&dispatcher).await?;
        let cursor = Cursor { node: node.parse()?, position: Position(position) };
        let open: Vec<ChannelName> = image.open_channels().filter_map(|name| ChannelName::new(name).ok()).collect();
        let mut fds = fds;
        let admin_fds = fds.split_off(image.descriptors().min(fds.len()));
        let admin = admin_fds.into_iter().zip(admin);
        let admin = admin.filter_map(|(fd, unread)| Stream::from_fd(fd, unread).ok()).collect();
        let inherited = Frozen::received(image, fds).split(config.process.workers.get());
        self.link.say(&Word::Holding, &[])?;
        match self.hear().await? {
            (Word::Go, _) => {}
            (other, _) => bail!("the old process said {other:?} and not Go"),
        }
        // Before the shards, which may ask for channels, and the receipt, after which whatever is published must arrive.
        if !dispatcher.begin(Sequencer::after(cursor), &open, exact) {
            tracing::warn!("what was published during the change of processes may have been missed; clients are told");
        }
        self.link.say(&Word::Serving, &[])?;
        daemon.start_shards(config, cursor, inherited.into_iter().map(Some).collect())?;
        Ok(Taken { daemon, admin, link: self.link })
    }

    /// Waits until the sources have confirmed what was asked for, and says so.
    async fn subscribe(&self, daemon: &Daemon) -> anyhow::Result<()> {
        let dispatcher = &daemon.dispatcher;
        let subscribed = until(TO_SUBSCRIBE, || dispatcher.is_subscribed() || (!self.sources && dispatcher.settled()));
        subscribed.await.context("the sources are away (see [redis]), and the old process's are there")?;
        dispatcher.note_subscribed();
        self.link.say(&Word::Ready, &[])?;
        Ok(())
    }

    /// Waits until all that comes before the marker has come, which the old process has passed on. True if the marker divides.
    async fn is_divided(&self, dispatcher: &Dispatcher) -> anyhow::Result<bool> {
        if self.marker.is_none() {
            return Ok(true);
        }
        until(TO_DIVIDE, || dispatcher.is_holding() || !dispatcher.has_marker() || dispatcher.is_broken())
            .await
            .context("the marker did not come to the new process")?;
        Ok(dispatcher.is_holding())
    }

    /// Hears more names, until everything comes.
    async fn take(&self, daemon: &Daemon) -> anyhow::Result<(Handed, Vec<OwnedFd>)> {
        loop {
            match self.hear().await? {
                (Word::Subscribe { .. }, mut fds) => {
                    let names = read_names(fds.pop().context("the old process gave no names")?)?;
                    daemon.dispatcher.prepare(&names, None);
                    self.subscribe(daemon).await?;
                }
                (Word::State { descriptors }, mut fds) => {
                    let state = read_memfd(fds.pop().context("the old process gave no state")?)?;
                    let handed = postcard::from_bytes(&state).context("the old process's state can't be read")?;
                    let mut taken = Vec::with_capacity(descriptors);
                    while taken.len() < descriptors {
                        let (word, lot) = self.hear().await?;
                        ensure!(word == Word::Descriptors && !lot.is_empty(), "the old process said {word:?}");
                        taken.extend(lot);
                    }
                    return Ok((handed, taken));
                }
                (other, _) => bail!("the old process said {other:?}"),
            }
        }
    }

    async fn hear(&self) -> anyhow::Result<(Word, Vec<OwnedFd>)> {
        let link = Arc::clone(&self.link);
        Ok(timeout(PATIENCE, spawn_blocking(move || link.hear(PATIENCE))).await???)
    }
}

fn read_names(fd: OwnedFd) -> anyhow::Result<Vec<ChannelName>> {
    let names: Vec<String> = serde_json::from_slice(&read_memfd(fd)?)?;
    // The old process has checked them; one that this version doesn't allow is not subscribed to, and told.
    Ok(names.iter().filter_map(|name| ChannelName::new(name).ok()).collect())
}
