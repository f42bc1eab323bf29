//! Publishes the events of a run: on ssecast's admin socket, to any HTTP address, or through Redis. Reads no stream.
//!
//! An HTTP publisher never waits for an answer, because the server may answer only after it has written to the clients, which must
//! be read meanwhile. Its socket is in the clients' epoll, and answers are read when they arrive.

use std::{
    io::Write as _,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use memchr::memmem;
use nix::{
    errno::Errno,
    unistd::{read, write},
};
use serde::Serialize;

use crate::target::{Target, escape};

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// One event to publish. As JSON, it is what `POST /publish` takes.
#[derive(Debug, Serialize)]
pub struct Message<'a> {
    /// Its channel.
    pub channel: &'a str,
    /// ASCII without line breaks.
    #[serde(rename = "message")]
    pub payload: String,
}

/// Where a run's events are published to.
pub trait Publisher {
    /// Publishes all of `batch`, in order.
    ///
    /// # Errors
    /// Where the connection is lost.
    fn publish(&mut self, batch: &[Message<'_>]) -> anyhow::Result<()>;

    /// What to wait on for answers; `None` if there are none to wait for.
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Goes on with what the socket is ready for.
    ///
    /// # Errors
    /// Where the connection is lost, or a publish was refused.
    fn ready(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    /// Number of requests without an answer.
    fn unanswered(&self) -> usize {
        0
    }
}

/// Connects to what `url` names: `redis://…` (or any URL form of Redis), else ssecast's admin socket or an HTTP address.
/// Where the URL has `{channel}`, each event is POSTed there raw.
///
/// # Errors
/// Where the URL is not understood, or nothing answers.
pub fn open(url: &str) -> anyhow::Result<Box<dyn Publisher>> {
    if url.starts_with("redis") {
        return Ok(Box::new(RedisPublisher::open(url)?));
    }
    Ok(Box::new(HttpPublisher::open(url)?))
}

struct RedisPublisher(redis::Connection);

impl RedisPublisher {
    fn open(url: &str) -> anyhow::Result<Self> {
        let client = redis::Client::open(url).with_context(|| format!("{url} is not a Redis URL"))?;
        let connection = client.get_connection_with_timeout(CONNECT_TIMEOUT);
        Ok(Self(connection.with_context(|| format!("no Redis answers on {url}"))?))
    }
}

impl Publisher for RedisPublisher {
    fn publish(&mut self, batch: &[Message<'_>]) -> anyhow::Result<()> {
        let mut pipe = redis::pipe();
        for message in batch {
            pipe.publish(message.channel, &message.payload);
        }
        let received: Vec<u64> = pipe.query(&mut self.0).context("Redis refuses a PUBLISH")?;
        if let Some(message) = received.iter().position(|&subscribers| subscribers == 0).map(|at| &batch[at]) {
            bail!(
                "nobody is subscribed to {} on this Redis: is it the daemon's, and has it a prefix?",
                message.channel
            );
        }
        Ok(())
    }
}

struct HttpPublisher {
    target: Target,
    socket: OwnedFd,
    unsent: Vec<u8>,
    unread: Vec<u8>,
    unanswered: usize,
}

impl HttpPublisher {
    fn open(url: &str) -> anyhow::Result<Self> {
        let target: Target = url.parse()?;
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        let socket = loop {
            match target.connect() {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                result => {
                    break result.with_context(|| {
                        format!("nothing answers on {url}: is it running, and is --publish right?")
                    })?;
                }
            }
        };
        Ok(Self { target, socket, unsent: Vec::new(), unread: Vec::new(), unanswered: 0 })
    }

    fn request(&mut self, uri: &str, content_type: &str, body: &[u8]) {
        let (host, bytes) = (&self.target.host, body.len());
        let head = format!(
            "POST {uri} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {content_type}\r\nContent-Length: {bytes}\r\n\r\n"
        );
        self.unsent.extend_from_slice(head.as_bytes());
        self.unsent.extend_from_slice(body);
        self.unanswered += 1;
    }

    fn send(&mut self) -> anyhow::Result<()> {
        let mut sent = 0;
        while sent < self.unsent.len() {
            match write(&self.socket, &self.unsent[sent..]) {
                Ok(bytes) => sent += bytes,
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("the publisher's connection is lost"),
            }
        }
        self.unsent.drain(..sent);
        Ok(())
    }

    fn receive(&mut self) -> anyhow::Result<()> {
        let mut buffer = [0; 16 << 10];
        loop {
            match read(&self.socket, &mut buffer) {
                Ok(0) => bail!("{} has closed the publisher's connection (nginx: see keepalive_requests)", self.target),
                Ok(bytes) => self.unread.extend_from_slice(&buffer[..bytes]),
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("the publisher's connection is lost"),
            }
        }
        while let Some(response) = Response::read(&self.unread) {
            if !(200..300).contains(&response.status) {
                let text = String::from_utf8_lossy(&self.unread[response.head..response.end]);
                bail!("{} refuses a publish with {}: {}", self.target, response.status, text.trim());
            }
            self.unread.drain(..response.end);
            self.unanswered = self.unanswered.saturating_sub(1);
        }
        Ok(())
    }
}

impl Publisher for HttpPublisher {
    fn publish(&mut self, batch: &[Message<'_>]) -> anyhow::Result<()> {
        let own = !self.target.uri.contains("{channel}");
        let base = self.target.uri.trim_end_matches('/').to_owned();
        if own && batch.len() > 1 {
            let mut lines = Vec::new();
            for message in batch {
                serde_json::to_writer(&mut lines, message)?;
                lines.write_all(b"\n")?;
            }
            self.request(&format!("{base}/publish"), "application/x-ndjson", &lines);
        } else {
            for Message { channel, payload } in batch {
                let name = escape(channel);
                let uri =
                    if own { format!("{base}/publish/{name}") } else { self.target.uri.replace("{channel}", &name) };
                self.request(&uri, "text/plain", payload.as_bytes());
            }
        }
        self.send()
    }

    fn socket(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn ready(&mut self) -> anyhow::Result<()> {
        self.send()?;
        self.receive()
    }

    fn unanswered(&self) -> usize {
        self.unanswered
    }
}

/// Where a response's parts end, in the bytes it begins.
#[derive(Debug, PartialEq, Eq)]
struct Response {
    status: u16,
    head: usize,
    end: usize,
}

impl Response {
    /// `None` until all of it is there.
    fn read(bytes: &[u8]) -> Option<Self> {
        let head = memmem::find(bytes, b"\r\n\r\n")? + 4;
        let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
        let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(999);
        let body = if text.contains("\r\ntransfer-encoding: chunked") {
            // The last chunk is at the body's beginning, or after a line end.
            let body = &bytes[head..];
            if body.starts_with(b"0\r\n\r\n") { 5 } else { memmem::find(body, b"\r\n0\r\n\r\n")? + 7 }
        } else {
            let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
            length.and_then(|length| length.trim().parse().ok()).unwrap_or(0)
        };
        (bytes.len() >= head + body).then_some(Self { status, head, end: head + body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_separated() {
        let two = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nokayHTTP/1.1 503 No\r\n\r\n";
        assert_eq!(Response::read(two), Some(Response { status: 200, head: 38, end: 42 }));
        assert_eq!(Response::read(&two[..41]), None);
        assert_eq!(Response::read(&two[42..]), Some(Response { status: 503, head: 19, end: 19 }));
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
        assert_eq!(Response::read(chunked).unwrap().end, chunked.len());
        assert_eq!(Response::read(&chunked[..chunked.len() - 1]), None);
    }

    #[test]
    fn a_message_is_what_the_admin_socket_takes() {
        let message = Message { channel: "cats", payload: "sb 1".to_owned() };
        assert_eq!(serde_json::to_string(&message).unwrap(), r#"{"channel":"cats","message":"sb 1"}"#);
    }
}
