//! The listening sockets: bound with mode and group, and never taken from a process that still answers on them.

#[cfg(test)]
mod tests;

use std::{
    fs, io,
    net::TcpListener,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{
            fs::{FileTypeExt, MetadataExt, PermissionsExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf, absolute},
};

use nix::{
    sys::{
        socket::{
            self, AddressFamily, Backlog, SockFlag, SockType, SockaddrLike, SockaddrStorage, UnixAddr, getsockname,
            getsockopt, sockopt,
        },
        stat::{Mode, fchmod},
    },
    unistd::{Gid, Group, Uid, chown},
};

use super::folder;
use crate::config::{Account, Address};

/// Why a socket can't be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A process answers on the path.
    #[error("another process answers on {0}: stop it first, or configure another path in [listen]")]
    Busy(PathBuf),
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
        "a socket was handed over as {0:?}: say which one it is by FileDescriptorName=public or =admin in its socket unit, one of each"
    )]
    UnknownName(String),
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

/// A listening socket. The file of a Unix socket that this process has made is removed with it, unless another stands there by
/// then.
#[derive(Debug)]
pub struct Listener {
    /// The socket itself.
    pub kind: ListenerKind,
    /// None where the file is somebody else's, or there is none.
    made: Option<Made>,
}

/// The socket of a [`Listener`], never blocking.
#[derive(Debug)]
pub enum ListenerKind {
    /// On a path.
    Unix(UnixListener),
    /// On a port.
    Tcp(TcpListener),
}

impl Listener {
    /// Takes a socket that listens already. Its file stays whose it is. `name` is what errors call it.
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
        let kind = match address.family() {
            Some(AddressFamily::Unix) => ListenerKind::Unix(fd.into()),
            Some(AddressFamily::Inet | AddressFamily::Inet6) => ListenerKind::Tcp(fd.into()),
            _ => return Err(refuse()),
        };
        Self { kind, made: None }.unblocked(name)
    }

    /// Whether the file is this process's to remove.
    #[must_use]
    pub fn removes_file(&self) -> bool {
        self.made.is_some()
    }

    /// Makes the file at the socket's path this process's to remove: the process that made it has handed it on.
    #[must_use]
    pub fn adopt_file(mut self) -> Self {
        if let ListenerKind::Unix(listener) = &self.kind
            && let Ok(address) = listener.local_addr()
            && let Some(path) = address.as_pathname()
        {
            self.made = Made::at(path).ok();
        }
        self
    }

    /// Leaves the file to the process that it was handed on to.
    pub fn leave_file(&mut self) {
        // All that it would do at its end is remove the file.
        std::mem::forget(self.made.take());
    }

    fn unblocked(self, place: &str) -> Result<Self, ListenError> {
        let done = match &self.kind {
            ListenerKind::Unix(listener) => listener.set_nonblocking(true),
            ListenerKind::Tcp(listener) => listener.set_nonblocking(true),
        };
        done.map_err(failed("set up", place))?;
        Ok(self)
    }
}

impl AsFd for ListenerKind {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(listener) => listener.as_fd(),
            Self::Tcp(listener) => listener.as_fd(),
        }
    }
}

/// A socket file that this process has made.
#[derive(Debug)]
struct Made {
    path: PathBuf,
    inode: u64,
}

impl Made {
    fn at(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), inode: fs::symlink_metadata(path)?.ino() })
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|meta| meta.ino() == self.inode) {
            // What can't be removed is found to be stale at the next start.
            let _ = fs::remove_file(&self.path);
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
            let listener = TcpListener::bind(address).map_err(failed("listen on", &place))?;
            Listener { kind: ListenerKind::Tcp(listener), made: None }.unblocked(&place)
        }
        Address::Unix(path) => bind_unix(path, mode, group, owner),
    }
}

fn bind_unix(path: &Path, mode: u32, group: Option<&str>, owner: Option<&Account>) -> Result<Listener, ListenError> {
    let place = path.display().to_string();
    // The daemon leaves its folder.
    let path = absolute(path).map_err(failed("find", &place))?;
    let group = match group {
        Some(name) => {
            let group = Group::from_name(name).ok().flatten();
            Some(group.ok_or_else(|| ListenError::NoGroup(name.to_owned()))?.gid)
        }
        None => owner.map(|owner| Gid::from_raw(owner.gid)),
    };
    remove_stale(&path)?;
    folder::make_for(&path, owner).map_err(failed("make the folder of", &place))?;
    let listener = UnixListener::from(closed_socket().map_err(failed("make a socket for", &place))?);
    let address = UnixAddr::new(&path).map_err(failed("listen on", &place))?;
    socket::bind(listener.as_raw_fd(), &address).map_err(failed("listen on", &place))?;
    let made = Made::at(&path).map_err(failed("look at", &place))?;
    let listener = Listener { kind: ListenerKind::Unix(listener), made: Some(made) };
    let owner = owner.map(|owner| Uid::from_raw(owner.uid));
    if owner.is_some() || group.is_some() {
        chown(&path, owner, group).map_err(failed("set the owner and group of", &place))?;
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(failed("set the mode of", &place))?;
    socket::listen(&listener.kind, Backlog::MAXALLOWABLE).map_err(failed("listen on", &place))?;
    listener.unblocked(&place)
}

/// A socket whose file will be nobody's to connect to until its group and mode are set: Linux makes the file with the mode of
/// the socket.
fn closed_socket() -> nix::Result<OwnedFd> {
    let fd = socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    fchmod(&fd, Mode::empty())?;
    Ok(fd)
}

/// Removes a socket that nobody answers on: asked, not guessed.
fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let place = path.display().to_string();
    let meta = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        meta => meta.map_err(failed("look at", &place))?,
    };
    if !meta.file_type().is_socket() {
        return Err(ListenError::NotASocket(path.to_owned()));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed("remove the stale socket", &place))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(failed("ask who answers on", &place)(error)),
        // A full backlog is somebody's too.
        _ => Err(ListenError::Busy(path.to_owned())),
    }
}

fn failed<E: Into<io::Error>>(doing: &'static str, place: &str) -> impl FnOnce(E) -> ListenError {
    let place = place.to_owned();
    move |source| ListenError::Io { doing, place, source: source.into() }
}
