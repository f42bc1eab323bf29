//! One end of the link: a SEQPACKET socket that carries words as JSON, and descriptors beside them (unix(7)).

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

use super::{DESCRIPTORS_A_WORD, ENVIRONMENT, Word};

/// Most bytes of a word; names and state go by memfd.
const MAX_WORD: usize = 16 << 10;

/// Why the other end was not heard or reached.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The other process has ended, or closed its end.
    #[error("the other process has ended")]
    Closed,
    /// It said nothing in time.
    #[error("the other process said nothing for {0:?}")]
    Silent(Duration),
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

impl From<Errno> for LinkError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::EPIPE | Errno::ECONNRESET => Self::Closed,
            errno => Self::Io(errno.into()),
        }
    }
}

/// One end. Its calls block.
#[derive(Debug)]
pub struct Link(OwnedFd);

impl Link {
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

    /// Says `word`, with descriptors, which stay open here.
    ///
    /// # Errors
    /// [`LinkError::Closed`] if nobody hears it.
    pub fn say(&self, word: &Word, fds: &[RawFd]) -> Result<(), LinkError> {
        let text = serde_json::to_vec(word).map_err(io::Error::from)?;
        let rights = [ControlMessage::ScmRights(fds)];
        let control = if fds.is_empty() { &rights[..0] } else { &rights };
        sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(&text)], control, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }

    /// Hears the next word, and the descriptors that come with it.
    ///
    /// # Errors
    /// [`LinkError`]; a [`Word::Failed`] is one of them.
    pub fn hear(&self, within: Duration) -> Result<(Word, Vec<OwnedFd>), LinkError> {
        let micros = i64::try_from(within.as_micros()).unwrap_or(i64::MAX).max(1);
        setsockopt(&self.0, sockopt::ReceiveTimeout, &TimeVal::new(micros / 1_000_000, micros % 1_000_000))?;
        let mut text = vec![0; MAX_WORD];
        let mut space = cmsg_space!([RawFd; DESCRIPTORS_A_WORD]);
        let mut slices = [IoSliceMut::new(&mut text)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let received = recvmsg::<UnixAddr>(self.0.as_raw_fd(), &mut slices, Some(&mut space), flags);
        let received = match received {
            Err(Errno::EAGAIN) => return Err(LinkError::Silent(within)),
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
            return Err(LinkError::Closed);
        }
        match serde_json::from_slice(&text[..n]) {
            Ok(Word::Failed { reason }) => Err(LinkError::Failed(reason)),
            Ok(word) => Ok((word, fds)),
            Err(_) => Err(LinkError::Unexpected(String::from_utf8_lossy(&text[..n]).into_owned())),
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
    /// [`LinkError`], also for any other word.
    pub fn expect(&self, expected: &Word, within: Duration) -> Result<(), LinkError> {
        match self.hear(within)? {
            (word, _) if word == *expected => Ok(()),
            (word, _) => Err(LinkError::Unexpected(format!("{word:?}"))),
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
        let (ours, theirs) = Link::pair().unwrap();
        let theirs = Link(theirs);
        let file = memfd(b"held").unwrap();
        ours.say(&Word::State { descriptors: 3 }, &[file.as_raw_fd()]).unwrap();
        ours.say(&Word::Go, &[]).unwrap();
        let (word, mut fds) = theirs.hear(Duration::from_secs(5)).unwrap();
        assert_eq!(word, Word::State { descriptors: 3 });
        assert_eq!(read_memfd(fds.remove(0)).unwrap(), b"held");
        theirs.expect(&Word::Go, Duration::from_secs(5)).unwrap();
        theirs.say(&Word::Failed { reason: "no".to_owned() }, &[]).unwrap();
        assert_eq!(ours.expect(&Word::Serving, Duration::from_secs(5)).unwrap_err().to_string(), "no");
        assert!(matches!(ours.hear(Duration::from_millis(10)), Err(LinkError::Silent(_))));
        theirs.say(&Word::Serving, &[]).unwrap();
        ours.shut();
        assert!(matches!(theirs.say(&Word::Serving, &[]), Err(LinkError::Closed)), "what is said is heard, or fails");
        ours.expect(&Word::Serving, Duration::from_secs(5)).unwrap();
        drop(theirs);
        assert!(matches!(ours.hear(Duration::from_secs(5)), Err(LinkError::Closed)));
        assert!(matches!(ours.say(&Word::Go, &[]), Err(LinkError::Closed)));
    }
}
