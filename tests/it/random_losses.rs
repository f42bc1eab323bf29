//! Each loss is reported: publishes, cut connections, disconnects of Redis and crashes happen in random order. A client that
//! resumes each time gets every event in order, or a gap event that names the channel of the missing ones.

use std::collections::HashMap;

use crate::support::{Daemon, Event, Folder, RedisServer, Stream, Subscription, eventually};

const CHANNELS: [&str; 3] = ["a", "b", "c"];
/// The last message on each channel.
const LAST: &str = "last";

/// A daemon, its Redis and one client. Random steps change their states.
struct Scenario {
    redis: RedisServer,
    redis_is_up: bool,
    daemon: Daemon,
    client: Client,
    /// How many events were published on each channel.
    published: HashMap<&'static str, usize>,
    random: fastrand::Rng,
    /// Whether events go through Redis, or to the admin socket alone.
    through_redis: bool,
}

/// An EventSource of all channels, which keeps every event.
#[derive(Default)]
struct Client {
    stream: Option<Stream>,
    last_event_id: Option<String>,
    received: Vec<Event>,
    /// What happened, printed if a test fails.
    log: Vec<String>,
}

impl Client {
    fn connect(&mut self, daemon: &Daemon) {
        let mut subscription = Subscription::to(&CHANNELS);
        if let Some(id) = &self.last_event_id {
            subscription = subscription.after(id);
        }
        self.log.push(format!("connects after {:?}", self.last_event_id));
        self.stream = Some(subscription.open(daemon.public()));
    }

    /// Reads the events that have arrived.
    fn read(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        let arrived = stream.arrived();
        let lines = arrived.iter().map(|event| format!("  {} {} {:.80}", event.id, event.kind, event.text()));
        self.log.extend(lines);
        self.received.extend(arrived);
        self.last_event_id = stream.committed_id().or(self.last_event_id.take());
    }

    /// Cuts its connection, possibly with unread events.
    fn cut(&mut self, random: &mut fastrand::Rng) {
        if random.bool() {
            self.read();
        }
        self.stream = None;
        self.log.push(format!("is cut off at {:?}", self.last_event_id));
    }
}

impl Scenario {
    fn new(folder: &Folder, tables: &str, through_redis: bool, seed: u64) -> Self {
        let redis = RedisServer::start(folder);
        let source = if through_redis { redis.table() } else { String::new() };
        let daemon = Daemon::start(folder, &format!("{source}{tables}"));
        let mut client = Client::default();
        client.connect(&daemon);
        client.last_event_id = Some(client.stream.as_mut().unwrap().last_event_id());
        let random = fastrand::Rng::with_seed(seed);
        Self { redis, redis_is_up: true, daemon, client, published: HashMap::new(), random, through_redis }
    }

    /// Publishes the next number on `channel`, unless Redis is down.
    fn publish(&mut self, channel: &'static str) {
        let number = self.published.entry(channel).or_default();
        let text = format!("{channel} {number}");
        if !self.through_redis {
            self.daemon.publish(channel, &text);
        } else if self.redis_is_up {
            self.redis.publish(channel, &text);
        } else {
            return;
        }
        *number += 1;
    }

    /// Publishes more on one channel than the client's socket holds.
    fn flood(&mut self) {
        let channel = CHANNELS[self.random.usize(..CHANNELS.len())];
        let first = *self.published.entry(channel).or_default();
        let padding = "x".repeat(2_000);
        let messages: Vec<String> =
            (first..first + 300).map(|number| format!("{channel} {number} {padding}")).collect();
        if !self.through_redis {
            self.daemon.publish_many(channel, messages.iter().map(String::as_str));
        } else if self.redis_is_up {
            let mut pipe = redis::pipe();
            for message in &messages {
                pipe.publish(channel, message).ignore();
            }
            pipe.exec(&mut self.redis.connect()).unwrap();
        } else {
            return;
        }
        self.published.insert(channel, first + messages.len());
    }

