//! The servers that are compared. Each is started in its own folder. Measures nothing.

use std::{
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, bail};
use ssecast_bench::{
    publisher::{self, Publisher},
    target::Target,
};

use crate::{bare_loop, nginx};

/// A server by its kind. Add one here, and to the scenarios that it takes part in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    /// [`bare_loop`].
    BareLoop,
    /// [`hyper_body`](crate::hyper_body).
    HyperBody,
    /// The daemon.
    Ssecast(Build),
    /// The same, serving its clients on TCP without nginx.
    SsecastTcp(Build),
    /// A bare loop behind nginx with the snippet that ssecast ships.
    NginxBareLoop,
    /// ssecast behind the same nginx.
    NginxSsecast(Build),
    /// nginx with the nchan module, on TCP.
    Nchan,
}

/// Which program is run as ssecast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Build {
    /// The one of `--program`: by default the daemon of this crate.
    Measured,
    /// The one of `--baseline`: an older build to compare with.
    Baseline,
}

/// The program of each [`Build`], set once from the command line.
static PROGRAMS: OnceLock<[Option<PathBuf>; 2]> = OnceLock::new();

impl Build {
    /// Sets the programs. Called once, before any server is started.
    pub(crate) fn set_programs(measured: Option<PathBuf>, baseline: Option<PathBuf>) {
        PROGRAMS.get_or_init(|| [measured, baseline]);
    }

    /// The path of the program; `None` for a baseline that was not given.
    fn program(self) -> Option<PathBuf> {
        let [measured, baseline] = PROGRAMS.get().cloned().unwrap_or_default();
        match self {
            Self::Measured => Some(measured.unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_ssecast")))),
            Self::Baseline => baseline,
        }
    }
}

/// A started server. Dropping it ends its processes.
pub(crate) struct StartedServer {
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
            Self::HyperBody => "hyper, body each",
            Self::Ssecast(Build::Measured) => "ssecast",
            Self::Ssecast(Build::Baseline) => "baseline",
            Self::SsecastTcp(Build::Measured) => "ssecast on TCP",
            Self::SsecastTcp(Build::Baseline) => "baseline on TCP",
            Self::NginxBareLoop => "nginx + bare loop",
            Self::NginxSsecast(Build::Measured) => "nginx + ssecast",
            Self::NginxSsecast(Build::Baseline) => "nginx + baseline",
            Self::Nchan => "nchan",
        }
    }

    /// The older build in the same place; `None` for what is no measured ssecast.
    pub(crate) fn baseline(self) -> Option<Self> {
        match self {
            Self::Ssecast(Build::Measured) => Some(Self::Ssecast(Build::Baseline)),
            Self::SsecastTcp(Build::Measured) => Some(Self::SsecastTcp(Build::Baseline)),
            Self::NginxSsecast(Build::Measured) => Some(Self::NginxSsecast(Build::Baseline)),
            _ => None,
        }
    }

    /// Whether it is an older build of ssecast.
    pub(crate) fn is_baseline(self) -> bool {
        matches!(
            self,
            Self::Ssecast(Build::Baseline) | Self::SsecastTcp(Build::Baseline) | Self::NginxSsecast(Build::Baseline)
        )
    }

    /// Whether what it needs is on this machine.
    pub(crate) fn is_there(self) -> bool {
        match self {
            Self::BareLoop | Self::HyperBody => true,
            Self::Ssecast(build) | Self::SsecastTcp(build) => build.program().is_some(),
            Self::NginxBareLoop => nginx::is_there(),
            Self::NginxSsecast(build) => nginx::is_there() && build.program().is_some(),
            Self::Nchan => nginx::is_there() && nginx::nchan().is_some(),
        }
    }

    /// Starts it with everything it needs in `dir`, and returns when it accepts clients.
    pub(crate) fn start(self, dir: &Path) -> anyhow::Result<StartedServer> {
        let public = dir.join("public.sock");
        let direct = format!("unix://{}", public.display());
        let mut processes = Processes::default();
        let (url, publisher) = match self {
            Self::BareLoop => (direct, start_bare_loop(crate::BARE_LOOP, &public, &mut processes)?),
            Self::HyperBody => (direct, start_bare_loop(crate::HYPER_BODY, &public, &mut processes)?),
            Self::Ssecast(build) => (direct, start_ssecast(build, dir, &public, &mut processes)?),
            Self::SsecastTcp(build) => {
                let url = format!("tcp://127.0.0.1:{}", nginx::free_port()?);
                let publisher = start_ssecast(build, dir, Path::new(&url), &mut processes)?;
                (url, publisher)
            }
            Self::NginxBareLoop => {
                let publisher = start_bare_loop(crate::BARE_LOOP, &public, &mut processes)?;
                (processes.start_nginx(nginx::with_snippet(dir, &public)?)? + "sse/", publisher)
            }
            Self::NginxSsecast(build) => {
                let publisher = start_ssecast(build, dir, &public, &mut processes)?;
                (processes.start_nginx(nginx::with_snippet(dir, &public)?)? + "sse/", publisher)
            }
            Self::Nchan => {
                let module = nginx::nchan().context("nchan is not there")?;
                let url = processes.start_nginx(nginx::with_nchan(dir, module)?)?;
                let publisher = publisher::open(&format!("{url}pub/{{channel}}"))?;
                (url + "sub/{channels}", publisher)
            }
        };
        Ok(StartedServer { target: url.parse()?, publisher, processes })
    }
}

