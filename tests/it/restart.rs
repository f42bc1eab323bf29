//! Stop and start: publishes under way are answered, clients are told when to come back, and thousands of them do, spread over
//! `drain.spread`, each complete or told of the gap.

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
    Daemon, Decoder, Event, Folder, PATIENCE, Parser, Request, Response, Stream, Subscription, eventually, publisher,
};

const CLIENTS: usize = 9_000;
const CHANNELS: usize = 100;
const SPREAD: Duration = Duration::from_secs(5);
/// Most clients on their way in at a time at the beginning, when nothing spreads them.
const MOST_CONNECTING: usize = 200;
/// How many times its share of all clients a tenth of the time may have.
const MOST_SHARES: usize = 3;

/// An EventSource: reads its channel, and comes back by the rules.
struct Client {
    path: PathBuf,
    subscription: Subscription,
    last_event_id: Option<String>,
    retry: Duration,
    /// What it was given: numbers, and where it was told of a gap.
    given: Vec<Given>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Given {
    Number(usize),
    Gap,
}

/// What all clients have in common.
struct World {
    open: AtomicUsize,
    connecting: Semaphore,
    stopped: Mutex<Option<Instant>>,
    /// When each client that was sent away has come back, since the stop.
    back: Mutex<Vec<Duration>>,
}

impl Client {
    /// Lives until the last word on its channel.
    async fn live(mut self, world: Arc<World>) -> Vec<Given> {
        // The first time, all come at once.
        let mut permit = Some(world.connecting.acquire().await.unwrap());
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
            if self.read(socket, &world, began, &mut permit).await {
                return self.given;
            }
            sleep(self.retry).await;
        }
    }

    /// Reads a stream to its end, or to the last word on the channel; then it is true.
    async fn read<P>(&mut self, mut socket: UnixStream, world: &World, began: Instant, permit: &mut Option<P>) -> bool {
        let (mut decoder, mut parser) = (Decoder::default(), Parser::default());
        let (mut buffer, mut body, mut events) = (vec![0; 2048], Vec::new(), Vec::new());
        let mut is_open = false;
        loop {
            let read = tokio::time::timeout(PATIENCE, socket.read(&mut buffer)).await.expect("anything comes");
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
                    world.open.fetch_add(1, Ordering::Relaxed);
                    if let Some(stopped) = *world.stopped.lock().unwrap() {
                        world.back.lock().unwrap().push(began.saturating_duration_since(stopped));
                    }
                }
            }
            if let Some(retry) = parser.retry.take() {
                self.retry = Duration::from_millis(retry);
            }
            for event in events.drain(..) {
                match (event.gap(), event.text().as_str()) {
                    (Some(_), _) => self.given.push(Given::Gap),
                    (None, "end") => return true,
                    (None, number) => self.given.push(Given::Number(number.parse().unwrap())),
                }
            }
        }
    }
}

/// Publishes numbers on all channels in turn until `done`; gives those of each channel that were taken.
fn publish_until(done: &AtomicBool, daemon: &Mutex<Daemon>) -> Vec<Vec<usize>> {
    let admin = daemon.lock().unwrap().admin().clone();
    let mut taken = vec![Vec::new(); CHANNELS];
    let mut number = 0;
    while !done.load(Ordering::Relaxed) {
        let request = Request::post(format!("/publish/channel-{}", number % CHANNELS), "", number.to_string());
        // Where nobody answers, nobody knows; then it may be missing.
        if let Ok(mut socket) = admin.connect()
            && socket.write_all(&request.to_bytes()).is_ok()
            && Response::read_head(socket).is_ok_and(|response| response.status() == 200)
        {
            taken[number % CHANNELS].push(number);
        }
        number += 1;
        thread::sleep(Duration::from_millis(10));
    }
    taken
}

/// Asserts that numbers came in order, each once, and that whatever was taken and is missing lies under a gap.
fn assert_complete_or_told(given: &[Given], taken: &[usize]) {
    let (mut told, mut last, mut due) = (false, None, taken.iter().copied().peekable());
    for &what in given {
        let Given::Number(number) = what else {
            told = true;
            continue;
        };
        assert!(last.is_none_or(|last| last < number), "{number} after {last:?}");
        while let Some(missing) = due.next_if(|&missing| missing < number) {
            assert!(told, "{missing} is missing before {number}, and nobody told");
        }
        let _ = due.next_if_eq(&number);
        (told, last) = (false, Some(number));
    }
    assert!(told || due.peek().is_none(), "{:?} are missing at the end", due.collect::<Vec<_>>());
}

/// Clients that came back in each tenth of the spread, and after it.
fn tenths(back: &[Duration]) -> [usize; 11] {
    let mut tenths = [0; 11];
    for time in back {
        tenths[(time.as_secs_f64() / SPREAD.as_secs_f64() * 10.0).min(10.0) as usize] += 1;
    }
    tenths
}

