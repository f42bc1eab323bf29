//! `ssecast serve`: the daemon's flags, and the configuration that they and the file make.

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use anyhow::Context as _;
use tokio::sync::mpsc;

use super::Failure;
use crate::{
    admin::ReloadRequest,
    app::{self, Outcome, Relaunch, Start, UpgradeReceiver},
    config::{Config, ConfigErrors, Override},
    process::{
        control_channel::ControlChannel,
        daemon,
        inherit::Inherited,
        limits,
        log::Log,
        notify,
        pidfile::Pidfile,
        privileges,
        signals::{self, Asked, Signals},
        sockets::{HandedOn, Sockets},
    },
};

/// Serve: take publishes in, give events out
///
/// Flags stand over the configuration file, which stands over the defaults; `ssecast check --defaults` prints those.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ServeArgs {
    /// The configuration file [default: /etc/ssecast/ssecast.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Where nginx connects: a path, or tcp://IP:PORT (listen.public)
    #[arg(long, value_name = "ADDRESS")]
    pub socket: Option<String>,

    /// Where publishers connect: a path, or tcp://IP:PORT (listen.admin)
    #[arg(long, value_name = "ADDRESS")]
    pub admin_socket: Option<String>,

    /// Take events from this Redis, and publish to it: redis://HOST:PORT/DB or redis+unix:///PATH (redis.url)
    #[arg(long, value_name = "URL")]
    pub redis_url: Option<String>,

    /// Become this user, where root starts it (process.user)
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,

    /// With this group instead of the user's own (process.group)
    #[arg(long, value_name = "GROUP")]
    pub group: Option<String>,

    /// Write the process's number here, and hold the file's lock (process.pidfile)
    #[arg(long, value_name = "FILE")]
    pub pidfile: Option<String>,

    /// Log here instead of to standard error; SIGUSR1 reopens it (process.log_file)
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<String>,

    /// Go on in the background; ends with 0 once the daemon serves, else tells why it doesn't
    #[arg(long)]
    pub daemon: bool,
}

impl ServeArgs {
    /// The configuration: the file's, with the flags over it.
    ///
    /// # Errors
    /// Every error of the file and of the flags at once.
    pub fn config(&self) -> Result<Config, ConfigErrors> {
        let flags = [
            ("--socket", "listen.public", &self.socket),
            ("--admin-socket", "listen.admin", &self.admin_socket),
            ("--redis-url", "redis.url", &self.redis_url),
            ("--user", "process.user", &self.user),
            ("--group", "process.group", &self.group),
            ("--pidfile", "process.pidfile", &self.pidfile),
            ("--log-file", "process.log_file", &self.log_file),
        ];
        let overrides: Vec<_> = flags
            .into_iter()
            .filter_map(|(flag, key, value)| Some(Override { flag, key, value: value.clone()? }))
            .collect();
        Config::assemble(self.config.as_deref(), &overrides)
    }
}

/// Runs the daemon until SIGTERM or SIGINT, or until another process has taken over. With `--daemon`, the process that was
/// called ends with 0 once the daemon serves.
///
/// # Errors
/// Every error of the configuration (exit code 64), or what keeps the daemon from serving (1).
pub fn run(args: &ServeArgs) -> Result<(), Failure> {
    // Before any file is opened: it comes by its number.
    let link = ControlChannel::from_environment()?;
    let config = args.config().inspect_err(|errors| {
        if let Some(link) = &link {
            UpgradeReceiver::refuse(link, &errors.to_string());
        }
    })?;
    match link {
        Some(link) => Ok(succeed(config, link)?),
        None => Ok(start(config, args.daemon)?),
    }
}

/// What needs the rights and the terminal that the process was started with.
fn start(config: Config, detached: bool) -> anyhow::Result<()> {
    let process = config.process.clone();
    let owner = process.user.as_ref();
    // Before any file is opened: these come by their numbers.
    let inherited = Inherited::take()?;
    let relaunch = Relaunch::this_process().context("can't tell what to start for a reload")?;
    signals::hold().context("can't hold signals")?;
    privileges::check(owner)?;
    let log = Log::open(&process)?;
    let served = start_logged(config, detached, inherited, relaunch, &log);
    log.flush();
    served
}

