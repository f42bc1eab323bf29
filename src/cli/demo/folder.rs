//! The demo's private folder: both sockets, and a room of nginx's own. It is removed with everything in it.
//!
//! ```text
//! ssecast-demo-x/            only this user; started by root: and nginx's group, to pass through
//!   public.sock admin.sock
//!   nginx/                   nginx's working directory, and its own
//! ```

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt as _, chown},
    path::PathBuf,
};

use nix::unistd::{User, geteuid};
use tempfile::TempDir;

/// Who nginx runs as where root has started the demo.
const UNPRIVILEGED: &str = "nobody";

/// The folder. Dropping it removes it as well, but can't say what went wrong.
pub(super) struct Folder {
    folder: TempDir,
    tenant: Option<Tenant>,
}

/// The user that nginx is to run as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tenant {
    pub(super) user: u32,
    pub(super) group: u32,
}

impl Folder {
    /// Makes it, and nginx's part of it.
    ///
    /// # Errors
    /// What the system says; root needs the user `nobody`.
    pub(super) fn make() -> io::Result<Self> {
        let tenant = if geteuid().is_root() { Some(Tenant::unprivileged()?) } else { None };
        // Root's own temporary folder may be closed to nginx's user.
        let place = if tenant.is_some() { PathBuf::from("/tmp") } else { std::env::temp_dir() };
        let mode = if tenant.is_some() { 0o710 } else { 0o700 };
        let folder = tempfile::Builder::new()
            .prefix("ssecast-demo-")
            .permissions(fs::Permissions::from_mode(mode))
            .tempdir_in(place)?;
        let folder = Self { folder, tenant };
        fs::create_dir(folder.nginx())?;
        if let Some(tenant) = tenant {
            chown(folder.folder.path(), None, Some(tenant.group))?;
            chown(folder.nginx(), Some(tenant.user), Some(tenant.group))?;
        }
        Ok(folder)
    }

    /// The socket of the streams.
    pub(super) fn public(&self) -> PathBuf {
        self.folder.path().join("public.sock")
    }

    /// The socket for publishing.
    pub(super) fn admin(&self) -> PathBuf {
        self.folder.path().join("admin.sock")
    }

    /// Where nginx reads and writes.
    pub(super) fn nginx(&self) -> PathBuf {
        self.folder.path().join("nginx")
    }

    /// Who nginx runs as, if not as this process.
    pub(super) fn tenant(&self) -> Option<Tenant> {
        self.tenant
    }

    /// Removes it.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn remove(self) -> io::Result<()> {
        self.folder.close()
    }
}

impl Tenant {
    fn unprivileged() -> io::Result<Self> {
        let user = User::from_name(UNPRIVILEGED)?
            .ok_or_else(|| io::Error::other(format!("there is no user {UNPRIVILEGED:?} for nginx to run as")))?;
        Ok(Self { user: user.uid.as_raw(), group: user.gid.as_raw() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_private_and_leaves_nothing() {
        let folder = Folder::make().unwrap();
        let path = folder.nginx().parent().unwrap().to_owned();
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode & !0o010, 0o700, "{mode:o}");
        fs::write(folder.nginx().join("left"), "x").unwrap();
        folder.remove().unwrap();
        assert!(!path.exists());
    }
}
