//! The load generator: the program `ssecast-bench`, and the parts that ssecast's benches use.
//!
//! It starts and stops no server. It uses ssecast only over its sockets, so it can measure other servers in the same way.

pub mod args;
pub mod channels;
pub mod histogram;
pub mod parser;
pub mod procfs;
pub mod progress;
pub mod publisher;
pub mod report;
pub mod stamp;
pub mod swarm;
pub mod tally;
pub mod target;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

pub use self::args::BenchArgs;
use self::{
    channels::ChannelPlan,
    progress::Progress,
    publisher::Publisher,
    report::{Report, ToAll, Usage},
    swarm::{Swarm, Work},
    target::Target,
};

/// Open files beside those of the clients.
const OTHER_FILES: u64 = 32;

/// One measurement.
#[derive(Debug, Clone)]
pub struct Bench {
    /// Where clients connect.
    pub target: Target,
    /// What they subscribe to.
    pub channels: ChannelPlan,
    /// How many there are.
    pub clients: usize,
    /// What is published.
    pub work: Work,
    /// Events before those that are measured, one at a time.
    pub warmup: usize,
    /// Processes to look at.
    pub pids: Vec<u32>,
    /// Longest time for all of it.
    pub timeout: Duration,
}

/// Runs the program with its arguments: 0 if every client got every event once and in order, else 1.
///
/// # Errors
/// The measurement failed: no connection, a refused request or publish, a process that does not exist.
pub fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    let BenchArgs { target, publish, clients, channels, events, rate, burst, warmup, size, pid, timeout, json } = args;
    let mut publisher = if publish == "none" { None } else { Some(publisher::open(&publish)?) };
    let work = Work { events, burst, rate, size };
    let bench = Bench { target, channels, clients, work, warmup, pids: procfs::with_descendants(&pid)?, timeout };
    let report = bench.measure(publisher.as_deref_mut(), Progress::on_terminal())?;
    if json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{report}");
    }
    Ok(if report.counts.flawless() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Bench {
    /// Connects, publishes and counts. Without a publisher, it watches what others publish until the time is up.
    ///
    /// # Errors
    /// As [`run`].
    pub fn measure(
        &self,
        publisher: Option<&mut (dyn Publisher + 'static)>,
        mut progress: Progress,
    ) -> anyhow::Result<Report> {
        raise_file_limit(self.clients)?;
        let deadline = Instant::now() + self.timeout;
        let before = procfs::sample(&self.pids)?;

        let start = Instant::now();
        let mut swarm = Swarm::connect(&self.target, &self.channels, self.clients, deadline, &mut progress)?;
        let connect_us = micros(start.elapsed());
        let connected = procfs::sample(&self.pids)?;

        let mut report = Report {
            target: self.target.to_string(),
            clients: self.clients,
            connect_us,
            events: 0,
            burst: self.work.burst,
            size: self.work.size,
            run_us: 0,
            counts: tally::Counts::default(),
            latency: None,
            to_all: Vec::new(),
            processes: Vec::new(),
        };
        let (started, start) = if let Some(publisher) = publisher {
            let warmup = Work { events: self.warmup, burst: 1, rate: None, size: self.work.size };
            swarm.run(&warmup, &self.channels, publisher, deadline, &mut progress)?;
            let started = (procfs::sample(&self.pids)?, Instant::now());
            let tally = swarm.run(&self.work, &self.channels, publisher, deadline, &mut progress)?;
            report.events = tally.published();
            report.counts = tally.counts();
            report.latency = tally.latency().quantiles();
            let names = self.channels.channels().iter().map(|channel| channel.name.clone());
            report.to_all = names.zip(tally.to_all()).map(|(name, (of, times))| ToAll::new(name, of, times)).collect();
            started
        } else {
            let started = (procfs::sample(&self.pids)?, Instant::now());
            let (counts, latency) = swarm.watch(deadline, &mut progress)?;
            report.counts = counts;
            report.latency = latency.quantiles();
            started
        };
        report.run_us = micros(start.elapsed());
        let ended = procfs::sample(&self.pids)?;
        let cpu = started.iter().zip(&ended).map(|(started, ended)| (ended.cpu - started.cpu).as_secs_f64() * 1e6);
        let memory = before.into_iter().zip(connected);
        report.processes = cpu
            .zip(memory)
            .map(|(cpu_us, (before, process))| Usage {
                process,
                cpu_us,
                pss_before: before.pss,
                rss_before: before.rss,
            })
            .collect();
        Ok(report)
    }
}

/// Raises the limit of open files to its hard limit.
fn raise_file_limit(clients: usize) -> anyhow::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("the limit of open files can't be read")?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("the limit of open files can't be raised")?;
    if (clients as u64).saturating_add(OTHER_FILES) > hard {
        bail!("{clients} clients need as many open files, and {hard} are allowed here (ulimit -Hn)");
    }
    Ok(())
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
