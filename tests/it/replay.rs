//! Resume: a client whose connection is cut anywhere, any number of times, gets every event exactly once.

use std::{
    io::{Read, Write},
    sync::atomic::{AtomicUsize, Ordering},
};

use proptest::{collection::vec, prelude::*, test_runner::TestRunner};

use crate::support::{Daemon, Decoder, Endpoint, Event, Folder, Nginx, Parser, Request, Socket, Stream, Subscription};

/// The history holds everything that a test publishes, so there must be no gap. Pings are frequent, because they have ids too.
const ROOMY: &str =
    "[stream]\nping_interval = \"2ms\"\n[history]\nmessages = 100000\nbytes = \"256MiB\"\nage = \"1h\"\n";

/// An EventSource whose connection is cut again and again. As the standard says, it keeps the complete events and the last event
/// id over a cut.
struct Assembler<'a> {
    endpoint: &'a Endpoint,
    channels: Vec<String>,
    last_event_id: Option<String>,
    assembled: Vec<Event>,
    cuts: usize,
}

/// One of its connections.
struct Connection {
    socket: Socket,
    decoder: Decoder,
    parser: Parser,
}

impl<'a> Assembler<'a> {
    /// An EventSource that has been connected before, and so has an id.
    fn new(endpoint: &'a Endpoint, channels: &[&str]) -> Self {
        let id = Subscription::to(channels).open(endpoint).last_event_id();
        let channels = channels.iter().map(|&name| name.to_owned()).collect();
        Self { endpoint, channels, last_event_id: Some(id), assembled: Vec::new(), cuts: 0 }
    }

    fn connect(&self) -> Connection {
        let mut subscription = Subscription::to(&self.channels);
        if let Some(id) = &self.last_event_id {
            subscription = subscription.after(id);
        }
        let mut socket = self.endpoint.connect().unwrap();
        socket.write_all(&subscription.request(self.endpoint).to_bytes()).unwrap();
        Connection { socket, decoder: Decoder::default(), parser: Parser::default() }
    }

    /// Connects, reads `count` bytes, or fewer if it has `expected` events before that, and cuts the connection.
    fn read_then_cut(&mut self, count: usize, expected: usize) {
        let mut connection = self.connect();
        let mut left = count;
        let mut buffer = [0; 4096];
        let mut body = Vec::new();
        while left > 0 && (self.assembled.len() < expected || connection.parser.committed_id.is_none()) {
            let limit = left.min(buffer.len());
            let read = connection.socket.read(&mut buffer[..limit]).unwrap();
            assert_ne!(read, 0, "the daemon ended the stream");
            left -= read;
            connection.decoder.feed(&buffer[..read], &mut body);
            connection.parser.feed(&std::mem::take(&mut body), &mut self.assembled);
            self.assembled.retain(|event| !event.is_bookkeeping());
        }
        if let Some(id) = connection.parser.committed_id {
            self.last_event_id = Some(id);
        }
        self.cuts += 1;
    }

    /// Reads until there are `expected` events.
    fn read_to(&mut self, expected: usize) {
        while self.assembled.len() < expected {
            self.read_then_cut(usize::MAX, expected);
        }
    }
}

/// The payload as a browser decodes it.
fn normalized(payload: &str) -> String {
    payload.replace("\r\n", "\n").replace('\r', "\n")
}

#[derive(Debug, Clone)]
enum Step {
    Publish { channel: usize, kind: Option<String>, payload: String },
    ReadThenCut(usize),
}

const CHANNELS: [&str; 3] = ["cats", "dogs", "general"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let payload = prop_oneof![
        "[ -~]{0,40}",
        "[a\r\n :]{0,12}",
        any::<String>(),
        (0usize..3000).prop_map(|length| "x".repeat(length)),
    ];
    let kind = proptest::option::weighted(0.3, "[a-z]{1,8}");
    let publish = (0..CHANNELS.len(), kind, payload).prop_map(|(channel, kind, payload)| Step::Publish {
        channel,
        kind,
        payload,
    });
    // Bytes of the connection: the head has about 150 of them, an event 50 and more.
    let cut = prop_oneof![0usize..400, 0usize..4000].prop_map(Step::ReadThenCut);
    vec(prop_oneof![publish, cut], 1..120)
}

/// Runs `steps` on a daemon that may have served others before, and compares what was received with what was published.
fn assemble_over(daemon: &Daemon, endpoint: &Endpoint, steps: &[Step]) -> Result<usize, TestCaseError> {
    static CASE: AtomicUsize = AtomicUsize::new(0);
    let case = CASE.fetch_add(1, Ordering::Relaxed);
    let channels = CHANNELS.map(|name| format!("{name}-{case}"));
    let mut client = Assembler::new(endpoint, &channels.each_ref().map(String::as_str));
    let mut published = Vec::new();
    for step in steps {
        match step {
            Step::ReadThenCut(count) => client.read_then_cut(*count, published.len()),
            Step::Publish { channel, kind, payload } => {
                let mut fields = vec![("channel", channels[*channel].as_str()), ("message", payload)];
                fields.extend(kind.as_ref().map(|kind| ("event", kind.as_str())));
                let id = daemon.publish_form(&fields).id.unwrap();
                let kind = kind.clone().unwrap_or_else(|| "message".to_owned());
                published.push(Event { kind, data: normalized(payload).into_bytes(), id });
            }
        }
    }
    client.read_to(published.len());
    prop_assert_eq!(&client.assembled, &published);
    Ok(client.cuts)
}

