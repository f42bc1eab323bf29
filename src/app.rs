//! Builds the daemon from its rooms, wires, supervises and drains it: the only file that knows every room.

use std::{future::Future, io, sync::Arc, thread, time::Duration};

use anyhow::Context;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    admin::Admin,
    config::Config,
    cursor::NodeId,
    hub::Sequencer,
    metrics::Metrics,
    process::{
        limits,
        listen::{ListenError, Listener, ListenerKind},
        notify::{self, Vitals},
        sockets::Sockets,
    },
    public,
    shard::{self, Dispatcher, Embedded, Op, Parts, Publisher, Queue, Stream, now_micros},
    source::{Feed, RedisPubSub, RedisPublisher, Source},
};

/// Longest wait at start for the sources to be there; without them ssecast serves, and tells gaps.
const SOURCES_AT_START: Duration = Duration::from_secs(3);
/// How long accepting rests when the process has no descriptors left.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);

/// Binds both sockets as configured.
///
/// # Errors
/// What is in the way of one of them.
pub fn bind(config: &Config) -> Result<Sockets, ListenError> {
    Sockets::bind(&config.listen, config.process.user.as_ref())
}

/// Runs the daemon on the current runtime and on `sockets` until `shutdown` resolves, and then drains it. `on_ready` is called
/// once both sockets are served.
///
/// # Errors
/// What keeps it from starting, or made a part of it end.
pub async fn run(
    config: Config,
    sockets: Sockets,
    on_ready: impl FnOnce(),
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let files = limits::raise_open_files();
    let Sockets { public, admin } = sockets;
    let config = Arc::new(config);
    let daemon = Daemon::start(&config)?;
    let (stop, stopped) = watch::channel(false);
    let accepting_public = tokio::spawn(accept_public(public, daemon.dispatcher.queues().to_vec(), stopped.clone()));
    let accepting_admin = tokio::spawn(accept_admin(admin, daemon.admin(&config), stopped.clone()));
    daemon.sources_ready().await;
    tracing::info!(files, workers = config.process.workers, node = %daemon.dispatcher.cursor().node, "serving");
    on_ready();
    let mut reporting = JoinSet::new(); // What is in it ends with it.
    let (dispatcher, metrics) = (Arc::clone(&daemon.dispatcher), Arc::clone(&daemon.metrics));
    reporting.spawn(notify::report(move || Daemon::vitals(Arc::clone(&dispatcher), Arc::clone(&metrics))));

    let mut daemon = daemon;
    tokio::select! {
        () = shutdown => {}
        ended = &mut daemon.ended => anyhow::bail!("a shard ended by itself: {}", ended.unwrap_or_default()),
    }
    tracing::info!("stopping: clients are told when to come back");
    let drained = timeout(config.process.drain, async {
        // Everybody who accepts or publishes stops first, so that nobody is left out.
        let _ = stop.send(true);
        let _ = accepting_public.await;
        let _ = accepting_admin.await;
        daemon.drain(config.drain.spread).await;
    });
    if drained.await.is_err() {
        tracing::warn!("process.drain is over; the connections that are left are cut");
    }
    daemon.stop();
    Ok(())
}

/// The shards and sources under way.
struct Daemon {
    metrics: Arc<Metrics>,
    dispatcher: Arc<Dispatcher>,
    publisher: Arc<dyn Publisher>,
    sources: Vec<&'static str>,
    threads: Vec<thread::JoinHandle<()>>,
    /// Tells the shards' threads to end, by being dropped.
    running: watch::Sender<()>,
    /// Why a shard has ended that nobody has told to.
    ended: oneshot::Receiver<String>,
}

impl Daemon {
    fn start(config: &Arc<Config>) -> anyhow::Result<Self> {
        let metrics = Arc::new(Metrics::default());
        let sequencer = Sequencer::new(NodeId::random(), now_micros());
        let cursor = sequencer.cursor();
        let queues: Vec<Arc<Queue>> = (0..config.process.workers.get()).map(|_| Arc::default()).collect();

        let mut sources: Vec<Box<dyn Source>> = Vec::new();
        if let Some(redis) = &config.redis {
            sources.push(Box::new(RedisPubSub::new(redis).context("redis.url")?));
        }
        let (demands, wanted): (Vec<_>, Vec<_>) = sources.iter().map(|_| mpsc::unbounded_channel()).unzip();
        let names = sources.iter().map(|source| source.name()).collect();
        let on_demand = !sources.is_empty();
        let dispatcher = Arc::new(Dispatcher::new(sequencer, queues.clone(), demands, Arc::clone(&metrics)));
        let publisher: Arc<dyn Publisher> = match &config.redis {
            Some(redis) => Arc::new(RedisPublisher::new(redis, Arc::clone(&dispatcher)).context("redis.url")?),
            None => Arc::new(Embedded(Arc::clone(&dispatcher))),
        };
        for (number, (source, wanted)) in sources.into_iter().zip(wanted).enumerate() {
            let feed = Feed::new(number, Arc::clone(&dispatcher), Arc::clone(&metrics));
            tokio::spawn(source.run(feed, wanted));
        }

        let (running, _) = watch::channel(());
        let (ending, ended) = oneshot::channel();
        let ending = Arc::new(std::sync::Mutex::new(Some(ending)));
        let mut threads = Vec::new();
        for (number, queue) in queues.into_iter().enumerate() {
            let parts = Parts {
                number,
                config: Arc::clone(config),
                metrics: Arc::clone(&metrics),
                dispatcher: Arc::clone(&dispatcher),
                queue,
                cursor,
                on_demand,
            };
            let (metrics, ending, mut running) = (Arc::clone(&metrics), Arc::clone(&ending), running.subscribe());
            let name = format!("shard-{number}");
            let thread = thread::Builder::new().name(name.clone()).spawn(move || {
                let serve = public::service(Arc::clone(&parts.config), metrics);
                let stopped = async {
                    let _ = running.changed().await;
                };
                if let Err(error) = shard::run(parts, &serve, stopped)
                    && let Ok(mut ending) = ending.lock()
                    && let Some(ending) = ending.take()
                {
                    // The daemon may be stopping for another reason.
                    let _ = ending.send(format!("{name}: {error}"));
                }
            })?;
            threads.push(thread);
        }
        Ok(Self { metrics, dispatcher, publisher, sources: names, threads, running, ended })
    }

