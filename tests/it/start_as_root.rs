//! The daemon as root starts it without systemd: `--daemon`, its user and group, its pidfile, log and init script. Also its sockets
//! from a service manager, and its notifications to one.

mod links;
mod site;

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{MetadataExt as _, PermissionsExt as _, chown},
            net::{UnixDatagram, UnixListener, UnixStream},
            process::CommandExt as _,
        },
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::{sys::signal::Signal, unistd::User};

use site::{DaemonProcess, PATIENCE, PROGRAM, Site, has_ended, lasting_refusal, refusal, serves, wait_for};

#[test]
fn the_starter_ends_with_0_once_the_daemon_serves_and_the_daemon_removes_its_files() {
    let Some(site) = Site::new("the starter") else { return };
    let output = site.daemon(&[]);
    // The daemon must serve at once, so don't wait.
    assert!(site.serves(), "{output:?}");
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
    let text = site.read("run/pid");
    let daemon = DaemonProcess(text.strip_suffix('\n').unwrap().parse().unwrap());
    let proc = PathBuf::from(format!("/proc/{}", daemon.0));
    assert_eq!(fs::read_link(proc.join("cwd")).unwrap(), Path::new("/"));
    assert_eq!(fs::read_link(proc.join("fd/0")).unwrap(), Path::new("/dev/null"));
    for output in ["fd/1", "fd/2"] {
        assert_eq!(fs::read_link(proc.join(output)).unwrap(), site.path("log/log"));
    }
    // Fields 6 and 7 are the session and its terminal. The daemon must not lead its session, so that it never gets a terminal.
    let stat = fs::read_to_string(proc.join("stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    assert_ne!(fields[3], daemon.0.to_string());
    assert_eq!(fields[4], "0");
    let mode = |name: &str| fs::metadata(site.path(name)).unwrap().mode() & 0o777;
    assert_eq!((mode("run/public"), mode("run/admin"), mode("run/pid"), mode("log/log")), (0o660, 0o660, 0o644, 0o640));

    daemon.end(Signal::SIGTERM);
    assert_eq!(fs::read_dir(site.path("run")).unwrap().count(), 0, "pidfile and sockets are removed");
    assert!(site.read("log/log").contains("stopping"), "{}", site.read("log/log"));
}

#[test]
fn the_starter_reports_why_the_daemon_does_not_serve() {
    let Some(site) = Site::new("why the daemon does not serve") else { return };
    // Before it detaches.
    fs::write(site.path("file"), "").unwrap();
    let error = refusal(&site.daemon(&["--socket", "file/public"]));
    assert!(error.starts_with("ssecast: can't ") && error.contains("file/public"), "{error}");

    let socket = UnixListener::bind(site.path("busy")).unwrap();
    let error = refusal(&site.daemon(&["--socket", "busy"]));
    assert!(error.contains("another process answers on") && error.contains("busy"), "{error}");
    drop(socket);

    let output = site.daemon(&["--user", "no-such-user"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--user: there is no user"), "{output:?}");

    // After it has detached, the reason comes through a pipe. Here root has no permission to change its groups.
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-setgid", PROGRAM]).args(site.command(&["--daemon"]).get_args());
    let output = command.current_dir(site.folder.path()).stdin(Stdio::null()).output().unwrap();
    let error = refusal(&output);
    let reason = "can't set the groups of process.user";
    assert!(error.contains(reason), "{error}");
    // The log has it by now: the daemon writes its lines before it reports to the starter.
    assert!(site.read("log/log").contains(reason), "{error}\n{}", site.read("log/log"));
    assert_eq!(fs::read_dir(site.path("run")).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn a_second_start_is_refused_and_names_the_first_process() {
    let Some(site) = Site::new("a second start") else { return };
    let first = site.started(&[]);
    let error = refusal(&site.daemon(&[]));
    assert!(error.contains(&format!("as process {}", first.0)), "{error}");
    // Also with other sockets, because the pidfile is the same.
    let error = refusal(&site.daemon(&["--socket", "run/other", "--admin-socket", "run/another"]));
    assert!(error.contains(&format!("as process {}", first.0)), "{error}");
    assert!(site.serves() && !site.path("run/other").exists());
    assert_eq!(site.read("run/pid"), format!("{}\n", first.0));
}

#[test]
fn a_daemon_starts_in_spite_of_files_of_a_killed_one() {
    let Some(site) = Site::new("what a killed daemon leaves") else { return };
    site.started(&[]).end(Signal::SIGKILL);
    assert!(site.path("run/pid").exists() && site.path("run/public").exists());
    // The number of a running process that is not ssecast.
    fs::write(site.path("run/pid"), "1\n").unwrap();
    let next = site.started(&[]);
    assert!(site.serves());
    next.end(Signal::SIGTERM);
    assert_eq!(fs::read_dir(site.path("run")).unwrap().count(), 0);
}

#[test]
fn the_daemon_becomes_process_user_and_can_not_be_root_again() {
    let Some(site) = Site::new("the daemon is nobody") else { return };
    let nobody = User::from_name("nobody").unwrap().unwrap();
    let (uid, gid) = (nobody.uid.as_raw(), nobody.gid.as_raw());
    let daemon = site.started(&["--group", "nogroup"]);
    assert_eq!(daemon.status("Uid"), [uid; 4].map(|id| id.to_string()).join(" "));
    assert_eq!(daemon.status("Gid"), [gid; 4].map(|id| id.to_string()).join(" "));
    assert_eq!(daemon.status("Groups"), gid.to_string());
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(u64::from_str_radix(&daemon.status(set), 16).unwrap(), 0, "{set}");
    }
    assert_eq!(daemon.status("NoNewPrivs"), "1");
    for name in ["run", "run/public", "run/admin", "log", "log/log"] {
        let meta = fs::metadata(site.path(name)).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (uid, gid), "{name}");
    }
    // Root sends signals to the process in the pidfile, so only root may write it.
    assert_eq!(fs::metadata(site.path("run/pid")).unwrap().uid(), 0);
}

#[test]
fn without_root_process_user_can_only_be_the_own_user() {
    let Some(site) = Site::new("who is not root") else { return };
    let nobody = User::from_name("nobody").unwrap().unwrap();
    fs::create_dir(site.path("run")).unwrap();
    chown(site.path("run"), Some(nobody.uid.as_raw()), Some(nobody.gid.as_raw())).unwrap();
    let start = |user: &str| {
        let mut command = site.command(&["--daemon", "--log-file", "run/log", "--user", user]);
        command.uid(nobody.uid.as_raw()).gid(nobody.gid.as_raw()).output().unwrap()
    };
    let error = lasting_refusal(&start("daemon"));
    assert!(error.contains(r#"can't become process.user "daemon""#) && error.contains("as root"), "{error}");
    // The successor at an upgrade does the same.
    let output = start("nobody");
    assert!(output.status.success(), "{output:?}");
    let daemon = DaemonProcess(site.read("run/pid").trim().parse().unwrap());
    assert_eq!(daemon.status("NoNewPrivs"), "1");
}

/// The reload reported only that the new process ended with exit status 64.
#[test]
fn a_reload_with_another_user_fails_with_the_reason() {
    let Some(site) = Site::new("a reload with another user") else { return };
    let nobody = User::from_name("nobody").unwrap().unwrap();
    fs::create_dir(site.path("run")).unwrap();
    chown(site.path("run"), Some(nobody.uid.as_raw()), Some(nobody.gid.as_raw())).unwrap();
    let mut child = site.command(&[]).uid(nobody.uid.as_raw()).gid(nobody.gid.as_raw()).spawn().unwrap();
    let daemon = DaemonProcess(i32::try_from(child.id()).unwrap());
    wait_for("service", || site.serves());
    fs::write(site.path("c.toml"), "[process]\nuser = \"daemon\"\n").unwrap();
    let reload = Command::new(PROGRAM).args(["reload", "--admin-socket"]).arg(site.path("run/admin")).output().unwrap();
    let error = String::from_utf8(reload.stderr).unwrap();
    assert_eq!(reload.status.code(), Some(1), "{error}");
    assert!(error.contains(r#"can't become process.user "daemon": ssecast runs as user "nobody""#), "{error}");
    assert!(error.contains("a reload can't change the user: restart ssecast for that"), "{error}");
    assert!(site.serves());
    daemon.signal(Signal::SIGTERM);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_pidfile_that_can_not_be_removed_is_emptied() {
    let Some(site) = Site::new("a pidfile in root's folder") else { return };
    let daemon = site.started(&[]);
    let other = Site::new("a pidfile in root's folder").unwrap();
    let path = other.path("pid");
    let output = other.daemon(&["--pidfile", path.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let in_roots_folder = DaemonProcess(other.read("pid").trim().parse().unwrap());
    in_roots_folder.end(Signal::SIGTERM);
    assert_eq!(other.read("pid"), "");
    assert!(path.exists() && site.serves());
    drop(daemon);
    let again = other.daemon(&["--pidfile", path.to_str().unwrap()]);
    assert!(again.status.success(), "{again:?}");
    drop(DaemonProcess(other.read("pid").trim().parse().unwrap()));
}

#[test]
fn sigusr1_reopens_the_log_file() {
    let Some(site) = Site::new("SIGUSR1") else { return };
    let daemon = site.started(&[]);
    fs::rename(site.path("log/log"), site.path("log/log.1")).unwrap();
    daemon.signal(Signal::SIGUSR1);
    wait_for("new log", || site.read("log/log").contains("reopened"));
    assert!(site.read("log/log.1").contains("serving"));
    // Standard error goes to the new file too.
    let output = fs::read_link(format!("/proc/{}/fd/2", daemon.0)).unwrap();
    assert_eq!(output, site.path("log/log"));
    assert!(site.serves());
}

#[test]
fn core_limit_and_log_format_are_set_and_inherited_files_are_closed() {
    let Some(site) = Site::new("core limit") else { return };
    fs::write(site.path("c.toml"), "[process]\ncore_limit = \"1MiB\"\nlog_format = \"json\"\n").unwrap();
    fs::write(site.path("strange"), "").unwrap();
    let serve = site.command(&["--daemon"]);
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$@\" 9<strange", "sh", PROGRAM]).args(serve.get_args());
    let output = command.current_dir(site.folder.path()).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let daemon = DaemonProcess(site.read("run/pid").trim().parse().unwrap());
    let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.0)).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(line.split_whitespace().nth(4), Some("1048576"), "{line}");
    // A process that may dump core belongs to its user.
    assert_ne!(fs::metadata(format!("/proc/{}", daemon.0)).unwrap().uid(), 0);
    let log = site.read("log/log");
    assert!(log.lines().all(|line| line.starts_with('{') && line.ends_with('}')), "{log}");
    let files = fs::read_dir(format!("/proc/{}/fd", daemon.0)).unwrap().flatten();
    let strange = files.filter(|file| fs::read_link(file.path()).is_ok_and(|to| to == site.path("strange")));
    assert_eq!(strange.count(), 0);
}

/// Starts the program with two listening sockets as the descriptors 3 and 4, under these names.
fn with_sockets(site: &Site, names: &str, sockets: [OwnedFd; 2], pid: &str) -> Command {
    let [public, admin] = sockets;
    let program = format!("export LISTEN_PID={pid}; exec \"$@\" 3<&0 4<&1 0</dev/null 1>&2");
    let mut command = Command::new("sh");
    command.args(["-c", &program, "sh", PROGRAM]).args(site.command(&[]).get_args());
    command.current_dir(site.folder.path()).stdin(public).stdout(admin).stderr(Stdio::piped());
    command.env("LISTEN_FDS", "2").env("LISTEN_FDNAMES", names);
    command
}

#[test]
fn sockets_of_the_service_manager_are_taken_by_name_and_left_in_place() {
    let Some(site) = Site::new("inherited sockets") else { return };
    let bind = |name: &str| OwnedFd::from(UnixListener::bind(site.path(name)).unwrap());
    // The names are in the reverse order of the numbers.
    let sockets = [bind("a"), bind("b")];
    let mut child = with_sockets(&site, "admin:ssecast-public", sockets, "$$").spawn().unwrap();
    let daemon = DaemonProcess(i32::try_from(child.id()).unwrap());
    wait_for("service on b", || serves(&site.path("b")));
    let mut admin = UnixStream::connect(site.path("a")).unwrap();
    admin.write_all(b"GET /stats HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    admin.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("[]") || answer.trim_end().ends_with("[]"), "{answer}");
    assert!(!site.path("run").exists(), "nothing is bound");
    for fd in [3, 4] {
        let info = fs::read_to_string(format!("/proc/{}/fdinfo/{fd}", daemon.0)).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim().to_owned();
        assert_ne!(i64::from_str_radix(&flags, 8).unwrap() & 0o2_000_000, 0, "closed on exec");
    }
    daemon.signal(Signal::SIGTERM);
    assert!(child.wait().unwrap().success());
    assert!(site.path("a").exists() && site.path("b").exists());

    let output = with_sockets(&site, "admin:web", [bind("c"), bind("d")], "$$").output().unwrap();
    let error = lasting_refusal(&output);
    assert!(error.contains(r#""web""#) && error.contains("FileDescriptorName=public"), "{error}");

    // LISTEN_PID of another process: the sockets are ignored.
    let mut child = with_sockets(&site, "public:admin", [bind("e"), bind("f")], "1").spawn().unwrap();
    let daemon = DaemonProcess(i32::try_from(child.id()).unwrap());
    wait_for("service on its own socket", || site.serves());
    daemon.signal(Signal::SIGTERM);
    assert!(child.wait().unwrap().success());
}

/// Two sockets named `admin` were refused; a TCP socket was lost at a reload, since its address is not the configured one.
#[test]
fn admin_sockets_of_the_service_manager_on_a_path_and_on_tcp_are_served_before_and_after_a_reload() {
    let Some(site) = Site::new("several admin sockets") else { return };
    let path = site.path("a");
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap();
    let sockets = [UnixListener::bind(&path).unwrap().into(), tcp.into()];
    let mut child = with_sockets(&site, "admin:admin", sockets, "$$").spawn().unwrap();
    let first = DaemonProcess(i32::try_from(child.id()).unwrap());
    wait_for("service", || serves(&site.path("run/public")));
    let request = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let serves_tcp = || {
        let mut stream = TcpStream::connect(port).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.starts_with("HTTP/1.1 200 ")
    };
    assert!(serves(&path) && serves_tcp());
    let reload = Command::new(PROGRAM).args(["reload", "--admin-socket"]).arg(&path).output().unwrap();
    assert!(reload.status.success(), "{reload:?}");
    assert!(serves(&path) && serves_tcp());
    // The first process stays as the supervising one, and passes the signal on.
    first.signal(Signal::SIGTERM);
    assert!(child.wait().unwrap().success());
    assert!(path.exists(), "the socket's file is the service manager's");
}

#[test]
fn the_service_manager_gets_ready_status_watchdog_and_stopping() {
    let Some(site) = Site::new("the service manager") else { return };
    let manager = UnixDatagram::bind(site.path("notify")).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let receive = || {
        let mut buffer = [0; 4096];
        let count = manager.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    };
    let mut command = site.command(&[]);
    command.env("NOTIFY_SOCKET", site.path("notify")).env("WATCHDOG_USEC", "200000").stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let daemon = DaemonProcess(i32::try_from(child.id()).unwrap());
    assert_eq!(receive(), "READY=1\n");
    assert!(site.serves());
    let since = Instant::now();
    for _ in 0..5 {
        assert_eq!(receive(), "STATUS=0 clients, 0 channels, 0 events/s\nWATCHDOG=1\n");
    }
    assert!(since.elapsed() >= Duration::from_millis(300), "not more often than the watchdog needs");
    daemon.signal(Signal::SIGTERM);
    wait_for("STOPPING=1", || receive().starts_with("STOPPING=1\n"));
    assert!(child.wait().unwrap().success());
}

#[test]
fn the_init_script_starts_restarts_and_stops() {
    let Some(site) = Site::new("the init script") else { return };
    let tools = ["/sbin/start-stop-daemon", "/usr/sbin/start-stop-daemon"];
    if !tools.iter().any(|tool| Path::new(tool).exists()) || !Path::new("/lib/lsb/init-functions").exists() {
        let _ = writeln!(io::stderr(), "SKIPPED the init script: start-stop-daemon or the LSB functions are not here");
        return;
    }
    let script = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/ssecast.init")).unwrap();
    let path = |name: &str| site.path(name).display().to_string();
    let script = script
        .replace("DAEMON=/usr/bin/ssecast\n", &format!("DAEMON={PROGRAM}\n"))
        .replace("PIDFILE=/run/ssecast.pid\n", &format!("PIDFILE={}\n", path("pid")))
        .replace("LOGFILE=/var/log/ssecast/ssecast.log\n", &format!("LOGFILE={}\n", path("log/log")))
        .replace("RUN_AS=ssecast\n", "RUN_AS=nobody\n")
        .replace("CONFIG=\"\"\n", &format!("CONFIG={}\n", path("c.toml")))
        .replace("/etc/default/$NAME", "/nowhere");
    fs::write(site.path("init"), script).unwrap();
    let config = format!("[listen]\npublic = \"{}\"\nadmin = \"{}\"\n", path("run/public"), path("run/admin"));
    fs::write(site.path("c.toml"), &config).unwrap();
    let run = |what: &str| Command::new("sh").arg(site.path("init")).arg(what).stdin(Stdio::null()).output().unwrap();
    let number = || DaemonProcess(site.read("pid").trim().parse().unwrap());

    assert_eq!(run("status").status.code(), Some(3));
    assert_eq!(run("start").status.code(), Some(0), "{:?}", site.read("log/log"));
    assert!(site.serves());
    let first = number();
    assert_eq!(run("status").status.code(), Some(0));
    assert_eq!(run("start").status.code(), Some(0));
    assert!(!has_ended(first.0));

    fs::write(site.path("c.toml"), "[listen]\npublic = 3\n").unwrap();
    assert_ne!(run("restart").status.code(), Some(0));
    assert_ne!(run("reload").status.code(), Some(0), "a reload that failed says so");
    assert!(site.serves() && !has_ended(first.0), "a broken configuration stops nothing");
    fs::write(site.path("c.toml"), &config).unwrap();
    assert_eq!(run("restart").status.code(), Some(0));
    assert!(site.serves() && has_ended(first.0));
    let second = number();
    assert_eq!(run("reload").status.code(), Some(0));
    assert!(site.serves() && has_ended(second.0));
    let third = number();
    assert_eq!(run("stop").status.code(), Some(0));
    assert!(has_ended(third.0) && !site.path("pid").exists());
    assert_eq!(run("stop").status.code(), Some(0));
}

#[test]
fn the_daemon_warns_at_start_of_unreadable_key_files_and_keys_without_effect() {
    let Some(site) = Site::new("warnings at the start") else { return };
    fs::write(site.path("keys"), "key\n").unwrap();
    fs::set_permissions(site.path("keys"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(site.path("c.toml"), format!("[publish]\nkey_files = [{:?}]\n", site.path("keys"))).unwrap();
    let daemon = site.started(&[]);
    wait_for("warning", || site.read("log/log").contains("process.user may not read this file of publish.key_files"));
    daemon.end(Signal::SIGTERM);

    // The configuration says run/public and run/admin.
    let bind = |name: &str| OwnedFd::from(UnixListener::bind(site.path(name)).unwrap());
    let mut child = with_sockets(&site, "public:admin", [bind("a"), bind("b")], "$$").spawn().unwrap();
    let daemon = DaemonProcess(i32::try_from(child.id()).unwrap());
    wait_for("service", || serves(&site.path("a")));
    daemon.signal(Signal::SIGTERM);
    let mut error = String::new();
    child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(error.contains("listen.public has no effect") && error.contains("listen.admin has no effect"), "{error}");
}

/// The daemon's user could write the pidfile, and logrotate, as root, signalled any process whose number was in it.
#[test]
fn logrotate_signals_the_daemon_and_no_other_process_that_the_pidfile_names() {
    let Some(site) = Site::new("logrotate") else { return };
    let logrotate = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/ssecast.logrotate")).unwrap();
    let (_, script) = logrotate.split_once("postrotate\n").unwrap();
    let (script, _) = script.split_once("endscript").unwrap();
    let script = script
        .replace("/run/ssecast.pid", &site.path("run/pid").display().to_string())
        .replace("/usr/bin/ssecast", PROGRAM)
        .replace("/run/systemd/system", "/nowhere");
    let run = || assert!(Command::new("sh").args(["-euc", &script]).status().unwrap().success());
    let daemon = site.started(&[]);
    let number = site.read("run/pid");
    let mut other = Command::new("sleep").arg("60").spawn().unwrap();
    fs::write(site.path("run/pid"), format!("{}\n", other.id())).unwrap();
    run();
    fs::write(site.path("run/pid"), number).unwrap();
    run();
    wait_for("reopened log", || site.read("log/log").contains("the log file was reopened"));
    assert_eq!(other.try_wait().unwrap(), None, "another process got the signal");
    other.kill().unwrap();
    other.wait().unwrap();
    daemon.end(Signal::SIGTERM);
}
