//! Accepts connections on the public socket and on the admin sockets. Accepting can be paused and resumed. It parses nothing.
//!
//! Invariants:
//! - An error ends one connection only. If the listening socket itself is lost, the process ends, because it could accept nothing more.
//! - The public socket leaves enough file descriptors for publishing, sources and upgrades: over the limit, a connection is answered
//!   with 503 and closed.

use std::{
    future::poll_fn,
    io, mem,
    os::fd::{AsFd as _, RawFd},
    slice,
    sync::{Arc, Mutex},
    task::{Context, Poll},
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

use super::exit_guard::{ExitGuard, ExitGuards};
use crate::{
    admin::{Admin, Ending},
    client_limit::ClientLimit,
    log_rate::LogRate,
    metrics::Metrics,
    process::{
        limits,
        listen::{Listener, ListeningSocket},
        sockets::Sockets,
    },
    shard::{Op, Queue},
    stream::{Socket, Stream},
};

/// Pause of accepting when the process or the system has no file descriptors left.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);
/// Pause of accepting after any other error, so that a permanent error does not use a whole core.
const AFTER_ERROR: Duration = Duration::from_millis(1);
/// At an upgrade, longest wait for a publish whose request has not arrived completely. All clients wait during that time.
const TO_BE_WHOLE: Duration = Duration::from_millis(200);
/// At an upgrade, longest wait for a client that does not read its answer. All clients wait during that time.
const TO_BE_READ: Duration = Duration::from_secs(3);

/// Most bytes of a request that are read before a connection over the limit is refused. If nothing were read, the kernel could
/// discard the answer when the socket is closed.
const READ_BEFORE_REFUSAL: usize = 16 << 10;
/// The answer to a connection over the limit.
const REFUSAL: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 135\r\n\
    Cache-Control: no-store\r\nRetry-After: 3\r\nConnection: close\r\n\r\n\
    {\"status\":\"error\",\"code\":\"too_many_connections\",\
    \"error\":\"as many connections are open as files may be (LimitNOFILE): try again later\"}\n";

/// Where connections of the public socket go, and their limit.
#[derive(Clone)]
pub(super) struct PublicSide {
    /// The queues of the shards, which get connections in turn.
    pub(super) queues: Vec<Arc<Queue>>,
    pub(super) limit: Arc<ClientLimit>,
    pub(super) metrics: Arc<Metrics>,
    /// Report an accept loop that ends by itself.
    pub(super) exit_guards: ExitGuards,
}

/// Connections of the admin socket that are open, without a request under way.
type Left = Arc<Mutex<Vec<Stream>>>;

/// A listening socket, registered with the runtime.
enum Listening {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// Duplicated descriptors of all listening sockets, made in advance, so that pausing and resuming can't fail.
#[derive(Clone)]
pub(super) struct Listeners {
    public: Arc<Listening>,
    admin: Arc<[Listening]>,
}

/// Accepts on all sockets until it is paused.
pub(super) struct Accepting {
    listeners: Listeners,
    side: PublicSide,
    service: Arc<Admin>,
    /// Whether accepting and the connections of the admin socket are to end. If it is dropped, accepting ends.
    ending: watch::Sender<Ending>,
    /// Accepts on the public socket; ends at each pause.
    public: JoinHandle<()>,
    /// The number of connections of the admin socket with a request under way, while accepting is paused; else `None`.
    under_way: watch::Receiver<Option<usize>>,
    left: Left,
}

impl Listeners {
    /// Duplicates all sockets and registers them with the current runtime. Accepts nothing.
    ///
    /// # Errors
    /// No file descriptors are left.
    pub(super) fn new(sockets: &Sockets) -> io::Result<Self> {
        let admin = sockets.admin.iter().map(Listening::new).collect::<Result<_, _>>()?;
        Ok(Self { public: Arc::new(Listening::new(&sockets.public)?), admin })
    }
}

impl Accepting {
    /// Starts accepting, and serves `inherited` connections of the admin socket.
    pub(super) fn start(listeners: Listeners, side: PublicSide, service: Arc<Admin>, inherited: Vec<Stream>) -> Self {
        let (ending, ended) = watch::channel(Ending::No);
        let (count, under_way) = watch::channel(None);
        let left = Arc::new(Mutex::new(inherited));
        let public = spawn_public(&listeners, &side, ending.subscribe());
        let guard = side.exit_guards.guard("accepting on the admin socket");
        let admin =
            AdminSide { listening: Arc::clone(&listeners.admin), admin: Arc::clone(&service), left: Arc::clone(&left) };
        tokio::spawn(async move { finish(guard, admin.accept(count, ended).await) });
        Self { listeners, side, service, ending, public, under_way, left }
    }

    /// Stops accepting, and resolves when no request is under way on the admin socket, except the one for this reload. It can be
    /// cancelled at any time; then call [`Accepting::resume`].
    ///
    /// # Errors
    /// A request has taken longer than `within`.
    pub(super) async fn pause(&mut self, within: Duration) -> anyhow::Result<()> {
        let paused = timeout(within, self.end(TO_BE_WHOLE)).await;
        paused.with_context(|| {
            let publishers = self.service.publishers.names();
            format!(
                "a publish under way takes longer than {within:?} ({publishers}): see why its source does not answer"
            )
        })
    }

    /// After [`Accepting::pause`]: the descriptors of the open connections on the admin socket, each with the bytes that were read
    /// and not used.
    pub(super) fn left(&self) -> Vec<(RawFd, Bytes)> {
        crate::lock::lock(&self.left).iter().map(Stream::peek).collect()
    }

    /// After [`Accepting::pause`]: waits until the request for the reload is answered, at most for `within`.
    pub(super) async fn answer_all(&self, within: Duration) {
        // This process ends anyway, so it does not wait longer for a client that does not read its answer.
        let _ = timeout(within, self.under_way.clone().wait_for(|count| *count == Some(0))).await;
    }

    /// Resumes after [`Accepting::pause`], with the same connections: also those whose request outlasted the pause.
    pub(super) fn resume(&mut self) {
        self.ending.send_replace(Ending::No);
        // If the pause was cancelled before the task noticed it, the task continues.
        if self.public.is_finished() {
            self.public = spawn_public(&self.listeners, &self.side, self.ending.subscribe());
        }
    }

    /// Stops accepting, and resolves when all requests under way on the admin socket are answered. A request that has not arrived
    /// completely `within` the time is refused; a connection whose client does not read its answer is closed a little later.
    pub(super) async fn stop(mut self, within: Duration) {
        self.end(within).await;
    }

    async fn end(&mut self, within: Duration) {
        self.ending.send_replace(Ending::Within(within));
        if !self.public.is_finished() {
            // It panicked, or ended: in either case it accepts no more.
            let _ = (&mut self.public).await;
        }
        let reloads = &self.service.reloads;
        let may_wait = |count: &Option<usize>| count.is_some_and(|count| count <= reloads.waiting());
        // An error of `wait_for` means that the admin socket is lost: the process ends.
        if timeout(within.max(TO_BE_READ), self.under_way.wait_for(may_wait)).await.is_err() {
            self.ending.send_replace(Ending::Now);
            let _ = self.under_way.wait_for(may_wait).await;
        }
    }
}

fn spawn_public(listeners: &Listeners, side: &PublicSide, ended: watch::Receiver<Ending>) -> JoinHandle<()> {
    let guard = side.exit_guards.guard("accepting on the public socket");
    let (public, side) = (Arc::clone(&listeners.public), side.clone());
    tokio::spawn(async move { finish(guard, accept_public(&public, &side, ended).await) })
}

impl Listening {
    fn new(listener: &Listener) -> io::Result<Self> {
        let fd = listener.as_fd().try_clone_to_owned()?;
        Ok(match listener.socket() {
            ListeningSocket::Unix(_) => Self::Unix(UnixListener::from_std(fd.into())?),
            ListeningSocket::Tcp(_) => Self::Tcp(TcpListener::from_std(fd.into())?),
        })
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Socket>> {
        match self {
            Self::Unix(listener) => listener
                .poll_accept(cx)
                .map(|accepted| accepted.and_then(|(stream, _)| stream.into_std()).map(Socket::Unix)),
            Self::Tcp(listener) => listener
                .poll_accept(cx)
                .map(|accepted| accepted.and_then(|(stream, _)| stream.into_std()).map(Socket::Tcp)),
        }
    }
}

/// The next connection of any of the sockets. `turn` counts the connections: the socket that is asked first changes with it, so
/// that no socket keeps the others waiting.
///
/// # Errors
/// One of the listening sockets is lost.
async fn accept(listening: &[Listening], turn: &mut usize) -> io::Result<Socket> {
    loop {
        *turn = turn.wrapping_add(1);
        let (later, first) = listening.split_at(*turn % listening.len().max(1));
        let accepted = poll_fn(|cx| {
            for socket in first.iter().chain(later) {
                if let Poll::Ready(accepted) = socket.poll_accept(cx) {
                    return Poll::Ready(accepted);
                }
            }
            Poll::Pending
        });
        match accepted.await {
            Ok(socket) => return Ok(socket),
            Err(error) if is_lost(&error) => return Err(error),
            Err(error) => pause_after(&error).await,
        }
    }
}

/// Whether an error of accept(2) means that the listening socket will never accept again.
fn is_lost(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP))
}

/// Logs an error of one accept, and pauses, so that file descriptors can become free.
async fn pause_after(error: &io::Error) {
    static RATE: LogRate = LogRate::new();
    if let Some(count) = RATE.count() {
        tracing::warn!(%error, count, "a connection could not be accepted; if no file descriptors are left, raise LimitNOFILE");
    }
    let out = matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM));
    sleep(if out { OUT_OF_DESCRIPTORS } else { AFTER_ERROR }).await;
}

