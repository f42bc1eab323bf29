//! Handing everything to a new process, in two phases, so that at no moment is anything given up that isn't held already.
//!
//! Invariant: until the receipt has come, everything can go on as if nothing had been asked, and does so after any error: the
//! successor is ended first, so that two processes never serve one client.

use std::{
    ffi::OsString,
    os::fd::{AsRawFd, RawFd},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use sd_notify::NotifyState;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::oneshot,
    task::spawn_blocking,
    time::{sleep, timeout},
};

use super::deferred::DeferredRequests;
use crate::{
    app::Serving,
    config::Config,
    event,
    name::ChannelName,
    process::{
        control_channel::{
            ControlChannel, ControlError, FDS_PER_MESSAGE, Message, PROGRAM_TIME, Successor, VERSION, memfd, program,
        },
        notify,
    },
    shard::{Op, Snapshot, Transfer},
    stream::Stream,
};

/// Longest wait for the successor to run and read its configuration.
const TO_START: Duration = Duration::from_secs(15);
/// Longest wait for its sources.
const TO_SUBSCRIBE: Duration = Duration::from_secs(30);
/// Longest wait for publishes under way to end, for the marker, and for the shards: clients wait meanwhile.
const TO_STAND_STILL: Duration = Duration::from_secs(5);
/// Longest wait for the successor to take what it is given.
const TO_TAKE: Duration = Duration::from_secs(10);

/// What a process gives its successor beside descriptors.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::app) struct UpgradeState {
    /// The node's name and last position.
    pub(in crate::app) cursor: (String, u64),
    /// Whether the marker divides the sources' messages.
    pub(in crate::app) exact: bool,
    /// Where they come from; see [`origin`].
    pub(in crate::app) origin: String,
    /// What the shards hold.
    pub(in crate::app) snapshot: Snapshot,
    /// What was read of each connection of the admin socket.
    pub(in crate::app) admin: Vec<Bytes>,
}

/// Where a configuration has its events from. A marker divides the messages of one origin only. It may hold a password.
pub(in crate::app) fn origin(config: &Config) -> String {
    config.redis.as_ref().map(|redis| format!("{} {}", redis.url, redis.prefix)).unwrap_or_default()
}

/// How to start a new process: the program as it was found at start, and the arguments of this one.
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
    /// This process again: to be called at its start, before it changes its folder or its program is replaced.
    ///
    /// # Errors
    /// What the operating system says when it does not tell the program or the folder.
    pub fn this_process() -> std::io::Result<Self> {
        let arguments = std::env::args_os().skip(1).collect();
        Ok(Self { program: program()?, arguments, folder: std::env::current_dir()? })
    }
}

/// The successor and the link to it. Dropping it ends the successor.
struct SuccessorSession {
    successor: Successor,
    control: Arc<ControlChannel>,
}

impl SuccessorSession {
    async fn start(relaunch: &Relaunch) -> anyhow::Result<Self> {
        let Relaunch { program, arguments, folder } = relaunch.clone();
        let shown = program.display().to_string();
        let started = spawn_blocking(move || Successor::start(&program, &arguments, &folder)).await?;
        let (successor, control) = started.with_context(|| format!("{shown} can't be started"))?;
        Ok(Self { successor, control: Arc::new(control) })
    }

    async fn send(&mut self, message: Message, fds: &[RawFd]) -> anyhow::Result<()> {
        match self.control.send(&message, fds) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.explain(error, "was told something")),
        }
    }

    async fn recv(&mut self, within: Duration, doing: &str) -> anyhow::Result<Message> {
        let control = Arc::clone(&self.control);
        match spawn_blocking(move || control.recv(within)).await? {
            Ok((message, _)) => Ok(message),
            Err(error) => Err(self.explain(error, doing)),
        }
    }

    async fn expect(&mut self, expected: Message, within: Duration, doing: &str) -> anyhow::Result<()> {
        let message = self.recv(within, doing).await?;
        ensure!(message == expected, "the new process said {message:?} and not {expected:?}");
        Ok(())
    }

    /// Hears the receipt. A new process that is too late with it learns so, and doesn't begin.
    async fn receipt(&mut self) -> anyhow::Result<()> {
        let control = Arc::clone(&self.control);
        let heard = spawn_blocking(move || match control.expect(&Message::Serving, TO_TAKE) {
            Err(silent @ ControlError::TimedOut(_)) => {
                control.shut();
                // It may have said so just now.
                control.expect(&Message::Serving, Duration::from_millis(1)).map_err(|_| silent)
            }
            heard => heard,
        });
        heard.await?.map_err(|error| self.explain(error, "served"))
    }

    fn explain(&mut self, error: ControlError, doing: &str) -> anyhow::Error {
        match error {
            ControlError::Failed(reason) => anyhow::anyhow!("the new process can't take over: {reason}"),
            ControlError::Closed => {
                // What it said last was for this.
                if let Err(ControlError::Failed(reason)) = self.control.recv(Duration::from_millis(1)) {
                    return self.explain(ControlError::Failed(reason), doing);
                }
                // It is about to be collected: its end of the link closes a moment before.
                let until = Instant::now() + PROGRAM_TIME;
                while self.successor.ended().is_none() && Instant::now() < until {
                    std::thread::sleep(Duration::from_millis(1));
                }
                let how = self.successor.ended().map_or_else(|| "closed the channel".to_owned(), |how| how.to_string());
                anyhow::anyhow!("the new process ended before it {doing} ({how}); see its own messages in the log")
            }
            ControlError::TimedOut(within) => {
                anyhow::anyhow!("the new process hung: nothing in {within:?} before it {doing}")
            }
            other => other.into(),
        }
    }
}

