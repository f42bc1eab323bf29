//! Runs the programs under examples/ as a reader would: the publishers, the page, and streams for signed-in users. An example in a
//! language that is not installed is skipped, and the output says so.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

use crate::support::{
    Child, Daemon, Endpoint, Folder, Nginx, RabbitServer, RedisServer, Request, Response, Stream, Subscription,
    eventually, free_port, program_in_path, python_packages,
};

/// A channel and a message with the characters that publishers often escape wrongly.
const CHANNEL: &str = "größe &+=%";
const MESSAGE: &str = "\"a\" & b\n+%2B 'c' \\n $(d)";

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

fn is_installed(program: &str, arguments: &[&str]) -> bool {
    let works = Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success());
    if !works {
        eprintln!("skipped: {program} {} does not work here", arguments.join(" "));
    }
    works
}

/// The publishers for the admin socket that can be run here: the program, and the example it runs.
fn publishers() -> Vec<(&'static str, PathBuf)> {
    let known = [
        ("sh", "-c", "true", "sh"),
        ("python3", "-c", "", "py"),
        ("php", "-r", "exit(function_exists('curl_init') ? 0 : 1);", "php"),
        ("ruby", "-e", "", "rb"),
        ("node", "-e", "", "mjs"),
    ];
    let usable = known.into_iter().filter(|(program, flag, code, _)| is_installed(program, &[flag, code]));
    usable.map(|(program, _, _, extension)| (program, example(&format!("publish/publish.{extension}")))).collect()
}

/// The examples have their own time limits.
fn run(program: &str, script: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(program).arg(script).args(arguments).envs(environment.iter().copied()).output().unwrap()
}

#[test]
fn publishers_deliver_every_byte_and_print_the_answer() {
    needs!("curl", "python3");
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, "");
    let admin = daemon.admin().path().to_str().unwrap();
    let mut stream = Subscription::to(&[CHANNEL]).open(daemon.public());
    let publishers = publishers();
    assert!(publishers.len() >= 2, "at least sh and python3 are here");
    for (program, script) in publishers {
        for kind in ["message", "price"] {
            let with_type = [CHANNEL, MESSAGE, kind];
            let arguments = if kind == "message" { &with_type[..2] } else { &with_type };
            let output = run(program, &script, arguments, &[("SSECAST_ADMIN", admin)]);
            assert!(output.status.success(), "{program}: {output:?}");
            let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
            let event = stream.event();
            assert_eq!((event.kind.as_str(), event.text().as_str()), (kind, MESSAGE), "{program}");
            assert_eq!((answer["id"].as_str(), answer["subscribers"].as_u64()), (Some(&*event.id), Some(1)));
        }
    }
}

#[test]
fn publishers_end_with_an_error_where_nothing_was_published() {
    needs!("curl", "python3");
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, "");
    let (admin, nobody) = (daemon.admin().path().to_str().unwrap(), folder.path("nobody.sock"));
    for (program, script) in publishers() {
        for (arguments, admin, says) in [
            (&["no*wildcards", "x"][..], admin, "400"),
            (&["cats", "x"], nobody.to_str().unwrap(), ""),
            (&["cats"], admin, "CHANNEL MESSAGE"),
        ] {
            let output = run(program, &script, arguments, &[("SSECAST_ADMIN", admin)]);
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success(), "{program} {arguments:?}: {output:?}");
            assert!(!error.is_empty() && error.contains(says), "{program} {arguments:?}: {error}");
        }
    }
}

#[test]
fn publishers_by_way_of_redis_deliver_every_byte() {
    needs!("python3", "redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let daemon = Daemon::start(&folder, &format!("{}prefix = \"sse:\"\n", redis.table()));
    let mut stream = Subscription::to(&[CHANNEL]).open(daemon.public());
    let port = redis.port().to_string();
    let mut environment = vec![("REDIS_PREFIX", "sse:"), ("REDIS_HOST", "127.0.0.1"), ("REDIS_PORT", &port)];
    let url = redis.url();
    environment.push(("REDIS_URL", &url));
    for (program, check, extension) in [
        ("python3", ["-c", "import redis"], "py"),
        // Debian's python3, which has the package python3-redis. Another python3 may come first in PATH.
        ("/usr/bin/python3", ["-c", "import redis"], "py"),
        ("php", ["-r", "exit(class_exists('Redis') ? 0 : 1);"], "php"),
    ] {
        if !is_installed(program, &check) {
            continue;
        }
        let script = example(&format!("publish/publish-redis.{extension}"));
        for kind in ["message", "price"] {
            let with_type = [CHANNEL, MESSAGE, kind];
            let arguments = if kind == "message" { &with_type[..2] } else { &with_type };
            let output = run(program, &script, arguments, &environment);
            assert!(output.status.success(), "{program}: {output:?}");
            let event = stream.event();
            assert_eq!((event.kind.as_str(), event.text().as_str()), (kind, MESSAGE), "{program}");
        }
    }
}

