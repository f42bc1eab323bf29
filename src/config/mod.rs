//! The configuration as the program uses it: every value checked, typed and with a default.
//!
//! Each key is defined once, in `tables` or, for a source, in the source's own folder: see the `table!` macro. A file is read in
//! steps: `raw` has what is written, `reader` reads a table of it with the checks in `values`, and `load` finds the file. Every
//! error is collected on the way. Nothing here opens a socket.

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
pub(crate) mod values;
mod source_tables;
mod tables;
mod load;
mod default_document;
#[cfg(test)]
mod tests;

pub use address::Address;
pub(crate) use default_document::default_document;
pub use duration_range::DurationRange;
pub use errors::{ConfigErrors, reason};
pub use load::DEFAULT_PATH;
pub use raw::Override;
pub use source_tables::SourceTable;
pub use tables::{Account, Config, History, Listen, LogFormat, Process, Publish, Stream};
#[cfg(test)]
pub use tables::{Drain, KeyFiles};
