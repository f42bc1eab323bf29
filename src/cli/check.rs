//! `ssecast check`: prints every error of a configuration file, and starts nothing.

use std::path::PathBuf;

use super::{Failure, print};
use crate::{
    config::{Config, DEFAULT_PATH, default_document},
    source,
};

/// Check the configuration file, and print all of its errors at once
///
/// Each error is one line: FILE:LINE: KEY: what is wrong; how to fix it. Ends with 0 if there is none, with 64 otherwise.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// The file to check [default: /etc/ssecast/ssecast.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Print a configuration file with every key, its default and its meaning, instead
    #[arg(long, conflicts_with = "config")]
    defaults: bool,
}

/// Checks, or prints the defaults.
///
/// # Errors
/// Every error of the configuration, with exit code 64.
pub fn run(args: &CheckArgs) -> Result<(), Failure> {
    let answer = if args.defaults {
        default_document(&Config::definitions(source::TABLES))
    } else {
        Config::assemble(args.config.as_deref(), &[], source::TABLES)?;
        match &args.config {
            Some(path) => format!("{}: OK\n", path.display()),
            None if PathBuf::from(DEFAULT_PATH).exists() => format!("{DEFAULT_PATH}: OK\n"),
            None => format!("{DEFAULT_PATH}: OK (it isn't there, so everything is at its default)\n"),
        }
    };
    Ok(print(answer.as_bytes())?)
}
