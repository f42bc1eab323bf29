//! Thousands of clients. Each checks that it gets the numbers of its channel in order, without loss, on one connection.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    sync::Semaphore,
    task::JoinSet,
};

use crate::support::{Decoder, Endpoint, PATIENCE, Parser, Subscription, eventually};

/// Most clients that connect at the same time, so that the socket's backlog is not full.
const MOST_CONNECTING: usize = 200;

static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

fn micros() -> u64 {
    u64::try_from(BEGAN.elapsed().as_micros()).unwrap()
}

/// A message: a number and the time.
pub(super) fn message(number: usize) -> String {
    format!("{number} {}", micros())
}

/// The last message of a channel with `count` numbers.
pub(super) fn last_message(count: usize) -> String {
    format!("end {count}")
}

pub(super) fn channel(number: usize) -> String {
    format!("channel-{number}")
}

/// The running clients.
pub(super) struct Swarm {
    thread: thread::JoinHandle<usize>,
    watch: Arc<Watch>,
}

/// Measurements over all clients together.
#[derive(Default)]
struct Watch {
    open: AtomicUsize,
    failed: AtomicBool,
    /// When any client last got a message, and the longest time without one.
    last: AtomicU64,
    silence: AtomicU64,
    /// The longest time from publish to a client.
    lateness: AtomicU64,
}

impl Watch {
    fn see(&self, sent: u64) {
        let now = micros();
        let last = self.last.swap(now, Ordering::Relaxed);
        self.silence.fetch_max(now.saturating_sub(last), Ordering::Relaxed);
        self.lateness.fetch_max(now.saturating_sub(sent), Ordering::Relaxed);
    }
}

/// Where clients connect.
#[derive(Clone)]
enum Place {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl Swarm {
    /// Opens `directly` clients on `daemon` and `through` clients on nginx, spread over `channels` channels. Waits until all streams
    /// are open.
    pub(super) fn start(
        daemon: &Endpoint,
        directly: usize,
        nginx: Option<(&Endpoint, usize)>,
        channels: usize,
    ) -> Self {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
        }
        let direct = (Place::Unix(daemon.path().to_owned()), daemon.clone(), directly);
        let through = nginx.map(|(nginx, count)| (Place::Tcp(nginx.tcp_address()), nginx.clone(), count));
        let places: Vec<_> = std::iter::once(direct).chain(through).collect();
        let total: usize = places.iter().map(|(.., count)| count).sum();
        let watch = Arc::new(Watch::default());
        let watched = Arc::clone(&watch);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let served = runtime.block_on(run(places, channels, &watched));
            watched.failed.store(served != total, Ordering::Relaxed);
            served
        });
        let swarm = Self { thread, watch };
        eventually("all streams are open", || {
            assert!(!swarm.thread.is_finished(), "a client has failed");
            (swarm.watch.open.load(Ordering::Relaxed) == total).then_some(())
        });
        swarm
    }

    /// Returns the longest time without a message at any client, and the longest delivery time, since the last call.
    pub(super) fn stood_still(&self) -> (Duration, Duration) {
        let take = |value: &AtomicU64| Duration::from_micros(value.swap(0, Ordering::Relaxed));
        (take(&self.watch.silence), take(&self.watch.lateness))
    }

    /// Asserts that no client has failed so far.
    pub(super) fn assert_well(&self) {
        assert!(!self.thread.is_finished(), "a client has failed");
    }

    /// Waits until all clients have the last message, and so all of them. Returns the number of clients.
    pub(super) fn join(self) -> usize {
        eventually("all clients have everything", || self.thread.is_finished().then_some(()));
        self.thread.join().unwrap_or_else(|_| panic!("a client has failed"))
    }
}

async fn run(places: Vec<(Place, Endpoint, usize)>, channels: usize, watch: &Arc<Watch>) -> usize {
    let (mut clients, connecting) = (JoinSet::new(), Arc::new(Semaphore::new(MOST_CONNECTING)));
    let mut number = 0;
    for (place, endpoint, count) in places {
        for _ in 0..count {
            let request = Subscription::to(&[channel(number % channels)]).request(&endpoint).to_bytes();
            let (place, watch, connecting) = (place.clone(), Arc::clone(watch), Arc::clone(&connecting));
            clients.spawn(async move {
                match place {
                    Place::Unix(path) => client(UnixStream::connect(path), request, &watch, &connecting).await,
                    Place::Tcp(address) => client(TcpStream::connect(address), request, &watch, &connecting).await,
                }
            });
            number += 1;
        }
    }
    let mut served = 0;
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
        served += 1;
    }
    served
}

/// Reads numbers until the last message, which has their count.
async fn client<Socket: AsyncReadExt + AsyncWriteExt + Unpin>(
    socket: impl Future<Output = io::Result<Socket>>,
    request: Vec<u8>,
    watch: &Watch,
    connecting: &Semaphore,
) {
    let mut permit = Some(connecting.acquire().await.unwrap());
    let mut socket = socket.await.unwrap();
    socket.write_all(&request).await.unwrap();
    let (mut decoder, mut parser) = (Decoder::default(), Parser::default());
    let (mut buffer, mut body, mut events) = (vec![0; 2048], Vec::new(), Vec::new());
    let mut next = 0;
    loop {
        let read = tokio::time::timeout(PATIENCE, socket.read(&mut buffer)).await;
        let count = read.unwrap_or_else(|_| panic!("nothing has arrived after {next}")).unwrap();
        assert_ne!(count, 0, "a client was cut after {next}: {:?} {parser:?}", decoder.head());
        decoder.feed(&buffer[..count], &mut body);
        parser.feed(&body, &mut events);
        body.clear();
        if permit.is_some() && parser.committed_id.as_ref().is_some_and(|id| !id.is_empty()) {
            permit = None;
            watch.open.fetch_add(1, Ordering::Relaxed);
        }
        for event in events.drain(..) {
            assert_eq!(event.gap(), None, "a gap after {next}");
            if event.is_bookkeeping() {
                continue; // Opened, or a ping.
            }
            let text = event.text();
            let (number, time) = text.split_once(' ').unwrap();
            if number == "end" {
                assert_eq!(time.parse(), Ok(next), "events are missing at the end");
                return;
            }
            assert_eq!(number.parse(), Ok(next), "this arrived instead of {next}");
            next += 1;
            watch.see(time.parse().unwrap());
        }
    }
}
