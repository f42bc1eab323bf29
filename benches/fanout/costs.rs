//! Costs by the daemon's CPU time and memory: of a publish while other channels have many clients, of a second shard, of
//! `stream.coalesce`, of clients that don't read.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use ssecast_bench::{
    channels::ChannelPlan,
    procfs,
    progress::Progress,
    publisher,
    swarm::{Swarm, Work},
};

use crate::{
    contenders::{Processes, start_daemon},
    scenarios::{Options, median},
};

/// Clients of other channels, one each.
const OTHERS: usize = 15_000;
/// So long that no ping is counted as the cost of a publish.
const NO_PINGS: &str = "[stream]\nping_interval = \"1h\"\n";
const SLOW: usize = 1000;

/// Prints what a publish to one client costs the daemon, without and with clients of other channels.
pub(crate) fn others(options: &Options) -> anyhow::Result<()> {
    const TURNS: usize = 20;
    let plan: ChannelPlan = "bench".parse()?;
    let mut rounds = Vec::new();
    for round in 0..options.rounds {
        eprintln!("Other channels: round {}", round + 1);
        // Both daemons run at the same time and take turns, because noise would otherwise exceed the small cost of a publish.
        let mut daemons = [OneClient::start(&plan, 0)?, OneClient::start(&plan, OTHERS)?];
        let mut sums = [0.0; 2];
        for turn in 0..=TURNS {
            for (daemon, sum) in daemons.iter_mut().zip(&mut sums) {
                let cpu = daemon.publish()?;
                *sum += if turn == 0 { 0.0 } else { cpu / TURNS as f64 };
            }
        }
        rounds.push(sums);
    }
    let (alone, beside) = (median(rounds.iter().map(|round| round[0])), median(rounds.iter().map(|round| round[1])));
    let ratio = median(rounds.iter().map(|round| round[1] / round[0]));
    println!(
        "\nA publish to 1 client: {alone:.1} us of ssecast's CPU, {beside:.1} us with {OTHERS} clients of as many"
    );
    println!("other channels ({ratio:.2})");
    Ok(())
}

/// A daemon with one client of the channel that is published to, and others of other channels.
struct OneClient<'a> {
    plan: &'a ChannelPlan,
    client: Swarm,
    _others: Option<Swarm>,
    publisher: Box<dyn publisher::Publisher>,
    pid: u32,
    _processes: Processes,
    _dir: tempfile::TempDir,
}

impl<'a> OneClient<'a> {
    fn start(plan: &'a ChannelPlan, others: usize) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut processes = Processes::default();
        let public = dir.path().join("public.sock");
        let (admin, pid) = start_daemon(dir.path(), &public, NO_PINGS, &mut processes)?;
        let url = format!("unix://{}", public.display()).parse()?;
        let deadline = Instant::now() + Duration::from_secs(300);
        let mut progress = Progress::on_terminal();
        let client = Swarm::connect(&url, plan, 1, deadline, &mut progress)?;
        let other = (0..others).map(|at| format!("other{at}")).collect::<Vec<_>>().join("+");
        let others = match others {
            0 => None,
            _ => Some(Swarm::connect(&url, &other.parse()?, others, deadline, &mut progress)?),
        };
        let publisher = publisher::open(&format!("unix://{}", admin.display()))?;
        Ok(Self { plan, client, _others: others, publisher, pid, _processes: processes, _dir: dir })
    }

    /// Microseconds of the daemon's CPU for one publish, answered and delivered to the client.
    fn publish(&mut self) -> anyhow::Result<f64> {
        const EVENTS: usize = 500;
        let cpu = |pid| anyhow::Ok(procfs::sample(&[pid])?[0].cpu.as_secs_f64() * 1e6);
        let before = cpu(self.pid)?;
        let work = Work { events: EVENTS, burst: 1, rate: None, size: 128 };
        let deadline = Instant::now() + Duration::from_secs(60);
        self.client.run(&work, self.plan, self.publisher.as_mut(), deadline, &mut Progress::on_terminal())?;
        Ok((cpu(self.pid)? - before) / EVENTS as f64)
    }
}

