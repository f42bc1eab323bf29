//! `ssecast check`: prints every error of a configuration file, and starts nothing.

use std::path::PathBuf;

use clap::{
    builder::StyledStr,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::{Failure, exit, print};
use crate::{
    app::Extensions,
    config::{Config, DEFAULT_PATH, default_document},
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

/// Adds a tip to the error of a file that `check` or `serve` is given without `--config`.
pub(super) fn add_tip(error: &mut clap::Error) {
    if error.kind() != ErrorKind::UnknownArgument {
        return;
    }
    let Some(ContextValue::String(file)) = error.get(ContextKind::InvalidArg) else { return };
    let usage = error.get(ContextKind::Usage).map(ToString::to_string).unwrap_or_default();
    let takes_a_file = usage.contains("ssecast check") || usage.contains("ssecast serve");
    if takes_a_file && !file.starts_with('-') {
        let tip = StyledStr::from(format!("name the configuration file with --config: --config {file}"));
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
}

/// Checks, or prints the defaults.
///
/// # Errors
/// Every error of the configuration, with exit code 64.
pub fn run(args: &CheckArgs, extensions: &Extensions) -> Result<(), Failure> {
    let tables = extensions.tables();
    let answer = if args.defaults {
        default_document(&Config::definitions(&tables))
    } else {
        let config = Config::assemble(args.config.as_deref(), &[], &tables)?;
        // What only a source or the authorizer can check. None of them is started.
        let made = extensions.sources(&config).and_then(|_| extensions.authorizer(&config));
        if let Err(error) = made {
            return Err(Failure::new(exit::USAGE, format_args!("{error:#}")));
        }
        match &args.config {
            Some(path) => format!("{}: OK\n", path.display()),
            None if PathBuf::from(DEFAULT_PATH).exists() => format!("{DEFAULT_PATH}: OK\n"),
            None => format!("{DEFAULT_PATH}: OK (it isn't there, so everything is at its default)\n"),
        }
    };
    Ok(print(answer.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::{super::Cli, *};

    #[test]
    fn a_file_without_its_option_gets_a_tip() {
        let error_of = |arguments: &[&str]| {
            let mut error = Cli::try_parse_from([&["ssecast"], arguments].concat()).unwrap_err();
            add_tip(&mut error);
            error.to_string()
        };
        for command in ["check", "serve"] {
            let error = error_of(&[command, "my.toml"]);
            assert!(error.contains("tip: name the configuration file with --config: --config my.toml"), "{error}");
        }
        assert!(!error_of(&["check", "--nothing"]).contains("--config --nothing"));
        assert!(!error_of(&["publish", "a", "b", "my.toml"]).contains("--config my.toml"));
    }
}
