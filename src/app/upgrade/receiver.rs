//! The successor's side of an upgrade: takes over everything from the predecessor.
//!
//! Invariants:
//! - Nothing is written to a client and nothing accepted before the predecessor has sent `Go`.
//! - Everything that can fail happens before `Holding`: between `Go` and `Serving` nothing returns an error.

use std::{os::fd::OwnedFd, sync::Arc, time::Duration};

use anyhow::{Context as _, bail, ensure};

use super::{
    phase::{Phase, Side},
    sender::until,
};
use crate::{
    app::{daemon::Daemon, extensions::Extensions},
    broker::Dispatcher,
    config::Config,
    cursor::{Cursor, Entries, Entry, EntryId, Position},
    hub::Sequencer,
    name::ChannelName,
    process::control_channel::{
        AsyncControlChannel, ControlChannel, ControlError, InheritedFd, Message, OLDEST_VERSION, VERSION, read_memfd,
    },
    snapshot::{JournalsState, Snapshot, Transfer},
    stream::Stream,
};

/// Longest wait for the sources.
const SUBSCRIBE: Duration = Duration::from_secs(25);
/// Longest wait for the marker. The predecessor has received it already.
const MARKER: Duration = Duration::from_secs(5);
/// Longest wait for the predecessor's next message. A busy predecessor may need many seconds.
const PREDECESSOR_MESSAGE: Duration = Duration::from_secs(60);
/// Longest wait to send. The predecessor receives each message at once.
const SEND: Duration = Duration::from_secs(5);
/// Longest wait until the predecessor has named this process to the service manager as the main one.
const NAMED: Duration = Duration::from_secs(2);

/// The successor before it takes over: its end of the control channel, and the contents of the first messages.
pub struct UpgradeReceiver {
    control: ControlChannel,
    phase: Phase,
    /// The version of the upgrade's messages that the predecessor speaks.
    version: u32,
    marker: Option<ChannelName>,
    /// Whether the predecessor's sources are connected.
    sources: bool,
    channels: Vec<ChannelName>,
    /// Whether the predecessor stays as the supervising process.
    supervised: bool,
}

/// What was taken over. Nothing of it has been used yet.
pub(in crate::app) struct TakenOver {
    pub(in crate::app) daemon: Daemon,
    /// Connections of the admin socket.
    pub(in crate::app) admin: Vec<Stream>,
    /// The channel to the predecessor.
    pub(in crate::app) control: AsyncControlChannel,
    /// Whether the predecessor stays as the supervising process.
    pub(in crate::app) supervised: bool,
}

impl UpgradeReceiver {
    /// Sends the predecessor this program's version, and receives the first descriptors. It blocks.
    ///
    /// # Errors
    /// The predecessor has ended, speaks a version that this program does not know, or sends an unexpected message.
    pub fn begin(control: ControlChannel) -> anyhow::Result<(Self, Vec<(InheritedFd, OwnedFd)>)> {
        let begun = Self::try_to_begin(&control);
        let (channels, phase, message, inherited) = begun.inspect_err(|error| control.fail(&format!("{error:#}")))?;
        let Message::Subscribe { version, marker, sources, supervised, .. } = message else {
            bail!("the predecessor sent {message:?}");
        };
        let marker = marker.as_deref().map(ChannelName::new).transpose()?;
        Ok((Self { control, phase, version, marker, sources, channels, supervised }, inherited))
    }

    #[expect(clippy::type_complexity, reason = "the parts of the first message; there is only one caller")]
    fn try_to_begin(
        control: &ControlChannel,
    ) -> anyhow::Result<(Vec<ChannelName>, Phase, Message, Vec<(InheritedFd, OwnedFd)>)> {
        let hello = Message::Hello { version: VERSION };
        control.send(&hello, &[], SEND)?;
        let phase = Phase::Starting.after(Side::Successor, &hello, 0)?;
        let (message, mut fds) = control.recv(PREDECESSOR_MESSAGE)?;
        let phase = phase.after(Side::Predecessor, &message, fds.len())?;
        let Message::Subscribe { version, sockets, .. } = &message else { bail!("the predecessor sent {message:?}") };
        ensure!(
            (OLDEST_VERSION..=VERSION).contains(version),
            "the running process speaks version {version} of the upgrade's messages and this program versions \
             {OLDEST_VERSION} to {VERSION}: restart ssecast instead of reloading it"
        );
        let names = read_names(fds.pop().context("the predecessor sent no names")?)?;
        ensure!(fds.len() == sockets.len(), "{} descriptors arrived and {} were announced", fds.len(), sockets.len());
        let inherited = sockets.iter().cloned().zip(fds).collect();
        Ok((names, phase, message, inherited))
    }