/// Prints how two shards divide the work of one.
pub(crate) fn workers(options: &Options) -> anyhow::Result<()> {
    let mut rounds = Vec::new();
    for round in 0..options.rounds {
        eprintln!("Shards: round {}", round + 1);
        rounds.push((shards_cpu(1)?, shards_cpu(2)?));
    }
    let sum = |shards: &[f64]| shards.iter().sum::<f64>();
    let busiest = |shards: &[f64]| shards.iter().copied().fold(0.0, f64::max);
    let one = median(rounds.iter().map(|(one, _)| sum(one)));
    let two = median(rounds.iter().map(|(_, two)| sum(two)));
    let share = median(rounds.iter().map(|(_, two)| busiest(two) / sum(two)));
    let gain = median(rounds.iter().map(|(one, two)| busiest(one) / busiest(two)));
    println!("\nShards, 3600 clients: {one:.2} us of CPU a delivery with one, {two:.2} us with two,");
    println!(
        "of which the busier has {:.0} %: as many deliveries a second as its CPU allows, {gain:.2}",
        share * 100.0
    );
    Ok(())
}

/// CPU microseconds of each shard for one delivery of the daemon.
fn shards_cpu(workers: usize) -> anyhow::Result<Vec<f64>> {
    const CLIENTS: usize = 3600;
    const EVENTS: usize = 200;
    let dir = tempfile::tempdir()?;
    let mut processes = Processes::default();
    let public = dir.path().join("public.sock");
    let tables = format!("[process]\nworkers = {workers}\n");
    let (admin, pid) = start_daemon(dir.path(), &public, &tables, &mut processes)?;
    let plan: ChannelPlan = "bench".parse()?;
    let deadline = Instant::now() + Duration::from_secs(300);
    let mut progress = Progress::on_terminal();
    let url = format!("unix://{}", public.display()).parse()?;
    let mut swarm = Swarm::connect(&url, &plan, CLIENTS, deadline, &mut progress)?;
    let mut publisher = publisher::open(&format!("unix://{}", admin.display()))?;
    let mut publish = |events| {
        let work = Work { events, burst: 1, rate: None, size: 128 };
        swarm.run(&work, &plan, publisher.as_mut(), deadline, &mut progress).map(drop)
    };
    publish(10)?;
    let before = shard_threads(pid)?;
    publish(EVENTS)?;
    let after = shard_threads(pid)?;
    ensure!(after.len() == workers, "there are {} shards", after.len());
    let each = after.iter().zip(before).map(|(after, before)| (after - before) / 1e3 / (CLIENTS * EVENTS) as f64);
    Ok(each.collect())
}

/// Nanoseconds that each shard's thread has run.
fn shard_threads(pid: u32) -> anyhow::Result<Vec<f64>> {
    let mut shards = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        let name = std::fs::read_to_string(task.join("comm"))?;
        if name.starts_with("shard-") {
            let ran = std::fs::read_to_string(task.join("schedstat"))?;
            shards.push((name, ran.split_whitespace().next().context("schedstat is empty")?.parse()?));
        }
    }
    shards.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(shards.into_iter().map(|(_, ran)| ran).collect())
}

/// Prints what a delivery costs of a channel that never rests, with and without a window in which events are gathered.
pub(crate) fn coalesce(options: &Options) -> anyhow::Result<()> {
    const RATE: f64 = 500.0;
    const WINDOW: &str = "20ms";
    let mut rounds = Vec::new();
    for round in 0..options.rounds {
        eprintln!("Coalescing: round {}", round + 1);
        let (off, on) = if round % 2 == 0 {
            let off = a_delivery("0ms", RATE)?;
            (off, a_delivery(WINDOW, RATE)?)
        } else {
            let on = a_delivery(WINDOW, RATE)?;
            (a_delivery("0ms", RATE)?, on)
        };
        rounds.push((off, on));
    }
    let (off, on) = (median(rounds.iter().map(|round| round.0)), median(rounds.iter().map(|round| round.1)));
    let ratio = median(rounds.iter().map(|round| round.1 / round.0));
    println!("\n{RATE} events a second to 1000 clients: {off:.2} us of ssecast's CPU a delivery, {on:.2} us with");
    println!("stream.coalesce = {WINDOW:?} ({ratio:.2})");
    Ok(())
}

