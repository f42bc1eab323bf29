//! Files in memory, by which snapshots and lists of names travel: a message of the control channel is too small for them.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    os::fd::OwnedFd,
};

use nix::sys::memfd::{MFdFlags, memfd_create};

/// A file in memory that holds `bytes`.
///
/// # Errors
/// No memory, or no descriptor left.
pub fn memfd(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("ssecast-upgrade", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(bytes)?;
    Ok(file.into())
}

/// Returns the content of a file in memory.
///
/// # Errors
/// A descriptor that can't be read.
pub fn read_memfd(fd: OwnedFd) -> io::Result<Vec<u8>> {
    let mut file = File::from(fd);
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}
