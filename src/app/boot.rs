//! Starts the process: the steps that need root's rights, the terminal or a single thread come first. It serves nothing itself.

use std::{path::PathBuf, sync::Arc};

use anyhow::Context as _;

use super::{
    extensions::Extensions,
    manager::Manager,
    serving::{self, Outcome, Start},
    upgrade::{Relaunch, UpgradeReceiver},
};
use crate::{
    admin::Reloads,
    config::{Config, ConfigErrors},
    process::{
        control_channel::ControlChannel,
        daemon,
        inherit::Inherited,
        limits,
        log::Log,
        memory, notify,
        pidfile::Pidfile,
        privileges,
        signals::{self, SignalRequest, Signals},
        sockets::{HandedOver, Sockets},
        stderr,
        supervisor::Supervisor,
    },
};

/// Why a daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum Boot {
    /// Every error of the configuration.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// Everything else.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

/// Runs the daemon until it is asked to stop, or until another process has taken over. Returns the exit code. With `detached`,
/// the daemon runs in the background, and the calling process ends with 0 once the daemon serves.
///
/// Call it before anything else: the process must have only one thread, and no open files but those it was started with.
///
/// # Errors
/// Every error of the configuration, or the reason why the daemon can't serve.
pub fn boot(
    config: impl FnOnce() -> Result<Config, ConfigErrors>,
    extensions: Extensions,
    detached: bool,
) -> Result<u8, Boot> {
    if let Some(supervisor) = Supervisor::from_environment().map_err(anyhow::Error::from)? {
        return Ok(supervisor.run());
    }
    let control = ControlChannel::from_environment().map_err(anyhow::Error::from)?;
    // Signals are blocked before the pidfile exists. Others send signals to the process in the pidfile, and an unblocked signal
    // would end this process.
    signals::block().context("can't block signals")?;
    let config = config().inspect_err(|errors| {
        if let Some(control) = &control {
            control.fail(&errors.to_string());
        }
    })?;
    match control {
        Some(control) => Ok(take_over(config, extensions, control, detached)?),
        None => Ok(start(config, extensions, detached)?),
    }
}

/// Starts a daemon that takes over from no other process.
fn start(config: Config, extensions: Extensions, detached: bool) -> anyhow::Result<u8> {
    let process = config.process.clone();
    let owner = process.user.as_ref();
    // Before any file is opened: inherited descriptors are known by their numbers only.
    let inherited = Inherited::take()?;
    let relaunch = Relaunch::this_process().context("can't find out which program a reload has to start")?;
    privileges::check(owner)?;
    let log = Log::open(&process)?;
    let served = start_logged(config, extensions, detached, inherited, relaunch, &log);
    log.flush();
    served
}

fn start_logged(
    config: Config,
    extensions: Extensions,
    detached: bool,
    inherited: Inherited,
    relaunch: Relaunch,
    log: &Log,
) -> anyhow::Result<u8> {
    let process = config.process.clone();
    let owner = process.user.as_ref();
    limits::set_core_limit(process.core_limit)?;
    // The pidfile is locked before the sockets are opened. A second start then learns which process has the sockets, and two
    // starts never replace the same stale socket file.
    let pidfile = process.pidfile.as_deref().map(|path| Pidfile::lock(path, owner)).transpose()?;
    let sockets = Sockets::open(inherited, &config)?;
    let start = Start {
        config,
        extensions,
        sockets,
        pidfile,
        relaunch: Some(relaunch),
        receiver: None,
        manager: Manager::of_first(detached),
        supervisor: None,
    };
    if !detached {
        return serve(start, log, || {});
    }
    if !log.is_file() {
        // This goes to standard error, because nobody could read it in the log.
        stderr::print("ssecast: warning: a daemon has no standard error, so its log is lost: set process.log_file");
    }
    let starter = daemon::detach(log)?;
    serve(start, log, || starter.serves()).inspect_err(|error| {
        tracing::error!("the daemon ends: {error:#}");
        // The starter ends at once, and its caller may read the log then.
        log.flush();
        starter.failed(1, &format!("{error:#}"));
    })
}

/// Takes over from another process. The sockets come over the control channel, and this process runs as the daemon's user already.
fn take_over(config: Config, extensions: Extensions, control: ControlChannel, detached: bool) -> anyhow::Result<u8> {
    let relaunch = Relaunch::this_process().context("can't find out which program a reload has to start")?;
    let log = Log::open(&config.process).inspect_err(|error| control.fail(&error.to_string()))?;
    let served = take_over_logged(config, extensions, control, detached, relaunch, &log);
    log.flush();
    served
}

