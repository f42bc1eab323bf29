//! A child process that a test started: its output goes to a file, and it is ended by its pid.

use std::{
    fs::File,
    path::PathBuf,
    process::{Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{eventually, wait::PATIENCE};

pub(crate) struct Child {
    name: &'static str,
    process: std::process::Child,
    log: PathBuf,
}

impl Child {
    /// Starts `command` with its standard output and error going to the end of the file `log`.
    pub(crate) fn start(name: &'static str, command: &mut Command, log: PathBuf) -> Self {
        let output = File::options().create(true).append(true).open(&log).unwrap();
        let process = command
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self { name, process, log }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Everything it has said so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.pid()).unwrap()), signal).unwrap();
    }

    /// Its exit status, once it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().unwrap()
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let name = self.name;
        eventually(&format!("the end of {name}"), || self.ended())
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(&mut self) {
        if self.ended().is_none() {
            self.process.kill().unwrap();
            self.process.wait().unwrap();
        }
    }

    /// Waits until `ready` is true; panics at once, with what it said, where it has ended instead.
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

    /// What it holds of memory in bytes, with its share of what it shares (PSS).
    pub(crate) fn memory(&self) -> usize {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid())).unwrap();
        let line = rollup.lines().find(|line| line.starts_with("Pss:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
    }

    /// How many files it has open.
    pub(crate) fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = std::fs::read(&self.log).unwrap_or_default();
            let tail = String::from_utf8_lossy(&log[log.len().saturating_sub(8_000)..]);
            eprintln!("--- {} (pid {}) said:\n{tail}", self.name, self.pid());
        }
        // A SIGTERM first, since nginx ends its workers only then; whoever does not listen is killed.
        if matches!(self.process.try_wait(), Ok(None)) {
            let _ = kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGTERM);
            let start = Instant::now();
            while matches!(self.process.try_wait(), Ok(None)) && start.elapsed() < Duration::from_secs(1) {
                thread::sleep(Duration::from_millis(2));
            }
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}
