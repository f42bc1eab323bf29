//! `ssecast bench`: runs the load generator, a separate program (`ssecast-bench`), with the same arguments.
//!
//! Nothing is measured here.

use std::{
    env,
    ffi::OsString,
    io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use super::{Failure, exit};

/// The load generator's file name.
const PROGRAM: &str = "ssecast-bench";

/// Measure a running ssecast, or any other server of event streams, under load
///
/// Runs ssecast-bench, which stands beside this program or on the PATH, with the same arguments: ssecast bench --help lists
/// them.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct BenchArgs {
    /// The arguments of ssecast-bench
    #[arg(value_name = "ARGUMENT", trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Replaces this process by the load generator. Returns only if that fails.
///
/// # Errors
/// The program is not found, or it can't be run.
pub fn run(args: &BenchArgs) -> Result<(), Failure> {
    let beside = env::current_exe().ok().and_then(|own| beside(&own));
    let program = beside.unwrap_or_else(|| PathBuf::from(PROGRAM));
    let error = Command::new(&program).args(&args.arguments).exec();
    Err(if error.kind() == io::ErrorKind::NotFound {
        Failure::new(
            exit::UNAVAILABLE,
            format_args!(
                "{PROGRAM} is neither beside this program nor on the PATH; in the source tree, build it with: cargo build \
                 --release --package {PROGRAM}"
            ),
        )
    } else {
        Failure::new(exit::IO, format_args!("{} can't be run: {error}", program.display()))
    })
}

/// The load generator in the folder of the program `own`, if it is there.
fn beside(own: &Path) -> Option<PathBuf> {
    Some(own.with_file_name(PROGRAM)).filter(|program| program.is_file())
}