/// Microseconds of the daemon's CPU for a delivery, of as many events a second.
fn a_delivery(coalesce: &str, rate: f64) -> anyhow::Result<f64> {
    const CLIENTS: usize = 1000;
    let dir = tempfile::tempdir()?;
    let mut processes = Processes::default();
    let public = dir.path().join("public.sock");
    let tables = format!("{NO_PINGS}coalesce = {coalesce:?}\n");
    let (admin, pid) = start_daemon(dir.path(), &public, &tables, &mut processes)?;
    let url = format!("unix://{}", public.display()).parse()?;
    let plan: ChannelPlan = "bench".parse()?;
    let deadline = Instant::now() + Duration::from_secs(300);
    let mut progress = Progress::on_terminal();
    let mut swarm = Swarm::connect(&url, &plan, CLIENTS, deadline, &mut progress)?;
    let mut publisher = publisher::open(&format!("unix://{}", admin.display()))?;
    let mut publish = |events| {
        let work = Work { events, burst: 1, rate: Some(rate), size: 128 };
        swarm.run(&work, &plan, publisher.as_mut(), deadline, &mut progress).map(drop)
    };
    publish(100)?;
    let before = procfs::sample(&[pid])?[0].cpu;
    let events = 2000;
    publish(events)?;
    let cpu = procfs::sample(&[pid])?[0].cpu - before;
    Ok(cpu.as_secs_f64() * 1e6 / (CLIENTS * events) as f64)
}

/// Prints what clients that don't read take of the daemon's memory while 20,000 events pass.
pub(crate) fn slow_clients(_: &Options) -> anyhow::Result<()> {
    eprintln!("Slow clients");
    let (one, many) = (memory_of_slow(1)?, memory_of_slow(SLOW)?);
    println!(
        "\nClients that don't read, 20,000 events of 1 KiB: the daemon grows by {:.0} KiB with one,",
        one / 1024.0
    );
    println!("by {:.0} KiB with {SLOW}: {:.0} bytes each", many / 1024.0, (many - one) / (SLOW - 1) as f64);
    Ok(())
}

/// By how many bytes (PSS) the daemon grows from when the clients are connected until events have passed that they don't read.
fn memory_of_slow(clients: usize) -> anyhow::Result<f64> {
    const REQUESTS: usize = 20;
    let dir = tempfile::tempdir()?;
    let mut processes = Processes::default();
    let public = dir.path().join("public.sock");
    // Without the stretch that is for all clients together, and bounded by time.
    let tables = "[history]\nstretch = \"1ms\"\n[stream]\nping_interval = \"1h\"\n";
    let (admin, pid) = start_daemon(dir.path(), &public, tables, &mut processes)?;
    let mut publish = Lines::open(&admin)?;
    publish.request()?; // The history and the buffers are as large as they get.
    let slow = (0..clients).map(|_| crate::ingest::subscribe(&public)).collect::<anyhow::Result<Vec<_>>>()?;
    let before = procfs::sample(&[pid])?[0].pss;
    for _ in 0..REQUESTS {
        publish.request()?;
    }
    std::thread::sleep(Duration::from_secs(3)); // A sweep.
    let after = procfs::sample(&[pid])?[0].pss;
    drop(slow);
    Ok(after as f64 - before as f64)
}

struct Lines {
    socket: UnixStream,
    request: Vec<u8>,
}

impl Lines {
    fn open(admin: &Path) -> anyhow::Result<Self> {
        let body = format!("{{\"channel\":\"bench\",\"message\":\"{}\"}}\n", "x".repeat(1024)).repeat(1000);
        let head = "POST /publish HTTP/1.1\r\nHost: ssecast\r\nContent-Type: application/x-ndjson\r\nContent-Length:";
        let request = format!("{head} {}\r\n\r\n{body}", body.len()).into_bytes();
        Ok(Self { socket: UnixStream::connect(admin)?, request })
    }

    fn request(&mut self) -> anyhow::Result<()> {
        self.socket.write_all(&self.request)?;
        let (mut text, mut buffer) = (Vec::new(), [0; 64 << 10]);
        while memchr::memchr_iter(b'\n', &text).count() < 1000 + 4 {
            let bytes = self.socket.read(&mut buffer)?;
            ensure!(bytes > 0, "the admin socket was closed: {}", String::from_utf8_lossy(&text));
            text.extend_from_slice(&buffer[..bytes]);
        }
        Ok(())
    }
}
