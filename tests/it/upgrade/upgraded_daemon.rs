//! A daemon and its successors, in one folder, with one log.

use std::{
    fs,
    ops::{Deref, DerefMut},
    path::{Path, PathBuf},
    process::Output,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::support::{Daemon, Folder, Request, daemon, eventually};

/// The last log message of a predecessor.
const TAKEN_OVER: &str = "a new process has taken over";

/// The first daemon and its successors, which serve on the same sockets.
pub(super) struct UpgradedDaemon(Daemon);

impl Deref for UpgradedDaemon {
    type Target = Daemon;

    fn deref(&self) -> &Daemon {
        &self.0
    }
}

impl DerefMut for UpgradedDaemon {
    fn deref_mut(&mut self) -> &mut Daemon {
        &mut self.0
    }
}

impl UpgradedDaemon {
    /// Starts the first daemon, with the tables `tables` beside `[listen]`, and waits until it is ready.
    pub(super) fn start(folder: &Folder, tables: &str) -> Self {
        Self(Daemon::start(folder, tables))
    }

    /// As [`UpgradedDaemon::start`], from a copy of the program that the test may replace; see [`program_in`].
    pub(super) fn start_copy(folder: &Folder, tables: &str) -> Self {
        let program = program_in(folder);
        put_program(&program);
        let mut first = Daemon::start_program(&program, folder, "ssecast", tables);
        first.wait_until_ready();
        Self(first)
    }

    /// Runs `ssecast reload`, and waits for the outcome.
    pub(super) fn ask(&self) -> Output {
        daemon::run(&["reload", "--admin-socket", self.admin().path().to_str().unwrap()], b"")
    }

    /// Reloads. Returns the id of the new process.
    pub(super) fn reload(&self) -> u32 {
        let output = self.ask();
        assert!(output.status.success(), "{output:?}\n{}", self.log());
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["status"], "ok");
        let pid = u32::try_from(answer["pid"].as_u64().unwrap()).unwrap();
        // Another thread writes the log, a little later.
        eventually("the log names the new process", || (pid == self.pid()).then_some(()));
        assert!(lives(pid), "{answer}\n{}", self.log());
        pid
    }

    /// Reloads, and asserts that it fails. Returns the reason, which must be printed, logged and in `/readyz`.
    pub(super) fn refused_reload(&self) -> String {
        let before = self.pid();
        let output = self.ask();
        assert_eq!(output.status.code(), Some(1), "{output:?}\n{}", self.log());
        let stderr = String::from_utf8(output.stderr).unwrap();
        let why = stderr.trim().strip_prefix("ssecast: nothing has changed: ");
        let why = why.unwrap_or_else(|| panic!("no reason: {stderr:?}"));
        let failed = format!("failed: {why}");
        assert_eq!(self.admin_get("/readyz").json()["last_reload"], failed, "/readyz has the reason");
        let first_line = why.lines().next().unwrap();
        eventually("the log has the reason", || self.log().contains(first_line).then_some(()));
        assert!(self.pid() == before && lives(before), "the old process goes on:\n{}", self.log());
        why.to_owned()
    }

    /// The log of all of them.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.config().with_extension("log")).unwrap_or_default()
    }

    /// The id of the serving process: the last one that has taken over.
    pub(super) fn pid(&self) -> u32 {
        self.successors().last().copied().unwrap_or_else(|| self.first_pid())
    }

    /// The ids of all processes that have taken over.
    pub(super) fn successors(&self) -> Vec<u32> {
        self.takeovers().map(|line| field(&line, "pid").parse().unwrap()).collect()
    }

    /// How long clients waited at each upgrade, as logged.
    pub(super) fn stood_still(&self) -> Vec<Duration> {
        self.takeovers().map(|line| duration(&field(&line, "stood_still"))).collect()
    }

    /// Whether the cut-over of each upgrade was exact, as logged.
    pub(super) fn exact(&self) -> Vec<bool> {
        self.takeovers().map(|line| field(&line, "exact") == "true").collect()
    }

    fn takeovers(&self) -> impl Iterator<Item = String> + use<> {
        self.log().lines().filter(|line| line.contains(TAKEN_OVER)).map(str::to_owned).collect::<Vec<_>>().into_iter()
    }

    /// Sends a signal to the serving process.
    pub(super) fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// Waits until the sources are connected.
    pub(super) fn wait_until_sources_are_connected(&self) {
        eventually("the sources are connected", || {
            (Request::get("/readyz").header("Connection", "close").send(self.admin()).status() == 200).then_some(())
        });
    }
}

impl Drop for UpgradedDaemon {
    fn drop(&mut self) {
        for pid in self.successors() {
            if !lives(pid) {
                continue;
            }
            send(pid, Signal::SIGTERM);
            let asked = Instant::now();
            while lives(pid) && asked.elapsed() < Duration::from_secs(1) {
                thread::sleep(Duration::from_millis(2));
            }
            if lives(pid) {
                send(pid, Signal::SIGKILL);
            }
        }
    }
}

/// The path of the program of [`UpgradedDaemon::start_copy`].
pub(super) fn program_in(folder: &Folder) -> PathBuf {
    folder.path("program")
}

/// Puts the program at `path`, replacing what is there, as a package manager does.
pub(super) fn put_program(path: &Path) {
    let beside = path.with_extension("new");
    // A hard link is enough, unless the folder is on another disk.
    if fs::hard_link(daemon::PROGRAM, &beside).is_err() {
        fs::copy(daemon::PROGRAM, &beside).unwrap();
    }
    fs::rename(&beside, path).unwrap();
}

/// Sends a signal to a process, if it still exists.
pub(super) fn send(pid: u32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
}

/// Whether a process runs. A zombie does not.
pub(super) fn lives(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    !stat.rsplit(") ").next().unwrap().starts_with(['Z', 'X'])
}

/// Processes that `parent` has started and that run.
pub(super) fn children(parent: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    let of_main: Vec<u32> = words(&children.unwrap_or_default());
    // The kernel lists a child under the thread that has started it.
    let tasks = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let all = tasks.flat_map(|task| words(&fs::read_to_string(task.path().join("children")).unwrap_or_default()));
    let mut all: Vec<u32> = all.chain(of_main).filter(|&pid| lives(pid)).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn words(text: &str) -> Vec<u32> {
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// The value of `name=value` in a line of the log.
fn field(line: &str, name: &str) -> String {
    let (_, rest) = line.split_once(&format!("{name}=")).unwrap_or_else(|| panic!("no {name} in {line:?}"));
    rest.split_whitespace().next().unwrap().to_owned()
}

/// A duration as the log shows it.
fn duration(text: &str) -> Duration {
    let unit = text.find(|character: char| character.is_alphabetic() || character == 'µ').unwrap();
    let number: f64 = text[..unit].parse().unwrap();
    let seconds = match &text[unit..] {
        "ns" => 1e-9,
        "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        other => panic!("{other:?} is not a unit"),
    };
    Duration::from_secs_f64(number * seconds)
}
