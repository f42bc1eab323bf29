//! Accepting on the two sockets, in a way that can be paused and taken up again. It parses nothing.
//!
//! Invariants:
//! - An error concerns one connection, unless the socket itself is lost: then the whole process ends, since one that accepts
//!   nothing helps nobody.
//! - The public socket never takes the descriptors that publishing, sources and upgrades need: over the limit a connection is
//!   answered 503 and closed.

use std::{
    io, mem,
    os::fd::{AsFd as _, RawFd},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use nix::libc;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

use super::daemon::{ExitGuards, ThreadExitGuard};
use crate::{
    admin::{Admin, Ending},
    client_limit::ClientLimit,
    log_rate::LogRate,
    metrics::Metrics,
    process::{limits, listen::Listener},
    shard::{Op, Queue},
    stream::{Socket, Stream},
};

/// How long accepting rests when the process or the system has no descriptors left.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);
/// How long accepting rests after any other error, so that one that stays does not take a whole core.
const AFTER_ERROR: Duration = Duration::from_millis(1);
/// How long a publish that has begun may take to be whole once a new process takes over: clients wait meanwhile.
const TO_BE_WHOLE: Duration = Duration::from_millis(200);

/// Longest beginning of a request that is read before the answer to a connection too many: the answer to a request that was not
/// read may be lost.
const READ_BEFORE_REFUSAL: usize = 16 << 10;
/// The answer to a connection too many.
const REFUSAL: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 135\r\n\
    Cache-Control: no-store\r\nRetry-After: 3\r\nConnection: close\r\n\r\n\
    {\"status\":\"error\",\"code\":\"too_many_connections\",\
    \"error\":\"as many connections are open as files may be (LimitNOFILE): try again later\"}\n";

/// What takes the connections of the public socket.
#[derive(Clone)]
pub(super) struct PublicSide {
    /// The shards', which are given connections by turns.
    pub(super) queues: Vec<Arc<Queue>>,
    pub(super) limit: Arc<ClientLimit>,
    pub(super) metrics: Arc<Metrics>,
    /// Report an accept loop that ends by itself.
    pub(super) exit_guards: ExitGuards,
}

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
    public: PublicSide,
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
    pub(super) fn start(listeners: Listeners, public: PublicSide, service: Arc<Admin>, inherited: Vec<Stream>) -> Self {
        let running = Running::start(&listeners, &public, &service, inherited);
        Self { listeners, public, service, running }
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
        self.running = Running::start(&self.listeners, &self.public, &self.service, left);
    }

    /// Stops accepting, and resolves when all requests under way on the admin socket are answered; those that are not whole
    /// `within` the time are refused.
    pub(super) async fn stop(mut self, within: Duration) {
        self.running.end(within).await;
    }
}

impl Running {
    fn start(listeners: &Listeners, side: &PublicSide, service: &Arc<Admin>, inherited: Vec<Stream>) -> Self {
        let (ending, ended) = watch::channel(Ending::No);
        let left = Left::default();
        let Listeners { public, admin } = listeners.clone();
        let exit_guard = side.exit_guards.guard("accepting on the public socket");
        let (side, public_ended) = (side.clone(), ended.clone());
        let admin_guard = side.exit_guards.guard("accepting on the admin socket");
        let public = tokio::spawn(async move {
            finish(exit_guard, accept_public(&public, &side, public_ended).await);
        });
        let answering = Arc::default();
        let admin =
            accept_admin(admin, Arc::clone(service), inherited, Arc::clone(&left), Arc::clone(&answering), ended);
        let admin = tokio::spawn(async move { finish(admin_guard, admin.await) });
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

    /// The next connection.
    ///
    /// # Errors
    /// The listening socket itself is lost.
    async fn accept(&self) -> io::Result<Socket> {
        loop {
            let accepted = match self {
                Self::Unix(listener) => {
                    listener.accept().await.and_then(|(stream, _)| stream.into_std()).map(Socket::Unix)
                }
                Self::Tcp(listener) => {
                    listener.accept().await.and_then(|(stream, _)| stream.into_std()).map(Socket::Tcp)
                }
            };
            match accepted {
                Ok(socket) => return Ok(socket),
                Err(error) if is_lost(&error) => return Err(error),
                Err(error) => rest(&error).await,
            }
        }
    }
}

/// Whether an error of accept(2) says that nothing will ever be accepted.
fn is_lost(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP))
}

