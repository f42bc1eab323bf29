//! Entries a second from a Redis stream into ssecast, compared with a loop of XREAD that discards what it reads; and a start with a
//! long stream. One client reads all events.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::ensure;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use ssecast_bench::procfs;

use crate::{
    contenders::{Processes, start_daemon, wait_until},
    ingest::{EVENTS, PAYLOAD, read_bytes, read_events, subscribe},
    scenarios::{Options, median},
};

/// Entries of the stream that a daemon starts with.
const LONG: usize = 1_000_000;
/// Entries in one answer to the loop, and commands that are sent together.
const AT_ONCE: usize = 1000;
/// The milliseconds of the first entry's id; all ids have the same length.
const FIRST: usize = 1_700_000_000_000;

/// Prints both rows.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("\nRedis journal: redis-server is not on this machine");
        return Ok(());
    }
    backlog(options)?;
    start(options)
}

fn start_redis(dir: &Path, processes: &mut Processes) -> anyhow::Result<std::path::PathBuf> {
    let socket = dir.join("redis.sock");
    let mut redis = Command::new("redis-server");
    redis.args(["--port", "0", "--save", "", "--unixsocket"]).arg(&socket);
    processes.start(redis.current_dir(dir).stdout(Stdio::null()))?;
    wait_until("Redis answers", || UnixStream::connect(&socket).is_ok())?;
    Ok(socket)
}

fn table(socket: &Path) -> String {
    format!("[redis]\nurl = \"redis+unix://{}\"\njournal = \"bench\"\n", socket.display())
}

/// Everything waits in Redis when the readers begin.
fn backlog(options: &Options) -> anyhow::Result<()> {
    let mut rounds = Vec::new();
    for round in 0..options.rounds {
        eprintln!("Redis journal: round {}", round + 1);
        let dir = tempfile::tempdir()?;
        let mut processes = Processes::default();
        let socket = start_redis(dir.path(), &mut processes)?;
        let public = dir.path().join("public.sock");
        // The client is slower than the reader: without this it would miss events.
        let tables = format!("{}\n[history]\nmessages = 1000000\nbytes = \"1GiB\"\n", table(&socket));
        let (admin, pid) = start_daemon(dir.path(), &public, &tables, &mut processes)?;
        wait_until_ready(&admin)?;
        let mut client = subscribe(&public)?;
        let cpu = || anyhow::Ok(procfs::sample(&[pid])?[0].cpu.as_secs_f64());
        let before = cpu()?;
        let daemon = Pid::from_raw(pid.cast_signed());
        kill(daemon, Signal::SIGSTOP)?;
        let added = add(&socket, EVENTS, |_| "bench".to_owned());
        let bare = added.and_then(|()| read_with_a_loop(&socket));
        kill(daemon, Signal::SIGCONT)?;
        let bare = bare?;
        let start = Instant::now();
        read_events(&mut client, EVENTS)?;
        let own = EVENTS as f64 / start.elapsed().as_secs_f64();
        rounds.push((bare, own, (cpu()? - before) * 1e6 / EVENTS as f64));
    }
    println!("\nRedis journal: {EVENTS} entries of {PAYLOAD} bytes wait, one client, medians of {}", rounds.len());
    let middle = |of: &dyn Fn(&(f64, f64, f64)) -> f64| median(rounds.iter().map(of));
    println!("bare XREAD loop    {:>9.0} entries/s", middle(&|round| round.0));
    let (own, ratio, cpu) = (middle(&|round| round.1), middle(&|round| round.1 / round.0), middle(&|round| round.2));
    println!("ssecast            {own:>9.0} events/s ({ratio:.2}), {cpu:.2} us of its CPU an event");
    Ok(())
}

/// The time from the daemon's start until it is ready, with a long stream.
fn start(options: &Options) -> anyhow::Result<()> {
    let mut rounds = Vec::new();
    for round in 0..options.rounds {
        eprintln!("Start with a long Redis journal: round {}", round + 1);
        let dir = tempfile::tempdir()?;
        let mut processes = Processes::default();
        let socket = start_redis(dir.path(), &mut processes)?;
        add(&socket, LONG, |number| format!("channel {}", number % 1000))?;
        let tables = format!("{}\n[history]\nmessages = 1000000\nage = \"3650days\"\n", table(&socket));
        let start = Instant::now();
        let (admin, pid) = start_daemon(dir.path(), &dir.path().join("public.sock"), &tables, &mut processes)?;
        wait_until_ready(&admin)?;
        let wall = start.elapsed().as_secs_f64();
        rounds.push((wall, procfs::sample(&[pid])?[0].rss as f64 / f64::from(1 << 20)));
    }
    let (wall, rss) = (median(rounds.iter().map(|round| round.0)), median(rounds.iter().map(|round| round.1)));
    println!(
        "\nStart with a journal of {LONG} entries of {PAYLOAD} bytes, history.bytes = 64MiB, medians of {}",
        rounds.len()
    );
    println!("ssecast            ready after {wall:.2} s, with {rss:.0} MiB of memory");
    Ok(())
}

fn wait_until_ready(admin: &Path) -> anyhow::Result<()> {
    wait_until("ssecast is ready", || {
        let asked = UnixStream::connect(admin).and_then(|mut stream| {
            stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: ssecast\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map(|_| answer)
        });
        asked.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 "))
    })
}

/// Adds entries to the stream `bench`.
fn add(socket: &Path, entries: usize, channel: impl Fn(usize) -> String) -> anyhow::Result<()> {
    let mut redis = UnixStream::connect(socket)?;
    let data = "x".repeat(PAYLOAD);
    for first in (0..entries).step_by(AT_ONCE) {
        let mut commands = String::new();
        for number in first..first + AT_ONCE {
            let id = format!("{}-0", FIRST + number);
            let words = ["XADD", "bench", &id, "channel", &channel(number), "data", &data];
            commands += &command(&words);
        }
        redis.write_all(commands.as_bytes())?;
        read_bytes(&mut redis, AT_ONCE * "$15\r\n1700000000000-0\r\n".len())?;
    }
    Ok(())
}

fn command(words: &[&str]) -> String {
    let mut command = format!("*{}\r\n", words.len());
    for word in words {
        command += &format!("${}\r\n{word}\r\n", word.len());
    }
    command
}

/// Reads all with XREAD; entries a second. It knows how long each answer is, and parses nothing.
fn read_with_a_loop(socket: &Path) -> anyhow::Result<f64> {
    let mut redis = UnixStream::connect(socket)?;
    let fields = command(&["channel", "bench", "data", &"x".repeat(PAYLOAD)]);
    let entry = "*2\r\n$15\r\n1700000000000-0\r\n".len() + fields.len();
    let answer = format!("*1\r\n*2\r\n$5\r\nbench\r\n*{AT_ONCE}\r\n").len() + AT_ONCE * entry;
    let start = Instant::now();
    let mut read = 0;
    while read < EVENTS {
        let last = format!("{}-0", FIRST + read - 1);
        let ask = command(&["XREAD", "COUNT", &AT_ONCE.to_string(), "STREAMS", "bench", &last]);
        redis.write_all(ask.as_bytes())?;
        read_bytes(&mut redis, answer)?;
        read += AT_ONCE;
    }
    ensure!(read == EVENTS, "the number of entries is no multiple of {AT_ONCE}");
    Ok(EVENTS as f64 / start.elapsed().as_secs_f64())
}
