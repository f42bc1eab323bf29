//! What reading by patterns costs, with 100,000 channels in Redis that clients have subscribed to by name: CPU of ssecast and of
//! Redis for a publish, and memory; without patterns, with one client of a pattern that matches all of them, and with many
//! patterns that match nothing.

use std::{
    io::{ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, ensure};
use ssecast_bench::procfs;

use crate::{
    contenders::{Processes, start_daemon, wait_until},
    scenarios::{Options, median},
};

const CLIENTS: usize = 1600;
const CHANNELS_A_CLIENT: usize = 64;
const CHANNELS: usize = CLIENTS * CHANNELS_A_CLIENT;
const OTHER_PATTERNS: usize = 1000;
const PAYLOAD: usize = 128;
const AT_ONCE: usize = 800;
/// No pings. One event is kept of each channel, so that memory is steady after one event on each.
const TABLES: &str = "[stream]\nping_interval = \"1h\"\n[history]\nmessages = 1\nbytes = \"1GiB\"\nlinger = \"0s\"\nage = \"1day\"\n\
                      [[channel]]\nmatch = \"*\"\npatterns = true\n";

/// CPU of a publish in microseconds (ssecast, Redis), and memory of ssecast in MiB.
#[derive(Debug, Clone, Copy)]
struct Cost {
    ssecast: f64,
    redis: f64,
    memory: f64,
}

/// Prints the row.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("\nPatterns: redis-server is not on this machine");
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let mut processes = Processes::default();
    let socket = dir.path().join("redis.sock");
    let mut redis = Command::new("redis-server");
    redis.args(["--port", "0", "--save", "", "--client-output-buffer-limit", "pubsub 0 0 0", "--unixsocket"]);
    let redis = processes.start(redis.arg(&socket).current_dir(dir.path()).stdout(Stdio::null()))?.id();
    wait_until("Redis answers", || UnixStream::connect(&socket).is_ok())?;
    let public = dir.path().join("public.sock");
    let tables = format!("[redis]\nurl = \"redis+unix://{}\"\n{TABLES}", socket.display());
    let (_, pid) = start_daemon(dir.path(), &public, &tables, &mut processes)?;
    let mut bench = Bench { redis: socket, pids: [pid, redis], public, clients: Vec::new() };
    for client in 0..CLIENTS {
        let names: Vec<String> = (0..CHANNELS_A_CLIENT).map(|at| channel(client * CHANNELS_A_CLIENT + at)).collect();
        let stream = bench.subscribe(&names.join(","))?;
        bench.clients.push(stream);
    }
    bench.publish(None)?; // Warms up: from now on each channel keeps an event.
    let mut rounds: Vec<[Cost; 3]> = Vec::new();
    for round in 0..options.rounds {
        eprintln!("Patterns: round {}", round + 1);
        let without = bench.publish(None)?;
        let mut by_pattern = bench.subscribe("channel*")?;
        let with = bench.publish(Some(&mut by_pattern))?;
        drop(by_pattern);
        let others: Vec<UnixStream> =
            (0..OTHER_PATTERNS).map(|at| bench.subscribe(&format!("user{at}.*"))).collect::<Result<_, _>>()?;
        let beside = bench.publish(None)?;
        drop(others);
        rounds.push([without, with, beside]);
    }
    println!("\nPatterns: {CHANNELS} channels with a client each, medians of {} rounds", rounds.len());
    println!("{:<46} {:>10} {:>10} {:>10}", "", "ssecast", "Redis", "memory");
    let rows = ["no pattern", "one client reads all of them by a pattern", "1000 patterns that match nothing"];
    for (at, row) in rows.iter().enumerate() {
        let of = |cost: fn(&Cost) -> f64| median(rounds.iter().map(|round| cost(&round[at])));
        let (own, redis, memory) = (of(|cost| cost.ssecast), of(|cost| cost.redis), of(|cost| cost.memory));
        println!("{row:<46} {own:>7.2} us {redis:>7.2} us {memory:>6.1} MiB");
    }
    Ok(())
}

