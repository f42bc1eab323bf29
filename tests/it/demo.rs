//! `ssecast demo`, tried as a newcomer tries it: open the page, paste the lines, press Ctrl-C, find nothing left.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use crate::support::{
    Child, Endpoint, Folder, RedisServer, Request, Stream, Subscription, daemon::PROGRAM, eventually, processes_of,
    publisher,
};

struct Demo {
    child: Child,
    page: Endpoint,
    /// The demo's own folder.
    private: PathBuf,
    _folder: Folder,
}

impl Demo {
    /// Starts it, as the leader of a process group of its own, as a shell does; waits until it has told everything.
    fn start(arguments: &[&str]) -> Self {
        let folder = Folder::new();
        let mut command = Command::new(PROGRAM);
        command.arg("demo").args(arguments).process_group(0);
        let mut child = Child::start("ssecast demo", &mut command, folder.path("demo.log"));
        let log = folder.path("demo.log");
        child.wait_until("telling all", || fs::read_to_string(&log).unwrap_or_default().contains("Ctrl-C"));
        let told = child.log();
        let word_with = |start: &str| {
            let word = told.split_whitespace().find(|word| word.starts_with(start));
            word.unwrap_or_else(|| panic!("no {start}… in {told}")).to_owned()
        };
        let page = word_with("http://127.0.0.1:");
        let address = page.trim_start_matches("http://").trim_end_matches('/').parse().unwrap();
        let socket = told.split_whitespace().skip_while(|word| *word != "--unix-socket").nth(1).unwrap();
        let private = Path::new(socket).parent().unwrap().to_owned();
        Self { child, page: Endpoint::tcp(address), private, _folder: folder }
    }

    fn subscribe(&self, channel: &str) -> Stream {
        Subscription::to(&[channel]).open(&self.page.clone().under("/sse/"))
    }

    /// What it printed for pasting that begins with `program`.
    fn line(&self, program: &str) -> String {
        let told = self.child.log();
        let line = told.lines().map(str::trim).find(|line| line.starts_with(program));
        line.unwrap_or_else(|| panic!("no line of {program} in {told}")).to_owned()
    }

    /// Pastes that line into a terminal, and gives what it prints.
    fn paste(&self, program: &str) -> String {
        let output = Command::new("sh").arg("-c").arg(self.line(program)).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Ends it with `signal`, sent to it alone or, as by a terminal, to its group; and asserts that nothing is left.
    fn end(mut self, signal: Signal, group: bool) {
        match group {
            true => killpg(Pid::from_raw(self.child.pid().cast_signed()), signal).unwrap(),
            false => self.child.signal(signal),
        }
        let status = self.child.wait();
        assert!(status.success(), "{status}: {}", self.child.log());
        assert!(!self.private.exists(), "{} is left", self.private.display());
        eventually("all its processes have ended", || processes_of(&self.private).is_empty().then_some(()));
        assert!(self.page.connect().is_err(), "somebody still listens where the page was");
    }
}

#[test]
fn the_page_answers_and_what_is_pasted_arrives() {
    let demo = Demo::start(&["--no-redis"]);
    let page = Request::get("/").header("Connection", "close").send(&demo.page);
    assert!(page.header("content-type").is_some_and(|kind| kind.starts_with("text/html")), "{:?}", page.head());
    assert!(page.header("server").is_some_and(|server| server.starts_with("nginx")), "it stands behind nginx");
    assert!(page.text().contains("<html"));
    let mut stream = demo.subscribe("demo");
    assert!(demo.paste("curl --unix-socket").contains("\"ok\""));
    assert_eq!(stream.texts(1), ["hello"]);
    let form = Request::post("/publish", "application/x-www-form-urlencoded", "channel=demo&message=by+the+page");
    publisher::accepted(form.send(&demo.page));
    assert_eq!(stream.texts(1), ["by the page"]);
    assert!(!processes_of(&demo.private).is_empty(), "nginx runs in the demo's folder");
    demo.end(Signal::SIGINT, true);
    assert_eq!(stream.rest(), [], "its streams were ended, not left hanging");
}

#[test]
fn whoever_ends_it_finds_nothing_left() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let demo = Demo::start(&["--no-redis"]);
        let _open = demo.subscribe("demo");
        demo.end(signal, false);
    }
}

#[test]
fn with_redis_its_line_can_be_pasted_too() {
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let demo = Demo::start(&["--redis-url", &redis.url()]);
    let mut stream = demo.subscribe("demo");
    assert_eq!(demo.paste("redis-cli").trim(), "1");
    stream.texts(1);
    demo.paste("curl --unix-socket");
    assert_eq!(stream.texts(1), ["hello"]);
    demo.end(Signal::SIGINT, true);
}

#[test]
fn without_nginx_it_serves_the_page_itself() {
    let demo = Demo::start(&["--no-redis", "--no-nginx"]);
    let page = Request::get("/").header("Connection", "close").send(&demo.page);
    assert!(page.header("content-type").is_some_and(|kind| kind.starts_with("text/html")), "{:?}", page.head());
    let mut stream = demo.subscribe("demo");
    demo.paste("curl --unix-socket");
    assert_eq!(stream.texts(1), ["hello"]);
    demo.end(Signal::SIGINT, true);
}

#[test]
fn nginx_is_found_where_a_plain_user_s_path_does_not_reach() {
    let folder = Folder::new();
    let mut command = Command::new(PROGRAM);
    command.args(["demo", "--no-redis"]).env("PATH", "/usr/bin:/bin");
    let mut child = Child::start("ssecast demo", &mut command, folder.path("demo.log"));
    let log = folder.path("demo.log");
    child.wait_until("telling all", || fs::read_to_string(&log).unwrap_or_default().contains("Ctrl-C"));
    assert!(child.log().contains("Through nginx"), "{}", child.log());
    child.signal(Signal::SIGINT);
    assert!(child.wait().success());
}
