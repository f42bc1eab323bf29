//! How a table of the configuration file is defined: [`table!`] makes everything else of one definition. Reads no file.

use super::{errors::Problems, raw::Value, reader::Reader};

/// A table of the configuration file, as its readers and its documentation need it.
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

/// A struct that [`table!`] defines.
pub(crate) trait Table: Sized {
    /// The table's name and keys.
    const DEFINITION: &'static Definition;

    /// Reads every key. Where a value is missing or wrong, the default takes its place; what is wrong goes to the reader.
    fn read(reader: &mut Reader<'_>) -> Self;
}

/// Reads a default. It must pass the key's check, which the tests of [`super::default_document`] make sure of.
pub(crate) fn default<T, E: Into<Problems>>(written: &str, check: impl FnOnce(&Value) -> Result<T, E>) -> T {
    let value = Value::parse(written);
    check(&value).unwrap_or_else(|error| panic!("the default {written} doesn't pass its check: {:?}", error.into()))
}

/// Defines a table of the configuration file, each key once:
///
/// ```text
/// table! {
///     /// `[drain]`: how streams end when the daemon stops.
///     pub struct Drain from [drain] {
///         /// When the daemon stops, clients are asked to reconnect spread over this time.
///         pub spread: Duration = duration("10s");
///     }
/// }
/// ```
///
/// A key has a doc comment, a name, a type, a check and a default. The doc comment is one line, and is what the documentation says
/// of the key. The default is what one would write in the file. The check is a function from [`Value`] to the type, or to what is
/// wrong with the value (see [`super::values`]); the default passes it as well. `from [redis] else "…"` is for a table that
/// turns something on: the text says what holds without it.
///
/// Of this are made the struct, its `Default`, and its [`Table`]. The list of keys in `Table::DEFINITION` makes the parser's
/// error messages, `ssecast check --defaults`, ssecast.toml(5) and docs/configure.md.
macro_rules! table {
    (
        $(#[doc = $table_doc:literal])+
        pub struct $Name:ident from [$table:ident] $(else $without:literal)? {
            $(
                #[doc = $doc:literal]
                pub $key:ident: $Type:ty = $check:ident($default:tt);
            )+
        }
    ) => {
        $(#[doc = $table_doc])+
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $Name {
            $(
                #[doc = $doc]
                pub $key: $Type,
            )+
        }

        impl Default for $Name {
            fn default() -> Self {
                Self { $($key: $crate::config::table::default(stringify!($default), $check),)+ }
            }
        }

        impl $crate::config::table::Table for $Name {
            const DEFINITION: &'static $crate::config::table::Definition = &$crate::config::table::Definition {
                name: stringify!($table),
                without: concat!("" $(, $without)?),
                keys: &[$(
                    $crate::config::table::Key {
                        name: stringify!($key),
                        default: stringify!($default),
                        help: $doc.trim_ascii(),
                    },
                )+],
            };

            fn read(reader: &mut $crate::config::reader::Reader<'_>) -> Self {
                Self { $($key: reader.get(stringify!($key), stringify!($default), $check),)+ }
            }
        }
    };
}

pub(crate) use table;
