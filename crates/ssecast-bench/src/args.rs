//! The command line of `ssecast-bench`, and the checks of its values. Measures nothing.

use std::{str::FromStr, time::Duration};

use crate::{channels::ChannelPlan, stamp::MIN_PAYLOAD_BYTES, target::Target};

/// Measure a running ssecast, or any other server of event streams, under load
///
/// Connects clients, publishes events, and reports deliveries, losses, order, latency and, for the processes given by
/// --pid, CPU per delivery and memory per client. Exits with 1 if anything was lost, out of order or doubled.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "ssecast-bench", version)]
pub struct BenchArgs {
    /// Where clients connect: unix:///path, http://host:port/sse/ (through nginx) or tcp://host:port. `{channels}` in it
    /// stands for the channels; else they are given as ?channels=a,b
    #[arg(long, value_name = "URL", default_value = "unix:///run/ssecast/ssecast.sock")]
    pub target: Target,
    /// Where events are published: ssecast's admin socket (unix:///path, tcp://host:port), redis://…, any HTTP address
    /// with `{channel}` in it that takes a POST, or `none` to watch what others publish until --timeout
    #[arg(long, value_name = "URL", default_value = "unix:///run/ssecast/admin.sock")]
    pub publish: String,
    /// How many clients
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = at_least_one)]
    pub clients: usize,
    /// What clients subscribe to: each client has every part of the comma list; of a part with `+`, clients take the
    /// channels in turn. With `general,a+b`, half of the clients have general and a, the others general and b. Events go to all channels in turn
    #[arg(long, value_name = "LIST", default_value = "bench")]
    pub channels: ChannelPlan,
    /// How many events, over all channels
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = at_least_one)]
    pub events: usize,
    /// Events a second. Without it, the next is published when all clients have the last
    #[arg(long, value_name = "N", value_parser = positive)]
    pub rate: Option<f64>,
    /// Publish this many at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one)]
    pub burst: usize,
    /// Events before those that are measured
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub warmup: usize,
    /// Bytes of an event's payload
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = payload_bytes)]
    pub size: usize,
    /// Processes whose CPU and memory are reported, each with its children
    #[arg(long, value_name = "PID", num_args = 1.., value_delimiter = ',')]
    pub pid: Vec<u32>,
    /// Longest time for all of it
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    bounded(text, 1, 10_000_000)
}

fn payload_bytes(text: &str) -> Result<usize, String> {
    bounded(text, MIN_PAYLOAD_BYTES, 64 << 20)
}

fn positive(text: &str) -> Result<f64, String> {
    let rate = f64::from_str(text).map_err(|error| error.to_string())?;
    if rate.is_finite() && rate > 0.0 { Ok(rate) } else { Err("a rate is above 0".to_owned()) }
}

fn bounded(text: &str, least: usize, most: usize) -> Result<usize, String> {
    let number = usize::from_str(text).map_err(|error| error.to_string())?;
    if (least..=most).contains(&number) { Ok(number) } else { Err(format!("{least} to {most} are possible")) }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn parse(line: &str) -> Result<BenchArgs, clap::Error> {
        BenchArgs::try_parse_from(["ssecast-bench"].into_iter().chain(line.split_whitespace()))
    }

    #[test]
    fn wrong_arguments_are_refused() {
        let args = parse("--clients 9000 --channels general,a+b --rate 2.5 --pid 1 2 --pid 3,4 --timeout 90s").unwrap();
        assert_eq!((args.clients, args.rate, args.pid), (9000, Some(2.5), vec![1, 2, 3, 4]));
        assert_eq!((args.channels.channels().len(), args.timeout), (3, Duration::from_secs(90)));
        for wrong in ["--clients 0", "--rate 0", "--rate nan", "--size 8", "--channels a,,b", "--target ftp://x"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
