//! Upgrades that fail: the old process serves on, and reports the reason.

use std::{
    collections::BTreeMap,
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use super::{
    fake_successor,
    traffic::{ByAdmin, ByRedis, LIGHT, Publish},
    upgraded_daemon::{UpgradedDaemon, children, lives, program_in, put_program, send},
};
use crate::support::{Folder, RedisServer, Subscription, daemon::PROGRAM, eventually};

/// The histories are long enough that a wait of ten seconds causes no gap.
const TABLES: &str = "[history]\nmessages = 100000\nstretch = \"60s\"\n";

/// For each case: replaces the program, reloads while clients are served, and asserts that the reload fails with the reason. At the
/// end, reloads into the real program.
fn assert_refused(folder: &Folder, daemon: &UpgradedDaemon, publisher: &mut dyn Publish, cases: &[(&dyn Fn(), &str)]) {
    let program = program_in(folder);
    LIGHT.during(daemon, publisher, |swarm| {
        for (put, why) in cases {
            put();
            let error = daemon.refused_reload();
            assert!(error.contains(why), "{why:?} is not in {error:?}");
            assert_still_serving(daemon);
            swarm.assert_well();
        }
        put_program(&program);
        daemon.reload();
        assert_eq!(daemon.admin_get("/readyz").json()["last_reload"], serde_json::Value::Null);
        assert_still_serving(daemon);
    });
    assert_eq!(daemon.successors().len(), 1);
}

/// Asserts that new clients are served, and that no new process is left behind.
fn assert_still_serving(daemon: &UpgradedDaemon) {
    let mut stream = Subscription::to(&["newcomers"]).open(daemon.public());
    daemon.publish("newcomers", "welcome");
    assert_eq!(stream.texts(1), ["welcome"]);
    eventually("no child is left over", || children(daemon.pid()).is_empty().then_some(()));
}

#[test]
fn a_reload_into_a_program_that_does_not_run_changes_nothing() {
    let folder = Folder::new();
    let daemon = UpgradedDaemon::start_copy(&folder, TABLES);
    let mut publisher = ByAdmin::connect(&daemon);
    let program = &program_in(&folder);
    let broken = || daemon.configure("[history]\nmessages = \"many\"\n[proces]\nworkers = 1\n");
    let remove = || {
        daemon.configure(TABLES);
        fs::remove_file(program).unwrap();
    };
    assert_refused(
        &folder,
        &daemon,
        &mut publisher,
        &[
            (&broken, "history.messages"),
            (&remove, "can't be started"),
            (&|| fs::write(program, "no program").unwrap(), "can't be started"),
            (&|| fake_successor::put_script(program, "exit 3"), "exit status: 3"),
            (&|| fake_successor::put_script(program, "kill -9 $$"), "signal: 9"),
            (&|| fake_successor::put_script(program, "exit 0"), "exit status: 0"),
        ],
    );
}

/// A wrong number ended the supervising process by an abort of the runtime.
#[test]
fn variables_that_ssecast_sets_for_its_own_processes_are_refused_with_the_reason_where_they_are_wrong() {
    let folder = Folder::new();
    let config = folder.write("ssecast.toml", "");
    let cases = [
        ("SSECAST_HANDOVER_FD", "-1", "which is no control channel (not a number from 3 up)"),
        ("SSECAST_HANDOVER_FD", "1", "which is no control channel (not a number from 3 up)"),
        ("SSECAST_HANDOVER_FD", "x", "which is no control channel (invalid digit"),
        ("SSECAST_HANDOVER_FD", "1000000", "which is no control channel (Bad file descriptor"),
        ("SSECAST_SUPERVISED", "x", "which names no process to supervise"),
        ("SSECAST_SUPERVISED", "1,2", "which names no process to supervise"),
        ("SSECAST_SUPERVISED", "1,1000000", "which names no process to supervise"),
    ];
    for (name, value, why) in cases {
        let output = Command::new(PROGRAM).arg("serve").arg("--config").arg(&config).env(name, value).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{name}={value}: {error}");
        assert!(error.starts_with(&format!("ssecast: {name} is {value:?}, {why}")), "{error}");
        assert!(error.ends_with("unset it\n"), "{error}");
    }
}

/// The reload waited for 25 seconds, and did not say why.
#[test]
fn a_reload_with_a_wrong_redis_password_fails_at_once_with_what_redis_says() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let user = ["SETUSER", "someone", "reset", "on", ">secret", "+@all", "~*", "&*"];
    let _: () = redis.query(redis::cmd("ACL").arg(&user));
    let daemon = UpgradedDaemon::start(&folder, &redis.table());
    daemon.configure(&format!("[redis]\nurl = \"redis://someone:wrong@127.0.0.1:{}\"\n", redis.port()));
    let began = Instant::now();
    let error = daemon.refused_reload();
    assert!(began.elapsed() < Duration::from_secs(20), "it waits for a login that is refused");
    let why = "redis (Redis does not take the user or the password of the URL (WRONGPASS))";
    assert!(error.contains(why), "{error}");
    assert_still_serving(&daemon);
}

