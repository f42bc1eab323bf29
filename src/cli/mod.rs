//! The command line: its grammar, which subcommand runs, and the exit code. Each subcommand is a file below.
//!
//! Nothing is started here: a subcommand that needs a runtime builds its own, since the daemon forks before it has one.

pub mod bench;
pub mod check;
pub mod client;
#[cfg(test)]
mod configure_page;
mod cyclone;
pub mod demo;
pub mod event_stream;
pub mod generate;
pub mod publish;
pub mod reload;
pub mod serve;
mod socket;
#[cfg(test)]
mod stub;
pub mod tail;
mod tail_format;

use std::{
    ffi::OsString,
    fmt,
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

use crate::{app::Extensions, config::ConfigErrors, process::stderr};

/// Exit codes of the program beside 0 and 1, as `sysexits.h` has them.
pub mod exit {
    /// The command line or the configuration is wrong.
    pub const USAGE: u8 = 64;
    /// The daemon refuses what was sent.
    pub const DATA: u8 = 65;
    /// The daemon doesn't answer.
    pub const UNAVAILABLE: u8 = 69;
    /// A connection, a file or a pipe broke.
    pub const IO: u8 = 74;
    /// The daemon can't do it now: a retry can help.
    pub const TEMPORARY: u8 = 75;
    /// This user may not connect, or may not do this.
    pub const NO_PERMISSION: u8 = 77;
}

/// Turns publishes into Server-Sent Events: browsers read them through nginx, applications publish with redis-cli, HTTP or
/// this program.
#[derive(Debug, Parser)]
#[command(name = "ssecast", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::DemoArgs),
    Serve(serve::ServeArgs),
    Check(check::CheckArgs),
    Reload(reload::ReloadArgs),
    Publish(publish::PublishArgs),
    Tail(tail::TailArgs),
    Bench(bench::BenchArgs),
    Completions(generate::CompletionsArgs),
    Man(generate::ManArgs),
}

/// Runs the program with the arguments it was started with, and with what it adds to ssecast's own. Errors go to standard error; the
/// exit code is 0, 1 or one of [`exit`].
#[must_use]
pub fn run(extensions: Extensions) -> ExitCode {
    if tokio::runtime::Handle::try_current().is_ok() {
        return Failure::new(
            1,
            "must be started outside of a tokio runtime, which it makes itself: remove #[tokio::main]",
        )
        .report();
    }
    run_from(std::env::args_os(), extensions)
}

fn run_from(args: impl IntoIterator<Item = OsString>, extensions: Extensions) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(mut error) => {
            cyclone::add_tip(&mut error);
            check::add_tip(&mut error);
            if error.use_stderr() {
                stderr::print(error.render().to_string().trim_end());
                return exit::USAGE.into();
            }
            // Help and version are "errors" too. If printing fails, there is nowhere to report it.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
    };
    let done = match cli.command {
        Command::Demo(args) => demo::run(&args),
        Command::Serve(args) => serve::run(&args, extensions),
        Command::Check(args) => check::run(&args, &extensions),
        Command::Reload(args) => reload::run(&args),
        Command::Publish(args) => publish::run(&args),
        Command::Tail(args) => tail::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Completions(args) => generate::completions(&args),
        Command::Man(args) => generate::man(&args, &extensions.tables()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Why a subcommand ended without success: what is printed on standard error, and the exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    code: u8,
    message: String,
    /// Whether the message begins with a file name, and so needs no program name before it.
    placed: bool,
}

impl Failure {
    /// A failure with the exit code `code`, printed as `ssecast: {message}`.
    #[must_use]
    pub fn new(code: u8, message: impl fmt::Display) -> Self {
        Self { code, message: message.to_string(), placed: false }
    }

    /// The exit code.
    #[cfg(test)]
    pub fn code(&self) -> u8 {
        self.code
    }

    /// Prints it on standard error.
    fn report(&self) -> ExitCode {
        let name = if self.placed { "" } else { "ssecast: " };
        // If nobody reads standard error, the exit code alone reports the failure.
        stderr::print(&format!("{name}{}", self.message));
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<ConfigErrors> for Failure {
    /// The errors unchanged. Each begins with its file and line, as a compiler's, so that editors can jump there.
    fn from(errors: ConfigErrors) -> Self {
        Self { code: exit::USAGE, message: errors.to_string(), placed: true }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(exit::IO, error)
    }
}

impl From<anyhow::Error> for Failure {
    /// The error with its causes, exit code 1.
    fn from(error: anyhow::Error) -> Self {
        Self::new(1, format_args!("{error:#}"))
    }
}

/// A runtime with one thread, for a subcommand that talks to the daemon.
///
/// # Errors
/// What the operating system reports when it refuses the runtime's file descriptors.
fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Prints an answer. A pipe that its reader has closed is no error.
///
/// # Errors
/// Any other error of standard output.
fn print(answer: &[u8]) -> io::Result<()> {
    match io::stdout().write_all(answer).and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

/// `text` with each line feed replaced by `line_feed` and each other control character escaped. Strangers can publish the text,
/// and control characters can take over a terminal.
fn printable(text: &str, line_feed: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '\n' => shown.push_str(line_feed),
            '\t' => shown.push('\t'),
            char if char.is_control() => shown.extend(char.escape_default()),
            char => shown.push(char),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn clap_accepts_the_definitions_of_all_commands() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wrong_usage_ends_with_64_and_help_with_0() {
        let run = |args: &[&str]| run_from(args.iter().map(OsString::from), Extensions::default());
        let code = |code: u8| format!("{:?}", ExitCode::from(code));
        assert_eq!(format!("{:?}", run(&["ssecast", "--help"])), code(0));
        assert_eq!(format!("{:?}", run(&["ssecast", "no-such-thing"])), code(64));
        assert_eq!(format!("{:?}", run(&["ssecast", "publish", "a,b", "x"])), code(64));
        assert_eq!(format!("{:?}", run(&["ssecast", "check", "--config", "/nowhere/c.toml"])), code(64));
    }
}
