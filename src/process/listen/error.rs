//! Why a socket can't be listened on, for the person who must fix it. It listens on nothing.

use std::{io, net::SocketAddr, path::PathBuf};

/// Why a socket can't be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A process answers on the path.
    #[error("another process answers on {0}: stop it first, or configure another path in [listen]")]
    Busy(PathBuf),
    /// This user may not bind there.
    #[error(
        "can't listen on {0}: permission denied; start ssecast as root with process.user set, or give --socket and --admin-socket in a folder of yours"
    )]
    Denied(String),
    /// The path is that of another kind of file.
    #[error("{0} exists and is not a socket: move it away, or configure another path in [listen]")]
    NotASocket(PathBuf),
    /// The group of `public_group` or `admin_group` does not exist.
    #[error("group {0:?} does not exist: create it, or name another in [listen]")]
    NoGroup(String),
    /// A descriptor that was passed is not a listening stream socket.
    #[error(
        "what the service manager passed as {0:?} is not a listening stream socket: see ListenStream= and Accept=no in the socket unit"
    )]
    NotListening(String),
    /// A socket was passed under an unknown name.
    #[error(
        "the service manager passed a socket as {0:?}: say which one it is by FileDescriptorName=public or =admin in its socket unit"
    )]
    UnknownName(String),
    /// Two public sockets were passed.
    #[error(
        "the service manager passed two sockets as {0:?}, and ssecast takes one: keep one ListenStream= of that name; only the admin \
         socket may have several"
    )]
    Twice(String),
    /// The admin socket listens beyond loopback, and there are no keys.
    #[error(
        "anyone who reaches the admin socket on {0} could publish: set publish.key_files, or listen on a path or on 127.0.0.1"
    )]
    AnyoneMayPublish(SocketAddr),
    /// TCP doesn't say which user connects.
    #[error(
        "publish.users and publish.groups can't be checked on the admin socket on {0}: listen on a path, or set publish.key_files"
    )]
    NoUsersOnTcp(SocketAddr),
    /// The operating system refused.
    #[error("can't {doing} {place}")]
    Io {
        /// The step that failed.
        doing: &'static str,
        /// The path, address or socket.
        place: String,
        /// The error of the operating system.
        source: io::Error,
    },
}

impl ListenError {
    /// Whether the configuration or a unit must be changed first: starting again would not help.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::NotASocket(_)
            | Self::NoGroup(_)
            | Self::NotListening(_)
            | Self::UnknownName(_)
            | Self::Twice(_)
            | Self::AnyoneMayPublish(_)
            | Self::NoUsersOnTcp(_) => true,
            Self::Busy(_) | Self::Denied(_) | Self::Io { .. } => false,
        }
    }
}

/// Makes an error of the operating system a [`ListenError`]: `doing` is what was tried, on `place`.
pub(super) fn failed<E: Into<io::Error>>(doing: &'static str, place: &str) -> impl FnOnce(E) -> ListenError {
    let place = place.to_owned();
    move |source| {
        let source = source.into();
        match source.kind() {
            io::ErrorKind::PermissionDenied if matches!(doing, "listen on" | "make the directory of") => {
                ListenError::Denied(place)
            }
            _ => ListenError::Io { doing, place, source },
        }
    }
}
