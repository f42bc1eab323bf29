//! Stop and start: publishes under way are answered. Clients get a time to reconnect, and thousands reconnect spread over
//! `drain.spread`. Each client gets every event or a gap event.

use std::{
    io::Write as _,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    sync::Semaphore,
    task::JoinSet,
    time::sleep,
};

use crate::support::{
    Daemon, Decoder, Event, Folder, PATIENCE, Parser, RedisServer, Request, Response, Stream, Subscription, eventually,
    publisher, relay::Relay,
};

const CLIENTS: usize = 9_000;
const CHANNELS: usize = 100;
const SPREAD: Duration = Duration::from_secs(5);
/// Most clients that connect at the same time at the beginning, when nothing spreads them.
const MOST_CONNECTING: usize = 200;
/// A tenth of the time has a tenth of the clients on average, and at most this many times as many.
const MOST_SHARES: usize = 3;

/// An EventSource: reads one channel, and reconnects after its retry time with its last event id.
struct Client {
    path: PathBuf,
    subscription: Subscription,
    last_event_id: Option<String>,
    retry: Duration,
    /// Numbers and gaps, in the order in which they arrived.
    received: Vec<Received>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Received {
    Number(usize),
    Gap,
}

/// State that all clients share.
struct Shared {
    open: AtomicUsize,
    connecting: Semaphore,
    stopped: Mutex<Option<Instant>>,
    /// When each client reconnected, counted from the stop.
    reconnected: Mutex<Vec<Duration>>,
}

impl Client {
    /// Reads until the last event of its channel.
    async fn run(mut self, shared: Arc<Shared>) -> Vec<Received> {
        // Only the first connection needs a permit: all clients connect at once.
        let mut permit = Some(shared.connecting.acquire().await.unwrap());
        loop {
            let began = Instant::now();
            let Ok(mut socket) = UnixStream::connect(&self.path).await else {
                sleep(self.retry).await;
                continue;
            };
            let request = match &self.last_event_id {
                Some(id) => self.subscription.clone().after(id),
                None => self.subscription.clone(),
            };
            let endpoint = crate::support::Endpoint::unix(&self.path);
            if socket.write_all(&request.request(&endpoint).to_bytes()).await.is_err() {
                sleep(self.retry).await;
                continue;
            }
            if self.read(socket, &shared, began, &mut permit).await {
                return self.received;
            }
            sleep(self.retry).await;
        }
    }

