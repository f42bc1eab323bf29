//! Requests for reloads: by signal, several at once, during another reload or a stop.

use std::{fs, path::Path, thread};

use nix::sys::signal::Signal;

use super::{
    fake_successor,
    traffic::{ByAdmin, LIGHT},
    upgraded_daemon::{UpgradedDaemon, children, lives, program_in, put_program, send},
};
use crate::support::{Daemon, Folder, RedisServer, Subscription, eventually, holds_for_a_while};

#[test]
fn sighup_starts_a_new_process() {
    let folder = Folder::new();
    let daemon = UpgradedDaemon::start_copy(&folder, "");
    let mut stream = Subscription::to(&["cats"]).open(daemon.public());
    for round in 1..=3 {
        let old = daemon.pid();
        daemon.signal(Signal::SIGHUP);
        eventually("a new process has taken over", || (daemon.successors().len() == round).then_some(()));
        if old != daemon.first_pid() {
            eventually("the old one has ended", || (!lives(old)).then_some(()));
        }
        daemon.publish("cats", "meow");
        assert_eq!(stream.texts(1), ["meow"]);
    }
    // A failure is logged and in /readyz. The next reload can succeed.
    fake_successor::put_script(&program_in(&folder), "exit 3");
    daemon.signal(Signal::SIGHUP);
    let last_reload = || daemon.admin_get("/readyz").json()["last_reload"].as_str().map(str::to_owned);
    let failure = eventually("/readyz has the failure", last_reload);
    assert!(failure.contains("exit status: 3"), "{failure}");
    put_program(&program_in(&folder));
    daemon.signal(Signal::SIGHUP);
    eventually("a new process has taken over", || (daemon.successors().len() == 4).then_some(()));
    assert_eq!(last_reload(), None);
}

#[test]
fn simultaneous_ssecast_reload_commands_all_succeed() {
    let folder = Folder::new();
    let daemon = UpgradedDaemon::start(&folder, "");
    let mut publisher = ByAdmin::connect(&daemon);
    LIGHT.during(&daemon, &mut publisher, |_| {
        let outputs: Vec<_> = thread::scope(|scope| {
            let asked: Vec<_> = (0..3).map(|_| scope.spawn(|| daemon.ask())).collect();
            asked.into_iter().map(|asked| asked.join().unwrap()).collect()
        });
        assert!(outputs.iter().all(|output| output.status.success()), "{outputs:?}\n{}", daemon.log());
    });
}

#[test]
fn signals_during_an_upgrade_take_effect_after_it() {
    let folder = Folder::new();
    let daemon = UpgradedDaemon::start_copy(&folder, "");
    let old = daemon.pid();
    // Two more SIGHUPs during the upgrade. Their sender may have changed the configuration after the new process has read it.
    daemon.signal(Signal::SIGHUP);
    eventually("there is a new process", || children(old).first().copied());
    daemon.configure("[stream]\nmax_channels_per_client = 1\n");
    send(old, Signal::SIGHUP);
    eventually("the last configuration is in force", || {
        let answer = crate::support::Request::get("/?channels=a,b").header("Connection", "close").send(daemon.public());
        (answer.status() == 400).then_some(())
    });

    let old = daemon.pid();
    send(old, Signal::SIGHUP);
    eventually("there is a new process", || children(old).first().copied());
    send(old, Signal::SIGTERM);
    eventually("the process that gets SIGTERM stops, and all others too", || {
        (!lives(old) && daemon.successors().iter().all(|&pid| !lives(pid)) && children(old).is_empty()).then_some(())
    });
    assert!(!daemon.public().path().exists() && !daemon.admin().path().exists(), "the sockets are removed");
}

#[test]
fn a_stop_does_not_wait_for_a_new_process_that_hangs() {
    let folder = Folder::new();
    let daemon = UpgradedDaemon::start_copy(&folder, "");
    let mut stream = Subscription::to(&["cats"]).open(daemon.public());
    fake_successor::put_script(&program_in(&folder), "exec sleep 600");
    let old = daemon.pid();
    daemon.signal(Signal::SIGHUP);
    let child = eventually("there is a new process", || children(old).first().copied());
    send(old, Signal::SIGTERM);
    let asked = std::time::Instant::now();
    assert_eq!(stream.rest(), []);
    eventually("it ends, and the new process with it", || (!lives(old) && !lives(child)).then_some(()));
    assert!(asked.elapsed() < std::time::Duration::from_secs(12), "it took {:?}", asked.elapsed());
    let log = fs::read_to_string(daemon.config().with_extension("log")).unwrap();
    assert!(log.contains("stopping"), "{log}");
}

#[test]
fn a_stop_right_after_an_upgrade_ends_all_processes() {
    let folder = Folder::new();
    let daemon = UpgradedDaemon::start(&folder, "[drain]\nspread = \"2s\"\n");
    let mut streams: Vec<_> = (0..20).map(|_| Subscription::to(&["cats"]).open(daemon.public())).collect();
    let new = daemon.reload();
    send(new, Signal::SIGTERM);
    for stream in &mut streams {
        assert_eq!(stream.rest(), []);
        assert!(stream.retry() <= 2_000);
    }
    eventually("it ends", || (!lives(new)).then_some(()));
    holds_for_a_while("nobody is left", || daemon.successors().iter().all(|&pid| !lives(pid)));
    assert!(!daemon.public().path().exists());
}

/// The signal reached the predecessor alone: its successor went on to write to the file that was moved.
#[test]
fn a_log_that_is_reopened_during_an_upgrade_is_reopened_by_the_successor() {
    needs!("redis-server");
    let folder = Folder::new();
    let mut redis = RedisServer::start(&folder);
    let (log, moved) = (folder.path("own.log"), folder.path("own.log.1"));
    let daemon = Daemon::start(&folder, &format!("{}[process]\nlog_file = {log:?}\n", redis.table()));
    let old = daemon.first_pid();
    let has_open = |pid: u32, path: &Path| {
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        fds.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|target| target == path)
    };
    // Without Redis the upgrade goes on no further than this.
    redis.child().signal(Signal::SIGSTOP);
    send(old, Signal::SIGHUP);
    let successor = eventually("the successor has opened the log", || {
        children(old).first().copied().filter(|&child| has_open(child, &log))
    });
    fs::rename(&log, &moved).unwrap();
    send(old, Signal::SIGUSR1);
    eventually("the predecessor has reopened the log", || has_open(old, &log).then_some(()));
    redis.child().signal(Signal::SIGCONT);
    eventually("the successor logs to the new file", || has_open(successor, &log).then_some(()));
    assert!(!has_open(successor, &moved));
    daemon.publish("cats", "meow");
}
