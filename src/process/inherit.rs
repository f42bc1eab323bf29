//! Sockets that the service manager hands over at start, by `sd_listen_fds(3)`. Takes them out of the environment, so that no
//! child takes them for its own; binds nothing, and doesn't say what they are for.

use std::{io, os::fd::OwnedFd};

use super::daemon;

/// What the service manager has handed over can't be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "the sockets that the service manager hands over can't be taken: see LISTEN_FDS and LISTEN_FDNAMES, and the socket unit"
)]
pub struct InheritError(#[from] io::Error);

/// File descriptors by name.
#[derive(Debug, Default)]
pub struct Inherited(pub(super) Vec<(String, OwnedFd)>);

impl Inherited {
    /// Takes those that are meant for this process; none where it wasn't started with any. They are closed on `exec`. To be called
    /// first of all, before the process has other threads or files.
    ///
    /// # Errors
    /// Variables that contradict each other or the open files; other threads.
    #[expect(unsafe_code, reason = "file descriptors come as numbers, and the environment must lose them")]
    pub fn take() -> Result<Self, InheritError> {
        use std::os::fd::FromRawFd as _;
        // Those of another process are none of ours.
        if std::env::var("LISTEN_PID").ok().and_then(|pid| pid.parse().ok()) != Some(std::process::id()) {
            return Ok(Self::default());
        }
        daemon::require_one_thread()?;
        // SAFETY: no other thread is there to read the environment meanwhile; that was checked.
        let fds = unsafe { sd_notify::listen_fds_with_names_and_unset_env() }?;
        // SAFETY: they are open, which marking them for `exec` has proved, and by the convention they are this process's to own;
        // the environment no longer says so to anybody else.
        Ok(Self(fds.map(|(fd, name)| (name, unsafe { OwnedFd::from_raw_fd(fd) })).collect()))
    }
}
