//! Builds the daemon from its rooms, wires, supervises, hands over and drains it: the only room that knows every other.

mod accept;
mod daemon;

mod upgrade;

use std::{
    future::Future,
    os::fd::{AsFd as _, AsRawFd as _, RawFd},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{interval, timeout},
};

pub use self::upgrade::{Relaunch, UpgradeReceiver};
use self::{
    accept::Accepting,
    daemon::Daemon,
    upgrade::{DeferredRequests, InheritedState, sender},
};
use crate::{
    admin::{Admin, ReloadRequest, Reloaded, Reloads},
    broker::Dispatcher,
    config::Config,
    process::{
        control_channel::InheritedFd,
        limits,
        listen::{ListenError, Listener},
        notify,
        pidfile::Pidfile,
        signals::{self, Asked},
        sockets::Sockets,
    },
    stream::Stream,
};

/// Longest wait for those who have asked for a reload to hear of it.
const TO_ANSWER: Duration = Duration::from_secs(2);

/// Binds both sockets as configured.
///
/// # Errors
/// What is in the way of one of them.
pub fn bind(config: &Config) -> Result<Sockets, ListenError> {
    Sockets::bind(&config.listen, config.process.user.as_ref())
}

/// Runs the daemon on the current runtime and on `sockets` until `shutdown` resolves, and then drains it. `on_ready` is called
/// once both sockets are served. Such a daemon knows no reload; [`supervise`] does.
///
/// # Errors
/// What keeps it from starting, or made a part of it end.
pub async fn run(
    config: Config,
    sockets: Sockets,
    on_ready: impl FnOnce(),
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let start = Start { config, sockets, pidfile: None, relaunch: None, receiver: None };
    let (_, reloads) = reload_requests();
    supervise(start, reloads, on_ready, shutdown).await.map(drop)
}

/// What a daemon starts with.
pub struct Start {
    /// The configuration.
    pub config: Config,
    /// The listening sockets.
    pub sockets: Sockets,
    /// The locked pidfile.
    pub pidfile: Option<Pidfile>,
    /// How to start a new process; without, reloads are refused.
    pub relaunch: Option<Relaunch>,
    /// The way to succeed another process.
    pub receiver: Option<UpgradeReceiver>,
}

/// How a daemon has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was asked to stop, and all clients were sent away.
    Stopped,
    /// The process with this id has everything; nothing may be touched any more.
    HandedOver(u32),
}

/// Where reloads are asked for, and where they arrive.
#[must_use]
pub fn reload_requests() -> (mpsc::Sender<ReloadRequest>, ReloadChannel) {
    let (asking, asked) = mpsc::channel(4);
    (asking.clone(), ReloadChannel { asking, asked })
}

/// Both ends of the way by which reloads are asked for.
pub struct ReloadChannel {
    asking: mpsc::Sender<ReloadRequest>,
    asked: mpsc::Receiver<ReloadRequest>,
}

/// Runs the daemon on the current runtime until `shutdown` resolves, or until another process has taken everything over.
/// `on_ready` is called once both sockets are served.
///
/// # Errors
/// What keeps it from starting, or made a part of it end.
pub async fn supervise(
    start: Start,
    mut reloads: ReloadChannel,
    on_ready: impl FnOnce(),
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<Outcome> {
    let files = limits::raise_open_files();
    let Start { config, mut sockets, mut pidfile, relaunch, receiver } = start;
    let config = Arc::new(config);
    let (daemon, inherited, link) = match receiver {
        None => (begin(&config).await?, Vec::new(), None),
        Some(receiver) => {
            let taken = receiver.succeed(&config).await?;
            if let Some(Err(error)) = pidfile.as_mut().map(Pidfile::write) {
                // All clients are here by now: a file is no reason to end.
                tracing::error!("the pidfile tells of the process before: {:#}", anyhow::Error::from(error));
            }
            sockets.public.own_file();
            sockets.admin.own_file();
            let (daemon, inherited, link) = taken.into_parts();
            (daemon, inherited, Some(link))
        }
    };
    let admin = daemon.admin(&config, Reloads::new(reloads.asking.clone()));
    let dispatcher = Arc::clone(&daemon.dispatcher);
    let mut serving = Serving { config, daemon, sockets, pidfile, admin, accepting: None };
    serving.accept(inherited)?;
    serving.daemon.sources_ready().await;
    let workers = serving.config.process.workers;
    let Sockets { public, admin } = &serving.sockets;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        public = %public.address(),
        admin = %admin.address(),
        redis = serving.config.redis.as_ref().map(|redis| tracing::field::display(redis.address())),
        files,
        workers,
        node = %dispatcher.cursor().node,
        "serving"
    );
    if let Some(link) = link {
        InheritedState::named(link).await;
    }
    on_ready();
    let mut reporting = JoinSet::new(); // What is in it ends with it.
    reporting.spawn(notify::report(serving.daemon.vitals(&serving.admin)));

    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = shutdown.as_mut() => break,
            () = advance(&dispatcher) => {}
            ended = &mut serving.daemon.ended => anyhow::bail!("a thread ended that must not: {}", ended.unwrap_or_default()),
            Some(asked) = reloads.asked.recv() => {
                let mut deferred =
                    DeferredRequests { stop: shutdown.as_mut(), stopped: false, requests: &mut reloads.asked, again: false };
                let handed = serving.reload(relaunch.as_ref(), asked, &mut deferred).await;
                if let Some(pid) = handed {
                    serving.leave();
                    // Last of all: what is asked after this, nobody hears.
                    deferred.catch_up().await;
                    pass_on(pid, deferred.stopped, deferred.again);
                    return Ok(Outcome::HandedOver(pid));
                }
                let (stopped, again) = (deferred.stopped, deferred.again);
                if stopped {
                    break;
                }
                if again {
                    // Where there is no room, others wait already.
                    let _ = reloads.asking.try_send(ReloadRequest::unheard());
                }
            }
        }
    }
    reloads.asked.close();
    while let Ok(request) = reloads.asked.try_recv() {
        request.answer(Reloaded::Failed("ssecast is stopping".to_owned()));
    }
    serving.drain().await;
    Ok(Outcome::Stopped)
}

