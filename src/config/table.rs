//! The [`table!`] macro, which defines a table of the configuration file. Reads no file.

use super::{definition::Definition, reader::Reader};

/// A struct that [`table!`] defines.
pub(crate) trait Table: Sized {
    /// The table's name and keys.
    const DEFINITION: &'static Definition;

    /// Reads every key. A missing or wrong value becomes the default. The reader collects the errors.
    fn read(reader: &mut Reader<'_>) -> Self;
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
/// A key has a doc comment, a name, a type, a check and a default. The doc comment is one line, which is also the key's help in the
/// documentation. The default is written as in the file. The check is a function from [`Value`](super::value::Value) to the type or
/// to a problem (see [`super::values`]); the default must pass it. `from [redis] else "…"` is for a table that turns something on:
/// the text says what happens without the table. `from [[channel]]` is for a table that the file may have several times.
///
/// The macro makes the struct, its `Default`, and its [`Table`]. From `Table::DEFINITION` are made the parser's error messages,
/// `ssecast check --defaults`, ssecast.toml(5) and docs/configure.md.
macro_rules! table {
    (
        $(#[doc = $table_doc:literal])+
        $visibility:vis struct $Name:ident from $heading:tt $(else $without:literal)? {
            $(
                #[doc = $doc:literal]
                pub $key:ident: $Type:ty = $check:ident($default:tt);
            )+
        }
    ) => {
        $(#[doc = $table_doc])+
        #[derive(Debug, Clone, PartialEq, Eq)]
        $visibility struct $Name {
            $(
                #[doc = $doc]
                pub $key: $Type,
            )+
        }

        impl Default for $Name {
            fn default() -> Self {
                Self { $($key: $crate::config::reader::default(stringify!($default), $check),)+ }
            }
        }

        impl $crate::config::table::Table for $Name {
            const DEFINITION: &'static $crate::config::definition::Definition = &$crate::config::definition::Definition {
                name: $crate::config::table::heading!($heading).0,
                repeated: $crate::config::table::heading!($heading).1,
                without: concat!("" $(, $without)?),
                keys: &[$(
                    $crate::config::definition::Key {
                        name: $crate::config::definition::key_name(stringify!($key)),
                        default: stringify!($default),
                        help: $doc.trim_ascii(),
                    },
                )+],
            };

            fn read(reader: &mut $crate::config::reader::Reader<'_>) -> Self {
                use $crate::config::definition::key_name;
                Self { $($key: reader.get(key_name(stringify!($key)), stringify!($default), $check),)+ }
            }
        }
    };
}

/// The name of a table, and whether the file may have it several times.
macro_rules! heading {
    ([[$table:ident]]) => {
        (stringify!($table), true)
    };
    ([$table:ident]) => {
        (stringify!($table), false)
    };
}

pub(crate) use {heading, table};
