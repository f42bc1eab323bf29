//! What is made of the definitions for readers: the commented file of defaults, and the tables of docs/configure.md. Reads nothing.

use std::fmt::Write as _;

use super::Config;

/// The configuration file with every key at its default, all of them commented out.
#[must_use]
pub(crate) fn default_document() -> String {
    let mut document = String::from(
        "# ssecast.toml. Every key is optional; what is commented out is the default.\n\
         # `ssecast check` prints every error of this file with its line.\n",
    );
    for table in Config::TABLES {
        // Writing into a String cannot fail.
        let _ = match table.without {
            "" => writeln!(document, "\n[{}]", table.name),
            // The table itself turns something on, so its heading is commented out as well.
            without => writeln!(document, "\n# {without}\n# [{}]", table.name),
        };
        for key in table.keys {
            let _ = writeln!(document, "# {} = {}  # {}", key.name, key.default, key.plain_help());
        }
    }
    document
}

#[cfg(test)]
mod tests {
    //! `SSECAST_WRITE_DOCS=1 cargo test --lib docs_configure` writes the tables of docs/configure.md again after a key has changed.

    use std::{env, fs};

    use super::*;

    const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configure.md");
    const BEGIN: &str =
        "<!-- Made from the keys in src/config: SSECAST_WRITE_DOCS=1 cargo test --lib docs_configure -->\n";
    const END: &str = "<!-- End of what is made. -->\n";

    /// A section with a table for each table of the configuration file.
    fn sections() -> String {
        let mut text = String::new();
        for table in Config::TABLES {
            let _ = write!(text, "\n### [{}]\n\n", table.name);
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
        let (before, rest) = page.split_once(BEGIN).expect("docs/configure.md has lost the comment before its tables");
        let (written, after) = rest.split_once(END).expect("docs/configure.md has lost the comment after its tables");
        let made = sections();
        if env::var_os("SSECAST_WRITE_DOCS").is_some() {
            fs::write(PAGE, [before, BEGIN, &made, END, after].concat()).unwrap();
            return;
        }
        assert!(written == made, "docs/configure.md differs from the keys; see the head of {}:\n{made}", file!());
    }
}
