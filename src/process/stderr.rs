//! Prints messages of the program itself on standard error, within a time limit. Doesn't write the log.
//!
//! Invariant: [`print()`] never blocks for longer than [`LIMIT`], so a full pipe that nobody reads can't keep the program from ending.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::write,
};

/// Longest wait for a reader, for one message.
const LIMIT: Duration = Duration::from_secs(1);

/// Prints `message` and a line feed. If standard error is closed, or nobody reads it for 1 s, the rest of the message is lost.
///
/// Starts no thread, because the process may still have to fork.
pub fn print(message: &str) {
    let line = format!("{message}\n");
    // Not through the lock of `io::stderr()`: the log's thread holds it for as long as its own write blocks. If writing fails,
    // there is nowhere to report it.
    let _ = write_within(io::stderr().as_fd(), line.as_bytes(), LIMIT);
}

/// Writes all of `bytes`, and waits until the file accepts them for `limit` at most.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] after `limit`, or what the operating system reports.
fn write_within(file: BorrowedFd<'_>, bytes: &[u8], limit: Duration) -> io::Result<()> {
    let deadline = Instant::now() + limit;
    let mut rest = bytes;
    while !rest.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(file, PollFlags::POLLOUT)], timeout) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
        // A pipe that is ready has space for PIPE_BUF bytes, so a write of no more doesn't block: pipe(7).
        match write(file, &rest[..rest.len().min(libc::PIPE_BUF)]) {
            Ok(count) => rest = &rest[count..],
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read as _, Write as _},
        os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _},
        thread,
    };

    use super::*;

    /// Returns a pipe that accepts no more bytes, and how many are in it. Its own descriptors are blocking.
    fn full_pipe() -> (io::PipeReader, io::PipeWriter, usize) {
        let (reader, writer) = io::pipe().unwrap();
        let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
        let mut filler = File::options().write(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap();
        let mut filled = 0;
        while let Ok(count) = filler.write(&[b'x'; 1024]) {
            filled += count;
        }
        (reader, writer, filled)
    }

    #[test]
    fn a_full_pipe_that_nobody_reads_is_given_up_at_the_limit() {
        let (_reader, writer, _) = full_pipe();
        let error = write_within(writer.as_fd(), b"lost", Duration::from_millis(10)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_long_message_is_written_whole_while_somebody_reads() {
        let (mut reader, writer, filled) = full_pipe();
        let message: Vec<u8> = (0..200_000_u32).map(|index| (index % 251) as u8).collect();
        let expected = message.clone();
        let writing = thread::spawn(move || write_within(writer.as_fd(), &message, Duration::from_secs(60)));
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        writing.join().unwrap().unwrap();
        assert!(read[filled..] == expected);
    }

    #[test]
    fn a_closed_pipe_is_an_error_at_once() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let error = write_within(writer.as_fd(), b"lost", Duration::from_secs(60)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
