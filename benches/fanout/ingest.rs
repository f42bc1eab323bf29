//! Events a second into ssecast: from Redis, compared with a subscriber that discards what it reads; and as NDJSON on the admin
//! socket. The rows of the Redis journal are in `journal`. One client reads all events.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use ssecast_bench::procfs;

use crate::{
    contenders::{Processes, start_daemon, wait_until},
    journal,
    scenarios::{Options, median},
};

pub(crate) const EVENTS: usize = 400_000;
pub(crate) const PAYLOAD: usize = 128;
const AT_ONCE: usize = 1000;

/// Prints all rows.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    from_redis(options)?;
    journal::run(options)?;
    by_admin_socket(options)
}

fn from_redis(options: &Options) -> anyhow::Result<()> {
    if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("\nIngest from Redis: redis-server is not on this machine");
        return Ok(());
    }
    let mut rounds = Vec::new();
    for round in 0..options.rounds {
        eprintln!("Ingest from Redis: round {}", round + 1);
        let dir = tempfile::tempdir()?;
        let mut processes = Processes::default();
        let socket = dir.path().join("redis.sock");
        let mut redis = Command::new("redis-server");
        redis.args(["--port", "0", "--save", "", "--client-output-buffer-limit", "pubsub 0 0 0", "--unixsocket"]);
        processes.start(redis.arg(&socket).current_dir(dir.path()).stdout(Stdio::null()))?;
        wait_until("Redis answers", || UnixStream::connect(&socket).is_ok())?;

        let mut bare = UnixStream::connect(&socket)?;
        bare.write_all(b"*2\r\n$9\r\nSUBSCRIBE\r\n$5\r\nbench\r\n")?;
        let _ = bare.read(&mut [0; 1024])?; // The confirmation.
        let message = format!("*3\r\n$7\r\nmessage\r\n$5\r\nbench\r\n${PAYLOAD}\r\n").len() + PAYLOAD + 2;
        let bare_rate = rate(&socket, || read_bytes(&mut bare, EVENTS * message))?;
        drop(bare);

        let tables = format!("[redis]\nurl = \"redis+unix://{}\"\n", socket.display());
        let public = dir.path().join("public.sock");
        let (_, pid) = start_daemon(dir.path(), &public, &tables, &mut processes)?;
        let mut client = subscribe(&public)?;
        let cpu = || anyhow::Ok(procfs::sample(&[pid])?[0].cpu.as_secs_f64());
        let before = cpu()?;
        let own_rate = rate(&socket, || read_events(&mut client, EVENTS))?;
        rounds.push((bare_rate, own_rate, (cpu()? - before) * 1e6 / EVENTS as f64));
    }
    println!("\nIngest from Redis: {EVENTS} PUBLISHes of {PAYLOAD} bytes, one client, medians of {}", rounds.len());
    let middle = |of: &dyn Fn(&(f64, f64, f64)) -> f64| median(rounds.iter().map(of));
    println!("bare subscriber    {:>9.0} events/s", middle(&|round| round.0));
    let (own, ratio, cpu) = (middle(&|round| round.1), middle(&|round| round.1 / round.0), middle(&|round| round.2));
    println!("ssecast            {own:>9.0} events/s ({ratio:.2}), {cpu:.2} us of its CPU an event");
    Ok(())
}

