//! Leaving the terminal: two forks, a session of its own, and a pipe by which whoever started the daemon learns whether it
//! serves. Knows nothing of what is served.
//!
//! Invariant: the starter returns 0 only once the daemon has said that it serves.

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

use super::{log::Log, signals};

/// What the daemon writes once it serves; else it writes its exit code, which isn't 0, and the reason.
const SERVES: u8 = 0;

/// The process can't leave the terminal.
#[derive(Debug, thiserror::Error)]
#[error("can't become a daemon: start it without --daemon, under a supervisor")]
pub struct DaemonError(#[from] io::Error);

/// The process that has started the daemon and waits to hear from it. If nothing is said until this ends, it takes the daemon
/// for failed.
#[derive(Debug)]
pub struct Starter(RefCell<Option<PipeWriter>>);

impl Starter {
    /// The daemon serves: the starter ends with 0.
    pub fn serves(&self) {
        self.say(&[SERVES]);
    }

    /// The daemon will not serve: the starter ends with `code` (at least 1) and prints the reason. Unheard after
    /// [`Starter::serves`].
    pub fn failed(&self, code: u8, reason: &str) {
        self.say(&[&[code.max(1)], reason.as_bytes()].concat());
    }

    /// The first word is the last one, too.
    fn say(&self, word: &[u8]) {
        if let Some(mut pipe) = self.0.take() {
            // A starter that was interrupted no longer wants to know.
            let _ = pipe.write_all(word);
        }
    }
}

/// Returns in the daemon, never in the process that calls it: that one waits until the daemon serves or fails, and ends. The
/// daemon has no terminal, `/` as its folder, and none of the files that it was started with; its output goes to `log`.
///
/// # Errors
/// Other threads, or no room for another process.
#[expect(unsafe_code, reason = "fork")]
pub fn detach(log: &Log) -> Result<Starter, DaemonError> {
    require_one_thread()?;
    let (reader, writer) = io::pipe()?;
    // SAFETY: there is no other thread whose locks the child could inherit; that was checked.
    if let ForkResult::Parent { child } = unsafe { fork() }.map_err(io::Error::from)? {
        drop(writer);
        // This one only waits, and may be interrupted.
        signals::unblock()?;
        // The child ends at once; the daemon is its child.
        let _ = waitpid(child, None);
        process::exit(i32::from(hear(reader, log)));
    }
    drop(reader);
    let starter = Starter(RefCell::new(Some(writer)));
    if let Err(error) = settle(log) {
        tracing::error!(%error, "can't become a daemon");
        starter.failed(1, &format!("can't become a daemon: {error}"));
        log.flush();
        process::exit(1);
    }
    Ok(starter)
}

/// What the child does before it is a daemon.
#[expect(unsafe_code, reason = "fork, and an end without cleaning up")]
fn settle(log: &Log) -> io::Result<()> {
    setsid()?;
    // The leader of a session could get a terminal again by opening one; its child can't.
    // SAFETY: as for the first fork, there is one thread.
    if let ForkResult::Parent { .. } = unsafe { fork() }? {
        // SAFETY: everything it has is its parent's or its child's, and nothing of it is to be flushed or removed.
        unsafe { libc::_exit(0) };
    }
    env::set_current_dir("/")?;
    umask(Mode::from_bits_truncate(0o022));
    close_strangers();
    let null = fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    log.take_output()
}

/// Waits for what the daemon says, prints the reason if it has failed, and gives back the exit code.
fn hear(mut daemon: PipeReader, log: &Log) -> u8 {
    let mut code = [1];
    let mut reason = String::new();
    let heard = daemon.read_exact(&mut code);
    if heard.is_ok() && code == [SERVES] {
        return SERVES;
    }
    // Where reading fails too, what was heard is printed.
    let _ = daemon.read_to_string(&mut reason);
    if reason.is_empty() {
        reason = format!(
            "the daemon ended before it served, without a word{}",
            if log.is_file() { ": see its log" } else { "" }
        );
    }
    // Where standard error is closed, the exit code tells.
    let _ = writeln!(io::stderr(), "ssecast: {reason}");
    code[0]
}

/// Closes what was left open by whoever started the process: all that this program opens is marked to close on `exec`.
#[expect(unsafe_code, reason = "file descriptors come as numbers")]
fn close_strangers() {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let inherited = |&fd: &RawFd| {
        // SAFETY: it was open a moment ago, and there is no other thread to close it.
        let flags = fcntl(unsafe { BorrowedFd::borrow_raw(fd) }, FcntlArg::F_GETFD);
        fd > libc::STDERR_FILENO
            && flags.is_ok_and(|flags| !FdFlag::from_bits_truncate(flags).contains(FdFlag::FD_CLOEXEC))
    };
    let strangers: Vec<RawFd> = numbers.filter(inherited).collect();
    for fd in strangers {
        let _ = close(fd); // It is nobody's here.
    }
}

/// Says whether it is certain that no other thread runs: then the process may fork and change its environment.
pub(super) fn require_one_thread() -> io::Result<()> {
    match fs::read_dir("/proc/self/task")?.count() {
        1 => Ok(()),
        count => Err(io::Error::other(format!("the process has {count} threads, and may have one at this time"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_starter_hears_the_first_word_and_takes_silence_for_failure() {
        let told = |tell: &dyn Fn(&Starter)| {
            let (reader, writer) = io::pipe().unwrap();
            let starter = Starter(RefCell::new(Some(writer)));
            tell(&starter);
            drop(starter);
            hear(reader, &Log::default())
        };
        assert_eq!(told(&|starter| starter.serves()), 0);
        assert_eq!(told(&|starter| starter.failed(64, "no socket")), 64);
        assert_eq!(told(&|starter| starter.failed(0, "no socket")), 1);
        assert_eq!(told(&|_| {}), 1);
        assert_eq!(
            told(&|starter| {
                starter.serves();
                starter.failed(1, "later");
            }),
            0
        );
    }

    #[test]
    fn a_process_with_threads_does_not_fork() {
        // The test's own thread is beside the main one.
        let error = detach(&Log::default()).unwrap_err();
        assert!(error.0.to_string().contains("threads"), "{error:?}");
    }
}