/// Hands everything over. Gives back the successor's process id; from then on this process must only end.
pub(in crate::app) async fn hand_over<S: Future<Output = ()>>(
    serving: &mut Serving,
    relaunch: &Relaunch,
    deferred: &mut DeferredRequests<'_, S>,
) -> anyhow::Result<u32> {
    let dispatcher = Arc::clone(&serving.daemon.dispatcher);
    let mut talk = SuccessorSession::start(relaunch).await?;
    let prepared = tokio::select! {
        prepared = prepare(serving, &mut talk) => prepared,
        () = deferred.stop() => Err(anyhow::anyhow!("ssecast is stopping")),
    };
    let (marker, exact) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            end(talk).await;
            dispatcher.resume();
            return Err(error);
        }
    };
    // From here on clients wait.
    let (began, mut left) = (Instant::now(), Vec::new());
    let handed = match pause(serving, &mut left, deferred).await {
        Ok(()) => commit(serving, &mut talk, &marker, exact, &left).await,
        Err(error) => Err(error),
    };
    match handed {
        Ok(Given { clients, exact }) => {
            let pid = talk.successor.pid();
            tracing::info!(clients, exact, stood_still = ?began.elapsed(), pid, "a new process has taken over");
            talk.successor.release();
            Ok(pid)
        }
        Err(error) => {
            end(talk).await;
            dispatcher.resume();
            for queue in &serving.daemon.queues {
                queue.push([Op::Thaw]);
            }
            serving.accept(left)?;
            Err(error)
        }
    }
}

/// Ends a successor; when this resolves it can touch nothing.
async fn end(talk: SuccessorSession) {
    // It only fails if the runtime ends, and then everything does.
    let _ = spawn_blocking(move || drop(talk)).await;
}

/// The first phase: the successor reads its configuration, connects its sources and subscribes.
async fn prepare(serving: &Serving, talk: &mut SuccessorSession) -> anyhow::Result<(Option<ChannelName>, bool)> {
    match talk.recv(TO_START, "had read its configuration").await? {
        Message::Hello { version } if version >= VERSION => {}
        Message::Hello { .. } => {
            bail!("the new process is of an older version, which can't read what it would be given")
        }
        other => bail!("the new process said {other:?} and not Hello"),
    }
    let dispatcher = &serving.daemon.dispatcher;
    let sources = serving.config.redis.is_some();
    // What a source has missed while it is away is told in any case.
    let there = dispatcher.disconnected_sources().is_empty();
    let mut exact = there;
    let mut marker = (sources && there).then(marker_name).transpose()?;
    if let Some(name) = &marker {
        dispatcher.set_marker(name);
        until(TO_STAND_STILL, || dispatcher.marker_is_answered())
            .await
            .context("the marker's channel can't be subscribed to")?;
        if !dispatcher.has_marker() {
            tracing::warn!("a source refuses the marker's channel {name}: clients will be told of a gap");
            (exact, marker) = (false, None);
        }
    }
    let names = memfd(&serde_json::to_vec(&names(&dispatcher.wanted_channels()))?)?;
    let (inherited, mut fds): (Vec<_>, Vec<RawFd>) = serving.inheritance().into_iter().unzip();
    fds.push(names.as_raw_fd());
    let marker_text = marker.as_ref().map(ToString::to_string);
    talk.send(Message::Subscribe { sockets: inherited, marker: marker_text, sources: sources && there }, &fds).await?;
    talk.expect(Message::Ready, TO_SUBSCRIBE, "was ready").await?;
    Ok((marker, exact))
}

/// Stops accepting. Connections that no request is under way on are put into `left`, among them those that ask for one more
/// reload.
async fn pause<S: Future<Output = ()>>(
    serving: &mut Serving,
    left: &mut Vec<Stream>,
    deferred: &mut DeferredRequests<'_, S>,
) -> anyhow::Result<()> {
    let Some(accepting) = serving.accepting.take() else { return Ok(()) };
    tokio::select! {
        paused = accepting.pause(TO_STAND_STILL, left) => paused,
        () = deferred.put_off_requests() => Ok(()),
    }
}

