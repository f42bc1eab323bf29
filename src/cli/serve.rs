//! `ssecast serve`: the daemon's flags, and the configuration that they and the file make.

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::Failure;
use crate::{
    app,
    config::{Config, ConfigErrors, Override},
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
        ];
        let overrides: Vec<_> = flags
            .into_iter()
            .filter_map(|(flag, key, value)| Some(Override { flag, key, value: value.clone()? }))
            .collect();
        Config::assemble(self.config.as_deref(), &overrides)
    }
}

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// Every error of the configuration (exit code 64), or what keeps the daemon from serving (1).
pub fn run(args: &ServeArgs) -> Result<(), Failure> {
    let config = args.config()?;
    start_logging();
    super::runtime()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
        let shutdown = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        app::run(config, || {}, shutdown).await
    })?;
    Ok(())
}

/// Logs to standard error, which systemd keeps; `RUST_LOG` picks what (by default `info`).
fn start_logging() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    // A second start in one process keeps the first one's log.
    let _ = log.with_ansi(io::stderr().is_terminal()).try_init();
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
