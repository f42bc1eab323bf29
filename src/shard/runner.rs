//! Runs a shard: its loop, its thread's runtime, and the upgrade's phases. It touches no client itself.

use std::{future::Future, io, os::fd::OwnedFd, pin::Pin, rc::Rc, sync::Arc, time::Duration};

use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::oneshot,
    task::LocalSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{
    connections::Connections,
    core::Shard,
    handle::ShardHandle,
    parts::Parts,
    queue::{Op, Queue},
    window::Window,
};
use crate::{snapshot::Transfer, stream::Stream};

/// How long [`Op::Pause`] waits for clients that do not read their answers. Requests without an answer cross to the successor.
const PAUSE_LIMIT: Duration = Duration::from_secs(1);

/// Serves a connection on the shard's thread until the connection ends or is given to the shard.
pub type ServeConnection = Rc<dyn Fn(Stream, ShardHandle) -> Pin<Box<dyn Future<Output = ()>>>>;

/// Runs a shard on the current thread until `stopped` resolves. The thread does nothing else.
///
/// First everything is made that can fail. `made` gets the result. Nothing is written to a client before `gate` resolves to true.
/// If `gate` resolves to false, the shard ends.
///
/// # Errors
/// A part of the shard can't be made (`made` gets that too), or its epoll fails later.
pub fn run(
    mut parts: Parts,
    serve: &ServeConnection,
    made: oneshot::Sender<Result<(), String>>,
    gate: impl Future<Output = bool>,
    stopped: impl Future<Output = ()>,
) -> io::Result<()> {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = made.send(Err(error.to_string())); // The receiver may have given up.
            return Err(error);
        }
    };
    let local = LocalSet::new();
    runtime.block_on(local.run_until(async {
        let queue = Arc::clone(&parts.queue);
        let inherited = parts.inherited.take();
        let making = || {
            let mut shard = Shard::new(parts)?;
            let connections = inherited.map(|transfer| shard.inherit(transfer)).transpose()?.unwrap_or_default();
            let handle = ShardHandle::new(shard);
            let driver = Driver { handle, queue: &queue, serve, ops: Vec::new(), pausing: None, capturing: None };
            let readiness = driver.epoll_readiness()?;
            Ok::<_, io::Error>((driver, readiness, connections))
        };
        let (mut driver, readiness, connections) = match making() {
            Ok(all) => all,
            Err(error) => {
                let _ = made.send(Err(error.to_string()));
                return Err(error);
            }
        };
        let _ = made.send(Ok(()));
        let driving = async {
            if !gate.await {
                return Ok(());
            }
            driver.handle.shard().flush().serve_inherited();
            driver.spawn(connections);
            driver.drive(readiness).await
        };
        tokio::select! {
            ended = driving => ended,
            () = stopped => Ok(()),
        }
    }))
}

struct Driver<'a> {
    handle: ShardHandle,
    queue: &'a Queue,
    serve: &'a ServeConnection,
    /// Operations that were taken from the queue and not done yet.
    ops: Vec<Op>,
    /// Set by [`Op::Pause`] until requests under way have ended: whom to report it to, and the time limit.
    pausing: Option<(oneshot::Sender<()>, Instant)>,
    /// Set by [`Op::Capture`]: where to send the snapshot.
    capturing: Option<oneshot::Sender<Transfer>>,
}

