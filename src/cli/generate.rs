//! `ssecast completions` and `ssecast man`: shell completions and manual pages for packages, made from the grammar and from the
//! list of configuration keys, so that they are never out of date. Reads no configuration.

use std::{fs, io, path::PathBuf};

use clap::{Command, CommandFactory as _};
use clap_mangen::roff::{Roff, bold, roman};

use super::{Cli, Failure, exit, print};
use crate::config::{Config, DEFAULT_PATH, SourceTable};

/// Print the completions of a shell
///
/// For packages; or by hand: ssecast completions bash > ~/.local/share/bash-completion/completions/ssecast
#[derive(Debug, clap::Args)]
#[command(hide = true)]
pub struct CompletionsArgs {
    /// Which shell
    shell: clap_complete::Shell,
}

/// Print the manual page, or write all of them into a folder
#[derive(Debug, clap::Args)]
#[command(hide = true)]
pub struct ManArgs {
    /// Write ssecast(1), a page for each subcommand and ssecast.toml(5) here
    #[arg(long, value_name = "FOLDER")]
    to: Option<PathBuf>,
}

/// Prints completions.
///
/// # Errors
/// What the operating system reports about standard output.
pub fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut grammar(), "ssecast", &mut script);
    Ok(print(&script)?)
}

/// Prints ssecast(1), or writes every page.
///
/// # Errors
/// What the operating system reports about standard output or the folder.
pub fn man(args: &ManArgs, tables: &[SourceTable]) -> Result<(), Failure> {
    let Some(folder) = &args.to else {
        let mut page = Vec::new();
        clap_mangen::Man::new(grammar()).render(&mut page)?;
        return Ok(print(&page)?);
    };
    let written = || -> io::Result<()> {
        fs::create_dir_all(folder)?;
        clap_mangen::generate_to(grammar(), folder)?;
        fs::write(folder.join("ssecast.toml.5"), configuration_page(tables))
    };
    written().map_err(|error| Failure::new(exit::IO, format_args!("{}: {error}", folder.display())))
}

/// The grammar without hidden subcommands, which completions would offer. `completions` and `man` are hidden.
fn grammar() -> Command {
    let whole = Cli::command();
    let shown: Vec<_> = whole.get_subcommands().filter(|command| !command.is_hide_set()).cloned().collect();
    // Else `ssecast help` would be listed, with a manual page that does not exist.
    Command::new("ssecast")
        .version(env!("CARGO_PKG_VERSION"))
        .about(whole.get_about().cloned().unwrap_or_default())
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .subcommands(shown)
}

/// ssecast.toml(5): every key with its default and its meaning.
fn configuration_page(tables: &[SourceTable]) -> String {
    let mut page = Roff::new();
    page.control("TH", ["ssecast.toml", "5"]);
    page.control("SH", ["NAME"]);
    page.text([roman("ssecast.toml - configuration of ssecast")]);
    page.control("SH", ["SYNOPSIS"]);
    page.text([roman(DEFAULT_PATH)]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([
        roman("A TOML document. Every key is optional. Durations are written as \"20s\", sizes as \"64MiB\". "),
        bold("ssecast check"),
        roman(" prints every error of the file with its line, "),
        bold("ssecast check --defaults"),
        roman(" prints a file with every key at its default."),
    ]);
    for table in Config::definitions(tables) {
        page.control("SH", [table.heading().as_str()]);
        if !table.without.is_empty() {
            page.text([roman(table.without)]);
        }
        for key in table.keys {
            page.control("TP", []);
            page.text([bold(key.name), roman(format!(" = {}", key.default))]);
            page.text([roman(key.plain_help())]);
        }
    }
    page.control("SH", ["EXAMPLE"]);
    page.control("nf", []);
    page.text([roman(example(tables))]);
    page.control("fi", []);
    page.control("SH", ["SEE ALSO"]);
    page.text([bold("ssecast"), roman("(1), "), bold("ssecast-check"), roman("(1)")]);
    page.render()
}

/// The shortest useful file: it takes events from Redis.
fn example(tables: &[SourceTable]) -> String {
    let tables = Config::definitions(tables);
    let url = tables
        .iter()
        .find(|table| table.name == "redis")
        .and_then(|table| table.keys.iter().find(|key| key.name == "url"));
    url.map(|url| format!("[redis]\nurl = {}", url.default)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source;

    #[test]
    fn manual_has_a_page_for_each_subcommand_and_an_entry_for_each_key() {
        let folder = tempfile::tempdir().unwrap();
        man(&ManArgs { to: Some(folder.path().join("man")) }, source::TABLES).unwrap();
        let page = |name: &str| fs::read_to_string(folder.path().join("man").join(name)).unwrap();
        assert!(page("ssecast.1").contains("ssecast\\-publish(1)"));
        assert!(page("ssecast-publish.1").contains(".SH SYNOPSIS"));
        let configuration = page("ssecast.toml.5");
        for key in Config::definitions(source::TABLES).iter().flat_map(|table| table.keys) {
            let line = format!("\n\\fB{}\\fR = ", key.name.replace('-', "\\-"));
            assert!(configuration.contains(&line), "{line} in {configuration}");
        }
    }

    #[test]
    fn hidden_subcommands_are_in_no_manual_page_and_no_completion() {
        let mut script = Vec::new();
        clap_complete::generate(clap_complete::Shell::Bash, &mut grammar(), "ssecast", &mut script);
        let script = String::from_utf8(script).unwrap();
        assert!(script.contains("--admin-socket") && !script.contains("completions"), "{script}");
        let mut page = Vec::new();
        clap_mangen::Man::new(grammar()).render(&mut page).unwrap();
        let page = String::from_utf8(page).unwrap();
        assert!(
            page.contains("ssecast\\-tail(1)") && !page.contains("completions") && !page.contains("help(1)"),
            "{page}"
        );
    }
}
