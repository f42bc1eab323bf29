//! `ssecast demo`: the daemon, and a page that publishes and reads events, on this machine. Needs no nginx, no Redis and no
//! configuration, and leaves nothing behind.
//!
//! However the demo ends, it stops its parts in this order: the streams, the page's server, the folder.

mod commands;
mod folder;
mod output;
mod page;
mod redis;
mod server;

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

use self::{commands::Places, folder::Folder, output::Output, redis::Redis, server::Server};
use super::Failure;
use crate::{
    app,
    config::{Address, Config},
    source::RedisConfig,
};

/// Try it: the daemon and a page that publishes and reads events, on this machine
///
/// Takes events from the Redis on 127.0.0.1:6379 if one answers there, and always from curl and from the page. Everything is in
/// a private temporary folder, which is removed after Ctrl-C.
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
}

/// Runs the demo until SIGINT, SIGTERM or SIGHUP.
///
/// # Errors
/// A part did not start or ended early: the Redis at `--redis-url` doesn't answer, the port is in use.
pub fn run(args: &DemoArgs) -> Result<(), Failure> {
    start_logging();
    super::runtime()?.block_on(demo(args))?;
    Ok(())
}

async fn demo(args: &DemoArgs) -> anyhow::Result<()> {
    // First of all: from here on a signal ends the demo in order, and nothing is left behind.
    let mut end = EndSignals::listen().context("can't wait for signals")?;
    let redis = redis::find(args.redis_url.as_deref(), args.no_redis).await?;
    let folder = Folder::make().context("can't make a temporary folder")?;

    let (ready, is_ready) = oneshot::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let (over, is_over) = oneshot::channel::<()>();
    let daemon = async {
        let on_ready = || {
            let _ = ready.send(()); // Can't fail: the receiver below waits until the daemon is ready or has failed.
        };
        let config = config(&folder, &redis);
        let sockets = app::bind(&config)?;
        let served = app::run(config, sockets, on_ready, async { drop(stopped.await) }).await;
        drop(over);
        served
    };
    let page = async {
        // Dropped with this block, however it ends: that stops the daemon.
        let _stop = stop;
        if is_ready.await.is_err() {
            return (None, Ok(())); // The daemon has failed: its own error is reported.
        }
        let mut server = match Server::start(&folder, &redis, args.port).await {
            Ok(server) => server,
            Err(error) => return (None, Err(error)),
        };
        let places = Places::new(&folder, &redis, server.port());
        let output = Output { places: &places, redis: &redis, no_redis: args.no_redis };
        let ended = match output.write(&mut io::stdout()).context("can't write to standard output") {
            Ok(()) => tokio::select! {
                () = end.received() => Ok(()),
                _ = is_over => Ok(()),
                error = server.failed() => Err(error),
            },
            failed => failed,
        };
        (Some(server), ended)
    };
    let (served, (server, shown)) = tokio::join!(daemon, page);

    // After the daemon: its last events reach the streams through the page's server.
    if let Some(server) = server {
        server.stop().await;
    }
    let removed = folder.remove().context("can't remove the temporary folder");
    served.and(shown).and(removed)
}

/// Most streams at a time. Within any usual limit of open files, which a new user need not raise.
const MAX_CLIENTS: usize = 200;

fn config(folder: &Folder, redis: &Redis) -> Config {
    let mut config = Config::default();
    config.stream.max_clients = MAX_CLIENTS;
    config.listen.public = Address::Unix(folder.public());
    config.listen.admin = Address::Unix(folder.admin()).into();
    (config.listen.public_mode, config.listen.admin_mode) = (0o600, 0o600);
    config.process.drain = Duration::from_secs(2);
    config.drain.spread = Duration::from_secs(2);
    if let Some(url) = &redis.url {
        config.sources.set(RedisConfig { url: url.clone(), ..RedisConfig::default() });
    }
    config
}

/// The signals that end the demo: Ctrl-C, `kill`, and the terminal's end.
struct EndSignals([Signal; 3]);

impl EndSignals {
    fn listen() -> io::Result<Self> {
        Ok(Self([signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?]))
    }

    async fn received(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// Logs warnings and errors only, so that the terminal shows the commands to paste. `RUST_LOG` changes the level.
fn start_logging() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    // Fails where the process has a log already, which is then used.
    let _ = log.with_ansi(io::stderr().is_terminal()).try_init();
}
