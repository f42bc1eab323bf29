//! The promise under load: many clients of every kind at once, while publishers publish and everything around them fails at
//! random. `random_losses` does one thing after the other; here all of it happens at the same time.
//!
//! `SSECAST_CHAOS_SECONDS=60 SSECAST_CHAOS_SEEDS=5` in the environment makes runs longer and more of them.

mod client;
mod journal;
mod oracle;

use std::{
    io::Write as _,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use self::{
    client::{Client, Kind, Phase},
    oracle::{Counts, Publications, check},
};
use crate::support::{Daemon, Endpoint, Folder, PATIENCE, RedisServer, Request, Response};

/// Published with `POST /publish`.
const BY_ADMIN: [&str; 3] = ["h0", "h1", "h2"];
/// Published with `PUBLISH`, where there is a Redis.
const BY_REDIS: [&str; 3] = ["r0", "r1", "r2"];
/// Histories that are too small for clients that are away for long.
const HISTORY: &str = "[history]\nmessages = 15\nstretch = \"300ms\"\nage = \"1h\"\n";

/// What happens while clients read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Reload,
    CutSubscribers,
    RestartRedis,
    /// Redis's ACL refuses some channels for a while.
    Refuse,
    /// The daemon stands still for some time.
    Stop,
}

#[derive(Debug, Clone, Copy)]
struct Scenario {
    seed: u64,
    workers: usize,
    nodes: usize,
    redis: bool,
    clients: usize,
    /// Whether half of the clients are long polls, and not a third of them.
    polls: bool,
    faults: &'static [Fault],
    /// Tables beside the ones above.
    stream: &'static str,
    linger: &'static str,
}

const CALM: Scenario = Scenario {
    seed: 1,
    workers: 2,
    nodes: 1,
    redis: false,
    clients: 24,
    polls: false,
    faults: &[],
    stream: "",
    linger: "60s",
};

fn seconds() -> f64 {
    std::env::var("SSECAST_CHAOS_SECONDS").map_or(2.5, |seconds| seconds.parse().unwrap())
}

fn seeds(first: u64) -> std::ops::Range<u64> {
    let count: u64 = std::env::var("SSECAST_CHAOS_SEEDS").map_or(1, |seeds| seeds.parse().unwrap());
    first..first + count
}

/// Gives the user `node` the rights to some channels.
fn allow(redis: &RedisServer, channels: &[&str]) {
    let mut command = redis::cmd("ACL");
    command.arg("SETUSER").arg("node").arg("reset").arg("on").arg(">secret").arg("+@all").arg("~*").arg(channels);
    let _: () = redis.query(&command);
}

/// Publishes the next numbers on the channels, until `ended`.
struct Publisher<'a> {
    channels: &'static [&'static str],
    published: &'a Mutex<Publications>,
    random: fastrand::Rng,
    uncertain: Vec<(String, u64)>,
    numbers: [u64; 3],
}

impl<'a> Publisher<'a> {
    fn new(channels: &'static [&'static str], published: &'a Mutex<Publications>, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        Self { channels, published, random, uncertain: Vec::new(), numbers: [0; 3] }
    }

    /// `send` publishes messages of channels, in order; false if perhaps not all were published.
    fn run(mut self, ended: &AtomicBool, mut send: impl FnMut(&[(&str, String)]) -> bool) {
        while !ended.load(Ordering::Relaxed) {
            let count = if self.random.u32(..60) == 0 { 80 } else { self.random.usize(1..4) };
            let mut messages = Vec::with_capacity(count);
            let mut used = Vec::with_capacity(count);
            for _ in 0..count {
                let at = self.random.usize(..self.channels.len());
                let padding = if self.random.u32(..20) == 0 { 20_000 } else { self.random.usize(..2_000) };
                let number = self.numbers[at];
                self.numbers[at] += 1;
                messages.push((self.channels[at], format!("{} {number} {:.>padding$}", self.channels[at], "")));
                used.push((self.channels[at].to_owned(), number));
            }
            if !send(&messages) {
                self.uncertain.extend(used);
            }
            thread::sleep(Duration::from_millis(self.random.u64(2..25)));
        }
        let mut published = self.published.lock().unwrap();
        published.uncertain.extend(self.uncertain);
        for (name, number) in self.channels.iter().zip(self.numbers) {
            published.used.insert((*name).to_owned(), number);
        }
    }
}