#[test]
fn a_new_process_that_hangs_is_ended_and_changes_nothing() {
    let folder = Folder::new();
    let daemon = UpgradedDaemon::start_copy(&folder, TABLES);
    let mut publisher = ByAdmin::connect(&daemon);
    let hang = || fake_successor::put_script(&program_in(&folder), "exec sleep 600");
    assert_refused(&folder, &daemon, &mut publisher, &[(&hang, "hung")]);
}

#[test]
fn a_new_process_that_fails_after_any_message_changes_nothing() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let daemon = UpgradedDaemon::start_copy(&folder, &format!("{}{TABLES}", redis.table()));
    let program = &program_in(&folder);
    let cases = [
        ("older", "older version"),
        ("fail", "this one can't serve"),
        ("garbage", "which was not expected"),
        ("Serving", "Serving"),
        ("close hang", "closed the channel"),
        ("Hello", "exit status: 9"),
        ("Hello receive fail", "this one can't serve"),
        ("Hello receive Ready", "exit status: 9"),
        ("Hello receive Ready receive", "exit status: 9"),
        ("Hello receive Ready receive Ready", "exit status: 9"),
        ("Hello receive Ready receive Ready receive", "exit status: 9"),
        ("Hello receive Ready receive Ready receive fail", "this one can't serve"),
        ("Hello receive Ready receive Ready receive take", "exit status: 9"),
        ("Hello receive Ready receive Ready receive take Serving", "Serving"),
        ("Hello receive Ready receive Ready receive take Holding", "exit status: 9"),
        ("Hello receive Ready receive Ready receive take Holding fail", "this one can't serve"),
        ("Hello receive Ready receive Ready receive take Holding receive", "exit status: 9"),
        ("Hello receive Ready receive Ready receive take Holding receive fail", "this one can't serve"),
        ("Hello receive Ready receive Ready receive take Holding receive close hang", "closed the channel"),
    ];
    let puts: Vec<_> = cases.iter().map(|(steps, _)| move || fake_successor::put(program, steps)).collect();
    let cases: Vec<(&dyn Fn(), &str)> = puts.iter().zip(cases).map(|(put, (_, why))| (put as &dyn Fn(), why)).collect();
    assert_refused(&folder, &daemon, &mut ByRedis(redis.connect()), &cases);
    eventually("no marker is left over", || {
        let channels: Vec<String> = redis.query(redis::cmd("PUBSUB").arg("CHANNELS"));
        channels.iter().all(|name| !name.contains("handover")).then_some(())
    });
}

#[test]
fn a_new_process_that_hangs_after_the_descriptors_changes_nothing() {
    let folder = Folder::new();
    let daemon = UpgradedDaemon::start_copy(&folder, TABLES);
    let mut publisher = ByAdmin::connect(&daemon);
    let program = &program_in(&folder);
    assert_refused(
        &folder,
        &daemon,
        &mut publisher,
        &[
            (&|| fake_successor::put(program, "Hello receive Ready receive Ready receive take hang"), "hung"),
            (
                &|| fake_successor::put(program, "Hello receive Ready receive Ready receive take Holding receive hang"),
                "hung",
            ),
        ],
    );
}

#[test]
fn a_new_process_that_is_killed_at_any_moment_changes_nothing() {
    const KILLS: usize = 20;
    let folder = Folder::new();
    let daemon = UpgradedDaemon::start_copy(&folder, TABLES);
    let mut publisher = ByAdmin::connect(&daemon);
    let mut random = fastrand::Rng::with_seed(7);
    let mut moments: BTreeMap<String, usize> = BTreeMap::new();
    LIGHT.during(&daemon, &mut publisher, |swarm| {
        let mut longest = Duration::from_millis(50);
        let (mut kills, mut rounds) = (0, 0);
        while kills < KILLS {
            let (old, before) = (daemon.pid(), daemon.successors().len());
            rounds += 1;
            let delay = Duration::from_micros(random.u64(..u64::try_from(longest.as_micros()).unwrap()));
            let output = thread::scope(|scope| {
                let asked = scope.spawn(|| daemon.ask());
                eventually("there is a new process", || {
                    let Some(&child) = children(old).first() else { return asked.is_finished().then_some(()) };
                    thread::sleep(delay);
                    // Stop it before killing it. If it has reported that it serves, it has taken over, and must not be killed.
                    send(child, Signal::SIGSTOP);
                    thread::sleep(Duration::from_millis(150));
                    let serves = daemon.successors().len() > before || !lives(old);
                    send(child, if serves { Signal::SIGCONT } else { Signal::SIGKILL });
                    Some(())
                });
                asked.join().unwrap()
            });
            swarm.assert_well();
            if output.status.success() {
                // The signal came too late: it serves.
                longest = longest.min(delay + Duration::from_millis(5));
                continue;
            }
            longest += Duration::from_millis(5);
            kills += 1;
            let error = String::from_utf8(output.stderr).unwrap();
            assert!(error.contains("signal: 9"), "{error}");
            let (_, moment) = error.split_once("ended before it ").unwrap();
            *moments.entry(moment.split(" (").next().unwrap().to_owned()).or_default() += 1;
        }
        println!("{KILLS} killed in {rounds} reloads, before they {moments:?}");
        daemon.reload();
        assert_still_serving(&daemon);
    });
}