fn take_over_logged(
    config: Config,
    extensions: Extensions,
    control: ControlChannel,
    detached: bool,
    relaunch: Relaunch,
    log: &Log,
) -> anyhow::Result<u8> {
    let (receiver, inherited) = UpgradeReceiver::begin(control)?;
    let prepared = || -> anyhow::Result<_> {
        let HandedOver { sockets, pidfile, supervisor, former } = HandedOver::sort(inherited, &config)?;
        let (pidfile, former_pidfile) = match (&config.process.pidfile, pidfile) {
            // The predecessor sent the path as text, so the paths are compared as text.
            (Some(path), Some((before, fd))) if path.to_string_lossy() == before.to_string_lossy() => {
                (Some(Pidfile::adopt(path, fd)?), None)
            }
            (path, before) => {
                let lock = |path: &PathBuf| Pidfile::lock(path, config.process.user.as_ref());
                // If its directory can't be opened any more, there is no file to remove.
                let former = before.and_then(|(path, fd)| Pidfile::adopt(&path, fd).ok());
                (path.as_ref().map(lock).transpose()?, former)
            }
        };
        Ok((sockets, pidfile, supervisor, former, former_pidfile))
    };
    let (sockets, pidfile, supervisor, former, former_pidfile) =
        prepared().inspect_err(|error| receiver.refuse(&format!("{error:#}")))?;
    let manager = Manager::of_successor(detached, supervisor.is_some() || receiver.is_supervised());
    let supervisor = supervisor.map(ControlChannel::from_fd);
    let start = Start {
        config,
        extensions,
        sockets,
        pidfile,
        relaunch: Some(relaunch),
        receiver: Some(receiver),
        manager,
        supervisor,
    };
    // Once the new sockets are served, those that the configuration no longer names are closed, and their files are removed.
    serve(start, log, || {
        former.into_iter().for_each(|mut listener| listener.own_file());
        if let Some(pidfile) = former_pidfile {
            pidfile.remove();
        }
    })
}

/// Drops root's rights, starts the runtime and serves. With `--daemon` this runs in the background process.
fn serve(mut start: Start, log: &Log, on_ready: impl FnOnce()) -> anyhow::Result<u8> {
    if let (Some(pidfile), None) = (&mut start.pidfile, &start.receiver) {
        pidfile.write()?;
    }
    let dropped = privileges::drop_privileges(start.config.process.user.as_ref());
    if let (Err(error), Some(receiver)) = (&dropped, &start.receiver) {
        receiver.refuse(&format!("{error}; a reload can't change the user: restart ssecast for that"));
    }
    dropped?;
    limits::allow_core_files(start.config.process.core_limit);
    for file in &start.config.publish.key_files.paths {
        // Root may have read this file at the start. The next reload reads it as process.user.
        if let Err(error) = std::fs::File::open(file) {
            tracing::warn!(file = %file.display(), %error, "the next reload will fail: process.user may not read this file of publish.key_files");
        }
    }
    log.start_writing().context("can't start the thread that writes the log")?;
    memory::start().context("can't start the thread that returns memory")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let signals = Signals::listen().context("can't listen to signals")?;
        let on_ready = || {
            notify::ready();
            on_ready();
        };
        let reloads = Arc::new(Reloads::default());
        serving::serve(start, &reloads, on_ready, until_stop_requested(signals, log, &reloads)).await
    })?;
    log.flush();
    match outcome {
        Outcome::Stopped => Ok(0),
        // The process exits at once. A signal that arrived during a slow exit would be lost.
        Outcome::Replaced => std::process::exit(0),
        Outcome::Supervise(pid, control) => {
            std::process::exit(i32::from(Supervisor::new(pid, control).replace_process()))
        }
    }
}

/// Handles signals, and returns after the first one that requests a stop.
async fn until_stop_requested(mut signals: Signals, log: &Log, reloads: &Reloads) {
    loop {
        match signals.next().await {
            SignalRequest::Stop => break,
            SignalRequest::ReopenLog => {
                log.reopen();
                reloads.note_log_reopened();
            }
            // The outcome is in the log; `ssecast reload` waits for it.
            SignalRequest::Reload => reloads.signal(),
        }
    }
    notify::stopping();
}
