//! Writes the log to standard error, or to a file that can be opened again by its name (logrotate). Doesn't decide what is logged.
//!
//! Invariant: the daemon goes on whatever happens to the log: a full disk, a reader that has ended or doesn't read.

mod line_queue;
mod priority;

use std::{
    fs::File,
    io::{self, IsTerminal as _, Write as _},
    os::{fd::AsRawFd as _, unix::fs::FileExt as _},
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

/// How long the end of the process waits for lines that are not written yet.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);
/// What is logged unless RUST_LOG says otherwise. What lapin, the client library for AMQP, logs itself is reported by the source in
/// plain words.
const FILTER: &str = "info,lapin=off";

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
    /// Shared, so that a line being written keeps its file while the log is reopened.
    file: Arc<File>,
    /// Whether standard output and standard error go to it too.
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
    /// Opens the log. Lines are queued from now on, and written after [`Log::start_writing`]. `RUST_LOG` selects what is logged (by
    /// default `info`). A new file belongs to `process.user`, who will have to open it again. In one process, only the first log
    /// that is opened gets lines.
    ///
    /// # Errors
    /// The file can't be opened.
    pub fn open(process: &config::Process) -> Result<Self, LogError> {
        let log = match &process.log_file {
            Some(path) => Self::to_file(path, process.user.as_ref())?,
            None => Self::default(),
        };
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(FILTER));
        let colours = log.file.is_none() && io::stderr().is_terminal();
        let to_journal = log.file.is_none() && priority::is_journal(io::stderr());
        let writer = Arc::clone(&log.writer);
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(move || Line(Arc::clone(&writer)))
            .with_target(false)
            .with_ansi(colours)
            .log_internal_errors(false);
        // The journal stores time and priority itself, so text lines have neither. JSON lines keep both for programs.
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
            // The path is looked up again at each reopening, because the directory may have been replaced.
            Ok(LogFile { path: entry.path().to_owned(), current: Mutex::new(current) })
        };
        let file = opened().map_err(|source| LogError { path: path.to_owned(), source })?;
        Ok(Self { file: Some(Arc::new(file)), ..Self::default() })
    }

    /// Whether the log goes to a file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.file.is_some()
    }

    /// Starts the thread that writes, first the lines that are queued already. Call it after the process has forked and dropped
    /// its privileges: a fork doesn't copy threads, and each thread has privileges of its own.
    ///
    /// # Errors
    /// The operating system refuses a thread.
    pub fn start_writing(&self) -> io::Result<()> {
        let mut started = Ok(());
        self.writer.started.call_once(|| {
            let log = self.clone();
            let write = move || {
                let mut torn = log.is_torn();
                log.writer.queue.write_all(|line| log.write(line, &mut torn))
            };
            started = thread::Builder::new().name("log".to_owned()).spawn(write).map(drop);
        });
        started
    }

    /// Waits until all lines are written, 1 s at most. Call it before the process ends.
    pub fn flush(&self) {
        // Without a thread no line is written, so this can't be reported.
        if self.start_writing().is_ok() {
            self.writer.queue.flush(FLUSH_LIMIT);
        }
    }

    /// Opens the log file by its name again, after logrotate has renamed the old one. If that fails, the log stays in the old file,
    /// and the error is logged there.
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

    /// Redirects standard output and standard error to the log file, now and whenever it is reopened. Does nothing if the log goes
    /// to standard error.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn redirect_output(&self) -> io::Result<()> {
        let Some(log) = &self.file else { return Ok(()) };
        let mut current = log.lock();
        current.is_output = true;
        redirect(&current.file)
    }

    /// Whether the file ends in the middle of a line, since an earlier process could write only a part of it. False if it can't be
    /// read.
    fn is_torn(&self) -> bool {
        let Some(file) = self.file.as_ref().map(|log| log.current()) else { return false };
        let last = || -> io::Result<u8> {
            let end = file.metadata()?.len().checked_sub(1).ok_or(io::ErrorKind::UnexpectedEof)?;
            let mut last = [0];
            // The log's own descriptor is for writing only.
            File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?.read_exact_at(&mut last, end)?;
            Ok(last[0])
        };
        last().is_ok_and(|last| last != b'\n')
    }

    /// Writes a line. `torn` says that the line before was written only in part; then this line begins with a line feed.
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

/// Writes as many of `bytes` as one call accepts, and returns their number. May block until the reader of a pipe reads.
fn write_once(file: Option<&File>, bytes: &[u8]) -> io::Result<usize> {
    loop {
        let written = match file {
            Some(mut file) => file.write(bytes),
            None => io::stderr().write(bytes),
        };
        match written {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Another process made the pipe or terminal non-blocking, which affects all processes that share it.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let stderr = io::stderr();
                let fd = std::os::fd::AsFd::as_fd(&stderr);
                poll(&mut [PollFd::new(fd, PollFlags::POLLOUT)], PollTimeout::NONE)?;
            }
            written => return written,
        }
    }
}

/// The writer to which tracing gives a log line.
struct Line(Arc<Writer>);

impl io::Write for Line {
    /// Queues a line. tracing passes each line whole.
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
        // A new file gets the right owner: the process already runs as `process.user`.
        let file = open(&Entry::find(&self.path)?, None)?;
        let mut current = self.lock();
        current.file = Arc::new(file);
        if current.is_output { redirect(&current.file) } else { Ok(()) }
    }
}

/// Opens the file for appending. Creates it for `owner` with mode 0640 if it doesn't exist. An existing file keeps its owner and mode.
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

        // If the new file can't be opened, the log stays in the old one.
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        log.reopen();
        write("four\n");
    }

    #[test]
    fn a_line_after_a_partly_written_one_begins_on_its_own_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        let log = Log::to_file(&path, None).unwrap();
        let mut torn = true;
        log.write(b"whole\n", &mut torn).unwrap();
        assert!(!torn);
        assert_eq!(fs::read_to_string(&path).unwrap(), "\nwhole\n");
    }

    /// The first line of a process was glued to the half line that the process before it had left on a full disk.
    #[test]
    fn a_line_after_one_that_an_earlier_process_has_torn_begins_a_line_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        for (before, after) in
            [("one\nhalf a li", "one\nhalf a li\nwhole\n"), ("one\n", "one\nwhole\n"), ("", "whole\n")]
        {
            fs::write(&path, before).unwrap();
            let log = Log::to_file(&path, None).unwrap();
            let mut torn = log.is_torn();
            log.write(b"whole\n", &mut torn).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), after);
        }
    }

    #[test]
    fn a_full_disk_fails_one_line_and_leaves_nothing_torn() {
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
