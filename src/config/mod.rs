//! The configuration as the program uses it: every value checked, typed and with a default.
//!
//! Each key is defined once, in `tables` or in a table of a source's own: see the `table!` macro. A file is read in steps: `raw` has
//! what is written, `reader` makes the tables of it with the checks in `values`, and `load` finds the file. Every error is
//! collected on the way. Nothing here opens a socket.

mod address;
mod documents;
mod errors;
mod load;
mod raw;
mod reader;
mod suggest;
mod syntax;
mod table;
mod tables;
#[cfg(test)]
mod tests;
mod values;

pub use address::AddressError;
pub(crate) use documents::default_document;
pub use errors::ConfigErrors;
pub use load::{DEFAULT_PATH, Override, reason};
pub use tables::{Account, Drain, History, KeyFiles, Listen, LogFormat, Process, Publish, Redis, Stream};

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use errors::ConfigError;
use raw::Raw;
use reader::Reader;
use table::{Definition, Table};

/// Everything that can be configured. The default is what a machine with no configuration file gets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// `[listen]`
    pub listen: Listen,
    /// `[process]`
    pub process: Process,
    /// `[stream]`
    pub stream: Stream,
    /// `[history]`
    pub history: History,
    /// `[redis]`; without the table, events come from the admin socket alone.
    pub redis: Option<Redis>,
    /// `[publish]`
    pub publish: Publish,
    /// `[drain]`
    pub drain: Drain,
}

impl Config {
    /// Every table, in the order of the documentation.
    pub(crate) const TABLES: &'static [&'static Definition] = &[
        Listen::DEFINITION,
        Process::DEFINITION,
        Stream::DEFINITION,
        History::DEFINITION,
        Redis::DEFINITION,
        Publish::DEFINITION,
        Drain::DEFINITION,
    ];

    /// Reads every table, and checks what must hold between keys. What is wrong is put into `errors`.
    fn read(raw: &Raw, errors: &mut Vec<ConfigError>) -> Self {
        let mut config = Self {
            listen: raw.read(errors),
            process: raw.read(errors),
            stream: raw.read(errors),
            history: raw.read(errors),
            redis: raw.read_if_given(errors),
            publish: raw.read(errors),
            drain: raw.read(errors),
        };
        config.process.combine(&mut Reader::new(Process::DEFINITION, raw, errors));
        let mut listen = Reader::new(Listen::DEFINITION, raw, errors);
        config.listen.check(&mut listen);
        config.publish.check(&config.listen, &mut listen);
        config
    }
}

/// A place to listen on or to connect to: a path, or `tcp://ADDRESS:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP socket.
    Tcp(SocketAddr),
}

/// A duration picked at random between two, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DurationRange {
    /// The shortest.
    pub min: Duration,
    /// The longest, not below `min`.
    pub max: Duration,
}

impl DurationRange {
    /// One of them, to the millisecond.
    #[must_use]
    pub fn pick(&self) -> Duration {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(fastrand::u64(millis(self.min)..=millis(self.max)))
    }
}
