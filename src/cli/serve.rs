//! `ssecast serve`: the daemon's flags, which override the configuration file. Opens no socket itself.

use std::path::PathBuf;

use super::{Failure, exit};
use crate::{
    app::{self, Boot, Extensions},
    config::{Config, ConfigErrors, Override, SourceTable},
    process::{listen::ListenError, privileges::PrivilegeError},
};

/// Serve: take publishes in, give events out
///
/// Flags override the configuration file, which overrides the defaults. `ssecast check --defaults` prints the defaults.
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

    /// Run in the background: the command ends with 0 once the daemon serves, else prints why it doesn't
    #[arg(long)]
    pub daemon: bool,
}

impl ServeArgs {
    /// The configuration of the file, with the flags put over it. `tables` are those that the file may have beside the tables of every
    /// daemon.
    ///
    /// # Errors
    /// Every error of the file and of the flags at once.
    pub fn config(&self, tables: &[SourceTable]) -> Result<Config, ConfigErrors> {
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
        Config::assemble(self.config.as_deref(), &overrides, tables)
    }
}

/// Runs the daemon until SIGTERM or SIGINT, or until another process has taken over. With `--daemon`, this process ends with 0
/// once the daemon serves.
///
/// # Errors
/// Every error of the configuration (exit code 64), or the reason why the daemon can't serve (1).
pub fn run(args: &ServeArgs, extensions: Extensions) -> Result<(), Failure> {
    let tables = extensions.tables();
    match app::boot(|| args.config(&tables), extensions, args.daemon) {
        Ok(0) => Ok(()),
        Ok(code) => std::process::exit(i32::from(code)),
        Err(Boot::Config(errors)) => Err(errors.into()),
        Err(Boot::Other(error)) if lasts(&error) => Err(Failure::new(exit::USAGE, format_args!("{error:#}"))),
        Err(Boot::Other(error)) => Err(error.into()),
    }
}

/// Whether the error lasts, so that another start would fail too. Then a service manager should not try again.
fn lasts(error: &anyhow::Error) -> bool {
    let wrong_user = matches!(error.downcast_ref(), Some(PrivilegeError::NotRoot { .. }));
    wrong_user || error.downcast_ref().is_some_and(ListenError::is_configuration)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Address, source};

    #[test]
    fn flags_override_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.toml");
        std::fs::write(&file, "[listen]\npublic = \"a.sock\"\nadmin = \"b.sock\"\n").unwrap();
        let args = ServeArgs {
            config: Some(file),
            socket: Some("tcp://127.0.0.1:80".into()),
            redis_url: Some("redis://h".into()),
            ..ServeArgs::default()
        };
        let config = args.config(source::TABLES).unwrap();
        assert_eq!(config.listen.public, Address::Tcp(([127, 0, 0, 1], 80).into()));
        assert_eq!(config.listen.admin, Address::Unix("b.sock".into()).into());
        assert_eq!(config.sources.get::<source::RedisConfig>().unwrap().url, "redis://h");
    }
}