/// `POST /publish` of NDJSON; false if not everything is known to be published.
fn post(admin: &Endpoint, messages: &[(&str, String)]) -> bool {
    let line = |(channel, message): &(&str, String)| {
        serde_json::json!({ "channel": channel, "message": message }).to_string() + "\n"
    };
    let body: String = messages.iter().map(line).collect();
    let request = Request::post("/publish", "application/x-ndjson", body);
    let Ok(mut socket) = admin.connect() else { return false };
    let _ = socket.write_all(&request.to_bytes());
    let Ok(response) = Response::read_head(socket) else { return false };
    response.status() == 200 && response.text().lines().all(|line| line.contains(r#""ok""#))
}

fn send_by_redis(redis: &redis::Client, messages: &[(&str, String)]) -> bool {
    let mut pipe = redis::pipe();
    for (channel, message) in messages {
        pipe.publish(channel, message).ignore();
    }
    redis.get_connection().and_then(|mut connection| pipe.exec(&mut connection)).is_ok()
}

impl Scenario {
    fn tables(&self, redis: Option<&RedisServer>) -> String {
        let source = redis.map_or_else(String::new, |redis| {
            format!("[redis]\nurl = \"redis://node:secret@127.0.0.1:{}\"\n", redis.port())
        });
        format!(
            "{source}[process]\nworkers = {}\n[stream]\nping_interval = \"200ms\"\ngzip = true\n{}{HISTORY}linger = {:?}\n",
            self.workers, self.stream, self.linger
        )
    }

    fn kind(&self, at: usize) -> Kind {
        match at % 6 {
            0 | 1 if self.polls => Kind::JsonPoll,
            2 if self.polls => Kind::EventStreamPoll,
            0 => Kind::JsonPoll,
            1 => Kind::EventStreamPoll,
            2 => Kind::Stream { gzip: true, envelope: true },
            3 => Kind::Stream { gzip: true, envelope: false },
            4 => Kind::Stream { gzip: false, envelope: true },
            _ => Kind::Stream { gzip: false, envelope: false },
        }
    }

    /// Runs it, and asserts the promise for every client. Gives what was counted.
    fn run(self) -> Counts {
        let folder = Folder::new();
        let mut redis = self.redis.then(|| RedisServer::start(&folder));
        if let Some(redis) = &redis {
            allow(redis, &["allchannels"]);
        }
        let tables = self.tables(redis.as_ref());
        let mut daemons: Vec<Daemon> =
            (0..self.nodes).map(|node| Daemon::start_named(&folder, &format!("node{node}"), &tables)).collect();
        daemons.iter_mut().for_each(Daemon::wait_until_ready);
        let endpoints: Vec<Endpoint> = daemons.iter().map(|daemon| daemon.public().clone()).collect();
        let admin = daemons[0].admin().clone();
        let mut random = fastrand::Rng::with_seed(self.seed);
        let names: Vec<&str> = if self.redis { [BY_ADMIN, BY_REDIS].concat() } else { BY_ADMIN.to_vec() };
        let mut clients: Vec<Client> = (0..self.clients)
            .map(|at| {
                let mut channels: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
                random.shuffle(&mut channels);
                channels.truncate(random.usize(1..=3));
                Client::new(self.kind(at), channels, endpoints.clone(), random.u64(..))
            })
            .collect();
        let phase = Phase::default();
        let (publishing, published) = (AtomicBool::new(false), Mutex::new(Publications::default()));
        let (reading, unended, broken) = (AtomicUsize::new(clients.len()), Mutex::new(Vec::new()), AtomicUsize::new(0));
        let mut counted = String::new();
        thread::scope(|scope| {
            let (phase, publishing, published, reading, unended) =
                (&phase, &publishing, &published, &reading, &unended);
            for (at, client) in clients.iter_mut().enumerate() {
                scope.spawn(move || {
                    if !client.run(phase, PATIENCE / 2) {
                        unended.lock().unwrap().push(at);
                    }
                    reading.fetch_sub(1, Ordering::Relaxed);
                });
            }
            let publisher = Publisher::new(&BY_ADMIN, published, random.u64(..));
            let to = admin.clone();
            let mut publishers = vec![scope.spawn(move || publisher.run(publishing, |messages| post(&to, messages)))];
            let client = redis.as_ref().map(|redis| redis::Client::open(redis.url()).unwrap());
            if let Some(client) = client.clone() {
                let publisher = Publisher::new(&BY_REDIS, published, random.u64(..));
                publishers
                    .push(scope.spawn(move || publisher.run(publishing, |messages| send_by_redis(&client, messages))));
            }
            let begin = Instant::now();
            let mut happened = Vec::new();
            while begin.elapsed().as_secs_f64() < seconds() {
                thread::sleep(Duration::from_millis(random.u64(5..120)));
                if self.faults.is_empty() {
                    continue;
                }
                let fault = self.faults[random.usize(..self.faults.len())];
                happened.push(fault);
                let at = random.usize(..daemons.len());
                self.happen(fault, &mut daemons[at], redis.as_mut(), &mut random);
            }
            publishing.store(true, Ordering::Relaxed);
            for publisher in publishers {
                publisher.join().unwrap();
            }
            if let Some(redis) = &redis {
                allow(redis, &["allchannels"]);
            }
            daemons.iter_mut().for_each(Daemon::wait_until_ready);
            phase.settling.store(true, Ordering::Relaxed);
            while reading.load(Ordering::Relaxed) > 0 {
                let ends: Vec<(&str, String)> = names.iter().map(|name| (*name, format!("{name} end"))).collect();
                match &client {
                    Some(client) => drop(send_by_redis(client, &ends)),
                    None => drop(post(&admin, &ends)),
                }
                thread::sleep(Duration::from_millis(50));
            }
            for fault in [Fault::Reload, Fault::CutSubscribers, Fault::RestartRedis, Fault::Refuse, Fault::Stop] {
                let count = happened.iter().filter(|&&other| other == fault).count();
                counted += &if count > 0 { format!(" {fault:?} {count},") } else { String::new() };
            }
        });
        let published = published.into_inner().unwrap();
        let mut sum = Counts::default();
        for client in &clients {
            match check(&client.channels, &client.items, &published) {
                Ok(counts) => sum += counts,
                Err((at, error)) => {
                    broken.fetch_add(1, Ordering::Relaxed);
                    println!("VIOLATION {:?} {:?}: {error}\n{}", client.kind, client.channels, client.log_around(at));
                }
            }
        }
        for at in unended.into_inner().unwrap() {
            broken.fetch_add(1, Ordering::Relaxed);
            let client = &clients[at];
            let end = client.items.len();
            println!("NO END {:?} {:?}:\n{}", client.kind, client.channels, client.log_around(end));
        }
        let cuts: usize = clients.iter().map(|client| client.cuts).sum();
        let events: u64 = published.used.values().sum();
        println!("seed {}: {events} published, {cuts} cuts,{counted} {sum:?}", self.seed);
        if broken.load(Ordering::Relaxed) > 0 {
            for daemon in &mut daemons {
                println!("--- log:\n{}", daemon.child().log());
            }
            panic!("{} clients saw the promise broken: {self:?}", broken.load(Ordering::Relaxed));
        }
        sum
    }

    fn happen(&self, fault: Fault, daemon: &mut Daemon, redis: Option<&mut RedisServer>, random: &mut fastrand::Rng) {
        match (fault, redis) {
            (Fault::Reload, _) => {
                let outcome = daemon.try_reload();
                assert!(outcome.is_ok() || self.redis, "{outcome:?}");
            }
            (Fault::Stop, _) => {
                daemon.child().signal(Signal::SIGSTOP);
                thread::sleep(Duration::from_millis(random.u64(100..5_000)));
                daemon.child().signal(Signal::SIGCONT);
                thread::sleep(Duration::from_millis(random.u64(300..1_000)));
            }
            (Fault::CutSubscribers, Some(redis)) => redis.cut_subscribers(),
            (Fault::RestartRedis, Some(redis)) => {
                redis.kill();
                thread::sleep(Duration::from_millis(random.u64(..200)));
                redis.start_again();
                allow(redis, &["allchannels"]);
            }
            (Fault::Refuse, Some(redis)) => {
                let rights =
                    [&["resetchannels", "&h*", "&r1", "&ssecast*"][..], &["resetchannels", "&r*", "&ssecast*"]];
                allow(redis, rights[random.usize(..2)]);
                thread::sleep(Duration::from_millis(random.u64(50..600)));
                allow(redis, &["allchannels"]);
            }
            (fault, None) => panic!("{fault:?} needs a Redis"),
        }
    }
}

#[test]
fn two_workers_and_reloads_alone_lose_nothing_silently() {
    for seed in seeds(100) {
        let scenario = Scenario { seed, polls: true, faults: &[Fault::Reload], ..CALM };
        let counts = scenario.run();
        assert_eq!(counts.needless, 0, "gap events where nothing was lost");
    }
}

#[test]
fn one_worker_and_reloads_alone_lose_nothing_silently() {
    for seed in seeds(200) {
        let scenario =
            Scenario { seed, workers: 1, faults: &[Fault::Reload], stream: "max_lifetime = \"1s\"\n", ..CALM };
        assert_eq!(scenario.run().needless, 0, "gap events where nothing was lost");
    }
}

#[test]
fn lost_connections_to_redis_and_reloads_lose_nothing_silently() {
    needs!("redis-server");
    for seed in seeds(300) {
        let faults = &[Fault::Reload, Fault::CutSubscribers, Fault::CutSubscribers, Fault::RestartRedis];
        let linger = if seed % 2 == 0 { "0s" } else { "60s" };
        Scenario { seed, redis: true, faults, linger, stream: "max_lifetime = \"2s\"\n", ..CALM }.run();
    }
}

#[test]
fn channels_that_redis_refuses_for_a_while_lose_nothing_silently() {
    needs!("redis-server");
    for seed in seeds(400) {
        let faults = &[Fault::Refuse, Fault::Refuse, Fault::Reload];
        Scenario { seed, redis: true, faults, ..CALM }.run();
    }
}

#[test]
fn a_daemon_that_stands_still_loses_nothing_silently() {
    needs!("redis-server");
    for seed in seeds(600) {
        Scenario { seed, redis: true, polls: true, faults: &[Fault::Stop, Fault::Reload], ..CALM }.run();
    }
}

/// A node that stood still gives what it then reads positions of times before. A client that comes from another node gets it
/// all the same.
#[test]
fn two_nodes_of_which_one_stands_still_lose_nothing_silently() {
    needs!("redis-server");
    for seed in seeds(500) {
        Scenario { seed, redis: true, nodes: 2, faults: &[Fault::Stop], ..CALM }.run();
    }
}
