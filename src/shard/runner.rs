//! A shard's loop.

use std::{cell::RefCell, future::Future, io, mem, os::fd::OwnedFd, pin::Pin, rc::Rc, sync::Arc, time::Duration};

use nix::sys::epoll::{Epoll, EpollCreateFlags};
use slab::Slab;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::oneshot,
    task::LocalSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{
    core::Shard,
    frames::Joined,
    handle::{Connections, ShardHandle},
    queue::{Op, Queue},
    wheel::Wheel,
};
use crate::{
    broker::Dispatcher, client_limit::ClientLimit, config::Config, cursor::Cursor, gzip::Deflater, hub::Hub,
    metrics::Metrics, snapshot::Transfer, stream::Stream,
};

/// Most times that so many are handled when a window of `stream.coalesce` is over.
const TURNS_A_WINDOW: usize = 64;
/// How long requests under way may take before the shard counts as settled all the same.
const SETTLE: Duration = Duration::from_secs(1);

/// What a shard is made of.
pub struct Parts {
    /// Its number among the shards.
    pub number: usize,
    /// The configuration.
    pub config: Arc<Config>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The limit on clients.
    pub client_limit: Arc<ClientLimit>,
    /// Where channels are asked for.
    pub dispatcher: Arc<Dispatcher>,
    /// What it does.
    pub queue: Arc<Queue>,
    /// Where it begins.
    pub cursor: Cursor,
    /// Whether sources must be asked for channels.
    pub on_demand: bool,
    /// What it takes over from a shard of another process.
    pub inherited: Option<Transfer>,
}

/// Serves a connection on the shard's thread until it ends or is given to the shard.
pub type ServeConnection = Rc<dyn Fn(Stream, ShardHandle) -> Pin<Box<dyn Future<Output = ()>>>>;

/// Runs a shard on the current thread, which it needs for itself, until `stopped` resolves. Everything that can fail is made
/// first, and `made` learns whether that went well; nothing is written to a client before `gate` resolves to true. Where it
/// resolves to false, the shard ends.
///
/// # Errors
/// The shard's epoll fails; or one of its parts can't be made, which `made` learns as well.
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
            let _ = made.send(Err(error.to_string())); // Its receiver may have given up.
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
            let driver = Driver { handle, queue: &queue, serve, ops: Vec::new(), settling: None, freezing: None };
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

impl Shard {
    pub(super) fn new(parts: Parts) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let Parts { number, config, metrics, client_limit, dispatcher, cursor, on_demand, .. } = parts;
        Ok(Self {
            number,
            hub: Hub::new(cursor, config.history.clone(), on_demand),
            wheel: Wheel::new(config.stream.ping_interval),
            config,
            metrics,
            client_limit,
            dispatcher,
            clients: Slab::new(),
            generation: 0,
            ended: Vec::new(),
            epoll,
            joined: Joined::default(),
            unsent_bytes: 0,
            deflater: Deflater::default(),
            waiting: std::collections::HashMap::new(),
            draining: None,
            stalled: 0,
            unlogged_gaps: 0,
        })
    }
}

struct Driver<'a> {
    handle: ShardHandle,
    queue: &'a Queue,
    serve: &'a ServeConnection,
    /// What was taken from the queue and not done yet.
    ops: Vec<Op>,
    /// Who waits for requests under way to end, and until when.
    settling: Option<(oneshot::Sender<()>, Instant)>,
    /// Who wants the shard frozen.
    freezing: Option<oneshot::Sender<Transfer>>,
}

impl Driver<'_> {
    async fn drive(&mut self, readiness: AsyncFd<OwnedFd>) -> io::Result<()> {
        let mut ticks = interval(self.handle.shard.borrow().wheel.tick());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seconds = interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let coalesce = self.handle.shard.borrow().config.stream.coalesce;
        // When what is gathered is to be sent.
        let mut send_at = None;
        loop {
            send_at = match self.handle.shard.borrow().unsent_bytes {
                0 => None,
                _ => send_at.or_else(|| Some(Instant::now() + coalesce)),
            };
            let until = self.settling.as_ref().map(|(_, until)| *until);
            tokio::select! {
                () = self.queue.filled() => {
                    self.queue.take(&mut self.ops);
                    self.turn();
                }
                () = sleep_until(send_at.unwrap_or_else(Instant::now)), if send_at.is_some() => {
                    let mut shard = self.handle.shard.borrow_mut();
                    let mut shard = shard.flush();
                    // However soon the next window opens, clients have their turn.
                    for _ in 0..TURNS_A_WINDOW {
                        if !shard.on_events()? {
                            break;
                        }
                    }
                }
                // While a batch waits for its window, client readiness waits too: it would end the window.
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
            let settled = self.handle.connections.open.get() == 0 || until.is_some_and(|until| until <= Instant::now());
            if settled && let Some((wanted, _)) = self.settling.take() {
                // If nobody waits any more, the word to go on follows.
                let _ = wanted.send(());
            }
            if let Some(wanted) = self.freezing.take() {
                self.freeze(wanted).await;
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

    /// Does what was taken from the queue.
    fn turn(&mut self) {
        let turned = self.handle.shard.borrow_mut().turn(&mut self.ops);
        if self.ops.capacity() > 1 << 16 {
            self.ops = Vec::new(); // A burst's buffer is not kept.
        }
        self.spawn(turned.accepted);
        if turned.thaw {
            (self.settling, self.freezing) = (None, None);
            self.thaw();
        }
        self.freezing = turned.freeze;
        if let Some(wanted) = turned.settle {
            self.settling = Some((wanted, Instant::now() + SETTLE));
            self.handle.connections.leaving.set(true);
            self.handle.connections.leave.notify_waiters();
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

    /// Gives away what the shard holds, and does nothing until it is told to go on; then everything is as it was.
    async fn freeze(&mut self, wanted: oneshot::Sender<Transfer>) {
        let handed = mem::take(&mut *self.handle.connections.handed.borrow_mut());
        let mut frozen = self.handle.shard.borrow().freeze();
        for connection in &handed {
            let (fd, unread) = connection.peek();
            frozen.add_connection(fd, unread);
        }
        // If nobody wants it any more, the word to go on follows.
        let _ = wanted.send(frozen);
        let mut waiting = Vec::new();
        loop {
            self.queue.filled().await;
            self.queue.take(&mut self.ops);
            waiting.append(&mut self.ops);
            if let Some(at) = waiting.iter().position(|op| matches!(op, Op::Thaw)) {
                waiting.remove(at);
                break;
            }
        }
        self.spawn(handed);
        self.thaw();
        self.ops = waiting;
        self.turn();
    }

    /// Keeps connections again, those as well that were handed on too late to be given away.
    fn thaw(&self) {
        self.handle.connections.leaving.set(false);
        self.spawn(mem::take(&mut *self.handle.connections.handed.borrow_mut()));
    }
}