    fn step(&mut self) {
        match self.random.u32(..105) {
            102.. => {
                let outcome = self.daemon.try_reload();
                self.note(&format!("daemon: reload, {outcome:?}"));
                assert!(outcome.is_ok() || !self.redis_is_up, "{}", self.log());
            }
            100.. => self.flood(),
            0..50 => {
                for _ in 0..self.random.usize(1..8) {
                    let channel = CHANNELS[self.random.usize(..CHANNELS.len())];
                    self.publish(channel);
                }
            }
            50..65 => self.client.read(),
            65..85 => match self.client.stream {
                Some(_) => self.client.cut(&mut self.random),
                None => self.client.connect(&self.daemon),
            },
            85..90 if self.redis_is_up => {
                self.redis.cut_subscribers();
                self.note("Redis: subscribers are cut off");
            }
            90..95 if self.redis_is_up => {
                self.redis.kill();
                self.redis_is_up = false;
                self.note("Redis: killed");
            }
            85..95 => self.start_redis(),
            _ => {
                self.client.read();
                self.daemon.start_again();
                self.client.stream = None;
                self.note("daemon: killed and started");
            }
        }
    }

    fn note(&mut self, what: &str) {
        self.client.log.push(format!("{what}; published: {:?}", self.published));
    }

    fn start_redis(&mut self) {
        self.redis.start_again();
        self.redis_is_up = true;
        self.note("Redis: started");
    }

    /// Starts and connects everything again, and reads until the last message of each channel has arrived.
    fn settle(&mut self) {
        if !self.redis_is_up {
            self.start_redis();
        }
        self.daemon.wait_until_ready();
        if self.client.stream.is_none() {
            self.client.connect(&self.daemon);
        }
        for channel in CHANNELS {
            let last = format!("{channel} {LAST}");
            eventually("the last event", || {
                match self.through_redis {
                    true => drop(self.redis.publish(channel, &last)),
                    false => drop(self.daemon.publish(channel, &last)),
                }
                self.client.read();
                self.client.received.iter().any(|event| event.text() == last).then_some(())
            });
        }
    }

    /// Asserts that no event arrived twice or out of order, and that after a loss a gap event came first.
    fn assert_losses_reported(&self) {
        for channel in CHANNELS {
            let end = self.published.get(channel).copied().unwrap_or(0);
            let (mut next, mut gap_seen) = (0, false);
            for event in &self.client.received {
                if let Some(gap) = event.gap() {
                    gap_seen |= gap.channels.iter().any(|name| name == channel);
                    continue;
                }
                let text = event.text();
                let mut words = text.split(' ');
                if words.next() != Some(channel) {
                    continue;
                }
                let number = words.next().filter(|&word| word != LAST).map_or(end, |word| word.parse().unwrap());
                assert!(number >= next, "{channel} {number} came when {next} was due:\n{}", self.log());
                assert!(gap_seen || number == next, "no gap event for {channel} {next}..{number}:\n{}", self.log());
                if number == end {
                    break;
                }
                (next, gap_seen) = (number + 1, false);
            }
        }
    }

    fn log(&self) -> String {
        self.client.log.join("\n")
    }

    fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            self.step();
        }
        self.settle();
        self.assert_losses_reported();
    }
}

/// Runs 200 random steps for each of 6 seeds, the first of which is `seed`. `SSECAST_SEEDS=100` in the environment makes it 100
/// seeds: do that after a change to positions, histories or gaps.
fn run_seeds(tables: &str, through_redis: bool, seed: u64) {
    let count = std::env::var("SSECAST_SEEDS").map_or(6, |count| count.parse().unwrap());
    for seed in seed..seed + count {
        println!("seed {seed}");
        let folder = Folder::new();
        let tables = format!("[stream]\nping_interval = \"5ms\"\n{tables}");
        Scenario::new(&folder, &tables, through_redis, seed).run(200);
    }
}

#[test]
fn losses_of_redis_and_of_the_daemon_are_reported() {
    needs!("redis-server");
    run_seeds("[history]\nlinger = \"60s\"\n", true, 1000);
}

#[test]
fn losses_are_reported_without_linger() {
    needs!("redis-server");
    run_seeds("[history]\nlinger = \"0s\"\n", true, 2000);
}

#[test]
fn losses_are_reported_with_short_histories() {
    needs!("redis-server");
    run_seeds("[history]\nmessages = 3\nstretch = \"0s\"\nlinger = \"100ms\"\n[process]\nworkers = 2\n", true, 3000);
}

#[test]
fn losses_are_reported_without_redis() {
    needs!("redis-server");
    run_seeds("[history]\nmessages = 10\nstretch = \"0s\"\n[process]\nworkers = 2\n", false, 4000);
}
