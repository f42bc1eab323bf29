//! The listening sockets: bound with mode and group, and never taken from a process that still answers on them.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{
            fs::MetadataExt as _,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

use nix::{
    sys::socket::{
        self, AddressFamily, Backlog, SockFlag, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt,
        sockopt,
    },
    unistd::Group,
};

use super::owned_files::{Entry, OpenError};
use crate::config::{Account, Address};

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
    /// What was handed over is not a listening stream socket.
    #[error(
        "what was handed over as {0:?} is not a listening stream socket: see ListenStream= and Accept=no in the socket unit"
    )]
    NotListening(String),
    /// A socket was handed over under an unknown name.
    #[error(
        "a socket was handed over as {0:?}: say which one it is by FileDescriptorName=public or =admin in its socket unit"
    )]
    UnknownName(String),
    /// Two public sockets were handed over.
    #[error(
        "two sockets were handed over as {0:?}, and ssecast takes one: keep one ListenStream= of that name; only the admin \
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
        /// What was tried.
        doing: &'static str,
        /// On what.
        place: String,
        /// What the operating system reported.
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

/// A listening socket. The file of a Unix socket that ssecast has bound is removed with it, unless another stands there by then.
#[derive(Debug)]
pub struct Listener {
    socket: ListeningSocket,
    origin: Origin,
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
enum Origin {
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
    pub(super) fn apply_mode(&self, name: &str, mode: u32, group: Option<&str>) {
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
    fn set_nonblocking(&self) -> io::Result<()> {
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
struct SocketFile {
    path: PathBuf,
    inode: u64,
    /// Whether it is removed with the listener: not as long as another process may still listen there.
    owned: bool,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if !self.owned {
            return;
        }
        // What can't be removed is found to be stale at the next start.
        let Ok(entry) = Entry::find(&self.path) else { return };
        if entry.status().is_ok_and(|status| status.is_some_and(|status| status.st_ino == self.inode)) {
            let _ = entry.remove();
        }
    }
}

/// Listens on `address`; `mode` and `group` are those of a socket file. The file, and folders that are missing for it, belong to
/// `owner` if there is one, who can remove it then; its group is `owner`'s if there is no `group`.
///
/// # Errors
/// A [`ListenError`] with the reason and how to fix it.
pub fn bind(
    address: &Address,
    mode: u32,
    group: Option<&str>,
    owner: Option<&Account>,
) -> Result<Listener, ListenError> {
    match address {
        Address::Tcp(address) => {
            let place = format!("tcp://{address}");
            let socket = ListeningSocket::Tcp(TcpListener::bind(address).map_err(failed("listen on", &place))?);
            socket.set_nonblocking().map_err(failed("set up", &place))?;
            Ok(Listener { socket, origin: Origin::Ssecast { configured: place, file: None } })
        }
        Address::Unix(path) => bind_unix(path, mode, group, owner),
    }
}

fn bind_unix(path: &Path, mode: u32, group: Option<&str>, owner: Option<&Account>) -> Result<Listener, ListenError> {
    let place = path.display().to_string();
    let group = match group {
        Some(name) => {
            let group = Group::from_name(name).ok().flatten();
            Some(group.ok_or_else(|| ListenError::NoGroup(name.to_owned()))?.gid.as_raw())
        }
        None => owner.map(|owner| owner.gid),
    };
    let entry = Entry::create(path, owner).map_err(failed("make the directory of", &place))?;
    remove_stale(&entry)?;
    let socket = socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None);
    let listener = UnixListener::from(socket.map_err(failed("make a socket for", &place))?);
    let file = entry.bind(listener.as_fd(), mode, owner.map(|owner| owner.uid), group);
    let file = file.map_err(failed("listen on", &place))?;
    let inode = file.status().map_err(failed("look at", &place))?.st_ino;
    let file = SocketFile { path: entry.path().to_owned(), inode, owned: true };
    let socket = ListeningSocket::Unix(listener);
    socket::listen(&socket, Backlog::MAXALLOWABLE).map_err(failed("listen on", &place))?;
    socket.set_nonblocking().map_err(failed("set up", &place))?;
    Ok(Listener { socket, origin: Origin::Ssecast { configured: place, file: Some(file) } })
}

/// Removes a socket on which nothing answers. A connection is tried: that is the only proof.
fn remove_stale(entry: &Entry) -> Result<(), ListenError> {
    let place = entry.path().display().to_string();
    let file = match entry.socket() {
        Ok(Some(file)) => file,
        Ok(None) => return Ok(()),
        Err(OpenError::NotAFile(_)) => return Err(ListenError::NotASocket(entry.path().to_owned())),
        Err(error) => return Err(failed("look at", &place)(error)),
    };
    match UnixStream::connect(file.path()) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            entry.remove().map_err(failed("remove the stale socket", &place))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
            Err(failed("find out whether another process answers on", &place)(error))
        }
        // A full backlog belongs to a running process, too.
        _ => Err(ListenError::Busy(entry.path().to_owned())),
    }
}

fn failed<E: Into<io::Error>>(doing: &'static str, place: &str) -> impl FnOnce(E) -> ListenError {
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

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::PermissionsExt as _, net::UnixDatagram};

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

    #[test]
    fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let address = Address::Unix(path.clone());
        drop(UnixListener::bind(&path).unwrap());
        let listener = bind(&address, 0o600, None, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(bind(&address, 0o600, None, None), Err(ListenError::Busy(_))));
        drop(listener);
        assert!(!path.exists(), "the socket goes with its listener");
        fs::write(&path, "mine").unwrap();
        assert!(matches!(bind(&address, 0o600, None, None), Err(ListenError::NotASocket(_))));
    }
}
