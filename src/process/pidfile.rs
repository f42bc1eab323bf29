//! The file that holds the daemon's number, and the lock that says whether the number is worth anything.
//!
//! Invariant: a pidfile is stale if and only if nobody holds its lock. No process is ever judged by its number.

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

/// How often a file is opened again that was removed or held meanwhile, and how long to wait before.
const TRIES: u32 = 20;
const BETWEEN_TRIES: Duration = Duration::from_millis(10);

/// Why there is no pidfile.
#[derive(Debug, thiserror::Error)]
pub enum PidfileError {
    /// A living process has it.
    #[error("ssecast runs already, as process {pid}, which holds {}: stop that one first, or configure another process.pidfile", path.display())]
    Held {
        /// The file.
        path: PathBuf,
        /// The number in it.
        pid: u32,
    },
    /// A living process has it, and has written no number.
    #[error(
        "another process holds {0} and has not written its number there: stop it first, or configure another process.pidfile"
    )]
    HeldByUnknown(PathBuf),
    /// It is not a file that only the pidfile's folder knows: writing it might write somewhere else.
    #[error("{0} is not an ordinary file with one name: move it away, or configure another process.pidfile")]
    NotAFile(PathBuf),
    /// The operating system refused.
    #[error("can't {doing} process.pidfile {path}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// A locked pidfile. The lock goes with the last copy of the file descriptor, in whatever process that is; the file is removed
/// when the process whose number is in it drops this.
#[derive(Debug)]
pub struct Pidfile {
    entry: Entry,
    file: File,
    /// The process that has written its number; a fork's copy is not it.
    writer: Option<u32>,
}

impl Pidfile {
    /// Opens and locks the file, making it (mode 0644) and its directory (for `owner`) where they are missing.
    ///
    /// # Errors
    /// [`PidfileError::Held`] where a process holds it; else what is in the way.
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
                held = number_in(&file);
                // Between its lock and its number, a process is met without one.
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
    /// A path whose directory can't be opened.
    pub fn adopt(path: &Path, file: OwnedFd) -> Result<Self, PidfileError> {
        let entry = Entry::find(path).map_err(failed("find", path))?;
        Ok(Self { entry, file: file.into(), writer: None })
    }

    /// Writes this process's number, and removes the file at its end.
    ///
    /// # Errors
    /// What the system said.
    pub fn write(&mut self) -> Result<(), PidfileError> {
        let number = format!("{}\n", process::id());
        // In this order a reader finds a whole first line at any time.
        let written =
            self.file.write_all_at(number.as_bytes(), 0).and_then(|()| self.file.set_len(number.len() as u64));
        written.map_err(failed("write", self.entry.path()))?;
        self.writer = Some(process::id());
        Ok(())
    }

    /// Removes the file, whichever process has written its number: this one holds the lock, and has its pidfile elsewhere.
    pub fn remove(mut self) {
        self.writer = Some(process::id());
    }

    /// Leaves the file to the process that has taken it over.
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
            // The directory may be root's, who this process was. An empty file misleads nobody.
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

/// Locks the whole file for its open file description, so that forks and those it is handed to hold it as well. False if
/// somebody else does.
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

fn number_in(file: &File) -> Option<u32> {
    let mut text = [0; 16];
    let count = file.read_at(&mut text, 0).ok()?;
    std::str::from_utf8(&text[..count]).ok()?.lines().next()?.parse().ok()
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PidfileError {
    let path = path.to_owned();
    move |source| PidfileError::Io { doing, path, source }
}
