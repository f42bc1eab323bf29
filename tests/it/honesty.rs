//! The one promise under everything: what a client does not get, it is told of. Publishes, cuts, lost Redis connections and
//! crashes in random order; every event that is missing from what a client assembled lies under a gap that names its channel.

use std::collections::HashMap;

use crate::support::{Daemon, Event, Folder, RedisServer, Stream, Subscription, eventually};

const CHANNELS: [&str; 3] = ["a", "b", "c"];

/// A daemon, its Redis and one client, to which things happen.
struct World {
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

/// An EventSource of all channels: reads what there is, remembers everything.
#[derive(Default)]
struct Client {
    stream: Option<Stream>,
    last_event_id: Option<String>,
    received: Vec<Event>,
}

impl Client {
    fn connect(&mut self, daemon: &Daemon) {
        let mut subscription = Subscription::to(&CHANNELS);
        if let Some(id) = &self.last_event_id {
            subscription = subscription.after(id);
        }
        self.stream = Some(subscription.open(daemon.public()));
    }

    /// Takes what has arrived.
    fn read(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        self.received.extend(stream.arrived());
        self.last_event_id = stream.committed_id().or(self.last_event_id.take());
    }

    /// Is cut off, perhaps in the middle of something.
    fn cut(&mut self, random: &mut fastrand::Rng) {
        if random.bool() {
            self.read();
        }
        self.stream = None;
    }
}

impl World {
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

    /// Publishes the next number on `channel`, if there is anybody who takes it.
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

    fn step(&mut self) {
        match self.random.u32(..100) {
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
            85..90 if self.redis_is_up => self.redis.cut_subscribers(),
            90..95 if self.redis_is_up => {
                self.redis.kill();
                self.redis_is_up = false;
            }
            85..95 => {
                self.redis.start_again();
                self.redis_is_up = true;
            }
            _ => {
                self.client.read();
                self.daemon.start_again();
                self.client.stream = None;
            }
        }
    }

    /// Brings everything back, and reads until a last event of every channel has come.
    fn settle(&mut self) {
        if !self.redis_is_up {
            self.redis.start_again();
            self.redis_is_up = true;
        }
        self.daemon.wait_until_ready();
        if self.client.stream.is_none() {
            self.client.connect(&self.daemon);
        }
        for channel in CHANNELS {
            let last = format!("{channel} last");
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

    /// Asserts that nothing came twice or out of order, and that what did not come was told.
    fn assert_honest(&self) {
        for channel in CHANNELS {
            let mut next = 0;
            let mut told = false;
            for event in &self.client.received {
                if let Some(gap) = event.gap() {
                    told |= gap.channels.iter().any(|name| name == channel);
                    continue;
                }
                let text = event.text();
                let Some(number) = text.strip_prefix(channel).map(str::trim_start) else { continue };
                let number = if number == "last" {
                    self.published.get(channel).copied().unwrap_or(0)
                } else {
                    number.parse().unwrap()
                };
                assert!(number >= next, "{text} came after {channel} {}:\n{}", next - 1, self.story());
                assert!(told || number == next, "nobody told of {channel} {next}..{number}:\n{}", self.story());
                if text.ends_with("last") {
                    break;
                }
                (next, told) = (number + 1, false);
            }
        }
    }

    fn story(&self) -> String {
        self.client.received.iter().map(|event| format!("{} {} {}\n", event.id, event.kind, event.text())).collect()
    }

    fn live(&mut self, steps: usize) {
        for _ in 0..steps {
            self.step();
        }
        self.settle();
        self.assert_honest();
    }
}

/// Lives through `steps` random steps for each of some seeds.
fn live(tables: &str, through_redis: bool, seeds: std::ops::Range<u64>, steps: usize) {
    for seed in seeds {
        println!("seed {seed}");
        let folder = Folder::new();
        World::new(&folder, tables, through_redis, seed).live(steps);
    }
}

#[test]
fn whatever_happens_to_redis_and_the_daemon_what_is_missing_was_told() {
    live("[stream]\nping_interval = \"5ms\"\n[history]\nlinger = \"60s\"\n", true, 0..8, 150);
}

#[test]
fn where_channels_are_given_up_at_once_what_is_missing_was_told() {
    live("[stream]\nping_interval = \"5ms\"\n[history]\nlinger = \"0s\"\n", true, 100..106, 150);
}

#[test]
fn where_hardly_anything_is_kept_what_is_missing_was_told() {
    live(
        "[history]\nmessages = 3\nstretch = \"0s\"\nlinger = \"100ms\"\n[process]\nworkers = 2\n",
        true,
        200..206,
        150,
    );
}

#[test]
fn without_redis_what_is_missing_was_told() {
    live(
        "[stream]\nping_interval = \"5ms\"\n[history]\nmessages = 10\nstretch = \"0s\"\n[process]\nworkers = 2\n",
        false,
        300..308,
        200,
    );
}
