//! Makes the process a daemon: two forks, a session of its own, and a pipe on which the daemon reports to the process that
//! started it. Knows nothing of what is served.
//!
//! Invariant: the starter ends with 0 only after the daemon has reported that it serves.

use std::{
    cell::RefCell,
    env, fs,
    io::{self, PipeReader, PipeWriter, Read as _, Write as _},
    os::fd::{BorrowedFd, RawFd},
    process,
};

use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    libc,
    sys::{
        stat::{Mode, umask},
        wait::waitpid,
    },
    unistd::{ForkResult, close, dup2_stderr, dup2_stdin, dup2_stdout, fork, setsid},
};

use super::{log::Log, signals, stderr};

/// The byte that the daemon writes when it serves. If it fails, it writes its exit code, which isn't 0, and then the reason.
const SERVES: u8 = 0;

/// The process can't become a daemon.
#[derive(Debug, thiserror::Error)]
#[error("can't become a daemon: start it without --daemon, under a supervisor")]
pub struct DaemonError(#[from] io::Error);

/// The process that started the daemon and waits for its report. If this is dropped without a report, the starter assumes that
/// the daemon failed.
#[derive(Debug)]
pub struct Starter(RefCell<Option<PipeWriter>>);

impl Starter {
    /// Reports that the daemon serves: the starter ends with 0.
    pub fn serves(&self) {
        self.report(&[SERVES]);
    }

    /// Reports that the daemon will not serve: the starter prints the reason and ends with `code` (at least 1). Does nothing
    /// after [`Starter::serves`].
    pub fn failed(&self, code: u8, reason: &str) {
        self.report(&[&[code.max(1)], reason.as_bytes()].concat());
    }

    /// Sends the first report. Later ones are ignored.
    fn report(&self, report: &[u8]) {
        if let Some(mut pipe) = self.0.take() {
            // Fails if the starter was interrupted. Then nobody needs the report.
            let _ = pipe.write_all(report);
        }
    }
}

/// Makes a daemon of the process. Returns in the daemon only: the calling process waits until the daemon serves or fails, and
/// ends. The daemon has no terminal and none of the files that it was started with. Its working folder is `/`, and its standard
/// output and standard error go to the file of `log`, if it has one.
///
/// # Errors
/// The process has other threads, or the operating system refuses another process.
#[expect(unsafe_code, reason = "fork")]
pub fn detach(log: &Log) -> Result<Starter, DaemonError> {
    require_one_thread()?;
    let (reader, writer) = io::pipe()?;
    // SAFETY: there is no other thread whose locks the child could inherit, as checked above.
    if let ForkResult::Parent { child } = unsafe { fork() }.map_err(io::Error::from)? {
        drop(writer);
        // This process only waits, so a signal may end it.
        signals::unblock()?;
        // The child ends at once; the daemon is its child.
        let _ = waitpid(child, None);
        process::exit(i32::from(wait_for_report(reader, log)));
    }
    drop(reader);
    let starter = Starter(RefCell::new(Some(writer)));
    if let Err(error) = leave_terminal(log) {
        tracing::error!(%error, "can't become a daemon");
        log.flush();
        starter.failed(1, &format!("can't become a daemon: {error}"));
        process::exit(1);
    }
    Ok(starter)
}

/// Detaches the child from the terminal and from the files of its parent.
#[expect(unsafe_code, reason = "fork, and _exit without cleaning up")]
fn leave_terminal(log: &Log) -> io::Result<()> {
    setsid()?;
    // The leader of a session gets a terminal again if it opens one. Its child doesn't.
    // SAFETY: as at the first fork, there is one thread.
    if let ForkResult::Parent { .. } = unsafe { fork() }? {
        // SAFETY: this process owns nothing that must be flushed or removed: its parent or its child does that.
        unsafe { libc::_exit(0) };
    }
    env::set_current_dir("/")?;
    umask(Mode::from_bits_truncate(0o022));
    close_inherited_fds();
    let null = fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    log.redirect_output()
}

/// Waits for the daemon's report, prints the reason if it failed, and returns the exit code.
fn wait_for_report(mut daemon: PipeReader, log: &Log) -> u8 {
    let mut code = [1];
    let mut reason = String::new();
    let read = daemon.read_exact(&mut code);
    if read.is_ok() && code == [SERVES] {
        return SERVES;
    }
    // If reading fails here, what was read so far is printed.
    let _ = daemon.read_to_string(&mut reason);
    if reason.is_empty() {
        reason = format!(
            "the daemon ended before it served, and gave no reason{}",
            if log.is_file() { ": see its log" } else { "" }
        );
    }
    // If nobody reads standard error, the exit code alone reports the failure.
    stderr::print(&format!("ssecast: {reason}"));
    code[0]
}

/// Closes the files that the process inherited. They are those that are not marked to close on `exec`: all files that this
/// program opens are.
#[expect(unsafe_code, reason = "/proc lists file descriptors as numbers")]
fn close_inherited_fds() {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let inherited = |&fd: &RawFd| {
        // SAFETY: it was open a moment ago, and there is no other thread that could close it.
        let flags = fcntl(unsafe { BorrowedFd::borrow_raw(fd) }, FcntlArg::F_GETFD);
        fd > libc::STDERR_FILENO
            && flags.is_ok_and(|flags| !FdFlag::from_bits_truncate(flags).contains(FdFlag::FD_CLOEXEC))
    };
    let inherited: Vec<RawFd> = numbers.filter(inherited).collect();
    for fd in inherited {
        // If closing fails, the descriptor is closed all the same: close(2).
        let _ = close(fd);
    }
}

/// Checks that the process has no other thread, so that it may fork and change its environment.
///
/// # Errors
/// There are other threads, or `/proc` can't be read.
pub(super) fn require_one_thread() -> io::Result<()> {
    match fs::read_dir("/proc/self/task")?.count() {
        1 => Ok(()),
        count => Err(io::Error::other(format!("the process has {count} threads, and only one is allowed here"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_starter_takes_the_first_report_and_without_one_fails() {
        let exit_code = |report: &dyn Fn(&Starter)| {
            let (reader, writer) = io::pipe().unwrap();
            let starter = Starter(RefCell::new(Some(writer)));
            report(&starter);
            drop(starter);
            wait_for_report(reader, &Log::default())
        };
        assert_eq!(exit_code(&|starter| starter.serves()), 0);
        assert_eq!(exit_code(&|starter| starter.failed(64, "no socket")), 64);
        assert_eq!(exit_code(&|starter| starter.failed(0, "no socket")), 1);
        assert_eq!(exit_code(&|_| {}), 1);
        assert_eq!(
            exit_code(&|starter| {
                starter.serves();
                starter.failed(1, "later");
            }),
            0
        );
    }

    #[test]
    fn a_process_with_threads_does_not_fork() {
        // The test runs in a thread beside the main one.
        let error = detach(&Log::default()).unwrap_err();
        assert!(error.0.to_string().contains("threads"), "{error:?}");
    }
}
