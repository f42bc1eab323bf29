//! The program under test, with its sockets in a test's folder.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    thread,
    time::Duration,
};

use nix::sys::signal::{Signal, kill};

use super::{
    child::{Child, processes_of},
    folder::Folder,
    http::Request,
    response::Response,
    socket::Endpoint,
};

/// The program that Cargo has built.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_ssecast");

pub(crate) struct Daemon {
    child: Child,
    program: PathBuf,
    config: PathBuf,
    log: PathBuf,
    public: Endpoint,
    admin: Endpoint,
}

impl Daemon {
    /// Starts it with the tables `tables` beside `[listen]`, and waits until it is ready.
    pub(crate) fn start(folder: &Folder, tables: &str) -> Self {
        let mut daemon = Self::start_unready(folder, tables);
        daemon.wait_until_ready();
        daemon
    }

    /// As [`Daemon::start`], but waits only until it answers: its sources may be disconnected.
    pub(crate) fn start_unready(folder: &Folder, tables: &str) -> Self {
        Self::start_named(folder, "ssecast", tables)
    }

    /// Starts a daemon whose files in `folder` begin with `name`, for tests with several.
    pub(crate) fn start_named(folder: &Folder, name: &str, tables: &str) -> Self {
        Self::start_program(Path::new(PROGRAM), folder, name, tables)
    }

    /// As [`Daemon::start_named`], from a copy of the program, which a test may replace.
    pub(crate) fn start_program(program: &Path, folder: &Folder, name: &str, tables: &str) -> Self {
        let public = folder.path(&format!("{name}.sock"));
        let admin = folder.path(&format!("{name}-admin.sock"));
        let (public, admin) = (Endpoint::unix(&public), Endpoint::unix(&admin));
        let config = folder.write(&format!("{name}.toml"), &(listen_table(&public, &admin) + tables));
        let log = folder.path(&format!("{name}.log"));
        let child = Self::spawn(program, &config, &log);
        let mut daemon = Self { child, program: program.to_owned(), config, log, public, admin };
        daemon.wait_until_it_answers();
        daemon
    }

    /// As [`Daemon::start`], with the admin socket at an address on loopback.
    pub(crate) fn start_with_tcp_admin(folder: &Folder, tables: &str) -> Self {
        let public = Endpoint::unix(&folder.path("ssecast.sock"));
        let admin = Endpoint::tcp((std::net::Ipv4Addr::LOCALHOST, super::free_port()).into());
        let config = folder.write("ssecast.toml", &(listen_table(&public, &admin) + tables));
        let log = folder.path("ssecast.log");
        let program = Path::new(PROGRAM);
        let child = Self::spawn(program, &config, &log);
        let mut daemon = Self { child, program: program.to_owned(), config, log, public, admin };
        daemon.wait_until_it_answers();
        daemon
    }

    fn spawn(program: &Path, config: &Path, log: &Path) -> Child {
        let mut command = Command::new(program);
        command.arg("serve").arg("--config").arg(config);
        Child::start("ssecast", &mut command, log.to_owned())
    }

    /// Starts it again, with the same configuration, after its end.
    pub(crate) fn start_again(&mut self) {
        self.child.kill();
        self.child = Self::spawn(&self.program, &self.config, &self.log);
        self.wait_until_it_answers();
    }

    /// Writes a new configuration for the next reload: `tables` beside the same sockets.
    pub(crate) fn configure(&self, tables: &str) {
        let listen = listen_table(&self.public, &self.admin);
        std::fs::write(&self.config, listen + tables).unwrap();
    }

    /// Reloads: a new process takes over.
    pub(crate) fn reload(&mut self) {
        self.try_reload().unwrap_or_else(|refusal| panic!("{refusal}\n{}", self.child.log()));
    }

    /// Reloads. Returns the refusal if no new process took over.
    pub(crate) fn try_reload(&mut self) -> Result<(), String> {
        let answer = Request::post("/reload", "", "").send(&self.admin).json();
        let Some(pid) = answer["pid"].as_u64() else { return Err(answer.to_string()) };
        self.child.succeed(u32::try_from(pid).unwrap());
        Ok(())
    }

    fn wait_until_it_answers(&mut self) {
        let admin = self.admin.clone();
        self.child.wait_until("answering", || {
            admin.connect().is_ok() && Request::get("/healthz").send(&admin).status() == 200
        });
    }

    /// Waits until all its sources are connected.
    pub(crate) fn wait_until_ready(&mut self) {
        let admin = self.admin.clone();
        self.child.wait_until("ready", || Request::get("/readyz").send(&admin).status() == 200);
    }

    /// Where nginx connects.
    pub(crate) fn public(&self) -> &Endpoint {
        &self.public
    }

    /// Where publishers connect.
    pub(crate) fn admin(&self) -> &Endpoint {
        &self.admin
    }

    pub(crate) fn config(&self) -> &Path {
        &self.config
    }

    /// The process that the test started. A successor may have taken over.
    pub(crate) fn first_pid(&self) -> u32 {
        self.child.pid()
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// `GET path` on the admin socket.
    pub(crate) fn admin_get(&self, path: &str) -> Response {
        Request::get(path).header("Connection", "close").send(&self.admin)
    }

    /// Every channel with subscribers, and how many.
    pub(crate) fn stats(&self) -> Vec<(String, usize)> {
        serde_json::from_value(self.admin_get("/stats").json()).unwrap()
    }

    /// Number of clients of a channel.
    pub(crate) fn subscribers(&self, channel: &str) -> usize {
        self.stats().into_iter().find(|(name, _)| name == channel).map_or(0, |(_, count)| count)
    }

    /// Asserts that it still answers, on both sockets.
    pub(crate) fn assert_serving(&mut self) {
        let ended = self.child.ended();
        assert_eq!(ended, None, "it has ended:\n{}", self.child.log());
        assert_eq!(self.admin_get("/healthz").status(), 200);
        assert_eq!(Request::get("/healthz").header("Connection", "close").send(&self.public).status(), 200);
    }

    /// Sends SIGTERM, as systemd does.
    pub(crate) fn terminate(&self) {
        self.child.signal(Signal::SIGTERM);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // A test that fails in the middle of a reload does not know the successor.
        if thread::panicking() {
            for process in processes_of(&self.config) {
                let _ = kill(process, Signal::SIGKILL);
            }
        }
    }
}

fn listen_table(public: &Endpoint, admin: &Endpoint) -> String {
    format!("[listen]\npublic = {:?}\nadmin = {:?}\n\n", public.config_address(), admin.config_address())
}

/// Runs the program with `arguments`, and `input` as its standard input, until it ends.
pub(crate) fn run(arguments: &[&str], input: &[u8]) -> Output {
    use std::{io::Write, process::Stdio};
    let mut child = Command::new(PROGRAM)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The program may end before it has read everything.
    let _ = child.stdin.take().unwrap().write_all(input);
    let pid = child.id();
    let (ended, has_ended) = std::sync::mpsc::channel();
    let watchdog = thread::spawn(move || {
        let limit = super::PATIENCE;
        if has_ended.recv_timeout(limit).is_err_and(|error| error == std::sync::mpsc::RecvTimeoutError::Timeout) {
            let _ = kill(nix::unistd::Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
    });
    let output = child.wait_with_output().unwrap();
    let _ = ended.send(());
    watchdog.join().unwrap();
    output
}

/// How long a daemon may take to stop, beyond its drain time.
pub(crate) const GRACE: Duration = Duration::from_secs(20);
