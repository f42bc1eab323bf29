//! The order in which the process starts: what needs root's rights, the terminal or a single thread comes first.

use std::{path::PathBuf, sync::Arc};

use anyhow::Context as _;

use super::{
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

/// Runs the daemon until it is asked to stop, or until another process has taken over; gives back the exit code. With `detached`, the process that
/// was called ends with 0 once the daemon serves.
///
/// To be called first of all: the process may have one thread, and no files but those it was started with.
///
/// # Errors
/// Every error of the configuration, or what keeps the daemon from serving.
pub fn boot(config: impl FnOnce() -> Result<Config, ConfigErrors>, detached: bool) -> Result<u8, Boot> {
    if let Some(supervisor) = Supervisor::from_environment().map_err(anyhow::Error::from)? {
        return Ok(supervisor.run());
    }
    let control = ControlChannel::from_environment().map_err(anyhow::Error::from)?;
    // Before, each signal would end the process, and the pidfile invites to send some.
    signals::block().context("can't block signals")?;
    let config = config().inspect_err(|errors| {
        if let Some(control) = &control {
            control.fail(&errors.to_string());
        }
    })?;
    match control {
        Some(control) => Ok(take_over(config, control, detached)?),
        None => Ok(start(config, detached)?),
    }
}

/// Starts from nothing.
fn start(config: Config, detached: bool) -> anyhow::Result<u8> {
    let process = config.process.clone();
    let owner = process.user.as_ref();
    // Before any file is opened: these come by their numbers.
    let inherited = Inherited::take()?;
    let relaunch = Relaunch::this_process().context("can't tell what to start for a reload")?;
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
) -> anyhow::Result<u8> {
    let process = config.process.clone();
    let owner = process.user.as_ref();
    limits::set_core_limit(process.core_limit)?;
    // Before the sockets: so that a second start learns which process has them, and two starts never meet at a stale one.
    let pidfile = process.pidfile.as_deref().map(|path| Pidfile::lock(path, owner)).transpose()?;
    let sockets = Sockets::open(inherited, &config)?;
    let start = Start {
        config,
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
        // Not to the log, because nobody will be able to read that.
        stderr::print(
            "ssecast: warning: a daemon has no standard error, so its log goes nowhere: set process.log_file",
        );
    }
    let starter = daemon::detach(log)?;
    serve(start, log, || starter.serves()).inspect_err(|error| {
        tracing::error!("the daemon ends: {error:#}");
        starter.failed(1, &format!("{error:#}"));
    })
}

/// Takes over from another process: there are no rights to give up, and the sockets come over the control channel.
fn take_over(config: Config, control: ControlChannel, detached: bool) -> anyhow::Result<u8> {
    let relaunch = Relaunch::this_process().context("can't tell what to start for a reload")?;
    let log = Log::open(&config.process).inspect_err(|error| control.fail(&error.to_string()))?;
    let served = take_over_logged(config, control, detached, relaunch, &log);
    log.flush();
    served
}

fn take_over_logged(
    config: Config,
    control: ControlChannel,
    detached: bool,
    relaunch: Relaunch,
    log: &Log,
) -> anyhow::Result<u8> {
    let (receiver, inherited) = UpgradeReceiver::begin(control)?;
    let prepared = || -> anyhow::Result<_> {
        let HandedOver { sockets, pidfile, supervisor, former } = HandedOver::sort(inherited, &config)?;
        let (pidfile, former_pidfile) = match (&config.process.pidfile, pidfile) {
            // The path came as text.
            (Some(path), Some((before, fd))) if path.to_string_lossy() == before.to_string_lossy() => {
                (Some(Pidfile::adopt(path, fd)?), None)
            }
            (path, before) => {
                let lock = |path: &PathBuf| Pidfile::lock(path, config.process.user.as_ref());
                // Where its directory can't be opened any more, there is no file to remove.
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
    let start =
        Start { config, sockets, pidfile, relaunch: Some(relaunch), receiver: Some(receiver), manager, supervisor };
    // Sockets at former addresses are closed and their files removed once the new ones are served.
    serve(start, log, || {
        former.into_iter().for_each(|mut listener| listener.own_file());
        if let Some(pidfile) = former_pidfile {
            pidfile.remove();
        }
    })
}

/// What is done by the process that stays, as the user that it stays.
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
        // Root may have read it at this start; the next reload reads it as this user.
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
        serving::serve(start, &reloads, on_ready, until_asked_to_stop(signals, log, &reloads)).await
    })?;
    log.flush();
    match outcome {
        Outcome::Stopped => Ok(0),
        // At once: a signal that comes while this process takes its time to end would be lost.
        Outcome::HandedOver => std::process::exit(0),
        Outcome::Supervise(pid, control) => {
            std::process::exit(i32::from(Supervisor::new(pid, control).replace_process()))
        }
    }
}

/// Does what signals ask for, until one asks to stop.
async fn until_asked_to_stop(mut signals: Signals, log: &Log, reloads: &Reloads) {
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