#[test]
fn resume_after_cuts_at_any_byte_delivers_each_event_once() {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, ROOMY);
    let cuts = AtomicUsize::new(0);
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() });
    let result = runner.run(&steps(), |steps| {
        cuts.fetch_add(assemble_over(&daemon, daemon.public(), &steps)?, Ordering::Relaxed);
        Ok(())
    });
    result.unwrap();
    assert!(cuts.into_inner() > 1000, "there were too few cuts to show anything");
}

#[test]
fn resume_through_nginx_after_cuts_at_any_byte_delivers_each_event_once() {
    needs!("nginx");
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, ROOMY);
    let nginx = Nginx::start(&folder, &daemon);
    let config = ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() };
    let result = TestRunner::new(config).run(&steps(), |steps| {
        assemble_over(&daemon, &nginx.sse(), &steps)?;
        Ok(())
    });
    result.unwrap();
}

/// Publishes `count` events while a client on `endpoint` is cut at random bytes, at least `cuts` times.
fn assemble_while_published(daemon: &Daemon, endpoint: &Endpoint, count: usize, cuts: usize) {
    let mut client = Assembler::new(endpoint, &["cats", "dogs"]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..count {
                // Some are long, so that cuts fall into them.
                let message = format!("{number}:{}", "x".repeat(if number % 50 == 0 { 20_000 } else { number % 70 }));
                daemon.publish(["cats", "dogs"][number % 2], &message);
            }
        });
        let mut random = fastrand::Rng::with_seed(7);
        while client.cuts < cuts {
            client.read_then_cut(random.usize(..900), count);
        }
    });
    client.read_to(count);
    let numbers: Vec<usize> =
        client.assembled.iter().map(|event| event.text().split_once(':').unwrap().0.parse().unwrap()).collect();
    assert_eq!(numbers, (0..count).collect::<Vec<_>>(), "after {} cuts", client.cuts);
}

#[test]
fn thousands_of_cuts_while_events_are_published_lose_nothing() {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, ROOMY);
    assemble_while_published(&daemon, daemon.public(), 3000, 5000);
}

#[test]
fn cuts_through_nginx_while_events_are_published_lose_nothing() {
    needs!("nginx");
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, ROOMY);
    let nginx = Nginx::start(&folder, &daemon);
    assemble_while_published(&daemon, &nginx.sse(), 500, 800);
}

#[test]
fn cuts_lose_nothing_with_several_workers() {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, &format!("{ROOMY}[process]\nworkers = 3\n"));
    assemble_while_published(&daemon, daemon.public(), 1000, 1500);
}

#[test]
fn the_cursor_may_be_in_the_query() {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, "");
    let cursor = Subscription::to(&["cats"]).open(daemon.public()).last_event_id();
    let middle = daemon.publish("cats", "1").id.unwrap();
    daemon.publish("cats", "2");
    let open = |query: &str| Stream::new(Request::get(format!("/?channels=cats&{query}")).send(daemon.public()));
    assert_eq!(open(&format!("last_event_id={cursor}")).texts(2), ["1", "2"]);
    assert_eq!(open(&format!("last_event_id={middle}")).texts(1), ["2"]);
    let both = Request::get(format!("/?channels=cats&last_event_id={cursor}")).header("Last-Event-ID", &middle);
    assert_eq!(
        Stream::new(both.send(daemon.public())).texts(1),
        ["2"],
        "the header is the browser's own, later word: an EventSource keeps its URL for ever"
    );
}

#[test]
fn a_stream_without_a_cursor_gets_only_new_events() {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, "");
    daemon.publish("cats", "before");
    for stream in [Subscription::to(&["cats"]), Subscription::to(&["cats"]).after("")] {
        let mut stream = stream.open(daemon.public());
        daemon.publish("cats", "after");
        assert_eq!(stream.texts(1), ["after"]);
    }
}

#[test]
fn several_channels_are_replayed_in_one_order() {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, "");
    let cursor = Subscription::to(&["0"]).open(daemon.public()).last_event_id();
    let names: Vec<String> = (0..20).map(|name| name.to_string()).collect();
    let mut random = fastrand::Rng::with_seed(3);
    let expected: Vec<String> = (0..400).map(|number| format!("event {number}")).collect();
    for message in &expected {
        daemon.publish(&names[random.usize(..names.len())], message);
    }
    let mut stream = Subscription::to(&names).after(&cursor).open(daemon.public());
    assert_eq!(stream.texts(expected.len()), expected);
}

#[test]
fn live_events_follow_replayed_ones_without_loss_or_repeat() {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, ROOMY);
    let cursor = Subscription::to(&["cats"]).open(daemon.public()).last_event_id();
    let messages: Vec<String> = (0..2000).map(|number| number.to_string()).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| messages.iter().for_each(|message| drop(daemon.publish("cats", message))));
        // Each client joins at another moment.
        for _ in 0..20 {
            let mut stream = Subscription::to(&["cats"]).after(&cursor).open(daemon.public());
            assert_eq!(stream.texts(messages.len().min(300)), messages[..300]);
            drop(stream);
        }
        let mut stream = Subscription::to(&["cats"]).after(&cursor).open(daemon.public());
        assert_eq!(stream.texts(messages.len()), messages);
    });
}
