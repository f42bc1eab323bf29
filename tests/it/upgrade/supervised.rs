//! Upgrades under supervisors that watch one process: a container, runit, supervisord, a service manager.

use std::{fs, os::unix::net::UnixDatagram, path::Path, process::Command, thread, time::Duration};

use nix::sys::signal::Signal;

use super::upgraded_daemon::{UpgradedDaemon, children, lives, send};
use crate::support::{
    Child, Daemon, Endpoint, Folder, RedisServer, Request, Stream, Subscription, daemon::PROGRAM, daemon::run,
    eventually, holds_for_a_while, processes_of,
};

const CLIENTS: usize = 20;

/// The sockets and the configuration of a daemon that a supervisor starts.
struct Site {
    folder: Folder,
    public: Endpoint,
    admin: Endpoint,
}

impl Site {
    fn new() -> Self {
        let folder = Folder::new();
        let (public, admin) = (folder.path("public.sock"), folder.path("admin.sock"));
        folder.write(
            "ssecast.toml",
            &format!("[listen]\npublic = {public:?}\nadmin = {admin:?}\n[drain]\nspread = \"2s\"\n"),
        );
        Self { public: Endpoint::unix(&public), admin: Endpoint::unix(&admin), folder }
    }

    fn config(&self) -> std::path::PathBuf {
        self.folder.path("ssecast.toml")
    }

    fn wait_until_it_answers(&self) {
        eventually("it answers", || {
            let answers = || Request::get("/healthz").header("Connection", "close").send(&self.admin).status() == 200;
            (self.admin.connect().is_ok() && answers()).then_some(())
        });
    }

    fn reload(&self) {
        let output = run(&["reload", "--admin-socket", self.admin.path().to_str().unwrap()], b"");
        assert!(output.status.success(), "{output:?}");
    }

    fn publish(&self, text: &str) {
        let request = Request::post("/publish/cats", "", text).header("Connection", "close");
        assert_eq!(request.send(&self.admin).status(), 200);
    }

    /// Opens clients, reloads three times, and asserts that `is_well` holds, that each client gets every event, and that no processes are
    /// left behind.
    fn reload_with_clients(&self, is_well: impl Fn() -> bool) -> Vec<Stream> {
        let mut streams: Vec<Stream> = (0..CLIENTS).map(|_| Subscription::to(&["cats"]).open(&self.public)).collect();
        for round in ["one", "two", "three"] {
            self.reload();
            self.publish(round);
            for stream in &mut streams {
                assert_eq!(stream.texts(1), [round]);
            }
            assert!(is_well(), "in round {round}");
        }
        // The supervising process and the serving one.
        eventually("no other process is left", || (self.daemons() == 2).then_some(()));
        streams
    }

    /// Number of the daemon's processes.
    fn daemons(&self) -> usize {
        let is_daemon = |pid: &nix::unistd::Pid| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(PROGRAM.as_bytes()))
        };
        processes_of(&self.config()).iter().filter(|pid| is_daemon(pid)).count()
    }
}

/// Asserts that each stream gets a retry time before it ends.
fn assert_drained(streams: Vec<Stream>) {
    for mut stream in streams {
        assert_eq!(stream.rest(), []);
        assert!(stream.retry() <= 2_000);
    }
}

#[test]
fn a_reload_as_process_1_of_a_container_keeps_the_container_and_its_clients() {
    needs!("unshare");
    let site = Site::new();
    let mut command = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]).arg(PROGRAM).arg("serve");
    let mut container = Child::start("unshare", command.arg("--config").arg(site.config()), site.folder.path("log"));
    container.wait_until("answering", || site.admin.connect().is_ok());
    site.wait_until_it_answers();
    let process_1 = eventually("process 1", || children(container.pid()).first().copied());
    let streams = site.reload_with_clients(|| lives(process_1));
    assert!(
        fs::read_to_string(format!("/proc/{process_1}/status")).unwrap().contains("Threads:\t1\n"),
        "it only supervises"
    );
    // As `docker stop` does.
    send(process_1, Signal::SIGTERM);
    assert_drained(streams);
    assert!(container.wait().success(), "{}", container.log());
}