#[test]
fn thousands_come_back_spread_over_time_and_complete_or_told() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let folder = Folder::new();
    let tables = format!("[drain]\nspread = \"{}s\"\n[history]\nmessages = 10000\n", SPREAD.as_secs());
    let daemon = Daemon::start(&folder, &tables);
    let path = daemon.public().path().to_owned();
    let world = Arc::new(World {
        open: AtomicUsize::new(0),
        connecting: Semaphore::new(MOST_CONNECTING),
        stopped: Mutex::new(None),
        back: Mutex::new(Vec::with_capacity(CLIENTS)),
    });
    let (watched, daemon, done) = (Arc::clone(&world), Mutex::new(daemon), AtomicBool::new(false));
    let (taken, given) = thread::scope(|scope| {
        let living = scope.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut clients = JoinSet::new();
                for number in 0..CLIENTS {
                    let subscription = Subscription::to(&[format!("channel-{}", number % CHANNELS)]);
                    let (path, retry) = (path.clone(), Duration::from_secs(3));
                    let client = Client { path, subscription, last_event_id: None, retry, given: Vec::new() };
                    let world = Arc::clone(&world);
                    clients.spawn(async move { (number % CHANNELS, client.live(world).await) });
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
            println!("there again after {:?}", asked.elapsed());
        }
        all_open(2 * CLIENTS);
        println!("all are back after {:?}", watched.stopped.lock().unwrap().unwrap().elapsed());
        done.store(true, Ordering::Relaxed);
        let taken = publishing.join().unwrap();
        let daemon = daemon.lock().unwrap();
        assert_eq!(daemon.stats().iter().map(|(_, count)| count).sum::<usize>(), CLIENTS);
        (0..CHANNELS).for_each(|number| assert!(daemon.publish(&format!("channel-{number}"), "end").subscribers > 0));
        (taken, living.join().unwrap())
    });
    assert_eq!(given.len(), CLIENTS);
    let gaps = given.iter().filter(|(_, given)| given.contains(&Given::Gap)).count();
    println!("{gaps} of {CLIENTS} were told of a gap, the others are complete");
    for (channel, given) in &given {
        assert_complete_or_told(given, &taken[*channel]);
    }
    let back = watched.back.lock().unwrap();
    assert_eq!(back.len(), CLIENTS);
    let tenths = tenths(&back);
    println!("came back in each tenth of {SPREAD:?}, and later:");
    for count in tenths {
        println!("{count:5} {}", "#".repeat(count * 100 / CLIENTS));
    }
    assert!(tenths.iter().all(|&count| count <= MOST_SHARES * CLIENTS / 10), "not spread: {tenths:?}");
}

#[test]
fn a_publish_under_way_is_answered_and_delivered_before_the_end() {
    let folder = Folder::new();
    let mut daemon = Daemon::start(&folder, "[drain]\nspread = \"2s\"\n");
    let mut streams: Vec<Stream> = (0..20).map(|_| Subscription::to(&["cats"]).open(daemon.public())).collect();
    let request = Request::post("/publish/cats", "", "last words").to_bytes();
    let mut socket = daemon.admin().connect().unwrap();
    socket.write_all(&request[..request.len() - 5]).unwrap();
    // It must have begun: what was not read yet is nothing under way.
    thread::sleep(Duration::from_millis(100));
    let asked = Instant::now();
    daemon.terminate();
    eventually("it is about to end", || daemon.child().log().contains("stopping").then_some(()));
    assert!(daemon.child().ended().is_none(), "it waits for the publish");
    socket.write_all(&request[request.len() - 5..]).unwrap();
    let answer = Response::read_head(socket).unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.json()["subscribers"], 20);
    for stream in &mut streams {
        assert_eq!(stream.texts(1), ["last words"]);
        assert_eq!(stream.rest(), []);
        assert!(stream.retry() <= 2_000);
    }
    assert!(daemon.child().wait().success());
    println!("stopped in {:?}", asked.elapsed());
}

#[test]
fn a_publish_that_never_ends_keeps_nobody_from_being_told() {
    let folder = Folder::new();
    let tables = "[process]\ndrain = \"1s\"\n[stream]\nretry = \"60s..61s\"\n[drain]\nspread = \"2s\"\n";
    let mut daemon = Daemon::start(&folder, tables);
    let mut stream = Subscription::to(&["cats"]).open(daemon.public());
    let request = Request::post("/publish/cats", "", "never whole").to_bytes();
    let mut socket = daemon.admin().connect().unwrap();
    socket.write_all(&request[..request.len() - 5]).unwrap();
    thread::sleep(Duration::from_millis(100));
    let asked = Instant::now();
    daemon.terminate();
    assert_eq!(stream.rest(), []);
    assert!(stream.retry() <= 2_000, "clients are told when to come back all the same");
    let answer = Response::read_head(socket).unwrap();
    assert!(publisher::refused(answer, 503).contains("nothing was published"));
    assert!(daemon.child().wait().success());
    assert!(asked.elapsed() < Duration::from_secs(1) + crate::support::daemon::GRACE, "{:?}", asked.elapsed());
}
