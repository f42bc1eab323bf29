//! Runs a shard: its loop, its thread's runtime, and the upgrade's phases. It touches no client itself.

use std::{cell::RefCell, future::Future, io, mem, os::fd::OwnedFd, pin::Pin, rc::Rc, sync::Arc, time::Duration};

use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::oneshot,
    task::LocalSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{
    core::Shard,
    handle::{Connections, ShardHandle},
    parts::Parts,
    queue::{Op, Queue},
};
use crate::{snapshot::Transfer, stream::Stream};

/// After a flush of `stream.coalesce`, epoll events are handled in up to this many turns before the next flush may wait again.
const TURNS_A_WINDOW: usize = 64;
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
            let shard = Rc::new(RefCell::new(shard));
            let handle = ShardHandle { shard, connections: Rc::new(Connections::default()) };
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
            driver.handle.shard.borrow_mut().flush().serve_inherited();
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
        let mut ticks = interval(self.handle.shard.borrow().wheel.tick());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seconds = interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let coalesce = self.handle.shard.borrow().config.stream.coalesce;
        // When the batches are to be sent; `None` if they are empty.
        let mut send_at = None;
        loop {
            send_at = match self.handle.shard.borrow().unsent_bytes {
                0 => None,
                _ => send_at.or_else(|| Some(Instant::now() + coalesce)),
            };
            let until = self.pausing.as_ref().map(|(_, until)| *until);
            tokio::select! {
                () = self.queue.filled() => {
                    self.queue.take(&mut self.ops);
                    self.turn();
                }
                () = sleep_until(send_at.unwrap_or_else(Instant::now)), if send_at.is_some() => {
                    let mut shard = self.handle.shard.borrow_mut();
                    let mut shard = shard.flush();
                    // Client readiness waits while batches do. So it is handled now, however soon the next batch begins.
                    for _ in 0..TURNS_A_WINDOW {
                        if !shard.on_events()? {
                            break;
                        }
                    }
                }
                // While batches wait for `stream.coalesce`, client readiness waits too: handling it would send them at once.
                guard = readiness.readable(), if send_at.is_none() => {
                    let mut guard = guard?;
                    if !self.handle.shard.borrow_mut().flush().on_events()? {
                        guard.clear_ready();
                    }
                }
                _ = ticks.tick() => self.handle.shard.borrow_mut().flush().tick(),
                _ = seconds.tick() => self.handle.shard.borrow_mut().flush().every_second(),
                () = self.handle.connections.ended.notified(), if until.is_some() => {}
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {}
            }
            let paused = self.handle.connections.open.get() == 0 || until.is_some_and(|until| until <= Instant::now());
            if paused && let Some((wanted, _)) = self.pausing.take() {
                let unread = self.handle.connections.open.get();
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
        let epoll = self.handle.shard.borrow().epoll.0.try_clone()?;
        #[expect(unsafe_code, reason = "the only way to wait for a descriptor of one's own")]
        // SAFETY: an OwnedFd is open, and stays the same, until it is dropped with the AsyncFd that owns it.
        let readiness = unsafe { AsyncFd::register_with_interest(epoll, Interest::READABLE) }?;
        Ok(readiness)
    }

    /// Does the operations that were taken from the queue.
    fn turn(&mut self) {
        let turned = self.handle.shard.borrow_mut().turn(&mut self.ops);
        if self.ops.capacity() > 1 << 16 {
            self.ops = Vec::new(); // The large buffer of a burst is freed.
        }
        self.spawn(turned.accepted);
        if turned.resume {
            (self.pausing, self.capturing) = (None, None);
            self.resume();
        }
        self.capturing = turned.capture;
        if let Some(wanted) = turned.pause {
            self.pausing = Some((wanted, Instant::now() + PAUSE_LIMIT));
            self.handle.connections.pausing.set(true);
            self.handle.connections.pause.notify_waiters();
        }
    }

    fn spawn(&self, accepted: Vec<Stream>) {
        for stream in accepted {
            let connections = Rc::clone(&self.handle.connections);
            let serving = (self.serve)(stream, self.handle.clone());
            let open = Connections::open(&connections);
            tokio::task::spawn_local(async move {
                serving.await;
                drop(open);
            });
        }
    }

    /// Sends a snapshot of the shard, and does nothing until [`Op::Resume`]. Then it does the operations that have arrived.
    async fn capture(&mut self, wanted: oneshot::Sender<Transfer>) {
        let kept = mem::take(&mut *self.handle.connections.kept.borrow_mut());
        let mut snapshot = self.handle.shard.borrow().capture();
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
        self.handle.connections.pausing.set(false);
        self.spawn(mem::take(&mut *self.handle.connections.kept.borrow_mut()));
    }
}
