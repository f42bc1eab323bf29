//! `ssecast demo`, as a new user tries it: open the page, paste the commands, press Ctrl-C. Nothing is left behind.

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
    Child, Endpoint, Folder, RedisServer, Request, Stream, Subscription,
    daemon::{PROGRAM, run},
    eventually, processes_of, program_in_path, publisher,
};

struct Demo {
    child: Child,
    page: Endpoint,
    /// The demo's own folder.
    private: PathBuf,
    _folder: Folder,
}

impl Demo {
    /// Starts it in its own process group, as a shell does, and waits until it has printed everything.
    fn start(arguments: &[&str]) -> Self {
        let folder = Folder::new();
        let temporary = folder.path("");
        Self::start_in(folder, &temporary, arguments)
    }

    /// Starts it with `temporary` as the place for temporary folders, and with the limit of open files that many systems have.
    fn start_in(folder: Folder, temporary: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new("prlimit");
        command.args(["--nofile=1024", PROGRAM, "demo"]).args(arguments).env("TMPDIR", temporary).process_group(0);
        let mut child = Child::start("ssecast demo", &mut command, folder.path("demo.log"));
        let log = folder.path("demo.log");
        child.wait_until("printing its commands", || fs::read_to_string(&log).unwrap_or_default().contains("Ctrl-C"));
        let output = child.log();
        assert!(!output.contains("WARN"), "a new user sees no warning: {output}");
        let word_with = |start: &str| {
            let word = output.split_whitespace().find(|word| word.starts_with(start));
            word.unwrap_or_else(|| panic!("no {start}… in {output}")).to_owned()
        };
        let page = word_with("http://127.0.0.1:");
        let address = page.trim_start_matches("http://").trim_end_matches('/').parse().unwrap();
        let socket = output.split_whitespace().skip_while(|word| *word != "--unix-socket").nth(1).unwrap();
        let private = Path::new(socket).parent().unwrap().to_owned();
        Self { child, page: Endpoint::tcp(address), private, _folder: folder }
    }

    fn url(&self) -> String {
        format!("http://{}/", self.page.tcp_address())
    }

    fn subscribe(&self, channel: &str) -> Stream {
        Subscription::to(&[channel]).open(&self.page.clone().under("/sse/"))
    }

    /// The printed command that begins with `program`.
    fn line(&self, program: &str) -> String {
        let output = self.child.log();
        let line = output.lines().map(str::trim).find(|line| line.starts_with(program));
        line.unwrap_or_else(|| panic!("no line of {program} in {output}")).to_owned()
    }

    /// Runs that command in a shell, and returns its output.
    fn paste(&self, program: &str) -> String {
        let output = Command::new("sh").arg("-c").arg(self.line(program)).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Ends it with `signal`, sent to it alone or, as a terminal does, to its group. Asserts that nothing is left behind.
    fn end(mut self, signal: Signal, group: bool) {
        match group {
            true => killpg(Pid::from_raw(self.child.pid().cast_signed()), signal).unwrap(),
            false => self.child.signal(signal),
        }
        let status = self.child.wait();
        assert!(status.success(), "{status}: {}", self.child.log());
        assert!(!self.private.exists(), "{} is left", self.private.display());
        eventually("all its processes have ended", || processes_of(&self.private).is_empty().then_some(()));
        assert!(self.page.connect().is_err(), "a process still listens on the page's port");
    }
}

#[test]
fn the_page_is_served_and_pasted_commands_publish() {
    needs!("curl");
    let demo = Demo::start(&["--no-redis"]);
    let page = Request::get("/").header("Connection", "close").send(&demo.page);
    assert!(page.header("content-type").is_some_and(|kind| kind.starts_with("text/html")), "{:?}", page.head());
    assert!(page.text().contains("<html"));
    let mut stream = demo.subscribe("demo");
    assert!(demo.paste("curl --unix-socket").contains("\"ok\""));
    assert_eq!(stream.texts(1), ["hello"]);
    let form = Request::post("/publish", "application/x-www-form-urlencoded", "channel=demo&message=by+the+page");
    publisher::accepted(form.send(&demo.page));
    assert_eq!(stream.texts(1), ["by the page"]);
    demo.end(Signal::SIGINT, true);
    assert_eq!(stream.rest(), [], "its streams have ended");
}

#[test]
fn a_demo_leaves_nothing_behind_after_each_signal_that_ends_it() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let demo = Demo::start(&["--no-redis"]);
        let _open = demo.subscribe("demo");
        demo.end(signal, false);
    }
}

