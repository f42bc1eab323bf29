//! A shard's loop, and what the other rooms of its thread may ask of it.

use std::{cell::RefCell, future::Future, io, os::fd::OwnedFd, pin::Pin, rc::Rc, sync::Arc, time::Duration};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollTimeout};
use slab::Slab;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::oneshot,
    task::LocalSet,
    time::{MissedTickBehavior, interval},
};

use super::{Dispatcher, Joining, Queue, Shard, Stream, now_micros, wheel::Wheel, writer::Joined};
use crate::{
    config::Config,
    cursor::Cursor,
    event::ChannelName,
    hub::{ChannelId, Feed, Hub},
    metrics::Metrics,
};

/// Most epoll events that are handled before the queue has its turn.
const EVENTS_A_TURN: usize = 256;

/// A shard, as the requests that its thread parses see it.
#[derive(Clone)]
pub struct ShardHandle(Rc<RefCell<Shard>>);

/// Channels that a request needs, kept from being forgotten while it waits.
pub struct Hold {
    handle: ShardHandle,
    channels: Vec<ChannelId>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut shard = self.handle.0.borrow_mut();
        for &id in &self.channels {
            shard.hub.release(id, now_micros());
        }
    }
}

impl ShardHandle {
    /// Holds the channels, and waits until their events arrive or a source is known to be away.
    pub async fn hold(&self, names: &[ChannelName]) -> Hold {
        let mut hold = Hold { handle: self.clone(), channels: Vec::with_capacity(names.len()) };
        let mut answers = Vec::new();
        {
            let shard = &mut *self.0.borrow_mut();
            for name in names {
                let id = shard.hub.hold(name);
                hold.channels.push(id);
                if !shard.is_fed(id, name) {
                    let (answer, answered) = oneshot::channel();
                    shard.waiting.entry(id).or_default().push(answer);
                    answers.push(answered);
                }
            }
        }
        for answered in answers {
            // An answer that never comes is a shard that has ended, and this task with it.
            let _ = answered.await;
        }
        hold
    }

    /// Gives a connection to the shard, which owns it from now on.
    pub fn attach(&self, fd: OwnedFd, joining: Joining, hold: Hold) {
        self.0.borrow_mut().attach(fd, joining, &hold.channels);
    }

    /// Looks at the shard.
    pub fn with<T>(&self, look: impl FnOnce(&Shard) -> T) -> T {
        look(&self.0.borrow())
    }
}

impl Shard {
    /// Whether the channel's events arrive; asks for them if need be.
    fn is_fed(&mut self, id: ChannelId, name: &ChannelName) -> bool {
        if !self.hub.is_on_demand() {
            return true;
        }
        let (feed, wanted) = self.hub.feed(id);
        if wanted {
            return feed == Feed::Open;
        }
        self.hub.set_wanted(id, true);
        // It may be open for another shard, and have been let go since this one has last looked.
        self.dispatcher.want(self.number, name) && feed == Feed::Open
    }
}

/// What a shard is made of.
pub struct Parts {
    /// Its number among the shards.
    pub number: usize,
    /// The configuration.
    pub config: Arc<Config>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Where channels are asked for.
    pub dispatcher: Arc<Dispatcher>,
    /// What it does.
    pub queue: Arc<Queue>,
    /// Where it begins.
    pub cursor: Cursor,
    /// Whether sources must be asked for channels.
    pub on_demand: bool,
}

/// Serves a connection on the shard's thread until it ends or is given to the shard.
pub type ServeConnection = Rc<dyn Fn(Stream, ShardHandle) -> Pin<Box<dyn Future<Output = ()>>>>;

/// Runs a shard on the current thread, which it needs for itself, until `stopped` resolves.
///
/// # Errors
/// What the operating system says when the runtime or the epoll can't be made.
pub fn run(parts: Parts, serve: &ServeConnection, stopped: impl Future<Output = ()>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    runtime.block_on(local.run_until(async {
        let queue = Arc::clone(&parts.queue);
        let handle = ShardHandle(Rc::new(RefCell::new(Shard::new(parts)?)));
        tokio::select! {
            error = drive(&handle, &queue, serve) => error,
            () = stopped => Ok(()),
        }
    }))
}

impl Shard {
    fn new(parts: Parts) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let Parts { number, config, metrics, dispatcher, cursor, on_demand, .. } = parts;
        Ok(Self {
            number,
            hub: Hub::new(cursor, config.history.clone(), on_demand),
            wheel: Wheel::new(config.stream.ping_interval),
            config,
            metrics,
            dispatcher,
            clients: Slab::new(),
            generation: 0,
            dead: Vec::new(),
            epoll,
            joined: Joined::default(),
            waiting: std::collections::HashMap::new(),
            draining: None,
            untold_gaps: 0,
        })
    }

    /// Handles what epoll has to say; true if it may have more.
    fn on_events(&mut self) -> io::Result<bool> {
        let mut events = [EpollEvent::empty(); EVENTS_A_TURN];
        let n = self.epoll.wait(&mut events, EpollTimeout::ZERO)?;
        for event in &events[..n] {
            self.on_event(*event);
        }
        self.bury();
        Ok(n == EVENTS_A_TURN)
    }
}

async fn drive(handle: &ShardHandle, queue: &Queue, serve: &ServeConnection) -> io::Result<()> {
    // A second descriptor of the same epoll, so that waiting for it borrows nothing of the shard.
    let readiness = handle.0.borrow().epoll.0.try_clone()?;
    #[expect(unsafe_code, reason = "the only way to wait for a descriptor of one's own")]
    // SAFETY: an OwnedFd is open, and stays the same, until it is dropped with the AsyncFd that owns it.
    let readiness = unsafe { AsyncFd::register_with_interest(readiness, Interest::READABLE) }?;
    let tick = handle.0.borrow().wheel.tick();
    let mut ticks = interval(tick);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut seconds = interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ops = Vec::new();
    let mut accepted = Vec::new();
    loop {
        tokio::select! {
            () = queue.filled() => {
                queue.take(&mut ops);
                handle.0.borrow_mut().turn(&mut ops, &mut accepted);
                for stream in accepted.drain(..) {
                    tokio::task::spawn_local(serve(stream, handle.clone()));
                }
            }
            guard = readiness.readable() => {
                let mut guard = guard?;
                if !handle.0.borrow_mut().on_events()? {
                    guard.clear_ready();
                }
            }
            _ = ticks.tick() => handle.0.borrow_mut().tick(),
            _ = seconds.tick() => handle.0.borrow_mut().every_second(),
        }
        if ops.capacity() > 1 << 16 {
            ops = Vec::new(); // A burst's buffer is not kept.
        }
    }
}
