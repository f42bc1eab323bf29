//! One end of the control channel: a SEQPACKET socket that carries messages as JSON, and descriptors beside them (unix(7)).
//! Each call waits at most as long as its argument says. A signal never ends a wait early.

use std::{
    env,
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
    time::{Duration, Instant},
};

use nix::{
    cmsg_space,
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr,
        getsockopt, recv, recvmsg, sendmsg, shutdown, socketpair, sockopt,
    },
};

use super::{ENVIRONMENT, FDS_PER_MESSAGE, Message};
use crate::process::daemon;

/// Most bytes of a message; names and snapshots go by memfd.
const MAX_MESSAGE: usize = 16 << 10;
/// Most bytes of a reason, so that it fits into a message however it is escaped.
const MAX_REASON: usize = 2000;

/// Why a message was not sent or received.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The other process has ended, or closed its end.
    #[error("the other process has ended")]
    Closed,
    /// Nothing came, or nothing was taken, in time.
    #[error("the other process did nothing for {0:?}")]
    TimedOut(Duration),
    /// The other process can't go on.
    #[error("{0}")]
    Failed(String),
    /// A message out of turn, or one that can't be read.
    #[error("the other process sent {0}, which was not expected")]
    Unexpected(String),
    /// Descriptors were lost on the way.
    #[error("not all descriptors arrived: the limit of open files is reached; raise LimitNOFILE or `ulimit -n`")]
    DescriptorsLost,
    /// The operating system refused.
    #[error("the control channel broke: {0}")]
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

/// The environment names a control channel that isn't there.
#[derive(Debug, thiserror::Error)]
#[error(
    "{ENVIRONMENT} is {value:?}, which is no control channel ({reason}): ssecast sets it for its successor alone; unset it"
)]
pub struct EnvironmentError {
    value: String,
    reason: String,
}

/// One end. Its calls block.
#[derive(Debug)]
pub struct ControlChannel(OwnedFd);