fn by_admin_socket(options: &Options) -> anyhow::Result<()> {
    let mut rounds = Vec::new();
    let line = format!("{{\"channel\":\"bench\",\"message\":\"{}\"}}\n", "x".repeat(PAYLOAD));
    let body = line.repeat(AT_ONCE);
    let head = "POST /publish HTTP/1.1\r\nHost: ssecast\r\nContent-Type: application/x-ndjson\r\nContent-Length:";
    let request = format!("{head} {}\r\n\r\n{body}", body.len()).into_bytes();
    for round in 0..options.rounds {
        eprintln!("Ingest by the admin socket: round {}", round + 1);
        let dir = tempfile::tempdir()?;
        let mut processes = Processes::default();
        let public = dir.path().join("public.sock");
        let (admin, pid) = start_daemon(dir.path(), &public, "", &mut processes)?;
        let mut client = subscribe(&public)?;
        let mut publisher = UnixStream::connect(&admin)?;
        let mut answers = publisher.try_clone()?;
        let cpu = || anyhow::Ok(procfs::sample(&[pid])?[0].cpu.as_secs_f64());
        let (before, start) = (cpu()?, Instant::now());
        thread::scope(|scope| -> anyhow::Result<()> {
            scope.spawn(move || while answers.read(&mut [0; 64 << 10]).is_ok_and(|bytes| bytes > 0) {});
            let reading = scope.spawn(|| read_events(&mut client, EVENTS));
            for _ in 0..EVENTS / AT_ONCE {
                publisher.write_all(&request)?;
            }
            let all = reading.join().map_err(|_| anyhow::anyhow!("the client panicked"))?;
            publisher.shutdown(std::net::Shutdown::Both)?;
            all
        })?;
        let wall = start.elapsed().as_secs_f64();
        rounds.push((EVENTS as f64 / wall, EVENTS as f64 / (cpu()? - before)));
    }
    println!("\nIngest as NDJSON on the admin socket: {AT_ONCE} lines a request, pipelined, one client");
    let (wall, core) = (median(rounds.iter().map(|round| round.0)), median(rounds.iter().map(|round| round.1)));
    println!("ssecast            {wall:>9.0} events/s, {core:.0} events for a second of its CPU");
    Ok(())
}

/// Publishes all by Redis while `read` reads; events a second until it has.
fn rate(socket: &Path, read: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let mut publisher = UnixStream::connect(socket)?;
    let mut answers = publisher.try_clone()?;
    let one = format!("*3\r\n$7\r\nPUBLISH\r\n$5\r\nbench\r\n${PAYLOAD}\r\n{}\r\n", "x".repeat(PAYLOAD));
    let many = one.repeat(AT_ONCE).into_bytes();
    thread::scope(|scope| {
        let start = Instant::now();
        let writing = scope.spawn(move || (0..EVENTS / AT_ONCE).try_for_each(|_| publisher.write_all(&many)));
        // ":1\r\n" to each.
        let answering = scope.spawn(move || read_bytes(&mut answers, EVENTS * 4));
        read()?;
        let wall = start.elapsed().as_secs_f64();
        writing.join().map_err(|_| anyhow::anyhow!("the publisher panicked"))??;
        answering.join().map_err(|_| anyhow::anyhow!("the publisher panicked"))??;
        Ok(EVENTS as f64 / wall)
    })
}

/// A stream that is open.
pub(crate) fn subscribe(public: &Path) -> anyhow::Result<UnixStream> {
    let mut client = UnixStream::connect(public)?;
    client.set_read_timeout(Some(Duration::from_secs(60)))?;
    client.write_all(b"GET /?channels=bench HTTP/1.1\r\nHost: ssecast\r\nAccept: text/event-stream\r\n\r\n")?;
    let mut head = [0; 4096];
    let bytes = client.read(&mut head)?;
    ensure!(head[..bytes].starts_with(b"HTTP/1.1 200 "), "the stream was refused");
    Ok(client)
}

pub(crate) fn read_bytes(stream: &mut UnixStream, mut bytes: usize) -> anyhow::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    while bytes > 0 {
        let read = stream.read(&mut buffer).context("not all has come")?;
        ensure!(read > 0, "the stream was closed");
        bytes -= read.min(bytes);
    }
    Ok(())
}

/// Reads until all events are there: each has one `data:` line, so one "d" at a line's beginning.
pub(crate) fn read_events(stream: &mut UnixStream, count: usize) -> anyhow::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    // The first event may be the first thing that is read.
    let (mut events, mut after_newline) = (0, true);
    while events < count {
        let read = stream.read(&mut buffer).with_context(|| format!("{events} of {count} events have come"))?;
        ensure!(read > 0, "the stream was closed");
        events += usize::from(after_newline && buffer[0] == b'd');
        events += memchr::memchr_iter(b'\n', &buffer[..read - 1]).filter(|&at| buffer[at + 1] == b'd').count();
        after_newline = buffer[read - 1] == b'\n';
    }
    Ok(())
}
