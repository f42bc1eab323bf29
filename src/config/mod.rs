//! The configuration as the program uses it: every value checked, typed and with a default.
//!
//! The `table!` macro defines each key once: in `tables` or, for a source, in the source's folder. A file is read in steps: `load`
//! finds the file, `raw` parses it, and `reader` reads each table with the checks in `values`. Every step collects its errors.
//! Nothing here opens a socket.

mod address;
mod duration_range;
pub(crate) mod errors;
mod syntax;
pub(crate) mod value;
pub(crate) mod definition;
mod suggest;
mod raw;
pub(crate) mod reader;
pub(crate) mod table;
mod settings;
pub(crate) mod values;
mod source_tables;
mod tables;
mod channel_rules;
mod load;
mod default_document;
#[cfg(test)]
mod tests;

pub use address::Address;
pub use channel_rules::{ChannelRules, RuleId};
pub(crate) use default_document::default_document;
pub use definition::{Definition, Key};
pub use duration_range::DurationRange;
pub use errors::{ConfigErrors, reason};
pub use load::DEFAULT_PATH;
pub use raw::Override;
pub use settings::{SettingError, Settings};
pub use source_tables::SourceTable;
pub use tables::{Account, Config, History, Listen, LogFormat, Process, Publish, Stream};
#[cfg(test)]
pub use tables::{Channel, Drain, Keep, KeyFiles};
