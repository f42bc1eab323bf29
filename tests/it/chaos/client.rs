//! One client of the chaos tests: reads, stalls, is cut off and resumes at random, and notes what it was given.

use std::{
    io::{Read as _, Write as _},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use super::oracle::{END, Item};
use crate::support::{Endpoint, Event, Parser, Request, Response, Stream, Subscription};

/// How a client asks for its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Stream { gzip: bool, envelope: bool },
    JsonPoll,
    EventStreamPoll,
}

pub(super) struct Client {
    pub(super) kind: Kind,
    pub(super) channels: Vec<String>,
    /// Where it connects: to one of the nodes, at random.
    endpoints: Vec<Endpoint>,
    node: usize,
    cursor: Option<String>,
    /// It has been counted among those with a cursor.
    counted: bool,
    pub(super) items: Vec<Item>,
    /// What happened, with the number of items at that time.
    pub(super) log: Vec<(usize, String)>,
    pub(super) cuts: usize,
    random: fastrand::Rng,
}

/// What holds while a run lasts.
#[derive(Default)]
pub(super) struct Phase {
    /// Clients are no longer cut off and don't stall; they end once each of their channels has.
    pub(super) settling: AtomicBool,
    /// Number of clients that have a cursor: whatever is published from now on is due to them.
    pub(super) with_cursor: AtomicUsize,
}

impl Client {
    pub(super) fn new(kind: Kind, channels: Vec<String>, endpoints: Vec<Endpoint>, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        let (items, log) = (Vec::new(), Vec::new());
        Self { kind, channels, endpoints, node: 0, cursor: None, counted: false, items, log, cuts: 0, random }
    }

    /// Begins after the event `id`.
    pub(super) fn begin_after(&mut self, id: String) {
        self.note(format!("begins after {id}"));
        self.cursor = Some(id);
    }

    /// Runs until it has the end of each channel. False if that does not come for `patience` after the run.
    pub(super) fn run(&mut self, phase: &Phase, patience: Duration) -> bool {
        let mut settling_since = None;
        while !self.has_all() {
            if self.cursor.is_some() && !std::mem::replace(&mut self.counted, true) {
                phase.with_cursor.fetch_add(1, Ordering::Relaxed);
            }
            if phase.settling.load(Ordering::Relaxed) {
                let since = *settling_since.get_or_insert_with(Instant::now);
                if since.elapsed() > patience {
                    return false;
                }
            }
            let node = self.random.usize(..self.endpoints.len());
            let connected = Item::Connected { same_node: std::mem::replace(&mut self.node, node) == node };
            self.items.push(connected);
            self.note(format!("connects to {node} after {:?}", self.cursor));
            match self.kind {
                Kind::Stream { gzip, envelope } => self.stream(gzip, envelope, phase),
                Kind::JsonPoll | Kind::EventStreamPoll => self.poll(phase),
            }
        }
        true
    }

    /// What happened up to item `at`: the last of it.
    pub(super) fn log_around(&self, at: usize) -> String {
        let end = self.log.partition_point(|(items, _)| *items <= at + 2);
        let lines: Vec<&str> = self.log[end.saturating_sub(150)..end].iter().map(|(_, line)| line.as_str()).collect();
        lines.join("\n")
    }

    fn note(&mut self, what: String) {
        self.log.push((self.items.len(), what));
    }

    fn has_all(&self) -> bool {
        let ended = |name: &String| {
            self.items
                .iter()
                .rev()
                .take(1_000)
                .any(|item| matches!(item, Item::Message { channel, number } if channel == name && *number == END))
        };
        self.channels.iter().all(ended)
    }

    fn request(&self, request: &Request) -> Option<Response> {
        let mut socket = self.endpoints[self.node].connect().ok()?;
        socket.write_all(&request.to_bytes()).ok()?;
        Response::read_head(socket).ok()
    }

    /// One connection of an EventSource.
    fn stream(&mut self, gzip: bool, envelope: bool, phase: &Phase) {
        let mut subscription = Subscription::to(&self.channels);
        subscription = if gzip { subscription.zipped() } else { subscription };
        subscription = if envelope { subscription.in_envelopes() } else { subscription };
        if let Some(id) = &self.cursor {
            subscription = subscription.after(id);
        }
        let request = subscription.request(&self.endpoints[self.node]).header("Connection", "close");
        let response = self.request(&request);
        let Some(response) = response.filter(|response| response.status() == 200) else { return self.wait_to_retry() };
        let mut stream = Stream::new(response);
        let lasts = Duration::from_millis(self.random.u64(5..1_500));
        let begin = Instant::now();
        while phase.settling.load(Ordering::Relaxed) || begin.elapsed() < lasts {
            if self.random.u32(..200) == 0 && !phase.settling.load(Ordering::Relaxed) {
                let stall = self.random.u64(20..800);
                self.note(format!("stalls for {stall} ms"));
                sleep(Duration::from_millis(stall));
            }
            let (events, goes_on) = stream.arrived_or_ended();
            self.take(&events, envelope);
            self.cursor = stream.committed_id().or(self.cursor.take());
            if self.has_all() {
                return;
            }
            if !goes_on {
                return self.note("its stream ends".to_owned());
            }
            if events.is_empty() {
                sleep(Duration::from_millis(4));
            }
        }
        self.cuts += 1;
        self.note(format!("is cut off at {:?}", self.cursor));
    }

