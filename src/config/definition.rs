//! The definition of a table of the configuration file: its name, and its keys with their defaults and help. Has no values.

/// A table of the configuration file.
#[derive(Debug)]
pub(crate) struct Definition {
    /// Its name, as `stream`.
    pub(crate) name: &'static str,
    /// Whether the file may have it several times, as `[[channel]]`.
    pub(crate) repeated: bool,
    /// For a table that turns something on: what happens without the table, in one sentence. Else empty.
    pub(crate) without: &'static str,
    /// Its keys, in the order of the documentation.
    pub(crate) keys: &'static [Key],
}

impl Definition {
    /// How a table of it begins: `[stream]`, `[[channel]]`.
    pub(crate) fn heading(&self) -> String {
        if self.repeated { format!("[[{}]]", self.name) } else { format!("[{}]", self.name) }
    }
}

/// The name of a key that is a word of Rust as well, and is written `r#match` there.
pub(crate) const fn key_name(name: &'static str) -> &'static str {
    match name.as_bytes() {
        [b'r', b'#', ..] => name.split_at(2).1,
        _ => name,
    }
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
