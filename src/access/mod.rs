//! Who may publish: the kernel's word about the peer, or a key.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _},
};

use nix::{
    libc,
    sys::socket::{getsockopt, sockopt::PeerCredentials},
};
use subtle::ConstantTimeEq;

use crate::config;

/// The process at the other end of a Unix socket, as the kernel knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its user.
    pub user: u32,
    /// Its groups.
    pub groups: Vec<u32>,
}

impl Peer {
    /// Asks the kernel who has connected (`SO_PEERCRED` and `SO_PEERGROUPS`, unix(7)).
    ///
    /// # Errors
    /// What the operating system says.
    pub fn of(socket: &impl AsFd) -> io::Result<Self> {
        let credentials = getsockopt(socket, PeerCredentials)?;
        let mut groups = groups_of(socket)?;
        groups.push(credentials.gid());
        Ok(Self { user: credentials.uid(), groups })
    }
}

/// The peer's groups beside its own, as they were when it connected.
#[expect(unsafe_code, reason = "nix has no SO_PEERGROUPS")]
fn groups_of(socket: &impl AsFd) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; 32];
    loop {
        let mut bytes = libc::socklen_t::try_from(size_of_val(&groups[..])).map_err(io::Error::other)?;
        // SAFETY: the kernel writes at most `bytes` bytes, which is what the vector has, and each group is a u32.
        let done = unsafe {
            let fd = socket.as_fd().as_raw_fd();
            libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERGROUPS, groups.as_mut_ptr().cast(), &raw mut bytes)
        };
        // Either as many as there are, or as many as there is room needed for.
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

/// Why a publish is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A key is needed, and none was given.
    #[error("a key is needed to publish: give it as `key`, or as the header `Authorization: Bearer KEY`")]
    NoKey,
    /// The key is not one of those in `publish.key_files`.
    #[error("the key is not one of those in publish.key_files")]
    WrongKey,
    /// The peer is neither one of `publish.users` nor in one of `publish.groups`.
    #[error("this user may not publish: it is not in publish.users, nor in a group of publish.groups")]
    User,
}

/// Whether a peer may publish. Where nothing is configured, whoever can open the socket may; otherwise it takes a user or a
/// group that is named, or a key.
///
/// # Errors
/// [`Refused`] says what is missing.
pub fn may_publish(config: &config::Publish, peer: Option<&Peer>, key: Option<&[u8]>) -> Result<(), Refused> {
    let by_user = !config.users.is_empty() || !config.groups.is_empty();
    let named = peer.is_some_and(|peer| {
        config.users.contains(&peer.user) || peer.groups.iter().any(|group| config.groups.contains(group))
    });
    match (config.keys.is_empty(), key) {
        _ if named => Ok(()),
        (true, _) if by_user => Err(Refused::User),
        (true, _) => Ok(()),
        (false, None) => Err(Refused::NoKey),
        (false, Some(key)) => {
            // All are compared, and each in constant time, so that time tells nothing of a key.
            let known =
                config.keys.iter().fold(subtle::Choice::from(0), |found, known| found | known.as_bytes().ct_eq(key));
            if known.into() { Ok(()) } else { Err(Refused::WrongKey) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_knows_this_process() {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let peer = Peer::of(&ours).unwrap();
        assert_eq!(peer.user, nix::unistd::geteuid().as_raw());
        let mut groups: Vec<u32> = nix::unistd::getgroups().unwrap().iter().map(|group| group.as_raw()).collect();
        groups.push(nix::unistd::getegid().as_raw());
        assert_eq!(peer.groups, groups);
    }

    fn config(keys: &[&str], users: &[u32], groups: &[u32]) -> config::Publish {
        config::Publish {
            keys: keys.iter().map(ToString::to_string).collect(),
            users: users.to_vec(),
            groups: groups.to_vec(),
            ..config::Publish::default()
        }
    }

    #[test]
    fn a_named_user_or_group_or_a_key_opens_the_door() {
        let peer = Peer { user: 33, groups: vec![33, 50] };
        let peer = Some(&peer);
        assert_eq!(may_publish(&config(&[], &[], &[]), peer, None), Ok(()));
        assert_eq!(may_publish(&config(&[], &[33], &[]), peer, None), Ok(()));
        assert_eq!(may_publish(&config(&[], &[], &[50]), peer, None), Ok(()));
        assert_eq!(may_publish(&config(&[], &[0], &[7]), peer, None), Err(Refused::User));
        assert_eq!(may_publish(&config(&["s3"], &[], &[]), peer, None), Err(Refused::NoKey));
        assert_eq!(may_publish(&config(&["s3"], &[], &[]), peer, Some(b"s4")), Err(Refused::WrongKey));
        assert_eq!(may_publish(&config(&["s2", "s3"], &[], &[]), None, Some(b"s3")), Ok(()));
        assert_eq!(may_publish(&config(&["s3"], &[33], &[]), peer, None), Ok(()));
    }
}
