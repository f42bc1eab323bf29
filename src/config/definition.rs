//! A table of the configuration file as its readers and its documentation need it: its name, and its keys with their defaults.
//! Holds no value.

/// A table of the configuration file.
#[derive(Debug)]
pub(crate) struct Definition {
    /// Its name, as `stream`.
    pub(crate) name: &'static str,
    /// What holds without the table, in a sentence. Empty for a table that has the same effect whether it is written or not.
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
    /// What it is for, in one line of Markdown.
    pub(crate) help: &'static str,
}

impl Key {
    /// The help without Markdown's quotes around what is in quotes already.
    pub(crate) fn plain_help(&self) -> String {
        self.help.replace("`\"", "\"").replace("\"`", "\"")
    }
}
