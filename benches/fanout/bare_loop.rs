//! The lower bound: a server process that only does one `write(2)` for each client and event.
//!
//! It accepts on a Unix socket, answers each request with the head of a stream, and writes the frames from its standard input to all
//! clients. It has no channels, no history and no limits. What another server takes beyond this is the cost of its features.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::{
        fd::AsRawFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    process::ChildStdin,
};

use anyhow::Context;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use ssecast_bench::publisher::{Message, Publisher};

const HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nX-Accel-Buffering: no\r\n\r\n";
const COMMANDS: u64 = u64::MAX;
const LISTENER: u64 = u64::MAX - 1;

/// Serves on `path` until standard input ends.
pub(crate) fn serve(path: &Path) -> anyhow::Result<()> {
    let listener = UnixListener::bind(path)?;
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::MAXALLOWABLE)?;
    listener.set_nonblocking(true)?;
    let mut commands = BufReader::with_capacity(256 << 10, std::io::stdin());
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    epoll.add(std::io::stdin(), EpollEvent::new(EpollFlags::EPOLLIN, COMMANDS))?;

    // By descriptor. Streams block: a full one holds up the loop, and nothing is lost.
    let mut clients: Vec<Option<Client>> = Vec::new();
    let mut ready = vec![EpollEvent::empty(); 1024];
    loop {
        let count = epoll.wait(&mut ready, EpollTimeout::NONE)?;
        for event in &ready[..count] {
            match event.data() {
                LISTENER => {
                    while let Ok((stream, _)) = listener.accept() {
                        let fd = stream.as_raw_fd() as usize;
                        epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, fd as u64))?;
                        clients.resize_with(clients.len().max(fd + 1), || None);
                        clients[fd] = Some(Client { stream, reading: true });
                    }
                }
                COMMANDS => loop {
                    if commands.fill_buf()?.is_empty() {
                        return Ok(());
                    }
                    publish(&read_batch(&mut commands)?, &clients);
                    if commands.buffer().is_empty() {
                        break;
                    }
                },
                fd => {
                    let slot = &mut clients[fd as usize];
                    if slot.as_mut().is_some_and(|client| !client.read()) {
                        *slot = None;
                    }
                }
            }
        }
    }
}

struct Client {
    stream: UnixStream,
    reading: bool,
}

impl Client {
    /// Reads the request, or the end; `false` at the end.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) | Err(_) => return false,
            Ok(bytes) if self.reading && buffer[..bytes].ends_with(b"\r\n\r\n") => {
                self.reading = false;
                return self.stream.write_all(HEAD).is_ok();
            }
            Ok(_) => {}
        }
        true
    }
}

fn publish(frames: &[Vec<u8>], clients: &[Option<Client>]) {
    for frame in frames {
        for client in clients.iter().flatten().filter(|client| !client.reading) {
            // A client that has left is seen by its end of file.
            let _ = nix::unistd::write(&client.stream, frame);
        }
    }
}

/// A count, then for each frame its length and its bytes.
pub(crate) fn read_batch(commands: &mut impl Read) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut number = || -> anyhow::Result<usize> {
        let mut bytes = [0; 4];
        commands.read_exact(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes) as usize)
    };
    let lengths = (0..number()?).map(|_| number()).collect::<anyhow::Result<Vec<_>>>()?;
    let frame = |length| {
        let mut frame = vec![0; length];
        commands.read_exact(&mut frame).map(|()| frame)
    };
    Ok(lengths.into_iter().map(frame).collect::<Result<_, _>>()?)
}

/// A frame as long as ssecast's: the same fields, with an id of the same form. `payload` has no line breaks.
fn frame(position: u64, payload: &str) -> String {
    format!("data: {payload}\nid: benchbar-{position}\n\n")
}

/// Sends a bare loop the frames that it writes.
pub(crate) struct Commands {
    pub(crate) stdin: ChildStdin,
    pub(crate) position: u64,
}

impl Publisher for Commands {
    fn publish(&mut self, batch: &[Message<'_>]) -> anyhow::Result<()> {
        let mut command = u32::try_from(batch.len())?.to_le_bytes().to_vec();
        let mut frames = Vec::new();
        for message in batch {
            self.position += 1;
            let frame = frame(self.position, &message.payload);
            command.extend(u32::try_from(frame.len())?.to_le_bytes());
            frames.extend_from_slice(frame.as_bytes());
        }
        command.extend(frames);
        self.stdin.write_all(&command).context("the bare loop has ended")
    }
}
