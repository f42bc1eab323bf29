//! The listening sockets: bound with mode and group, and never taken from a process that still answers on them.

use std::{
    fs, io,
    net::TcpListener,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use nix::unistd::{Group, chown};

use crate::config::Address;

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

/// A listening socket. A Unix socket that this process has made is removed with it, unless another stands there by then.
#[derive(Debug)]
pub enum Listener {
    /// On a path.
    Unix(UnixListener, Made),
    /// On a port.
    Tcp(TcpListener),
}

/// A socket file that this process has made.
#[derive(Debug)]
pub struct Made {
    path: PathBuf,
    inode: u64,
}

impl Drop for Made {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|meta| meta.ino() == self.inode) {
            // What can't be removed is found to be stale at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listens on `address`; `mode` and `group` are those of a socket file.
///
/// # Errors
/// [`ListenError`] says what is in the way and how to mend it.
pub fn bind(address: &Address, mode: u32, group: Option<&str>) -> Result<Listener, ListenError> {
    match address {
        Address::Tcp(address) => {
            let place = format!("tcp://{address}");
            let listener = TcpListener::bind(address).map_err(failed("listen on", &place))?;
            listener.set_nonblocking(true).map_err(failed("set up", &place))?;
            Ok(Listener::Tcp(listener))
        }
        Address::Unix(path) => bind_unix(path, mode, group),
    }
}

fn bind_unix(path: &Path, mode: u32, group: Option<&str>) -> Result<Listener, ListenError> {
    let place = path.display().to_string();
    remove_stale(path)?;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed("make the folder of", &place))?;
    }
    let listener = UnixListener::bind(path).map_err(failed("listen on", &place))?;
    let inode = fs::symlink_metadata(path).map_err(failed("look at", &place))?.ino();
    let made = Made { path: path.to_owned(), inode };
    if let Some(name) = group {
        let group = Group::from_name(name).ok().flatten().ok_or_else(|| ListenError::NoGroup(name.to_owned()))?;
        chown(path, None, Some(group.gid)).map_err(|errno| failed("set the group of", &place)(errno.into()))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed("set the mode of", &place))?;
    listener.set_nonblocking(true).map_err(failed("set up", &place))?;
    Ok(Listener::Unix(listener, made))
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

fn failed(doing: &'static str, place: &str) -> impl FnOnce(io::Error) -> ListenError {
    let place = place.to_owned();
    move |source| ListenError::Io { doing, place, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let address = Address::Unix(path.clone());
        drop(UnixListener::bind(&path).unwrap());
        let listener = bind(&address, 0o600, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(bind(&address, 0o600, None), Err(ListenError::Busy(_))));
        drop(listener);
        assert!(!path.exists(), "the socket goes with its listener");
        fs::write(&path, "mine").unwrap();
        assert!(matches!(bind(&address, 0o600, None), Err(ListenError::NotASocket(_))));
    }
}
