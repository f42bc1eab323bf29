//! Several nodes behind one nginx, with journals in one Redis: clients are cut off and move between the nodes at random, while
//! nodes are stopped, killed and upgraded, and Redis is killed. What each client assembled is what the journals have, exactly, and
//! no gap is reported, since nothing is lost.
//!
//! A run's seed is printed. `SSECAST_CHAOS_SECONDS=60 SSECAST_CHAOS_SEEDS=20` in the environment makes runs longer and more of them.

mod exact;
mod publish;

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use self::{
    exact::{Due, check, entries_of},
    publish::{Publisher, Way, assert_answers_are_true, key_of, read},
};
use super::{
    client::{Client, Kind, Phase},
    seeds,
};
use crate::support::{Daemon, Endpoint, Folder, Nginx, PATIENCE, RedisServer, eventually};

const CHANNELS: [&str; 6] = ["base", "cats", "dogs", "news.sport", "user-42", "größe"];
/// Clients that are there before the first message, and clients that come later.
const EARLY: usize = 18;
const LATE: usize = 12;

/// How long nodes and Redis fail.
fn seconds() -> f64 {
    std::env::var("SSECAST_CHAOS_SECONDS").map_or(8.0, |seconds| seconds.parse().unwrap())
}

/// What happens to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Fault {
    Terminate,
    Kill,
    Upgrade,
    /// It stands still for some time.
    Stop,
}

/// One node's faults. Its counts by kind are returned.
fn trouble(node: &mut Daemon, ended: &AtomicBool, mut random: fastrand::Rng) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    while !ended.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(random.u64(50..2_000)));
        let fault = match random.u32(..10) {
            0..2 => Fault::Terminate,
            2..5 => Fault::Kill,
            5..9 => Fault::Upgrade,
            _ => Fault::Stop,
        };
        let mut name = format!("{fault:?}");
        match fault {
            Fault::Terminate => {
                node.terminate();
                node.child().wait();
                thread::sleep(Duration::from_millis(random.u64(..300)));
                node.start_again();
            }
            Fault::Kill => {
                node.child().kill();
                thread::sleep(Duration::from_millis(random.u64(..300)));
                node.start_again();
            }
            // While Redis is away, a successor is not ready and the reload fails: the predecessor serves on.
            Fault::Upgrade => {
                if node.try_reload().is_err() {
                    name = "refused Upgrade".to_owned();
                }
            }
            Fault::Stop => {
                node.child().signal(Signal::SIGSTOP);
                thread::sleep(Duration::from_millis(random.u64(100..1_500)));
                node.child().signal(Signal::SIGCONT);
            }
        }
        *counts.entry(name).or_default() += 1;
    }
    counts
}

/// Kills Redis, starts it again, and cuts its connections.
fn trouble_of_redis(redis: &mut RedisServer, ended: &AtomicBool, mut random: fastrand::Rng) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    while !ended.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(random.u64(200..3_000)));
        let name = if random.bool() {
            redis.kill();
            thread::sleep(Duration::from_millis(random.u64(..800)));
            redis.start_again();
            "Redis killed"
        } else {
            let _: usize = redis.query(redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal"));
            "Redis cut"
        };
        *counts.entry(name.to_owned()).or_default() += 1;
    }
    counts
}

fn kind(at: usize) -> Kind {
    match at % 6 {
        0 | 1 => Kind::JsonPoll,
        2 => Kind::EventStreamPoll,
        3 => Kind::Stream { gzip: true, envelope: false },
        4 => Kind::Stream { gzip: false, envelope: true },
        _ => Kind::Stream { gzip: false, envelope: false },
    }
}

/// A client that came late: when it comes, and what was due to it.
struct Late {
    after: Duration,
    at_an_answered_id: bool,
    due: Due,
}

