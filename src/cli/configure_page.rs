//! The tables of docs/configure.md, made from the definitions of the keys. Exists in tests only, and reads no configuration.
//!
//! `SSECAST_WRITE_DOCS=1 cargo test --lib docs_configure` writes them again after a key has changed.

use std::{env, fmt::Write as _, fs};

use crate::{config::Config, source};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configure.md");
const BEGIN: &str = "<!-- Made from the keys in src/config: SSECAST_WRITE_DOCS=1 cargo test --lib docs_configure -->\n";
const END: &str = "<!-- End of what is made. -->\n";

/// A section with a table for each table of the configuration file.
fn sections() -> String {
    let mut text = String::new();
    for table in Config::definitions(source::TABLES) {
        // Writing into a String cannot fail.
        let _ = write!(text, "\n### {}\n\n", table.heading());
        if !table.without.is_empty() {
            let _ = write!(text, "{}\n\n", table.without);
        }
        text.push_str("| key | default | what it is |\n|---|---|---|\n");
        for key in table.keys {
            let help = key.help.replace('|', "\\|");
            let _ = writeln!(text, "| `{}.{}` | `{}` | {help} |", table.name, key.name, key.default);
        }
    }
    text.push('\n');
    text
}

#[test]
fn docs_configure_lists_every_key_with_its_default() {
    let page = fs::read_to_string(PAGE).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("docs/configure.md lacks the comment before its tables");
    let (written, after) = rest.split_once(END).expect("docs/configure.md lacks the comment after its tables");
    let made = sections();
    if env::var_os("SSECAST_WRITE_DOCS").is_some() {
        fs::write(PAGE, [before, BEGIN, &made, END, after].concat()).unwrap();
        return;
    }
    assert!(written == made, "docs/configure.md differs from the keys; see the head of {}:\n{made}", file!());
}
