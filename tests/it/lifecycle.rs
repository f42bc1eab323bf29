//! The daemon's start and stop: sockets that a dead process left or a live one uses, signals, and the drain.

use std::{
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use crate::support::{Daemon, Folder, Stream, Subscription, daemon, eventually};

#[test]
fn at_a_stop_each_client_gets_a_time_to_reconnect() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let folder = Folder::new();
        let mut daemon = Daemon::start(&folder, "[stream]\nretry = \"60s..61s\"\n[drain]\nspread = \"2s\"\n");
        let mut clients: Vec<Stream> = (0..30).map(|_| Subscription::to(&["cats"]).open(daemon.public())).collect();
        assert!(clients.iter_mut().all(|client| client.retry() >= 60_000));
        daemon.publish("cats", "last words");
        daemon.child().signal(signal);
        let retries: Vec<u64> = clients
            .iter_mut()
            .map(|client| {
                assert_eq!(client.texts(1), ["last words"]);
                assert_eq!(client.rest(), []);
                client.retry()
            })
            .collect();
        assert!(retries.iter().all(|retry| *retry <= 2_000), "{retries:?}");
        assert!(retries.iter().any(|retry| *retry != retries[0]), "not spread: {retries:?}");
        assert!(daemon.child().wait().success());
        assert!(!daemon.public().path().exists() && !daemon.admin().path().exists(), "its sockets are gone");
    }
}

#[test]
fn the_daemon_stops_although_a_client_does_not_read() {
    let folder = Folder::new();
    let mut daemon = Daemon::start(&folder, "[process]\ndrain = \"300ms\"\n");
    let _stuck = Subscription::to(&["cats"]).open(daemon.public());
    let message = "x".repeat(100_000);
    daemon.publish_many("cats", std::iter::repeat_n(message.as_str(), 20));
    let start = Instant::now();
    daemon.terminate();
    daemon.child().wait();
    assert!(start.elapsed() < Duration::from_millis(300) + daemon::GRACE);
}

#[test]
fn sockets_left_by_a_killed_daemon_are_replaced() {
    let folder = Folder::new();
    let mut daemon = Daemon::start(&folder, "");
    daemon.child().kill();
    assert!(daemon.public().path().exists(), "a crash leaves the socket");
    daemon.start_again();
    let mut stream = Subscription::to(&["cats"]).open(daemon.public());
    daemon.publish("cats", "1");
    assert_eq!(stream.texts(1), ["1"]);
}

#[test]
fn sockets_of_a_running_daemon_are_not_replaced() {
    let folder = Folder::new();
    let mut daemon = Daemon::start(&folder, "");
    let mut stream = Subscription::to(&["cats"]).open(daemon.public());
    let second = daemon::run(&["serve", "--config", daemon.config().to_str().unwrap()], b"");
    assert!(!second.status.success());
    let printed = String::from_utf8(second.stderr).unwrap();
    assert!(printed.contains("ssecast.sock"), "it names the socket: {printed}");
    daemon.assert_serving();
    daemon.publish("cats", "undisturbed");
    assert_eq!(stream.texts(1), ["undisturbed"]);
}

#[test]
fn a_file_that_is_not_a_socket_is_not_removed() {
    let folder = Folder::new();
    let precious = folder.write("precious", "do not remove");
    let config = format!("[listen]\npublic = {precious:?}\nadmin = {:?}\n", folder.path("admin.sock"));
    let config = folder.write("ssecast.toml", &config);
    let output = daemon::run(&["serve", "--config", config.to_str().unwrap()], b"");
    assert!(!output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains("precious"));
    assert_eq!(std::fs::read_to_string(&precious).unwrap(), "do not remove");
}

#[test]
fn sockets_have_the_configured_modes() {
    let folder = Folder::new();
    let (public, admin) = (folder.path("public.sock"), folder.path("admin.sock"));
    let modes = "public_mode = \"0666\"\nadmin_mode = \"0600\"";
    let config = format!("[listen]\npublic = {public:?}\nadmin = {admin:?}\n{modes}\n");
    let config = folder.write("ssecast.toml", &config);
    let mut command = std::process::Command::new(daemon::PROGRAM);
    command.arg("serve").arg("--config").arg(&config);
    let mut child = crate::support::Child::start("ssecast", &mut command, folder.path("log"));
    let mode = |path: &std::path::Path| std::fs::metadata(path).map(|data| data.permissions().mode() & 0o777).ok();
    child.wait_until("listening", || mode(&public).is_some() && mode(&admin).is_some());
    eventually("the modes are set", || (mode(&public) == Some(0o666) && mode(&admin) == Some(0o600)).then_some(()));
}
