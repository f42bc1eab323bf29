//! Receives the signals that the daemon handles, and turns each into a request. Never acts on one.
//!
//! The signals are blocked in all threads and read from a signalfd(2). So none interrupts a system call, and none is lost, not
//! even across an exec.

use std::io;

use nix::{
    sys::{
        signal::{self, SigSet, kill},
        signalfd::{SfdFlags, SignalFd},
    },
    unistd::Pid,
};
use tokio::io::{Interest, unix::AsyncFd};

/// A request that a signal makes. The order is that of precedence if several have arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SignalRequest {
    /// SIGTERM or SIGINT: stop.
    Stop,
    /// SIGUSR1: open the log file again.
    ReopenLog,
    /// SIGHUP: reload.
    Reload,
}

/// The signals that the daemon handles.
#[derive(Debug)]
pub struct Signals {
    signalfd: AsyncFd<SignalFd>,
    /// Received, but not yet returned by [`Signals::next`].
    pending: Vec<SignalRequest>,
}

impl Signals {
    /// Starts to receive signals, those that arrived since [`block`] included. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn listen() -> io::Result<Self> {
        let signalfd = SignalFd::with_flags(&handled(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        #[expect(unsafe_code, reason = "tokio has no safe way to wait for a descriptor of this kind")]
        // SAFETY: the SignalFd owns its descriptor, which stays open and the same until it is dropped with the AsyncFd.
        let signalfd = unsafe { AsyncFd::register_with_interest(signalfd, Interest::READABLE) }?;
        Ok(Self { signalfd, pending: Vec::new() })
    }

    /// Waits for the next request. [`SignalRequest::Stop`] comes before all others.
    pub async fn next(&mut self) -> SignalRequest {
        loop {
            while let Ok(Some(read)) = self.signalfd.get_ref().read_signal() {
                let request =
                    match i32::try_from(read.ssi_signo).ok().and_then(|number| signal::Signal::try_from(number).ok()) {
                        Some(signal::SIGHUP) => SignalRequest::Reload,
                        Some(signal::SIGUSR1) => SignalRequest::ReopenLog,
                        _ => SignalRequest::Stop,
                    };
                if !self.pending.contains(&request) {
                    self.pending.push(request);
                }
            }
            self.pending.sort_unstable_by(|one, other| other.cmp(one));
            if let Some(request) = self.pending.pop() {
                return request;
            }
            match self.signalfd.readable().await {
                Ok(mut ready) => ready.clear_ready(),
                // The runtime is shutting down.
                Err(_) => std::future::pending().await,
            }
        }
    }
}

/// Blocks the signals that the daemon handles, in this thread and all that it starts. Unblocked and unhandled, each of them would
/// end the process. Call it while the process has one thread.
///
/// # Errors
/// The operating system refuses.
pub fn block() -> io::Result<()> {
    Ok(handled().thread_block()?)
}

/// Sends the signal for `request` to the process with the id `process`.
///
/// # Errors
/// The process has ended, or belongs to another user.
pub fn pass_on(request: SignalRequest, process: u32) -> io::Result<()> {
    let signal = match request {
        SignalRequest::Stop => signal::SIGTERM,
        SignalRequest::Reload => signal::SIGHUP,
        SignalRequest::ReopenLog => signal::SIGUSR1,
    };
    Ok(kill(Pid::from_raw(process.cast_signed()), signal)?)
}

/// Unblocks the signals that [`block`] blocked.
///
/// # Errors
/// The operating system refuses.
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
    async fn each_signal_is_its_request_and_one_sent_before_listening_is_not_lost() {
        block().unwrap();
        raise(Signal::SIGUSR1).unwrap();
        let mut signals = Signals::listen().unwrap();
        assert_eq!(signals.next().await, SignalRequest::ReopenLog);
        for (signal, request) in [
            (Signal::SIGUSR1, SignalRequest::ReopenLog),
            (Signal::SIGHUP, SignalRequest::Reload),
            (Signal::SIGINT, SignalRequest::Stop),
            (Signal::SIGTERM, SignalRequest::Stop),
        ] {
            raise(signal).unwrap();
            assert_eq!(signals.next().await, request);
        }
        raise(Signal::SIGHUP).unwrap();
        raise(Signal::SIGTERM).unwrap();
        assert_eq!(signals.next().await, SignalRequest::Stop, "a stop comes first");
        assert_eq!(signals.next().await, SignalRequest::Reload);
    }
}
