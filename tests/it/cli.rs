//! The command line: `check`, `publish`, `tail` and wrong options, run as a user runs them.

use std::process::{Command, Output};

use crate::support::{
    Child, Daemon, Folder, Subscription,
    daemon::{PROGRAM, run},
    eventually,
};

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Asserts that a command has succeeded, and returns its output.
fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}: {}", output.status, text(&output.stderr));
    text(&output.stdout)
}

/// Asserts that a command has failed with `code`, and returns its standard error.
fn failed(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
    let error = text(&output.stderr);
    assert!(!error.is_empty() && !error.contains("panicked"), "{error}");
    error
}

/// Starts `ssecast tail`, and waits until it is connected.
fn tail(folder: &Folder, daemon: &Daemon, arguments: &[&str]) -> Child {
    let mut command = Command::new(PROGRAM);
    command.arg("tail").args(arguments).arg("--socket").arg(daemon.public().path());
    let before = daemon.stats();
    let child = Child::start("ssecast tail", &mut command, folder.path("tail.log"));
    eventually("the tail is connected", || (daemon.stats() != before).then_some(()));
    child
}

/// Waits until `child` has printed the line `line`.
fn wait_for_line(child: &Child, line: &str) {
    eventually(&format!("the line {line:?} in what was printed"), || {
        child.log().lines().any(|printed| printed == line).then_some(())
    });
}

#[test]
fn check_prints_every_error_at_once_with_its_line_and_how_to_fix_it() {
    let folder = Folder::new();
    let config = "[stream]\nretyr = \"1s\"\nmax_clients = \"many\"\n\n[history]\nage = \"1 fortnite\"\n\n[hystory]\n";
    let path = folder.write("wrong.toml", config);
    let path = path.to_str().unwrap();
    for command in ["check", "serve"] {
        let errors = failed(&run(&[command, "--config", path], b""), 64);
        for (line, words) in [
            (2, ["retyr", "retry"]),
            (3, ["max_clients", "many"]),
            (6, ["age", "fortnite"]),
            (8, ["hystory", "history"]),
        ] {
            let place = format!("{path}:{line}:");
            let error = errors.lines().find(|error| error.contains(&place));
            let error = error.unwrap_or_else(|| panic!("{command} prints no error for line {line}: {errors}"));
            assert!(words.iter().all(|word| error.contains(word)), "{error:?} does not contain {words:?}");
        }
    }
}

#[test]
fn check_accepts_a_valid_file() {
    let folder = Folder::new();
    let path = folder.write("right.toml", "[stream]\nretry = \"1s..2s\"\n[history]\nbytes = \"1MiB\"\n");
    printed(&run(&["check", "--config", path.to_str().unwrap()], b""));
    let empty = folder.write("empty.toml", "");
    printed(&run(&["check", "--config", empty.to_str().unwrap()], b""));
    let missing = folder.path("missing.toml");
    assert!(failed(&run(&["check", "--config", missing.to_str().unwrap()], b""), 64).contains("missing.toml"));
}

#[test]
fn the_printed_defaults_are_a_valid_configuration() {
    let folder = Folder::new();
    let defaults = printed(&run(&["check", "--defaults"], b""));
    let path = folder.write("defaults.toml", &defaults);
    printed(&run(&["check", "--config", path.to_str().unwrap()], b""));
}

#[test]
fn publish_reaches_clients_and_prints_the_answer() {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, "");
    let mut stream = Subscription::to(&["cats", "a b/ü"]).open(daemon.public());
    let socket = daemon.admin().path().to_str().unwrap();
    let publish =
        |arguments: &[&str], input: &[u8]| run(&[&["publish", "--admin-socket", socket], arguments].concat(), input);

    let answer: serde_json::Value = serde_json::from_str(&printed(&publish(&["cats", "meow & purr"], b""))).unwrap();
    let event = stream.event();
    assert_eq!((event.text().as_str(), answer["id"].as_str()), ("meow & purr", Some(event.id.as_str())));
    assert_eq!((&answer["status"], &answer["subscribers"]), (&"ok".into(), &1.into()));

    printed(&publish(&["cats", "-"], "ü\0 from a pipe".as_bytes()));
    assert_eq!(stream.event().data, "ü\0 from a pipe".as_bytes());
    printed(&publish(&["cats", "-"], "größe from a pipe\n".as_bytes()));
    assert_eq!(stream.texts(1), ["größe from a pipe"]);
    printed(&publish(&["cats", "-", "--raw"], b"line 1\nline 2\n"));
    assert_eq!(stream.texts(1), ["line 1\nline 2\n"]);
    printed(&publish(&["a b/ü", "7", "--event", "price"], b""));
    let event = stream.event();
    assert_eq!((event.kind.as_str(), event.text().as_str()), ("price", "7"));
    printed(&publish(&["cats", "-5"], b""));
    assert_eq!(stream.texts(1), ["-5"]);

    let config = daemon.config().to_str().unwrap();
    printed(&run(&["publish", "--config", config, "cats", "by the configuration"], b""));
    assert_eq!(stream.texts(1), ["by the configuration"]);
}

