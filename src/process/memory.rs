//! Returns freed memory to the operating system. glibc by itself returns only what is free at the end of its heaps. Knows nothing
//! of what the memory was for.
//!
//! Why not another allocator: jemalloc and mimalloc return memory by themselves, but each is a further C library to build and to
//! trust, and every allocation would go through it, for a problem that comes once in a while. Why not a fixed M_MMAP_THRESHOLD:
//! every large message would cost two system calls and its page faults.

use std::{fs, io, thread, time::Duration};

use nix::unistd::{SysconfVar, sysconf};

/// Time between two checks.
const INTERVAL: Duration = Duration::from_secs(10);
/// Free bytes that the allocator may keep. Other threads can't allocate while memory is returned, which is not worth it for less.
const MAX_KEPT: usize = 16 << 20;

/// Starts a thread that checks for freed memory and returns it, until the process ends.
///
/// # Errors
/// The operating system refuses a thread.
pub fn start() -> io::Result<()> {
    let watch = || {
        let mut trimmer = Trimmer::default();
        loop {
            thread::sleep(INTERVAL);
            trimmer.check(resident(), in_use(), trim);
        }
    };
    thread::Builder::new().name("memory".to_owned()).stack_size(128 << 10).spawn(watch).map(drop)
}

/// Decides when memory is returned.
#[derive(Debug, Default)]
struct Trimmer {
    /// Bytes that were resident but not in use right after the last trim: the program itself, the threads' stacks, and pages
    /// that are partly in use. Another trim would not return these.
    baseline: usize,
}

impl Trimmer {
    /// Calls `trim` if many bytes are resident but not in use. `trim` returns how many bytes are resident afterwards.
    fn check(&mut self, resident: usize, in_use: usize, trim: impl FnOnce() -> usize) {
        let kept = resident.saturating_sub(in_use);
        self.baseline = self.baseline.min(kept);
        if kept > self.baseline + MAX_KEPT {
            let resident_now = trim();
            self.baseline = resident_now.saturating_sub(in_use);
            tracing::debug!(from = resident, to = resident_now, "freed memory was returned to the operating system");
        }
    }
}

/// Number of resident bytes of this process, or 0 if `/proc` can't be read.
fn resident() -> usize {
    let pages = || -> Option<usize> { fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok() };
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|size| usize::try_from(size).ok());
    pages().unwrap_or(0) * page.unwrap_or(4096)
}

/// Number of allocated bytes.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "the allocator's own functions are C")]
fn in_use() -> usize {
    // SAFETY: mallinfo2(3) takes nothing, and is thread-safe as long as nothing calls mallopt(3), which nothing here does.
    let info = unsafe { nix::libc::mallinfo2() };
    info.uordblks + info.hblkhd
}

/// Returns free memory to the operating system. Gives the number of resident bytes afterwards.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "the allocator's own functions are C")]
fn trim() -> usize {
    // SAFETY: malloc_trim(3) is thread-safe, and returns only pages without an allocation.
    unsafe { nix::libc::malloc_trim(0) };
    resident()
}

/// Other C libraries return memory by themselves, or have no function for it. So nothing is ever found to be free.
#[cfg(not(target_env = "gnu"))]
fn in_use() -> usize {
    usize::MAX
}

#[cfg(not(target_env = "gnu"))]
fn trim() -> usize {
    resident()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn memory_is_trimmed_when_much_is_free_and_not_again_for_what_a_trim_can_not_return() {
        let mut trimmer = Trimmer::default();
        let mut check = |resident, in_use, then| {
            let mut trimmed = false;
            trimmer.check(resident * MIB, in_use * MIB, || {
                trimmed = true;
                then * MIB
            });
            trimmed
        };
        assert!(!check(20, 10, 0), "too little");
        assert!(!check(500, 490, 0), "in use");
        assert!(check(500, 10, 40));
        assert!(!check(40, 10, 0), "a trim can't return these");
        assert!(!check(45, 10, 0));
        assert!(check(60, 10, 12));
        assert!(check(30, 10, 12), "the baseline is lower by now");
        assert!(!check(10, 20, 0), "allocated memory that was never touched isn't resident");
    }

    #[test]
    #[cfg(target_env = "gnu")]
    fn memory_freed_in_the_middle_of_the_heap_is_returned() {
        // Every second block is freed, so the end of the heap stays in use.
        let mut all: Vec<Option<Vec<u8>>> = (0..2000).map(|_| Some(vec![1; 64 << 10])).collect();
        let before = resident();
        all.iter_mut().step_by(2).for_each(|one| *one = None);
        assert!(in_use() < before);
        trim();
        assert!(resident() + 30 * MIB < before, "{} of {before} are resident", resident());
    }
}
