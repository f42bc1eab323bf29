//! A listening socket: who has bound it, where it listens, and its file's mode, group and end. It binds nothing.

use std::{
    fs, io,
    net::TcpListener,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::{fs::MetadataExt as _, net::UnixListener},
    },
    path::{Path, PathBuf},
};

use nix::{
    sys::socket::{AddressFamily, SockType, SockaddrLike as _, SockaddrStorage, getsockname, getsockopt, sockopt},
    unistd::Group,
};

use super::error::{ListenError, failed};
use crate::process::owned_files::{Entry, OpenError};

/// A listening socket. The file of a Unix socket that ssecast has bound is removed with it, unless another stands there by then.
#[derive(Debug)]
pub struct Listener {
    pub(super) socket: ListeningSocket,
    pub(super) origin: Origin,
}

/// The socket itself.
#[derive(Debug)]
pub enum ListeningSocket {
    /// On a path.
    Unix(UnixListener),
    /// On a port.
    Tcp(TcpListener),
}

/// Who has bound a socket.
#[derive(Debug)]
pub(super) enum Origin {
    /// The service manager, which also removes its file.
    ServiceManager,
    /// ssecast, this process or one before it.
    Ssecast {
        /// The address as it is configured.
        configured: String,
        /// The file of a Unix socket.
        file: Option<SocketFile>,
    },
}

impl Listener {
    /// Takes a socket that the service manager has bound. `name` is what errors call it.
    ///
    /// # Errors
    /// [`ListenError::NotListening`] for anything else.
    pub fn from_fd(name: &str, fd: OwnedFd) -> Result<Self, ListenError> {
        let refuse = || ListenError::NotListening(name.to_owned());
        let listens = getsockopt(&fd, sockopt::AcceptConn).map_err(|_| refuse())?;
        if !listens || getsockopt(&fd, sockopt::SockType) != Ok(SockType::Stream) {
            return Err(refuse());
        }
        let address: SockaddrStorage = getsockname(fd.as_raw_fd()).map_err(|_| refuse())?;
        let socket = match address.family() {
            Some(AddressFamily::Unix) => ListeningSocket::Unix(fd.into()),
            Some(AddressFamily::Inet | AddressFamily::Inet6) => ListeningSocket::Tcp(fd.into()),
            _ => return Err(refuse()),
        };
        socket.set_nonblocking().map_err(failed("set up", name))?;
        Ok(Self { socket, origin: Origin::ServiceManager })
    }

    /// The same socket, bound by an ssecast before this one at the address `configured`. If that process has made a file for it,
    /// this one removes the file from [`Listener::own_file`] on.
    #[must_use]
    pub fn bound_by_ssecast(self, configured: String, made: bool) -> Self {
        let path = PathBuf::from(&configured);
        let inode = fs::symlink_metadata(&path).map(|meta| meta.ino()).ok();
        let file = inode.filter(|_| made).map(|inode| SocketFile { path, inode, owned: false });
        Self { socket: self.socket, origin: Origin::Ssecast { configured, file } }
    }

    /// Gives the file of a Unix socket the `mode` and the `group` that are configured, if ssecast has bound it. A mode or group
    /// that could not be set is logged, and so are keys that have no effect because the service manager has bound the socket.
    /// `name` is `public` or `admin`.
    pub(in crate::process) fn apply_mode(&self, name: &str, mode: u32, group: Option<&str>) {
        let address = self.address();
        let ListeningSocket::Unix(_) = self.socket else { return };
        let found = || -> Result<_, OpenError> {
            let file = Entry::find(Path::new(&address))?.socket()?;
            let Some(file) = file else { return Ok(None) };
            let status = file.status()?;
            Ok(Some((file, status)))
        };
        // A socket without a file has no mode.
        let Ok(Some((file, status))) = found() else { return };
        let gid = group.and_then(|group| Group::from_name(group).ok().flatten()).map(|group| group.gid.as_raw());
        let new_gid = gid.filter(|gid| *gid != status.st_gid);
        if status.st_mode & 0o777 == mode && new_gid.is_none() {
            return;
        }
        if self.is_service_managers() {
            tracing::warn!(
                %address,
                "listen.{name}_mode and listen.{name}_group have no effect: the service manager has bound the socket; set \
                 SocketMode= and SocketGroup= in its unit"
            );
        } else if let Err(error) = file.set(mode, None, new_gid) {
            tracing::warn!(
                %error,
                %address,
                "listen.{name}_mode or listen.{name}_group could not be applied: this user may not; restart ssecast for it"
            );
        }
    }

