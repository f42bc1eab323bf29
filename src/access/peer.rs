//! Id, user and groups of the process at the other end of a Unix socket. It decides nothing.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _},
};

use nix::{
    libc,
    sys::socket::{getsockopt, sockopt::PeerCredentials},
};

/// The process at the other end of a Unix socket, as the kernel knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its process id when it connected; 0 if it is in another process namespace.
    pub process: i32,
    /// Its user.
    pub user: u32,
    /// Its groups.
    pub groups: Vec<u32>,
}

impl Peer {
    /// Asks the kernel who has connected (`SO_PEERCRED` and `SO_PEERGROUPS`, unix(7)).
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn of(socket: &impl AsFd) -> io::Result<Self> {
        let credentials = getsockopt(socket, PeerCredentials)?;
        let mut groups = groups_of(socket)?;
        groups.push(credentials.gid());
        Ok(Self { process: credentials.pid(), user: credentials.uid(), groups })
    }
}

/// The peer's supplementary groups, as they were when it connected.
#[expect(unsafe_code, reason = "nix has no SO_PEERGROUPS")]
fn groups_of(socket: &impl AsFd) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; 32];
    loop {
        let mut bytes = libc::socklen_t::try_from(size_of_val(&groups[..])).map_err(io::Error::other)?;
        // SAFETY: the kernel writes at most `bytes` bytes, which is the size of the vector, and each group is a u32.
        let done = unsafe {
            let fd = socket.as_fd().as_raw_fd();
            libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERGROUPS, groups.as_mut_ptr().cast(), &raw mut bytes)
        };
        // On success `bytes` is the size of the groups; on ERANGE it is the size that is needed.
        groups.resize(bytes as usize / size_of::<u32>(), 0);
        if done == 0 {
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peer_has_the_user_and_groups_of_this_process() {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let peer = Peer::of(&ours).unwrap();
        assert_eq!(u32::try_from(peer.process), Ok(std::process::id()));
        assert_eq!(peer.user, nix::unistd::geteuid().as_raw());
        let mut groups: Vec<u32> = nix::unistd::getgroups().unwrap().iter().map(|group| group.as_raw()).collect();
        groups.push(nix::unistd::getegid().as_raw());
        assert_eq!(peer.groups, groups);
    }
}
