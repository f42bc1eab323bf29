//! Decides who may publish, by the peer's user and groups or by a key. It reads no request.

use subtle::ConstantTimeEq;

use super::Peer;
use crate::config;

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

/// Checks whether a peer may publish. If `[publish]` names no user, group or key, any peer that can open the socket may. Else the peer
/// needs a named user, a named group, or a valid key.
///
/// # Errors
/// [`Refused`]: the reason.
pub fn may_publish(config: &config::Publish, peer: Option<&Peer>, key: Option<&[u8]>) -> Result<(), Refused> {
    let by_user = !config.users.is_empty() || !config.groups.is_empty();
    let named = peer.is_some_and(|peer| {
        config.users.contains(&peer.user) || peer.groups.iter().any(|group| config.groups.contains(group))
    });
    match (config.key_files.keys.is_empty(), key) {
        _ if named => Ok(()),
        (true, _) if by_user => Err(Refused::User),
        (true, _) => Ok(()),
        (false, None) => Err(Refused::NoKey),
        (false, Some(key)) => {
            // Compare with every key, each in constant time, so that the time says nothing about the keys.
            let known = config
                .key_files
                .keys
                .iter()
                .fold(subtle::Choice::from(0), |found, known| found | known.as_bytes().ct_eq(key));
            if known.into() { Ok(()) } else { Err(Refused::WrongKey) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(keys: &[&str], users: &[u32], groups: &[u32]) -> config::Publish {
        config::Publish {
            key_files: config::KeyFiles { keys: keys.iter().map(ToString::to_string).collect(), paths: Vec::new() },
            users: users.to_vec(),
            groups: groups.to_vec(),
            ..config::Publish::default()
        }
    }

    #[test]
    fn a_named_user_or_group_or_a_valid_key_may_publish() {
        let peer = Peer { process: 1, user: 33, groups: vec![33, 50] };
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
