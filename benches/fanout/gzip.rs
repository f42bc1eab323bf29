//! Compares compressed streams of ssecast, which compresses once for all clients, with nginx's `gzip on`, which compresses for each
//! client, and with plain streams.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context, ensure};
use flate2::write::GzDecoder;
use ssecast_bench::{
    procfs,
    publisher::{self, Message},
};

use crate::{
    contenders::{Processes, StartedServer, start_daemon},
    nginx,
    scenarios::{Options, median},
    storm,
};

const CLIENTS: usize = 1000;
const EVENTS: usize = 100;
/// Events that each client gets before anything is counted.
const WARMUP: usize = 5;
/// The bodies' bytes are counted, so without chunks.
const REQUEST: &[u8] =
    b"GET /sse/?channels=bench HTTP/1.0\r\nHost: bench\r\nAccept: text/event-stream\r\nAccept-Encoding: gzip\r\n\r\n";
/// The shipped snippet has `gzip off` in this place.
const NGINX_GZIP: &str =
    "gzip on; gzip_types text/event-stream; gzip_http_version 1.0; gzip_min_length 0; gzip_proxied any;";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Nobody,
    Nginx,
    Ssecast,
}

/// What a contender took: microseconds of CPU and bytes of the body a delivery, KiB a client; of nginx and of ssecast.
#[derive(Clone, Copy, Default)]
struct Figures {
    cpu: [f64; 2],
    bytes: f64,
    kib: [f64; 2],
}

/// Prints what each takes on the wire, of CPU and of memory.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    const ALL: [Who; 3] = [Who::Nobody, Who::Nginx, Who::Ssecast];
    if !nginx::is_there() {
        println!("\nCompressed streams: nginx is not on this machine");
        return Ok(());
    }
    let mut rounds: Vec<[Figures; 3]> = Vec::new();
    for round in 0..options.rounds {
        let mut figures = [Figures::default(); 3];
        for turn in 0..ALL.len() {
            let at = (turn + round as usize) % ALL.len();
            eprintln!("Compressed streams: round {}, compressed by {:?}", round + 1, ALL[at]);
            figures[at] = measure(ALL[at])?;
        }
        rounds.push(figures);
    }
    let events = events();
    let length = events.iter().map(String::len).sum::<usize>() / events.len();
    println!(
        "\nThrough nginx, {CLIENTS} clients, events of {length} bytes of JSON, one at a time: what a delivery takes"
    );
    println!(
        "{:<22} {:>6} {:>8} {:>7} {:>9} {:>10}",
        "compressed by", "bytes", "us CPU", "nginx's", "ssecast's", "KiB a client"
    );
    for (at, who) in ALL.iter().enumerate() {
        let middle = |of: &dyn Fn(&Figures) -> f64| median(rounds.iter().map(|round| of(&round[at])));
        let name = match who {
            Who::Nobody => "nobody",
            Who::Nginx => "nginx (gzip on)",
            Who::Ssecast => "ssecast (stream.gzip)",
        };
        println!(
            "{name:<22} {:>6.0} {:>8.2} {:>7.2} {:>9.2} {:>10}",
            middle(&|figures| figures.bytes),
            middle(&|figures| figures.cpu[0] + figures.cpu[1]),
            middle(&|figures| figures.cpu[0]),
            middle(&|figures| figures.cpu[1]),
            format!("{:.1} + {:.1}", middle(&|figures| figures.kib[0]), middle(&|figures| figures.kib[1])),
        );
    }
    Ok(())
}

