//! Where the log goes: standard error, or a file that can be opened again under its name (logrotate). Says nothing of what is
//! logged.

use std::{
    fs::File,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use nix::{
    fcntl::OFlag,
    unistd::{dup2_stderr, dup2_stdout},
};
use tracing_subscriber::{EnvFilter, fmt::writer::BoxMakeWriter};

use super::owned_files::Entry;
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
        let opened = || -> io::Result<LogFile> {
            let entry = Entry::create(path, owner)?;
            let current = Current { file: Arc::new(open(&entry, owner)?), is_output: false };
            // Found again at each reopening, for the directory may be another one by then.
            Ok(LogFile { path: entry.path().to_owned(), current: Mutex::new(current) })
        };
        let file = opened().map_err(|source| LogError { path: path.to_owned(), source })?;
        Ok(Self { file: Some(Arc::new(file)) })
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
        let file = open(&Entry::find(&self.path)?, None)?;
        let mut current = self.lock();
        current.file = Arc::new(file);
        if current.is_output { redirect(&current.file) } else { Ok(()) }
    }
}

/// Opens for appending. A missing file is made for `owner`, mode 0640; one that exists keeps its owner and mode.
fn open(entry: &Entry, owner: Option<&Account>) -> io::Result<File> {
    Ok(entry.open(OFlag::O_WRONLY | OFlag::O_APPEND, 0o640, owner)?)
}

fn redirect(file: &File) -> io::Result<()> {
    dup2_stdout(file)?;
    Ok(dup2_stderr(file)?)
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _, os::unix::fs::symlink};

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
    fn nothing_is_logged_through_a_symbolic_or_hard_link() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        symlink(folder.path().join("victim"), &path).unwrap();
        let error = Log::to_file(&path, None).unwrap_err();
        assert_eq!(error.source.to_string(), "it is a symbolic link");
        assert!(!folder.path().join("victim").exists());
        fs::write(folder.path().join("victim"), "mine").unwrap();
        fs::remove_file(&path).unwrap();
        fs::hard_link(folder.path().join("victim"), &path).unwrap();
        let error = Log::to_file(&path, None).unwrap_err();
        assert_eq!(error.source.to_string(), "it has a second name (a hard link)");
    }
}
