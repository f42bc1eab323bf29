//! Gives memory back to the operating system that was freed and that the allocator still keeps: glibc returns only what lies at
//! the end of its heaps. Knows nothing of what the memory was for.
//!
//! Why not another allocator: jemalloc and mimalloc return memory by themselves, but each is a C library of its own to build
//! and to trust, and every allocation would go through it for the sake of a moment that comes once in a while. Why not a fixed
//! M_MMAP_THRESHOLD: every large message would cost two system calls and its page faults.

use std::{fs, io, thread, time::Duration};

use nix::unistd::{SysconfVar, sysconf};

/// How often it is looked at.
const INTERVAL: Duration = Duration::from_secs(10);
/// Bytes that the allocator may keep: less is not worth the moment in which other threads can't allocate.
const MAY_KEEP: usize = 16 << 20;

/// Starts a thread that looks after it until the process ends.
///
/// # Errors
/// The operating system gives no thread.
pub fn start() -> io::Result<()> {
    let watch = || {
        let mut keeper = Keeper::default();
        loop {
            thread::sleep(INTERVAL);
            keeper.look(resident(), in_use(), give_back);
        }
    };
    thread::Builder::new().name("memory".to_owned()).stack_size(128 << 10).spawn(watch).map(drop)
}

/// Decides when memory is given back.
#[derive(Debug, Default)]
struct Keeper {
    /// What was resident beyond what was in use, in bytes, after memory was last given back: the program itself, the threads'
    /// stacks, and what lies in pages that are used in part. Trying again would not return that.
    stays: usize,
}

impl Keeper {
    /// Gives memory back with `give_back`, which says how many bytes are resident then, if much is resident that isn't in use.
    fn look(&mut self, resident: usize, in_use: usize, give_back: impl FnOnce() -> usize) {
        let kept = resident.saturating_sub(in_use);
        self.stays = self.stays.min(kept);
        if kept > self.stays + MAY_KEEP {
            let resident_now = give_back();
            self.stays = resident_now.saturating_sub(in_use);
            tracing::debug!(from = resident, to = resident_now, "freed memory was returned to the operating system");
        }
    }
}

/// Bytes that are resident; zero if that can't be found out.
fn resident() -> usize {
    let pages = || -> Option<usize> { fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok() };
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|size| usize::try_from(size).ok());
    pages().unwrap_or(0) * page.unwrap_or(4096)
}

/// Bytes that are allocated.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "the allocator's own functions are C")]
fn in_use() -> usize {
    // SAFETY: mallinfo2(3) takes nothing, and is thread-safe but for mallopt(3), which is never called here.
    let info = unsafe { nix::libc::mallinfo2() };
    info.uordblks + info.hblkhd
}

/// Returns what is free, and says how many bytes are resident then.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "the allocator's own functions are C")]
fn give_back() -> usize {
    // SAFETY: malloc_trim(3) is thread-safe, and returns only pages without an allocation.
    unsafe { nix::libc::malloc_trim(0) };
    resident()
}

/// Other C libraries return memory themselves, or can't be asked.
#[cfg(not(target_env = "gnu"))]
fn in_use() -> usize {
    usize::MAX
}

#[cfg(not(target_env = "gnu"))]
fn give_back() -> usize {
    resident()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn memory_is_given_back_when_much_is_kept_and_not_again_for_what_stays() {
        let mut keeper = Keeper::default();
        let mut look = |resident, in_use, then| {
            let mut asked = false;
            keeper.look(resident * MIB, in_use * MIB, || {
                asked = true;
                then * MIB
            });
            asked
        };
        assert!(!look(20, 10, 0), "too little");
        assert!(!look(500, 490, 0), "in use");
        assert!(look(500, 10, 40));
        assert!(!look(40, 10, 0), "what stays is known");
        assert!(!look(45, 10, 0));
        assert!(look(60, 10, 12));
        assert!(look(30, 10, 12), "less stays by now");
        assert!(!look(10, 20, 0), "much is allocated that was never touched");
    }

    #[test]
    #[cfg(target_env = "gnu")]
    fn what_was_freed_in_the_middle_of_the_heap_is_returned() {
        // Every second one is freed: the heap's end stays in use.
        let mut all: Vec<Option<Vec<u8>>> = (0..2000).map(|_| Some(vec![1; 64 << 10])).collect();
        let before = resident();
        all.iter_mut().step_by(2).for_each(|one| *one = None);
        assert!(in_use() < before);
        give_back();
        assert!(resident() + 30 * MIB < before, "{} of {before} are resident", resident());
    }
}
