//! nginx's memory for an open stream: with its defaults, with the shipped files, and with the smallest buffers. One run of each is
//! enough, since the figures are the same each time.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context, ensure};
use ssecast_bench::procfs;

use crate::{
    contenders::{Processes, start_daemon},
    nginx::{self, Prepared},
    scenarios::Options,
};

const CLIENTS: usize = 3000;
/// Clients for whom nginx makes ready what it needs once.
const WARMUP: usize = 300;

/// What a client's library sends.
const SMALL: &str = "";
/// What a browser sends as well.
const BROWSER: &str = "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 \
    Safari/537.36\r\nsec-ch-ua: \"Chromium\";v=\"126\", \"Not.A/Brand\";v=\"24\"\r\nsec-ch-ua-mobile: ?0\r\n\
    sec-ch-ua-platform: \"Linux\"\r\nCache-Control: no-cache\r\nPragma: no-cache\r\nConnection: keep-alive\r\n\
    Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\nReferer: https://example.org/\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-US,en;q=0.9\r\n";

/// Sets up an nginx in a folder before a socket.
type Setup = fn(&Path, &Path) -> anyhow::Result<Prepared>;

/// Prints KiB of nginx for a stream.
pub(crate) fn run(_: &Options) -> anyhow::Result<()> {
    let setups: [(&str, Setup); 4] = [
        ("only proxy_pass and proxy_buffering off", |dir, socket| {
            nginx::with_location(dir, socket, "", "proxy_buffering off;")
        }),
        ("ssecast.conf", nginx::with_snippet),
        ("ssecast.conf, request_pool_size 1k", |dir, socket| {
            let prepared = nginx::with_snippet(dir, socket)?;
            nginx::add_to_http(dir, "request_pool_size 1k;")?;
            Ok(prepared)
        }),
        ("a bare location, all sizes too small for real use", |dir, socket| {
            let http = "request_pool_size 1k; client_header_buffer_size 640; connection_pool_size 384;";
            let location = "proxy_buffering off; proxy_buffer_size 512; proxy_pass_request_headers off;";
            nginx::with_location(dir, socket, http, &format!("{location} chunked_transfer_encoding off;"))
        }),
    ];
    if !nginx::is_there() {
        println!("\nMemory of nginx: nginx is not on this machine");
        return Ok(());
    }
    let mut lines = Vec::new();
    for (name, setup) in setups {
        eprintln!("Memory of nginx: {name}");
        lines.push((name, of_a_stream(setup, SMALL)?, of_a_stream(setup, BROWSER)?));
    }
    println!(
        "\nMemory of nginx for an open stream, {CLIENTS} of them, KiB; after a small request and after a browser's"
    );
    for (name, small, browser) in lines {
        println!("{name:<64} {:>6.2} {:>6.2}", small / 1024.0, browser / 1024.0);
    }
    Ok(())
}

fn of_a_stream(setup: Setup, headers: &str) -> anyhow::Result<f64> {
    let dir = tempfile::tempdir()?;
    let mut daemon = Processes::default();
    let public = dir.path().join("public.sock");
    start_daemon(dir.path(), &public, "[stream]\nping_interval = \"1h\"\n", &mut daemon)?;
    let mut processes = Processes::default();
    let prepared = setup(dir.path(), &public)?;
    let port = prepared.port;
    processes.start_nginx(prepared)?;
    let pids = procfs::with_descendants(&processes.ids())?;
    let memory = || anyhow::Ok(procfs::sample(&pids)?.iter().map(|sample| sample.pss).sum::<u64>() as f64);
    let request = format!("GET /sse/?channels=bench HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n{headers}\r\n");
    let open = |clients| (0..clients).map(|_| open(port, &request)).collect::<anyhow::Result<Vec<_>>>();
    let _warm = open(WARMUP)?;
    let before = memory()?;
    let _clients = open(CLIENTS)?;
    Ok((memory()? - before) / CLIENTS as f64)
}

/// Opens a stream and waits for its first id.
fn open(port: u16, request: &str) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(request.as_bytes())?;
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    while memchr::memmem::find(&text, b"\nid: ").is_none() {
        let bytes = stream.read(&mut buffer).context("a stream did not begin")?;
        ensure!(bytes > 0, "a stream was closed: {}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&buffer[..bytes]);
    }
    ensure!(text.starts_with(b"HTTP/1.1 200 "), "a stream was refused: {}", String::from_utf8_lossy(&text));
    Ok(stream)
}