#[test]
fn a_reload_under_runit_keeps_its_process_and_a_stop_drains() {
    needs!("runsv", "sv");
    let site = Site::new();
    let script = format!("#!/bin/sh\nexec '{PROGRAM}' serve --config '{}'\n", site.config().display());
    let service = site.folder.path("service");
    fs::create_dir(&service).unwrap();
    super::fake_successor::put_script(&service.join("run"), script.trim_start_matches("#!/bin/sh\n"));
    let mut runsv = Child::start("runsv", Command::new("runsv").arg(&service), site.folder.path("log"));
    site.wait_until_it_answers();
    let pid = || fs::read_to_string(service.join("supervise/pid")).unwrap();
    let before = pid();
    let streams = site.reload_with_clients(|| pid() == before);
    assert!(Command::new("sv").args(["-w", "30", "stop"]).arg(&service).status().unwrap().success());
    assert_drained(streams);
    assert_eq!(site.daemons(), 0);
    // runsv ends on SIGTERM after its service has ended.
    runsv.signal(Signal::SIGTERM);
    runsv.wait();
}

#[test]
fn a_reload_under_supervisord_keeps_its_process_and_a_stop_drains() {
    needs!("supervisord");
    let site = Site::new();
    let (log, config) = (site.folder.path("supervisord.log"), site.config());
    let text = format!(
        "[supervisord]\nnodaemon=true\nuser=root\nlogfile={}\npidfile={}\n[program:ssecast]\n\
         command={PROGRAM} serve --config {}\nstartsecs=0\nautorestart=true\n",
        log.display(),
        site.folder.path("supervisord.pid").display(),
        config.display()
    );
    let text = site.folder.write("supervisord.conf", &text);
    let mut supervisord =
        Child::start("supervisord", Command::new("supervisord").arg("-c").arg(&text), site.folder.path("log"));
    site.wait_until_it_answers();
    let streams =
        site.reload_with_clients(|| fs::read_to_string(&log).unwrap().matches("spawned: 'ssecast'").count() == 1);
    supervisord.signal(Signal::SIGTERM);
    assert_drained(streams);
    supervisord.wait();
    let printed = fs::read_to_string(&log).unwrap();
    assert!(printed.contains("stopped: ssecast (exit status 0)"), "{printed}");
}

#[test]
fn signals_to_the_supervising_process_reach_the_daemon_and_its_exit_code_comes_back() {
    let folder = Folder::new();
    let daemon = UpgradedDaemon::start_copy(&folder, "");
    let first = daemon.first_pid();
    let second = daemon.reload();
    send(first, Signal::SIGHUP);
    let third = eventually("another process serves", || Some(daemon.pid()).filter(|pid| *pid != second));
    eventually("the second process has ended", || (!lives(second)).then_some(()));
    assert!(lives(first));
    // `pidof ssecast` finds it, though it was executed anew by another name.
    eventually("the supervising process has the program's name", || {
        (fs::read_to_string(format!("/proc/{first}/comm")).unwrap() == "ssecast\n").then_some(())
    });
    send(third, Signal::SIGKILL);
    eventually("the supervising process ends with the daemon", || (!lives(first)).then_some(()));
}

#[test]
fn the_daemon_drains_when_its_supervising_process_is_killed() {
    let folder = Folder::new();
    let daemon = UpgradedDaemon::start_copy(&folder, "[drain]\nspread = \"2s\"\n");
    let mut stream = Subscription::to(&["cats"]).open(daemon.public());
    let second = daemon.reload();
    send(daemon.first_pid(), Signal::SIGKILL);
    assert_eq!(stream.rest(), []);
    assert!(stream.retry() <= 2_000);
    eventually("the daemon ends", || (!lives(second)).then_some(()));
}

