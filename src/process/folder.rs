//! The folder that a socket, the pidfile or the log stands in. Makes what is missing of it, and never touches one that is there.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, lchown},
    path::Path,
};

use crate::config::Account;

/// Makes the folder of `file` with those above it, as far as they are missing, mode 0755. What is made belongs to `owner`, so
/// that the daemon can remove and make files there once it is `owner`.
///
/// # Errors
/// What the system said when it refused one of them.
pub(super) fn make_for(file: &Path, owner: Option<&Account>) -> io::Result<()> {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => make(folder, owner),
        _ => Ok(()),
    }
}

fn make(folder: &Path, owner: Option<&Account>) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    make_for(folder, owner)?;
    match fs::DirBuilder::new().mode(0o755).create(folder) {
        // Somebody else was quicker, and its owner is theirs to say.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made?,
    }
    // Not through a symbolic link: whoever may write above could put one there meanwhile.
    owner.map_or(Ok(()), |owner| lchown(folder, Some(owner.uid), Some(owner.gid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_missing_folder_is_made_and_none_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        make_for(&folder.path().join("a/b/file"), None).unwrap();
        assert!(folder.path().join("a/b").is_dir() && !folder.path().join("a/b/file").exists());
        make_for(&folder.path().join("a/b/file"), None).unwrap();
        make_for(Path::new("file"), None).unwrap();
        fs::write(folder.path().join("f"), "").unwrap();
        make_for(&folder.path().join("f/b/file"), None).unwrap_err();
    }
}
