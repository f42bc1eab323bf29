//! A reconnect storm: all clients reconnect at once with a cursor, and get what was published meanwhile.

use std::{
    io::{Read, Write},
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use nix::{
    errno::Errno,
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
    unistd::{read, write},
};
use ssecast_bench::{
    parser::{Parser, Seen},
    procfs,
    publisher::{Message, Publisher},
    target::Target,
};

use crate::{
    contenders::{Build, Contender, StartedServer},
    scenarios::{Options, median},
};

const CLIENTS: usize = 9000;
const DUE: usize = 20;
/// Most clients between `connect` and the first byte of their answer: below nginx's backlog.
const MOST_CONNECTING: usize = 400;

/// Seconds until all are served and of the servers' CPU, for each contender.
type Round = [(f64, f64); 2];

/// Prints how long each takes to serve all, by wall and by CPU.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let contenders = [Contender::Nchan, Contender::NginxSsecast(Build::Measured)];
    if let Some(missing) = contenders.iter().find(|contender| !contender.is_there()) {
        println!("\nReconnect storm: {} is not on this machine", missing.name());
        return Ok(());
    }
    let mut rounds = Vec::new();
    for round in 0..options.rounds {
        let mut figures: Round = [(0.0, 0.0); 2];
        for turn in 0..2 {
            let at = (turn + round as usize) % 2;
            eprintln!("Reconnect storm: round {}, {}", round + 1, contenders[at].name());
            figures[at] = measure(contenders[at]).with_context(|| contenders[at].name())?;
        }
        rounds.push(figures);
    }
    println!("\nReconnect storm through nginx: {CLIENTS} clients with a cursor, {DUE} events due each");
    for (at, contender) in contenders.iter().enumerate() {
        let middle = |of: &dyn Fn(&Round) -> f64| median(rounds.iter().map(of));
        println!(
            "{:<18} {:>6.2} s until all are served ({:.2}), {:>6.2} s of the servers' CPU ({:.2})",
            contender.name(),
            middle(&|round| round[at].0),
            middle(&|round| round[at].0 / round[0].0),
            middle(&|round| round[at].1),
            middle(&|round| round[at].1 / round[0].1),
        );
    }
    Ok(())
}

/// Seconds until all are served, and the servers' CPU seconds.
fn measure(contender: Contender) -> anyhow::Result<(f64, f64)> {
    let dir = tempfile::tempdir()?;
    let mut running = contender.start(dir.path())?;
    let channel = "bench";
    let request = String::from_utf8(running.target.subscribe_request([channel].into_iter()))?;
    let cursor = {
        let mut first = std::net::TcpStream::connect(running.target.host.as_str())?;
        first.write_all(request.as_bytes())?;
        std::thread::sleep(Duration::from_millis(300));
        publish(&mut running, channel, 1)?;
        read_cursor(&mut first)?
    };
    publish(&mut running, channel, DUE)?;
    let pids = procfs::with_descendants(&running.processes.ids())?;
    let cpu =
        || -> anyhow::Result<f64> { Ok(procfs::sample(&pids)?.iter().map(|sample| sample.cpu.as_secs_f64()).sum()) };
    let request = request.replace("\r\n\r\n", &format!("\r\nLast-Event-ID: {cursor}\r\n\r\n"));
    let (before, start) = (cpu()?, Instant::now());
    come_back(&running.target, request.as_bytes())?;
    Ok((start.elapsed().as_secs_f64(), cpu()? - before))
}

fn publish(running: &mut StartedServer, channel: &str, events: usize) -> anyhow::Result<()> {
    let batch: Vec<_> = (0..events).map(|at| Message { channel, payload: format!("{at:0128}") }).collect();
    running.publisher.publish(&batch)?;
    wait_for_answers(running.publisher.as_mut())
}

/// Waits until all that was published is answered.
pub(crate) fn wait_for_answers(publisher: &mut dyn Publisher) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while publisher.unanswered() > 0 {
        ensure!(Instant::now() < deadline, "a publish was not answered");
        publisher.ready()?;
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// The id of the first event with data.
fn read_cursor(stream: &mut std::net::TcpStream) -> anyhow::Result<String> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    loop {
        let bytes = stream.read(&mut buffer)?;
        ensure!(bytes > 0, "the stream was closed: {text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..bytes]));
        if text.contains("\ndata: ")
            && let Some((_, last)) = text.rsplit_once("id: ")
            && let Some((id, _)) = last.split_once('\n')
        {
            return Ok(id.trim().to_owned());
        }
    }
}

/// Connects all and reads until each has what it is due.
fn come_back(target: &Target, request: &[u8]) -> anyhow::Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut clients: Vec<(OwnedFd, Parser, usize)> = Vec::with_capacity(CLIENTS);
    let mut ready = vec![EpollEvent::empty(); 1024];
    let mut buffer = vec![0; 64 << 10];
    let (mut answered, mut served) = (0, 0);
    let deadline = Instant::now() + Duration::from_secs(120);
    while served < CLIENTS {
        ensure!(Instant::now() < deadline, "{served} of {CLIENTS} were served in 120 s");
        while clients.len() < CLIENTS && clients.len() - answered < MOST_CONNECTING {
            let socket = target.connect()?;
            write(&socket, request)?;
            epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, clients.len() as u64))?;
            clients.push((socket, Parser::default(), 0));
        }
        let count = epoll.wait(&mut ready, EpollTimeout::from(100_u8))?;
        for event in &ready[..count] {
            let (socket, parser, got) = &mut clients[event.data() as usize];
            loop {
                let bytes = match read(socket.as_fd(), &mut buffer) {
                    Ok(0) => bail!("a stream was closed after {got} events"),
                    Ok(bytes) => bytes,
                    Err(Errno::EAGAIN) => break,
                    Err(error) => return Err(error.into()),
                };
                let mut refused = None;
                parser.feed(&buffer[..bytes], &mut |seen| match seen {
                    Seen::Head(200) => answered += 1,
                    Seen::Head(status) => refused = Some(status),
                    Seen::Data(_) => {
                        *got += 1;
                        served += usize::from(*got == DUE);
                    }
                    Seen::End => {}
                });
                ensure!(refused.is_none(), "a client was refused with {refused:?}");
                ensure!(*got <= DUE, "a client got more than it was due");
            }
        }
    }
    Ok(())
}