#[test]
fn a_service_manager_gets_the_pid_of_a_successor_that_is_not_a_child_of_the_predecessor() {
    let site = Site::new();
    let notify = UnixDatagram::bind(site.folder.path("notify")).unwrap();
    notify.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut command = Command::new(PROGRAM);
    command.arg("serve").arg("--config").arg(site.config()).env("NOTIFY_SOCKET", site.folder.path("notify"));
    let mut first = Child::start("ssecast", &mut command, site.folder.path("log"));
    site.wait_until_it_answers();
    let mut streams: Vec<Stream> = (0..CLIENTS).map(|_| Subscription::to(&["cats"]).open(&site.public)).collect();
    site.reload();
    let successor: u32 = notified(&notify, "MAINPID=", |_| true).parse().unwrap();
    // systemd waits only for processes that are its own children. This test adopts orphans, as systemd does.
    let status = fs::read_to_string(format!("/proc/{successor}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().to_owned();
    assert_ne!(parent, first.pid().to_string());
    assert!(first.wait().success());
    site.publish("meow");
    assert!(streams.iter_mut().all(|stream| stream.texts(1) == ["meow"]));
    send(successor, Signal::SIGTERM);
    assert_drained(streams);
    eventually("it ends", || (!lives(successor)).then_some(()));
}

/// Waits until the service manager gets a value of `name` for which `is_right` holds, and returns the value.
fn notified(socket: &UnixDatagram, name: &str, is_right: impl Fn(&str) -> bool) -> String {
    let mut buffer = [0; 4096];
    let mut all = Vec::new();
    for _ in 0..50 {
        let count = socket.recv(&mut buffer).unwrap();
        let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
        let mut values = text.lines().filter_map(|line| line.strip_prefix(name));
        if let Some(value) = values.find(|value| is_right(value)) {
            return value.to_owned();
        }
        all.push(text);
    }
    panic!("no right {name} in {all:?}");
}

#[test]
fn the_service_managers_status_names_a_disconnected_source_and_a_failed_reload() {
    let site = Site::new();
    let text = fs::read_to_string(site.config()).unwrap();
    fs::write(site.config(), format!("{text}[redis]\nurl = \"redis://127.0.0.1:1\"\n")).unwrap();
    let notify = UnixDatagram::bind(site.folder.path("notify")).unwrap();
    notify.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut command = Command::new(PROGRAM);
    command.arg("serve").arg("--config").arg(site.config()).env("NOTIFY_SOCKET", site.folder.path("notify"));
    let mut daemon = Child::start("ssecast", &mut command, site.folder.path("log"));
    site.wait_until_it_answers();
    notified(&notify, "STATUS=", |status| status.starts_with("0 clients") && status.contains("redis disconnected: "));
    fs::write(site.config(), format!("{text}[proces]\n")).unwrap();
    let output = run(&["reload", "--admin-socket", site.admin.path().to_str().unwrap()], b"");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    notified(&notify, "STATUS=", |status| status.contains("the reload failed") && status.contains("proces"));
    assert_eq!(daemon.ended(), None);
}

#[test]
fn a_successor_whose_predecessor_is_killed_ends_at_once() {
    needs!("redis-server");
    let folder = Folder::new();
    let mut redis = RedisServer::start(&folder);
    let daemon = UpgradedDaemon::start_copy(&folder, &redis.table());
    redis.child().signal(Signal::SIGSTOP);
    let old = daemon.pid();
    send(old, Signal::SIGHUP);
    let child = eventually("there is a new process", || children(old).first().copied());
    // Now it waits for its source, which doesn't answer.
    thread::sleep(Duration::from_millis(300));
    assert!(lives(child));
    let killed = std::time::Instant::now();
    send(old, Signal::SIGKILL);
    eventually("it ends too", || (!lives(child)).then_some(()));
    assert!(killed.elapsed() < Duration::from_secs(10), "it took {:?}", killed.elapsed());
    redis.child().signal(Signal::SIGCONT);
}

#[test]
fn an_upgrade_with_too_few_open_files_changes_nothing() {
    let site = Site::new();
    let script = format!("ulimit -n 64; exec '{PROGRAM}' serve --config '{}'", site.config().display());
    let mut child = Child::start("ssecast", Command::new("sh").arg("-c").arg(script), site.folder.path("log"));
    child.wait_until("answering", || site.admin.connect().is_ok());
    site.wait_until_it_answers();
    let mut streams: Vec<Stream> = (0..5).map(|_| Subscription::to(&["cats"]).open(&site.public)).collect();
    let text = fs::read_to_string(site.config()).unwrap();
    fs::write(site.config(), format!("{text}[process]\nworkers = 20\n")).unwrap();
    let output = run(&["reload", "--admin-socket", site.admin.path().to_str().unwrap()], b"");
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(printed.contains("files"), "{printed}");
    site.publish("meow");
    assert!(streams.iter_mut().all(|stream| stream.texts(1) == ["meow"]), "every client is served");
    assert_eq!(child.ended(), None);
}

#[test]
fn many_signals_during_an_upgrade_do_not_make_it_fail() {
    let folder = Folder::new();
    let log = folder.path("own.log");
    let daemon = Daemon::start(&folder, &format!("[process]\nlog_file = {log:?}\n"));
    let mut stream = Subscription::to(&["cats"]).open(daemon.public());
    let pid = daemon.first_pid();
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    for _ in 0..100 {
        // Like logrotate and a reload at the same time. The first process forwards the signals.
        send(pid, Signal::SIGUSR1);
        send(pid, Signal::SIGHUP);
        send(pid, Signal::SIGUSR1);
        thread::sleep(Duration::from_millis(10));
    }
    holds_for_a_while("no upgrade fails", || !read(&log).contains("the reload failed"));
    assert!(read(&log).contains("a new process has taken over"), "{}", read(&log));
    daemon.publish("cats", "meow");
    assert_eq!(stream.texts(1), ["meow"]);
}
