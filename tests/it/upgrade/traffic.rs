//! Publishers and clients that work while a test does something: at its end every client must have received everything.

use std::{
    io::{Read as _, Write as _},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{
    swarm::{Swarm, channel, last_message, message},
    upgraded_daemon::UpgradedDaemon,
};
use crate::support::{Decoder, Endpoint, Request, Socket};

/// Sets a flag when it is dropped, also by a panic: the threads of a scope that work until then end, and a test that fails does
/// not wait for them for ever.
pub(super) struct SetOnDrop<'a>(pub(super) &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How much is published, and to how many clients.
#[derive(Clone, Copy)]
pub(super) struct Traffic<'a> {
    /// Clients on the daemon's own socket.
    pub(super) clients: usize,
    /// Clients behind nginx.
    pub(super) through: Option<(&'a Endpoint, usize)>,
    /// Channels, among which the clients are divided.
    pub(super) channels: usize,
    /// Publishes a second, if the machine is fast enough.
    pub(super) rate: usize,
    /// Publishes in one request.
    pub(super) batch: usize,
}

/// Few clients and publishes.
pub(super) const LIGHT: Traffic<'_> = Traffic { clients: 60, through: None, channels: 20, rate: 500, batch: 5 };

impl Traffic<'_> {
    /// Opens the clients and publishes for as long as `doing` takes; waits until all clients have received everything.
    pub(super) fn during<T>(
        self,
        daemon: &UpgradedDaemon,
        publisher: &mut dyn Publish,
        doing: impl FnOnce(&Swarm) -> T,
    ) -> T {
        let swarm = Swarm::start(daemon.public(), self.clients, self.through, self.channels);
        let done = AtomicBool::new(false);
        let result = thread::scope(|scope| {
            let publishing = scope.spawn(|| self.publish_until(&done, publisher));
            let stop = SetOnDrop(&done);
            let result = doing(&swarm);
            drop(stop);
            assert!(publishing.join().unwrap() > 0);
            result
        });
        assert_eq!(swarm.join(), self.clients + self.through.map_or(0, |(_, count)| count));
        result
    }

    /// Publishes until `done`, each channel's numbers in order, and then a last message on each; returns how many there were.
    fn publish_until(self, done: &AtomicBool, publisher: &mut dyn Publish) -> usize {
        let mut next_of = vec![0; self.channels];
        let (began, mut published) = (Instant::now(), 0);
        while !done.load(Ordering::Relaxed) {
            let batch: Vec<(String, String)> = (0..self.batch)
                .map(|step| {
                    let at = (published + step) % self.channels;
                    next_of[at] += 1;
                    (channel(at), message(next_of[at] - 1))
                })
                .collect();
            publisher.publish(&batch);
            published += self.batch;
            let due = began + Duration::from_secs_f64(published as f64 / self.rate as f64);
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        println!("{published} events in {:?}", began.elapsed());
        for (at, &count) in next_of.iter().enumerate() {
            publisher.publish(&[(channel(at), last_message(count))]);
        }
        published
    }
}

/// Publishes batches of (channel, message), each of which must be accepted.
pub(super) trait Publish: Send {
    fn publish(&mut self, batch: &[(String, String)]);
}

/// Publishes through Redis, many messages at a time.
pub(super) struct ByRedis(pub(super) redis::Connection);

impl Publish for ByRedis {
    fn publish(&mut self, batch: &[(String, String)]) {
        let mut pipe = redis::pipe();
        for (channel, message) in batch {
            pipe.publish(channel, message);
        }
        let subscribers: Vec<usize> = pipe.query(&mut self.0).unwrap();
        assert!(subscribers.iter().all(|&count| count > 0), "nobody is subscribed: {subscribers:?}");
    }
}

/// The admin socket, on one connection that is kept: it has to survive every upgrade as well.
pub(super) struct ByAdmin(Socket);

impl ByAdmin {
    pub(super) fn connect(daemon: &UpgradedDaemon) -> Self {
        Self(daemon.admin().connect().unwrap())
    }
}

impl Publish for ByAdmin {
    fn publish(&mut self, batch: &[(String, String)]) {
        let line = |(channel, message): &(String, String)| {
            format!("{}\n", serde_json::json!({ "channel": channel, "message": message }))
        };
        let lines: String = batch.iter().map(line).collect();
        let request = Request::new("POST", "/publish").header("Content-Type", "application/x-ndjson");
        self.0.write_all(&request.body(lines).to_bytes()).unwrap();
        let (status, body) = read_answer(&mut self.0);
        assert_eq!(status, 200, "{body}");
        let accepted = body.lines().filter(|line| line.starts_with("{\"status\":\"ok\"")).count();
        assert_eq!(accepted, batch.len(), "{body}");
    }
}

/// Reads the next answer on a connection that stays open: its status and body.
pub(super) fn read_answer(socket: &mut Socket) -> (u16, String) {
    let (mut decoder, mut body, mut bytes) = (Decoder::default(), Vec::new(), [0; 64 << 10]);
    while !decoder.is_complete() {
        let most = decoder.bytes_left().min(bytes.len());
        let count = socket.read(&mut bytes[..most]).unwrap();
        assert_ne!(count, 0, "a connection was closed without an answer: {decoder:?}");
        decoder.feed(&bytes[..count], &mut body);
    }
    (decoder.head().unwrap().status, String::from_utf8(body).unwrap())
}
