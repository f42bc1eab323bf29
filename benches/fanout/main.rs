//! ssecast's fan-out beside others', in one run: `cargo bench --bench fanout -- --help`.
//!
//! Machines are noisy, and noise lasts: contenders take turns within each round, each in fresh processes, a ratio is taken
//! within a round, and medians over rounds are told. The clients are this process; servers are others.

mod bare_loop;
mod contenders;
mod nginx;
mod scenarios;

use std::path::Path;

use clap::Parser as _;

/// The hidden argument with which this program is a bare loop.
const BARE_LOOP: &str = "--bare-loop";

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == BARE_LOOP) {
        let path = arguments.next().unwrap_or_default();
        return bare_loop::serve(Path::new(&path));
    }
    scenarios::run(&scenarios::Options::parse())
}
