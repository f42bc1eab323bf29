//! Binds a socket at a configured address. A socket on which another process answers is never taken from it.

use std::{
    io,
    net::TcpListener,
    os::{
        fd::AsFd as _,
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
};

use nix::{
    sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType},
    unistd::Group,
};

use super::{
    error::{ListenError, failed},
    listener::{Listener, ListeningSocket, Origin, SocketFile},
};
use crate::{
    config::{Account, Address},
    process::owned_files::{Entry, OpenError},
};

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

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

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