fn measure(who: Who) -> anyhow::Result<Figures> {
    let dir = tempfile::tempdir()?;
    let mut processes = Processes::default();
    let public = dir.path().join("public.sock");
    let tables = format!("[stream]\nping_interval = \"1h\"\ngzip = {}\n", who == Who::Ssecast);
    let (admin, ssecast) = start_daemon(dir.path(), &public, &tables, &mut processes)?;
    let prepared = nginx::with_snippet(dir.path(), &public)?;
    if who == Who::Nginx {
        turn_gzip_on(&dir.path().join("ssecast.conf"))?;
    }
    let url = processes.start_nginx(prepared)? + "sse/";
    let publisher = publisher::open(&format!("unix://{}", admin.display()))?;
    let mut running = StartedServer { target: url.parse()?, publisher, processes };
    let pids = procfs::with_descendants(&running.processes.ids())?;
    let sample = || -> anyhow::Result<[(f64, f64); 2]> {
        let mut sums = [(0.0, 0.0); 2];
        for sample in procfs::sample(&pids)? {
            let sum = &mut sums[usize::from(sample.pid == ssecast)];
            *sum = (sum.0 + sample.cpu.as_secs_f64() * 1e6, sum.1 + sample.pss as f64 / 1024.0);
        }
        Ok(sums)
    };
    let empty = sample()?;
    let clients = (0..CLIENTS).map(|_| Client::open(&running, who != Who::Nobody));
    let mut clients = clients.collect::<anyhow::Result<Vec<_>>>()?;
    let channel = "bench";
    let (mut before, mut bytes) = (empty, 0);
    for (at, event) in events().into_iter().enumerate() {
        if at == WARMUP {
            before = sample()?;
            bytes = clients.iter().map(|client| client.bytes).sum();
        }
        running.publisher.publish(&[Message { channel, payload: event }])?;
        clients.iter_mut().try_for_each(|client| client.read_until(at + 1))?;
        storm::wait_for_answers(running.publisher.as_mut())?;
    }
    let after = sample()?;
    let deliveries = (CLIENTS * EVENTS) as f64;
    let bytes = clients.iter().map(|client| client.bytes).sum::<usize>() - bytes;
    Ok(Figures {
        cpu: [0, 1].map(|at| (after[at].0 - before[at].0) / deliveries),
        bytes: bytes as f64 / deliveries,
        kib: [0, 1].map(|at| (after[at].1 - empty[at].1) / CLIENTS as f64),
    })
}

fn turn_gzip_on(snippet: &Path) -> anyhow::Result<()> {
    let text = fs::read_to_string(snippet)?;
    ensure!(text.contains("gzip off;"), "the snippet has no line about gzip");
    Ok(fs::write(snippet, text.replace("gzip off;", NGINX_GZIP))?)
}

/// A kilobyte of JSON each, alike in shape and different in figures, as such events are.
fn events() -> Vec<String> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut event = |number| {
        let mut quotes = Vec::new();
        for _ in 0..8 {
            let symbol = random.choice(["ACME", "GLOBEX", "INITECH", "UMBRELLA", "HOOLI", "STARK"]).unwrap_or_default();
            quotes.push(serde_json::json!({
                "id": random.u32(1000..999_999),
                "symbol": symbol,
                "price": f64::from(random.u32(..100_000)) / 100.0,
                "change": f64::from(random.i32(-5000..5000)) / 1000.0,
                "volume": random.u32(..1_000_000),
                "trend": random.choice(["up", "down", "flat"]),
                "active": random.bool(),
            }));
        }
        serde_json::json!({ "type": "quotes", "number": number, "quotes": quotes }).to_string()
    };
    (0..WARMUP + EVENTS).map(&mut event).collect()
}

struct Client {
    socket: TcpStream,
    inflater: Option<GzDecoder<Vec<u8>>>,
    /// Text of which the last line may be cut off.
    text: Vec<u8>,
    events: usize,
    /// Of the body.
    bytes: usize,
}

impl Client {
    /// Opens a stream and reads its head.
    fn open(running: &StartedServer, zipped: bool) -> anyhow::Result<Self> {
        let mut socket = TcpStream::connect(running.target.host.as_str())?;
        socket.set_read_timeout(Some(Duration::from_secs(60)))?;
        socket.write_all(REQUEST)?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            socket.read_exact(&mut byte).context("a stream was closed")?;
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).to_lowercase();
        ensure!(head.contains(" 200 "), "a client was refused: {head}");
        ensure!(head.contains("content-encoding: gzip") == zipped, "compressed by somebody else: {head}");
        let inflater = zipped.then(|| GzDecoder::new(Vec::new()));
        Ok(Self { socket, inflater, text: Vec::new(), events: 0, bytes: 0 })
    }

    fn read_until(&mut self, events: usize) -> anyhow::Result<()> {
        // Not the `{}` of ssecast's own events.
        const DATA: &[u8] = b"\ndata: {\"";
        let mut buffer = [0; 16 << 10];
        while self.events < events {
            let bytes = self.socket.read(&mut buffer).with_context(|| format!("{} events have come", self.events))?;
            ensure!(bytes > 0, "a stream was closed after {} events", self.events);
            self.bytes += bytes;
            match &mut self.inflater {
                Some(inflater) => {
                    inflater.write_all(&buffer[..bytes])?;
                    inflater.flush()?;
                    self.text.append(inflater.get_mut());
                }
                None => self.text.extend_from_slice(&buffer[..bytes]),
            }
            self.events += memchr::memmem::find_iter(&self.text, DATA).count();
            let last = memchr::memmem::rfind(&self.text, DATA).map_or(0, |at| at + DATA.len());
            self.text.drain(..last.max(self.text.len().saturating_sub(DATA.len() - 1)));
        }
        ensure!(self.events == events, "an event arrived twice");
        Ok(())
    }
}
