//! Makes the configuration file of defaults, with comments, from the definitions of the tables. Reads nothing.

use std::fmt::Write as _;

use super::definition::Definition;

/// The configuration file with every key of `tables` at its default, all of them commented out.
#[must_use]
pub(crate) fn default_document(tables: &[&Definition]) -> String {
    let mut document = String::from(
        "# ssecast.toml. Every key is optional; the lines that are commented out show the defaults.\n\
         # `ssecast check` prints every error of this file with its line.\n",
    );
    for table in tables {
        // Writing into a String cannot fail.
        let _ = match table.without {
            "" => writeln!(document, "\n{}", table.heading()),
            // The table turns something on, so its heading is commented out too.
            without => writeln!(document, "\n# {without}\n# {}", table.heading()),
        };
        for key in table.keys {
            let _ = writeln!(document, "# {} = {}  # {}", key.name, key.default, key.plain_help());
        }
    }
    document
}
