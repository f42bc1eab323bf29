//! Where the log goes: standard error, or a file that can be opened again under its name (logrotate). Says nothing of what is
//! logged.
//!
//! Invariant: whatever happens to the log (a full disk, a reader that has gone or doesn't read), the daemon goes on.

mod line_queue;
mod priority;

use std::{
    fs::File,
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, Once},
    thread,
    time::Duration,
};

use nix::{
    fcntl::OFlag,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::{dup2_stderr, dup2_stdout},
};
use tracing_subscriber::EnvFilter;

use self::{line_queue::LineQueue, priority::WithPriority};
use super::owned_files::Entry;
use crate::config::{self, Account, LogFormat};

/// Longest wait at the end of the process for lines that are not written yet.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// The log file can't be opened.
#[derive(Debug, thiserror::Error)]
#[error("can't open process.log_file {}: correct the path, or leave it empty for standard error", path.display())]
pub struct LogError {
    path: PathBuf,
    source: io::Error,
}

/// The log of the process.
#[derive(Debug, Clone, Default)]
pub struct Log {
    /// `None` is standard error.
    file: Option<Arc<LogFile>>,
    writer: Arc<Writer>,
}

#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    /// Shared with the line that is written while it is exchanged.
    file: Arc<File>,
    /// Whether standard output and standard error go there too.
    is_output: bool,
}

#[derive(Debug)]
struct Writer {
    queue: LineQueue,
    started: Once,
}

impl Default for Writer {
    fn default() -> Self {
        Self { queue: LineQueue::default(), started: Once::new() }
    }
}

impl Log {
    /// Opens the log and gathers lines for it from now on; [`Log::start_writing`] has them written. `RUST_LOG` picks what is
    /// logged (by default `info`). A file that is made belongs to `process.user`, who will have to open it again. A second log in
    /// one process gets no lines: the first one keeps them.
    ///
    /// # Errors
    /// A file that can't be opened.
    pub fn open(process: &config::Process) -> Result<Self, LogError> {
        let log = match &process.log_file {
            Some(path) => Self::to_file(path, process.user.as_ref())?,
            None => Self::default(),
        };
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
        let colours = log.file.is_none() && io::stderr().is_terminal();
        let to_journal = log.file.is_none() && priority::is_journal(io::stderr());
        let writer = Arc::clone(&log.writer);
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(move || Line(Arc::clone(&writer)))
            .with_target(false)
            .with_ansi(colours)
            .log_internal_errors(false);
        // The journal keeps time and priority itself. In JSON both stay: a program reads the lines.
        let _ = match (process.log_format, to_journal) {
            (LogFormat::Text, false) => subscriber.try_init(),
            (LogFormat::Text, true) => {
                subscriber.without_time().with_level(false).map_event_format(WithPriority).try_init()
            }
            (LogFormat::Json, false) => subscriber.json().flatten_event(true).try_init(),
            (LogFormat::Json, true) => subscriber.json().flatten_event(true).map_event_format(WithPriority).try_init(),
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
        Ok(Self { file: Some(Arc::new(file)), ..Self::default() })
    }

    /// Whether it is a file's.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.file.is_some()
    }

    /// Starts the thread that writes. To be called when the process has forked and has dropped its privileges: a fork doesn't
    /// copy the thread, and privileges are each thread's own. Lines logged before are written now.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub fn start_writing(&self) -> io::Result<()> {
        let mut started = Ok(());
        self.writer.started.call_once(|| {
            let log = self.clone();
            let write = move || {
                let mut torn = false;
                log.writer.queue.write_all(|line| log.write(line, &mut torn))
            };
            started = thread::Builder::new().name("log".to_owned()).spawn(write).map(drop);
        });
        started
    }

    /// Has all lines written before the process ends, as far as that is done in a second.
    pub fn flush(&self) {
        // Where there is no thread, there is nobody to report it to either.
        if self.start_writing().is_ok() {
            self.writer.queue.flush(FLUSH_LIMIT);
        }
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
                tracing::error!(%error, %path, "the log file can't be reopened, and the old one is kept: see its directory's owner");
            }
        }
    }

    /// Sends standard output and standard error there too, now and whenever it is reopened, if it is a file's.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn take_output(&self) -> io::Result<()> {
        let Some(log) = &self.file else { return Ok(()) };
        let mut current = log.lock();
        current.is_output = true;
        redirect(&current.file)
    }

    /// Writes a line. `torn`: the line before was written in part, which is not to run into this one.
    fn write(&self, line: &[u8], torn: &mut bool) -> io::Result<()> {
        let file = self.file.as_ref().map(|log| log.current());
        let mut written = 0;
        let result = (|| {
            if *torn {
                write_once(file.as_deref(), b"\n")?;
                *torn = false;
            }
            while written < line.len() {
                written += write_once(file.as_deref(), &line[written..])?;
            }
            Ok(())
        })();
        *torn |= written > 0 && written < line.len();
        result
    }
}

/// Writes as much of `bytes` as is taken at once. May wait for a reader.
fn write_once(file: Option<&File>, bytes: &[u8]) -> io::Result<usize> {
    loop {
        let written = match file {
            Some(mut file) => file.write(bytes),
            None => io::stderr().write(bytes),
        };
        match written {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Another process has made the pipe or terminal non-blocking, which holds for all that share it.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let stderr = io::stderr();
                let fd = std::os::fd::AsFd::as_fd(&stderr);
                poll(&mut [PollFd::new(fd, PollFlags::POLLOUT)], PollTimeout::NONE)?;
            }
            written => return written,
        }
    }
}

/// A line that is being logged.
struct Line(Arc<Writer>);

impl io::Write for Line {
    /// Takes a line: it is given whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.queue.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl LogFile {
    fn lock(&self) -> std::sync::MutexGuard<'_, Current> {
        crate::lock::lock(&self.current)
    }

    fn current(&self) -> Arc<File> {
        Arc::clone(&self.lock().file)
    }

    fn reopen(&self) -> io::Result<()> {
        // The user that the process runs as by now is the right owner.
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
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn after_a_rename_lines_go_to_the_new_file_once_it_is_reopened() {
        let folder = tempfile::tempdir().unwrap();
        let (path, rotated) = (folder.path().join("log/x.log"), folder.path().join("log/x.log.1"));
        let log = Log::to_file(&path, None).unwrap();
        let write = |text: &str| log.write(text.as_bytes(), &mut false).unwrap();
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
    fn a_line_after_a_torn_one_begins_a_line_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        let log = Log::to_file(&path, None).unwrap();
        let mut torn = true;
        log.write(b"whole\n", &mut torn).unwrap();
        assert!(!torn);
        assert_eq!(fs::read_to_string(&path).unwrap(), "\nwhole\n");
    }

    #[test]
    fn a_full_disk_is_an_error_of_the_line_alone() {
        let log = Log::to_file(Path::new("/dev/full"), None).unwrap();
        let mut torn = false;
        let error = log.write(b"line\n", &mut torn).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(!torn, "nothing of it was written");
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
