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
    /// Something else than a socket stands there.
    #[error("{0} exists and is not a socket: move it away, or configure another path in [listen]")]
    NotASocket(PathBuf),
    /// The group of `public_group` or `admin_group` does not exist.
    #[error("group {0:?} does not exist: create it, or name another in [listen]")]
    NoGroup(String),
    /// What was handed over is no socket that connections arrive at.
    #[error(
        "what was handed over as {0:?} is not a listening stream socket: see ListenStream= and Accept=no in the socket unit"
    )]
    NotListening(String),
    /// A socket was handed over that there is no use for.
    #[error(
        "a socket was handed over as {0:?}: say which one it is by FileDescriptorName=public or =admin in its socket unit"
    )]
    UnknownName(String),
    /// Two sockets were handed over for one use.
    #[error("two sockets were handed over as {0:?}, and ssecast takes one: keep one ListenStream= of that name")]
    Twice(String),
    /// The admin socket is open to the network, and there are no keys.
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
        /// What the operating system said.
        source: io::Error,
    },
}

impl ListenError {
    /// Whether it lasts until somebody changes the configuration or a unit: starting again would not help.
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

/// A listening socket. A Unix socket that this process has made is removed with it, unless another stands there by then.
#[derive(Debug)]
pub enum Listener {
    /// On a path; its file is somebody else's where the socket was handed over.
    Unix(UnixListener, Option<Made>),
    /// On a port.
    Tcp(TcpListener),
}

impl Listener {
    /// Takes a socket that listens already. `name` is what errors call it.
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
        let listener = match address.family() {
            Some(AddressFamily::Unix) => Self::Unix(fd.into(), None),
            Some(AddressFamily::Inet | AddressFamily::Inet6) => Self::Tcp(fd.into()),
            _ => return Err(refuse()),
        };
        listener.set_nonblocking().map_err(failed("set up", name))?;
        Ok(listener)
    }

    /// The same, with the file at `path`, which is this process's to remove from [`Listener::own_file`] on.
    #[must_use]
    pub fn with_file(self, path: &Path) -> Self {
        match self {
            Self::Unix(listener, _) => {
                let inode = fs::symlink_metadata(path).map(|meta| meta.ino()).ok();
                Self::Unix(listener, inode.map(|inode| Made { path: path.to_owned(), inode, owned: false }))
            }
            tcp @ Self::Tcp(_) => tcp,
        }
    }

    /// Gives the file of a Unix socket that was handed over the `mode` and the `group` that are configured, if it is a file of
    /// ssecast's own. What can't be had is logged, and so is a key that has no effect because the service manager has made the
    /// socket. `name` is `public` or `admin`.
    #[must_use]
    pub(super) fn with_settings(self, name: &str, configured: &Address, mode: u32, group: &Option<String>) -> Self {
        let address = self.address();
        if !self.is_made() && address != configured.to_string() {
            tracing::warn!(
                %address,
                %configured,
                "listen.{name} has no effect: the service manager has made the socket; change ListenStream= in its unit, or \
                 set listen.{name} to it, so that `ssecast publish` and others find it"
            );
        }
        let Self::Unix(..) = self else { return self };
        let found = || -> Result<_, OpenError> {
            let file = Entry::find(Path::new(&address))?.socket()?;
            let Some(file) = file else { return Ok(None) };
            let status = file.status()?;
            Ok(Some((file, status)))
        };
        // A socket without a file has no mode.
        let Ok(Some((file, status))) = found() else { return self };
        let gid =
            group.as_deref().and_then(|group| Group::from_name(group).ok().flatten()).map(|group| group.gid.as_raw());
        let new_gid = gid.filter(|gid| *gid != status.st_gid);
        if status.st_mode & 0o777 == mode && new_gid.is_none() {
            return self;
        }
        if !self.is_made() {
            tracing::warn!(
                %address,
                "listen.{name}_mode and listen.{name}_group have no effect: the service manager has made the socket; set \
                 SocketMode= and SocketGroup= in its unit"
            );
        } else if let Err(error) = file.set(mode, None, new_gid) {
            tracing::warn!(
                %error,
                %address,
                "listen.{name}_mode or listen.{name}_group could not be applied: this user may not; restart ssecast for it"
            );
        }
        self
    }

    /// The process that made the file has left it to this one.
    pub fn own_file(&mut self) {
        if let Self::Unix(_, Some(made)) = self {
            made.owned = true;
        }
    }

    /// Where it listens: a path, or `tcp://IP:PORT`. Empty if that can't be found out.
    #[must_use]
    pub fn address(&self) -> String {
        match self {
            // A path that the kernel has may be relative to a descriptor of ours.
            Self::Unix(_, Some(made)) => made.path.display().to_string(),
            Self::Unix(listener, None) => {
                let address = listener.local_addr().ok();
                address.and_then(|address| Some(address.as_pathname()?.display().to_string())).unwrap_or_default()
            }
            Self::Tcp(listener) => listener.local_addr().map(|address| format!("tcp://{address}")).unwrap_or_default(),
        }
    }

    /// Whether this process has made a file for it, or taken that over.
    #[must_use]
    pub fn is_made(&self) -> bool {
        matches!(self, Self::Unix(_, Some(_)))
    }

    /// Closes the socket here and leaves its file to the process that has taken it over.
    pub fn leave(self) {
        if let Self::Unix(_, Some(made)) = self {
            std::mem::forget(made);
        }
    }

    fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Self::Unix(listener, _) => listener.set_nonblocking(true),
            Self::Tcp(listener) => listener.set_nonblocking(true),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(listener, _) => listener.as_fd(),
            Self::Tcp(listener) => listener.as_fd(),
        }
    }
}

/// A socket file that this process has made.
#[derive(Debug)]
pub struct Made {
    path: PathBuf,
    inode: u64,
    /// Whether it is removed with the listener: not as long as another process may still listen there.
    owned: bool,
}

impl Drop for Made {
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
/// [`ListenError`] says what is in the way and how to mend it.
pub fn bind(
    address: &Address,
    mode: u32,
    group: Option<&str>,
    owner: Option<&Account>,
) -> Result<Listener, ListenError> {
    match address {
        Address::Tcp(address) => {
            let place = format!("tcp://{address}");
            let listener = Listener::Tcp(TcpListener::bind(address).map_err(failed("listen on", &place))?);
            listener.set_nonblocking().map_err(failed("set up", &place))?;
            Ok(listener)
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
    let made = Made { path: entry.path().to_owned(), inode, owned: true };
    let listener = Listener::Unix(listener, Some(made));
    socket::listen(&listener, Backlog::MAXALLOWABLE).map_err(failed("listen on", &place))?;
    listener.set_nonblocking().map_err(failed("set up", &place))?;
    Ok(listener)
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
        // A full backlog belongs to a process too.
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
        assert!(matches!(Listener::from_fd("public", listener.into()), Ok(Listener::Unix(_, None))));
        assert!(path.exists(), "its file is somebody else's");
        let port = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(matches!(Listener::from_fd("public", port.into()), Ok(Listener::Tcp(_))));
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