    /// Whether the predecessor stays as the supervising process.
    #[must_use]
    pub fn is_supervised(&self) -> bool {
        self.supervised
    }

    /// Sends the predecessor the reason why this process can't take over.
    pub fn refuse(&self, reason: &str) {
        self.control.fail(reason);
    }

    /// Connects the sources, receives everything, and makes the shards from it. When it succeeds, the predecessor has sent `Go`,
    /// and the shards have begun.
    pub(in crate::app) async fn take_over(
        self,
        config: &Arc<Config>,
        extensions: &Extensions,
    ) -> anyhow::Result<TakenOver> {
        let Self { control, phase, version, marker, sources, channels, supervised } = self;
        let control = AsyncControlChannel::new(control)?;
        let mut taking = TakingOver { control, phase, version, marker, sources };
        let taken = taking.take_over(config, extensions, &channels).await;
        match taken {
            Ok((daemon, admin)) => Ok(TakenOver { daemon, admin, control: taking.control, supervised }),
            Err(error) => {
                taking.control.fail(&format!("{error:#}"));
                Err(error)
            }
        }
    }
}

impl TakenOver {
    /// Waits until the predecessor has named this process to the service manager as the main one.
    pub(in crate::app) async fn wait_until_named(control: AsyncControlChannel) {
        // The predecessor closes the channel when it has done so. If it is slow, this process does not wait longer.
        let _ = control.recv(NAMED).await;
    }
}

/// A successor that is taking over, on its runtime.
struct TakingOver {
    control: AsyncControlChannel,
    phase: Phase,
    version: u32,
    marker: Option<ChannelName>,
    sources: bool,
}

impl TakingOver {
    async fn take_over(
        &mut self,
        config: &Arc<Config>,
        extensions: &Extensions,
        channels: &[ChannelName],
    ) -> anyhow::Result<(Daemon, Vec<Stream>)> {
        tracing::info!(version = self.version, "taking over from the running process");
        let mut daemon = Daemon::wire(config, extensions)?;
        let dispatcher = Arc::clone(&daemon.dispatcher);
        dispatcher.keep_always(config.channel_rules(), true);
        dispatcher.prepare(channels, self.marker.as_ref());
        daemon.start_sources()?;
        self.subscribe(&dispatcher).await?;
        let (message, mut fds) = self.recv().await?;
        ensure!(matches!(message, Message::Subscribe { .. }), "the predecessor sent {message:?}");
        dispatcher.prepare(&read_names(fds.pop().context("the predecessor sent no names")?)?, None);
        self.subscribe(&dispatcher).await?;
        let (snapshot, mut fds) = self.receive_snapshot().await?;
        let Snapshot { node, sources: before, shards, admin } = snapshot;
        let (checkpoints, continued) = daemon.sources.compare(&before);
        let exact = node.exact && continued && self.is_divided(&dispatcher).await?;
        let mut cursor = Cursor::new(node.name.parse()?, Position(node.position));
        cursor.entries = passed_by(shards.journals.as_ref(), dispatcher.journals());
        let open = shards.open_channels().map(ChannelName::subscribable).collect::<Result<Vec<_>, _>>()?;
        let kept: Vec<ChannelName> =
            shards.kept.iter().filter_map(|(name, _)| ChannelName::subscribable(name).ok()).collect();
        let admin_fds = fds.split_off(shards.descriptors());
        let admin = admin_fds.into_iter().zip(admin).map(|(fd, unread)| Stream::from_fd(fd, unread));
        let admin = admin.collect::<Result<_, _>>()?;
        let inherited = Transfer::received(shards, fds)?.split(config.process.workers.get());
        daemon.make_shards(config, cursor, inherited.into_iter().map(Some).collect()).await?;
        self.send(&Message::Holding).await?;
        let (message, _) = self.recv().await?;
        ensure!(message == Message::Go, "the predecessor sent {message:?}");
        // This comes before the receipt, because everything that is published after the receipt must arrive. It also comes before
        // the shards begin, because they may ask for channels.
        if !dispatcher.begin(Sequencer::after(cursor), &open, &kept, exact, checkpoints.iter().cloned()) {
            tracing::warn!("events published during the upgrade may be missing: clients get a gap event");
        }
        self.confirm().await?;
        daemon.resume_sources(&checkpoints);
        daemon.open_gate();
        Ok((daemon, admin))
    }

