//! A folder with a daemon in it, as root starts it, and checks of both.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};

pub(super) const PROGRAM: &str = env!("CARGO_BIN_EXE_ssecast");
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A folder that any user can enter, for a daemon.
pub(super) struct Site {
    pub(super) folder: tempfile::TempDir,
}

impl Site {
    /// `None` if the test can't run; prints that it is skipped.
    pub(super) fn new(test: &str) -> Option<Self> {
        if !geteuid().is_root() {
            // Not by `eprintln!`, which the test harness hides.
            let _ = writeln!(io::stderr(), "SKIPPED {test}: only root can change the user");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Some(Self { folder })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `ssecast serve` with sockets in `run`, unless `more` names others.
    pub(super) fn command(&self, more: &[&str]) -> Command {
        if !self.path("c.toml").exists() {
            fs::write(self.path("c.toml"), "").unwrap();
        }
        let mut command = Command::new(PROGRAM);
        // Relative paths, which must stay valid although the daemon changes its working folder.
        command.current_dir(self.folder.path()).stdin(Stdio::null()).args(["serve", "--config", "c.toml"]);
        let mut flags = vec![["--socket", "run/public"], ["--admin-socket", "run/admin"]];
        if more.contains(&"--daemon") {
            flags.extend([["--pidfile", "run/pid"], ["--log-file", "log/log"], ["--user", "nobody"]]);
        }
        flags.retain(|[flag, _]| !more.contains(flag));
        command.args(flags.concat()).args(more);
        command
    }

    /// Starts a daemon, and waits for its starter.
    pub(super) fn daemon(&self, more: &[&str]) -> Output {
        self.command(&[&["--daemon"], more].concat()).output().unwrap()
    }

    /// Starts a daemon, and asserts that it serves.
    pub(super) fn started(&self, more: &[&str]) -> DaemonProcess {
        let output = self.daemon(more);
        assert!(output.status.success(), "{output:?}\n{}", self.read("log/log"));
        DaemonProcess(self.read("run/pid").trim().parse().unwrap())
    }

    pub(super) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    pub(super) fn serves(&self) -> bool {
        serves(&self.path("run/public"))
    }
}

/// A process that ends with the test.
pub(super) struct DaemonProcess(pub(super) i32);

impl DaemonProcess {
    pub(super) fn status(&self, key: &str) -> String {
        status(self.0, key).unwrap_or_else(|| panic!("{} has ended", self.0))
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0), signal).unwrap();
    }

    pub(super) fn end(self, signal: Signal) {
        self.signal(signal);
        wait_for("the end of the daemon", || has_ended(self.0));
    }
}

impl Drop for DaemonProcess {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0), Signal::SIGKILL);
    }
}

pub(super) fn status(pid: i32, key: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    Some(line.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Whether the process has ended; it may still be a zombie.
pub(super) fn has_ended(pid: i32) -> bool {
    status(pid, "State").is_none_or(|state| state.starts_with(['Z', 'X']))
}

pub(super) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let since = Instant::now();
    while !condition() {
        assert!(since.elapsed() < PATIENCE, "no {what}");
        sleep(Duration::from_millis(5));
    }
}

pub(super) fn serves(socket: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(socket) else { return false };
    let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer.starts_with("HTTP/1.1 200 ")
}

pub(super) fn refusal(output: &Output) -> String {
    refusal_with(1, output)
}

/// Like [`refusal`] with exit code 64, after which systemd does not restart the daemon.
pub(super) fn lasting_refusal(output: &Output) -> String {
    refusal_with(64, output)
}

fn refusal_with(code: i32, output: &Output) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}
