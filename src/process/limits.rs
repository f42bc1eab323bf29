//! Resource limits.

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
