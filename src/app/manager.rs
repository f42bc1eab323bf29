//! Who watches the daemon's process, and what an upgrade has to do for that. It decides; it starts and ends nothing.

use std::env;

use crate::process::control_channel::Parentage;

/// Who watches the daemon's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manager {
    /// Nobody, as with `--daemon`: the predecessor ends, and init adopts the successor.
    Nobody,
    /// A service manager that speaks `sd_notify(3)`: it learns of the successor, which must be its own child by then.
    SdNotify,
    /// Somebody who knows this very process and takes its end for the daemon's: runit, s6, supervisord, a container (as whose
    /// process 1 it ends the container), a shell. After the upgrade this process stays, and supervises the successor.
    PidWatcher,
    /// The process that supervises this one, since one before it was known to a [`Manager::PidWatcher`].
    Supervisor,
}

impl Manager {
    /// Who watches a daemon that was not started by an upgrade; `detached` with `--daemon`.
    pub(super) fn of_first(detached: bool) -> Self {
        Self::decide(std::process::id() == 1, env::var_os("NOTIFY_SOCKET").is_some(), detached)
    }

    /// Who watches a successor; `supervised` where its predecessor stays, or one before that has stayed.
    pub(super) fn of_successor(detached: bool, supervised: bool) -> Self {
        match Self::decide(false, env::var_os("NOTIFY_SOCKET").is_some(), detached) {
            _ if supervised => Self::Supervisor,
            // The predecessor ends, so nobody knows this process by its number.
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

    /// Whose child a successor has to be.
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
