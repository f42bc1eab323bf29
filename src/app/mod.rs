//! The daemon as a whole: builds it from the other modules, runs, upgrades and drains it. Only `cli` imports it.

mod extensions;
mod boot;
mod serving;
mod manager;
mod upgrade;
mod daemon;
mod sources;
mod exit_guard;
mod accept;

use std::{future::Future, pin::Pin, sync::Arc};

use self::manager::Manager;
use self::serving::{Serving, Start};
pub use self::{
    boot::{Boot, boot},
    extensions::{BoxError, Extensions},
};
use crate::{
    admin::Reloads,
    config::Config,
    process::{listen::ListenError, sockets::Sockets},
};

/// Binds the public and the admin sockets as configured.
///
/// # Errors
/// A socket can't be bound.
pub fn bind(config: &Config) -> Result<Sockets, ListenError> {
    Sockets::bind(config)
}

/// Runs the daemon on the current runtime and on `sockets` until `shutdown` resolves, and then drains it. `on_ready` is called
/// once all sockets are served. This daemon refuses reloads; one that [`boot()`] starts accepts them.
///
/// # Errors
/// The daemon can't start, or one of its threads or accept loops has ended.
pub async fn run(
    config: Config,
    sockets: Sockets,
    on_ready: impl FnOnce(),
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let start = Start {
        config,
        extensions: Extensions::default(),
        sockets,
        pidfile: None,
        relaunch: None,
        receiver: None,
        manager: Manager::Nobody,
        supervisor: None,
    };
    serving::serve(start, &Arc::new(Reloads::default()), on_ready, shutdown).await.map(drop)
}

/// The request to stop. It can be awaited again after it has arrived.
struct Shutdown<'a, S> {
    future: Pin<&'a mut S>,
    is_requested: bool,
}

impl<'a, S: Future<Output = ()>> Shutdown<'a, S> {
    fn new(future: Pin<&'a mut S>) -> Self {
        Self { future, is_requested: false }
    }

    /// Resolves when the daemon is to stop. If that was requested before, it resolves at once.
    async fn requested(&mut self) {
        if !self.is_requested {
            self.future.as_mut().await;
            self.is_requested = true;
        }
    }

    /// Whether a request to stop has arrived by now. It does not wait for one.
    async fn is_requested_by_now(&mut self) -> bool {
        tokio::select! {
            biased;
            () = self.requested() => {}
            () = std::future::ready(()) => {}
        }
        self.is_requested
    }
}