impl ControlChannel {
    /// Both ends; neither outlives an exec.
    ///
    /// # Errors
    /// No descriptors left.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Self(ours), theirs))
    }

    /// The end that this process was started with, if it was started to take over. Takes it out of the environment, so that no
    /// child takes itself for a successor. To be called first of all, before the process has other threads or files.
    ///
    /// # Errors
    /// A value that is not the number of a control channel.
    pub fn from_environment() -> Result<Option<Self>, EnvironmentError> {
        let Some(value) = env::var_os(ENVIRONMENT) else { return Ok(None) };
        let value = value.to_string_lossy().into_owned();
        match Self::inherited(&value) {
            Ok(channel) => Ok(Some(channel)),
            Err(reason) => Err(EnvironmentError { value, reason: reason.to_string() }),
        }
    }

    fn inherited(value: &str) -> io::Result<Self> {
        daemon::require_one_thread()?;
        #[expect(unsafe_code, reason = "the environment must lose the variable")]
        // SAFETY: this is the only thread, as checked above, so no other one reads the environment.
        unsafe {
            env::remove_var(ENVIRONMENT);
        }
        Self::from_number(value.parse().map_err(io::Error::other)?)
    }

    /// The end with the number `fd`, which this process was started with.
    ///
    /// # Errors
    /// A number that is not an open control channel's.
    pub(in crate::process) fn from_number(fd: RawFd) -> io::Result<Self> {
        daemon::require_one_thread()?;
        if fd <= 2 {
            return Err(io::Error::other("not a number from 3 up"));
        }
        #[expect(unsafe_code, reason = "an inherited descriptor is known by its number alone")]
        // SAFETY: the number is only used to check that it is an open socket. This is the only thread, as checked above, so the
        // descriptor is not closed during the check.
        let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
        if getsockopt(&borrowed, sockopt::SockType)? != SockType::SeqPacket {
            return Err(io::Error::other("not a SEQPACKET socket"));
        }
        fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        #[expect(unsafe_code, reason = "an inherited descriptor is known by its number alone")]
        // SAFETY: it is open, as was just seen; the parent has put it there for this process, which takes it once, before
        // anything else is opened.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The end with this descriptor, which came over another control channel.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Sends `message`, with descriptors, which stay open here.
    ///
    /// # Errors
    /// [`ControlError::Closed`] if nobody can receive it any more, [`ControlError::TimedOut`] if it isn't taken `within` the time.
    pub fn send(&self, message: &Message, fds: &[RawFd], within: Duration) -> Result<(), ControlError> {
        let until = Instant::now() + within;
        let text = encode(message)?;
        loop {
            match self.try_send(&text, fds) {
                Err(Errno::EAGAIN) => self.wait(PollFlags::POLLOUT, until, within)?,
                sent => return Ok(sent?),
            }
        }
    }

    /// Receives the next message, and the descriptors that come with it.
    ///
    /// # Errors
    /// [`ControlError`]; a [`Message::Failed`] is one of them.
    pub fn recv(&self, within: Duration) -> Result<(Message, Vec<OwnedFd>), ControlError> {
        let until = Instant::now() + within;
        loop {
            match self.try_recv()? {
                Some(received) => return Ok(received),
                None => self.wait(PollFlags::POLLIN, until, within)?,
            }
        }
    }

    /// From now on the other end can send nothing more; what it has sent is still to be received.
    pub fn shut(&self) {
        // An end that is gone sends nothing either.
        let _ = shutdown(self.0.as_raw_fd(), Shutdown::Read);
    }

    /// Sends the other process the reason why this one can't continue. An error is ignored: then the other process has ended.
    pub fn fail(&self, reason: &str) {
        if let Ok(text) = encode(&failed(reason)) {
            let _ = self.try_send(&text, &[]);
        }
    }

    /// Sends without waiting; `EAGAIN` where the other end has not taken what was sent before.
    pub(super) fn try_send(&self, text: &[u8], fds: &[RawFd]) -> Result<(), Errno> {
        let rights = [ControlMessage::ScmRights(fds)];
        let control = if fds.is_empty() { &rights[..0] } else { &rights };
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        loop {
            match sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(text)], control, flags, None) {
                Err(Errno::EINTR) => {}
                sent => return sent.map(drop),
            }
        }
    }

    /// Receives without waiting; `None` where nothing has come.
    pub(super) fn try_recv(&self) -> Result<Option<(Message, Vec<OwnedFd>)>, ControlError> {
        let mut text = vec![0; MAX_MESSAGE];
        let mut space = cmsg_space!([RawFd; FDS_PER_MESSAGE]);
        let mut slices = [IoSliceMut::new(&mut text)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
        let received = loop {
            match recvmsg::<UnixAddr>(self.0.as_raw_fd(), &mut slices, Some(&mut space), flags) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                received => break received?,
            }
        };
        let mut fds = Vec::new();
        for message in received.cmsgs().into_iter().flatten() {
            if let ControlMessageOwned::ScmRights(numbers) = message {
                for number in numbers {
                    #[expect(unsafe_code, reason = "received descriptors are known by their numbers alone")]
                    // SAFETY: the kernel has just made them for this process, and each is taken once.
                    fds.push(unsafe { OwnedFd::from_raw_fd(number) });
                }
            }
        }
        if received.flags.contains(MsgFlags::MSG_CTRUNC) {
            return Err(ControlError::DescriptorsLost);
        }
        let n = received.bytes;
        if n == 0 {
            return Err(ControlError::Closed);
        }
        match serde_json::from_slice(&text[..n]) {
            Ok(Message::Failed { reason }) => Err(ControlError::Failed(reason)),
            Ok(message) => Ok(Some((message, fds))),
            Err(_) => Err(ControlError::Unexpected(String::from_utf8_lossy(&text[..n]).into_owned())),
        }
    }

    /// Whether something is to be received: a message, or that the other end is closed.
    pub(super) fn has_news(&self) -> bool {
        let mut byte = [0];
        !matches!(
            recv(self.0.as_raw_fd(), &mut byte, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT),
            Err(Errno::EAGAIN | Errno::EINTR)
        )
    }

    /// Waits for `what`, whatever signals arrive.
    fn wait(&self, what: PollFlags, until: Instant, within: Duration) -> Result<(), ControlError> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ControlError::TimedOut(within));
            }
            // Rounded up, so that the last wait is not many of no time.
            let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.0.as_fd(), what)], timeout) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsFd for ControlChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for ControlChannel {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A message as it is sent.
pub(super) fn encode(message: &Message) -> Result<Vec<u8>, ControlError> {
    Ok(serde_json::to_vec(message).map_err(io::Error::from)?)
}

/// A [`Message::Failed`] of a length that fits.
fn failed(reason: &str) -> Message {
    Message::Failed { reason: reason.chars().take(MAX_REASON).collect() }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    use nix::sys::{
        pthread::{pthread_kill, pthread_self},
        signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
    };

    use super::*;
    use crate::process::control_channel::{InheritedFd, memfd, read_memfd};

    const SOON: Duration = Duration::from_secs(5);

    #[test]
    fn messages_arrive_whole_and_with_their_descriptors() {
        let (ours, theirs) = ControlChannel::pair().unwrap();
        let theirs = ControlChannel(theirs);
        let file = memfd(b"held").unwrap();
        ours.send(&Message::State { descriptors: 3 }, &[file.as_raw_fd()], SOON).unwrap();
        ours.send(&Message::Go, &[], SOON).unwrap();
        let (message, mut fds) = theirs.recv(SOON).unwrap();
        assert_eq!(message, Message::State { descriptors: 3 });
        assert_eq!(read_memfd(fds.remove(0)).unwrap(), b"held");
        assert_eq!(theirs.recv(SOON).unwrap().0, Message::Go);
        theirs.fail("no");
        assert_eq!(ours.recv(SOON).unwrap_err().to_string(), "no");
        assert!(matches!(ours.recv(Duration::from_millis(10)), Err(ControlError::TimedOut(_))));
        theirs.send(&Message::Serving, &[], SOON).unwrap();
        ours.shut();
        assert!(matches!(theirs.send(&Message::Serving, &[], SOON), Err(ControlError::Closed)), "it arrives, or fails");
        assert_eq!(ours.recv(SOON).unwrap().0, Message::Serving);
        drop(theirs);
        assert!(matches!(ours.recv(SOON), Err(ControlError::Closed)));
        assert!(matches!(ours.send(&Message::Go, &[], SOON), Err(ControlError::Closed)));
    }

    #[test]
    fn a_predecessor_of_version_1_states_neither_version_nor_who_has_bound_a_socket() {
        let text =
            r#"{"Subscribe":{"sockets":[{"Admin":{"address":"/a","made":true}}],"marker":null,"sources":false}}"#;
        let Message::Subscribe { version, sockets, .. } = serde_json::from_str(text).unwrap() else { panic!("{text}") };
        assert_eq!(version, 1);
        assert_eq!(sockets, [InheritedFd::Admin { address: "/a".into(), made: true, by_manager: None }]);
    }

    #[test]
    fn signals_do_not_fail_a_wait_for_a_message() {
        extern "C" fn ignore(_: nix::libc::c_int) {}
        let action = SigAction::new(SigHandler::Handler(ignore), SaFlags::empty(), SigSet::empty());
        #[expect(unsafe_code, reason = "the test needs a handler that interrupts calls")]
        // SAFETY: the handler does nothing.
        unsafe { sigaction(Signal::SIGURG, &action) }.unwrap();
        let (ours, theirs) = ControlChannel::pair().unwrap();
        let theirs = ControlChannel(theirs);
        let done = AtomicBool::new(false);
        let receiver = pthread_self();
        thread::scope(|scope| {
            scope.spawn(|| {
                let began = Instant::now();
                while !done.load(Ordering::Relaxed) && began.elapsed() < SOON {
                    pthread_kill(receiver, Signal::SIGURG).unwrap();
                    thread::sleep(Duration::from_micros(200));
                }
            });
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(200));
                theirs.send(&Message::Serving, &[], SOON).unwrap();
            });
            let received = ours.recv(SOON);
            let timed_out = ours.recv(Duration::from_millis(50));
            done.store(true, Ordering::Relaxed);
            assert_eq!(received.unwrap().0, Message::Serving);
            assert!(matches!(timed_out, Err(ControlError::TimedOut(_))), "{timed_out:?}");
        });
    }

    #[test]
    fn sending_to_a_process_that_takes_nothing_has_a_limit() {
        let (ours, _theirs) = ControlChannel::pair().unwrap();
        let limit = Duration::from_millis(20);
        let error = (0..100_000).find_map(|_| ours.send(&Message::Descriptors, &[], limit).err());
        assert!(matches!(error, Some(ControlError::TimedOut(_))), "{error:?}");
    }
}