    /// Sends the receipt. If the predecessor has cancelled the upgrade, this process must not serve. If the predecessor has
    /// ended after `Go`, this process serves, because no other one does.
    async fn confirm(&mut self) -> anyhow::Result<()> {
        match self.control.send(&Message::Serving, &[], SEND).await {
            Ok(()) => {}
            Err(ControlError::Closed) if matches!(self.control.try_recv(), Err(ControlError::Closed)) => {
                tracing::warn!("the predecessor has ended before the receipt; this process serves");
            }
            Err(error) => return Err(error).context("the predecessor has cancelled the upgrade"),
        }
        Ok(())
    }

    /// Waits until the sources have confirmed all channels, and reports that to the predecessor.
    async fn subscribe(&mut self, dispatcher: &Dispatcher) -> anyhow::Result<()> {
        let is_done = || dispatcher.is_subscribed() || (!self.sources && dispatcher.settled());
        // Waiting is useless after a refused login: it would be refused again.
        let is_hopeless = || self.sources && dispatcher.is_login_refused();
        let waited = self.unless_closed(until(SUBSCRIBE, || is_done() || is_hopeless())).await?;
        if waited.is_err() || !is_done() {
            bail!(not_subscribed(&dispatcher.disconnected_sources()));
        }
        dispatcher.note_subscribed();
        self.send(&Message::Ready).await
    }

    /// Waits until the marker has arrived. The messages before it were delivered by the predecessor. True if the marker divides
    /// the messages of all sources.
    async fn is_divided(&self, dispatcher: &Dispatcher) -> anyhow::Result<bool> {
        if self.marker.is_none() {
            return Ok(true);
        }
        let divided = until(MARKER, || dispatcher.is_buffering() || !dispatcher.has_marker() || dispatcher.is_broken());
        self.unless_closed(divided).await?.context("the new process did not receive the marker")?;
        Ok(dispatcher.is_buffering())
    }

    async fn receive_snapshot(&mut self) -> anyhow::Result<(Snapshot, Vec<OwnedFd>)> {
        let (message, mut fds) = self.recv().await?;
        ensure!(matches!(message, Message::State { .. }), "the predecessor sent {message:?}");
        let bytes = read_memfd(fds.pop().context("the predecessor sent no snapshot")?)?;
        let snapshot = Snapshot::decode(&bytes, self.version)?;
        drop(bytes);
        let mut all = Vec::new();
        while let Phase::Sending { left: 1.. } = self.phase {
            let (_, batch) = self.recv().await?;
            all.extend(batch);
        }
        let expected = snapshot.descriptors();
        ensure!(all.len() == expected, "{} descriptors arrived, and the snapshot has {expected}", all.len());
        Ok((snapshot, all))
    }

    /// Waits for `waited`. Fails at once if the predecessor ends or sends something.
    async fn unless_closed<T>(&self, waited: impl Future<Output = T>) -> anyhow::Result<T> {
        tokio::select! {
            done = waited => Ok(done),
            () = self.control.has_news() => match self.control.try_recv() {
                Err(error) => Err(error).context("the upgrade has ended"),
                Ok(message) => bail!("the predecessor sent {message:?} out of turn"),
            }
        }
    }

    async fn send(&mut self, message: &Message) -> anyhow::Result<()> {
        self.control.send(message, &[], SEND).await?;
        self.phase = self.phase.after(Side::Successor, message, 0)?;
        tracing::debug!(phase = %self.phase, "upgrade");
        Ok(())
    }

    async fn recv(&mut self) -> anyhow::Result<(Message, Vec<OwnedFd>)> {
        let (message, fds) = self.control.recv(PREDECESSOR_MESSAGE).await?;
        self.phase = self.phase.after(Side::Predecessor, &message, fds.len())?;
        Ok((message, fds))
    }
}

/// How far the predecessor has passed each journal. If it had another number of them, nothing is known of these.
fn passed_by(state: Option<&JournalsState>, journals: usize) -> Entries {
    let mut entries = Entries::of(journals);
    if let Some(state) = state.filter(|state| state.passed.len() == journals) {
        for (journal, &(millis, seq)) in (0..).zip(&state.passed) {
            entries.set(Entry { journal, id: EntryId { millis, seq } });
        }
    }
    entries
}

