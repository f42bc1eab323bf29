//! From root to nobody in particular: groups, ids and capabilities given up for good, and proof that they are.
//!
//! Invariant: where [`give_up`] succeeds for an account, no way leads back to root, and no program that is started from here gains
//! privileges.

use std::{ffi::CString, io};

use caps::CapSet;
use nix::{
    errno::Errno,
    sys::prctl,
    unistd::{
        Gid, Uid, geteuid, getgroups, getresgid, getresuid, initgroups, setegid, seteuid, setgid, setresgid, setresuid,
        setuid,
    },
};

use crate::config::Account;

/// Why the process can't become the user, or can't be sure of it.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// Only root can become somebody else.
    #[error(
        "can't become process.user {name:?}: ssecast was started as user {uid}; start it as root, or leave process.user empty"
    )]
    NotRoot {
        /// The user that was asked for.
        name: String,
        /// Who the process is.
        uid: u32,
    },
    /// The operating system refused.
    #[error(
        "can't {doing}: a container or supervisor may forbid it; let that one set the user, and leave process.user empty"
    )]
    Io {
        /// What was tried.
        doing: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// What was given up is still there.
    #[error(
        "{0} after it was given up: ssecast doesn't serve like this; let a supervisor set the user, and leave process.user empty"
    )]
    StillThere(&'static str),
}

/// Whether the process could become `account`, told before anything is made in its name.
///
/// # Errors
/// [`PrivilegeError::NotRoot`].
pub fn check(account: Option<&Account>) -> Result<(), PrivilegeError> {
    match account {
        Some(account) if !geteuid().is_root() && !is_account(account) => {
            Err(PrivilegeError::NotRoot { name: account.name.clone(), uid: geteuid().as_raw() })
        }
        _ => Ok(()),
    }
}

/// Becomes `account` with its groups and without capabilities, and sets no-new-privileges. Without an account, only the latter.
/// To be called while the process has one thread.
///
/// # Errors
/// What was refused, or is still there. The process may be half changed then, and has to end.
pub fn give_up(account: Option<&Account>) -> Result<(), PrivilegeError> {
    check(account)?;
    match account {
        Some(account) => {
            if geteuid().is_root() {
                become_account(account)?;
            }
            // A process that was the user already may still have saved ids or capabilities.
            clear_capabilities()?;
            verify(account)?;
        }
        None if geteuid().is_root() => {
            tracing::warn!("ssecast runs as root, which it has no need for: set process.user")
        }
        None => {}
    }
    prctl::set_no_new_privs().map_err(failed("set no-new-privileges"))?;
    match prctl::get_no_new_privs() {
        Ok(true) => Ok(()),
        _ => Err(PrivilegeError::StillThere("new privileges can be had")),
    }
}

fn become_account(account: &Account) -> Result<(), PrivilegeError> {
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    let name = CString::new(account.name.as_str()).map_err(|_| failed("use the user's name")(Errno::EINVAL))?;
    // Nothing that is started later can have them either. Root without the right to do this has few to lose.
    if let Err(error) = caps::clear(None, CapSet::Bounding) {
        tracing::debug!(%error, "the bounding set of capabilities stays as it is");
    }
    initgroups(&name, gid).map_err(failed("set the groups of process.user"))?;
    setresgid(gid, gid, gid).map_err(failed("set the group of process.user"))?;
    setresuid(uid, uid, uid).map_err(failed("become process.user"))
}

/// The kernel does it when root's id goes, unless whoever started the process has told it not to.
fn clear_capabilities() -> Result<(), PrivilegeError> {
    for set in [CapSet::Ambient, CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
        let cleared = caps::clear(None, set).map_err(|error| io::Error::other(error.to_string()));
        cleared.map_err(|source| PrivilegeError::Io { doing: "drop capabilities", source })?;
    }
    Ok(())
}

fn verify(account: &Account) -> Result<(), PrivilegeError> {
    if !is_account(account) {
        return Err(PrivilegeError::StillThere("another user or group id is there"));
    }
    let root = Gid::from_raw(0);
    if account.gid != 0 {
        // Only where the list of groups names it may it be among them.
        let named = CString::new(account.name.as_str())
            .ok()
            .and_then(|name| nix::unistd::getgrouplist(&name, Gid::from_raw(account.gid)).ok());
        let groups = getgroups().map_err(failed("read the groups"))?;
        if groups.contains(&root) && !named.is_some_and(|named| named.contains(&root)) {
            return Err(PrivilegeError::StillThere("root's group is there"));
        }
        if setgid(root).is_ok() || setegid(root).is_ok() {
            return Err(PrivilegeError::StillThere("root's group can be had"));
        }
    }
    let root = Uid::from_raw(0);
    if setuid(root).is_ok() || seteuid(root).is_ok() || setresuid(root, root, root).is_ok() {
        return Err(PrivilegeError::StillThere("root can be had"));
    }
    for set in [CapSet::Permitted, CapSet::Effective, CapSet::Inheritable, CapSet::Ambient] {
        if !caps::read(None, set).is_ok_and(|left| left.is_empty()) {
            return Err(PrivilegeError::StillThere("a capability is there"));
        }
    }
    Ok(())
}

/// Whether all ids, saved ones too, are the account's.
fn is_account(account: &Account) -> bool {
    let (Ok(user), Ok(group)) = (getresuid(), getresgid()) else { return false };
    [user.real, user.effective, user.saved].iter().all(|id| id.as_raw() == account.uid)
        && [group.real, group.effective, group.saved].iter().all(|id| id.as_raw() == account.gid)
}

fn failed(doing: &'static str) -> impl FnOnce(Errno) -> PrivilegeError {
    move |errno| PrivilegeError::Io { doing, source: errno.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What changes the process is tested on one of its own, in `tests/it/start_as_root.rs`.
    #[test]
    fn only_root_can_become_somebody_else() {
        check(None).unwrap();
        let other = Account { name: "other".into(), uid: geteuid().as_raw() + 1, gid: 1 };
        match check(Some(&other)) {
            Ok(()) => assert!(geteuid().is_root()),
            Err(error) => assert!(matches!(error, PrivilegeError::NotRoot { .. }), "{error}"),
        }
    }
}