#[test]
fn the_publisher_by_way_of_rabbitmq_delivers_every_byte() {
    needs!("python3", "rabbitmq-server", "pika");
    let (folder, rabbit) = (Folder::new(), RabbitServer::shared());
    let daemon = Daemon::start(&folder, &rabbit.table("the example's"));
    let mut stream = Subscription::to(&[CHANNEL]).open(daemon.public());
    let (script, url, packages) = (example("publish/publish-amqp.py"), rabbit.url(), python_packages());
    let packages = packages.to_str().unwrap();
    let run = |arguments: &[&str], exchange: &str| {
        let environment = [("AMQP_URL", url.as_str()), ("AMQP_EXCHANGE", exchange), ("PYTHONPATH", packages)];
        run("python3", &script, arguments, &environment)
    };
    for kind in ["message", "price"] {
        let with_type = [CHANNEL, MESSAGE, kind];
        let output = run(if kind == "message" { &with_type[..2] } else { &with_type }, "the example's");
        assert!(output.status.success(), "{output:?}");
        let event = stream.event();
        assert_eq!((event.kind.as_str(), event.text().as_str()), (kind, MESSAGE));
    }
    let output = run(&[CHANNEL, MESSAGE], "no such exchange");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("not published:"), "{output:?}");
}

/// nginx with the snippet and examples/authorize, and the backend that it asks.
struct Site {
    nginx: Nginx,
    backend: Child,
    daemon: Daemon,
    _folder: Folder,
}

impl Site {
    fn start() -> Self {
        let folder = Folder::new();
        let daemon = Daemon::start(&folder, "");
        let port = free_port();
        let mut command = Command::new(program_in_path("python3"));
        command.arg(example("authorize/backend.py")).arg(port.to_string());
        let mut backend = Child::start("backend.py", &mut command, folder.path("backend.log"));
        let address = Endpoint::tcp(([127, 0, 0, 1], port).into());
        backend.wait_until("answering", || address.connect().is_ok());
        let locations = fs::read_to_string(example("authorize/nginx.conf")).unwrap();
        let locations = locations.replace("127.0.0.1:8000", &format!("127.0.0.1:{port}"));
        let nginx = Nginx::start_edited(&folder, daemon.public().path(), |snippet| {
            assert!(snippet.contains("    #internal;\n"), "the snippet's line to uncomment");
            snippet.replace("    #internal;\n", "    internal;\n") + &locations
        });
        Self { nginx, backend, daemon, _folder: folder }
    }

    /// Opens /my-events/ as the user `session`.
    fn open(&self, session: &str, query: &str, last_event_id: &str) -> Response {
        Request::get(format!("/my-events/{query}"))
            .header("Accept", "text/event-stream")
            .header("Cookie", format!("session={session}"))
            .header("Last-Event-ID", last_event_id)
            .send(&self.nginx.sse())
    }
}

#[test]
fn signed_in_users_read_the_channels_that_the_application_names() {
    needs!("nginx", "python3");
    let site = Site::start();
    // The page's own `channels` is ignored.
    let mut alice = Stream::new(site.open("alice", "?channels=user-bob", ""));
    let mut bob = Stream::new(site.open("bob", "", ""));
    site.daemon.publish("user-bob", "for bob");
    site.daemon.publish("user-alice", "for alice");
    site.daemon.publish(CHANNEL, "a name to be encoded");
    site.daemon.publish("news", "for both");
    assert_eq!(alice.texts(2), ["for alice", "for both"]);
    assert_eq!(bob.texts(3), ["for bob", "a name to be encoded", "for both"]);

    let cursor = bob.last_event_id();
    drop(bob);
    site.daemon.publish("news", "meanwhile");
    assert_eq!(Stream::new(site.open("bob", "", &cursor)).texts(1), ["meanwhile"]);
    let query = format!("?last_event_id={cursor}");
    assert_eq!(Stream::new(site.open("bob", &query, "")).texts(1), ["meanwhile"]);
}

