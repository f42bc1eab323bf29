//! Drops root's privileges for good (user, groups, capabilities), and checks that they are gone. Decides nothing about who the
//! user is.
//!
//! Invariant: after [`drop_privileges`] has succeeded for an account, the process can't become root again, and no program that it
//! starts gains privileges.

use std::{ffi::CString, io};

use caps::CapSet;
use nix::{
    errno::Errno,
    sys::prctl,
    unistd::{
        Gid, Uid, User, geteuid, getgroups, getresgid, getresuid, initgroups, setegid, seteuid, setgid, setresgid,
        setresuid, setuid,
    },
};

use crate::config::Account;

/// Why the process can't become the user, or can't prove that root's privileges are gone.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// Only root can become another user.
    #[error(
        "can't become process.user {name:?}: ssecast runs as user {is:?}; start it as root, or leave process.user empty"
    )]
    NotRoot {
        /// The user that is configured.
        name: String,
        /// The user that the process runs as: its name, or its number if it has none.
        is: String,
    },
    /// The operating system refused.
    #[error(
        "can't {doing}: a container or supervisor may forbid it; set the user there instead, and leave process.user empty"
    )]
    Io {
        /// The step that failed.
        doing: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A privilege that was dropped is still there.
    #[error("privileges can't be dropped: {0}; let a supervisor set the user, and leave process.user empty")]
    NotDropped(&'static str),
}

/// Checks that the process may become `account`, before it creates files for that user.
///
/// # Errors
/// [`PrivilegeError::NotRoot`] if it runs neither as root nor as `account`.
pub fn check(account: Option<&Account>) -> Result<(), PrivilegeError> {
    match account {
        Some(account) if !geteuid().is_root() && !is_account(account) => {
            Err(PrivilegeError::NotRoot { name: account.name.clone(), is: own_name() })
        }
        _ => Ok(()),
    }
}

/// Becomes `account` with its groups and without capabilities, and sets no-new-privileges. Without an account, it only sets
/// no-new-privileges. Call it while the process has one thread.
///
/// # Errors
/// The operating system refuses a step, or a privilege is still there. Some steps may be done by then, so the process must end.
pub fn drop_privileges(account: Option<&Account>) -> Result<(), PrivilegeError> {
    check(account)?;
    match account {
        Some(account) => {
            if geteuid().is_root() {
                become_account(account)?;
            }
            // A process that was started as this user may still have capabilities.
            clear_capabilities()?;
            verify(account)?;
        }
        None if geteuid().is_root() => {
            tracing::warn!("ssecast runs as root and doesn't need to: set process.user")
        }
        None => {}
    }
    prctl::set_no_new_privs().map_err(failed("set no-new-privileges"))?;
    match prctl::get_no_new_privs() {
        Ok(true) => Ok(()),
        _ => Err(PrivilegeError::NotDropped("no-new-privileges is not set")),
    }
}

fn own_name() -> String {
    let uid = geteuid();
    User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

fn become_account(account: &Account) -> Result<(), PrivilegeError> {
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    let name = CString::new(account.name.as_str()).map_err(|_| failed("use the user's name")(Errno::EINVAL))?;
    // So that no program started later can have them either. Where root may not do this, it has few capabilities anyway.
    if let Err(error) = caps::clear(None, CapSet::Bounding) {
        tracing::debug!(%error, "the bounding set of capabilities stays as it is");
    }
    initgroups(&name, gid).map_err(failed("set the groups of process.user"))?;
    setresgid(gid, gid, gid).map_err(failed("set the group of process.user"))?;
    setresuid(uid, uid, uid).map_err(failed("become process.user"))
}

/// The kernel does this when root becomes another user, unless the process was started with the keep-capabilities flag set.
fn clear_capabilities() -> Result<(), PrivilegeError> {
    for set in [CapSet::Ambient, CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
        let cleared = caps::clear(None, set).map_err(|error| io::Error::other(error.to_string()));
        cleared.map_err(|source| PrivilegeError::Io { doing: "drop capabilities", source })?;
    }
    Ok(())
}

fn verify(account: &Account) -> Result<(), PrivilegeError> {
    if !is_account(account) {
        return Err(PrivilegeError::NotDropped("a user or group id is still another one"));
    }
    let root = Gid::from_raw(0);
    if account.gid != 0 {
        // Root's group may be among them only if the account is a member of it.
        let named = CString::new(account.name.as_str())
            .ok()
            .and_then(|name| nix::unistd::getgrouplist(&name, Gid::from_raw(account.gid)).ok());
        let groups = getgroups().map_err(failed("read the groups"))?;
        if groups.contains(&root) && !named.is_some_and(|named| named.contains(&root)) {
            return Err(PrivilegeError::NotDropped("the process is still in root's group"));
        }
        if setgid(root).is_ok() || setegid(root).is_ok() {
            return Err(PrivilegeError::NotDropped("the process can still join root's group"));
        }
    }
    let root = Uid::from_raw(0);
    if setuid(root).is_ok() || seteuid(root).is_ok() || setresuid(root, root, root).is_ok() {
        return Err(PrivilegeError::NotDropped("the process can still become root"));
    }
    for set in [CapSet::Permitted, CapSet::Effective, CapSet::Inheritable, CapSet::Ambient] {
        if !caps::read(None, set).is_ok_and(|left| left.is_empty()) {
            return Err(PrivilegeError::NotDropped("a capability is left"));
        }
    }
    Ok(())
}

/// Whether all ids (real, effective and saved) are the account's.
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

    /// Steps that change the process are tested in a process of their own, by `tests/it/start_as_root.rs`.
    #[test]
    fn only_root_can_become_another_user() {
        check(None).unwrap();
        let other = Account { name: "other".into(), uid: geteuid().as_raw() + 1, gid: 1 };
        match check(Some(&other)) {
            Ok(()) => assert!(geteuid().is_root()),
            Err(error) => assert!(matches!(error, PrivilegeError::NotRoot { .. }), "{error}"),
        }
    }
}
