//! A connection on either kind of socket, as hyper and the shards use it.

use std::{
    io,
    os::fd::OwnedFd,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};

/// An accepted connection that no runtime knows yet.
pub enum Stream {
    /// From a Unix socket.
    Unix(std::os::unix::net::UnixStream),
    /// From a TCP socket.
    Tcp(std::net::TcpStream),
}

impl Stream {
    /// Registers the connection with the current runtime.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn attach(self) -> io::Result<AttachedStream> {
        Ok(match self {
            Self::Unix(stream) => {
                stream.set_nonblocking(true)?;
                AttachedStream::Unix(UnixStream::from_std(stream)?)
            }
            Self::Tcp(stream) => {
                stream.set_nonblocking(true)?;
                // An event is small and has to leave at once.
                stream.set_nodelay(true)?;
                AttachedStream::Tcp(TcpStream::from_std(stream)?)
            }
        })
    }
}

/// A connection that the current runtime drives.
#[derive(Debug)]
pub enum AttachedStream {
    /// On a Unix socket.
    Unix(UnixStream),
    /// On a TCP socket.
    Tcp(TcpStream),
}

impl AttachedStream {
    /// Takes the connection back from the runtime.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn detach(self) -> io::Result<OwnedFd> {
        Ok(match self {
            Self::Unix(stream) => stream.into_std()?.into(),
            Self::Tcp(stream) => stream.into_std()?.into(),
        })
    }
}

impl AsyncRead for AttachedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for AttachedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // Sockets have nothing to flush.
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