/// Handles the end of an accept loop: it was stopped, or its socket is lost.
fn finish(mut exit_guard: ExitGuard, ended: io::Result<()>) {
    match ended {
        Ok(()) => exit_guard.disarm(),
        Err(error) => exit_guard.note(&error),
    }
}

/// Accepts on the public socket, and passes the connections to the shards in turn.
async fn accept_public(listening: &Listening, side: &PublicSide, mut ended: watch::Receiver<Ending>) -> io::Result<()> {
    let PublicSide { queues, limit, metrics, .. } = side;
    let accepting = async {
        let mut turn = 0;
        for queue in queues.iter().cycle() {
            let socket = accept(slice::from_ref(listening), &mut turn).await?;
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

/// Refuses a connection over the limit. It does not wait for the client to read the answer.
fn refuse(socket: &Socket, connections: usize) {
    static RATE: LogRate = LogRate::new();
    if let Some(count) = RATE.count() {
        tracing::warn!(
            connections,
            count,
            "connections are refused: as many are open as the limit of open files allows"
        );
    }
    // An error is ignored: the connection is closed anyway.
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

/// Accepts on the admin sockets and serves their connections.
struct AdminSide {
    listening: Arc<[Listening]>,
    admin: Arc<Admin>,
    left: Left,
}

impl AdminSide {
    /// Accepts while `ended` allows it, and serves the connections that were left whenever it allows it again. Ends when the
    /// sender of `ended` is dropped; requests under way continue. `under_way`: see [`Accepting`].
    ///
    /// # Errors
    /// One of the listening sockets is lost.
    async fn accept(
        self,
        under_way: watch::Sender<Option<usize>>,
        mut ended: watch::Receiver<Ending>,
    ) -> io::Result<()> {
        let max = limits::max_admin_connections();
        let (mut serving, mut turn) = (JoinSet::new(), 0);
        loop {
            let accepts = *ended.borrow_and_update() == Ending::No;
            if accepts {
                for stream in mem::take(&mut *crate::lock::lock(&self.left)) {
                    self.serve(&mut serving, stream, &ended);
                }
            }
            let count = (!accepts).then(|| serving.len());
            under_way.send_if_modified(|before| mem::replace(before, count) != count);
            tokio::select! {
                socket = accept(&self.listening, &mut turn), if accepts && serving.len() < max => {
                    self.serve(&mut serving, Stream::new(socket?), &ended);
                }
                Some(_) = serving.join_next() => {}
                changed = ended.changed() => if changed.is_err() {
                    serving.detach_all();
                    return Ok(());
                }
            }
        }
    }

    fn serve(&self, serving: &mut JoinSet<()>, mut stream: Stream, ended: &watch::Receiver<Ending>) {
        let (admin, left, ended) = (Arc::clone(&self.admin), Arc::clone(&self.left), ended.clone());
        serving.spawn(async move {
            loop {
                let attached = match stream.attach() {
                    Ok(attached) => attached,
                    Err(error) => return tracing::warn!(%error, "a connection on the admin socket was dropped"),
                };
                let Some(after) = Arc::clone(&admin).serve(attached, ended.clone()).await else { return };
                {
                    // The lock is held, so that a connection is not put here after the others were taken.
                    let mut left = crate::lock::lock(&left);
                    if *ended.borrow() != Ending::No {
                        left.push(after);
                        return;
                    }
                }
                // The upgrade failed before its request was answered: it is served here again.
                stream = after;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_length_of_the_refusal_is_right() {
        let (head, body) = REFUSAL.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{}", body.len());
    }

    #[tokio::test]
    async fn accept_returns_the_error_of_a_lost_listening_socket() {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
        // A socket that does not listen: accept(2) fails with EINVAL.
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let listener = socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
        let listener = std::os::unix::net::UnixListener::from(listener);
        let listening = Listening::Unix(UnixListener::from_std(listener).unwrap());
        let lost = timeout(Duration::from_secs(20), accept(&[listening], &mut 0)).await.unwrap();
        assert!(is_lost(&lost.err().unwrap()));
    }
}
