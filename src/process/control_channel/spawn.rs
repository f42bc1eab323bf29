//! The successor as a process: started with its end of the control channel, and ended if it does not take over.

use std::{
    ffi::OsString,
    io::{self, Read as _},
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::wait::waitpid,
    unistd::Pid,
};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::ControlChannel;

/// The environment variable that makes a process a successor. Its value is the number of that process's end of the channel.
pub const ENVIRONMENT: &str = "SSECAST_HANDOVER_FD";

/// How long the kernel may take to end a process that was killed, in milliseconds.
const TIME_TO_DIE: u16 = 5_000;

/// Whose child a successor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parentage {
    /// This process's, until it ends.
    Child,
    /// The service manager's at once: systemd waits only for a main process that was its own child when it learned of it.
    Orphan,
}

/// A successor under way. Dropping it ends it, and waits for that: from then on it can touch nothing.
#[derive(Debug)]
pub struct Successor(Option<Process>);

#[derive(Debug)]
enum Process {
    Child(Child),
    /// Known by its pidfd: a number could be another process's by now.
    Orphan {
        pid: u32,
        pidfd: OwnedFd,
    },
}

impl Successor {
    /// Starts `program` with `arguments` in `folder`. Returns the process, and this process's end of the control channel.
    ///
    /// # Errors
    /// The program is not there or can't be executed; no process or descriptor is left.
    pub fn start(
        program: &Path,
        arguments: &[OsString],
        folder: &Path,
        parentage: Parentage,
    ) -> io::Result<(Self, ControlChannel)> {
        let (control, theirs) = ControlChannel::pair()?;
        // Only this one descriptor outlives the exec. Another child that is started just now could see it, and there is none.
        fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty()))?;
        let mut command = Command::new(program);
        // A user that may not enter the folder where root has started can only have absolute paths.
        let folder = if folder.join(".").exists() { folder } else { Path::new("/") };
        command.args(arguments).current_dir(folder).env(ENVIRONMENT, theirs.as_raw_fd().to_string());
        // These name a process by number, and are the predecessor's.
        command
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_FDNAMES")
            .env_remove("WATCHDOG_PID");
        command.stdin(Stdio::null());
        let process = match parentage {
            Parentage::Child => Process::Child(command.spawn()?),
            Parentage::Orphan => start_orphan(&mut command)?,
        };
        Ok((Self(Some(process)), control))
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        match &self.0 {
            Some(Process::Child(child)) => child.id(),
            Some(Process::Orphan { pid, .. }) => *pid,
            None => 0,
        }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<String> {
        match self.0.as_mut()? {
            Process::Child(child) => child.try_wait().ok().flatten().map(|status| status.to_string()),
            Process::Orphan { pidfd, .. } => has_ended(pidfd, PollTimeout::ZERO)
                .then(|| "its exit status is known to the service manager alone".to_owned()),
        }
    }

    /// Lets it live on without this process.
    pub fn release(mut self) {
        self.0 = None;
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        match &mut self.0 {
            Some(Process::Child(child)) => {
                // An error says that it has ended already.
                let _ = child.kill();
                let _ = child.wait();
            }
            Some(Process::Orphan { pid, pidfd }) => {
                let _ = pidfd_send_signal(&*pidfd, Signal::KILL);
                if !has_ended(pidfd, PollTimeout::from(TIME_TO_DIE)) {
                    tracing::error!(pid, "a successor that failed was killed and has not ended");
                }
            }
            None => {}
        }
    }
}

/// Starts `command` by a process that ends at once, so that the program is a child of the service manager (or of whichever
/// process adopts orphans).
#[expect(unsafe_code, reason = "a second fork between fork and exec")]
fn start_orphan(command: &mut Command) -> io::Result<Process> {
    let (mut reader, writer) = io::pipe()?;
    let fd = writer.as_raw_fd();
    let fork_again = move || {
        // SAFETY: between fork and exec, only calls that a signal handler may make: fork, write, _exit.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => Ok(()),
            pid => {
                let number = pid.to_ne_bytes();
                // SAFETY: the bytes are valid for their length, and the pipe's end is open until the exec. If it can't be
                // written, the reader finds nothing and the start fails.
                unsafe {
                    libc::write(fd, number.as_ptr().cast(), number.len());
                    libc::_exit(0)
                }
            }
        }
    };
    // SAFETY: see above.
    unsafe { command.pre_exec(fork_again) };
    let started = command.spawn();
    drop(writer);
    let mut number = [0; 4];
    let pid = reader.read_exact(&mut number).map(|()| i32::from_ne_bytes(number));
    // Reaps the process between; the program is nobody's here.
    started?.wait()?;
    let pid = pid?;
    let found =
        rustix::process::Pid::from_raw(pid).ok_or_else(|| io::Error::other("the successor has no process id"))?;
    match pidfd_open(found, PidfdFlags::empty()) {
        Ok(pidfd) => Ok(Process::Orphan { pid: pid.cast_unsigned(), pidfd }),
        Err(errno) => {
            // It finds its control channel closed, and ends.
            let _ = waitpid(Pid::from_raw(pid), None);
            Err(errno.into())
        }
    }
}

fn has_ended(pidfd: &OwnedFd, within: PollTimeout) -> bool {
    matches!(poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], within), Ok(1..))
}

/// The program to start a successor from: the path that this process was started from, where a newer one may stand by now.
///
/// # Errors
/// The kernel does not tell the path.
pub fn program() -> io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    // The kernel marks a file that was replaced since; what stands there now is the new version.
    let name = path.to_string_lossy();
    Ok(name.strip_suffix(" (deleted)").map_or_else(|| path.clone(), PathBuf::from))
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;
    use crate::process::control_channel::ControlError;

    /// The parent's process id, from `/proc`.
    fn parent_of(pid: u32) -> u32 {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
        line.trim().parse().unwrap()
    }

    #[test]
    fn an_orphan_is_no_child_and_ends_with_its_guard() {
        let shell = Path::new("/bin/sh");
        let arguments: Vec<OsString> = ["-c", "exec sleep 600"].map(OsString::from).to_vec();
        let (mut orphan, control) = Successor::start(shell, &arguments, Path::new("/"), Parentage::Orphan).unwrap();
        let pid = orphan.pid();
        assert_ne!(parent_of(pid), std::process::id());
        assert_eq!(orphan.ended(), None);
        drop(orphan);
        // Nobody else has the other end.
        assert!(matches!(control.recv(Duration::from_secs(5)), Err(ControlError::Closed)));
        let missing = Successor::start(Path::new("/nonexistent"), &[], Path::new("/"), Parentage::Orphan);
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
