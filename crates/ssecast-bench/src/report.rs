//! The result of a run, as text and as JSON. Measures nothing.

use std::{fmt, time::Duration};

use serde::Serialize;

use crate::{histogram::Quantiles, procfs::Sample, tally::Counts};

/// The whole result. Times are in microseconds, memory is in bytes.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Where the clients connected.
    pub target: String,
    /// How many there were.
    pub clients: usize,
    /// From the first `connect` until the last client had its head.
    pub connect_us: u64,
    /// Events published.
    pub events: usize,
    /// Events published at once.
    pub burst: usize,
    /// Bytes of a payload.
    pub size: usize,
    /// From the first publish until the last delivery.
    pub run_us: u64,
    /// Deliveries and faults.
    pub counts: Counts,
    /// Publish to arrival.
    pub latency: Option<Quantiles>,
    /// By channel: the time from publish until all of its clients had an event.
    pub to_all: Vec<ToAll>,
    /// The processes of `--pid`.
    pub processes: Vec<Usage>,
}

/// How long a channel's events took to reach all of its clients.
#[derive(Debug, Clone, Serialize)]
pub struct ToAll {
    /// The channel.
    pub channel: String,
    /// Its clients.
    pub clients: usize,
    /// Median over the events that all clients got.
    pub median_us: Option<u64>,
    /// The slowest of them.
    pub max_us: Option<u64>,
}

impl ToAll {
    /// From one time an event.
    #[must_use]
    pub fn new(channel: String, clients: usize, times: &[u64]) -> Self {
        let mut times = times.to_vec();
        times.sort_unstable();
        Self { channel, clients, median_us: times.get(times.len() / 2).copied(), max_us: times.last().copied() }
    }
}

/// What a process took.
#[derive(Debug, Clone, Serialize)]
pub struct Usage {
    /// The process, with its memory once all clients were connected.
    #[serde(flatten)]
    pub process: Sample,
    /// CPU time during the run.
    pub cpu_us: f64,
    /// Its memory before the first client connected (PSS).
    pub pss_before: u64,
    /// The same as RSS.
    pub rss_before: u64,
}

impl Report {
    /// CPU microseconds of all processes for each delivery; `None` if there were no processes or no deliveries.
    #[must_use]
    pub fn cpu_per_delivery(&self) -> Option<f64> {
        let cpu: f64 = self.processes.iter().map(|usage| usage.cpu_us).sum();
        (!self.processes.is_empty() && self.counts.delivered > 0).then(|| cpu / self.counts.delivered as f64)
    }

    /// Bytes (PSS) of all processes for each client; `None` if there were no processes.
    #[must_use]
    pub fn memory_per_client(&self) -> Option<f64> {
        let bytes: f64 = self.processes.iter().map(|usage| usage.process.pss as f64 - usage.pss_before as f64).sum();
        (!self.processes.is_empty()).then(|| bytes / self.clients as f64)
    }

    /// Deliveries a second.
    #[must_use]
    pub fn throughput(&self) -> f64 {
        self.counts.delivered as f64 * 1e6 / self.run_us.max(1) as f64
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { expected, delivered, lost, out_of_order, duplicates, strays, foreign, closed } = self.counts;
        writeln!(f, "clients     {} on {}, connected in {}", self.clients, self.target, time(self.connect_us))?;
        if self.events > 0 {
            let at_once = if self.burst > 1 { format!(", {} at once", self.burst) } else { String::new() };
            writeln!(f, "events      {} of {} bytes{at_once}, in {}", self.events, self.size, time(self.run_us))?;
        }
        writeln!(f, "deliveries  {delivered} of {expected}, {:.0} a second", self.throughput())?;
        write!(f, "faults      {lost} lost, {out_of_order} out of order, {duplicates} twice, {closed} streams closed")?;
        for (count, what) in [(strays, "on channels not subscribed to"), (foreign, "events of others")] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        writeln!(f)?;
        if let Some(Quantiles { p50, p99, max }) = self.latency {
            writeln!(f, "latency     p50 {}, p99 {}, max {}", time(p50), time(p99), time(max))?;
        }
        for (at, ToAll { channel, clients, median_us, max_us }) in self.to_all.iter().enumerate() {
            let label = if at == 0 { "to all" } else { "" };
            let or_none = |us: &Option<u64>| us.map_or_else(|| "-".to_owned(), time);
            let (median, max) = (or_none(median_us), or_none(max_us));
            writeln!(f, "{label:<11} {clients:>6} of {channel}: median {median}, max {max}")?;
        }
        for Usage { process, cpu_us, pss_before, rss_before } in &self.processes {
            let Sample { pid, name, pss, rss, .. } = process;
            let cpu = Duration::from_nanos((cpu_us * 1e3) as u64);
            let (pss, pss_before, rss, rss_before) = (mib(*pss), mib(*pss_before), mib(*rss), mib(*rss_before));
            writeln!(
                f,
                "process     {name} ({pid}): CPU {cpu:.1?}, PSS {pss_before} -> {pss}, RSS {rss_before} -> {rss}"
            )?;
        }
        if let Some(cpu) = self.cpu_per_delivery() {
            writeln!(f, "CPU         {cpu:.2} us a delivery")?;
        }
        if let Some(bytes) = self.memory_per_client() {
            writeln!(f, "memory      {:.2} KiB a client (PSS)", bytes / 1024.0)?;
        }
        Ok(())
    }
}

fn time(us: u64) -> String {
    match us {
        0..10_000 => format!("{us} us"),
        10_000..10_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