#[test]
fn with_redis_the_redis_cli_command_publishes() {
    needs!("curl", "redis-cli", "redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let demo = Demo::start(&["--redis-url", &redis.url()]);
    let mut stream = demo.subscribe("demo");
    assert_eq!(demo.paste("redis-cli").trim(), "1");
    stream.texts(1);
    let places = Request::get("/places.json").header("Connection", "close").send(&demo.page).text();
    assert!(
        places.contains(&format!("\"redisUrl\":\"{}\"", redis.url())),
        "the page's snippets name this Redis: {places}"
    );
    demo.paste("curl --unix-socket");
    assert_eq!(stream.texts(1), ["hello"]);
    demo.end(Signal::SIGINT, true);
}

#[test]
fn the_folder_of_a_killed_demo_is_removed_by_the_next_demo() {
    let temporary = Folder::new();
    let start = || Demo::start_in(Folder::new(), &temporary.path(""), &["--no-redis"]);
    let (mut killed, running) = (start(), start());
    killed.child.kill();
    assert!(killed.private.exists());
    let next = start();
    assert!(!killed.private.exists(), "{} is left", killed.private.display());
    assert!(running.private.exists(), "a running demo keeps its folder");
    running.end(Signal::SIGINT, false);
    next.end(Signal::SIGINT, false);
}

#[test]
fn pages_of_other_sites_can_neither_publish_nor_read_through_the_demo() {
    let demo = Demo::start(&["--no-redis"]);
    let form = || Request::post("/publish", "application/x-www-form-urlencoded", "channel=demo&message=x");
    let refused = form().header("Sec-Fetch-Site", "cross-site").header("Connection", "close").send(&demo.page);
    assert_eq!(refused.status(), 403);
    // A name of another site that resolves to 127.0.0.1.
    let rebound = form().host("attacker.example").header("Connection", "close").send(&demo.page);
    assert_eq!(rebound.status(), 421);
    demo.end(Signal::SIGINT, false);
}

#[test]
fn a_redis_that_can_t_be_used_is_named_with_its_reason() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start_with_password(&folder, "secret");
    let error = |url: &str| {
        let output = run(&["demo", "--redis-url", url], b"");
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let url = format!("redis://127.0.0.1:{}", redis.port());
    assert!(error(&url).contains("it asks for a password"), "{}", error(&url));
    let wrong = error(&url.replace("//", "//:wrong@"));
    assert!(wrong.contains("doesn't take this user and password") && !wrong.contains(":wrong@"), "{wrong}");
    let scheme = error("http://127.0.0.1");
    assert!(scheme.starts_with("ssecast: --redis-url: this is not the URL of a Redis; write \"redis://"), "{scheme}");
}

#[test]
fn the_page_works_in_chromium() {
    needs!("chromium", "node");
    let demo = Demo::start(&["--no-redis"]);
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    assert!(tests.join("node_modules/playwright-core").exists(), "`sh tests/run` installs the npm packages");
    let folder = Folder::new();
    let mut command = Command::new(program_in_path("node"));
    command.env("CHROMIUM", program_in_path("chromium")).arg(tests.join("clients/demo_page.mjs")).arg(demo.url());
    let mut visitor = Child::start("demo_page.mjs", &mut command, folder.path("visitor.log"));
    let status = visitor.wait();
    assert!(status.success(), "{}", visitor.log());
    demo.end(Signal::SIGINT, true);
}