/// Asks the new process for what this one was asked for while it handed over.
fn pass_on(pid: u32, stopped: bool, again: bool) {
    let asked = if stopped { Asked::Stop } else { Asked::Reload };
    if (stopped || again)
        && let Err(error) = signals::pass_on(asked, pid)
    {
        tracing::error!(%error, "the new process can't be asked for what this one was asked for meanwhile: {asked:?}");
    }
}

async fn begin(config: &Arc<Config>) -> anyhow::Result<Daemon> {
    let mut daemon = Daemon::wire(config)?;
    let cursor = daemon.dispatcher.cursor();
    daemon.start_shards(config, cursor, (0..config.process.workers.get()).map(|_| None).collect())?;
    daemon.start_sources()?;
    Ok(daemon)
}

/// Keeps positions close to the time where nothing is published.
async fn advance(dispatcher: &Dispatcher) {
    let mut seconds = interval(Duration::from_secs(1));
    loop {
        seconds.tick().await;
        dispatcher.advance();
    }
}

/// A daemon that serves.
struct Serving {
    config: Arc<Config>,
    daemon: Daemon,
    sockets: Sockets,
    pidfile: Option<Pidfile>,
    admin: Arc<Admin>,
    /// `None` while everything is handed over.
    accepting: Option<Accepting>,
}

impl Serving {
    /// Accepts on both sockets; `inherited` are connections of the admin socket.
    fn accept(&mut self, inherited: Vec<Stream>) -> anyhow::Result<()> {
        let queues = self.daemon.queues.clone();
        let Sockets { public, admin } = &self.sockets;
        self.accepting = Some(Accepting::start(public, admin, queues, Arc::clone(&self.admin), inherited)?);
        Ok(())
    }

    /// Hands everything over, and tells whoever has asked. Gives back the new process's id, or nothing if all is as it was.
    async fn reload<S: Future<Output = ()>>(
        &mut self,
        relaunch: Option<&Relaunch>,
        asked: ReloadRequest,
        deferred: &mut DeferredRequests<'_, S>,
    ) -> Option<u32> {
        tracing::info!("a new process is asked for");
        self.admin.reloads.begin(&asked);
        let handed = match relaunch {
            Some(relaunch) => sender::hand_over(self, relaunch, deferred).await,
            None => Err(anyhow::anyhow!("this daemon was not started as `ssecast serve`")),
        };
        match handed {
            Ok(pid) => {
                asked.answer(Reloaded::By(pid));
                let _ = sender::until(TO_ANSWER, || self.admin.reloads.waiting() == 0).await;
                Some(pid)
            }
            Err(error) => {
                tracing::error!("the reload failed, and nothing has changed: {error:#}");
                self.admin.reloads.note(Some(format!("{error:#}")));
                asked.answer(Reloaded::Failed(format!("{error:#}")));
                None
            }
        }
    }

    /// What a successor is given at once: the listening sockets and the pidfile.
    fn inheritance(&self) -> Vec<(InheritedFd, RawFd)> {
        let listen = &self.config.listen;
        let socket = |listener: &Listener| (listener.is_made(), listener.as_fd().as_raw_fd());
        let (made, fd) = socket(&self.sockets.public);
        let mut all = vec![(InheritedFd::Public { address: listen.public.to_string(), made }, fd)];
        let (made, fd) = socket(&self.sockets.admin);
        all.push((InheritedFd::Admin { address: listen.admin.to_string(), made }, fd));
        if let (Some(pidfile), Some(path)) = (&self.pidfile, &self.config.process.pidfile) {
            all.push((InheritedFd::Pidfile(path.display().to_string()), pidfile.as_fd().as_raw_fd()));
        }
        all
    }

    /// Ends without touching what is another process's now.
    fn leave(self) {
        let Self { daemon, sockets, pidfile, .. } = self;
        sockets.public.leave();
        sockets.admin.leave();
        if let Some(pidfile) = pidfile {
            pidfile.leave();
        }
        // Its threads hold the clients' descriptors, and end with the process.
        std::mem::forget(daemon);
    }

    async fn drain(mut self) {
        tracing::info!("stopping: clients are told when to come back");
        let accepting = self.accepting.take();
        let within = self.config.process.drain;
        let drained = timeout(within, async {
            // Everybody who accepts or publishes stops first, so that nobody is left out; but clients have to be told as well.
            if let Some(accepting) = accepting
                && timeout(within / 2, accepting.stop(within / 4)).await.is_err()
            {
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
