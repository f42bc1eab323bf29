//! Finds the socket that a subcommand connects to: the one named by a flag, else the one in the configuration. Also knows where
//! the package's systemd units bind the sockets. Sends nothing to a daemon.

use std::{io, os::unix::fs::FileTypeExt as _, path::PathBuf};

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

/// The socket that a subcommand connects to.
#[derive(Debug, Clone)]
pub(super) struct Socket {
    pub(super) address: Address,
    /// The flag that names another socket, for errors.
    pub(super) flag: &'static str,
    /// `None` if the address can't be wrong because of the configuration.
    pub(super) packaged: Option<PackagedSocket>,
}

/// Where the package's systemd unit binds a socket. The daemon serves it there, even if the configuration names another address.
#[derive(Debug, Clone)]
pub(super) struct PackagedSocket {
    pub(super) path: PathBuf,
    /// The configuration's key of the address.
    pub(super) key: &'static str,
}

impl AdminSocketArgs {
    const FLAG: &str = "--admin-socket";

    /// The socket to connect to.
    ///
    /// # Errors
    /// No flag names the socket, and the configuration can't be read or is wrong in `[listen]`.
    pub(super) fn socket(&self) -> Result<Socket, ConfigErrors> {
        Ok(match &self.admin_socket {
            Some(address) => Socket::given(address.clone(), Self::FLAG),
            None => Self::configured(Listen::load(self.config.as_deref())?),
        })
    }

    /// The same. But if the default configuration file is wrong, it is the default socket: the daemon can still be asked.
    ///
    /// # Errors
    /// The file that `--config` names can't be read or is wrong in `[listen]`.
    pub(super) fn socket_or_default(&self) -> Result<Socket, ConfigErrors> {
        match self.socket() {
            Err(_) if self.config.is_none() => Ok(Self::configured(Listen::default())),
            found => found,
        }
    }

    fn configured(listen: Listen) -> Socket {
        Socket::configured(listen.admin.first, Self::FLAG, Listen::default().admin.first, "listen.admin")
    }
}

impl PublicSocketArgs {
    const FLAG: &str = "--socket";

    /// The socket to connect to.
    ///
    /// # Errors
    /// No flag names the socket, and the configuration can't be read or is wrong in `[listen]`.
    pub(super) fn socket(&self) -> Result<Socket, ConfigErrors> {
        Ok(match &self.socket {
            Some(address) => Socket::given(address.clone(), Self::FLAG),
            None => {
                let public = Listen::load(self.config.as_deref())?.public;
                Socket::configured(public, Self::FLAG, Listen::default().public, "listen.public")
            }
        })
    }
}

impl Socket {
    /// The socket that `flag` has named.
    pub(super) fn given(address: Address, flag: &'static str) -> Self {
        Self { address, flag, packaged: None }
    }

    /// The socket at the configured `address`. The package's units bind the default address, so another one may be wrong.
    fn configured(address: Address, flag: &'static str, default: Address, key: &'static str) -> Self {
        let packaged = match default {
            Address::Unix(path) if address != Address::Unix(path.clone()) => Some(PackagedSocket { path, key }),
            _ => None,
        };
        Self { address, flag, packaged }
    }
}

impl PackagedSocket {
    /// Whether a process listens there. This user needs no permission to connect. Must be called in a tokio runtime.
    pub(super) async fn is_served(&self) -> bool {
        match tokio::net::UnixStream::connect(&self.path).await {
            Ok(_) => true,
            // The queue is full, or only others may connect.
            Err(error) => {
                matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::PermissionDenied)
                    && self.path.metadata().is_ok_and(|meta| meta.file_type().is_socket())
            }
        }
    }
}
