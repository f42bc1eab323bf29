//! The sources, the dispatcher and the shards: makes, connects, starts, drains and stops them. It accepts no connections.

use std::{io, sync::Arc, thread, time::Duration};

use anyhow::{Context as _, bail};
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};

use super::{exit_guard::ExitGuards, extensions::Extensions, sources::Sources, upgrade::sender::until};
use crate::{
    access::Authorizer,
    admin::{Admin, Bodies, Publishers, Reloads},
    broker::{Checkpoint, Dispatcher, Embedded, Outlet, Publisher, SourceId},
    client_limit::ClientLimit,
    clock::unix_micros,
    config::Config,
    cursor::{Cursor, NodeId},
    hub::Sequencer,
    metrics::Metrics,
    process::{limits, notify::StatusReport},
    public,
    shard::{self, Op, Parts, Queue},
    snapshot::Transfer,
};

/// Longest wait for the sources at the start. After that ssecast serves without them, and clients get gap events.
const SOURCES_AT_START: Duration = Duration::from_secs(3);

/// The running shards and sources.
pub(super) struct Daemon {
    pub(super) dispatcher: Arc<Dispatcher>,
    /// The shards' queues.
    pub(super) queues: Vec<Arc<Queue>>,
    pub(super) publisher: Arc<dyn Publisher>,
    /// Resolves with the reason when a thread or a task has ended that must not end.
    pub(super) ended: oneshot::Receiver<String>,
    exit_guards: ExitGuards,
    authorizer: Arc<dyn Authorizer>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) client_limit: Arc<ClientLimit>,
    pub(super) sources: Sources,
    threads: Vec<thread::JoinHandle<()>>,
    /// Whether the shards may begin.
    gate: watch::Sender<bool>,
    /// The threads of shards and sources end when this is dropped.
    running: watch::Sender<()>,
}

impl Daemon {
    /// Makes the sources, the dispatcher and the queues, and connects them. It starts nothing.
    pub(super) fn wire(config: &Config, extensions: &Extensions) -> anyhow::Result<Self> {
        let metrics = Arc::new(Metrics::default());
        let sequencer = Sequencer::new(NodeId::for_instance(&instance(config)), unix_micros());
        let queues: Vec<Arc<Queue>> = (0..config.process.workers.get()).map(|_| Arc::default()).collect();
        let (mut sources, asked) = Sources::new(extensions.sources(config)?);
        let outlets = queues.iter().map(|queue| Arc::clone(queue) as Arc<dyn Outlet>).collect();
        let dispatcher =
            Arc::new(Dispatcher::new(sequencer, outlets, asked, Arc::clone(&metrics), config.history.skew));
        sources.make_publishers(&dispatcher);
        let publisher = sources.publisher().unwrap_or_else(|| Arc::new(Embedded(Arc::clone(&dispatcher))));
        let (exit_guards, ended) = ExitGuards::new();
        Ok(Self {
            dispatcher,
            queues,
            publisher,
            ended,
            exit_guards,
            authorizer: extensions.authorizer(config)?,
            metrics,
            client_limit: ClientLimit::new(
                config.stream.max_clients,
                limits::max_connections(config.process.workers.get()),
            ),
            sources,
            threads: Vec::new(),
            gate: watch::channel(false).0,
            running: watch::channel(()).0,
        })
    }

    /// Starts the sources. Durable ones wait for [`Daemon::resume_sources`].
    pub(super) fn start_sources(&mut self) -> io::Result<()> {
        self.sources.start(&self.dispatcher, &self.metrics, &self.running, &self.exit_guards)
    }

    /// Begins the durable sources, each at its checkpoint if there is one. It can't fail.
    pub(super) fn resume_sources(&mut self, checkpoints: &[(SourceId, Checkpoint)]) {
        self.sources.resume(checkpoints);
    }

