//! A relay in front of Redis that can delay the replies of Redis, and can lead new connections to another Redis.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    ops::Range,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU16, Ordering},
    },
    thread,
};

pub(crate) struct Relay {
    port: u16,
    /// Where new connections lead.
    target: Arc<AtomicU16>,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Number of connections so far.
    connections: usize,
    holds: Vec<Hold>,
}

/// A reply with `word` on one of the `connections` is delayed, and so are all that follow.
struct Hold {
    connections: Range<usize>,
    word: &'static [u8],
}

impl Gate {
    /// Returns when `reply` may pass on the connection of that number.
    fn pass(&self, number: usize, reply: &[u8]) {
        let holds = |state: &mut State| {
            let mut holds = state.holds.iter().filter(|hold| hold.connections.contains(&number));
            holds.any(|hold| hold.word.is_empty() || memchr::memmem::find(reply, hold.word).is_some())
        };
        drop(self.changed.wait_while(self.state.lock().unwrap(), holds).unwrap());
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
    }
}

impl Relay {
    /// A relay to `target`, a loopback port. Its threads end with the connections.
    pub(crate) fn start(target: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let gate = Arc::new(Gate::default());
        let for_replies = Arc::clone(&gate);
        let target = Arc::new(AtomicU16::new(target));
        let target_now = Arc::clone(&target);
        thread::spawn(move || {
            for (number, client) in listener.incoming().enumerate() {
                let client = client.unwrap();
                // If Redis doesn't listen, close the connection.
                let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, target_now.load(Ordering::SeqCst))) else {
                    continue;
                };
                let (to_server, to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let gate = Arc::clone(&for_replies);
                gate.change(|state| state.connections = number + 1);
                thread::spawn(move || copy(client, to_server, |_| {}));
                thread::spawn(move || copy(server, to_client, |reply| gate.pass(number, reply)));
            }
        });
        Self { port, target, gate }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Number of connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.gate.state.lock().unwrap().connections
    }

    /// Leads new connections to another loopback port. Those that exist stay where they are.
    pub(crate) fn lead_to(&self, target: u16) {
        self.target.store(target, Ordering::SeqCst);
    }

    /// From now on, delays a reply that contains `word`, and all that follow.
    pub(crate) fn hold_replies_with(&self, word: &'static str) {
        self.hold_replies_of(0..usize::MAX, word);
    }

    /// The same, on the connections of these numbers, which may be still to come.
    pub(crate) fn hold_replies_of(&self, connections: Range<usize>, word: &'static str) {
        self.gate.change(|state| state.holds.push(Hold { connections, word: word.as_bytes() }));
    }

    pub(crate) fn release_replies_of(&self, connections: &Range<usize>) {
        self.gate.change(|state| state.holds.retain(|hold| hold.connections != *connections));
    }

    pub(crate) fn release_replies(&self) {
        self.gate.change(|state| state.holds.clear());
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.release_replies();
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, before_each: impl Fn(&[u8])) {
    let mut buffer = [0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        before_each(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}
