//! The scenarios: what is measured, with which servers, and the printed tables.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use ssecast_bench::{Bench, channels::ChannelPlan, procfs, progress::Progress, report::Report, swarm::Work};

use crate::{
    contenders::{Build, Contender},
    costs, gzip, ingest, ingest_amqp, nginx_memory, patterns, storm,
};

/// Clients of cyclone-sse's own load test, and so of the scenarios on TCP.
const CYCLONE_CLIENTS: usize = 3600;

/// Compare ssecast's fan-out with a bare loop of write(2), and with others
#[derive(Debug, clap::Parser)]
pub(crate) struct Options {
    /// How many clients, one scenario each
    #[arg(long, value_delimiter = ',', default_value = "1000,3600,9000")]
    clients: Vec<usize>,
    /// Events of each measurement
    #[arg(long, default_value_t = 200)]
    events: usize,
    /// How often all take their turn
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// Only these scenarios
    #[arg(long, value_delimiter = ',', value_enum)]
    only: Vec<Kind>,
    /// The program to measure, instead of the one of this build
    #[arg(long, value_name = "PROGRAM")]
    program: Option<PathBuf>,
    /// An older build of ssecast that takes its turn beside this one
    #[arg(long, value_name = "PROGRAM")]
    baseline: Option<PathBuf>,
    /// cargo's own
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// One event at a time, on the Unix socket
    Direct,
    /// 500 events at once to 1,000 clients, on the Unix socket
    Burst,
    /// One event at a time, on TCP without nginx before it
    Tcp,
    /// One event at a time, through nginx
    Nginx,
    /// 500 events at once to 1,000 clients, through nginx
    NginxBurst,
    /// cyclone-sse's load test: `general` and one of four channels for each client, through nginx
    Cyclone,
    /// The same as `direct` with a hyper server that has a response body for each client. Only if named with --only
    Hyper,
    /// 9,000 clients reconnect with a cursor, 20 events due each, through nginx
    Storm,
    /// A publish to one client beside 15,000 clients of other channels
    Others,
    /// Events a second from Redis, and as NDJSON on the admin socket
    Ingest,
    /// Events a second from RabbitMQ
    Amqp,
    /// How two shards divide the work of one
    Workers,
    /// Memory of 1,000 clients that don't read
    SlowClients,
    /// Compressed streams beside nginx's `gzip on`, through nginx
    Gzip,
    /// Memory of nginx for an open stream
    NginxMemory,
    /// 500 events a second, with and without `stream.coalesce`
    Coalesce,
    /// What patterns cost with 100,000 channels in Redis
    Patterns,
    /// The bare loop against itself: how far a ratio is from 1 by noise alone. Only if named with --only
    Noise,
}

struct Scenario {
    kind: Kind,
    title: String,
    /// The first is what the others are held against.
    contenders: Vec<Contender>,
    clients: usize,
    channels: &'static str,
    events: usize,
    burst: usize,
}

/// Measures and prints what is no [`Scenario`].
type Row = fn(&Options) -> anyhow::Result<()>;

/// Runs all that is asked for and prints a table for each scenario.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    Build::set_programs(options.program.clone(), options.baseline.clone());
    let wanted = |kind| match kind {
        Kind::Noise | Kind::Hyper => options.only.contains(&kind),
        _ => options.only.is_empty() || options.only.contains(&kind),
    };
    for mut scenario in scenarios(options) {
        if !wanted(scenario.kind) {
            continue;
        }
        if options.baseline.is_some() {
            scenario.add_baseline();
        }
        let (here, missing): (Vec<_>, Vec<Contender>) =
            scenario.contenders.iter().partition(|contender: &&Contender| contender.is_there());
        for contender in missing {
            println!("\n{}: {} is not on this machine", scenario.title, contender.name());
        }
        if here.is_empty() {
            continue;
        }
        scenario.contenders = here;
        let rounds = (0..options.rounds).map(|round| scenario.round(round)).collect::<anyhow::Result<Vec<_>>>()?;
        scenario.print(&rounds);
    }
    let others: [(Kind, Row); 10] = [
        (Kind::Storm, storm::run),
        (Kind::Others, costs::others),
        (Kind::Ingest, ingest::run),
        (Kind::Amqp, ingest_amqp::run),
        (Kind::Workers, costs::workers),
        (Kind::SlowClients, costs::slow_clients),
        (Kind::Gzip, gzip::run),
        (Kind::NginxMemory, nginx_memory::run),
        (Kind::Coalesce, costs::coalesce),
        (Kind::Patterns, patterns::run),
    ];
    others.iter().filter(|(kind, _)| wanted(*kind)).try_for_each(|(_, run)| run(options))
}