    /// Makes the shards, each on a thread of its own. They begin at `cursor`; `inherited` is each shard's part of the
    /// predecessor's state. They write to no client before [`Daemon::open_gate`]. Everything that can fail is done here.
    pub(super) async fn make_shards(
        &mut self,
        config: &Arc<Config>,
        cursor: Cursor,
        inherited: Vec<Option<Transfer>>,
    ) -> anyhow::Result<()> {
        let mut making = Vec::with_capacity(inherited.len());
        for (number, (queue, inherited)) in self.queues.iter().zip(inherited).enumerate() {
            let parts = Parts {
                number,
                config: Arc::clone(config),
                metrics: Arc::clone(&self.metrics),
                client_limit: Arc::clone(&self.client_limit),
                dispatcher: Arc::clone(&self.dispatcher),
                queue: Arc::clone(queue),
                cursor,
                on_demand: self.dispatcher.is_on_demand(),
                journals_only: !self.dispatcher.has_unjournaled(),
                inherited,
            };
            let (metrics, client_limit) = (Arc::clone(&self.metrics), Arc::clone(&self.client_limit));
            let authorizer = Arc::clone(&self.authorizer);
            let mut running = self.running.subscribe();
            let mut gate = self.gate.subscribe();
            let name = format!("shard-{number}");
            let (made, is_made) = oneshot::channel();
            let mut guard = self.exit_guards.guard(&name);
            let thread = thread::Builder::new().name(name.clone()).spawn(move || {
                let serve = public::service(Arc::clone(&parts.config), metrics, client_limit, authorizer);
                let stopped = async {
                    // An error means that the sender was dropped: the shard stops.
                    let _ = running.changed().await;
                };
                let gate = async { gate.wait_for(|open| *open).await.is_ok() };
                match shard::run(parts, &serve, made, gate, stopped) {
                    Ok(()) => guard.disarm(),
                    Err(error) => guard.note(&error),
                }
            });
            self.threads.push(thread.with_context(|| format!("shard-{number} can't be started"))?);
            making.push((number, is_made));
        }
        for (number, is_made) in making {
            match is_made.await {
                Ok(Ok(())) => {}
                Ok(Err(why)) => bail!("shard-{number} can't be made: {why}"),
                Err(_) => bail!("shard-{number} can't be made: it panicked"),
            }
        }
        Ok(())
    }

    /// Lets the shards begin. It can't fail.
    pub(super) fn open_gate(&self) {
        self.gate.send_replace(true);
    }

    pub(super) fn admin(&self, config: &Config, reloads: Arc<Reloads>) -> Arc<Admin> {
        Arc::new(Admin {
            config: config.publish.clone(),
            publisher: Arc::clone(&self.publisher),
            dispatcher: Arc::clone(&self.dispatcher),
            reloads,
            metrics: Arc::clone(&self.metrics),
            bodies: Bodies::new(config.publish.max_message),
            publishers: Publishers::default(),
        })
    }

    /// Makes the reports of the daemon's status. Each report waits until every shard has answered.
    pub(super) fn status(&self, admin: &Arc<Admin>) -> impl FnMut() -> BoxedReport + Send + 'static {
        let (dispatcher, metrics) = (Arc::clone(&self.dispatcher), Arc::clone(&self.metrics));
        let (client_limit, admin) = (Arc::clone(&self.client_limit), Arc::clone(admin));
        move || {
            let (dispatcher, metrics) = (Arc::clone(&dispatcher), Arc::clone(&metrics));
            let clients = client_limit.clients() as u64;
            let disconnected = dispatcher.disconnected_sources().into_iter();
            let disconnected = disconnected.map(|(source, why)| format!("{source} disconnected: {why}"));
            let phase = admin.reloads.phase().map(|phase| format!("upgrade: {phase}"));
            let failure = admin.reloads.last_failure().map(|why| format!("last reload failed: {why}"));
            let notes: Vec<String> = disconnected.chain(phase).chain(failure).collect();
            let note = (!notes.is_empty()).then(|| notes.join("; "));
            Box::pin(async move {
                let channels = dispatcher.channel_count().await;
                StatusReport { clients, channels, events: metrics.events.get(), note }
            })
        }
    }

    /// Waits until each source is known to be connected or disconnected.
    pub(super) async fn sources_ready(&self) {
        // A source that takes longer counts as disconnected: clients get a gap event.
        let _ = until(SOURCES_AT_START, || self.dispatcher.settled()).await;
    }

    /// Closes all clients, each with its own reconnection time within `spread`. Resolves when all are closed.
    pub(super) async fn drain(&self, spread: Duration) {
        let mut gone = Vec::new();
        for queue in &self.queues {
            let (done, drained) = oneshot::channel();
            queue.push([Op::Drain(spread, done)]);
            gone.push(drained);
        }
        for drained in gone {
            let _ = drained.await; // The shard drops its sender when all are closed; it sends nothing.
        }
    }

    /// Guards for tasks that must not end. The threads have theirs.
    pub(super) fn exit_guards(&self) -> ExitGuards {
        self.exit_guards.clone()
    }

    /// Ends the shards' threads.
    pub(super) async fn stop(self) {
        for queue in &self.queues {
            queue.push([Op::Stop]);
        }
        drop(self.running);
        let joined = tokio::task::spawn_blocking(move || {
            for thread in self.threads {
                if thread.join().is_err() {
                    tracing::error!("a shard's thread panicked");
                }
            }
        });
        if timeout(Duration::from_secs(2), joined).await.is_err() {
            tracing::warn!("a shard's thread does not end; the process ends without it");
        }
    }
}

/// The daemon's status, which is known once every shard has answered.
pub(super) type BoxedReport = std::pin::Pin<Box<dyn Future<Output = StatusReport> + Send>>;

/// Identifies this instance, and is the same at each start: the machine, the host, the first admin socket.
fn instance(config: &Config) -> String {
    // If one of the files can't be read, the other parts have to be enough.
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    format!(
        "{} {} {}",
        read("/etc/machine-id").trim(),
        read("/proc/sys/kernel/hostname").trim(),
        config.listen.admin.first
    )
}
