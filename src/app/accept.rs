//! Accepting on the two sockets, in a way that can be paused and taken up again.

use std::{
    io, mem,
    os::fd::{AsFd as _, RawFd},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

use crate::{
    admin::{Admin, Ending},
    process::listen::Listener,
    shard::{Op, Queue},
    stream::{Socket, Stream},
};

/// How long accepting rests when the process has no descriptors left.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);

/// How long a publish that has begun may take to be whole once a new process takes over: clients wait meanwhile.
const TO_BE_WHOLE: Duration = Duration::from_millis(200);

/// Connections of the admin socket that were left between two requests.
type Left = Arc<Mutex<Vec<Stream>>>;

/// A listening socket, registered with the runtime.
enum Listening {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// Second descriptors of both listening sockets: accepting can be paused and resumed with them, and nothing of that can fail.
#[derive(Clone)]
pub(super) struct Listeners {
    public: Arc<Listening>,
    admin: Arc<Listening>,
}

/// Accepts on both sockets until it is paused.
pub(super) struct Accepting {
    listeners: Listeners,
    queues: Vec<Arc<Queue>>,
    service: Arc<Admin>,
    running: Running,
}

/// The tasks that accept.
struct Running {
    ending: watch::Sender<Ending>,
    public: JoinHandle<()>,
    /// Ends with the requests that still wait for the outcome of a reload.
    admin: JoinHandle<()>,
    /// Requests that wait for the outcome of a reload, once accepting has ended.
    answering: Arc<Mutex<JoinSet<()>>>,
    left: Left,
}

impl Listeners {
    /// Duplicates both sockets and registers them with the current runtime. Accepts nothing.
    ///
    /// # Errors
    /// No descriptors left.
    pub(super) fn new(public: &Listener, admin: &Listener) -> io::Result<Self> {
        Ok(Self { public: Arc::new(Listening::new(public)?), admin: Arc::new(Listening::new(admin)?) })
    }
}

impl Accepting {
    /// Takes connections up: new ones, and `inherited` ones of the admin socket.
    pub(super) fn start(
        listeners: Listeners,
        queues: Vec<Arc<Queue>>,
        service: Arc<Admin>,
        inherited: Vec<Stream>,
    ) -> Self {
        let running = Running::start(&listeners, &queues, &service, inherited);
        Self { listeners, queues, service, running }
    }

    /// Stops accepting, and resolves when no request is under way on the admin socket but the one for this reload. It may be
    /// given up at any time: [`Accepting::resume`] goes on.
    ///
    /// # Errors
    /// A request has taken longer than `within`.
    pub(super) async fn pause(&mut self, within: Duration) -> anyhow::Result<()> {
        timeout(within, self.running.end(TO_BE_WHOLE)).await.context("a publish under way takes too long")
    }

    /// After [`Accepting::pause`]: the descriptors of connections that are left on the admin socket, and what was read of each.
    pub(super) fn left(&self) -> Vec<(RawFd, Bytes)> {
        self.running.left.lock().unwrap_or_else(PoisonError::into_inner).iter().map(Stream::peek).collect()
    }

    /// After [`Accepting::pause`]: waits until the request that has asked for the reload is answered, at most for `within`.
    pub(super) async fn answer_all(&self, within: Duration) {
        let mut answering = mem::take(&mut *self.running.answering.lock().unwrap_or_else(PoisonError::into_inner));
        let answered = timeout(within, async { while answering.join_next().await.is_some() {} });
        if answered.await.is_err() {
            answering.detach_all();
        }
    }

    /// Goes on as if [`Accepting::pause`] had not been.
    pub(super) fn resume(&mut self) {
        mem::take(&mut *self.running.answering.lock().unwrap_or_else(PoisonError::into_inner)).detach_all();
        let left = mem::take(&mut *self.running.left.lock().unwrap_or_else(PoisonError::into_inner));
        self.running = Running::start(&self.listeners, &self.queues, &self.service, left);
    }

    /// Stops accepting, and resolves when all requests under way on the admin socket are answered; those that are not whole
    /// `within` the time are refused.
    pub(super) async fn stop(mut self, within: Duration) {
        self.running.end(within).await;
    }
}

impl Running {
    fn start(listeners: &Listeners, queues: &[Arc<Queue>], service: &Arc<Admin>, inherited: Vec<Stream>) -> Self {
        let (ending, ended) = watch::channel(Ending::No);
        let left = Left::default();
        let Listeners { public, admin } = listeners.clone();
        let public = tokio::spawn(accept_public(public, queues.to_vec(), ended.clone()));
        let answering = Arc::default();
        let admin =
            accept_admin(admin, Arc::clone(service), inherited, Arc::clone(&left), Arc::clone(&answering), ended);
        let admin = tokio::spawn(admin);
        Self { ending, public, admin, answering, left }
    }

    async fn end(&mut self, within: Duration) {
        let _ = self.ending.send(Ending::Within(within)); // Nobody listens who has ended already.
        for task in [&mut self.public, &mut self.admin] {
            if !task.is_finished() {
                let _ = task.await;
            }
        }
    }
}

impl Listening {
    fn new(listener: &Listener) -> io::Result<Self> {
        let fd = listener.as_fd().try_clone_to_owned()?;
        Ok(match listener {
            Listener::Unix(..) => Self::Unix(UnixListener::from_std(fd.into())?),
            Listener::Tcp(_) => Self::Tcp(TcpListener::from_std(fd.into())?),
        })
    }

    async fn accept(&self) -> io::Result<Stream> {
        Ok(Stream::new(match self {
            Self::Unix(listener) => Socket::Unix(listener.accept().await?.0.into_std()?),
            Self::Tcp(listener) => Socket::Tcp(listener.accept().await?.0.into_std()?),
        }))
    }
}

/// Accepts on the public socket and gives the connections to the shards by turns.
async fn accept_public(listener: Arc<Listening>, queues: Vec<Arc<Queue>>, ended: watch::Receiver<Ending>) {
    let mut turn = 0;
    accept(&listener, ended, |stream| {
        turn = (turn + 1) % queues.len();
        queues[turn].push([Op::Accept(stream)]);
    })
    .await;
}

/// Accepts on the admin socket, and serves there until it is stopped and the requests under way are answered.
async fn accept_admin(
    listener: Arc<Listening>,
    admin: Arc<Admin>,
    inherited: Vec<Stream>,
    left: Left,
    answering: Arc<Mutex<JoinSet<()>>>,
    ended: watch::Receiver<Ending>,
) {
    let mut serving = JoinSet::new();
    let serve = |serving: &mut JoinSet<()>, stream: Stream| {
        while serving.try_join_next().is_some() {}
        let stream = match stream.attach() {
            Ok(stream) => stream,
            Err(error) => return tracing::warn!(%error, "a connection on the admin socket was dropped"),
        };
        let (admin, left, ended) = (Arc::clone(&admin), Arc::clone(&left), ended.clone());
        serving.spawn(async move {
            if let Some(stream) = admin.serve(stream, ended).await {
                left.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
            }
        });
    };
    for stream in inherited {
        serve(&mut serving, stream);
    }
    accept(&listener, ended.clone(), |stream| serve(&mut serving, stream)).await;
    // A request that waits for the outcome of this very pause is answered later.
    while serving.len() > admin.reloads.waiting() && serving.join_next().await.is_some() {}
    *answering.lock().unwrap_or_else(PoisonError::into_inner) = serving;
}

/// Accepts until accepting is to end. No error ends it: each concerns one connection, or there are no descriptors for now.
async fn accept(listener: &Listening, mut ended: watch::Receiver<Ending>, mut each: impl FnMut(Stream)) {
    let accepting = async {
        loop {
            match listener.accept().await {
                Ok(stream) => each(stream),
                Err(error) => rest(&error).await,
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        _ = ended.wait_for(|ending| *ending != Ending::No) => {}
    }
}

/// A failed accept is one connection's, or there are no descriptors: then some may end meanwhile.
async fn rest(error: &io::Error) {
    tracing::warn!(%error, "a connection could not be accepted; if files are short, raise LimitNOFILE");
    sleep(OUT_OF_DESCRIPTORS).await;
}