/// This program as the server that `argument` names: both take their frames on standard input.
fn start_bare_loop(argument: &str, public: &Path, processes: &mut Processes) -> anyhow::Result<Box<dyn Publisher>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(argument).arg(public).stdin(Stdio::piped());
    let stdin = processes.start(&mut command)?.stdin.take().context("the bare loop has no standard input")?;
    wait_until("the bare loop accepts connections", || UnixStream::connect(public).is_ok())?;
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
    // As wide as ssecast's positions, or frames would differ in length.
    let position = u64::try_from(since.as_micros())?;
    Ok(Box::new(bare_loop::Commands { stdin, position }))
}

/// Starts the daemon with `public` as `listen.public`.
fn start_ssecast(
    build: Build,
    dir: &Path,
    public: &Path,
    processes: &mut Processes,
) -> anyhow::Result<Box<dyn Publisher>> {
    let (admin, _) = start_build(build, dir, public, "", processes)?;
    publisher::open(&format!("unix://{}", admin.display()))
}

/// Starts the measured daemon with more `tables` of configuration; gives its admin socket and its process.
pub(crate) fn start_daemon(
    dir: &Path,
    public: &Path,
    tables: &str,
    processes: &mut Processes,
) -> anyhow::Result<(PathBuf, u32)> {
    start_build(Build::Measured, dir, public, tables, processes)
}

fn start_build(
    build: Build,
    dir: &Path,
    public: &Path,
    tables: &str,
    processes: &mut Processes,
) -> anyhow::Result<(PathBuf, u32)> {
    let admin = dir.join("admin.sock");
    let config = dir.join("ssecast.toml");
    std::fs::write(&config, format!("[listen]\npublic = {public:?}\nadmin = {admin:?}\n{tables}"))?;
    let mut command = Command::new(build.program().context("--baseline names no program")?);
    command.arg("serve").arg("--config").arg(&config).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(std::fs::File::create(dir.join("ssecast.log"))?);
    let pid = processes.start(&mut command)?.id();
    // It binds the public socket first.
    wait_until("ssecast accepts connections", || UnixStream::connect(&admin).is_ok())?;
    Ok((admin, pid))
}

impl Processes {
    pub(crate) fn ids(&self) -> Vec<u32> {
        self.0.iter().map(Child::id).collect()
    }

    /// Starts nginx, and gives its URL when a worker answers: connections are accepted before there is one.
    pub(crate) fn start_nginx(&mut self, mut nginx: nginx::Prepared) -> anyhow::Result<String> {
        self.start(&mut nginx.command)?;
        wait_until("nginx answers", || nginx::answers(nginx.port))?;
        Ok(format!("http://127.0.0.1:{}/", nginx.port))
    }

    pub(crate) fn start(&mut self, command: &mut Command) -> anyhow::Result<&mut Child> {
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

/// Waits at most 10 s.
pub(crate) fn wait_until(what: &str, mut is: impl FnMut() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is() {
        if Instant::now() > deadline {
            bail!("not within 10 s: {what}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
