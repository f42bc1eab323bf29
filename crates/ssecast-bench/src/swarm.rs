//! Thousands of clients on one thread: connects them, reads what arrives, drives a run. It measures no process.
//!
//! One epoll, edge-triggered, and one buffer for all. A read that does not fill the buffer has emptied the socket, so a
//! delivery costs one `read(2)`: the clients must be cheap, since they share the machine with what they measure.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::{
    errno::Errno,
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
    unistd::{read, write},
};

use crate::{
    channels::ChannelPlan,
    histogram::Histogram,
    parser::{Parser, Seen},
    progress::Progress,
    publisher::{Message, Publisher},
    stamp::{self, Stamp},
    tally::{Counts, Tally},
    target::Target,
};

/// Clients between `connect` and the response's head. Below the listen backlogs in use (nginx has 511).
const MOST_CONNECTING: usize = 200;
const BUFFER_BYTES: usize = 256 << 10;
const EVENTS_A_WAIT: usize = 1024;
/// Longest wait, so that deadlines are seen.
const LONGEST_WAIT: Duration = Duration::from_millis(100);
/// The publisher's number among the clients'.
const PUBLISHER: u64 = u64::MAX;

/// What to publish, and how fast.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    /// Events in all.
    pub events: usize,
    /// Events published at once.
    pub burst: usize,
    /// Events a second; `None`: the next burst when all clients have the last.
    pub rate: Option<f64>,
    /// Bytes of a payload.
    pub size: usize,
}

/// Open streams, and what reads them.
pub struct Swarm {
    epoll: Epoll,
    clients: Vec<Client>,
    ready: Vec<EpollEvent>,
    buffer: Box<[u8]>,
}

struct Client {
    /// `None` when the server has ended the stream.
    socket: Option<OwnedFd>,
    parser: Parser,
}

