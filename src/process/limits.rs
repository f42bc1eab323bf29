//! Resource limits: core files, open files, and how many of these are for clients. It opens and closes nothing.

use std::io;

use nix::sys::{
    prctl,
    resource::{Resource, getrlimit, setrlimit},
};

/// The core limit can't be had.
#[derive(Debug, thiserror::Error)]
#[error(
    "can't set process.core_limit, which may be raised by root only: raise it where ssecast is started (LimitCORE=, ulimit -c), or leave it empty"
)]
pub struct CoreLimitError(#[source] io::Error);

/// Sets the size that a core file may have, in bytes; `None` leaves it as it is.
///
/// # Errors
/// A limit above the hard one, where the process isn't root.
pub fn set_core(limit: Option<u64>) -> Result<(), CoreLimitError> {
    let Some(limit) = limit else { return Ok(()) };
    let set =
        getrlimit(Resource::RLIMIT_CORE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_CORE, limit, hard.max(limit)));
    set.map_err(|errno| CoreLimitError(errno.into()))
}

/// A process that has changed its user writes no core file, and nobody of its user may look into it, unless it says otherwise:
/// it does where core files were asked for.
pub fn allow_core(limit: Option<u64>) {
    if limit.is_some_and(|limit| limit > 0)
        && let Err(error) = prctl::set_dumpable(true)
    {
        tracing::warn!(%error, "there will be no core file, though process.core_limit asks for one");
    }
}

/// Descriptors of a process with one shard and no client: sockets, runtimes, Redis, an upgrade under way, with some to spare.
const RESERVE: u64 = 48;
/// Descriptors that each further shard takes.
const RESERVE_A_SHARD: u64 = 8;
/// Least and most connections of the admin socket.
const ADMIN: std::ops::RangeInclusive<u64> = 16..=4096;

/// Most connections of the public socket at the limit of open files in force, beside `shards` shards. What is left is for
/// publishing, sources and upgrades, so that clients never keep them from working.
#[must_use]
pub fn max_connections(shards: usize) -> usize {
    public_share(open_files(), shards as u64)
}

/// Most connections of the admin socket at the limit of open files in force.
#[must_use]
pub fn max_admin_connections() -> usize {
    usize::try_from(admin_share(open_files())).unwrap_or(usize::MAX)
}

fn public_share(files: u64, shards: u64) -> usize {
    let reserve = RESERVE + RESERVE_A_SHARD * shards.saturating_sub(1) + admin_share(files);
    // Where there are hardly any files, clients get a few all the same.
    usize::try_from(files.saturating_sub(reserve).max(files / 8).max(1)).unwrap_or(usize::MAX)
}

fn admin_share(files: u64) -> u64 {
    (files / 16).clamp(*ADMIN.start(), *ADMIN.end())
}

fn open_files() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft)
}

/// Raises the limit of open files to the most that is allowed, since each client is one. Gives back the limit in force.
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
    fn clients_leave_descriptors_for_publishing_sources_and_upgrades() {
        assert_eq!((public_share(128, 1), admin_share(128)), (64, 16));
        assert_eq!((public_share(1024, 1), admin_share(1024)), (912, 64));
        assert_eq!((public_share(524_288, 4), admin_share(524_288)), (520_120, 4096));
        assert_eq!(public_share(64, 8), 8);
        assert_eq!(public_share(0, 1), 1);
    }
}
