//! The load generator: that `ssecast bench` finds it, and that it counts what a daemon delivers.

use std::{fs, os::unix::fs::PermissionsExt, process::Command, time::Duration};

use ssecast_bench::{Bench, progress::Progress, publisher, swarm::Work};

use crate::support::{Daemon, Folder, daemon::PROGRAM};

#[test]
fn bench_runs_the_load_generator_beside_it_with_its_arguments() {
    let folder = Folder::new();
    let program = folder.path("ssecast");
    fs::copy(PROGRAM, &program).unwrap();
    let bench = |arguments: &[&str]| {
        Command::new(&program).arg("bench").args(arguments).env("PATH", folder.path("")).output().unwrap()
    };
    let missing = bench(&["--json"]);
    let error = String::from_utf8(missing.stderr).unwrap();
    assert_eq!(missing.status.code(), Some(69), "{error}");
    assert!(error.contains("--package ssecast-bench"), "{error}");

    let generator = folder.write("ssecast-bench", "#!/bin/sh\nprintf '[%s]' \"$@\"\nexit 1\n");
    fs::set_permissions(&generator, fs::Permissions::from_mode(0o755)).unwrap();
    let run = bench(&["--clients", "7", "--help"]);
    assert_eq!((run.status.code(), run.stdout), (Some(1), b"[--clients][7][--help]".to_vec()));
}

#[test]
fn the_load_generator_counts_each_delivery() {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, "");
    let url = |path: &std::path::Path| format!("unix://{}", path.display());
    let bench = Bench {
        target: url(daemon.public().path()).parse().unwrap(),
        channels: "general,cats+dogs".parse().unwrap(),
        clients: 20,
        work: Work { events: 9, burst: 3, rate: None, size: 64 },
        warmup: 1,
        pids: Vec::new(),
        timeout: Duration::from_secs(60),
    };
    let mut publisher = publisher::open(&url(daemon.admin().path())).unwrap();
    let report = bench.measure(Some(publisher.as_mut()), Progress::none()).unwrap();
    // Three events to each of three channels: all 20 clients have "general", half of them each of the others.
    assert_eq!((report.events, report.counts.delivered), (9, 3 * (20 + 10 + 10)));
    assert!(report.counts.flawless(), "{:?}", report.counts);
}