fn scenarios(options: &Options) -> Vec<Scenario> {
    use Contender::{BareLoop, HyperBody, Nchan, NginxBareLoop};
    let [ssecast, tcp, through_nginx] =
        [Contender::Ssecast, Contender::SsecastTcp, Contender::NginxSsecast].map(|of| of(Build::Measured));
    let one_at_a_time = |kind, place, clients, contenders| Scenario {
        kind,
        title: format!("{place}, {clients} clients, one event at a time"),
        contenders,
        clients,
        channels: "bench",
        events: options.events,
        burst: 1,
    };
    let on_socket = |kind, contenders: [Contender; 2]| {
        options.clients.iter().map(move |&clients| one_at_a_time(kind, "Unix socket", clients, contenders.to_vec()))
    };
    let burst = |kind, place, contenders| Scenario {
        kind,
        title: format!("{place}, 1000 clients, 500 events at once"),
        contenders,
        clients: 1000,
        channels: "bench",
        events: 2000,
        burst: 500,
    };
    let cyclone = Scenario {
        kind: Kind::Cyclone,
        title: "cyclone-sse's load test: 3600 clients of `general` and one of four, through nginx".to_owned(),
        contenders: vec![through_nginx, Nchan],
        clients: CYCLONE_CLIENTS,
        channels: "general,base+extras+cats+dogs",
        events: options.events,
        burst: 1,
    };
    on_socket(Kind::Noise, [BareLoop, BareLoop])
        .chain(on_socket(Kind::Direct, [BareLoop, ssecast]))
        .chain(on_socket(Kind::Hyper, [ssecast, HyperBody]))
        .chain([
            burst(Kind::Burst, "Unix socket", vec![BareLoop, ssecast]),
            one_at_a_time(Kind::Tcp, "TCP", CYCLONE_CLIENTS, vec![Nchan, tcp]),
            one_at_a_time(Kind::Nginx, "Through nginx", CYCLONE_CLIENTS, vec![NginxBareLoop, through_nginx, Nchan]),
            burst(Kind::NginxBurst, "Through nginx", vec![NginxBareLoop, through_nginx, Nchan]),
            cyclone,
        ])
        .collect()
}

impl Scenario {
    /// Lets an older build take its turn beside each of this one.
    fn add_baseline(&mut self) {
        let baselines: Vec<_> = self.contenders.iter().filter_map(|contender| contender.baseline()).collect();
        self.contenders.extend(baselines);
    }

