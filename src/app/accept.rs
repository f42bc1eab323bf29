//! Accepting on the two sockets, in a way that can be paused and taken up again.

use std::{
    io, mem,
    net::TcpListener as StdTcpListener,
    os::{fd::AsFd as _, unix::net::UnixListener as StdUnixListener},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
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

/// A second descriptor of a listening socket: the first one outlives the accepting.
enum Duplicate {
    Unix(StdUnixListener),
    Tcp(StdTcpListener),
}

/// Accepts on both sockets until it is paused.
pub(super) struct Accepting {
    ending: watch::Sender<Ending>,
    public: JoinHandle<()>,
    admin: JoinHandle<()>,
    left: Left,
}

impl Accepting {
    /// Takes connections up: new ones, and `inherited` ones of the admin socket.
    pub(super) fn start(
        public: &Listener,
        admin: &Listener,
        queues: Vec<Arc<Queue>>,
        service: Arc<Admin>,
        inherited: Vec<Stream>,
    ) -> io::Result<Self> {
        let (ending, ended) = watch::channel(Ending::No);
        let left = Left::default();
        let (public, admin) = (Duplicate::of(public)?, Duplicate::of(admin)?);
        let public = tokio::spawn(accept_public(public, queues, ended.clone()));
        let admin = tokio::spawn(accept_admin(admin, service, inherited, Arc::clone(&left), ended));
        Ok(Self { ending, public, admin, left })
    }

    /// Stops accepting, and resolves when no request is under way on the admin socket but the one for this reload. Puts the
    /// connections that are left there into `left`.
    ///
    /// # Errors
    /// A request has taken longer than `within`.
    pub(super) async fn pause(self, within: Duration, left: &mut Vec<Stream>) -> anyhow::Result<()> {
        let _ = self.ending.send(Ending::Within(TO_BE_WHOLE)); // Nobody listens who has ended already.
        let paused = timeout(within, async {
            let _ = self.public.await;
            let _ = self.admin.await;
        });
        let paused = paused.await.context("a publish under way takes too long");
        left.append(&mut self.left.lock().unwrap_or_else(PoisonError::into_inner));
        paused
    }

    /// Stops accepting, and resolves when all requests under way on the admin socket are answered; those that are not whole
    /// `within` the time are refused.
    pub(super) async fn stop(self, within: Duration) {
        let _ = self.ending.send(Ending::Within(within));
        let _ = self.public.await;
        let _ = self.admin.await;
    }
}

impl Duplicate {
    fn of(listener: &Listener) -> io::Result<Self> {
        let fd = listener.as_fd().try_clone_to_owned()?;
        Ok(match listener {
            Listener::Unix(..) => Self::Unix(fd.into()),
            Listener::Tcp(_) => Self::Tcp(fd.into()),
        })
    }
}

/// Accepts on the public socket and gives the connections to the shards by turns.
async fn accept_public(listener: Duplicate, queues: Vec<Arc<Queue>>, ended: watch::Receiver<Ending>) {
    let mut turn = 0;
    accept(listener, ended, |stream| {
        turn = (turn + 1) % queues.len();
        queues[turn].push([Op::Accept(stream)]);
    })
    .await;
}

/// Accepts on the admin socket, and serves there until it is stopped and the requests under way are answered.
async fn accept_admin(
    listener: Duplicate,
    admin: Arc<Admin>,
    inherited: Vec<Stream>,
    left: Left,
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
    accept(listener, ended.clone(), |stream| serve(&mut serving, stream)).await;
    // A request that waits for the outcome of this very pause is answered later.
    while serving.len() > admin.reloads.waiting() && serving.join_next().await.is_some() {}
    mem::take(&mut serving).detach_all();
}

async fn accept(listener: Duplicate, mut ended: watch::Receiver<Ending>, mut each: impl FnMut(Stream)) {
    let accepting = async {
        if let Err(error) = accept_from(listener, &mut each).await {
            tracing::error!(%error, "a listening socket is lost");
        }
    };
    tokio::select! {
        () = accepting => {}
        _ = ended.wait_for(|ending| *ending != Ending::No) => {}
    }
}

async fn accept_from(listener: Duplicate, each: &mut impl FnMut(Stream)) -> io::Result<()> {
    match listener {
        Duplicate::Unix(listener) => {
            let listener = UnixListener::from_std(listener)?;
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => each(Stream::new(Socket::Unix(stream.into_std()?))),
                    Err(error) => rest(&error).await,
                }
            }
        }
        Duplicate::Tcp(listener) => {
            let listener = TcpListener::from_std(listener)?;
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => each(Stream::new(Socket::Tcp(stream.into_std()?))),
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
