//! The commented file of defaults, made of the definitions. Reads nothing.

use std::fmt::Write as _;

use super::definition::Definition;

/// The configuration file with every key of `tables` at its default, all of them commented out.
#[must_use]
pub(crate) fn default_document(tables: &[&Definition]) -> String {
    let mut document = String::from(
        "# ssecast.toml. Every key is optional; what is commented out is the default.\n\
         # `ssecast check` prints every error of this file with its line.\n",
    );
    for table in tables {
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