    /// Reads a stream to its end, or to the last event of the channel. Returns whether that has arrived.
    async fn read<P>(
        &mut self,
        mut socket: UnixStream,
        shared: &Shared,
        began: Instant,
        permit: &mut Option<P>,
    ) -> bool {
        let (mut decoder, mut parser) = (Decoder::default(), Parser::default());
        let (mut buffer, mut body, mut events) = (vec![0; 2048], Vec::new(), Vec::new());
        let mut is_open = false;
        loop {
            let read =
                tokio::time::timeout(PATIENCE, socket.read(&mut buffer)).await.expect("nothing has arrived in time");
            let Ok(count @ 1..) = read else { return false };
            decoder.feed(&buffer[..count], &mut body);
            parser.feed(&body, &mut events);
            events.retain(|event: &Event| !event.is_bookkeeping());
            body.clear();
            assert!(decoder.head().is_none_or(|head| head.status == 200), "{:?}", decoder.head());
            if let Some(id) = parser.committed_id.take() {
                self.last_event_id = Some(id);
                if !std::mem::replace(&mut is_open, true) {
                    *permit = None;
                    shared.open.fetch_add(1, Ordering::Relaxed);
                    if let Some(stopped) = *shared.stopped.lock().unwrap() {
                        shared.reconnected.lock().unwrap().push(began.saturating_duration_since(stopped));
                    }
                }
            }
            if let Some(retry) = parser.retry.take() {
                self.retry = Duration::from_millis(retry);
            }
            for event in events.drain(..) {
                match (event.gap(), event.text().as_str()) {
                    (Some(_), _) => self.received.push(Received::Gap),
                    (None, "end") => return true,
                    (None, number) => self.received.push(Received::Number(number.parse().unwrap())),
                }
            }
        }
    }
}

/// Publishes numbers on all channels in turn until `done`. Returns the numbers of each channel that were accepted.
fn publish_until(done: &AtomicBool, daemon: &Mutex<Daemon>) -> Vec<Vec<usize>> {
    let admin = daemon.lock().unwrap().admin().clone();
    let mut accepted = vec![Vec::new(); CHANNELS];
    let mut number = 0;
    while !done.load(Ordering::Relaxed) {
        let request = Request::post(format!("/publish/channel-{}", number % CHANNELS), "", number.to_string());
        // A publish without an answer may or may not have been delivered.
        if let Ok(mut socket) = admin.connect()
            && socket.write_all(&request.to_bytes()).is_ok()
            && Response::read_head(socket).is_ok_and(|response| response.status() == 200)
        {
            accepted[number % CHANNELS].push(number);
        }
        number += 1;
        thread::sleep(Duration::from_millis(10));
    }
    accepted
}

/// Asserts that numbers arrived in order, each once, and that a gap precedes what follows a missing one.
fn assert_losses_reported(received: &[Received], accepted: &[usize]) {
    let (mut gap, mut last, mut due) = (false, None, accepted.iter().copied().peekable());
    for &what in received {
        let Received::Number(number) = what else {
            gap = true;
            continue;
        };
        assert!(last.is_none_or(|last| last < number), "{number} after {last:?}");
        while let Some(missing) = due.next_if(|&missing| missing < number) {
            assert!(gap, "{missing} is missing before {number}, without a gap event");
        }
        let _ = due.next_if_eq(&number);
        (gap, last) = (false, Some(number));
    }
    assert!(gap || due.peek().is_none(), "{:?} are missing at the end", due.collect::<Vec<_>>());
}

/// Number of clients that reconnected in each tenth of the spread, and after it.
fn tenths(reconnected: &[Duration]) -> [usize; 11] {
    let mut tenths = [0; 11];
    for time in reconnected {
        tenths[(time.as_secs_f64() / SPREAD.as_secs_f64() * 10.0).min(10.0) as usize] += 1;
    }
    tenths
}

#[test]
fn thousands_of_clients_reconnect_spread_over_time_and_losses_are_reported() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let folder = Folder::new();
    let tables = format!("[drain]\nspread = \"{}s\"\n[history]\nmessages = 10000\n", SPREAD.as_secs());
    let daemon = Daemon::start(&folder, &tables);
    let path = daemon.public().path().to_owned();
    let shared = Arc::new(Shared {
        open: AtomicUsize::new(0),
        connecting: Semaphore::new(MOST_CONNECTING),
        stopped: Mutex::new(None),
        reconnected: Mutex::new(Vec::with_capacity(CLIENTS)),
    });
    let (watched, daemon, done) = (Arc::clone(&shared), Mutex::new(daemon), AtomicBool::new(false));
    let (accepted, received) = thread::scope(|scope| {
        let living = scope.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut clients = JoinSet::new();
                for number in 0..CLIENTS {
                    let subscription = Subscription::to(&[format!("channel-{}", number % CHANNELS)]);
                    let (path, retry) = (path.clone(), Duration::from_secs(3));
                    let client = Client { path, subscription, last_event_id: None, retry, received: Vec::new() };
                    let shared = Arc::clone(&shared);
                    clients.spawn(async move { (number % CHANNELS, client.run(shared).await) });
                }
                let mut all = Vec::with_capacity(CLIENTS);
                while let Some(client) = clients.join_next().await {
                    all.push(client.unwrap());
                }
                all
            })
        });
        let all_open = |count: usize| {
            eventually("all streams are open", || {
                assert!(!living.is_finished(), "a client has failed");
                (watched.open.load(Ordering::Relaxed) == count).then_some(())
            });
        };
        all_open(CLIENTS);
        let publishing = scope.spawn(|| publish_until(&done, &daemon));
        thread::sleep(Duration::from_millis(1_500));
        {
            let mut daemon = daemon.lock().unwrap();
            *watched.stopped.lock().unwrap() = Some(Instant::now());
            let asked = Instant::now();
            daemon.terminate();
            assert!(daemon.child().wait().success());
            println!("stopped in {:?}", asked.elapsed());
            daemon.start_again();
            println!("started again after {:?}", asked.elapsed());
        }
        all_open(2 * CLIENTS);
        println!("all have reconnected after {:?}", watched.stopped.lock().unwrap().unwrap().elapsed());
        done.store(true, Ordering::Relaxed);
        let accepted = publishing.join().unwrap();
        let daemon = daemon.lock().unwrap();
        assert_eq!(daemon.stats().iter().map(|(_, count)| count).sum::<usize>(), CLIENTS);
        (0..CHANNELS).for_each(|number| assert!(daemon.publish(&format!("channel-{number}"), "end").subscribers > 0));
        (accepted, living.join().unwrap())
    });
    assert_eq!(received.len(), CLIENTS);
    let gaps = received.iter().filter(|(_, received)| received.contains(&Received::Gap)).count();
    println!("{gaps} of {CLIENTS} clients got a gap event; the others got every event");
    for (channel, received) in &received {
        assert_losses_reported(received, &accepted[*channel]);
    }
    let reconnected = watched.reconnected.lock().unwrap();
    assert_eq!(reconnected.len(), CLIENTS);
    let tenths = tenths(&reconnected);
    println!("reconnected in each tenth of {SPREAD:?}, and later:");
    for count in tenths {
        println!("{count:5} {}", "#".repeat(count * 100 / CLIENTS));
    }
    assert!(tenths.iter().all(|&count| count <= MOST_SHARES * CLIENTS / 10), "not spread: {tenths:?}");
}