fn channel(number: usize) -> String {
    format!("channel{number:06}")
}

struct Bench {
    redis: std::path::PathBuf,
    /// ssecast and Redis.
    pids: [u32; 2],
    public: std::path::PathBuf,
    clients: Vec<UnixStream>,
}

impl Bench {
    fn subscribe(&self, channels: &str) -> anyhow::Result<UnixStream> {
        let mut client = UnixStream::connect(&self.public)?;
        client.set_read_timeout(Some(Duration::from_secs(60)))?;
        write!(client, "GET /?channels={channels} HTTP/1.1\r\nHost: ssecast\r\nAccept: text/event-stream\r\n\r\n")?;
        let mut head = [0; 4096];
        let bytes = client.read(&mut head)?;
        ensure!(head[..bytes].starts_with(b"HTTP/1.1 200 "), "the stream was refused");
        Ok(client)
    }

    /// Publishes one event on each channel, and waits until all have been delivered.
    fn publish(&mut self, by_pattern: Option<&mut UnixStream>) -> anyhow::Result<Cost> {
        let mut last = self.subscribe("last")?;
        let before = procfs::sample(&self.pids)?;
        thread::scope(|scope| -> anyhow::Result<()> {
            let reading = by_pattern.map(|stream| scope.spawn(|| read_events(stream, CHANNELS)));
            publish_all(&self.redis)?;
            read_events(&mut last, 1)?;
            match reading {
                Some(reading) => reading.join().map_err(|_| anyhow::anyhow!("the client panicked"))?,
                None => Ok(()),
            }
        })?;
        let after = procfs::sample(&self.pids)?;
        for client in &mut self.clients {
            discard(client)?;
        }
        let cpu = |at: usize| (after[at].cpu - before[at].cpu).as_secs_f64() * 1e6 / CHANNELS as f64;
        Ok(Cost { ssecast: cpu(0), redis: cpu(1), memory: after[0].pss as f64 / f64::from(1 << 20) })
    }
}

/// Publishes on every channel, and then on `last`.
fn publish_all(redis: &Path) -> anyhow::Result<()> {
    let mut publisher = UnixStream::connect(redis)?;
    let payload = "x".repeat(PAYLOAD);
    let publish = |channel: &str| {
        format!("*3\r\n$7\r\nPUBLISH\r\n${}\r\n{channel}\r\n${PAYLOAD}\r\n{payload}\r\n", channel.len())
    };
    for begin in (0..CHANNELS).step_by(AT_ONCE) {
        let many: String = (begin..begin + AT_ONCE).map(|number| publish(&channel(number))).collect();
        publisher.write_all(many.as_bytes())?;
        // ":1\r\n" to each, or ":2\r\n".
        publisher.read_exact(&mut [0; AT_ONCE * 4])?;
    }
    publisher.write_all(publish("last").as_bytes())?;
    Ok(publisher.read_exact(&mut [0; 4])?)
}

/// Reads until so many events are there: each has one `data:` line with an x or, in an envelope, a channel.
fn read_events(stream: &mut UnixStream, count: usize) -> anyhow::Result<()> {
    let (mut buffer, mut events, mut line) = (vec![0; 256 << 10], 0, Vec::new());
    while events < count {
        let read = stream.read(&mut buffer).with_context(|| format!("{events} of {count} events have come"))?;
        ensure!(read > 0, "the stream was closed");
        for &byte in &buffer[..read] {
            if byte == b'\n' {
                events += usize::from(line.starts_with(b"data: x") || line.starts_with(b"data: {\"ch"));
                line.clear();
            } else if line.len() < 10 {
                line.push(byte);
            }
        }
    }
    Ok(())
}

/// Reads what there is.
fn discard(stream: &mut UnixStream) -> anyhow::Result<()> {
    stream.set_nonblocking(true)?;
    let mut buffer = [0; 64 << 10];
    loop {
        match stream.read(&mut buffer) {
            Ok(1..) => {}
            Ok(0) => anyhow::bail!("a stream was closed"),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