#[test]
fn publish_reports_errors_with_their_exit_codes() {
    let folder = Folder::new();
    let keys = folder.write("keys", "secret\n");
    let daemon = Daemon::start(&folder, &format!("[publish]\nkey_files = [{keys:?}]\n"));
    let socket = daemon.admin().path().to_str().unwrap();
    failed(&run(&["publish", "--admin-socket", socket, "cats", "meow"], b""), 77);
    printed(&run(&["publish", "--admin-socket", socket, "cats", "meow", "--key", "secret"], b""));
    failed(&run(&["publish", "--admin-socket", socket, "c*ts", "meow"], b""), 64);
    failed(&run(&["publish", "--admin-socket", socket, "cats"], b""), 64);

    let nobody = folder.path("nobody.sock");
    let nobody = nobody.to_str().unwrap();
    assert!(failed(&run(&["publish", "--admin-socket", nobody, "cats", "meow"], b""), 69).contains("nobody.sock"));
    assert!(failed(&run(&["tail", "--socket", nobody, "cats"], b""), 69).contains("nobody.sock"));
    assert!(
        failed(&run(&["tail", "--socket", daemon.public().path().to_str().unwrap(), "c?ts"], b""), 65).contains('?')
    );
    let pattern = run(&["tail", "--socket", daemon.public().path().to_str().unwrap(), "c*ts"], b"");
    assert!(failed(&pattern, 77).contains("pattern c*ts is not allowed"));
}

#[test]
fn tail_prints_events_as_they_come() {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, "");
    let mut follower = tail(&folder, &daemon, &["cats", "dogs", "--json"]);
    daemon.publish("cats", "meow");
    let published = daemon.publish_form(&[("channel", "dogs"), ("message", "line 1\nline 2"), ("event", "bark")]);
    let lines = eventually("two lines", || {
        let lines: Vec<serde_json::Value> =
            follower.log().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (lines.len() == 2).then_some(lines)
    });
    assert_eq!((&lines[0]["channel"], &lines[0]["data"]), (&"cats".into(), &"meow".into()));
    assert_eq!((&lines[1]["channel"], &lines[1]["event"]), (&"dogs".into(), &"bark".into()));
    assert_eq!((&lines[1]["data"], lines[1]["id"].as_str()), (&"line 1\nline 2".into(), published.id.as_deref()));
    follower.signal(nix::sys::signal::Signal::SIGINT);
    follower.wait();
}

#[test]
fn tail_resumes_when_the_daemon_answers_again_and_reports_the_gap() {
    let folder = Folder::new();
    let mut daemon = Daemon::start(&folder, "[stream]\nretry = \"10ms..20ms\"\n");
    let follower = tail(&folder, &daemon, &["cats", "--raw"]);
    daemon.publish("cats", "before");
    wait_for_line(&follower, "before");
    daemon.start_again();
    eventually("the tail is connected again", || (daemon.subscribers("cats") == 1).then_some(()));
    daemon.publish("cats", "after");
    wait_for_line(&follower, "after");
    assert!(follower.log().contains("may have been missed"), "the gap is reported: {}", follower.log());
}

#[test]
fn a_tail_whose_pipe_is_closed_ends_quietly() {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, "");
    let mut shell = Command::new("sh");
    let script = "\"$0\" tail cats --raw --socket \"$1\" | head -n 1";
    shell.arg("-c").arg(script).arg(PROGRAM).arg(daemon.public().path());
    let mut child = Child::start("ssecast tail | head", &mut shell, folder.path("head.log"));
    eventually("the tail is connected", || (daemon.subscribers("cats") == 1).then_some(()));
    eventually("the pipe has ended", || {
        daemon.publish("cats", "meow");
        child.ended()
    });
    assert_eq!(child.log(), "meow\n");
}

#[test]
fn an_option_of_cyclone_sse_gets_a_tip() {
    let error = failed(&run(&["serve", "--port", "8888", "--broker", "redis"], b""), 64);
    assert!(error.contains("cyclone-sse's --port") && error.contains("--socket tcp://127.0.0.1:PORT"), "{error}");
}
