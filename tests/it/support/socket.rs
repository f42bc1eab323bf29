//! An address to connect to, and a connection.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use super::wait::PATIENCE;

/// An address, and the path of the event streams there.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    address: Address,
    base: &'static str,
}

#[derive(Debug, Clone)]
enum Address {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl Endpoint {
    pub(crate) fn unix(path: &Path) -> Self {
        Self { address: Address::Unix(path.to_owned()), base: "/" }
    }

    pub(crate) fn tcp(address: SocketAddr) -> Self {
        Self { address: Address::Tcp(address), base: "/" }
    }

    /// The same address with the streams under `base`.
    pub(crate) fn under(self, base: &'static str) -> Self {
        Self { base, ..self }
    }

    /// The path of the event streams.
    pub(crate) fn base(&self) -> &'static str {
        self.base
    }

    /// The path of a Unix socket.
    pub(crate) fn path(&self) -> &Path {
        match &self.address {
            Address::Unix(path) => path,
            Address::Tcp(address) => panic!("{address} is not a Unix socket"),
        }
    }

    /// The address of a TCP socket.
    pub(crate) fn tcp_address(&self) -> SocketAddr {
        match &self.address {
            Address::Tcp(address) => *address,
            Address::Unix(path) => panic!("{} is not a TCP socket", path.display()),
        }
    }

    /// The address as it is written in ssecast's configuration.
    pub(crate) fn config_address(&self) -> String {
        match &self.address {
            Address::Unix(path) => path.to_str().unwrap().to_owned(),
            Address::Tcp(address) => format!("tcp://{address}"),
        }
    }

    /// Connects. Reads and writes fail after `PATIENCE`.
    pub(crate) fn connect(&self) -> io::Result<Socket> {
        let socket = match &self.address {
            Address::Unix(path) => Socket::Unix(UnixStream::connect(path)?),
            Address::Tcp(address) => Socket::Tcp(TcpStream::connect(address)?),
        };
        socket.set_timeout(PATIENCE);
        Ok(socket)
    }
}

#[derive(Debug)]
pub(crate) enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Socket {
    pub(crate) fn set_timeout(&self, timeout: Duration) {
        match self {
            Self::Unix(socket) => socket.set_read_timeout(Some(timeout)).and(socket.set_write_timeout(Some(timeout))),
            Self::Tcp(socket) => socket.set_read_timeout(Some(timeout)).and(socket.set_write_timeout(Some(timeout))),
        }
        .unwrap();
    }

    /// Shuts down the sending half of the connection.
    pub(crate) fn finish_sending(&self) {
        let _ = match self {
            Self::Unix(socket) => socket.shutdown(Shutdown::Write),
            Self::Tcp(socket) => socket.shutdown(Shutdown::Write),
        };
    }

    /// Whether a read would return at once, with bytes or the end.
    pub(crate) fn is_readable(&self) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        use std::os::fd::AsFd;
        let fd = match self {
            Self::Unix(socket) => socket.as_fd(),
            Self::Tcp(socket) => socket.as_fd(),
        };
        poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() > 0
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.read(buffer),
            Self::Tcp(socket) => socket.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.write(bytes),
            Self::Tcp(socket) => socket.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
