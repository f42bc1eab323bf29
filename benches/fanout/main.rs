//! Compares ssecast's fan-out with other servers, in one run: `cargo bench --bench fanout -- --help`.
//!
//! Machines are noisy for longer than one measurement. So the servers take turns within each round, in fresh processes. Ratios are
//! taken within a round, and their medians over the rounds are printed. The clients run in this process, the servers in others.

mod bare_loop;
mod contenders;
mod costs;
mod gzip;
mod hyper_body;
mod ingest;
mod ingest_amqp;
mod journal;
mod nginx;
mod nginx_memory;
mod patterns;
mod scenarios;
mod storm;

use std::path::Path;

use clap::Parser as _;

/// The hidden argument with which this program is a bare loop.
const BARE_LOOP: &str = "--bare-loop";
/// The hidden argument with which it is a hyper server.
const HYPER_BODY: &str = "--hyper-body";

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let first = arguments.next().unwrap_or_default();
    if first == BARE_LOOP || first == HYPER_BODY {
        let path = arguments.next().unwrap_or_default();
        let serve = if first == BARE_LOOP { bare_loop::serve } else { hyper_body::serve };
        return serve(Path::new(&path));
    }
    scenarios::run(&scenarios::Options::parse())
}
