//! A process that a test started, or its successor. Its output goes to a file. It is ended by its pid.

use std::{
    fs::File,
    os::unix::{ffi::OsStrExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::Once,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        prctl::set_child_subreaper,
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::{eventually, wait::PATIENCE};

pub(crate) struct Child {
    name: &'static str,
    /// The process that the test started. It stays as long as a successor runs.
    first: Pid,
    /// The process that serves.
    pid: Pid,
    status: Option<ExitStatus>,
    log: PathBuf,
}

impl Child {
    /// Starts `command` with its standard output and error going to the end of the file `log`.
    #[allow(clippy::zombie_processes, reason = "it is waited for by its pid, in `ended`")]
    pub(crate) fn start(name: &'static str, command: &mut Command, log: PathBuf) -> Self {
        // A daemon's successor is its child, and becomes ours when the daemon has ended.
        static REAPER: Once = Once::new();
        REAPER.call_once(|| set_child_subreaper(true).unwrap());
        let output = File::options().create(true).append(true).open(&log).unwrap();
        let process = command
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let pid = Pid::from_raw(process.id().cast_signed());
        Self { name, first: pid, pid, status: None, log }
    }

    /// Replaces the serving process by its successor `pid`. The first process stays and supervises; any other one ends.
    pub(crate) fn succeed(&mut self, pid: u32) {
        let ended = self.ended();
        assert_eq!(ended, None, "{}, whose successor is {pid}, has ended:\n{}", self.name, self.log());
        if self.pid != self.first {
            let (name, before) = (self.name, self.pid);
            eventually(&format!("the end of {name} before its successor {pid}"), || {
                kill(before, None).is_err().then_some(())
            });
        }
        self.pid = Pid::from_raw(pid.cast_signed());
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw().cast_unsigned()
    }

    /// All of its output so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid, signal).unwrap();
    }

    /// Its exit status, once it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = match waitpid(self.first, Some(WaitPidFlag::WNOHANG)).unwrap() {
                WaitStatus::Exited(_, code) => Some(ExitStatus::from_raw(code << 8)),
                WaitStatus::Signaled(_, signal, _) => Some(ExitStatus::from_raw(signal as i32)),
                _ => None,
            };
        }
        self.status
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let name = self.name;
        eventually(&format!("the end of {name}"), || self.ended())
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(&mut self) {
        if self.ended().is_none() {
            self.signal(Signal::SIGKILL);
            self.wait();
        }
    }

    /// Waits until `ready` is true. Panics with its output if the process ends before.
    pub(crate) fn wait_until(&mut self, what: &str, mut ready: impl FnMut() -> bool) {
        let start = Instant::now();
        while !ready() {
            if let Some(status) = self.ended() {
                panic!("{} has ended with {status} before it was {what}:\n{}", self.name, self.log());
            }
            assert!(start.elapsed() < PATIENCE, "{} is not {what} after {PATIENCE:?}:\n{}", self.name, self.log());
            thread::sleep(Duration::from_millis(3));
        }
    }

    /// Its memory in bytes: the proportional set size (PSS).
    pub(crate) fn memory(&self) -> usize {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid)).unwrap();
        let line = rollup.lines().find(|line| line.starts_with("Pss:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
    }

    /// Number of its open files.
    pub(crate) fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid)).unwrap().count()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = std::fs::read(&self.log).unwrap_or_default();
            let tail = String::from_utf8_lossy(&log[log.len().saturating_sub(8_000)..]);
            eprintln!("--- {} (pid {}), its output:\n{tail}", self.name, self.pid);
        }
        // A SIGTERM first, since nginx ends its workers only then; a process that ignores it is killed.
        if self.ended().is_none() {
            self.signal(Signal::SIGTERM);
            let start = Instant::now();
            while self.ended().is_none() && start.elapsed() < Duration::from_secs(1) {
                thread::sleep(Duration::from_millis(2));
            }
            self.kill();
        }
    }
}

/// The processes that have `path` in their arguments, or their working folder in it.
pub(crate) fn processes_of(path: &Path) -> Vec<Pid> {
    let name = path.as_os_str().as_bytes();
    let of_path = |process: &Path| {
        let arguments = std::fs::read(process.join("cmdline")).unwrap_or_default();
        let works_there = std::fs::read_link(process.join("cwd")).is_ok_and(|folder| folder.starts_with(path));
        works_there || memchr::memmem::find(&arguments, name).is_some()
    };
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    let pid = |process: PathBuf| process.file_name()?.to_str()?.parse().ok().map(Pid::from_raw);
    processes.filter(|process| of_path(process)).filter_map(pid).collect()
}
