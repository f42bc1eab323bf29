//! The definition of a table of the configuration file: its name, and its keys with their defaults and help. Has no values.

/// A table of the configuration file.
#[derive(Debug)]
pub(crate) struct Definition {
    /// Its name, as `stream`.
    pub(crate) name: &'static str,
    /// For a table that turns something on: what happens without the table, in one sentence. Else empty.
    pub(crate) without: &'static str,
    /// Its keys, in the order of the documentation.
    pub(crate) keys: &'static [Key],
}

/// A key of a table.
#[derive(Debug)]
pub(crate) struct Key {
    /// Its name, as `retry`.
    pub(crate) name: &'static str,
    /// The default as it is written in the file.
    pub(crate) default: &'static str,
    /// What it does, in one line of Markdown.
    pub(crate) help: &'static str,
}

impl Key {
    /// The help without Markdown's backquotes around text that is in quotes already.
    pub(crate) fn plain_help(&self) -> String {
        self.help.replace("`\"", "\"").replace("\"`", "\"")
    }
}
