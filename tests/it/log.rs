//! The log: the daemon serves although its log can't be written; and the format of the journal.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, PipeReader, PipeWriter, Read as _, Write as _},
    os::{
        fd::AsRawFd as _,
        unix::{
            fs::{MetadataExt as _, OpenOptionsExt as _},
            net::UnixListener,
        },
    },
    process::{Child, Command, ExitStatus, Stdio},
};

use nix::{
    libc,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::support::{Endpoint, Folder, Request, daemon::PROGRAM, eventually};

/// A daemon whose standard error the test chooses.
struct Serving {
    child: Child,
    admin: Endpoint,
    _folder: Folder,
}

impl Serving {
    fn start(arguments: &[&str], stderr: impl Into<Stdio>) -> Self {
        Self::start_with(arguments, stderr, |_| {})
    }

    fn start_with(arguments: &[&str], stderr: impl Into<Stdio>, with: impl FnOnce(&mut Command)) -> Self {
        let folder = Folder::new();
        let mut command = Command::new(PROGRAM);
        command.args(["serve", "--config"]).arg(folder.write("c.toml", "")).args(arguments);
        command.arg("--socket").arg(folder.path("public")).arg("--admin-socket").arg(folder.path("admin"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        with(&mut command);
        let child = command.spawn().unwrap();
        let serving = Self { child, admin: Endpoint::unix(&folder.path("admin")), _folder: folder };
        eventually("the daemon serves", || (serving.admin.connect().is_ok() && serving.serves()).then_some(()));
        serving
    }

    fn serves(&self) -> bool {
        Request::get("/healthz").header("Connection", "close").send(&self.admin).status() == 200
    }

    /// Makes it log a line, and asserts that it still answers after that.
    fn log_a_line(&self) {
        self.signal(Signal::SIGUSR1);
        assert!(self.serves());
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    fn stop(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        eventually("the end of the daemon", || self.child.try_wait().unwrap())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A line that could not be written was reported on standard error, which failed too, and the thread that logged it panicked.
#[test]
fn the_daemon_serves_after_the_reader_of_standard_error_has_ended() {
    let (reader, writer) = io::pipe().unwrap();
    let daemon = Serving::start(&[], writer);
    let mut line = String::new();
    let mut reader = BufReader::new(reader);
    while !line.contains("serving") {
        line.clear();
        assert_ne!(reader.read_line(&mut line).unwrap(), 0, "it has ended");
    }
    drop(reader);
    for _ in 0..10 {
        daemon.log_a_line();
    }
    assert!(daemon.stop().success());
}

#[test]
fn the_daemon_serves_with_a_closed_standard_error() {
    let daemon = Serving::start_with(&[], Stdio::null(), |command| {
        let serve: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        *command = Command::new("sh");
        command.args(["-c", "exec \"$@\" 2>&-", "sh", PROGRAM]).args(serve).stdin(Stdio::null());
    });
    daemon.log_a_line();
    assert!(daemon.stop().success());
}

#[test]
fn the_daemon_serves_after_the_disk_is_full() {
    let daemon = Serving::start(&["--log-file", "/dev/full"], Stdio::null());
    for _ in 0..10 {
        daemon.log_a_line();
    }
    assert!(daemon.stop().success());
}

/// The starter got no reason, and printed "the daemon ended before it served, and gave no reason".
#[test]
fn a_daemon_starts_on_a_full_disk() {
    let folder = Folder::new();
    let (admin, pidfile) = (folder.path("admin"), folder.path("pid"));
    let mut command = Command::new(PROGRAM);
    command.args(["serve", "--daemon", "--log-file", "/dev/full", "--config"]).arg(folder.write("c.toml", ""));
    command.arg("--socket").arg(folder.path("public")).arg("--admin-socket").arg(&admin).arg("--pidfile").arg(&pidfile);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let pid = Pid::from_raw(fs::read_to_string(&pidfile).unwrap().trim().parse().unwrap());
    let serves =
        || Request::get("/healthz").header("Connection", "close").send(&Endpoint::unix(&admin)).status() == 200;
    for _ in 0..10 {
        kill(pid, Signal::SIGUSR1).unwrap();
        assert!(serves());
    }
    kill(pid, Signal::SIGTERM).unwrap();
    eventually("the daemon has stopped", || (!pidfile.exists()).then_some(()));
}

/// Returns a pipe that accepts no more bytes, and how many are in it.
fn full_pipe() -> (PipeReader, PipeWriter, usize) {
    let (reader, writer) = io::pipe().unwrap();
    // Opened again, so that the daemon's descriptor stays blocking.
    let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
    let mut filler = File::options().write(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap();
    let mut filled = 0;
    while let Ok(count) = filler.write(&[b'x'; 1024]) {
        filled += count;
    }
    assert!(filled >= 4096);
    (reader, writer, filled)
}

/// The program hung for ever when it printed why it ended.
#[test]
fn a_failing_start_ends_while_nobody_reads_standard_error() {
    let folder = Folder::new();
    let right = folder.write("right.toml", "");
    let wrong = folder.write("wrong.toml", "no_such_key = 1");
    let busy = folder.path("busy");
    let _listener = UnixListener::bind(&busy).unwrap();
    let exit_code = |arguments: &[&str]| {
        let (_reader, writer, _) = full_pipe();
        let mut command = Command::new(PROGRAM);
        command.arg("serve").args(arguments).arg("--admin-socket").arg(folder.path("admin"));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(writer).spawn().unwrap();
        eventually("the program has ended", || child.try_wait().unwrap()).code()
    };
    let [right, wrong, busy] = [&right, &wrong, &busy].map(|path| path.to_str().unwrap());
    assert_eq!(exit_code(&["--config", wrong]), Some(64));
    assert_eq!(exit_code(&["--no-such-flag"]), Some(64));
    assert_eq!(exit_code(&["--config", right, "--socket", busy]), Some(1));
    assert_eq!(exit_code(&["--config", right, "--socket", busy, "--daemon"]), Some(1));
}

/// After 64 KiB of log, publishes and new streams hung for ever.
#[test]
fn the_daemon_serves_while_nobody_reads_standard_error() {
    let (reader, writer, filled) = full_pipe();
    let daemon = Serving::start(&[], writer);
    for _ in 0..50 {
        daemon.log_a_line();
    }
    // The rest is written when the reader reads again.
    let mut reader = BufReader::new(reader);
    io::copy(&mut reader.by_ref().take(filled as u64), &mut io::sink()).unwrap();
    let mut line = String::new();
    while !line.contains("no log file to reopen") {
        line.clear();
        assert_ne!(reader.read_line(&mut line).unwrap(), 0);
    }
    let rest = std::thread::spawn(move || io::copy(&mut reader, &mut io::sink()));
    assert!(daemon.stop().success());
    rest.join().unwrap().unwrap();
}

#[test]
fn the_daemon_stops_while_nobody_reads_standard_error() {
    let (reader, writer) = io::pipe().unwrap();
    let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
    let mut filler = File::options().write(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap();
    while filler.write(&[b'x'; 1024]).is_ok() {}
    let daemon = Serving::start(&[], writer);
    assert!(daemon.stop().success());
    drop(reader);
}

/// The log did not show which version runs, and on which sockets.
#[test]
fn the_start_line_names_version_sockets_and_redis_without_its_password() {
    let folder = Folder::new();
    let log = folder.path("log");
    let redis = "redis://user:secret@127.0.0.1:1/3";
    let daemon = Serving::start(&["--redis-url", redis, "--log-file", log.to_str().unwrap()], Stdio::null());
    let admin = format!("admin={}", daemon.admin.path().display());
    let line = eventually("the start line", || {
        let text = fs::read_to_string(&log).unwrap();
        text.lines().find(|line| line.contains("serving")).map(ToOwned::to_owned)
    });
    for part in [&admin, "public=/", "redis=redis://127.0.0.1:1/3", concat!("version=\"", env!("CARGO_PKG_VERSION"))] {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert!(!fs::read_to_string(&log).unwrap().contains("secret"));
    assert!(daemon.stop().success());
}

/// `journalctl -p warning` found nothing, and each line had a second time stamp.
#[test]
fn the_journal_gets_priorities_and_no_time() {
    let folder = Folder::new();
    let log = File::create(folder.path("journal")).unwrap();
    let meta = log.metadata().unwrap();
    let stream = format!("{}:{}", meta.dev(), meta.ino());
    let daemon = Serving::start_with(&[], log, |command| {
        command.env("JOURNAL_STREAM", stream);
    });
    daemon.log_a_line();
    assert!(daemon.stop().success());
    let text = fs::read_to_string(folder.path("journal")).unwrap();
    assert!(text.contains("<6>serving "), "{text}");
    assert!(text.lines().all(|line| line.starts_with("<6>") || line.starts_with("<4>")), "{text}");
    assert!(!text.contains("INFO") && !text.contains('\u{1b}'), "{text}");
}