enum Happened<'a> {
    Head(u16, &'a [u8]),
    Data(&'a [u8], u64),
    Closed,
}

impl Swarm {
    /// Connects `count` clients, each to its channels of `plan`, and returns when all have the head of their stream.
    ///
    /// # Errors
    /// Where a client can't connect, is refused (with what the server says), or `deadline` passes.
    pub fn connect(
        target: &Target,
        plan: &ChannelPlan,
        count: usize,
        deadline: Instant,
        progress: &mut Progress,
    ) -> anyhow::Result<Self> {
        let mut swarm = Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            clients: Vec::with_capacity(count),
            ready: vec![EpollEvent::empty(); EVENTS_A_WAIT],
            buffer: vec![0; BUFFER_BYTES].into(),
        };
        let mut open = 0;
        while open < count {
            if Instant::now() > deadline {
                bail!("{open} of {count} clients were connected when the time was up");
            }
            let mut full = false;
            while swarm.clients.len() < count && swarm.clients.len() - open < MOST_CONNECTING && !full {
                full = !swarm.add(target, plan)?;
            }
            let mut refused = None;
            let wait = if full { Duration::from_millis(1) } else { LONGEST_WAIT };
            swarm.poll(wait, |client, happened| match happened {
                Happened::Head(200, _) => open += 1,
                Happened::Head(status, text) => {
                    refused = Some(format!("client {client} got {status}: {}", last_line(text)));
                }
                Happened::Closed => refused = Some(format!("client {client}'s connection was closed")),
                Happened::Data(..) => {}
            })?;
            if let Some(refused) = refused {
                bail!("{target}: {refused}");
            }
            progress.show("connected", open, count);
        }
        Ok(swarm)
    }

    /// Connects one more client and sends its request. `false` if the server's backlog is full for now.
    fn add(&mut self, target: &Target, plan: &ChannelPlan) -> anyhow::Result<bool> {
        let number = self.clients.len();
        let socket = match target.connect() {
            Ok(socket) => socket,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => {
                return Err(error).with_context(|| {
                    format!("client {number} can't connect to {target}: is it running, and is --target right?")
                });
            }
        };
        let request = target.subscribe_request(plan.of_client(number));
        let sent = write(&socket, &request).with_context(|| format!("client {number} can't send its request"))?;
        if sent < request.len() {
            bail!("client {number}'s request of {} bytes does not fit its socket's buffer", request.len());
        }
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        self.epoll.add(&socket, EpollEvent::new(flags, number as u64))?;
        self.clients.push(Client { socket: Some(socket), parser: Parser::default() });
        Ok(true)
    }

    /// Publishes `work` and reads until all clients have all of it, or `deadline`.
    ///
    /// # Errors
    /// Where publishing fails, or all streams are closed.
    pub fn run<'a>(
        &mut self,
        work: &Work,
        plan: &'a ChannelPlan,
        publisher: &mut dyn Publisher,
        deadline: Instant,
        progress: &mut Progress,
    ) -> anyhow::Result<Tally<'a>> {
        if let Some(socket) = publisher.socket() {
            let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
            self.epoll.add(socket, EpollEvent::new(flags, PUBLISHER))?;
        }
        let result = self.drive(work, plan, publisher, deadline, progress);
        if let Some(socket) = publisher.socket() {
            self.epoll.delete(socket)?;
        }
        result
    }

    fn drive<'a>(
        &mut self,
        work: &Work,
        plan: &'a ChannelPlan,
        publisher: &mut dyn Publisher,
        deadline: Instant,
        progress: &mut Progress,
    ) -> anyhow::Result<Tally<'a>> {
        let open = |client: usize| self.clients[client].socket.is_some();
        let mut tally = Tally::new(plan, self.clients.len(), open, fastrand::u32(..));
        let start = Instant::now();
        loop {
            let now = Instant::now();
            let busy = tally.under_way() > 0 || publisher.unanswered() > 0;
            let left = work.events - tally.published();
            if now > deadline || (left == 0 && !busy) {
                return Ok(tally);
            }
            let due_in = match work.rate {
                _ if left == 0 => LONGEST_WAIT,
                None if busy => LONGEST_WAIT,
                None => Duration::ZERO,
                Some(rate) => (start + Duration::from_secs_f64(tally.published() as f64 / rate)).duration_since(now),
            };
            if due_in.is_zero() {
                let burst = work.burst.min(left);
                let batch: Vec<Message<'_>> = (0..burst).map(|_| next_message(&mut tally, plan, work)).collect();
                publisher.publish(&batch)?;
            }
            let mut closed = 0;
            let answered = self.poll(due_in.min(LONGEST_WAIT), |client, happened| match happened {
                Happened::Data(payload, now) => tally.arrived(client, payload, now),
                Happened::Closed => {
                    tally.closed(client);
                    closed += 1;
                }
                Happened::Head(..) => {}
            })?;
            if answered {
                publisher.ready()?;
            }
            if closed > 0 && self.open() == 0 {
                bail!("the server has closed every stream");
            }
            progress.show("events", tally.published() - tally.under_way(), work.events);
        }
    }

    /// Reads what others publish, until `deadline`: how many `data:` lines there were, the latency of those that another
    /// bench stamped, and how many streams were closed.
    ///
    /// # Errors
    /// Where epoll fails.
    pub fn watch(&mut self, deadline: Instant, progress: &mut Progress) -> anyhow::Result<(Counts, Histogram)> {
        let mut counts = Counts::default();
        let mut latency = Histogram::default();
        while Instant::now() < deadline && self.open() > 0 {
            self.poll(LONGEST_WAIT, |_, happened| match happened {
                Happened::Data(payload, now) => {
                    counts.delivered += 1;
                    if let Some(stamp) = Stamp::read(payload) {
                        latency.add(now.saturating_sub(stamp.sent));
                    }
                }
                Happened::Closed => counts.closed += 1,
                Happened::Head(..) => {}
            })?;
            progress.show("deliveries", usize::try_from(counts.delivered).unwrap_or(usize::MAX), 0);
        }
        counts.expected = counts.delivered;
        Ok((counts, latency))
    }

    /// How many streams are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.clients.iter().filter(|client| client.socket.is_some()).count()
    }

    /// Waits at most `longest`, reads what is there, and says whether the publisher's socket is ready.
    fn poll(&mut self, longest: Duration, mut each: impl FnMut(usize, Happened<'_>)) -> anyhow::Result<bool> {
        // Rounded up, or the last millisecond before a due time would be spent polling.
        let millis = longest.as_micros().div_ceil(1000);
        let timeout = EpollTimeout::try_from(millis).unwrap_or(EpollTimeout::ZERO);
        let ready = match self.epoll.wait(&mut self.ready, timeout) {
            Ok(ready) => ready,
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(error).context("epoll_wait"),
        };
        let mut publisher = false;
        for event in &self.ready[..ready] {
            if event.data() == PUBLISHER {
                publisher = true;
                continue;
            }
            let number = event.data() as usize;
            let hung_up = event.events().intersects(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP);
            self.clients[number].read(&mut self.buffer, hung_up, &mut |happened| each(number, happened));
        }
        Ok(publisher)
    }
}

impl Client {
    /// Reads until the socket is empty; if the peer has `hung_up`, until the end.
    fn read(&mut self, buffer: &mut [u8], hung_up: bool, each: &mut impl FnMut(Happened<'_>)) {
        let mut ended = false;
        while let Some(socket) = self.socket.as_ref().filter(|_| !ended) {
            match read(socket.as_fd(), buffer) {
                Ok(0) => ended = true,
                Ok(bytes) => {
                    let text = &buffer[..bytes];
                    let now = stamp::now();
                    self.parser.feed(text, &mut |seen| match seen {
                        Seen::Data(payload) => each(Happened::Data(payload, now)),
                        Seen::Head(status) => each(Happened::Head(status, text)),
                        Seen::End => ended = true,
                    });
                    if bytes < buffer.len() && !hung_up {
                        break;
                    }
                }
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(_) => ended = true,
            }
        }
        if ended && self.socket.take().is_some() {
            each(Happened::Closed);
        }
    }
}

/// The next of `work`'s events; channels have it by turns.
fn next_message<'p>(tally: &mut Tally<'_>, plan: &'p ChannelPlan, work: &Work) -> Message<'p> {
    let channel = tally.published() % plan.channels().len();
    let stamp = tally.publish(channel, stamp::now());
    Message { channel: &plan.channels()[channel].name, payload: stamp.payload(work.size) }
}

/// The text of a refusal, as far as it has been read.
fn last_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().to_owned()
}
