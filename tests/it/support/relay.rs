//! A relay in front of Redis that can delay the replies of Redis.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    thread,
};

pub(crate) struct Relay {
    port: u16,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    /// A reply with this text is delayed, and so are all that follow.
    closed: Mutex<Option<&'static [u8]>>,
    opened: Condvar,
}

impl Gate {
    /// Returns when `reply` may pass.
    fn pass(&self, reply: &[u8]) {
        let holds = |closed: &mut Option<&[u8]>| closed.is_some_and(|word| memchr::memmem::find(reply, word).is_some());
        drop(self.opened.wait_while(self.closed.lock().unwrap(), holds).unwrap());
    }

    fn set_closed(&self, closed: Option<&'static [u8]>) {
        *self.closed.lock().unwrap() = closed;
        self.opened.notify_all();
    }
}

impl Relay {
    /// A relay to `target`, a loopback port. Its threads end with the connections.
    pub(crate) fn start(target: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let gate = Arc::new(Gate::default());
        let for_replies = Arc::clone(&gate);
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                // If Redis doesn't listen, close the connection.
                let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)) else { continue };
                let (to_server, to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let gate = Arc::clone(&for_replies);
                thread::spawn(move || copy(client, to_server, |_| {}));
                thread::spawn(move || copy(server, to_client, |reply| gate.pass(reply)));
            }
        });
        Self { port, gate }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// From now on, delays a reply that contains `word`, and all that follow.
    pub(crate) fn hold_replies_with(&self, word: &'static str) {
        self.gate.set_closed(Some(word.as_bytes()));
    }

    pub(crate) fn release_replies(&self) {
        self.gate.set_closed(None);
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
