//! Finds out who watches the daemon's process, and what that means for an upgrade. It starts and ends no process.

use std::env;

use crate::process::control_channel::Parentage;

/// Who watches the daemon's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manager {
    /// Nobody, as with `--daemon`: the predecessor ends, and init adopts the successor.
    Nobody,
    /// A service manager that speaks `sd_notify(3)`. It is notified of the successor, which must be its own child by then.
    SdNotify,
    /// A program that knows this process's id, and takes the end of this process for the end of the daemon: runit, s6,
    /// supervisord, a shell, or a container whose process 1 this is. After an upgrade this process stays, and supervises the
    /// successor.
    PidWatcher,
    /// The first process of this daemon. It stayed after an upgrade because of a [`Manager::PidWatcher`], and supervises this one.
    Supervisor,
}

impl Manager {
    /// Who watches a daemon that was not started by an upgrade. `detached`: it was started with `--daemon`.
    pub(super) fn of_first(detached: bool) -> Self {
        Self::decide(std::process::id() == 1, env::var_os("NOTIFY_SOCKET").is_some(), detached)
    }

    /// Who watches a successor. `supervised`: its predecessor stays after this upgrade, or an earlier process stayed.
    pub(super) fn of_successor(detached: bool, supervised: bool) -> Self {
        match Self::decide(false, env::var_os("NOTIFY_SOCKET").is_some(), detached) {
            _ if supervised => Self::Supervisor,
            // The predecessor ends, so nobody knows this process's id.
            Self::PidWatcher => Self::Nobody,
            other => other,
        }
    }

    fn decide(is_process_1: bool, has_notify_socket: bool, detached: bool) -> Self {
        match (is_process_1, has_notify_socket, detached) {
            (true, ..) => Self::PidWatcher,
            (_, true, _) => Self::SdNotify,
            (_, _, true) => Self::Nobody,
            _ => Self::PidWatcher,
        }
    }

    /// Whose child a successor must be.
    pub(super) fn parentage(self) -> Parentage {
        match self {
            Self::SdNotify => Parentage::Orphan,
            Self::Nobody | Self::PidWatcher | Self::Supervisor => Parentage::Child,
        }
    }

    /// Whether this process stays after an upgrade.
    pub(super) fn stays(self) -> bool {
        self == Self::PidWatcher
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_1_stays_and_only_a_service_manager_gets_orphans() {
        assert_eq!(Manager::decide(true, true, true), Manager::PidWatcher);
        assert_eq!(Manager::decide(false, true, false), Manager::SdNotify);
        assert_eq!(Manager::decide(false, false, true), Manager::Nobody);
        assert_eq!(Manager::decide(false, false, false), Manager::PidWatcher);
        assert_eq!(Manager::of_successor(false, true), Manager::Supervisor);
        assert_eq!(Manager::SdNotify.parentage(), Parentage::Orphan);
        assert_eq!(Manager::Supervisor.parentage(), Parentage::Child);
    }
}
