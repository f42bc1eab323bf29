//! The process that a pid-watching supervisor knows (runit, s6, supervisord, a container, a shell), once another one serves:
//! it passes signals on, collects children that have ended, and ends with the daemon's exit code. It serves no client.
//!
//! Upgrade after upgrade it stays the same process: each successor becomes its child when the one before ends, and that one has
//! sent [`Message::MainProcess`] by then.

use std::{
    env,
    ffi::CStr,
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::process::CommandExt as _,
    },
    process::Command,
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        prctl::{set_child_subreaper, set_name},
        signal::{SigSet, Signal, kill},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::{
    control_channel::{ControlChannel, Message},
    stderr,
};

/// The variable that makes a process a supervising one: the daemon's process id, and the number of the channel to it.
const ENVIRONMENT: &str = "SSECAST_SUPERVISED";
/// The name of the process in `ps` and `pidof`, which an exec of `/proc/self/exe` would leave as `exe`.
const NAME: &CStr = c"ssecast";
/// Signals that are passed on.
const PASSED_ON: [Signal; 5] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGQUIT];

/// The environment names a daemon that isn't there.
#[derive(Debug, thiserror::Error)]
#[error("{ENVIRONMENT} is {0:?}, which names no process to supervise: ssecast sets it for itself alone; unset it")]
pub struct EnvironmentError(String);

/// A process that supervises the daemon.
#[derive(Debug)]
pub struct Supervisor {
    main: Pid,
    channel: Option<ControlChannel>,
}

/// Has successors' successors become children of this process: to be called before the first one starts.
///
/// # Errors
/// The kernel does not know it (before Linux 3.4).
pub fn adopt_orphans() -> io::Result<()> {
    Ok(set_child_subreaper(true)?)
}

impl Supervisor {
    /// Supervises the child `pid`, which has the other end of `channel`.
    #[must_use]
    pub fn new(pid: u32, channel: ControlChannel) -> Self {
        Self { main: Pid::from_raw(pid.cast_signed()), channel: Some(channel) }
    }

    /// Returns what this process has to supervise, if anything. Call it first of all.
    ///
    /// # Errors
    /// A value that this program did not set.
    pub fn from_environment() -> Result<Option<Self>, EnvironmentError> {
        let Some(value) = env::var_os(ENVIRONMENT) else { return Ok(None) };
        let value = value.to_string_lossy().into_owned();
        let parts = value.split_once(',').and_then(|(pid, fd)| Some((pid.parse().ok()?, fd.parse().ok()?)));
        let channel = parts.and_then(|(pid, fd)| Some((pid, ControlChannel::from_number(fd).ok()?)));
        let Some((pid, channel)) = channel else { return Err(EnvironmentError(value)) };
        Ok(Some(Self { main: Pid::from_raw(pid), channel: Some(channel) }))
    }

    /// Executes this program anew in this process, which drops all memory, threads and files at once, and supervises there. Signals
    /// that are blocked and pending stay so. If it can't be executed, this process supervises without that.
    #[must_use]
    pub fn replace_process(self) -> u8 {
        if let Some(channel) = &self.channel
            && fcntl(channel.as_fd(), FcntlArg::F_SETFD(FdFlag::empty())).is_ok()
        {
            let mut arguments = env::args_os();
            let mut command = Command::new("/proc/self/exe");
            if let Some(name) = arguments.next() {
                command.arg0(name);
            }
            let value = format!("{},{}", self.main, channel.as_raw_fd());
            let error = command.args(arguments).env(ENVIRONMENT, value).exec();
            tracing::warn!(%error, "this process keeps its memory while it supervises its successor");
        }
        self.run()
    }

    /// Supervises until the daemon has ended. Returns the daemon's exit code (128 and the number of the signal that ended it).
    #[must_use]
    pub fn run(mut self) -> u8 {
        // Without the name it supervises as well.
        let _ = set_name(NAME);
        match self.try_to_run() {
            Ok(code) => code,
            Err(error) => {
                complain(&format!("can't supervise process {}: {error}", self.main));
                1
            }
        }
    }

    fn try_to_run(&mut self) -> nix::Result<u8> {
        let mut signals: SigSet = PASSED_ON.into_iter().collect();
        signals.add(Signal::SIGCHLD);
        signals.thread_block()?;
        let arriving = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        loop {
            // Before each wait: a child may have ended before its signal was blocked.
            if let Some(code) = self.collect()? {
                return Ok(code);
            }
            let mut waited = vec![PollFd::new(arriving.as_fd(), PollFlags::POLLIN)];
            waited.extend(self.channel.as_ref().map(|channel| PollFd::new(channel.as_fd(), PollFlags::POLLIN)));
            match poll(&mut waited, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
            self.read_channel();
            while let Some(signal) = arriving.read_signal()? {
                let signal = i32::try_from(signal.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
                if let Some(signal) = signal.filter(|signal| PASSED_ON.contains(signal)) {
                    // It may have ended just now.
                    let _ = kill(self.main, signal);
                }
            }
        }
    }

    /// Collects children that have ended. Returns the exit code if the daemon is one of them.
    fn collect(&mut self) -> nix::Result<Option<u8>> {
        loop {
            let (pid, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, u8::try_from(code).unwrap_or(1)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as u8),
                Ok(WaitStatus::StillAlive) => return Ok(None),
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(Errno::ECHILD) => {
                    complain(&format!(
                        "process {} is no child of this one, so there is nothing to supervise",
                        self.main
                    ));
                    return Ok(Some(1));
                }
                Err(errno) => return Err(errno),
            };
            // The daemon may have sent before its end that another process is the daemon now.
            self.read_channel();
            if pid == self.main {
                if code > 128 {
                    complain(&format!("the daemon, process {pid}, was ended by signal {}", code - 128));
                }
                return Ok(Some(code));
            }
        }
    }

    fn read_channel(&mut self) {
        while let Some(channel) = &self.channel {
            match channel.recv(Duration::ZERO) {
                Ok((Message::MainProcess { pid }, _)) => self.main = Pid::from_raw(pid.cast_signed()),
                Ok(_) => {}
                Err(super::control_channel::ControlError::TimedOut(_)) => return,
                Err(_) => self.channel = None,
            }
        }
    }
}

/// Prints on standard error, because this process has no log.
fn complain(what: &str) {
    stderr::print(&format!("ssecast: {what}"));
}
