//! CPU time and memory of processes, read from `/proc` (proc(5)).

use std::{fs, time::Duration};

use anyhow::Context;
use serde::Serialize;

/// A process at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct Sample {
    /// Its id.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// Time its threads have run, from `task/*/schedstat`: exact to the nanosecond, where `stat` counts ticks.
    #[serde(skip)]
    pub cpu: Duration,
    /// Memory in bytes; shared memory counts in proportion (PSS).
    pub pss: u64,
    /// Memory in bytes; shared memory counts fully (RSS).
    pub rss: u64,
}

/// `pids` and all their descendants, such as the workers of nginx's master.
///
/// # Errors
/// Where `/proc` can't be read.
pub fn with_descendants(pids: &[u32]) -> anyhow::Result<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").context("/proc can't be read")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A process that has ended meanwhile has no children to miss.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // `pid (name) state ppid …`, and the name may have anything in it.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        parents.extend(parent.map(|parent| (parent, pid)));
    }
    let mut all = pids.to_vec();
    let mut next = 0;
    while let Some(&parent) = all.get(next) {
        let children = parents.iter().filter(|(of, pid)| *of == parent && !all.contains(pid)).map(|&(_, pid)| pid);
        all.extend(children.collect::<Vec<_>>());
        next += 1;
    }
    Ok(all)
}

/// Samples each of `pids`.
///
/// # Errors
/// Where a process has ended, or belongs to another user.
pub fn sample(pids: &[u32]) -> anyhow::Result<Vec<Sample>> {
    pids.iter()
        .map(|&pid| {
            sample_one(pid).with_context(|| format!("process {pid} can't be looked at (it is there, and yours?)"))
        })
        .collect()
}

fn sample_one(pid: u32) -> anyhow::Result<Sample> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm"))?.trim_end().to_owned();
    let mut cpu = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end between being listed and being read.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        cpu += text.split_whitespace().next().and_then(|ran| ran.parse::<u64>().ok()).unwrap_or(0);
    }
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let bytes = |key: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    Ok(Sample {
        pid,
        name,
        cpu: Duration::from_nanos(cpu),
        pss: bytes("Pss:").context("no Pss in smaps_rollup")?,
        rss: bytes("Rss:").context("no Rss in smaps_rollup")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_counted() {
        let pid = std::process::id();
        let samples = sample(&[pid]).unwrap();
        assert_eq!(samples[0].pid, pid);
        assert!(samples[0].rss >= samples[0].pss && samples[0].pss > 0);
        assert!(samples[0].cpu > Duration::ZERO);
        assert!(sample(&[u32::MAX]).is_err());
    }

    #[test]
    fn children_are_found() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let all = with_descendants(&[std::process::id()]).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(all.contains(&child.id()));
    }
}
