//! What is compared: servers that can be started in a folder of their own, and are ended with it.

use std::{
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, bail};
use ssecast::cli::bench::{
    publisher::{self, Publisher},
    target::Target,
};

use crate::{bare_loop, nginx};

/// A server by its kind. Add one here, and to the scenarios that it takes part in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    /// [`bare_loop`].
    BareLoop,
    /// The daemon of this crate.
    Ssecast,
    /// The same, serving its clients on TCP without nginx.
    SsecastTcp,
    /// A bare loop behind nginx with the snippet that ssecast ships.
    NginxBareLoop,
    /// ssecast behind the same nginx.
    NginxSsecast,
    /// nginx's own: the nchan module, on TCP.
    Nchan,
}

/// A started server. Dropping it ends its processes.
pub(crate) struct Running {
    pub(crate) target: Target,
    pub(crate) publisher: Box<dyn Publisher>,
    pub(crate) processes: Processes,
}

/// Children, ended in the reverse order of their start.
#[derive(Default)]
pub(crate) struct Processes(Vec<Child>);

impl Contender {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::BareLoop => "bare loop",
            Self::Ssecast => "ssecast",
            Self::SsecastTcp => "ssecast on TCP",
            Self::NginxBareLoop => "nginx + bare loop",
            Self::NginxSsecast => "nginx + ssecast",
            Self::Nchan => "nchan",
        }
    }

    /// Whether what it needs is on this machine.
    pub(crate) fn is_there(self) -> bool {
        match self {
            Self::BareLoop | Self::Ssecast | Self::SsecastTcp => true,
            Self::NginxBareLoop | Self::NginxSsecast => nginx::is_there(),
            Self::Nchan => nginx::is_there() && nginx::nchan().is_some(),
        }
    }

    /// Starts it with everything it needs in `dir`, and returns when it accepts clients.
    pub(crate) fn start(self, dir: &Path) -> anyhow::Result<Running> {
        let public = dir.join("public.sock");
        let direct = format!("unix://{}", public.display());
        let mut processes = Processes::default();
        let (url, publisher) = match self {
            Self::BareLoop => (direct, start_bare_loop(&public, &mut processes)?),
            Self::Ssecast => (direct, start_ssecast(dir, &public, &mut processes)?),
            Self::SsecastTcp => {
                let url = format!("tcp://127.0.0.1:{}", nginx::free_port()?);
                let publisher = start_ssecast(dir, Path::new(&url), &mut processes)?;
                (url, publisher)
            }
            Self::NginxBareLoop => {
                let publisher = start_bare_loop(&public, &mut processes)?;
                (processes.start_nginx(nginx::with_snippet(dir, &public)?)? + "sse/", publisher)
            }
            Self::NginxSsecast => {
                let publisher = start_ssecast(dir, &public, &mut processes)?;
                (processes.start_nginx(nginx::with_snippet(dir, &public)?)? + "sse/", publisher)
            }
            Self::Nchan => {
                let module = nginx::nchan().context("nchan is not there")?;
                let url = processes.start_nginx(nginx::with_nchan(dir, module)?)?;
                let publisher = publisher::open(&format!("{url}pub/{{channel}}"))?;
                (url + "sub/{channels}", publisher)
            }
        };
        Ok(Running { target: url.parse()?, publisher, processes })
    }
}

fn start_bare_loop(public: &Path, processes: &mut Processes) -> anyhow::Result<Box<dyn Publisher>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(crate::BARE_LOOP).arg(public).stdin(Stdio::piped());
    let stdin = processes.start(command)?.stdin.take().context("the bare loop has no standard input")?;
    wait_until("the bare loop accepts connections", || UnixStream::connect(public).is_ok())?;
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
    // As wide as ssecast's positions, or frames would differ in length.
    let position = u64::try_from(since.as_micros())?;
    Ok(Box::new(bare_loop::Commands { stdin, node: "benchbar".parse()?, position }))
}

/// Starts the daemon with `public` as `listen.public`.
fn start_ssecast(dir: &Path, public: &Path, processes: &mut Processes) -> anyhow::Result<Box<dyn Publisher>> {
    let admin = dir.join("admin.sock");
    let config = dir.join("ssecast.toml");
    std::fs::write(&config, format!("[listen]\npublic = {public:?}\nadmin = {admin:?}\n"))?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_ssecast"));
    command.arg("serve").arg("--config").arg(&config).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(std::fs::File::create(dir.join("ssecast.log"))?);
    processes.start(command)?;
    // It binds the public socket first.
    wait_until("ssecast accepts connections", || UnixStream::connect(&admin).is_ok())?;
    publisher::open(&format!("unix://{}", admin.display()))
}

impl Processes {
    pub(crate) fn ids(&self) -> Vec<u32> {
        self.0.iter().map(Child::id).collect()
    }

    /// Starts nginx, and gives its URL when a worker answers: connections are accepted before there is one.
    fn start_nginx(&mut self, nginx: nginx::Prepared) -> anyhow::Result<String> {
        self.start(nginx.command)?;
        wait_until("nginx answers", || nginx::answers(nginx.port))?;
        Ok(format!("http://127.0.0.1:{}/", nginx.port))
    }

    fn start(&mut self, mut command: Command) -> anyhow::Result<&mut Child> {
        let child = command.spawn().with_context(|| format!("{:?} can't be started", command.get_program()))?;
        self.0.push(child);
        self.0.last_mut().context("a child was just pushed")
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in self.0.iter_mut().rev() {
            // TERM, so that nginx's master ends its workers.
            let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
            let deadline = Instant::now() + Duration::from_secs(3);
            while matches!(child.try_wait(), Ok(None)) {
                if Instant::now() > deadline {
                    let _ = child.kill();
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

fn wait_until(what: &str, mut is: impl FnMut() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is() {
        if Instant::now() > deadline {
            bail!("waited 10 s in vain: {what}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