    /// One long poll.
    fn poll(&mut self, phase: &Phase) {
        let endpoint = self.endpoints[self.node].clone();
        let cursor = self.cursor.as_deref().unwrap_or("");
        let target = format!("{}?channels={}&last_event_id={cursor}", endpoint.base(), self.channels.join(","));
        let request = Request::get(target).header("Connection", "close");
        let request = match self.kind {
            Kind::JsonPoll => request.header("Accept", "application/json"),
            _ => request.header("X-Requested-With", "XMLHttpRequest"),
        };
        let cut = self.random.u32(..8) == 0 && !phase.settling.load(Ordering::Relaxed);
        if cut {
            self.cuts += 1;
            self.note("its poll is cut off".to_owned());
            if let Ok(mut socket) = endpoint.connect() {
                let _ = socket.write_all(&request.to_bytes());
                sleep(Duration::from_millis(self.random.u64(..30)));
                let _ = socket.is_readable().then(|| socket.read(&mut [0; 100]));
            }
            return;
        }
        let Some(mut response) = self.request(&request).filter(|response| response.status() == 200) else {
            return self.wait_to_retry();
        };
        let mut body = Vec::new();
        loop {
            match response.read_some() {
                Ok(Some(more)) => body.extend_from_slice(&more),
                Ok(None) => break,
                Err(error) => return self.note(format!("its poll's answer breaks off: {error}")),
            }
        }
        if self.kind == Kind::JsonPoll {
            self.take_json(&body);
        } else {
            let (mut parser, mut events) = (Parser::default(), Vec::new());
            parser.feed(&body, &mut events);
            self.take(&events, false);
            self.cursor = parser.committed_id.or(self.cursor.take());
        }
        if self.random.u32(..10) == 0 && !phase.settling.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(self.random.u64(..1_000)));
        }
    }

    fn wait_to_retry(&mut self) {
        self.note("is refused".to_owned());
        sleep(Duration::from_millis(self.random.u64(10..100)));
    }

    fn take(&mut self, events: &[Event], envelope: bool) {
        for event in events {
            if let Some(gap) = event.gap() {
                self.note(format!("gap at {}: {gap:?}", event.id));
                self.items.push(Item::Gap { channels: gap.channels });
                continue;
            }
            if event.kind == "ssecast.down" {
                self.note("no node is there: nginx answers".to_owned());
                continue;
            }
            let text = match envelope {
                true => serde_json::from_slice::<serde_json::Value>(&event.data).unwrap()["data"]
                    .as_str()
                    .unwrap()
                    .to_owned(),
                false => event.text(),
            };
            self.take_text(&text, &event.id);
        }
    }

    fn take_json(&mut self, body: &[u8]) {
        let answer: serde_json::Value = serde_json::from_slice(body).unwrap();
        let strings = |value: &serde_json::Value| -> Vec<String> { serde_json::from_value(value.clone()).unwrap() };
        let gaps: Vec<String> =
            answer["gap"].as_array().unwrap().iter().flat_map(|gap| strings(&gap["channels"])).collect();
        if !gaps.is_empty() {
            self.note(format!("gap in the answer: {:?}", answer["gap"]));
            self.items.push(Item::AnswerGap { channels: gaps });
        }
        for event in answer["events"].as_array().unwrap() {
            self.take_text(event["data"].as_str().unwrap(), event["id"].as_str().unwrap());
        }
        self.items.push(Item::AnswerEnd);
        self.cursor = Some(answer["cursor"].as_str().unwrap().to_owned());
        self.note(format!("its answer ends at {:?}", self.cursor));
    }

    fn take_text(&mut self, text: &str, id: &str) {
        let mut words = text.split(' ');
        let (channel, number) = (words.next().unwrap(), words.next().unwrap());
        self.log.push((self.items.len(), format!("  {channel} {number} at {id}")));
        let number = if number == "end" { END } else { number.parse().unwrap() };
        self.items.push(Item::Message { channel: channel.to_owned(), number });
    }
}
