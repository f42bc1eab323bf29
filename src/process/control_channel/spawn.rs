//! The successor as a child process: started with its end of the link, and ended if it does not succeed.

use std::{
    ffi::OsString,
    io,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::ControlChannel;

/// The variable that tells a process that it is a successor: the number of its end of the link.
pub const ENVIRONMENT: &str = "SSECAST_HANDOVER_FD";

/// A successor under way. Dropping it ends it, and waits for that: from then on it can touch nothing.
#[derive(Debug)]
pub struct Successor {
    child: Option<Child>,
}

impl Successor {
    /// Starts `program` with `arguments` in `folder`, and gives back this process's end of the link.
    ///
    /// # Errors
    /// What the operating system says, such as that the program is not there.
    pub fn start(program: &Path, arguments: &[OsString], folder: &Path) -> io::Result<(Self, ControlChannel)> {
        let (link, theirs) = ControlChannel::pair()?;
        // Only this one descriptor outlives the exec. Another child that is started just now could see it, and there is none.
        fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty()))?;
        let mut command = Command::new(program);
        // A user that may not enter the folder where root has started can only have absolute paths.
        let folder = if folder.join(".").exists() { folder } else { Path::new("/") };
        command.args(arguments).current_dir(folder).env(ENVIRONMENT, theirs.as_raw_fd().to_string());
        // These name a process by number, and are the old one's.
        command
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_FDNAMES")
            .env_remove("WATCHDOG_PID");
        let child = command.stdin(Stdio::null()).spawn()?;
        Ok((Self { child: Some(child) }, link))
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().ok().flatten()
    }

    /// Lets it live on without this process.
    pub fn release(mut self) {
        self.child = None;
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // An error says that it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The program to start a successor from: the path that this process was started from, where a newer one may stand by now.
///
/// # Errors
/// What the operating system says.
pub fn program() -> io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    // The kernel marks a file that was replaced since; what stands there now is the new version.
    let name = path.to_string_lossy();
    Ok(name.strip_suffix(" (deleted)").map_or_else(|| path.clone(), PathBuf::from))
}
