//! The pidfile: a file with the daemon's process id, and the lock that proves that the daemon runs. Sends no signals.
//!
//! Invariant: a pidfile is stale if and only if no process holds its lock. Whether a process runs is never concluded from its id.

#[cfg(test)]
mod tests;

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt as _,
    },
    path::{Path, PathBuf},
    process,
    thread::sleep,
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    libc,
};

use super::owned_files::{Entry, OpenError};
use crate::config::Account;

/// Most attempts to open and lock a file that another process holds or removes at the same time.
const TRIES: u32 = 20;
/// Wait between two attempts.
const BETWEEN_TRIES: Duration = Duration::from_millis(10);

/// Why the pidfile can't be locked or written.
#[derive(Debug, thiserror::Error)]
pub enum PidfileError {
    /// A running process has locked it.
    #[error("ssecast runs already, as process {pid}, which holds {}: stop that one first, or configure another process.pidfile", path.display())]
    Held {
        /// The file.
        path: PathBuf,
        /// The process id in it.
        pid: u32,
    },
    /// A running process has locked it, and has not written its id.
    #[error(
        "another process holds {0} and has not written its process id there: stop it first, or configure another process.pidfile"
    )]
    HeldByUnknown(PathBuf),
    /// It is not an ordinary file, or it has a second name (a link), so writing it might change another file.
    #[error("{0} is not an ordinary file with one name: move it away, or configure another process.pidfile")]
    NotAFile(PathBuf),
    /// The operating system refused.
    #[error("can't {doing} process.pidfile {path}")]
    Io {
        /// The step that failed.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}

/// A locked pidfile. It stays locked until the last copy of its file descriptor is closed, in any process. The file is removed
/// when the process that wrote its id drops this.
#[derive(Debug)]
pub struct Pidfile {
    entry: Entry,
    file: File,
    /// The process that wrote its id. After a fork, the child's copy has its parent's id here, so it removes nothing.
    writer: Option<u32>,
}

impl Pidfile {
    /// Opens and locks the file. Creates the file (mode 0644) and its directory (for `owner`) if they don't exist.
    ///
    /// # Errors
    /// [`PidfileError::Held`] or [`PidfileError::HeldByUnknown`] if another process holds it, else why it can't be opened.
    pub fn lock(path: &Path, owner: Option<&Account>) -> Result<Self, PidfileError> {
        let entry = Entry::create(path, owner).map_err(failed("make the directory of", path))?;
        let path = entry.path();
        let mut held = None;
        for attempt in 0..TRIES {
            if attempt > 0 {
                sleep(BETWEEN_TRIES);
            }
            let file = open(&entry)?;
            if !lock(&file).map_err(failed("lock", path))? {
                held = read_pid(&file);
                // Another process may have locked the file and not yet written its id.
                if held.is_some() {
                    break;
                }
                continue;
            }
            held = None;
            // The process that held it may have removed it after it was opened here.
            if entry.is(&file) {
                return Ok(Self { entry, file, writer: None });
            }
        }
        let path = path.to_owned();
        Err(match held {
            Some(pid) => PidfileError::Held { path, pid },
            None => PidfileError::HeldByUnknown(path),
        })
    }

    /// Takes over the file that the predecessor has locked and sent.
    ///
    /// # Errors
    /// The directory of `path` can't be opened.
    pub fn adopt(path: &Path, file: OwnedFd) -> Result<Self, PidfileError> {
        let entry = Entry::find(path).map_err(failed("find", path))?;
        Ok(Self { entry, file: file.into(), writer: None })
    }

    /// Writes this process's id. From now on, the file is removed when this is dropped.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn write(&mut self) -> Result<(), PidfileError> {
        let number = format!("{}\n", process::id());
        // Write first, truncate then: a reader finds a whole first line at any time.
        let written =
            self.file.write_all_at(number.as_bytes(), 0).and_then(|()| self.file.set_len(number.len() as u64));
        written.map_err(failed("write", self.entry.path()))?;
        self.writer = Some(process::id());
        Ok(())
    }

    /// Removes the file, whichever process wrote its id into it. For a file that this process took over and doesn't use any
    /// more, because the configuration names another.
    pub fn remove(mut self) {
        self.writer = Some(process::id());
    }

    /// Doesn't remove the file: another process has taken it over.
    pub fn leave(mut self) {
        self.writer = None;
    }
}

impl AsFd for Pidfile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        if self.writer != Some(process::id()) || !self.entry.is(&self.file) {
            return;
        }
        if self.entry.remove().is_err() {
            // The directory may belong to root, which this process no longer is. An empty file names no process.
            let _ = self.file.set_len(0);
        }
    }
}

fn open(entry: &Entry) -> Result<File, PidfileError> {
    let not_a_file = || PidfileError::NotAFile(entry.path().to_owned());
    let file = entry.open(OFlag::O_RDWR, 0o644, None).map_err(|error| match error {
        OpenError::NotAFile(_) => not_a_file(),
        OpenError::Io(error) => failed("open", entry.path())(error),
    })?;
    match file.metadata().map_err(failed("look at", entry.path()))? {
        meta if meta.is_file() => Ok(file),
        _ => Err(not_a_file()),
    }
}

/// Locks the whole file. The lock belongs to the open file description, so forks and processes that get the descriptor hold it
/// too. Returns false if another process holds it.
fn lock(file: &File) -> io::Result<bool> {
    let whole = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&whole)) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn read_pid(file: &File) -> Option<u32> {
    let mut text = [0; 16];
    let count = file.read_at(&mut text, 0).ok()?;
    std::str::from_utf8(&text[..count]).ok()?.lines().next()?.parse().ok()
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PidfileError {
    let path = path.to_owned();
    move |source| PidfileError::Io { doing, path, source }
}
