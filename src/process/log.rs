//! Where the log goes: standard error, or a file that can be opened again under its name (logrotate). Says nothing of what is
//! logged.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IsTerminal as _},
    os::unix::fs::{OpenOptionsExt as _, fchown},
    path::{Path, PathBuf, absolute},
    sync::{Arc, Mutex, PoisonError},
};

use nix::{
    libc,
    unistd::{dup2_stderr, dup2_stdout},
};
use tracing_subscriber::{EnvFilter, fmt::writer::BoxMakeWriter};

use super::folder;
use crate::config::{self, Account, LogFormat};

/// The log file can't be opened.
#[derive(Debug, thiserror::Error)]
#[error("can't open process.log_file {}: mend the path, or leave it empty for standard error", path.display())]
pub struct LogError {
    path: PathBuf,
    source: io::Error,
}

/// The log of the process.
#[derive(Debug, Clone, Default)]
pub struct Log {
    file: Option<Arc<LogFile>>,
}

#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    /// Shared with the lines being written while it is exchanged.
    file: Arc<File>,
    /// Whether standard output and standard error go there too.
    is_output: bool,
}

impl Log {
    /// Opens the log and logs to it from now on. `RUST_LOG` picks what (by default `info`). A file that is made belongs to
    /// `process.user`, who will have to open it again. A second start in one process keeps what the first one logs to.
    ///
    /// # Errors
    /// A file that can't be opened.
    pub fn start(process: &config::Process) -> Result<Self, LogError> {
        let log = match &process.log_file {
            Some(path) => Self::to_file(path, process.user.as_ref())?,
            None => Self::default(),
        };
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
        let writer = match log.file.clone() {
            Some(file) => BoxMakeWriter::new(move || file.current()),
            None => BoxMakeWriter::new(io::stderr),
        };
        let colours = log.file.is_none() && io::stderr().is_terminal();
        let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_target(false);
        let _ = match process.log_format {
            LogFormat::Text => subscriber.with_ansi(colours).try_init(),
            LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
        };
        Ok(log)
    }

    fn to_file(path: &Path, owner: Option<&Account>) -> Result<Self, LogError> {
        let failed = |source| LogError { path: path.to_owned(), source };
        // The daemon leaves its folder.
        let path = absolute(path).map_err(failed)?;
        let file = Arc::new(folder::make_for(&path, owner).and_then(|()| open(&path, owner)).map_err(failed)?);
        let current = Mutex::new(Current { file, is_output: false });
        Ok(Self { file: Some(Arc::new(LogFile { path, current })) })
    }

    /// Whether it is a file's.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.file.is_some()
    }

    /// Opens the file again under its name, which may be another file's by now. Where that fails, the log goes on in the file
    /// that it had, and says so.
    pub fn reopen(&self) {
        let Some(log) = &self.file else {
            return tracing::info!("there is no log file to reopen: the log goes to standard error");
        };
        match log.reopen() {
            Ok(()) => tracing::info!(path = %log.path.display(), "the log file was reopened"),
            Err(error) => {
                let path = log.path.display();
                tracing::error!(%error, %path, "the log file can't be reopened, and the old one is kept: see its folder's owner");
            }
        }
    }

    /// Sends standard output and standard error there too, now and whenever it is reopened, if it is a file's.
    ///
    /// # Errors
    /// What the system said.
    pub fn take_output(&self) -> io::Result<()> {
        let Some(log) = &self.file else { return Ok(()) };
        let mut current = log.lock();
        current.is_output = true;
        redirect(&current.file)
    }
}

impl LogFile {
    fn lock(&self) -> std::sync::MutexGuard<'_, Current> {
        // Nothing panics while it is held.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self) -> Arc<File> {
        Arc::clone(&self.lock().file)
    }

    fn reopen(&self) -> io::Result<()> {
        // Whoever the process is by now is the right owner.
        let file = open(&self.path, None)?;
        let mut current = self.lock();
        current.file = Arc::new(file);
        if current.is_output { redirect(&current.file) } else { Ok(()) }
    }
}

/// Opens for appending; a file that isn't there is made, for `owner`, mode 0640. What is there keeps its owner and mode, and no
/// link is followed: the daemon's user may write in the folder, and this may be root.
fn open(path: &Path, owner: Option<&Account>) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).custom_flags(libc::O_NOFOLLOW | libc::O_NOCTTY | libc::O_NONBLOCK);
    match options.clone().create_new(true).mode(0o640).open(path) {
        Ok(file) => {
            if let Some(owner) = owner {
                fchown(&file, Some(owner.uid), Some(owner.gid))?;
            }
            Ok(file)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if fs::symlink_metadata(path)?.is_symlink() {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a symbolic link"));
            }
            options.open(path)
        }
        Err(error) => Err(error),
    }
}

fn redirect(file: &File) -> io::Result<()> {
    dup2_stdout(file)?;
    Ok(dup2_stderr(file)?)
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn after_a_rename_lines_go_to_the_new_file_once_it_is_reopened() {
        let folder = tempfile::tempdir().unwrap();
        let (path, rotated) = (folder.path().join("log/x.log"), folder.path().join("log/x.log.1"));
        let log = Log::to_file(&path, None).unwrap();
        let file = log.file.as_ref().unwrap();
        let write = |text: &str| file.current().write_all(text.as_bytes()).unwrap();
        write("one\n");
        fs::rename(&path, &rotated).unwrap();
        write("two\n");
        log.reopen();
        write("three\n");
        assert_eq!(fs::read_to_string(&rotated).unwrap(), "one\ntwo\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\n");

        // What can't be opened leaves the log where it was.
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        log.reopen();
        write("four\n");
    }

    #[test]
    fn nothing_is_logged_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        symlink(folder.path().join("victim"), &path).unwrap();
        let error = Log::to_file(&path, None).unwrap_err();
        assert_eq!(error.source.to_string(), "it is a symbolic link");
        assert!(!folder.path().join("victim").exists());
    }
}
