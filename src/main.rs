//! The program: reads its arguments, runs a subcommand, gives its exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    ssecast::run()
}
