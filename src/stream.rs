//! A connection on a Unix or a TCP socket, as hyper and the shards use it. Parses nothing.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};

use crate::client_limit::ConnectionPermit;

/// A connection that is not registered with a runtime.
pub struct Stream {
    socket: Socket,
    /// Bytes that were read from the socket and not yet used. The next read returns these first.
    unread: Bytes,
    /// For a connection that was accepted on the public socket.
    permit: Option<ConnectionPermit>,
}

/// A connected socket.
pub enum Socket {
    /// A Unix socket.
    Unix(std::os::unix::net::UnixStream),
    /// A TCP socket.
    Tcp(std::net::TcpStream),
}

impl Stream {
    /// A connection from which nothing was read.
    #[must_use]
    pub fn new(socket: Socket) -> Self {
        Self { socket, unread: Bytes::new(), permit: None }
    }

    /// The same, counted by `permit`.
    #[must_use]
    pub fn with_permit(self, permit: ConnectionPermit) -> Self {
        Self { permit: Some(permit), ..self }
    }

    /// Takes the permit that counts the connection.
    pub fn take_permit(&mut self) -> Option<ConnectionPermit> {
        self.permit.take()
    }

    /// A connection from its descriptor, with the bytes that were read from it and not yet used.
    ///
    /// # Errors
    /// What the operating system reports, also if the descriptor is no socket.
    pub fn from_fd(fd: OwnedFd, unread: Bytes) -> io::Result<Self> {
        let socket = match getsockname::<SockaddrStorage>(fd.as_raw_fd())?.family() {
            Some(AddressFamily::Unix) => Socket::Unix(fd.into()),
            _ => Socket::Tcp(fd.into()),
        };
        Ok(Self { socket, unread, permit: None })
    }

    /// The number of the connection's descriptor, and the bytes that were read from it and not yet used.
    #[must_use]
    pub fn peek(&self) -> (RawFd, Bytes) {
        let fd = match &self.socket {
            Socket::Unix(stream) => stream.as_raw_fd(),
            Socket::Tcp(stream) => stream.as_raw_fd(),
        };
        (fd, self.unread.clone())
    }

    /// Registers the connection with the current runtime.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn attach(self) -> io::Result<AttachedStream> {
        let socket = match self.socket {
            Socket::Unix(stream) => {
                stream.set_nonblocking(true)?;
                AttachedSocket::Unix(UnixStream::from_std(stream)?)
            }
            Socket::Tcp(stream) => {
                stream.set_nonblocking(true)?;
                // Events are small, and must be sent at once.
                stream.set_nodelay(true)?;
                AttachedSocket::Tcp(TcpStream::from_std(stream)?)
            }
        };
        Ok(AttachedStream { socket, unread: self.unread, stalled: Arc::default() })
    }
}

/// A connection that is registered with the current runtime.
#[derive(Debug)]
pub struct AttachedStream {
    socket: AttachedSocket,
    unread: Bytes,
    stalled: Arc<AtomicBool>,
}

#[derive(Debug)]
enum AttachedSocket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl AttachedStream {
    /// Takes the connection back from the runtime.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn detach(self) -> io::Result<OwnedFd> {
        Ok(match self.socket {
            AttachedSocket::Unix(stream) => stream.into_std()?.into(),
            AttachedSocket::Tcp(stream) => stream.into_std()?.into(),
        })
    }

    /// Takes the connection back from the runtime. `read` are bytes that the caller has read from it and not used.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn into_stream(self, read: Bytes) -> io::Result<Stream> {
        let unread = if self.unread.is_empty() { read } else { [&read[..], &self.unread].concat().into() };
        Stream::from_fd(self.detach()?, unread)
    }

    /// Whether the last write waits for space in the socket's buffer. The flag stays up to date.
    #[must_use]
    pub fn stalled(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stalled)
    }

    /// The connection as a Unix socket, if it is one.
    #[must_use]
    pub fn as_unix(&self) -> Option<&UnixStream> {
        match &self.socket {
            AttachedSocket::Unix(stream) => Some(stream),
            AttachedSocket::Tcp(_) => None,
        }
    }
}

impl AsyncRead for AttachedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.unread.is_empty() {
            let some = this.unread.split_to(this.unread.len().min(buf.remaining()));
            buf.put_slice(&some);
            return Poll::Ready(Ok(()));
        }
        match &mut this.socket {
            AttachedSocket::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            AttachedSocket::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for AttachedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = match &mut this.socket {
            AttachedSocket::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            AttachedSocket::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
        };
        this.stalled.store(written.is_pending(), Ordering::Relaxed);
        written
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // Sockets have nothing to flush.
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().socket {
            AttachedSocket::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            AttachedSocket::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = match &mut this.socket {
            AttachedSocket::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            AttachedSocket::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        };
        this.stalled.store(written.is_pending(), Ordering::Relaxed);
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
