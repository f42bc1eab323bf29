//! Two sources in one daemon, which misbehave by a seed: one that is down, slow or refuses channels does not stop, delay or reorder
//! what the other delivers, and causes no gap event on the channels that it has refused.

use std::{
    collections::HashSet,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
};

use super::example;
use crate::support::{Daemon, Folder, Stream, Subscription, eventually};

/// The server of one source.
struct Server {
    name: &'static str,
    path: PathBuf,
    state: Arc<Mutex<State>>,
    /// Number of the last message on each of its channels.
    published: [u32; 2],
}

#[derive(Default)]
struct State {
    connection: Option<UnixStream>,
    /// Channels that it has confirmed on this connection.
    confirmed: HashSet<String>,
    /// Channels that it was asked for while it was silent.
    unanswered: Vec<String>,
    is_down: bool,
    is_silent: bool,
}

impl State {
    /// Answers a request: each source has its own channel, and that of both.
    fn answer(&mut self, server: &str, channel: &str) {
        let is_known = channel == server || channel == "both";
        let word = if is_known { "confirmed" } else { "refused" };
        if is_known {
            self.confirmed.insert(channel.to_owned());
        }
        self.send(&format!("{word} {channel}\n"));
    }

    fn send(&mut self, line: &str) {
        if let Some(connection) = &mut self.connection {
            // The source may have gone; the thread that reads notices.
            let _ = connection.write_all(line.as_bytes());
        }
    }

    fn cut(&mut self) {
        if let Some(connection) = self.connection.take() {
            let _ = connection.shutdown(Shutdown::Both);
        }
        self.confirmed.clear();
        self.unanswered.clear();
    }
}

impl Server {
    fn start(folder: &Folder, name: &'static str) -> Self {
        let (path, state) = (folder.path(&format!("{name}.sock")), Arc::<Mutex<State>>::default());
        let listener = UnixListener::bind(&path).unwrap();
        let shared = Arc::clone(&state);
        // It ends with the test's process, since nothing removes the listener.
        thread::spawn(move || {
            for connection in listener.incoming() {
                let Ok(connection) = connection else { return };
                let reader = BufReader::new(connection.try_clone().unwrap());
                let mut state = shared.lock().unwrap();
                if state.is_down {
                    continue;
                }
                state.cut();
                state.connection = Some(connection);
                drop(state);
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    for line in reader.lines() {
                        let Ok(line) = line else { return };
                        let Some(channel) = line.strip_prefix("subscribe ") else { continue };
                        let mut state = shared.lock().unwrap();
                        if state.is_silent {
                            state.unanswered.push(channel.to_owned());
                        } else {
                            state.answer(name, channel);
                        }
                    }
                });
            }
        });
        Self { name, path, state, published: [0; 2] }
    }

    fn table(&self) -> String {
        format!("[{}]\nsocket = {:?}\n", self.name, self.path)
    }

    /// Publishes the next number on its own channel or on that of both. As with Redis, what is published while nobody is subscribed
    /// is lost.
    fn publish(&mut self, on_both: bool) {
        let (name, number) = (self.name, &mut self.published[usize::from(on_both)]);
        *number += 1;
        let channel = if on_both { "both" } else { name };
        let mut state = self.state.lock().unwrap();
        if state.confirmed.contains(channel) {
            state.send(&format!("message {channel} {name} {number}\n"));
        }
    }

    fn cut(&self) {
        self.state.lock().unwrap().cut();
    }

    fn set_down(&self, is_down: bool) {
        let mut state = self.state.lock().unwrap();
        state.is_down = is_down;
        if is_down {
            state.cut();
        }
    }

    fn set_silent(&self, is_silent: bool) {
        let mut state = self.state.lock().unwrap();
        state.is_silent = is_silent;
        if !is_silent {
            for channel in std::mem::take(&mut state.unanswered) {
                state.answer(self.name, &channel);
            }
        }
    }

    /// Whether it delivers its own channel and that of both.
    fn delivers(&self) -> bool {
        self.state.lock().unwrap().confirmed.len() == 2
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.cut();
        let _ = fs::remove_file(Path::new(&self.path));
    }
}

/// What a client got of one source on one channel. Checks that numbers only grow, and that each hole lies under a gap event.
#[derive(Default)]
struct Reader {
    last: [u32; 2],
    gaps: usize,
    /// Whether a gap event came since the last number of each source.
    gap_since: [bool; 2],
}

impl Reader {
    fn take(&mut self, stream: &mut Stream) {
        let event = stream.event();
        if let Some(gap) = event.gap() {
            assert_eq!(gap.reason, "source");
            self.gaps += 1;
            self.gap_since = [true; 2];
            return;
        }
        let text = event.text();
        let (server, number) = text.split_once(' ').unwrap();
        let (source, number) = (usize::from(server == "right"), number.parse::<u32>().unwrap());
        let last = self.last[source];
        assert!(number > last, "{text} after {last}");
        assert!(number == last + 1 || self.gap_since[source], "{text} after {last}, without a gap event");
        (self.last[source], self.gap_since[source]) = (number, false);
    }

    fn read_until(&mut self, stream: &mut Stream, source: usize, number: u32) {
        while self.last[source] < number {
            self.take(stream);
        }
    }
}

fn run(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let folder = Folder::new();
    let (mut left, mut right) = (Server::start(&folder, "left"), Server::start(&folder, "right"));
    let tables = left.table() + &right.table();
    let mut daemon = Daemon::start_program(&example("two_sources"), &folder, "ssecast", &tables);
    daemon.wait_until_ready();
    let mut streams = ["left", "right", "both"].map(|name| Subscription::to(&[name]).open(daemon.public()));
    let mut readers: [Reader; 3] = Default::default();
    eventually("both deliver", || (left.delivers() && right.delivers()).then_some(()));
    for _ in 0..200 {
        match random.u32(0..10) {
            0 => right.cut(),
            1 => right.set_down(random.bool()),
            2 => right.set_silent(random.bool()),
            3..=5 => right.publish(random.bool()),
            _ => {}
        }
        // The left source is not stopped, delayed or reordered, whatever the right one does.
        left.publish(false);
        readers[0].read_until(&mut streams[0], 0, left.published[0]);
        left.publish(true);
        readers[2].read_until(&mut streams[2], 0, left.published[1]);
    }
    assert_eq!(readers[0].gaps, 0, "seed {seed}: the right source has refused this channel");

    right.set_silent(false);
    right.set_down(true);
    let state = eventually("the right source is disconnected", || {
        let state = daemon.admin_get("/readyz").json();
        (state["disconnected"] == serde_json::json!(["right"])).then_some(state)
    });
    assert_eq!(state["code"], "source_disconnected");
    right.set_down(false);
    daemon.wait_until_ready();
    eventually("the right source delivers", || right.delivers().then_some(()));
    for (index, on_both) in [(1, false), (2, true)] {
        right.publish(on_both);
        readers[index].read_until(&mut streams[index], 1, right.published[usize::from(on_both)]);
        assert!(readers[index].gaps > 0, "seed {seed}: it was disconnected");
    }
}

#[test]
fn a_source_that_misbehaves_does_not_touch_what_another_delivers() {
    // The failing seed is in the message.
    for seed in [1, 2, 3, fastrand::u64(..)] {
        println!("seed {seed}");
        run(seed);
    }
}