    /// Measures each server once, in fresh processes. The order alternates, so that none has the advantage of being first.
    fn round(&self, round: u32) -> anyhow::Result<Vec<Report>> {
        let mut order: Vec<usize> = (0..self.contenders.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        let mut reports = vec![None; order.len()];
        for at in order {
            let contender = self.contenders[at];
            eprintln!("{}: round {}, {}", self.title, round + 1, contender.name());
            reports[at] = Some(self.measure(contender).with_context(|| contender.name())?);
        }
        Ok(reports.into_iter().flatten().collect())
    }

    fn measure(&self, contender: Contender) -> anyhow::Result<Report> {
        let dir = tempfile::tempdir()?;
        let mut running = contender.start(dir.path())?;
        let channels: ChannelPlan = self.channels.parse()?;
        let bench = Bench {
            target: running.target.clone(),
            channels,
            clients: self.clients,
            work: Work { events: self.events, burst: self.burst, rate: None, size: 128 },
            warmup: 10,
            pids: procfs::with_descendants(&running.processes.ids())?,
            timeout: Duration::from_secs(300),
        };
        bench.measure(Some(running.publisher.as_mut()), Progress::on_terminal())
    }

    fn print(&self, rounds: &[Vec<Report>]) {
        println!("\n{} (CPU a delivery, memory a client, medians of {})", self.title, rounds.len());
        println!(
            "{:<18} {:>7} {:>6} {:>10} {:>7} {:>10} {:>12} {:>7}  by process",
            "", "us CPU", "ratio", "min-max", "KiB", "ms to all", "deliveries", "faults"
        );
        for (at, contender) in self.contenders.iter().enumerate() {
            let of_all = |figure: &dyn Fn(&Report) -> f64| median(rounds.iter().map(|round| figure(&round[at])));
            let cpu = |report: &Report| report.cpu_per_delivery().unwrap_or(f64::NAN);
            let ratios = || rounds.iter().map(|round| cpu(&round[at]) / cpu(&round[0]));
            let least = ratios().fold(f64::INFINITY, f64::min);
            let most = ratios().fold(0.0, f64::max);
            let faults = rounds.iter().filter(|round| !round[at].counts.flawless()).count();
            println!(
                "{:<18} {:>7.2} {:>6.3} {:>10} {:>7.2} {:>10.1} {:>10.0}/s {:>7}  {}",
                contender.name(),
                of_all(&cpu),
                median(ratios()),
                format!("{least:.2}-{most:.2}"),
                of_all(&|report| report.memory_per_client().unwrap_or(f64::NAN) / 1024.0),
                of_all(&|report| report.to_all[0].median_us.map_or(f64::NAN, |us| us as f64 / 1e3)),
                of_all(&Report::throughput),
                if faults == 0 { "none".to_owned() } else { format!("{faults} runs") },
                self.by_process(rounds, at),
            );
            if self.kind == Kind::Cyclone {
                for (number, to_all) in rounds[0][at].to_all.iter().enumerate() {
                    let ms = |us: Option<u64>| us.map_or(f64::NAN, |us| us as f64 / 1e3);
                    let middle = of_all(&|report| ms(report.to_all[number].median_us));
                    let worst = of_all(&|report| ms(report.to_all[number].max_us));
                    let (clients, channel) = (to_all.clients, &to_all.channel);
                    println!("    all {clients:>5} of {channel:<10} median {middle:>7.1} ms, slowest {worst:>7.1} ms");
                }
            }
        }
        self.print_baseline(rounds);
    }

    /// Prints how this build stands beside the older one, by the ratio within each round.
    fn print_baseline(&self, rounds: &[Vec<Report>]) {
        let measured = self.contenders.iter().position(|contender| contender.baseline().is_some());
        let baseline = self.contenders.iter().position(|contender| contender.is_baseline());
        let (Some(measured), Some(baseline)) = (measured, baseline) else { return };
        let cpu = |report: &Report| report.cpu_per_delivery().unwrap_or(f64::NAN);
        let ratios = || rounds.iter().map(|round| cpu(&round[measured]) / cpu(&round[baseline]));
        let (least, most) = (ratios().fold(f64::INFINITY, f64::min), ratios().fold(0.0, f64::max));
        println!("ssecast beside the baseline: {:.3} ({least:.2}-{most:.2})", median(ratios()));
    }

    /// Medians of each process name's CPU per delivery and memory per client.
    fn by_process(&self, rounds: &[Vec<Report>], at: usize) -> String {
        let mut names: Vec<&str> = rounds[0][at].processes.iter().map(|usage| usage.process.name.as_str()).collect();
        names.dedup();
        if names.len() < 2 {
            return String::new();
        }
        let each = names.iter().map(|name| {
            let figures = rounds.iter().map(|round| {
                let report = &round[at];
                let usages = report.processes.iter().filter(|usage| usage.process.name == *name);
                usages.fold((0.0, 0.0), |(cpu, kib), usage| {
                    let bytes = usage.process.pss as f64 - usage.pss_before as f64;
                    let delivered = report.counts.delivered.max(1) as f64;
                    (cpu + usage.cpu_us / delivered, kib + bytes / 1024.0 / self.clients as f64)
                })
            });
            let (cpu, kib): (Vec<f64>, Vec<f64>) = figures.unzip();
            format!("{name} {:.2}us {:.1}K", median(cpu.into_iter()), median(kib.into_iter()))
        });
        each.collect::<Vec<_>>().join(" ")
    }
}

/// The median.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