#[test]
fn a_publish_under_way_is_answered_and_delivered_before_the_daemon_ends() {
    let folder = Folder::new();
    let mut daemon = Daemon::start(&folder, "[drain]\nspread = \"2s\"\n");
    let mut streams: Vec<Stream> = (0..20).map(|_| Subscription::to(&["cats"]).open(daemon.public())).collect();
    let request = Request::post("/publish/cats", "", "last message").to_bytes();
    let mut socket = daemon.admin().connect().unwrap();
    socket.write_all(&request[..request.len() - 5]).unwrap();
    // The daemon must have read the beginning: else the publish is not under way.
    thread::sleep(Duration::from_millis(100));
    let asked = Instant::now();
    daemon.terminate();
    eventually("the daemon is stopping", || daemon.child().log().contains("stopping").then_some(()));
    assert!(daemon.child().ended().is_none(), "it waits for the publish");
    socket.write_all(&request[request.len() - 5..]).unwrap();
    let answer = Response::read_head(socket).unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.json()["subscribers"], 20);
    for stream in &mut streams {
        assert_eq!(stream.texts(1), ["last message"]);
        assert_eq!(stream.rest(), []);
        assert!(stream.retry() <= 2_000);
    }
    assert!(daemon.child().wait().success());
    println!("stopped in {:?}", asked.elapsed());
}

#[test]
fn clients_get_a_retry_time_although_a_publish_never_ends() {
    let folder = Folder::new();
    let tables = "[process]\ndrain = \"1s\"\n[stream]\nretry = \"60s..61s\"\n[drain]\nspread = \"2s\"\n";
    let mut daemon = Daemon::start(&folder, tables);
    let mut stream = Subscription::to(&["cats"]).open(daemon.public());
    let request = Request::post("/publish/cats", "", "never complete").to_bytes();
    let mut socket = daemon.admin().connect().unwrap();
    socket.write_all(&request[..request.len() - 5]).unwrap();
    thread::sleep(Duration::from_millis(100));
    let asked = Instant::now();
    daemon.terminate();
    assert_eq!(stream.rest(), []);
    assert!(stream.retry() <= 2_000, "clients get a time to reconnect");
    let answer = Response::read_head(socket).unwrap();
    assert!(publisher::refused(answer, 503).contains("nothing was published"));
    assert!(daemon.child().wait().success());
    assert!(asked.elapsed() < Duration::from_secs(1) + crate::support::daemon::GRACE, "{:?}", asked.elapsed());
}

/// Their connections were cut without an answer.
#[test]
fn requests_that_wait_for_a_source_at_a_stop_get_a_retry_time_and_keep_their_id() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let relay = Relay::start(redis.port());
    let tables = format!("[redis]\nurl = \"redis://127.0.0.1:{}\"\n[drain]\nspread = \"2s\"\n", relay.port());
    let mut daemon = Daemon::start(&folder, &tables);
    let id = Subscription::to(&["cats"]).open(daemon.public()).last_event_id();
    relay.hold_replies_of(0..usize::MAX, "late");
    let subscription = || Subscription::to(&["late"]);
    let requests = [
        subscription().request(daemon.public()),
        subscription().after(&id).request(daemon.public()),
        subscription().after("no cursor").request(daemon.public()),
        Request::get("/?channels=late").header("Accept", "application/json"),
    ];
    let sockets = requests.map(|request| {
        let mut socket = daemon.public().connect().unwrap();
        socket.set_timeout(PATIENCE);
        socket.write_all(&request.to_bytes()).unwrap();
        socket
    });
    eventually("Redis has the subscription", || (redis.subscribers("late") == 1).then_some(()));
    // The daemon must have read all requests: else they do not wait.
    thread::sleep(Duration::from_millis(200));
    daemon.terminate();
    let [new, resumed, unknown, poll] = sockets.map(|socket| Response::read_head(socket).unwrap());
    let text = |response: Response| {
        assert_eq!(
            (response.status(), response.header("Content-Type").unwrap().starts_with("text/event-stream")),
            (200, true)
        );
        let text = response.text();
        let (before, rest) = text.split_once("retry: ").unwrap();
        let (retry, after) = rest.split_once('\n').unwrap();
        assert!((1_000..=2_000).contains(&retry.parse::<u64>().unwrap()), "{retry}");
        format!("{before}{after}")
    };
    assert_eq!(text(new), ":\nevent: ssecast.close\ndata: {}\n\n");
    assert_eq!(text(resumed), format!(":\nevent: ssecast.close\ndata: {{}}\nid: {id}\n\n"));
    assert_eq!(text(unknown), ":\n", "no event, which would make the client forget its id");
    assert_eq!(poll.status(), 503);
    assert!(poll.header("Retry-After").is_some());
    assert_eq!(poll.json()["code"], "stopping");
    assert!(daemon.child().wait().success());
    assert!(!daemon.child().log().contains("process.drain is over"), "{}", daemon.child().log());
}
