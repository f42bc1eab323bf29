//! Files that root makes where another user may write: sockets, the pidfile, the log. Decides nothing about their content.
//!
//! Invariants:
//! - A path is resolved once, to an open directory. Everything after that goes through the directory's descriptor; only bind(2) gets
//!   the path itself, where no other user can have changed what it leads to.
//! - Root follows no symbolic link that another user could have made.
//! - Owner and mode are set through the descriptor of what was made, never through its name.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::fs::{MetadataExt as _, PermissionsExt as _, fchown},
    },
    path::{Component, Path, PathBuf, absolute},
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, openat, readlinkat},
    libc,
    sys::{
        socket::{self, UnixAddr},
        stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, mkdirat},
    },
    unistd::{Gid, Uid, UnlinkatFlags, fchownat, geteuid, unlinkat},
};

use crate::config::Account;

/// Most symbolic links on the way to a file, as the kernel has it.
const MAX_LINKS: usize = 40;
/// Most attempts to open a file that other processes make and remove at the same time.
const MAX_TRIES: usize = 20;

/// A name in an open directory. Nothing needs to have that name.
#[derive(Debug)]
pub(super) struct Entry {
    directory: OwnedFd,
    name: OsString,
    path: PathBuf,
    /// Whether only root and this user can change which directory the path leads to.
    is_fixed: bool,
}

impl Entry {
    /// The entry for `path`. Directories that are missing are made with mode 0755, and belong to `owner`, so that the daemon can
    /// make and remove files there once it runs as `owner`. Directories that exist stay as they are.
    ///
    /// # Errors
    /// A directory that can't be made or opened; a symbolic link that root must not follow.
    pub(super) fn create(path: &Path, owner: Option<&Account>) -> io::Result<Self> {
        Self::resolve(path, Some(owner))
    }

    /// The entry for `path`, whose directory exists.
    ///
    /// # Errors
    /// A directory that is missing or can't be opened; a symbolic link that root must not follow.
    pub(super) fn find(path: &Path) -> io::Result<Self> {
        Self::resolve(path, None)
    }

    fn resolve(path: &Path, create: Option<Option<&Account>>) -> io::Result<Self> {
        // The daemon leaves its working directory, and then a relative path means another file.
        let path = absolute(path)?;
        let name = path.file_name().ok_or_else(|| invalid("it names no file"))?.to_owned();
        let (directory, is_fixed) = open_directory(path.parent().unwrap_or(Path::new("/")), create)?;
        Ok(Self { directory, name, path, is_fixed })
    }

