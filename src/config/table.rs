//! How a table of the configuration file is defined: [`table!`] makes everything else of one definition. Reads no file.

use super::{definition::Definition, reader::Reader};

/// A struct that [`table!`] defines.
pub(crate) trait Table: Sized {
    /// The table's name and keys.
    const DEFINITION: &'static Definition;

    /// Reads every key. Where a value is missing or wrong, the default takes its place; what is wrong goes to the reader.
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
/// A key has a doc comment, a name, a type, a check and a default. The doc comment is one line, and is what the documentation says
/// of the key. The default is what one would write in the file. The check is a function from [`Value`](super::value::Value) to the type, or to what is
/// wrong with the value (see [`super::values`]); the default passes it as well. `from [redis] else "…"` is for a table that
/// turns something on: the text says what holds without it.
///
/// Of this are made the struct, its `Default`, and its [`Table`]. The list of keys in `Table::DEFINITION` makes the parser's
/// error messages, `ssecast check --defaults`, ssecast.toml(5) and docs/configure.md.
macro_rules! table {
    (
        $(#[doc = $table_doc:literal])+
        $visibility:vis struct $Name:ident from [$table:ident] $(else $without:literal)? {
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
                name: stringify!($table),
                without: concat!("" $(, $without)?),
                keys: &[$(
                    $crate::config::definition::Key {
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
