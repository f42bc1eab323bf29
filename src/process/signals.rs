//! What is asked of the daemon by signals. Says what was asked, and does none of it.
//!
//! The signals are blocked in all threads and read from a descriptor: no system call is interrupted by one, and none is lost, not
//! even by an exec.

use std::io;

use nix::{
    sys::{
        signal::{self, SigSet, kill},
        signalfd::{SfdFlags, SignalFd},
    },
    unistd::Pid,
};
use tokio::io::{Interest, unix::AsyncFd};

/// What a signal asks for. What goes first when several have arrived is first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asked {
    /// SIGTERM or SIGINT: to stop.
    Stop,
    /// SIGUSR1: to open the log file again.
    ReopenLog,
    /// SIGHUP: to reload.
    Reload,
}

/// The signals that the daemon handles.
#[derive(Debug)]
pub struct Signals {
    arriving: AsyncFd<SignalFd>,
    /// Read and not given yet.
    waiting: Vec<Asked>,
}

impl Signals {
    /// Listens from now on; to be called on a runtime, after [`block`]. What has arrived since that comes first.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn listen() -> io::Result<Self> {
        let arriving = SignalFd::with_flags(&handled(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        #[expect(unsafe_code, reason = "the only way to wait for a descriptor of one's own")]
        // SAFETY: the SignalFd owns its descriptor, which stays open and the same until it is dropped with the AsyncFd.
        let arriving = unsafe { AsyncFd::register_with_interest(arriving, Interest::READABLE) }?;
        Ok(Self { arriving, waiting: Vec::new() })
    }

    /// Waits for the next one. To stop goes first: what else was asked is of no use then.
    pub async fn next(&mut self) -> Asked {
        loop {
            while let Ok(Some(read)) = self.arriving.get_ref().read_signal() {
                let asked =
                    match i32::try_from(read.ssi_signo).ok().and_then(|number| signal::Signal::try_from(number).ok()) {
                        Some(signal::SIGHUP) => Asked::Reload,
                        Some(signal::SIGUSR1) => Asked::ReopenLog,
                        _ => Asked::Stop,
                    };
                if !self.waiting.contains(&asked) {
                    self.waiting.push(asked);
                }
            }
            self.waiting.sort_unstable_by(|one, other| other.cmp(one));
            if let Some(asked) = self.waiting.pop() {
                return asked;
            }
            match self.arriving.readable().await {
                Ok(mut ready) => ready.clear_ready(),
                // The runtime ends, and with it everything.
                Err(_) => std::future::pending().await,
            }
        }
    }
}

/// Blocks the signals that the daemon handles, in this thread and all that it starts. To be called while the process has one
/// thread; unblocked and unhandled, each would end the process.
///
/// # Errors
/// The kernel refuses.
pub fn block() -> io::Result<()> {
    Ok(handled().thread_block()?)
}

/// Asks another process for what this one was asked for and can't do any more.
///
/// # Errors
/// The process has ended, or is another user's.
pub fn pass_on(asked: Asked, process: u32) -> io::Result<()> {
    let signal = match asked {
        Asked::Stop => signal::SIGTERM,
        Asked::Reload => signal::SIGHUP,
        Asked::ReopenLog => signal::SIGUSR1,
    };
    Ok(kill(Pid::from_raw(process.cast_signed()), signal)?)
}

/// Unblocks what [`block`] has blocked.
pub(super) fn unblock() -> io::Result<()> {
    Ok(handled().thread_unblock()?)
}

fn handled() -> SigSet {
    [signal::SIGTERM, signal::SIGINT, signal::SIGHUP, signal::SIGUSR1].into_iter().collect()
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal, raise};

    use super::*;

    #[tokio::test]
    async fn each_signal_asks_for_one_thing_and_none_is_lost_before() {
        block().unwrap();
        raise(Signal::SIGUSR1).unwrap();
        let mut signals = Signals::listen().unwrap();
        assert_eq!(signals.next().await, Asked::ReopenLog);
        for (signal, asked) in [
            (Signal::SIGUSR1, Asked::ReopenLog),
            (Signal::SIGHUP, Asked::Reload),
            (Signal::SIGINT, Asked::Stop),
            (Signal::SIGTERM, Asked::Stop),
        ] {
            raise(signal).unwrap();
            assert_eq!(signals.next().await, asked);
        }
        raise(Signal::SIGHUP).unwrap();
        raise(Signal::SIGTERM).unwrap();
        assert_eq!(signals.next().await, Asked::Stop, "to stop goes first");
        assert_eq!(signals.next().await, Asked::Reload);
    }
}
