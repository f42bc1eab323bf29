//! The predecessor's side of an upgrade: sends everything to the successor, and then commits. It makes no shards.
//!
//! Invariants:
//! - This process gives nothing up before the successor has it.
//! - Until the receipt arrives, this process can continue as before, and does so after any error.
//! - After an error the successor is ended first, so that two processes never serve one client.

use std::{
    ffi::OsString,
    os::fd::{AsRawFd, RawFd},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use tokio::{
    sync::oneshot,
    task::spawn_blocking,
    time::{sleep, timeout},
};

use super::phase::{Phase, Side};
use crate::{
    app::{Serving, Shutdown},
    cursor::Cursor,
    event,
    name::ChannelName,
    process::control_channel::{
        AsyncControlChannel, ControlError, FDS_PER_MESSAGE, Message, Successor, VERSION, memfd, program,
    },
    shard::Op,
    snapshot::{NodeState, Snapshot, Transfer},
};

/// Longest time in which clients wait: from the first connection that isn't accepted to the receipt.
const STANDSTILL: Duration = Duration::from_secs(25);
/// Longest wait for the marker, for requests under way, and for the shards.
const STEP: Duration = Duration::from_secs(5);
/// Longest wait until a process that has closed its end of the channel has exited.
const EXIT_TIME: Duration = Duration::from_millis(500);

/// How to start a new process: with the program and the arguments of this one.
#[derive(Debug, Clone)]
pub struct Relaunch {
    /// The program's path.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// The folder that relative paths among them begin at.
    pub folder: PathBuf,
}

impl Relaunch {
    /// Describes this process. Call it at the start, before the process changes its folder and before its program is replaced.
    ///
    /// # Errors
    /// The program or the folder can't be read from the kernel.
    pub fn this_process() -> std::io::Result<Self> {
        let arguments = std::env::args_os().skip(1).collect();
        Ok(Self { program: program()?, arguments, folder: std::env::current_dir()? })
    }
}

/// A process that has taken over.
pub(in crate::app) struct Upgraded {
    /// Its process id.
    pub(in crate::app) pid: u32,
    /// The channel to it.
    pub(in crate::app) control: AsyncControlChannel,
}

/// Starts a new process that takes over everything. After success, this process must not serve any more.
///
/// # Errors
/// The new process can't take over, or `shutdown` was requested. This process continues as before.
pub(in crate::app) async fn upgrade<S: Future<Output = ()>>(
    serving: &mut Serving,
    relaunch: &Relaunch,
    shutdown: &mut Shutdown<'_, S>,
) -> anyhow::Result<Upgraded> {
    let dispatcher = Arc::clone(&serving.daemon.dispatcher);
    let mut session = SuccessorSession::start(serving, relaunch).await?;
    let prepared = tokio::select! {
        prepared = prepare(serving, &mut session) => prepared,
        () = shutdown.requested() => Err(stopping()),
    };
    let cutover = match prepared {
        Ok(cutover) => cutover,
        Err(error) => {
            session.end().await;
            dispatcher.resume();
            return Err(error);
        }
    };
    // From here on clients wait.
    let began = Instant::now();
    let sent = tokio::select! {
        sent = timeout(STANDSTILL, send_everything(serving, &mut session, cutover)) => {
            sent.unwrap_or_else(|_| Err(anyhow::anyhow!("the new process hung: the upgrade took longer than {STANDSTILL:?}")))
        }
        () = shutdown.requested() => Err(stopping()),
    };
    let committed = match sent {
        Ok(sent) => session.commit().await.map(|()| sent),
        Err(error) => Err(error),
    };
    match committed {
        Ok(Sent { clients, exact }) => {
            let pid = session.successor.pid();
            tracing::info!(clients, exact, stood_still = ?began.elapsed(), pid, "a new process has taken over");
            session.successor.release();
            Ok(Upgraded { pid, control: session.control })
        }
        Err(error) => {
            session.end().await;
            dispatcher.resume();
            for queue in &serving.daemon.queues {
                queue.push([Op::Resume]);
            }
            serving.accepting.resume();
            Err(error)
        }
    }
}

fn stopping() -> anyhow::Error {
    anyhow::anyhow!("ssecast is stopping")
}

/// How the sources' messages are divided between the two processes.
struct Cutover {
    marker: Option<ChannelName>,
    /// Whether no message is lost: the marker divides them, or there are no sources.
    exact: bool,
}

/// What was sent, for the log.
struct Sent {
    clients: usize,
    exact: bool,
}

/// The successor, the channel to it, and the phase of the upgrade. Dropping it ends the successor.
struct SuccessorSession {
    successor: Successor,
    control: AsyncControlChannel,
    phase: Phase,
    show: Box<dyn Fn(Phase) + Send + Sync>,
}

impl SuccessorSession {
    async fn start(serving: &Serving, relaunch: &Relaunch) -> anyhow::Result<Self> {
        let Relaunch { program, arguments, folder } = relaunch.clone();
        let parentage = serving.manager.parentage();
        let shown = program.display().to_string();
        let started = spawn_blocking(move || Successor::start(&program, &arguments, &folder, parentage)).await?;
        let (successor, control) = started.with_context(|| format!("{shown} can't be started"))?;
        let admin = Arc::clone(&serving.admin);
        let show = Box::new(move |phase: Phase| admin.reloads.show_phase(phase.name()));
        let session = Self { successor, control: AsyncControlChannel::new(control)?, phase: Phase::Starting, show };
        session.show_phase();
        Ok(session)
    }

    async fn send(&mut self, message: Message, fds: &[RawFd]) -> anyhow::Result<()> {
        let sent = self.control.send(&message, fds, Phase::Sending { left: 0 }.limit()).await;
        if let Err(error) = sent {
            return Err(self.explain(error).await);
        }
        self.advance(Side::Predecessor, &message, fds.len())
    }

    /// Receives the successor's answer, which the phase expects.
    async fn answer(&mut self) -> anyhow::Result<Message> {
        match self.control.recv(self.phase.limit()).await {
            Ok((message, _)) => {
                self.advance(Side::Successor, &message, 0)?;
                Ok(message)
            }
            Err(error) => Err(self.explain(error).await),
        }
    }

    /// Sends `Go`: everything is the successor's now. Then receives the receipt.
    async fn commit(&mut self) -> anyhow::Result<()> {
        self.send(Message::Go, &[]).await?;
        let error = match self.control.recv(self.phase.limit()).await {
            Ok((Message::Serving, _)) => return Ok(()),
            Err(error @ (ControlError::Failed(_) | ControlError::Closed)) => return Err(self.explain(error).await),
            Ok((other, _)) => ControlError::Unexpected(format!("{other:?}")),
            Err(error) => error,
        };
        // The successor may serve by now, whatever went wrong. After this it can't send a receipt any more, so the channel is read
        // a last time.
        self.control.shut();
        match self.control.try_recv() {
            Ok(Some((Message::Serving, _))) => Ok(()),
            _ => Err(self.explain(error).await),
        }
    }

    fn advance(&mut self, side: Side, message: &Message, fds: usize) -> anyhow::Result<()> {
        let before = self.phase;
        self.phase = before.after(side, message, fds)?;
        if std::mem::discriminant(&before) != std::mem::discriminant(&self.phase) {
            self.show_phase();
        }
        Ok(())
    }

    fn show_phase(&self) {
        tracing::debug!(phase = %self.phase, pid = self.successor.pid(), "upgrade");
        (self.show)(self.phase);
    }

    async fn explain(&mut self, error: ControlError) -> anyhow::Error {
        let expectation = self.phase.expectation();
        match error {
            ControlError::Failed(reason) => anyhow::anyhow!("the new process can't take over: {reason}"),
            ControlError::Closed => {
                // Its last message may hold the reason.
                if let Err(ControlError::Failed(reason)) = self.control.try_recv() {
                    return anyhow::anyhow!("the new process can't take over: {reason}");
                }
                // Its end of the channel closes a moment before the process has exited.
                let until = Instant::now() + EXIT_TIME;
                let mut ended = self.successor.ended();
                while ended.is_none() && Instant::now() < until {
                    sleep(Duration::from_millis(1)).await;
                    ended = self.successor.ended();
                }
                let how = ended.unwrap_or_else(|| "closed the channel".to_owned());
                anyhow::anyhow!(
                    "the new process ended before it {expectation} ({how}); see its own messages in the log"
                )
            }
            ControlError::TimedOut(within) => {
                anyhow::anyhow!("the new process hung: nothing in {within:?} before it {expectation}")
            }
            other => other.into(),
        }
    }

    /// Ends the successor. When this resolves, the successor has exited.
    async fn end(self) {
        // This fails only if the runtime ends, and then the whole process ends.
        let _ = spawn_blocking(move || drop(self)).await;
    }
}

/// The first half: the successor reads its configuration, connects its sources and subscribes. This process still serves.
async fn prepare(serving: &Serving, session: &mut SuccessorSession) -> anyhow::Result<Cutover> {
    if let Message::Hello { version } = session.answer().await?
        && version < VERSION
    {
        bail!(
            "the new process is of an older version ({version}, this one is {VERSION}), which can't read the snapshot"
        );
    }
    let dispatcher = &serving.daemon.dispatcher;
    let has_sources = !serving.daemon.sources.is_empty();
    // A source that delivers by fan-out misses messages while it is disconnected, so its clients get a gap event with or without a
    // marker. A durable source misses none.
    let connected = dispatcher.is_fanout_connected();
    let mut exact = connected;
    let has_fanout = serving.daemon.sources.fanout_publishers().next().is_some();
    let mut marker = (has_fanout && connected).then(marker_name).transpose()?;
    if let Some(name) = &marker {
        dispatcher.set_marker(name);
        until(STEP, || dispatcher.marker_is_answered()).await.context("the marker's channel can't be subscribed to")?;
        if !dispatcher.has_marker() {
            tracing::warn!(channel = %name, "a source refuses the marker's channel: clients will get a gap event");
            (exact, marker) = (false, None);
        }
    }
    let names = memfd(&serde_json::to_vec(&names(&dispatcher.wanted_channels()))?)?;
    let (sockets, mut fds): (Vec<_>, Vec<RawFd>) = serving.inherited_fds().into_iter().unzip();
    fds.push(names.as_raw_fd());
    let subscribe = Message::Subscribe {
        version: VERSION,
        sockets,
        marker: marker.as_ref().map(ToString::to_string),
        sources: has_sources && connected,
        supervised: serving.manager.stays(),
    };
    session.send(subscribe, &fds).await?;
    session.answer().await?;
    Ok(Cutover { marker, exact })
}

/// The second half: this process stops serving and sends everything. When it resolves, the successor has everything.
async fn send_everything(
    serving: &mut Serving,
    session: &mut SuccessorSession,
    cutover: Cutover,
) -> anyhow::Result<Sent> {
    let Cutover { marker, mut exact } = cutover;
    let dispatcher = Arc::clone(&serving.daemon.dispatcher);
    serving.accepting.pause(STEP).await?;
    ask_each_shard(serving, Op::Pause).await?;
    // These include the channels that clients have opened since the first `Subscribe`. From here on no client opens one.
    let names = memfd(&serde_json::to_vec(&names(&dispatcher.wanted_channels()))?)?;
    let subscribe =
        Message::Subscribe { version: VERSION, sockets: Vec::new(), marker: None, sources: exact, supervised: false };
    session.send(subscribe, &[names.as_raw_fd()]).await?;
    session.answer().await?;
    if let Some(marker) = &marker {
        exact &= publish_marker(serving, marker).await;
        if exact {
            timeout(STEP, dispatcher.buffering()).await.context("this process did not receive the marker")?;
        }
    }
    dispatcher.buffer();
    let Transfer { state, mut borrowed_fds, .. } = ask_each_shard(serving, Op::Capture).await.map(Transfer::merge)?;
    let clients = state.clients.len();
    let (fds, admin): (Vec<RawFd>, Vec<Bytes>) = serving.accepting.left().into_iter().unzip();
    borrowed_fds.extend(fds);
    let Cursor { node, position, .. } = dispatcher.cursor();
    let node = NodeState { name: node.to_string(), position: position.0, exact };
    let snapshot = Snapshot { node, sources: serving.daemon.sources.states(&dispatcher), shards: state, admin };
    let (collected, expected) = (borrowed_fds.len(), snapshot.descriptors());
    ensure!(collected == expected, "{collected} descriptors were collected, and the snapshot has {expected}");
    let state = memfd(&snapshot.encode()?)?;
    drop(snapshot);
    session.send(Message::State { descriptors: borrowed_fds.len() }, &[state.as_raw_fd()]).await?;
    drop(state);
    for batch in borrowed_fds.chunks(FDS_PER_MESSAGE) {
        session.send(Message::Descriptors, batch).await?;
    }
    session.answer().await?;
    Ok(Sent { clients, exact })
}

/// Publishes the marker through each source that delivers by fan-out. False if one can't publish it: then the messages of that
/// source are not divided, and clients get a gap event.
async fn publish_marker(serving: &Serving, marker: &ChannelName) -> bool {
    let mut all = true;
    for (source, publisher) in serving.daemon.sources.fanout_publishers() {
        let message = event::Message::new(marker.clone(), None, Bytes::new());
        let error = match publisher {
            Some(publisher) => publisher.publish(vec![message]).await.err().map(|error| error.to_string()),
            None => Some("the source does not accept publishes".to_owned()),
        };
        if let Some(error) = error {
            tracing::warn!(source, error, "the marker can't be published: clients will get a gap event");
            all = false;
        }
    }
    all
}

/// Sends the operation to every shard, and waits for all answers.
async fn ask_each_shard<T>(serving: &Serving, op: impl Fn(oneshot::Sender<T>) -> Op) -> anyhow::Result<Vec<T>> {
    let mut asked = Vec::new();
    for queue in &serving.daemon.queues {
        let (answer, answered) = oneshot::channel();
        queue.push([op(answer)]);
        asked.push(answered);
    }
    let mut all = Vec::with_capacity(asked.len());
    for answered in asked {
        all.push(timeout(STEP, answered).await.context("a shard does not answer")??);
    }
    Ok(all)
}

fn marker_name() -> anyhow::Result<ChannelName> {
    Ok(ChannelName::new(&format!("ssecast:handover:{:016x}", fastrand::u64(..)))?)
}

fn names(channels: &[ChannelName]) -> Vec<&str> {
    channels.iter().map(ChannelName::as_str).collect()
}

/// Waits until `is` returns true.
///
/// # Errors
/// That takes longer than `within`.
pub(in crate::app) async fn until(within: Duration, is: impl Fn() -> bool) -> anyhow::Result<()> {
    let waited = timeout(within, async {
        while !is() {
            sleep(Duration::from_millis(1)).await;
        }
    });
    waited.await.with_context(|| format!("it took longer than {within:?}"))
}
