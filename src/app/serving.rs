//! The daemon while it serves: it is started, watched, upgraded and drained. The shards serve the clients.

use std::{
    future::Future,
    io,
    os::fd::{AsFd as _, AsRawFd as _, RawFd},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use sd_notify::NotifyState;
use tokio::{
    task::JoinSet,
    time::{interval, timeout},
};

use super::{
    Shutdown,
    accept::{Accepting, Listeners, PublicSide},
    daemon::Daemon,
    extensions::Extensions,
    manager::Manager,
    upgrade::{
        Relaunch, UpgradeReceiver,
        receiver::TakenOver,
        sender::{self, Upgraded},
    },
};
use crate::{
    admin::{Admin, ReloadRequest, Reloaded, Reloads},
    broker::Dispatcher,
    config::Config,
    process::{
        control_channel::{AsyncControlChannel, ControlChannel, InheritedFd, Message},
        limits,
        listen::Listener,
        notify,
        pidfile::Pidfile,
        signals::{self, SignalRequest},
        sockets::Sockets,
        supervisor,
    },
};

/// Longest wait until the client that requested a reload has received its answer.
const ANSWER: Duration = Duration::from_secs(2);
/// Longest wait to send to the supervising process.
const SEND_TO_SUPERVISOR: Duration = Duration::from_secs(1);

/// What a daemon starts with.
pub(super) struct Start {
    /// The configuration.
    pub(super) config: Config,
    /// What the program adds to ssecast's own.
    pub(super) extensions: Extensions,
    /// The listening sockets.
    pub(super) sockets: Sockets,
    /// The locked pidfile.
    pub(super) pidfile: Option<Pidfile>,
    /// How to start a new process. If `None`, reloads are refused.
    pub(super) relaunch: Option<Relaunch>,
    /// The successor's side of an upgrade, if this process takes over from another one.
    pub(super) receiver: Option<UpgradeReceiver>,
    /// Who watches this process.
    pub(super) manager: Manager,
    /// The channel to the supervising process, if there is one.
    pub(super) supervisor: Option<ControlChannel>,
}

/// How a daemon has ended.
pub(super) enum Outcome {
    /// A stop was requested. All clients were closed.
    Stopped,
    /// Another process has taken over. This one must end at once and touch nothing.
    Replaced,
    /// The process with this id has taken over. This one supervises it, and touches nothing else.
    Supervise(u32, ControlChannel),
}

/// Runs the daemon on the current runtime until `shutdown` resolves, or until another process has taken over.
/// `on_ready` is called once all sockets are served.
///
/// # Errors
/// The daemon can't start, or one of its threads or accept loops has ended.
pub(super) async fn serve(
    start: Start,
    reloads: &Arc<Reloads>,
    on_ready: impl FnOnce(),
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<Outcome> {
    let files = limits::raise_open_files();
    let connections = limits::max_connections(start.config.process.workers.get());
    if start.config.stream.max_clients > connections {
        tracing::warn!(
            files,
            max_clients = start.config.stream.max_clients,
            lowered_to = connections,
            "stream.max_clients is lowered to what the limit of open files allows; raise LimitNOFILE= (ulimit -n), or set it"
        );
    }
    let (mut serving, relaunch) = Serving::begin(start, reloads).await?;
    serving.daemon.sources_ready().await;
    let dispatcher = Arc::clone(&serving.daemon.dispatcher);
    let workers = serving.config.process.workers;
    let Sockets { public, admin } = &serving.sockets;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        public = %public.address(),
        admin = %admin.iter().map(Listener::address).collect::<Vec<_>>().join(", "),
        sources = serving.daemon.sources.addresses().map(tracing::field::display),
        files,
        workers,
        node = %dispatcher.cursor().node,
        "serving"
    );
    if let Some(predecessor) = serving.predecessor.take() {
        TakenOver::wait_until_named(predecessor).await;
    }
    on_ready();
    let mut reporting = JoinSet::new(); // When it is dropped, its task ends.
    reporting.spawn(notify::report(serving.daemon.status(&serving.admin)));

    let shutdown = pin!(shutdown);
    let mut shutdown = Shutdown::new(shutdown);
    loop {
        tokio::select! {
            () = shutdown.requested() => break,
            () = supervisor_ended(serving.supervisor.as_ref()) => {
                tracing::error!("the supervising process has ended; this daemon stops, because a new one may be started");
                break;
            }
            () = advance(&dispatcher) => {}
            ended = &mut serving.daemon.ended => {
                anyhow::bail!("a part of the daemon has failed: {}", ended.unwrap_or_default())
            }
            request = reloads.next() => {
                if let Some(upgraded) = serving.reload(relaunch.as_ref(), request, &mut shutdown).await {
                    return Ok(serving.retire(upgraded, &mut shutdown).await);
                }
            }
        }
    }
    reloads.close("ssecast is stopping");
    serving.drain().await;
    Ok(Outcome::Stopped)
}

/// Keeps positions close to the current time while nothing is published.
async fn advance(dispatcher: &Dispatcher) {
    let mut seconds = interval(Duration::from_secs(1));
    loop {
        seconds.tick().await;
        dispatcher.advance();
    }
}

/// Resolves when the supervising process has ended. Its own service manager then believes that the daemon has ended.
async fn supervisor_ended(supervisor: Option<&AsyncControlChannel>) {
    match supervisor {
        Some(channel) => channel.has_news().await,
        None => std::future::pending().await,
    }
}

/// A daemon that serves.
pub(super) struct Serving {
    pub(super) config: Arc<Config>,
    pub(super) daemon: Daemon,
    sockets: Sockets,
    pidfile: Option<Pidfile>,
    pub(super) admin: Arc<Admin>,
    pub(super) accepting: Accepting,
    pub(super) manager: Manager,
    /// The channel to the supervising process.
    supervisor: Option<AsyncControlChannel>,
    /// The channel to a predecessor that is about to end.
    predecessor: Option<AsyncControlChannel>,
}

impl Serving {
    /// Starts everything, or takes it over from the predecessor. Once the take-over is done, nothing returns an error.
    async fn begin(start: Start, reloads: &Arc<Reloads>) -> anyhow::Result<(Self, Option<Relaunch>)> {
        let Start { config, extensions, mut sockets, mut pidfile, relaunch, receiver, manager, supervisor } = start;
        let config = Arc::new(config);
        // Steps that can fail come first. If one fails in a successor, the predecessor gets the reason and serves on.
        let prepared = || -> io::Result<_> {
            let supervisor = supervisor.map(AsyncControlChannel::new).transpose()?;
            Ok((supervisor, Listeners::new(&sockets)?))
        };
        let prepared = prepared().inspect_err(|error| {
            if let Some(receiver) = &receiver {
                receiver.refuse(&error.to_string());
            }
        });
        let (mut supervisor, listeners) = prepared?;
        if manager.stays() {
            supervisor::adopt_orphans()?;
        }
        let (mut predecessor, mut connections) = (None, Vec::new());
        let daemon = match receiver {
            None => {
                let mut daemon = Daemon::wire(&config, &extensions)?;
                let cursor = daemon.dispatcher.cursor();
                daemon.make_shards(&config, cursor, (0..config.process.workers.get()).map(|_| None).collect()).await?;
                daemon.dispatcher.keep_always(config.channel_rules(), false);
                daemon.start_sources()?;
                daemon.resume_sources(&[]);
                daemon.open_gate();
                daemon
            }
            Some(receiver) => {
                let TakenOver { daemon, admin, control, supervised } = receiver.take_over(&config, &extensions).await?;
                connections = admin;
                if supervised {
                    supervisor = Some(control);
                } else {
                    predecessor = Some(control);
                }
                if let Some(Err(error)) = pidfile.as_mut().map(Pidfile::write) {
                    // This process has all clients by now, so an error of the pidfile must not end it.
                    tracing::error!("the pidfile still names the previous process: {:#}", anyhow::Error::from(error));
                }
                sockets.own_files();
                daemon
            }
        };
        let admin = daemon.admin(&config, Arc::clone(reloads));
        let public = PublicSide {
            queues: daemon.queues.clone(),
            limit: Arc::clone(&daemon.client_limit),
            metrics: Arc::clone(&daemon.metrics),
            exit_guards: daemon.exit_guards(),
        };
        let accepting = Accepting::start(listeners, public, Arc::clone(&admin), connections);
        let serving = Self { config, daemon, sockets, pidfile, admin, accepting, manager, supervisor, predecessor };
        Ok((serving, relaunch))
    }

    /// Starts a new process that takes over, and answers the request. `None` if that failed: then this process serves on.
    async fn reload<S: Future<Output = ()>>(
        &mut self,
        relaunch: Option<&Relaunch>,
        request: ReloadRequest,
        shutdown: &mut Shutdown<'_, S>,
    ) -> Option<Upgraded> {
        tracing::info!("reload: starting a new process");
        let upgraded = match relaunch {
            Some(relaunch) => sender::upgrade(self, relaunch, shutdown).await,
            None => Err(anyhow::anyhow!("this daemon was not started as `ssecast serve`")),
        };
        match upgraded {
            Ok(upgraded) => {
                if matches!(self.manager, Manager::SdNotify) {
                    // The service manager accepts messages of the main process only. So this process names the successor as the
                    // main one, and the successor sends nothing before this process has ended.
                    notify::send(&[NotifyState::MainPid(upgraded.pid)]);
                }
                request.answer(Reloaded::By(upgraded.pid));
                self.accepting.answer_all(ANSWER).await;
                Some(upgraded)
            }
            Err(error) => {
                let why = format!("{error:#}");
                tracing::error!("the reload failed, and nothing has changed: {why}");
                notify::report_failed_reload(&why);
                self.admin.reloads.finish(Some(why.clone()));
                request.answer(Reloaded::Failed(why));
                None
            }
        }
    }

    /// The descriptors that a successor gets first: the listening sockets, the pidfile, the channel to the supervising process.
    pub(super) fn inherited_fds(&self) -> Vec<(InheritedFd, RawFd)> {
        let mut all = self.sockets.to_inherit();
        if let (Some(pidfile), Some(path)) = (&self.pidfile, &self.config.process.pidfile) {
            all.push((InheritedFd::Pidfile(path.display().to_string()), pidfile.as_fd().as_raw_fd()));
        }
        if let Some(channel) = &self.supervisor {
            all.push((InheritedFd::Supervisor, channel.as_raw_fd()));
        }
        all
    }

    /// Ends the predecessor's work after an upgrade. Files and sockets stay, because they are the successor's now. Signals that
    /// arrived during the upgrade are passed on to the successor.
    async fn retire<S: Future<Output = ()>>(self, upgraded: Upgraded, shutdown: &mut Shutdown<'_, S>) -> Outcome {
        let Self { daemon, sockets, pidfile, admin, manager, supervisor, .. } = self;
        let Upgraded { pid, control } = upgraded;
        sockets.leave();
        if let Some(pidfile) = pidfile {
            pidfile.leave();
        }
        // The daemon's threads hold the clients' descriptors, and end with the process.
        std::mem::forget(daemon);
        if let Some(supervisor) = &supervisor
            && let Err(error) = supervisor.send(&Message::MainProcess { pid }, &[], SEND_TO_SUPERVISOR).await
        {
            tracing::warn!(%error, "the supervising process could not be sent the new process's id");
        }
        let stays = manager.stays();
        // This comes last. A signal that arrives later is lost, except that a supervising process passes it on.
        let requested = if shutdown.is_requested_by_now().await {
            Some(SignalRequest::Stop)
        } else {
            admin.reloads.is_signalled().then_some(SignalRequest::Reload)
        };
        // The successor may have opened the log file before it was moved.
        let reopen = admin.reloads.is_log_reopened().then_some(SignalRequest::ReopenLog);
        for signal in requested.into_iter().chain(reopen) {
            if let Err(error) = signals::pass_on(signal, pid) {
                tracing::error!(%error, ?signal, "a signal could not be passed on to the new process: send it again");
            }
        }
        if stays { Outcome::Supervise(pid, control.into_inner()) } else { Outcome::Replaced }
    }

    async fn drain(self) {
        tracing::info!("stopping: clients are asked to reconnect");
        let within = self.config.process.drain;
        let accepting = self.accepting;
        let drained = timeout(within, async {
            // Accepting and publishing stop first, so that no client is missed. They get only a part of the time: the rest is for
            // draining the clients.
            if timeout(within / 2, accepting.stop(within / 4)).await.is_err() {
                let publishers = self.admin.publishers.names();
                tracing::warn!(publishers, "a publish under way takes too long; it may be lost");
            }
            self.daemon.drain(self.config.drain.spread).await;
        });
        if drained.await.is_err() {
            tracing::warn!("process.drain is over; the connections that are left are cut");
        }
        self.daemon.stop().await;
    }
}