    /// From now on this process removes the file: the process that bound the socket no longer does.
    pub fn own_file(&mut self) {
        if let Origin::Ssecast { file: Some(file), .. } = &mut self.origin {
            file.owned = true;
        }
    }

    /// Where it listens: a path, or `tcp://IP:PORT`. Empty if that can't be found out.
    #[must_use]
    pub fn address(&self) -> String {
        match (&self.socket, &self.origin) {
            // A path that the kernel has may be relative to a descriptor of this process.
            (_, Origin::Ssecast { file: Some(file), .. }) => file.path.display().to_string(),
            (ListeningSocket::Unix(listener), _) => {
                let address = listener.local_addr().ok();
                address.and_then(|address| Some(address.as_pathname()?.display().to_string())).unwrap_or_default()
            }
            (ListeningSocket::Tcp(listener), _) => {
                listener.local_addr().map(|address| format!("tcp://{address}")).unwrap_or_default()
            }
        }
    }

    /// The socket itself.
    #[must_use]
    pub fn socket(&self) -> &ListeningSocket {
        &self.socket
    }

    /// The address as it was configured when ssecast bound the socket; `None` where the service manager has bound it.
    #[must_use]
    pub fn configured_address(&self) -> Option<&str> {
        match &self.origin {
            Origin::ServiceManager => None,
            Origin::Ssecast { configured, .. } => Some(configured),
        }
    }

    /// Whether ssecast has made a file for it.
    #[must_use]
    pub fn is_made(&self) -> bool {
        matches!(self.origin, Origin::Ssecast { file: Some(_), .. })
    }

    /// Whether the service manager has bound it.
    #[must_use]
    pub fn is_service_managers(&self) -> bool {
        matches!(self.origin, Origin::ServiceManager)
    }

    /// Closes the socket in this process and leaves its file to the process that has taken it over.
    pub fn leave(self) {
        if let Origin::Ssecast { file: Some(file), .. } = self.origin {
            std::mem::forget(file);
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl ListeningSocket {
    pub(super) fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Self::Unix(listener) => listener.set_nonblocking(true),
            Self::Tcp(listener) => listener.set_nonblocking(true),
        }
    }
}

impl AsFd for ListeningSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(listener) => listener.as_fd(),
            Self::Tcp(listener) => listener.as_fd(),
        }
    }
}

/// The file of a Unix socket that ssecast has bound.
#[derive(Debug)]
pub(super) struct SocketFile {
    pub(super) path: PathBuf,
    pub(super) inode: u64,
    /// Whether it is removed with the listener: not as long as another process may still listen there.
    pub(super) owned: bool,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if !self.owned {
            return;
        }
        // The next start replaces a file that can't be removed here: nobody answers on it.
        let Ok(entry) = Entry::find(&self.path) else { return };
        if entry.status().is_ok_and(|status| status.is_some_and(|status| status.st_ino == self.inode)) {
            let _ = entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use super::*;

    #[test]
    fn only_what_listens_is_taken_for_a_listener() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let client = UnixStream::connect(&path).unwrap();
        let listener = Listener::from_fd("public", listener.into()).unwrap();
        assert!(matches!(listener.socket(), ListeningSocket::Unix(_)) && listener.is_service_managers());
        drop(listener);
        assert!(path.exists(), "its file is the service manager's");
        let port = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = Listener::from_fd("public", port.into()).unwrap();
        assert!(matches!(port.socket(), ListeningSocket::Tcp(_)));
        let refused = |fd: OwnedFd| matches!(Listener::from_fd("public", fd), Err(ListenError::NotListening(_)));
        assert!(refused(client.into()));
        assert!(refused(UnixDatagram::unbound().unwrap().into()));
        assert!(refused(fs::File::open("/dev/null").unwrap().into()));
    }
}