/// The reason of a successor that can't take over, because its sources have not confirmed all channels and the predecessor's
/// sources are connected.
fn not_subscribed(disconnected: &[(&str, Arc<str>)]) -> String {
    if disconnected.is_empty() {
        return format!("its sources did not confirm all channels in {SUBSCRIBE:?}");
    }
    let each: Vec<String> = disconnected.iter().map(|(source, why)| format!("{source} ({why})")).collect();
    // A source's table in the configuration has its name.
    let tables: Vec<String> = disconnected.iter().map(|(source, _)| format!("[{source}]")).collect();
    format!(
        "it is disconnected from {}, and the running process is connected: correct {} in the configuration",
        each.join(", "),
        tables.join(", ")
    )
}

fn read_names(fd: OwnedFd) -> anyhow::Result<Vec<ChannelName>> {
    let names: Vec<String> = serde_json::from_slice(&read_memfd(fd)?)?;
    // The predecessor has checked the names. A name that this version doesn't allow is skipped, and its clients get a gap event.
    Ok(names.iter().filter_map(|name| ChannelName::subscribable(name).ok()).collect())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;
    use crate::{
        process::control_channel::memfd,
        snapshot::{NodeState, ShardState},
    };

    const SOON: Duration = Duration::from_secs(20);

    /// Acts as a predecessor without sources and clients until the successor sends `Holding`. `then` is what it does next.
    async fn taken_over_from(then: impl AsyncFnOnce(AsyncControlChannel)) -> anyhow::Result<TakenOver> {
        let (ours, theirs) = ControlChannel::pair().unwrap();
        let ours = AsyncControlChannel::new(ours).unwrap();
        let subscribe = Message::Subscribe {
            version: VERSION,
            sockets: Vec::new(),
            marker: None,
            sources: false,
            supervised: false,
        };
        let names = memfd(b"[]").unwrap();
        ours.send(&subscribe, &[names.as_raw_fd()], SOON).await.unwrap();
        let (receiver, _) = UpgradeReceiver::begin(ControlChannel::from_fd(theirs)).unwrap();
        let predecessor = async {
            assert!(matches!(ours.recv(SOON).await.unwrap().0, Message::Hello { .. }));
            assert_eq!(ours.recv(SOON).await.unwrap().0, Message::Ready);
            ours.send(&subscribe, &[names.as_raw_fd()], SOON).await.unwrap();
            assert_eq!(ours.recv(SOON).await.unwrap().0, Message::Ready);
            let node = NodeState { name: "abcdefgh".to_owned(), position: 7, exact: true };
            let snapshot = Snapshot { node, shards: ShardState::default(), ..Snapshot::default() };
            let state = memfd(&snapshot.encode().unwrap()).unwrap();
            ours.send(&Message::State { descriptors: 0 }, &[state.as_raw_fd()], SOON).await.unwrap();
            assert_eq!(ours.recv(SOON).await.unwrap().0, Message::Holding);
            then(ours).await;
        };
        let config = Arc::new(Config::default());
        let extensions = Extensions::default();
        tokio::join!(receiver.take_over(&config, &extensions), predecessor).0
    }

    #[tokio::test]
    async fn a_successor_whose_predecessor_ends_right_after_go_serves() {
        let ends = async |control: AsyncControlChannel| control.send(&Message::Go, &[], SOON).await.unwrap();
        let inherited = taken_over_from(ends).await.unwrap();
        assert!(inherited.daemon.dispatcher.cursor().position >= Position(7));
        assert_eq!(inherited.daemon.dispatcher.cursor().node.to_string(), "abcdefgh");
    }

    #[tokio::test]
    async fn a_successor_whose_predecessor_ends_before_go_does_not_serve() {
        let error = taken_over_from(async |control| drop(control)).await.err().unwrap();
        assert!(format!("{error:#}").contains("the other process has ended"), "{error:#}");
    }

    #[tokio::test]
    async fn a_successor_whose_predecessor_cancels_after_go_does_not_serve() {
        let mut predecessor = None;
        let cancels = async |control: AsyncControlChannel| {
            control.shut();
            control.send(&Message::Go, &[], SOON).await.unwrap();
            predecessor = Some(control);
        };
        let error = taken_over_from(cancels).await.err().unwrap();
        assert!(format!("{error:#}").contains("the predecessor has cancelled the upgrade"), "{error:#}");
    }
}
