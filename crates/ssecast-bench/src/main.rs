//! The program `ssecast-bench`: parses its arguments and runs the measurement. It also prints its manual page and completions, for
//! packages.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser as _};
use ssecast_bench::BenchArgs;

/// The exit code of a wrong command line, as `sysexits.h` has it.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["man"] => man(),
        ["completions", shell] => completions(shell),
        _ => match BenchArgs::try_parse() {
            Ok(args) => ssecast_bench::run(args),
            Err(error) => {
                // Help and version are "errors" too. If printing fails, there is nowhere to report it.
                let _ = error.print();
                return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
            }
        },
    };
    done.unwrap_or_else(|error| {
        // If standard error is closed, the exit code alone reports the failure.
        let _ = writeln!(io::stderr(), "ssecast-bench: {error:#}");
        ExitCode::FAILURE
    })
}

/// Prints ssecast-bench(1).
fn man() -> anyhow::Result<ExitCode> {
    clap_mangen::Man::new(BenchArgs::command()).render(&mut io::stdout())?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the completions of `shell`.
fn completions(shell: &str) -> anyhow::Result<ExitCode> {
    let shell: clap_complete::Shell = shell.parse().map_err(anyhow::Error::msg)?;
    clap_complete::generate(shell, &mut BenchArgs::command(), "ssecast-bench", &mut io::stdout());
    Ok(ExitCode::SUCCESS)
}
