//! `ssecast demo`: the whole way of an event on this machine, with a page to watch it. Nothing is left behind.
//!
//! What is started is ended in the reverse order, whatever has happened in between: the streams, nginx, the folder.

mod door;
mod folder;
mod front;
mod lines;
mod nginx;
mod page;
mod source;
mod words;

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};
use tracing_subscriber::EnvFilter;

use self::{door::Door, folder::Folder, source::Source, words::Words};
use super::Failure;
use crate::{
    app,
    config::{self, Address, Config},
};

/// Try it: hub, nginx and a page to watch, on this machine
///
/// Takes events from the Redis on 127.0.0.1:6379 if one answers there, and always from curl and from the page. Everything is in
/// a private temporary folder, which is gone after Ctrl-C.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct DemoArgs {
    /// Take events from this Redis, and publish to it: redis://HOST:PORT/DB or redis+unix:///PATH
    #[arg(long, value_name = "URL")]
    redis_url: Option<String>,

    /// Don't look for a Redis
    #[arg(long, conflicts_with = "redis_url")]
    no_redis: bool,

    /// The page's port on 127.0.0.1 [default: any that is free]
    #[arg(long, value_name = "N")]
    port: Option<u16>,

    /// Serve the page without nginx, as happens by itself where there is none
    #[arg(long)]
    no_nginx: bool,
}

/// Runs the demo until SIGINT, SIGTERM or SIGHUP.
///
/// # Errors
/// What keeps a part of it from starting, or made it end: a Redis that was asked for and doesn't answer, what nginx said.
pub fn run(args: &DemoArgs) -> Result<(), Failure> {
    start_logging();
    super::runtime()?.block_on(demo(args))?;
    Ok(())
}

async fn demo(args: &DemoArgs) -> anyhow::Result<()> {
    // Before there is anything that a signal could leave behind.
    let mut goodbye = Goodbye::listen().context("can't wait for signals")?;
    let source = source::find(args.redis_url.as_deref(), args.no_redis).await?;
    let nginx = if args.no_nginx { None } else { nginx::find() };
    let folder = Folder::make().context("can't make a temporary folder")?;

    let (ready, is_ready) = oneshot::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let (over, is_over) = oneshot::channel::<()>();
    let serving = async {
        let on_ready = || {
            let _ = ready.send(()); // Whoever waits is still there.
        };
        let config = config(&folder, &source);
        let sockets = app::bind(&config)?;
        let served = app::run(config, sockets, on_ready, async { drop(stopped.await) }).await;
        drop(over);
        served
    };
    let showing = async {
        // Dropped with this block, however it ends: that stops the hub.
        let _stop = stop;
        if is_ready.await.is_err() {
            return (None, Ok(())); // The hub tells why.
        }
        let mut door = match Door::open(nginx.as_ref(), &folder, &source, args.port).await {
            Ok(door) => door,
            Err(error) => return (None, Err(error)),
        };
        let words = Words { args, door: &door, folder: &folder, source: &source };
        let told = words.tell(&mut io::stdout()).context("can't write to standard output");
        let ended = match told {
            Ok(()) => tokio::select! {
                () = goodbye.said() => Ok(()),
                _ = is_over => Ok(()),
                error = door.broken() => Err(error),
            },
            told => told,
        };
        (Some(door), ended)
    };
    let (served, (door, shown)) = tokio::join!(serving, showing);

    // Only now: what the hub says to the streams at the end goes through the door.
    if let Some(door) = door {
        door.close().await;
    }
    let removed = folder.remove().context("can't remove the temporary folder");
    served.and(shown).and(removed)
}

fn config(folder: &Folder, source: &Source) -> Config {
    let mut config = Config::default();
    config.listen.public = Address::Unix(folder.public());
    config.listen.admin = Address::Unix(folder.admin());
    // The folder's mode says who gets to them; nginx may run as another user than this process.
    (config.listen.public_mode, config.listen.admin_mode) = (0o666, 0o666);
    config.process.drain = Duration::from_secs(2);
    config.drain.spread = Duration::from_secs(2);
    config.redis = source.url.as_ref().map(|url| config::Redis { url: url.clone(), prefix: String::new() });
    config
}

/// The signals that end the demo: Ctrl-C, `kill`, and the terminal's end.
struct Goodbye([Signal; 3]);

impl Goodbye {
    fn listen() -> io::Result<Self> {
        Ok(Self([signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?]))
    }

    async fn said(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// Only what goes wrong is logged: the terminal is for the lines to paste. `RUST_LOG` asks for more.
fn start_logging() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    // A second start in one process keeps the first one's log.
    let _ = log.with_ansi(io::stderr().is_terminal()).try_init();
}