    fn admin(&self, config: &Config) -> Arc<Admin> {
        Arc::new(Admin {
            config: config.publish.clone(),
            publisher: Arc::clone(&self.publisher),
            dispatcher: Arc::clone(&self.dispatcher),
            sources: self.sources.clone(),
        })
    }

    /// How the daemon does. Every shard has to answer.
    async fn vitals(dispatcher: Arc<Dispatcher>, metrics: Arc<Metrics>) -> Vitals {
        let channels = dispatcher.all_subscribers().await.len();
        Vitals { clients: metrics.clients(), channels, events: metrics.events.get(), note: None }
    }

    /// Waits until each source is there or known to be away.
    async fn sources_ready(&self) {
        let settled = async {
            while !self.dispatcher.settled() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        // A source that takes longer is treated as one that is away: clients are told.
        let _ = timeout(SOURCES_AT_START, settled).await;
    }

    /// Sends all clients away; resolves when they are gone.
    async fn drain(&self, spread: Duration) {
        let mut gone = Vec::new();
        for queue in self.dispatcher.queues() {
            let (done, drained) = oneshot::channel();
            queue.push([Op::Drain(spread, done)]);
            gone.push(drained);
        }
        for drained in gone {
            let _ = drained.await; // It is dropped, not sent, when all are gone.
        }
    }

    fn stop(self) {
        for queue in self.dispatcher.queues() {
            queue.push([Op::Stop]);
        }
        drop(self.running);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a shard's thread panicked");
            }
        }
    }
}

/// Accepts on the public socket and gives the connections to the shards by turns.
async fn accept_public(listener: Listener, queues: Vec<Arc<Queue>>, stopped: watch::Receiver<bool>) {
    let mut turn = 0;
    accept(listener, stopped, |stream| {
        turn = (turn + 1) % queues.len();
        queues[turn].push([Op::Accept(stream)]);
    })
    .await;
}

/// Accepts on the admin socket, and serves there until all requests under way are answered.
async fn accept_admin(listener: Listener, admin: Arc<Admin>, stopped: watch::Receiver<bool>) {
    let mut serving = JoinSet::new();
    let stop = stopped.clone();
    accept(listener, stopped, |stream| {
        while serving.try_join_next().is_some() {}
        let mut stop = stop.clone();
        let stopped = async move {
            let _ = stop.wait_for(|stopped| *stopped).await;
        };
        match stream.attach() {
            Ok(stream) => drop(serving.spawn(Arc::clone(&admin).serve(stream, stopped))),
            Err(error) => tracing::warn!(%error, "a connection on the admin socket was dropped"),
        }
    })
    .await;
    while serving.join_next().await.is_some() {}
}

async fn accept(listener: Listener, mut stopped: watch::Receiver<bool>, mut each: impl FnMut(Stream)) {
    let accepting = async {
        if let Err(error) = accept_from(listener, &mut each).await {
            tracing::error!(%error, "a listening socket is lost");
        }
    };
    tokio::select! {
        () = accepting => {}
        _ = stopped.wait_for(|stopped| *stopped) => {}
    }
}

async fn accept_from(listener: Listener, each: &mut impl FnMut(Stream)) -> io::Result<()> {
    // What is left of the listener lasts as long as this: its file.
    match listener.kind {
        ListenerKind::Unix(listener) => {
            let listener = UnixListener::from_std(listener)?;
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => each(Stream::Unix(stream.into_std()?)),
                    Err(error) => rest(&error).await,
                }
            }
        }
        ListenerKind::Tcp(listener) => {
            let listener = TcpListener::from_std(listener)?;
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => each(Stream::Tcp(stream.into_std()?)),
                    Err(error) => rest(&error).await,
                }
            }
        }
    }
}

/// A failed accept is one connection's, or there are no descriptors: then some may end meanwhile.
async fn rest(error: &io::Error) {
    tracing::warn!(%error, "a connection could not be accepted; if files are short, raise LimitNOFILE");
    sleep(OUT_OF_DESCRIPTORS).await;
}
