//! The tables of the configuration file, one file for each, with the checks between the keys of a table. Here they are combined into
//! one `Config`. The tables of sources are defined by the sources.

mod channel;
mod drain;
mod history;
mod listen;
mod process;
mod publish;
mod stream;

pub use channel::{Channel, Keep};
pub use drain::Drain;
pub use history::History;
pub use listen::Listen;
pub use process::{Account, LogFormat, Process};
#[cfg(test)]
pub use publish::KeyFiles;
pub use publish::Publish;
pub use stream::Stream;

use super::{
    definition::Definition,
    errors::ConfigError,
    raw::Raw,
    reader::Reader,
    settings::Settings,
    source_tables::{SourceTable, SourceTables},
    table::Table,
};

/// The whole configuration. The default is what a daemon without a configuration file has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// `[listen]`
    pub(crate) listen: Listen,
    /// `[process]`
    pub(crate) process: Process,
    /// `[stream]`
    pub(crate) stream: Stream,
    /// `[history]`
    pub(crate) history: History,
    /// `[[channel]]`, in the order of the file.
    pub(crate) channels: Vec<Channel>,
    /// `[redis]` and the tables of other sources. Without any, events come from the admin socket alone.
    pub(crate) sources: SourceTables,
    /// `[publish]`
    pub(crate) publish: Publish,
    /// `[drain]`
    pub(crate) drain: Drain,
}

impl Config {
    /// The values of the table `name` that the program has added; `None` if the configuration file does not have the table.
    #[must_use]
    pub fn settings(&self, name: &str) -> Option<&Settings> {
        self.sources.settings(name)
    }

    /// `publish.max_message`: most bytes of a message that is published on the admin socket. A source should not take much longer
    /// ones.
    #[must_use]
    pub fn max_message(&self) -> usize {
        self.publish.max_message
    }

    /// `history.bytes`: how much a node keeps, of all channels. A source with a journal reads about as much of its tail at a start.
    #[must_use]
    pub fn history_bytes(&self) -> usize {
        self.history.bytes
    }

    /// Every table, in the order of the documentation.
    pub(crate) fn definitions(sources: &[SourceTable]) -> Vec<&'static Definition> {
        let mut tables = vec![Listen::DEFINITION, Process::DEFINITION, Stream::DEFINITION, History::DEFINITION];
        tables.push(Channel::DEFINITION);
        tables.extend(sources.iter().map(|source| source.definition));
        tables.extend([Publish::DEFINITION, Drain::DEFINITION]);
        tables
    }

    /// Reads every table, and checks that the keys fit together. Adds the errors to `errors`.
    pub(super) fn read(raw: &Raw, sources: &[SourceTable], errors: &mut Vec<ConfigError>) -> Self {
        fn table<T: Table>(raw: &Raw, errors: &mut Vec<ConfigError>) -> T {
            T::read(&mut Reader::new(T::DEFINITION, raw, errors))
        }
        let mut config = Self {
            listen: table(raw, errors),
            process: table(raw, errors),
            stream: table(raw, errors),
            history: table(raw, errors),
            channels: Self::read_channels(raw, errors),
            sources: SourceTables::read(sources, raw, errors),
            publish: table(raw, errors),
            drain: table(raw, errors),
        };
        config.process.combine(&mut Reader::new(Process::DEFINITION, raw, errors));
        let mut listen = Reader::new(Listen::DEFINITION, raw, errors);
        config.listen.check(&mut listen);
        config.publish.check(&config.listen, &mut listen);
        config
    }

    fn read_channels(raw: &Raw, errors: &mut Vec<ConfigError>) -> Vec<Channel> {
        let items = raw.tables(Channel::DEFINITION.name);
        let read = |item| Channel::read(&mut Reader::of_item(Channel::DEFINITION, item, errors));
        let channels: Vec<Channel> = items.iter().map(read).collect();
        channel::check_order(&channels, |index, problem| {
            channel::refuse(&mut Reader::of_item(Channel::DEFINITION, &items[index], errors), problem);
        });
        channels
    }
}