/// A failed accept is one connection's; or there are no descriptors, and some may be closed meanwhile.
async fn rest(error: &io::Error) {
    static RATE: LogRate = LogRate::new();
    if let Some(count) = RATE.count() {
        tracing::warn!(%error, count, "a connection could not be accepted; if files are short, raise LimitNOFILE");
    }
    let out = matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM));
    sleep(if out { OUT_OF_DESCRIPTORS } else { AFTER_ERROR }).await;
}

/// An accept loop has ended: because it was asked to, or because its socket is lost.
fn finish(mut exit_guard: ThreadExitGuard, ended: io::Result<()>) {
    match ended {
        Ok(()) => exit_guard.disarm(),
        Err(error) => exit_guard.note(&error),
    }
}

/// Accepts on the public socket and gives the connections to the shards by turns.
async fn accept_public(listening: &Listening, side: &PublicSide, mut ended: watch::Receiver<Ending>) -> io::Result<()> {
    let PublicSide { queues, limit, metrics, .. } = side;
    let accepting = async {
        for queue in queues.iter().cycle() {
            let socket = listening.accept().await?;
            match limit.acquire_connection() {
                Some(permit) => queue.push([Op::Accept(Stream::new(socket).with_permit(permit))]),
                None => {
                    metrics.refused.add(1);
                    refuse(&socket, limit.connections());
                }
            }
        }
        Ok(())
    };
    tokio::select! {
        lost = accepting => lost,
        _ = ended.wait_for(|ending| *ending != Ending::No) => Ok(()),
    }
}

/// Answers a connection too many, as far as it takes the answer at once.
fn refuse(socket: &Socket, connections: usize) {
    static RATE: LogRate = LogRate::new();
    if let Some(count) = RATE.count() {
        tracing::warn!(
            connections,
            count,
            "connections are refused: as many are open as the limit of open files allows"
        );
    }
    // What the client does not take, it need not have.
    let _ = answer(socket);
}

fn answer(socket: &Socket) -> io::Result<()> {
    use std::io::{Read as _, Write as _};
    let mut request = [0; READ_BEFORE_REFUSAL];
    match socket {
        Socket::Unix(stream) => {
            stream.set_nonblocking(true)?;
            let _ = (&mut &*stream).read(&mut request);
            (&mut &*stream).write_all(REFUSAL.as_bytes())
        }
        Socket::Tcp(stream) => {
            stream.set_nonblocking(true)?;
            let _ = (&mut &*stream).read(&mut request);
            (&mut &*stream).write_all(REFUSAL.as_bytes())
        }
    }
}

/// Accepts on the admin socket, and serves there until it is stopped and the requests under way are answered.
async fn accept_admin(
    listening: Arc<Listening>,
    admin: Arc<Admin>,
    inherited: Vec<Stream>,
    left: Left,
    answering: Arc<Mutex<JoinSet<()>>>,
    mut ended: watch::Receiver<Ending>,
) -> io::Result<()> {
    let max = limits::max_admin_connections();
    let mut serving = JoinSet::new();
    let until = ended.clone();
    let serve = |serving: &mut JoinSet<()>, stream: Stream| {
        let stream = match stream.attach() {
            Ok(stream) => stream,
            Err(error) => return tracing::warn!(%error, "a connection on the admin socket was dropped"),
        };
        let (admin, left, ended) = (Arc::clone(&admin), Arc::clone(&left), until.clone());
        serving.spawn(async move {
            if let Some(stream) = admin.serve(stream, ended).await {
                left.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
            }
        });
    };
    for stream in inherited {
        serve(&mut serving, stream);
    }
    let accepted = loop {
        tokio::select! {
            socket = listening.accept(), if serving.len() < max => match socket {
                Ok(socket) => serve(&mut serving, Stream::new(socket)),
                Err(error) => break Err(error),
            },
            Some(_) = serving.join_next() => {}
            _ = ended.wait_for(|ending| *ending != Ending::No) => break Ok(()),
        }
    };
    // A request that waits for the outcome of this very pause is answered later.
    while serving.len() > admin.reloads.waiting() && serving.join_next().await.is_some() {}
    *answering.lock().unwrap_or_else(PoisonError::into_inner) = serving;
    accepted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_is_as_long_as_it_says() {
        let (head, body) = REFUSAL.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{}", body.len());
    }

    #[tokio::test]
    async fn a_listening_socket_that_is_lost_ends_the_accepting_with_the_reason() {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
        // A socket that does not listen: accept(2) says EINVAL.
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let listener = socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
        let listener = std::os::unix::net::UnixListener::from(listener);
        let listening = Listening::Unix(UnixListener::from_std(listener).unwrap());
        let lost = timeout(Duration::from_secs(20), listening.accept()).await.unwrap();
        assert!(is_lost(&lost.err().unwrap()));
    }
}
