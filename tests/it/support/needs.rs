//! Programs that a test needs beside ssecast. A test states them in its first line: `needs!("nginx");`. If one is missing, the test
//! is skipped and prints that. Under `tests/run` and in CI, which install them all, a missing program is a failure.

use std::{
    env,
    io::{self, Write as _},
    path::{Path, PathBuf},
    thread,
};

use super::folder::find_program;

/// The folder of the packages from PyPI, for `PYTHONPATH`.
pub(crate) fn python_packages() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python")
}

/// Ends the test here if one of the programs is not installed.
macro_rules! needs {
    ($($program:literal),+) => {
        if !$crate::support::has_programs(&[$($program),+]) {
            return;
        }
    };
}

/// Whether all of `programs` are installed; for `node` also the npm packages. `pika` is a package from PyPI. If not, prints that this test is skipped.
pub(crate) fn has_programs(programs: &[&str]) -> bool {
    let mut missing: Vec<_> = programs.iter().filter(|program| find_program(program).is_none()).copied().collect();
    let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node_modules/.installed-lock.json");
    if programs.contains(&"node") && !packages.exists() {
        missing.push("the npm packages");
    }
    if programs.contains(&"pika") && python_packages().join("pika").exists() {
        missing.retain(|program| *program != "pika");
    }
    if missing.is_empty() {
        return true;
    }
    let missing = missing.join(" and ");
    let test = thread::current().name().unwrap_or("a test").to_owned();
    assert!(!all_must_run(), "{test} needs {missing}: `sh tests/run` installs what the tests need");
    // Not by `eprintln!`, which the test harness hides.
    let _ = writeln!(io::stderr(), "SKIPPED {test}: needs {missing} (`sh tests/run` installs what the tests need)");
    false
}

/// Whether no test may be skipped: under `tests/run`, and in CI.
fn all_must_run() -> bool {
    ["SSECAST_TESTS_SKIP_NOTHING", "CI"].iter().any(|name| env::var_os(name).is_some_and(|value| !value.is_empty()))
}

#[test]
fn a_missing_program_skips_a_test_visibly_and_fails_it_in_ci() {
    let run = |ci: &str| {
        // This program again, for the one test below.
        let mut command = std::process::Command::new(env::current_exe().unwrap());
        command.args(["--exact", "support::needs::needs_a_program_that_does_not_exist", "--include-ignored"]);
        command.env_remove("SSECAST_TESTS_SKIP_NOTHING").env("CI", ci).output().unwrap()
    };
    let skipped = run("");
    let error = String::from_utf8(skipped.stderr).unwrap();
    assert!(skipped.status.success() && error.contains("SKIPPED") && error.contains("no-such-program"), "{error}");
    assert!(!run("true").status.success());
}

#[test]
#[ignore = "run by the test above"]
fn needs_a_program_that_does_not_exist() {
    needs!("no-such-program");
}
