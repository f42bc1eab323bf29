//! The definition of a table of the configuration file: its name, and its keys with their defaults and help. Has no values.

/// The definition of a table of the configuration file.
#[derive(Debug)]
pub struct Definition {
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
    /// A table with this name and these keys, which it shows in this order.
    #[must_use]
    pub const fn new(name: &'static str, keys: &'static [Key]) -> Self {
        Self { name, repeated: false, without: "", keys }
    }

    /// The table turns something on: `without` says in one sentence what happens without it.
    #[must_use]
    pub const fn optional(self, without: &'static str) -> Self {
        Self { without, ..self }
    }

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

/// The definition of a key of a table.
#[derive(Debug)]
pub struct Key {
    /// Its name, as `retry`.
    pub(crate) name: &'static str,
    /// The default as it is written in the file.
    pub(crate) default: &'static str,
    /// What it does, in one line of Markdown.
    pub(crate) help: &'static str,
}

impl Key {
    /// A key with this name. `default` is written as in the file, in TOML: `"\"1s\""`, `"7"`, `"true"` or `"[]"`; its type is the
    /// type of the key's values: text, whole number, boolean, list of texts. `help` says in one line of Markdown what the key does.
    #[must_use]
    pub const fn new(name: &'static str, default: &'static str, help: &'static str) -> Self {
        Self { name, default, help }
    }

    /// The help without Markdown's backquotes around text that is in quotes already.
    pub(crate) fn plain_help(&self) -> String {
        self.help.replace("`\"", "\"").replace("\"`", "\"")
    }
}
