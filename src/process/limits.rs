//! Resource limits: the size of core files, the number of open files, and how many of these are for clients. Opens and closes
//! nothing.

use std::io;

use nix::sys::{
    prctl,
    resource::{Resource, getrlimit, setrlimit},
};

/// The limit of core files can't be set.
#[derive(Debug, thiserror::Error)]
#[error(
    "can't set process.core_limit, because only root may raise it: raise it where ssecast is started (LimitCORE=, ulimit -c), or leave process.core_limit empty"
)]
pub struct CoreLimitError(#[source] io::Error);

/// Sets the maximum size of a core file, in bytes. `None` changes nothing.
///
/// # Errors
/// `limit` is above the hard limit, and the process isn't root.
pub fn set_core_limit(limit: Option<u64>) -> Result<(), CoreLimitError> {
    let Some(limit) = limit else { return Ok(()) };
    let set =
        getrlimit(Resource::RLIMIT_CORE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_CORE, limit, hard.max(limit)));
    set.map_err(|errno| CoreLimitError(errno.into()))
}

/// Allows core files again, if `limit` isn't 0. The kernel forbids them, and debuggers of the same user, when a process changes its
/// user.
pub fn allow_core_files(limit: Option<u64>) {
    if limit.is_some_and(|limit| limit > 0)
        && let Err(error) = prctl::set_dumpable(true)
    {
        tracing::warn!(%error, "no core file will be written, although process.core_limit allows one");
    }
}

/// File descriptors for everything but clients, in a process with one shard: sockets, runtimes, Redis, an upgrade. A few are spare.
const RESERVE: u64 = 48;
/// File descriptors that each further shard needs.
const RESERVE_PER_SHARD: u64 = 8;
/// Range of the admin socket's connection limit.
const ADMIN_RANGE: std::ops::RangeInclusive<u64> = 16..=4096;

/// Maximum number of connections of the public socket, from the current limit of open files and the number of shards. The other
/// files are reserved for publishers, sources and upgrades, so that these work however many clients there are.
#[must_use]
pub fn max_connections(shards: usize) -> usize {
    public_share(open_files(), shards as u64)
}

/// Maximum number of connections of the admin socket, from the current limit of open files.
#[must_use]
pub fn max_admin_connections() -> usize {
    usize::try_from(admin_share(open_files())).unwrap_or(usize::MAX)
}

fn public_share(files: u64, shards: u64) -> usize {
    let reserve = RESERVE + RESERVE_PER_SHARD * shards.saturating_sub(1) + admin_share(files);
    // With a very low limit, clients get an eighth all the same.
    usize::try_from(files.saturating_sub(reserve).max(files / 8).max(1)).unwrap_or(usize::MAX)
}

fn admin_share(files: u64) -> u64 {
    (files / 16).clamp(*ADMIN_RANGE.start(), *ADMIN_RANGE.end())
}

fn open_files() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft)
}

/// Raises the limit of open files to the hard limit, because each client needs one. Returns the limit in force.
pub fn raise_open_files() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 0 };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(error) => {
            tracing::warn!(%error, limit = soft, "the limit of open files could not be raised");
            soft
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_reserved_for_publishers_sources_and_upgrades() {
        assert_eq!((public_share(128, 1), admin_share(128)), (64, 16));
        assert_eq!((public_share(1024, 1), admin_share(1024)), (912, 64));
        assert_eq!((public_share(524_288, 4), admin_share(524_288)), (520_120, 4096));
        assert_eq!(public_share(64, 8), 8);
        assert_eq!(public_share(0, 1), 1);
    }
}