    /// The path, absolute.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the status of the file that has the name, or of the symbolic link. `None` if there is no such file.
    ///
    /// # Errors
    /// Those of `fstatat(2)`.
    pub(super) fn status(&self) -> io::Result<Option<FileStat>> {
        match fstatat(&self.directory, self.name(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(status) => Ok(Some(status)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whether the name is that of the file which is open as `fd`.
    pub(super) fn is(&self, fd: impl AsFd) -> bool {
        let (Ok(open), Ok(Some(named))) = (fstat(fd), self.status()) else { return false };
        (open.st_dev, open.st_ino) == (named.st_dev, named.st_ino)
    }

    /// Removes the name. It is no error if nothing has it.
    ///
    /// # Errors
    /// Those of `unlinkat(2)`.
    pub(super) fn remove(&self) -> io::Result<()> {
        match unlinkat(&self.directory, self.name(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Opens the file with `access` (such as `O_RDWR`). A missing one is made with `mode`, and belongs to `owner`; one that exists
    /// keeps its owner and mode. A device such as `/dev/null` is opened as well.
    ///
    /// # Errors
    /// [`OpenError::NotAFile`] for whatever could lead to another file: a link, a file with a second name, a pipe.
    pub(super) fn open(&self, access: OFlag, mode: u32, owner: Option<&Account>) -> Result<File, OpenError> {
        let access = access | OFlag::O_NOFOLLOW | OFlag::O_NOCTTY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let create = access | OFlag::O_CREAT | OFlag::O_EXCL;
        for _ in 0..MAX_TRIES {
            match openat(&self.directory, self.name(), create, Mode::from_bits_truncate(mode)) {
                Ok(fd) => {
                    let file = File::from(fd);
                    // Whatever the umask.
                    fchmod(&file, Mode::from_bits_truncate(mode)).map_err(io::Error::from)?;
                    if let Some(owner) = owner {
                        fchown(&file, Some(owner.uid), Some(owner.gid))?;
                    }
                    return Ok(file);
                }
                Err(Errno::EEXIST) => {}
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
            match openat(&self.directory, self.name(), access, Mode::empty()) {
                Ok(fd) => return only_file(fd.into()),
                Err(Errno::ENOENT) => {} // Removed in between.
                Err(Errno::ELOOP) => return Err(OpenError::NotAFile("it is a symbolic link")),
                Err(Errno::EISDIR) => return Err(OpenError::NotAFile("it is a directory")),
                Err(Errno::ENXIO) => return Err(OpenError::NotAFile("it is a pipe or a socket")),
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
        }
        Err(io::Error::other("it is removed again and again").into())
    }

    /// Opens the socket that has the name, without connecting: what is done through this descriptor concerns this socket,
    /// even if another file gets the name. `None` if nothing has the name.
    ///
    /// # Errors
    /// [`OpenError::NotAFile`] for anything but a socket.
    pub(super) fn socket(&self) -> Result<Option<SocketFile>, OpenError> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = match openat(&self.directory, self.name(), flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(io::Error::from(errno).into()),
        };
        let status = fstat(&fd).map_err(io::Error::from)?;
        if kind(&status) != SFlag::S_IFSOCK {
            return Err(OpenError::NotAFile("it is not a socket"));
        }
        Ok(Some(SocketFile(fd)))
    }

    /// Binds `socket` to the name, which nothing may have yet. The socket's file belongs to `uid` and `gid` where they are given,
    /// and has `mode`. No one can open the file before it has both.
    ///
    /// # Errors
    /// Those of `bind(2)`, `chown(2)` and `chmod(2)`; [`OpenError::NotAFile`] if another file has got the name.
    pub(super) fn bind(
        &self,
        socket: BorrowedFd<'_>,
        mode: u32,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> Result<SocketFile, OpenError> {
        // Linux makes the file with the mode of the socket.
        fchmod(socket, Mode::empty()).map_err(io::Error::from)?;
        let address = self.address_to_bind().map_err(io::Error::from)?;
        socket::bind(socket.as_raw_fd(), &address).map_err(io::Error::from)?;
        let exchanged = OpenError::NotAFile("it was exchanged while it was made: see who may write in its directory");
        let Some(file) = self.socket()? else { return Err(exchanged) };
        // Root's is the one that was just made: no one else makes sockets that belong to root here.
        let status = fstat(&file.0).map_err(io::Error::from)?;
        if geteuid().is_root() && status.st_uid != 0 {
            return Err(exchanged);
        }
        file.set(mode, uid, gid)?;
        Ok(file)
    }

    /// The address for bind(2), which is what `ss -xl` shows, and which follows no link in its last name. It is the path itself, unless
    /// another user could make it lead elsewhere by now, or it is longer than an address may be.
    fn address_to_bind(&self) -> nix::Result<UnixAddr> {
        let itself = self.is_fixed.then(|| UnixAddr::new(&self.path).ok()).flatten();
        itself.map_or_else(|| UnixAddr::new(&within(&self.directory).join(&self.name)), Ok)
    }

    fn name(&self) -> &OsStr {
        &self.name
    }
}

/// A socket's file, opened without connecting to it.
#[derive(Debug)]
pub(super) struct SocketFile(OwnedFd);

impl SocketFile {
    /// A path that leads to this socket for as long as `self` exists.
    pub(super) fn path(&self) -> PathBuf {
        within(&self.0)
    }

    /// Returns the file's status.
    ///
    /// # Errors
    /// Those of `fstat(2)`.
    pub(super) fn status(&self) -> io::Result<FileStat> {
        Ok(fstat(&self.0)?)
    }

    /// Sets owner and group, where they are given, and then the mode.
    ///
    /// # Errors
    /// Those of `chown(2)` and `chmod(2)`.
    pub(super) fn set(&self, mode: u32, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        if uid.is_some() || gid.is_some() {
            let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
            fchownat(&self.0, "", uid, gid, AtFlags::AT_EMPTY_PATH)?;
        }
        // A descriptor of this kind takes no fchmod(2); its name under /proc does, and leads nowhere else.
        fs::set_permissions(within(&self.0), fs::Permissions::from_mode(mode))
    }
}

/// Why a file can't be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// It could lead to a file elsewhere, or is none.
    #[error("{0}")]
    NotAFile(&'static str),
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<OpenError> for io::Error {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::NotAFile(what) => invalid(what),
            OpenError::Io(error) => error,
        }
    }
}

/// A second name may be that of anybody's file, linked here for root to overwrite.
fn only_file(file: File) -> Result<File, OpenError> {
    let meta = file.metadata()?;
    match SFlag::from_bits_truncate(meta.mode() & libc::S_IFMT) {
        SFlag::S_IFREG if meta.nlink() > 1 => Err(OpenError::NotAFile("it has a second name (a hard link)")),
        SFlag::S_IFREG | SFlag::S_IFCHR => Ok(file),
        _ => Err(OpenError::NotAFile("it is not an ordinary file")),
    }
}

/// Opens `path`, which is absolute, name by name. With `create`, what is missing is made for that owner. Also returns whether only
/// root and this user can change which directory the path leads to.
fn open_directory(path: &Path, create: Option<Option<&Account>>) -> io::Result<(OwnedFd, bool)> {
    let mut links = 0;
    let mut is_fixed = true;
    let mut directory = open_in(None, OsStr::new("/"))?;
    // The names that are still to come, last one first: a link puts its own names on top.
    let mut names = names_reversed(path);
    while let Some(name) = names.pop() {
        let next = match open_in(Some(&directory), &name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => match create {
                Some(owner) => make_directory(&directory, &name, owner)?,
                None => return Err(error),
            },
            next => next?,
        };
        let status = fstat(&next)?;
        // A `..` leads to a directory that was not looked at as the one before it.
        is_fixed &= name != ".." && is_fixed_in(&fstat(&directory)?, &status, geteuid().as_raw());
        match kind(&status) {
            SFlag::S_IFDIR => directory = next,
            SFlag::S_IFLNK => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::ELOOP.into());
                }
                if geteuid().is_root() && status.st_uid != 0 {
                    return Err(invalid(&format!(
                        "{name:?} in its path is a symbolic link of user {}, which root does not follow; write the path without it",
                        status.st_uid
                    )));
                }
                let target = PathBuf::from(readlinkat(&next, "")?);
                if target.is_absolute() {
                    directory = open_in(None, OsStr::new("/"))?;
                }
                names.extend(names_reversed(&target));
            }
            _ => return Err(Errno::ENOTDIR.into()),
        }
    }
    Ok((directory, is_fixed))
}

/// Whether only root and `user` can put something else in the place of `entry` in `directory`.
fn is_fixed_in(directory: &FileStat, entry: &FileStat, user: u32) -> bool {
    let is_trusted = |owner: u32| owner == 0 || owner == user;
    // The bits of the group include what an access control list grants.
    let others_write = directory.st_mode & (libc::S_IWGRP | libc::S_IWOTH) != 0;
    let is_sticky = directory.st_mode & libc::S_ISVTX != 0;
    is_trusted(directory.st_uid) && (!others_write || (is_sticky && is_trusted(entry.st_uid)))
}

fn names_reversed(path: &Path) -> Vec<OsString> {
    let names = path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    let mut names: Vec<_> = names.map(|part| part.as_os_str().to_owned()).collect();
    names.reverse();
    names
}

/// Opens a directory, or a link itself, for nothing but further names in it.
fn open_in(directory: Option<&OwnedFd>, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fd = match directory {
        Some(directory) => openat(directory, name, flags, Mode::empty()),
        None => nix::fcntl::open(name, flags, Mode::empty()),
    };
    Ok(fd?)
}

fn make_directory(parent: &OwnedFd, name: &OsStr, owner: Option<&Account>) -> io::Result<OwnedFd> {
    match mkdirat(parent, name, Mode::from_bits_truncate(0o755)) {
        Ok(()) => {}
        // Another process made it first, and its owner is for that process to decide.
        Err(Errno::EEXIST) => return open_in(Some(parent), name),
        Err(errno) => return Err(errno.into()),
    }
    let made = open_in(Some(parent), name)?;
    if let Some(owner) = owner
        && kind(&fstat(&made)?) == SFlag::S_IFDIR
    {
        let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
        fchownat(&made, "", Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH)?;
    }
    Ok(made)
}

/// The path under which the kernel knows the descriptor: it leads to the open file itself, whatever name that has.
fn within(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn kind(status: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(status.st_mode & libc::S_IFMT)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

#[cfg(test)]
mod tests;
