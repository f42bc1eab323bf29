//! One end of the link: a SEQPACKET socket that carries messages as JSON, and descriptors beside them (unix(7)).

use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut, Read as _, Seek as _, Write as _},
    os::fd::{AsRawFd, FromRawFd as _, OwnedFd, RawFd},
    time::Duration,
};

use nix::{
    cmsg_space,
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::{
        memfd::{MFdFlags, memfd_create},
        socket::{
            AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr,
            recvmsg, sendmsg, setsockopt, shutdown, socketpair, sockopt,
        },
        time::TimeVal,
    },
};

use super::{ENVIRONMENT, FDS_PER_MESSAGE, Message};

/// Most bytes of a message; names and state go by memfd.
const MAX_MESSAGE: usize = 16 << 10;

/// Why the other end was not heard or reached.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The other process has ended, or closed its end.
    #[error("the other process has ended")]
    Closed,
    /// It said nothing in time.
    #[error("the other process said nothing for {0:?}")]
    TimedOut(Duration),
    /// It said that it can't.
    #[error("{0}")]
    Failed(String),
    /// It said something else than is its turn, or nothing that can be read.
    #[error("the other process said {0}, which was not expected")]
    Unexpected(String),
    /// The operating system refused.
    #[error("the link broke: {0}")]
    Io(#[from] io::Error),
}

impl From<Errno> for ControlError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::EPIPE | Errno::ECONNRESET => Self::Closed,
            errno => Self::Io(errno.into()),
        }
    }
}

/// One end. Its calls block.
#[derive(Debug)]
pub struct ControlChannel(OwnedFd);

impl ControlChannel {
    /// Both ends; neither outlives an exec.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Self(ours), theirs))
    }

    /// The end with the descriptor that was inherited under this number.
    ///
    /// # Errors
    /// A number that is no descriptor.
    fn inherited(fd: RawFd) -> io::Result<Self> {
        #[expect(unsafe_code, reason = "an inherited descriptor is known by its number alone")]
        // SAFETY: the parent put the descriptor there for this process, which takes it once, before anything else is opened.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        Ok(Self(fd))
    }

    /// The end that this process was started with, if it was started to take over.
    ///
    /// # Errors
    /// A number that is no descriptor.
    pub fn from_environment() -> io::Result<Option<Self>> {
        let number = std::env::var(ENVIRONMENT).ok().and_then(|number| number.parse().ok());
        number.map(Self::inherited).transpose()
    }

    /// Says `message`, with descriptors, which stay open here.
    ///
    /// # Errors
    /// [`ControlError::Closed`] if nobody hears it.
    pub fn send(&self, message: &Message, fds: &[RawFd]) -> Result<(), ControlError> {
        let text = serde_json::to_vec(message).map_err(io::Error::from)?;
        let rights = [ControlMessage::ScmRights(fds)];
        let control = if fds.is_empty() { &rights[..0] } else { &rights };
        sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(&text)], control, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }

    /// Hears the next message, and the descriptors that come with it.
    ///
    /// # Errors
    /// [`ControlError`]; a [`Message::Failed`] is one of them.
    pub fn recv(&self, within: Duration) -> Result<(Message, Vec<OwnedFd>), ControlError> {
        let micros = i64::try_from(within.as_micros()).unwrap_or(i64::MAX).max(1);
        setsockopt(&self.0, sockopt::ReceiveTimeout, &TimeVal::new(micros / 1_000_000, micros % 1_000_000))?;
        let mut text = vec![0; MAX_MESSAGE];
        let mut space = cmsg_space!([RawFd; FDS_PER_MESSAGE]);
        let mut slices = [IoSliceMut::new(&mut text)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let received = recvmsg::<UnixAddr>(self.0.as_raw_fd(), &mut slices, Some(&mut space), flags);
        let received = match received {
            Err(Errno::EAGAIN) => return Err(ControlError::TimedOut(within)),
            received => received?,
        };
        let mut fds = Vec::new();
        for message in received.cmsgs()? {
            if let ControlMessageOwned::ScmRights(numbers) = message {
                for number in numbers {
                    #[expect(unsafe_code, reason = "received descriptors are known by their numbers alone")]
                    // SAFETY: the kernel has just made them for this process, and each is taken once.
                    fds.push(unsafe { OwnedFd::from_raw_fd(number) });
                }
            }
        }
        let n = received.bytes;
        if n == 0 {
            return Err(ControlError::Closed);
        }
        match serde_json::from_slice(&text[..n]) {
            Ok(Message::Failed { reason }) => Err(ControlError::Failed(reason)),
            Ok(message) => Ok((message, fds)),
            Err(_) => Err(ControlError::Unexpected(String::from_utf8_lossy(&text[..n]).into_owned())),
        }
    }

    /// From now on the other end can say nothing more; what it has said is still to be heard.
    pub fn shut(&self) {
        // An end that is gone says nothing either.
        let _ = shutdown(self.0.as_raw_fd(), Shutdown::Read);
    }

    /// Hears `expected`, or fails.
    ///
    /// # Errors
    /// [`ControlError`], also for any other message.
    pub fn expect(&self, expected: &Message, within: Duration) -> Result<(), ControlError> {
        match self.recv(within)? {
            (message, _) if message == *expected => Ok(()),
            (message, _) => Err(ControlError::Unexpected(format!("{message:?}"))),
        }
    }
}

/// A file in memory that holds `bytes`.
///
/// # Errors
/// What the operating system says.
pub fn memfd(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("ssecast-handover", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(bytes)?;
    Ok(file.into())
}

/// What a file in memory holds.
///
/// # Errors
/// What the operating system says.
pub fn read_memfd(fd: OwnedFd) -> io::Result<Vec<u8>> {
    let mut file = File::from(fd);
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn words_arrive_whole_and_with_their_descriptors() {
        let (ours, theirs) = ControlChannel::pair().unwrap();
        let theirs = ControlChannel(theirs);
        let file = memfd(b"held").unwrap();
        ours.send(&Message::State { descriptors: 3 }, &[file.as_raw_fd()]).unwrap();
        ours.send(&Message::Go, &[]).unwrap();
        let (message, mut fds) = theirs.recv(Duration::from_secs(5)).unwrap();
        assert_eq!(message, Message::State { descriptors: 3 });
        assert_eq!(read_memfd(fds.remove(0)).unwrap(), b"held");
        theirs.expect(&Message::Go, Duration::from_secs(5)).unwrap();
        theirs.send(&Message::Failed { reason: "no".to_owned() }, &[]).unwrap();
        assert_eq!(ours.expect(&Message::Serving, Duration::from_secs(5)).unwrap_err().to_string(), "no");
        assert!(matches!(ours.recv(Duration::from_millis(10)), Err(ControlError::TimedOut(_))));
        theirs.send(&Message::Serving, &[]).unwrap();
        ours.shut();
        assert!(
            matches!(theirs.send(&Message::Serving, &[]), Err(ControlError::Closed)),
            "what is said is heard, or fails"
        );
        ours.expect(&Message::Serving, Duration::from_secs(5)).unwrap();
        drop(theirs);
        assert!(matches!(ours.recv(Duration::from_secs(5)), Err(ControlError::Closed)));
        assert!(matches!(ours.send(&Message::Go, &[]), Err(ControlError::Closed)));
    }
}
