//! A connection on which nothing but XREAD is sent, and whose answers are parsed as they arrive. It knows no messages.
//!
//! The client library opens it and logs in: this takes the socket back from the library, which has read all answers by then.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use redis::{AsyncConnectionConfig, RedisResult};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    time::timeout,
};

use super::parser::{Parser, Reply, Visitor};
use crate::source::redis::{Address, Server, Stream, broken};

/// Bytes of one read.
const CHUNK: usize = 64 << 10;
/// Longest wait for the bytes of an answer, and for sending a command.
const ANSWER: Duration = Duration::from_secs(3);

/// See the module.
pub(super) struct Link {
    stream: Stream,
    buffer: BytesMut,
    parser: Parser,
}

impl Link {
    /// Opens a connection to `address`. Values of more than `longest` bytes are skipped.
    ///
    /// # Errors
    /// As [`Server::open`].
    pub(super) async fn open(server: &Server, address: &Address, longest: usize) -> RedisResult<Self> {
        let lent = Arc::new(Mutex::new(None));
        let lend = |stream| {
            *crate::lock::lock(&lent) = Some(stream);
            Lent(Arc::clone(&lent))
        };
        server.open(address, &AsyncConnectionConfig::new(), lend).await?.close().await;
        let stream = crate::lock::lock(&lent).take().ok_or_else(|| broken("the connection was closed"))?;
        Ok(Self { stream, buffer: BytesMut::new(), parser: Parser::new(longest) })
    }

    /// Sends a command.
    ///
    /// # Errors
    /// The connection is closed, or takes nothing.
    pub(super) async fn send(&mut self, command: &redis::Cmd) -> RedisResult<()> {
        let bytes = command.get_packed_command();
        let sending = async {
            self.stream.write_all(&bytes).await?;
            self.stream.flush().await
        };
        timeout(ANSWER, sending).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(|_| gone())
    }

    /// Reads until something arrives, for `wait` and [`ANSWER`] at most, and passes what there is to `visitor`. `None`: the answer
    /// has not come to its end.
    ///
    /// # Errors
    /// The connection is closed, nothing arrives, or what arrives is no answer to XREAD.
    pub(super) async fn read(&mut self, wait: Duration, visitor: &mut impl Visitor) -> RedisResult<Option<Reply>> {
        let reply = self.parser.parse(&mut self.buffer, visitor).map_err(|error| broken(error.to_string()))?;
        if reply.is_some() {
            return Ok(reply);
        }
        self.buffer.reserve(CHUNK);
        let read = timeout(wait + ANSWER, self.stream.read_buf(&mut self.buffer)).await;
        let read = read.map_err(|_| broken(format!("no answer in {:?}", wait + ANSWER)))?;
        if read.map_err(|_| gone())? == 0 {
            return Err(gone());
        }
        self.parser.parse(&mut self.buffer, visitor).map_err(|error| broken(error.to_string()))
    }
}

fn gone() -> redis::RedisError {
    broken("the connection was closed")
}

/// The stream while the library has it.
struct Lent(Arc<Mutex<Option<Stream>>>);

impl Lent {
    fn with<T>(&self, poll: impl FnOnce(Pin<&mut Stream>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match &mut *crate::lock::lock(&self.0) {
            Some(stream) => poll(Pin::new(stream)),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl AsyncRead for Lent {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_read(cx, out))
    }
}

impl AsyncWrite for Lent {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.with(|stream| stream.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_shutdown(cx))
    }
}