#[test]
fn clients_that_are_not_signed_in_get_no_stream() {
    needs!("nginx", "python3");
    let site = Site::start();
    assert_eq!(site.open("mallory", "", "").status(), 401);
    assert_eq!(Request::get("/my-events/?channels=news").send(&site.nginx.sse()).status(), 401);
    for path in ["/sse/?channels=news", "/ssecast-authorize", "/sse/healthz", "/my-events?channels=news"] {
        assert_eq!(Request::get(path).send(&site.nginx.sse()).status(), 404, "{path}");
    }
}

#[test]
fn while_the_application_is_down_browsers_retry_with_their_id() {
    needs!("nginx", "python3");
    let mut site = Site::start();
    site.backend.kill();
    let response = site.open("alice", "", "abcdefgh-1");
    assert_eq!(response.status(), 200, "an EventSource gives up for good on any other status");
    let body = String::from_utf8(response.body()).unwrap();
    assert!(body.contains("retry: "), "{body}");
    assert!(body.contains("id: abcdefgh-1\n"), "an event without an id would make the browser forget its own: {body}");
}

#[test]
fn one_tcp_port_publishes_and_reads_as_cyclone_sse_did() {
    needs!("nginx");
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, "");
    let server = fs::read_to_string(example("tcp-8888.conf")).unwrap();
    let locations: String = server.lines().filter(|line| line.starts_with("    location")).collect();
    let locations = locations.replace("/run/ssecast/admin.sock", daemon.admin().path().to_str().unwrap());
    let nginx = Nginx::start_edited(&folder, daemon.public().path(), |snippet| snippet + &locations);
    let mut stream = Subscription::to(&["base"]).open(&nginx.sse());
    let form = "application/x-www-form-urlencoded";
    let publish = |body: &str| Request::post("/publish", form, body).send(&nginx.sse());
    assert_eq!(publish("message=%5B123%2C+124%5D&channel=base").json()["status"], "ok");
    assert_eq!(Request::post("/publish/base", "", "raw").send(&nginx.sse()).status(), 200);
    assert_eq!(stream.texts(2), ["[123, 124]", "raw"]);
    assert_eq!(Request::get("/stats").send(&nginx.sse()).json(), serde_json::json!([["base", 1]]));
    let page = Request::post("/publish", form, "message=x&channel=base").header("Origin", "http://elsewhere.example");
    assert_eq!(page.send(&nginx.sse()).status(), 403, "a page in a browser on this machine can't publish");
    for path in ["/reload", "/readyz"] {
        assert_eq!(Request::get(path).send(&nginx.sse()).status(), 404, "{path}");
    }
}

#[test]
fn the_page_shows_messages_and_reloads_after_a_gap() {
    needs!("chromium", "nginx", "node");
    let folder = Folder::new();
    let mut daemon = Daemon::start(&folder, "[stream]\nretry = \"10ms..20ms\"\n");
    let page = example("page.html");
    let location = format!("location = /page.html {{ alias {}; }}\n", page.display());
    let nginx = Nginx::start_edited(&folder, daemon.public().path(), |snippet| snippet + &location);
    let mut command = Command::new(program_in_path("node"));
    command.env("CHROMIUM", program_in_path("chromium"));
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/page.mjs"));
    command.arg(nginx.url("/page.html?channel=gr%C3%B6%C3%9Fe%20%26%2B%3D%25"));
    let browser = Child::start("page.mjs", &mut command, folder.path("page.log"));
    let shown = || -> Value {
        let log = browser.log();
        let whole_lines = log.rfind('\n').map_or("", |end| &log[..end]);
        whole_lines.lines().last().map_or(Value::Null, |line| serde_json::from_str(line).unwrap())
    };
    eventually("the page says that its stream is open", || (shown()["state"] == "open").then_some(()));
    daemon.publish(CHANNEL, "<b>first</b>");
    eventually("the message is shown as text", || (shown()["messages"][0] == "<b>first</b>").then_some(()));
    daemon.start_again();
    let again = "(loading again: größe &+=%; restart)";
    eventually("the page has loaded its data again", || (shown()["messages"][1] == again).then_some(()));
    eventually("its stream is open again", || (daemon.subscribers(CHANNEL) == 1).then_some(()));
    daemon.publish(CHANNEL, "second");
    eventually("the next message is shown", || (shown()["messages"][2] == "second").then_some(()));
}