fn start_logged(
    config: Config,
    detached: bool,
    inherited: Inherited,
    relaunch: Relaunch,
    log: &Log,
) -> anyhow::Result<()> {
    let process = config.process.clone();
    let owner = process.user.as_ref();
    limits::set_core(process.core_limit)?;
    // Before the sockets: so a second start is told who has them, and two starts never meet at a stale one.
    let pidfile = process.pidfile.as_deref().map(|path| Pidfile::lock(path, owner)).transpose()?;
    let sockets = Sockets::open(inherited, &config.listen, owner)?;
    let start = Start { config, sockets, pidfile, relaunch: Some(relaunch), receiver: None };
    if !detached {
        return serve(start, log, || {});
    }
    if !log.is_file() {
        // Not to the log, which is what goes nowhere. Where standard error is closed, nobody reads it.
        let notice = "ssecast: warning: a daemon has no standard error, so its log goes nowhere: set process.log_file";
        let _ = writeln!(io::stderr(), "{notice}");
    }
    let starter = daemon::detach(log)?;
    serve(start, log, || starter.serves()).inspect_err(|error| {
        tracing::error!("the daemon ends: {error:#}");
        starter.failed(1, &format!("{error:#}"));
    })
}

/// The same for a process that takes over: it has no rights to give up, and what it listens on comes by the link.
fn succeed(config: Config, link: ControlChannel) -> anyhow::Result<()> {
    let relaunch = Relaunch::this_process().context("can't tell what to start for a reload")?;
    signals::hold().context("can't hold signals")?;
    let log = Log::open(&config.process).inspect_err(|error| UpgradeReceiver::refuse(&link, &format!("{error}")))?;
    let served = succeed_logged(config, link, relaunch, &log);
    log.flush();
    served
}

fn succeed_logged(config: Config, link: ControlChannel, relaunch: Relaunch, log: &Log) -> anyhow::Result<()> {
    let (receiver, parts) = UpgradeReceiver::begin(link)?;
    let prepared = || -> anyhow::Result<_> {
        let HandedOn { sockets, pidfile, former } = HandedOn::sort(parts, &config)?;
        let pidfile = match (&config.process.pidfile, pidfile) {
            (Some(path), Some(fd)) => Some(Pidfile::adopt(path, fd)?),
            (Some(path), None) => Some(Pidfile::lock(path, config.process.user.as_ref())?),
            (None, _) => None,
        };
        Ok((sockets, pidfile, former))
    };
    let (sockets, pidfile, former) = prepared().inspect_err(|error| receiver.refuse_now(&format!("{error:#}")))?;
    let start = Start { config, sockets, pidfile, relaunch: Some(relaunch), receiver: Some(receiver) };
    // Sockets at former places go, files and all, once the new ones are served.
    serve(start, log, || former.into_iter().for_each(|mut listener| listener.own_file()))
}

/// What is done by the process that stays, as the user that it stays.
fn serve(mut start: Start, log: &Log, on_ready: impl FnOnce()) -> anyhow::Result<()> {
    if let (Some(pidfile), None) = (&mut start.pidfile, &start.receiver) {
        pidfile.write()?;
    }
    privileges::give_up(start.config.process.user.as_ref())?;
    limits::allow_core(start.config.process.core_limit);
    log.start_writing().context("can't start the thread that writes the log")?;
    super::runtime()?.block_on(async {
        let signals = Signals::listen().context("can't listen to signals")?;
        let on_ready = || {
            notify::ready();
            on_ready();
        };
        let (reload, reloads) = app::reload_requests();
        let outcome = app::supervise(start, reloads, on_ready, until_asked_to_stop(signals, log, reload)).await?;
        if matches!(outcome, Outcome::HandedOver(_)) {
            // At once: a signal that comes while this process takes its time to end would be lost.
            log.flush();
            std::process::exit(0);
        }
        Ok(())
    })
}

/// Does what signals ask for, until one asks to stop.
async fn until_asked_to_stop(mut signals: Signals, log: &Log, reload: mpsc::Sender<ReloadRequest>) {
    loop {
        match signals.next().await {
            Asked::Stop => break,
            Asked::ReopenLog => log.reopen(),
            // The outcome is in the log; `ssecast reload` waits for it. A reload that waits already will do.
            Asked::Reload => drop(reload.try_send(ReloadRequest::unheard())),
        }
    }
    notify::stopping();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Address;

    #[test]
    fn flags_stand_over_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.toml");
        std::fs::write(&file, "[listen]\npublic = \"a.sock\"\nadmin = \"b.sock\"\n").unwrap();
        let args = ServeArgs {
            config: Some(file),
            socket: Some("tcp://127.0.0.1:80".into()),
            redis_url: Some("redis://h".into()),
            ..ServeArgs::default()
        };
        let config = args.config().unwrap();
        assert_eq!(config.listen.public, Address::Tcp(([127, 0, 0, 1], 80).into()));
        assert_eq!(config.listen.admin, Address::Unix("b.sock".into()));
        assert_eq!(config.redis.unwrap().url, "redis://h");
    }
}
