//! Finds the socket that a subcommand connects to: the one named by a flag, else the one in the configuration. Connects to none.

use std::path::PathBuf;

use crate::config::{Address, ConfigErrors, Listen};

/// The flags that name the admin socket.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct AdminSocketArgs {
    /// The daemon's admin socket: a path, or tcp://IP:PORT [default: the configuration's]
    #[arg(long, value_name = "ADDRESS")]
    admin_socket: Option<Address>,

    /// The daemon's configuration file [default: /etc/ssecast/ssecast.toml, if it is there]
    #[arg(long, value_name = "FILE", conflicts_with = "admin_socket")]
    config: Option<PathBuf>,
}

/// The flags that name the public socket.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct PublicSocketArgs {
    /// The daemon's public socket: a path, or tcp://IP:PORT [default: the configuration's]
    #[arg(long, value_name = "ADDRESS")]
    socket: Option<Address>,

    /// The daemon's configuration file [default: /etc/ssecast/ssecast.toml, if it is there]
    #[arg(long, value_name = "FILE", conflicts_with = "socket")]
    config: Option<PathBuf>,
}

impl AdminSocketArgs {
    /// The flag that names a socket, for errors.
    pub(super) const FLAG: &str = "--admin-socket";

    /// The socket's address.
    ///
    /// # Errors
    /// No flag names the socket, and the configuration can't be read or is wrong in `[listen]`.
    pub(super) fn address(&self) -> Result<Address, ConfigErrors> {
        match &self.admin_socket {
            Some(address) => Ok(address.clone()),
            None => Ok(Listen::load(self.config.as_deref())?.admin.first),
        }
    }
}

impl PublicSocketArgs {
    /// The flag that names a socket, for errors.
    pub(super) const FLAG: &str = "--socket";

    /// The socket's address.
    ///
    /// # Errors
    /// No flag names the socket, and the configuration can't be read or is wrong in `[listen]`.
    pub(super) fn address(&self) -> Result<Address, ConfigErrors> {
        match &self.socket {
            Some(address) => Ok(address.clone()),
            None => Ok(Listen::load(self.config.as_deref())?.public),
        }
    }
}