impl Driver<'_> {
    async fn drive(&mut self, readiness: AsyncFd<OwnedFd>) -> io::Result<()> {
        let mut ticks = interval(self.handle.shard().clients.tick());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seconds = interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut window = Window::new(self.handle.shard().config().stream.coalesce);
        loop {
            window.update(self.handle.shard().hub.unsent_bytes() > 0);
            let until = self.pausing.as_ref().map(|(_, until)| *until);
            tokio::select! {
                () = self.queue.filled() => {
                    self.queue.take(&mut self.ops);
                    self.turn();
                }
                () = window.ended() => {
                    let mut shard = self.handle.shard();
                    let mut shard = shard.flush();
                    Window::serve_ready(|| shard.on_events())?;
                }
                // While batches wait for `stream.coalesce`, client readiness waits too: handling it would send them at once.
                guard = readiness.readable(), if !window.is_open() => {
                    let mut guard = guard?;
                    if !self.handle.shard().flush().on_events()? {
                        guard.clear_ready();
                    }
                }
                _ = ticks.tick() => self.handle.shard().flush().tick(),
                _ = seconds.tick() => self.handle.shard().flush().every_second(),
                () = self.handle.connections().ended(), if until.is_some() => {}
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {}
            }
            let paused = self.handle.connections().count() == 0 || until.is_some_and(|until| until <= Instant::now());
            if paused && let Some((wanted, _)) = self.pausing.take() {
                let unread = self.handle.connections().count();
                if unread > 0 {
                    tracing::warn!(
                        unread,
                        "connections on the public socket are not taken over: their clients do not read their answers"
                    );
                }
                let _ = wanted.send(()); // If the receiver has given up, `Op::Resume` follows.
            }
            if let Some(wanted) = self.capturing.take() {
                self.capture(wanted).await;
                ticks.reset();
            }
        }
    }

    fn epoll_readiness(&self) -> io::Result<AsyncFd<OwnedFd>> {
        // A second descriptor of the same epoll, so that waiting for it borrows nothing of the shard.
        let epoll = self.handle.shard().clients.clone_epoll()?;
        #[expect(unsafe_code, reason = "the only way to wait for a descriptor of one's own")]
        // SAFETY: an OwnedFd is open, and stays the same, until it is dropped with the AsyncFd that owns it.
        let readiness = unsafe { AsyncFd::register_with_interest(epoll, Interest::READABLE) }?;
        Ok(readiness)
    }

    /// Does the operations that were taken from the queue.
    fn turn(&mut self) {
        let turned = self.handle.shard().turn(&mut self.ops);
        if self.ops.capacity() > 1 << 16 {
            self.ops = Vec::new(); // The large buffer of a burst is freed.
        }
        self.spawn(turned.accepted);
        if let Some((spread, gone)) = turned.drain {
            self.handle.connections().begin_draining(spread, gone);
        }
        if turned.resume {
            (self.pausing, self.capturing) = (None, None);
            self.resume();
        }
        self.capturing = turned.capture;
        if let Some(wanted) = turned.pause {
            self.pausing = Some((wanted, Instant::now() + PAUSE_LIMIT));
            self.handle.connections().begin_pause();
        }
    }

    fn spawn(&self, accepted: Vec<Stream>) {
        for stream in accepted {
            let serving = (self.serve)(stream, self.handle.clone());
            let open = Connections::open(self.handle.connections());
            tokio::task::spawn_local(async move {
                serving.await;
                drop(open);
            });
        }
    }

    /// Sends a snapshot of the shard, and does nothing until [`Op::Resume`]. Then it does the operations that have arrived.
    async fn capture(&mut self, wanted: oneshot::Sender<Transfer>) {
        let kept = self.handle.connections().take_kept();
        let mut snapshot = self.handle.shard().capture();
        for connection in &kept {
            let (fd, unread) = connection.peek();
            snapshot.add_connection(fd, unread);
        }
        let _ = wanted.send(snapshot); // If the receiver has given up, `Op::Resume` follows.
        let mut waiting = Vec::new();
        loop {
            self.queue.filled().await;
            self.queue.take(&mut self.ops);
            waiting.append(&mut self.ops);
            if let Some(at) = waiting.iter().position(|op| matches!(op, Op::Resume)) {
                waiting.remove(at);
                break;
            }
        }
        self.spawn(kept);
        self.resume();
        self.ops = waiting;
        self.turn();
    }

    /// Serves connections again, including those that were kept for the successor after the snapshot.
    fn resume(&self) {
        self.handle.connections().end_pause();
        self.spawn(self.handle.connections().take_kept());
    }
}