/// What was given, for the log.
struct Given {
    clients: usize,
    /// Whether the marker divides the sources' messages.
    exact: bool,
}

/// The second phase: this process, which has stopped, gives everything, and has the receipt.
async fn commit(
    serving: &Serving,
    talk: &mut SuccessorSession,
    marker: &Option<ChannelName>,
    mut exact: bool,
    left: &[Stream],
) -> anyhow::Result<Given> {
    let dispatcher = Arc::clone(&serving.daemon.dispatcher);
    settle(serving).await?;
    // Channels that were joined meanwhile; from here on none is.
    let names = memfd(&serde_json::to_vec(&names(&dispatcher.wanted_channels()))?)?;
    talk.send(Message::Subscribe { sockets: Vec::new(), marker: None, sources: exact }, &[names.as_raw_fd()]).await?;
    talk.expect(Message::Ready, TO_STAND_STILL, "had subscribed to the last channels").await?;
    if let Some(marker) = marker {
        let message = event::Message { channel: marker.clone(), event: None, data: Bytes::new() };
        match serving.daemon.publisher.publish(vec![message]).await {
            Ok(_) => timeout(TO_STAND_STILL, dispatcher.buffering()).await.context("the marker did not come back")?,
            Err(error) => {
                tracing::warn!(%error, "the marker can't be published: clients will be told of a gap");
                exact = false;
            }
        }
    }
    dispatcher.buffer();
    let frozen = freeze(serving).await?;
    let clients = frozen.snapshot.clients();
    let mut fds = frozen.borrowed_fds;
    let mut admin = Vec::new();
    for stream in left {
        let (fd, unread) = stream.peek();
        fds.push(fd);
        admin.push(unread);
    }
    let cursor = dispatcher.cursor();
    let cursor = (cursor.node.to_string(), cursor.position.0);
    let state = postcard::to_stdvec(&UpgradeState {
        cursor,
        exact,
        origin: origin(&serving.config),
        snapshot: frozen.snapshot,
        admin,
    })?;
    let state = memfd(&state)?;
    talk.send(Message::State { descriptors: fds.len() }, &[state.as_raw_fd()]).await?;
    for lot in fds.chunks(FDS_PER_MESSAGE) {
        give(talk, lot).await?;
    }
    talk.expect(Message::Holding, TO_TAKE, "had taken everything").await?;
    talk.send(Message::Go, &[]).await?;
    talk.receipt().await?;
    // The new process tells the service manager nothing before the link is closed, since nobody would believe it.
    notify::tell(&[NotifyState::MainPid(talk.successor.pid())]);
    Ok(Given { clients, exact })
}

/// Gives a lot of descriptors; off the runtime, since the link takes only so many at a time.
async fn give(talk: &mut SuccessorSession, lot: &[RawFd]) -> anyhow::Result<()> {
    let (control, lot) = (Arc::clone(&talk.control), lot.to_vec());
    let sent = spawn_blocking(move || control.send(&Message::Descriptors, &lot)).await?;
    sent.map_err(|error| talk.explain(error, "had taken everything"))
}

/// Lets requests on the public socket end that are under way: what they join is known then. Clients are served meanwhile.
async fn settle(serving: &Serving) -> anyhow::Result<()> {
    of_each_shard(serving, Op::Settle).await.map(drop)
}

async fn freeze(serving: &Serving) -> anyhow::Result<Transfer> {
    of_each_shard(serving, Op::Freeze).await.map(Transfer::merge)
}

async fn of_each_shard<T>(serving: &Serving, op: impl Fn(oneshot::Sender<T>) -> Op) -> anyhow::Result<Vec<T>> {
    let mut asked = Vec::new();
    for queue in &serving.daemon.queues {
        let (wanted, answered) = oneshot::channel();
        queue.push([op(wanted)]);
        asked.push(answered);
    }
    let mut all = Vec::with_capacity(asked.len());
    for answered in asked {
        all.push(timeout(TO_STAND_STILL, answered).await.context("a shard does not stand still")??);
    }
    Ok(all)
}

fn marker_name() -> anyhow::Result<ChannelName> {
    Ok(ChannelName::new(&format!("ssecast:handover:{:016x}", fastrand::u64(..)))?)
}

fn names(channels: &[ChannelName]) -> Vec<&str> {
    channels.iter().map(ChannelName::as_str).collect()
}

/// Waits until `is` is so.
pub(in crate::app) async fn until(within: Duration, is: impl Fn() -> bool) -> anyhow::Result<()> {
    let waited = timeout(within, async {
        while !is() {
            sleep(Duration::from_millis(1)).await;
        }
    });
    waited.await.with_context(|| format!("not in {within:?}"))
}
