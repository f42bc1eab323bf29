//! Sends a request and reads its response, over a blocking socket.

use std::io::{self, Read, Write};

use super::{
    http::{Decoder, Head, Request},
    socket::{Endpoint, Socket},
};

pub(crate) struct Response {
    socket: Socket,
    decoder: Decoder,
    /// The part of the body that arrived with the head.
    early: Vec<u8>,
}

impl Request {
    /// Sends the request on a new connection, and waits for the head of the response.
    pub(crate) fn send(&self, endpoint: &Endpoint) -> Response {
        let mut socket = endpoint.connect().unwrap_or_else(|error| panic!("connecting to {endpoint:?}: {error}"));
        // A server may answer and close before it has read a body that it refuses.
        let sent = socket.write_all(&self.to_bytes());
        Response::read_head(socket)
            .unwrap_or_else(|error| panic!("{error}; sent: {sent:?}; request: {self:?} to {endpoint:?}"))
    }
}

impl Response {
    /// Reads the head of a response from `socket`.
    pub(crate) fn read_head(mut socket: Socket) -> io::Result<Self> {
        let (mut decoder, mut early) = (Decoder::default(), Vec::new());
        let mut buffer = [0; 16 << 10];
        while decoder.head().is_none() {
            match socket.read(&mut buffer)? {
                0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended before a head")),
                count => decoder.feed(&buffer[..count], &mut early),
            }
        }
        Ok(Self { socket, decoder, early })
    }

    pub(crate) fn head(&self) -> &Head {
        self.decoder.head().unwrap()
    }

    pub(crate) fn status(&self) -> u16 {
        self.head().status
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head().header(name)
    }

    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    pub(crate) fn socket_mut(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// The connection, on which another request may follow.
    pub(crate) fn into_socket(self) -> Socket {
        self.socket
    }

    /// The next bytes of the body; `None` at its regular end.
    pub(crate) fn read_some(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut body = std::mem::take(&mut self.early);
        let mut buffer = vec![0; 64 << 10];
        while body.is_empty() && !self.decoder.is_complete() {
            match self.socket.read(&mut buffer)? {
                0 if self.decoder.is_complete_at_close() => return Ok(None),
                0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the body was cut off")),
                count => self.decoder.feed(&buffer[..count], &mut body),
            }
        }
        Ok((!body.is_empty()).then_some(body))
    }

    /// The rest of the body.
    pub(crate) fn body(mut self) -> Vec<u8> {
        let mut body = Vec::new();
        while let Some(more) = self.read_some().unwrap() {
            body.extend_from_slice(&more);
        }
        assert_eq!(self.decoder.surplus, 0, "bytes came after the response's end");
        body
    }

    pub(crate) fn text(self) -> String {
        String::from_utf8(self.body()).unwrap()
    }

    /// The body as JSON.
    pub(crate) fn json(self) -> serde_json::Value {
        let text = self.text();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("not JSON ({error}): {text:?}"))
    }
}
