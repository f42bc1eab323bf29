//! The demo's private folder: both sockets, and a lock that says whether the demo still runs. It is removed with everything
//! in it. A demo that was killed leaves its folder; the next demo of the same user removes it.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::{MetadataExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{Flock, FlockArg, OFlag, open, openat},
    sys::stat::Mode,
    unistd::geteuid,
};
use tempfile::TempDir;

const PREFIX: &str = "ssecast-demo-";
/// Locked while the demo runs. The kernel releases the lock when the process ends, however it ends.
const LOCK: &str = "lock";

/// The folder. Dropping it removes it as well, but can't report an error.
pub(super) struct Folder {
    folder: TempDir,
    _lock: Flock<File>,
}

impl Folder {
    /// Makes it, and removes the folders of killed demos of this user.
    ///
    /// # Errors
    /// What the operating system reports about the temporary folder.
    pub(super) fn make() -> io::Result<Self> {
        Self::make_in(&std::env::temp_dir())
    }

    fn make_in(place: &Path) -> io::Result<Self> {
        remove_stale(place);
        let mode = fs::Permissions::from_mode(0o700);
        let folder = tempfile::Builder::new().prefix(PREFIX).permissions(mode).tempdir_in(place)?;
        // Lock the file before it gets its name, so that another demo that starts now doesn't take this folder for a stale one.
        let new = folder.path().join("lock.new");
        let lock = lock(File::create_new(&new)?)?;
        fs::rename(&new, folder.path().join(LOCK))?;
        Ok(Self { folder, _lock: lock })
    }

    /// The socket of the streams.
    pub(super) fn public(&self) -> PathBuf {
        self.folder.path().join("public.sock")
    }

    /// The socket for publishing.
    pub(super) fn admin(&self) -> PathBuf {
        self.folder.path().join("admin.sock")
    }

    /// Removes it.
    ///
    /// # Errors
    /// What the operating system reports.
    pub(super) fn remove(self) -> io::Result<()> {
        self.folder.close()
    }
}

/// Removes the folders of this user's demos that have ended. A folder that can't be removed stays, and does no harm.
fn remove_stale(place: &Path) {
    let Ok(entries) = fs::read_dir(place) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with(PREFIX) && is_stale(&path).unwrap_or(false) {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

/// Whether `folder` is a folder of this user's demo that has ended. No link is followed.
fn is_stale(folder: &Path) -> io::Result<bool> {
    let metadata = fs::symlink_metadata(folder)?;
    if !metadata.is_dir() || metadata.uid() != geteuid().as_raw() {
        return Ok(false);
    }
    let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let directory: OwnedFd = open(folder, flags | OFlag::O_DIRECTORY | OFlag::O_RDONLY, Mode::empty())?;
    let file: OwnedFd = openat(&directory, LOCK, flags | OFlag::O_NONBLOCK | OFlag::O_RDWR, Mode::empty())?;
    // The demo has ended if this is still the folder checked above and nobody holds its lock.
    let same = fs::metadata(format!("/proc/self/fd/{}", directory.as_raw_fd()))?;
    Ok(same.ino() == metadata.ino() && same.dev() == metadata.dev() && lock(File::from(file)).is_ok())
}

fn lock(file: File) -> io::Result<Flock<File>> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_is_private_and_is_removed() {
        let folder = Folder::make().unwrap();
        let path = folder.admin().parent().unwrap().to_owned();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        fs::write(path.join("file"), "x").unwrap();
        folder.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn the_next_demo_removes_a_killed_demo_s_folder_and_keeps_a_running_one_s() {
        let place = tempfile::tempdir().unwrap();
        let running = Folder::make_in(place.path()).unwrap();
        // A killed demo leaves its folder with an unlocked lock file. The others only look like that.
        let killed = place.path().join("ssecast-demo-killed");
        fs::create_dir(&killed).unwrap();
        fs::write(killed.join(LOCK), "").unwrap();
        let elsewhere = place.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        fs::write(elsewhere.join(LOCK), "").unwrap();
        std::os::unix::fs::symlink(&elsewhere, place.path().join("ssecast-demo-link")).unwrap();
        let without_lock = place.path().join("ssecast-demo-new");
        fs::create_dir(&without_lock).unwrap();

        let next = Folder::make_in(place.path()).unwrap();
        assert!(!killed.exists());
        assert!(elsewhere.join(LOCK).exists() && without_lock.exists());
        assert!(running.folder.path().exists() && next.folder.path().exists());
    }
}
