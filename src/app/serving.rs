//! The daemon while it serves: started, watched, upgraded, drained.

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
    manager::Manager,
    upgrade::{
        Relaunch, UpgradeReceiver,
        receiver::Inherited,
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

/// Longest wait for a client that has asked for a reload to take its answer.
const ANSWER: Duration = Duration::from_secs(2);
/// Longest wait to tell the supervising process.
const TELL: Duration = Duration::from_secs(1);

/// What a daemon starts with.
pub(super) struct Start {
    /// The configuration.
    pub(super) config: Config,
    /// The listening sockets.
    pub(super) sockets: Sockets,
    /// The locked pidfile.
    pub(super) pidfile: Option<Pidfile>,
    /// How to start a new process; without, reloads are refused.
    pub(super) relaunch: Option<Relaunch>,
    /// The way to take over from another process.
    pub(super) receiver: Option<UpgradeReceiver>,
    /// Who watches this process.
    pub(super) manager: Manager,
    /// The channel to the supervising process, where there is one.
    pub(super) supervisor: Option<ControlChannel>,
}

/// How a daemon has ended.
pub(super) enum Outcome {
    /// It was asked to stop, and all clients were closed.
    Stopped,
    /// Another process has everything: this one must end at once and touch nothing.
    HandedOver,
    /// The process with this id has everything: this one supervises it, and touches nothing else.
    Supervise(u32, ControlChannel),
}

/// Runs the daemon on the current runtime until `shutdown` resolves, or until another process has taken everything over.
/// `on_ready` is called once all sockets are served.
///
/// # Errors
/// What keeps it from starting, or made a part of it end.
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
        Inherited::named(predecessor).await;
    }
    on_ready();
    let mut reporting = JoinSet::new(); // What is in it ends with it.
    reporting.spawn(notify::report(serving.daemon.status(&serving.admin)));

    let shutdown = pin!(shutdown);
    let mut shutdown = Shutdown::new(shutdown);
    loop {
        tokio::select! {
            () = shutdown.requested() => break,
            () = supervisor_ended(serving.supervisor.as_ref()) => {
                tracing::error!("the supervising process has ended: stopping, as its watcher expects");
                break;
            }
            () = advance(&dispatcher) => {}
            ended = &mut serving.daemon.ended => {
                anyhow::bail!("a thread ended that must not: {}", ended.unwrap_or_default())
            }
            request = reloads.next() => {
                if let Some(upgraded) = serving.reload(relaunch.as_ref(), request, &mut shutdown).await {
                    return Ok(serving.leave_to(upgraded, &mut shutdown).await);
                }
            }
        }
    }
    reloads.close("ssecast is stopping");
    serving.drain().await;
    Ok(Outcome::Stopped)
}

/// Keeps positions close to the time where nothing is published.
async fn advance(dispatcher: &Dispatcher) {
    let mut seconds = interval(Duration::from_secs(1));
    loop {
        seconds.tick().await;
        dispatcher.advance();
    }
}

/// Resolves when the supervising process has ended: its own supervisor takes the daemon for ended then.
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
    /// Starts everything, or takes it over. After a take-over nothing can fail any more, so nothing does.
    async fn begin(start: Start, reloads: &Arc<Reloads>) -> anyhow::Result<(Self, Option<Relaunch>)> {
        let Start { config, mut sockets, mut pidfile, relaunch, receiver, manager, supervisor } = start;
        let config = Arc::new(config);
        // What can fail comes first: a receiver that refuses says why to the predecessor.
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
                let mut daemon = Daemon::wire(&config)?;
                let cursor = daemon.dispatcher.cursor();
                daemon.make_shards(&config, cursor, (0..config.process.workers.get()).map(|_| None).collect()).await?;
                daemon.start_sources()?;
                daemon.resume_sources(&[]);
                daemon.open_gate();
                daemon
            }
            Some(receiver) => {
                let Inherited { daemon, admin, control, supervised } = receiver.take_over(&config).await?;
                connections = admin;
                if supervised {
                    supervisor = Some(control);
                } else {
                    predecessor = Some(control);
                }
                if let Some(Err(error)) = pidfile.as_mut().map(Pidfile::write) {
                    // All clients are here by now: a file is no reason to end.
                    tracing::error!("the pidfile names the process before this one: {:#}", anyhow::Error::from(error));
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

    /// Has a new process take over, and answers the request. Gives back nothing if all is as it was.
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
                    // The successor tells the service manager nothing before this process ends, since it would not be believed.
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

    /// What a successor gets at once: the listening sockets, the pidfile, the channel to the supervising process.
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

    /// Ends without touching what is another process's now, and passes on to it what this one was asked for meanwhile.
    async fn leave_to<S: Future<Output = ()>>(self, upgraded: Upgraded, shutdown: &mut Shutdown<'_, S>) -> Outcome {
        let Self { daemon, sockets, pidfile, admin, manager, supervisor, .. } = self;
        let Upgraded { pid, control } = upgraded;
        sockets.leave();
        if let Some(pidfile) = pidfile {
            pidfile.leave();
        }
        // Its threads hold the clients' descriptors, and end with the process.
        std::mem::forget(daemon);
        if let Some(supervisor) = &supervisor
            && let Err(error) = supervisor.send(&Message::MainProcess { pid }, &[], TELL).await
        {
            tracing::warn!(%error, "the supervising process does not learn of the new process");
        }
        let stays = manager.stays();
        // Last of all: what arrives after this, only a supervising process passes on.
        let asked = if shutdown.is_requested_by_now().await {
            Some(SignalRequest::Stop)
        } else {
            admin.reloads.is_signalled().then_some(SignalRequest::Reload)
        };
        // The successor may have opened the log before it was moved.
        let reopen = admin.reloads.is_log_reopened().then_some(SignalRequest::ReopenLog);
        for asked in asked.into_iter().chain(reopen) {
            if let Err(error) = signals::pass_on(asked, pid) {
                tracing::error!(%error, "the new process does not learn what this one was asked for: {asked:?}");
            }
        }
        if stays { Outcome::Supervise(pid, control.into_inner()) } else { Outcome::HandedOver }
    }

    async fn drain(self) {
        tracing::info!("stopping: clients are asked to reconnect");
        let within = self.config.process.drain;
        let accepting = self.accepting;
        let drained = timeout(within, async {
            // Accepting and publishing stop first, so that no client is left out; within a part of the time, so that clients are drained.
            if timeout(within / 2, accepting.stop(within / 4)).await.is_err() {
                tracing::warn!("a publish under way takes too long; it may be lost");
            }
            self.daemon.drain(self.config.drain.spread).await;
        });
        if drained.await.is_err() {
            tracing::warn!("process.drain is over; the connections that are left are cut");
        }
        self.daemon.stop().await;
    }
}
