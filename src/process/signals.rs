//! What is asked of the daemon by signals. Says what was asked, and does none of it.

use std::io;

use nix::{
    sys::signal::{self as mask, SigSet, kill},
    unistd::Pid,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// SIGTERM or SIGINT: to stop.
    Stop,
    /// SIGHUP: to hand over to a new process.
    Reload,
    /// SIGUSR1: to open the log file again.
    ReopenLog,
}

/// The signals that are listened to. What arrives while nobody asks is kept.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    user: Signal,
}

impl Signals {
    /// Listens from now on; to be called on a runtime. What was held arrives first.
    ///
    /// # Errors
    /// What the system said.
    pub fn listen() -> io::Result<Self> {
        let signals = Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            user: signal(SignalKind::user_defined1())?,
        };
        release()?;
        Ok(signals)
    }

    /// Waits for the next one.
    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            // To stop goes first: what else was asked is of no use then.
            biased;
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hang_up.recv() => Asked::Reload,
            _ = self.user.recv() => Asked::ReopenLog,
        }
    }
}

/// Holds all of them until they are listened to: before, each would end the process, and the pidfile invites to send some.
/// To be called while the process has one thread.
///
/// # Errors
/// What the system said.
pub fn hold() -> io::Result<()> {
    Ok(listened_to().thread_block()?)
}

/// Asks another process for what this one was asked for and can't do any more.
///
/// # Errors
/// What the system said, such as that the process has ended.
pub fn pass_on(asked: Asked, process: u32) -> io::Result<()> {
    let signal = match asked {
        Asked::Stop => mask::SIGTERM,
        Asked::Reload => mask::SIGHUP,
        Asked::ReopenLog => mask::SIGUSR1,
    };
    Ok(kill(Pid::from_raw(process.cast_signed()), signal)?)
}

/// Lets through what is held.
pub(super) fn release() -> io::Result<()> {
    Ok(listened_to().thread_unblock()?)
}

fn listened_to() -> SigSet {
    [mask::SIGTERM, mask::SIGINT, mask::SIGHUP, mask::SIGUSR1].into_iter().collect()
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal, raise};

    use super::*;

    #[tokio::test]
    async fn each_signal_asks_for_one_thing_and_none_is_lost_before() {
        hold().unwrap();
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
    }
}
