//! Takes the sockets that the service manager passes at start (`sd_listen_fds(3)`), and removes their variables from the
//! environment, so that no child process uses them. Binds nothing, and doesn't decide what the sockets are for.

use std::{io, os::fd::OwnedFd};

use super::daemon;

/// The sockets of the service manager can't be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "can't use the sockets of the service manager: check the socket units, or LISTEN_FDS and LISTEN_FDNAMES in the environment"
)]
pub struct InheritError(#[from] io::Error);

/// The inherited file descriptors, each with its name.
#[derive(Debug, Default)]
pub struct Inherited(pub(super) Vec<(String, OwnedFd)>);

impl Inherited {
    /// Takes the file descriptors that were passed to this process, and marks them to close on `exec`. There may be none. Call
    /// this first, before the process has other threads or files.
    ///
    /// # Errors
    /// The variables contradict each other or the open files, or the process has other threads.
    #[expect(unsafe_code, reason = "the descriptors are numbers, and the environment is changed")]
    pub fn take() -> Result<Self, InheritError> {
        use std::os::fd::FromRawFd as _;
        // Descriptors that were passed to another process are not for this one.
        if std::env::var("LISTEN_PID").ok().and_then(|pid| pid.parse().ok()) != Some(std::process::id()) {
            return Ok(Self::default());
        }
        daemon::require_one_thread()?;
        // SAFETY: this is the only thread, as checked above, so no other one reads the environment.
        let fds = unsafe { sd_notify::listen_fds_with_names_and_unset_env() }?;
        // SAFETY: they are open, or marking them to close on `exec` would have failed. By sd_listen_fds(3) this process owns
        // them, and nothing takes them a second time, because the variables are gone.
        Ok(Self(fds.map(|(fd, name)| (name, unsafe { OwnedFd::from_raw_fd(fd) })).collect()))
    }
}
