//! Writes to clients' sockets, and drops what clients send. No other file does either. It knows no client.

use std::{
    io::IoSlice,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::{
        socket::{MsgFlags, recv, send},
        uio::writev,
    },
};

/// A client that sends more after its request than this many reads take is closed: a client has nothing to send.
const READS_A_CLIENT: usize = 4;

/// What a socket took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// Everything.
    All,
    /// This many bytes: the socket is full now.
    Part(usize),
    /// Nothing: the socket is full.
    Full,
    /// Nothing: the system call was interrupted or had no memory. Try again; epoll reports no change.
    Retry,
    /// Nothing: the client has closed the connection.
    Gone,
}

/// Writes what the socket takes of `bytes`, and waits for nothing.
#[inline]
pub(super) fn send_now(fd: &OwnedFd, bytes: &[u8]) -> Sent {
    sent(send(fd.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL), bytes.len())
}

/// The same of several slices. The socket must be non-blocking.
pub(super) fn send_slices_now(fd: &OwnedFd, slices: &[IoSlice<'_>]) -> Sent {
    sent(writev(fd.as_fd(), slices), slices.iter().map(|slice| slice.len()).sum())
}

/// Reads and drops what a client has sent. True if the client has closed its side, or sends too much.
pub(super) fn has_left(fd: &OwnedFd) -> bool {
    let mut dropped = [0; 4096];
    for _ in 0..READS_A_CLIENT {
        match recv(fd.as_raw_fd(), &mut dropped, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(Errno::EAGAIN | Errno::EINTR) => return false,
            Err(_) => return true,
        }
    }
    true
}

fn sent(result: nix::Result<usize>, length: usize) -> Sent {
    match result {
        Ok(n) if n == length => Sent::All,
        Ok(n) => Sent::Part(n),
        Err(Errno::EAGAIN) => Sent::Full,
        Err(Errno::EINTR | Errno::ENOBUFS) => Sent::Retry,
        Err(_) => Sent::Gone,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_socket_takes_all_a_part_nothing_or_is_gone() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let fd = OwnedFd::from(ours);
        assert_eq!(send_now(&fd, b"a"), Sent::All);
        assert_eq!(send_slices_now(&fd, &[IoSlice::new(b"b"), IoSlice::new(b"c")]), Sent::All);
        let long = vec![b'x'; 8 << 20];
        assert!(matches!(send_now(&fd, &long), Sent::Part(n) if n > 0));
        assert_eq!(send_now(&fd, &long), Sent::Full);
        drop(theirs);
        assert_eq!(send_now(&fd, b"a"), Sent::Gone);
    }
}