fn run(seed: u64, keys: &[&str]) {
    println!("seed {seed}, journals {keys:?}, {} s", seconds());
    let keys: Vec<String> = keys.iter().map(|&key| key.to_owned()).collect();
    let mut random = fastrand::Rng::with_seed(seed);
    let folder = Folder::new();
    // Whatever a publisher or a node was answered, a Redis that is killed has when it is back.
    let mut redis = RedisServer::start_with_options(&folder, &["--appendonly", "yes", "--appendfsync", "always"]);
    let tables = format!(
        "{}journal = {keys:?}\njournal_maxlen = 0\n[stream]\nping_interval = \"200ms\"\ngzip = true\n\
         [history]\nmessages = 1000000\nage = \"1h\"\nbytes = \"64MiB\"\n",
        redis.table()
    );
    let mut nodes: Vec<Daemon> =
        ["one", "other"].map(|name| Daemon::start_named(&folder, name, &tables)).into_iter().collect();
    nodes.iter_mut().for_each(Daemon::wait_until_ready);
    let nginx = Nginx::start_before_nodes(&folder, &nodes);
    // Most clients come through nginx, which sends them to the nodes by turns; some come to a node past it.
    let through = nginx.sse();
    let endpoints =
        vec![through.clone(), through.clone(), through, nodes[0].public().clone(), nodes[1].public().clone()];
    let admins: Vec<Endpoint> = nodes.iter().map(|node| node.admin().clone()).collect();
    let mut clients: Vec<Client> = (0..EARLY + LATE)
        .map(|at| {
            let mut channels = CHANNELS.map(str::to_owned).to_vec();
            random.shuffle(&mut channels);
            channels.truncate(random.usize(1..=4));
            Client::new(kind(at), channels, endpoints.clone(), random.u64(..))
        })
        .collect();
    let mut late: Vec<Late> = (0..LATE)
        .map(|_| Late {
            after: Duration::from_secs_f64(seconds() * random.f64()),
            at_an_answered_id: random.bool(),
            due: Due::FromSomewhere,
        })
        .collect();

    let (phase, ended) = (Phase::default(), AtomicBool::new(false));
    let answered: Mutex<Option<String>> = Mutex::new(None);
    let (begun, unended) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let reading = AtomicUsize::new(clients.len());
    let client_of_redis = redis::Client::open(redis.url()).unwrap();
    let mut counts: HashMap<String, usize> = HashMap::new();
    let publishes = thread::scope(|scope| {
        let (phase, ended, answered, begun, unended, reading) = (&phase, &ended, &answered, &begun, &unended, &reading);
        let (early, later) = clients.split_at_mut(EARLY);
        for (at, client) in early.iter_mut().enumerate() {
            scope.spawn(move || {
                if !client.run(phase, PATIENCE / 2) {
                    unended.lock().unwrap().push(at);
                }
                reading.fetch_sub(1, Ordering::Relaxed);
            });
        }
        for (at, (client, late)) in (EARLY..).zip(later.iter_mut().zip(&mut late)) {
            let keys = &keys;
            scope.spawn(move || {
                eventually("publishing has begun", || begun.load(Ordering::Relaxed).then_some(()));
                thread::sleep(late.after);
                let id = answered.lock().unwrap().clone().filter(|_| late.at_an_answered_id);
                if let Some(id) = id {
                    let entries = entries_of(&id);
                    let after =
                        |name: &String| entries.get(key_of(name, keys.len())).map(|entry| (name.clone(), *entry));
                    late.due = Due::After(client.channels.iter().filter_map(after).collect());
                    client.begin_after(id);
                }
                if !client.run(phase, PATIENCE / 2) {
                    unended.lock().unwrap().push(at);
                }
                reading.fetch_sub(1, Ordering::Relaxed);
            });
        }
        eventually("each early client has an id", || {
            (phase.with_cursor.load(Ordering::Relaxed) >= EARLY).then_some(())
        });
        let redis_way = || Way::Redis { client: client_of_redis.clone(), keys: keys.clone() };
        let ways = [Way::Admin(admins[0].clone()), Way::Admin(admins[1].clone()), redis_way()];
        let of = ways.len();
        let publishers: Vec<_> = ways
            .into_iter()
            .enumerate()
            .map(|(number, way)| {
                let random = random.fork();
                let publisher = Publisher { number, of, way, channels: &CHANNELS, random };
                scope.spawn(move || publisher.run(ended, answered))
            })
            .collect();
        begun.store(true, Ordering::Relaxed);
        let troubles = thread::scope(|scope| {
            let mut threads: Vec<_> = nodes
                .iter_mut()
                .map(|node| {
                    let random = random.fork();
                    scope.spawn(move || trouble(node, ended, random))
                })
                .collect();
            let (redis, random) = (&mut redis, random.fork());
            threads.push(scope.spawn(move || trouble_of_redis(redis, ended, random)));
            let begin = Instant::now();
            while begin.elapsed().as_secs_f64() < seconds() && threads.iter().all(|thread| !thread.is_finished()) {
                thread::sleep(Duration::from_millis(20));
            }
            ended.store(true, Ordering::Relaxed);
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        for (name, count) in troubles.into_iter().flatten() {
            *counts.entry(name).or_default() += count;
        }
        let publishes: Vec<_> = publishers.into_iter().flat_map(|publisher| publisher.join().unwrap()).collect();
        nodes.iter_mut().for_each(Daemon::wait_until_ready);
        for name in CHANNELS {
            let key = &keys[key_of(name, keys.len())];
            let mut add = redis::cmd("XADD");
            add.arg(key).arg("*").arg("channel").arg(name).arg("data").arg(format!("{name} end"));
            let _: String = redis.query(&add);
        }
        phase.settling.store(true, Ordering::Relaxed);
        let begin = Instant::now();
        while reading.load(Ordering::Relaxed) > 0 && begin.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(20));
        }
        publishes
    });

    let truth = read(&redis, &keys, &CHANNELS);
    let maybe = assert_answers_are_true(&publishes, &truth, keys.len());
    let dues = std::iter::repeat_n(&Due::All, EARLY).chain(late.iter().map(|late| &late.due));
    let (mut broken, mut messages) = (0, 0);
    for (at, (client, due)) in clients.iter().zip(dues).enumerate() {
        let name = format!("client {at}, {:?} of {:?}, due {due:?}", client.kind, client.channels);
        match check(&client.channels, &client.items, due, &truth) {
            Ok(count) => messages += count,
            Err((place, error)) => {
                broken += 1;
                println!("VIOLATION {name}: {error}\n{}", client.log_around(place));
            }
        }
        if unended.lock().unwrap().contains(&at) {
            println!("NO END {name}:\n{}", client.log_around(client.items.len()));
        }
    }
    let cuts: usize = clients.iter().map(|client| client.cuts).sum();
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort();
    let published: usize = truth.values().map(Vec::len).sum();
    println!(
        "seed {seed}: {published} published, of {maybe} the publisher does not know it; {messages} received by {} clients, \
         {cuts} cuts; {counts:?}",
        clients.len()
    );
    if broken > 0 {
        for node in &mut nodes {
            println!("--- log:\n{}", node.child().log());
        }
        panic!("{broken} clients saw the promise broken, seed {seed}");
    }
}

#[test]
fn clients_that_move_between_nodes_assemble_exactly_what_the_journal_has() {
    needs!("redis-server", "nginx");
    for seed in seeds(700) {
        run(seed, &["ssecast"]);
    }
}

#[test]
fn clients_that_move_between_nodes_assemble_exactly_what_several_journals_have() {
    needs!("redis-server", "nginx");
    for seed in seeds(800) {
        run(seed, &["a:{0}", "a:{1}"]);
    }
}
