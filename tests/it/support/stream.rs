//! An EventSource: an open event stream, its events, and its last event id.

use std::{
    collections::VecDeque,
    io::{self, Write},
    time::Instant,
};

use flate2::write::GzDecoder;

use super::{
    event_stream::{Event, Parser},
    http::Request,
    response::Response,
    socket::Endpoint,
    wait::PATIENCE,
};

/// What a client asks for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Subscription {
    channels: Vec<String>,
    last_event_id: Option<String>,
    envelope: bool,
    gzip: bool,
}

impl Subscription {
    pub(crate) fn to<Name: AsRef<str>>(channels: &[Name]) -> Self {
        Self { channels: channels.iter().map(|name| name.as_ref().to_owned()).collect(), ..Self::default() }
    }

    /// Resumes after `id`.
    pub(crate) fn after(self, id: &str) -> Self {
        Self { last_event_id: Some(id.to_owned()), ..self }
    }

    pub(crate) fn in_envelopes(self) -> Self {
        Self { envelope: true, ..self }
    }

    /// Accepts gzip.
    pub(crate) fn zipped(self) -> Self {
        Self { gzip: true, ..self }
    }

    /// The request for the stream.
    pub(crate) fn request(&self, endpoint: &Endpoint) -> Request {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(self.channels.iter().map(|name| ("channels", name)));
        if self.envelope {
            query.append_pair("envelope", "1");
        }
        let request = Request::get(format!("{}?{}", endpoint.base(), query.finish()))
            .header("Accept", "text/event-stream")
            .header("Cache-Control", "no-cache")
            .header("Accept-Encoding", if self.gzip { "gzip, deflate, br" } else { "identity" });
        match &self.last_event_id {
            Some(id) => request.header("Last-Event-ID", id),
            None => request,
        }
    }

    /// Opens the stream and waits for its head. From then on, it gets everything that is published.
    pub(crate) fn open(&self, endpoint: &Endpoint) -> Stream {
        let response = self.request(endpoint).send(endpoint);
        if response.status() != 200 {
            panic!("{self:?} was answered {:?}: {:?}", response.head().clone(), response.text());
        }
        Stream::new(response)
    }
}

/// The content of a gap event.
#[derive(Debug, PartialEq, Eq, serde::Deserialize)]
pub(crate) struct Gap {
    pub(crate) channels: Vec<String>,
    pub(crate) reason: String,
}

impl Event {
    /// The gap, if this is a gap event.
    pub(crate) fn gap(&self) -> Option<Gap> {
        (self.kind == "ssecast.gap").then(|| serde_json::from_slice(&self.data).unwrap())
    }
}

pub(crate) struct Stream {
    response: Response,
    /// For a compressed stream.
    inflater: Option<GzDecoder<Vec<u8>>>,
    parser: Parser,
    events: VecDeque<Event>,
}

impl Stream {
    pub(crate) fn new(response: Response) -> Self {
        let content_type = response.header("content-type");
        assert!(content_type.is_some_and(|kind| kind.starts_with("text/event-stream")), "{:?}", response.head());
        let inflater = response.header("content-encoding").map(|coding| {
            assert_eq!(coding, "gzip");
            GzDecoder::new(Vec::new())
        });
        Self { response, inflater, parser: Parser::default(), events: VecDeque::new() }
    }

    pub(crate) fn is_zipped(&self) -> bool {
        self.inflater.is_some()
    }

    pub(crate) fn response(&self) -> &Response {
        &self.response
    }

    /// The next event; `None` if the stream has ended.
    pub(crate) fn next(&mut self) -> Option<Event> {
        let start = Instant::now();
        while self.events.is_empty() && self.read_more() {
            assert!(start.elapsed() < PATIENCE, "pings, but no event: {:?}", self.parser);
        }
        self.events.pop_front()
    }

    /// The next event. Panics if the stream has ended.
    pub(crate) fn event(&mut self) -> Event {
        self.next().unwrap_or_else(|| panic!("the stream has ended: {:?}", self.parser))
    }

    pub(crate) fn events(&mut self, count: usize) -> Vec<Event> {
        (0..count).map(|_| self.event()).collect()
    }

    /// The data of the next `count` events. Panics at a gap.
    pub(crate) fn texts(&mut self, count: usize) -> Vec<String> {
        let texts = self.events(count).into_iter().map(|event| {
            assert_eq!(event.gap(), None, "a gap where none is due");
            event.text()
        });
        texts.collect()
    }

    /// The next event, which must be a gap.
    pub(crate) fn gap(&mut self) -> Gap {
        let event = self.event();
        event.gap().unwrap_or_else(|| panic!("not a gap: {event:?}"))
    }

    /// All events up to the stream's end.
    pub(crate) fn rest(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.next()).collect()
    }

    /// The id with which a reconnect would resume. Waits for the first one.
    pub(crate) fn last_event_id(&mut self) -> String {
        while self.parser.committed_id.is_none() && self.read_more() {}
        self.parser.committed_id.clone().expect("a stream begins with an id")
    }

    /// The id with which a reconnect would resume, if one has arrived.
    pub(crate) fn committed_id(&self) -> Option<String> {
        self.parser.committed_id.clone()
    }

    /// The events that have arrived, without waiting for more.
    pub(crate) fn arrived(&mut self) -> Vec<Event> {
        self.arrived_or_ended().0
    }

    /// As [`Stream::arrived`], and whether the stream goes on.
    pub(crate) fn arrived_or_ended(&mut self) -> (Vec<Event>, bool) {
        let mut goes_on = true;
        while goes_on && self.response.socket().is_readable() {
            goes_on = self.read_more();
        }
        (self.events.drain(..).collect(), goes_on)
    }

    /// The reconnection time in milliseconds. Waits for the first one.
    pub(crate) fn retry(&mut self) -> u64 {
        while self.parser.retry.is_none() && self.read_more() {}
        self.parser.retry.expect("a stream says when to reconnect")
    }

    /// Number of pings so far.
    pub(crate) fn pings(&self) -> usize {
        self.parser.pings
    }

    /// Waits for the next ping.
    pub(crate) fn ping(&mut self) {
        let pings = self.parser.pings;
        while self.parser.pings == pings {
            assert!(self.read_more(), "the stream has ended");
        }
    }

    /// Sends `bytes` on the stream's connection, although a client should send nothing there.
    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.response.socket_mut().write_all(bytes)
    }

    /// Waits for bytes and parses them. Returns false at the end of the stream, regular or not.
    fn read_more(&mut self) -> bool {
        match self.response.read_some() {
            Ok(Some(bytes)) => {
                match &mut self.inflater {
                    Some(inflater) => {
                        inflater.write_all(&bytes).and_then(|()| inflater.flush()).expect("it is gzip");
                        self.parser.feed(&std::mem::take(inflater.get_mut()), &mut self.events);
                    }
                    None => self.parser.feed(&bytes, &mut self.events),
                }
                true
            }
            Ok(None) => false,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                panic!("nothing has arrived in time: {:?}", self.parser)
            }
            Err(_) => false,
        }
    }
}
