//! Loads a configuration: a named file or the default file, with flags put over it. Checks no value itself.

use std::{fs, io, path::Path};

use super::{
    errors::{ConfigError, ConfigErrors, Place, Problem, reason},
    raw::{Override, Raw},
    reader::Reader,
    source_tables::SourceTable,
    table::Table as _,
    tables::{Config, Listen},
};

/// The file that is read if none is named. It need not exist.
pub const DEFAULT_PATH: &str = "/etc/ssecast/ssecast.toml";

impl Config {
    /// Reads a file's text. `name` is the file's name in errors. `sources` are the tables of all kinds of sources.
    ///
    /// # Errors
    /// Every error of the text at once.
    pub(crate) fn parse(text: &str, name: &str, sources: &[SourceTable]) -> Result<Self, ConfigErrors> {
        Self::build(text, name, &[], sources)
    }

    /// Reads the file at `path`, or else [`DEFAULT_PATH`] if that exists, and puts `overrides` over it. `sources` are the tables of
    /// all kinds of sources.
    ///
    /// # Errors
    /// Every error of the file and of the flags at once; or one error if the file can't be read.
    pub(crate) fn assemble(
        path: Option<&Path>,
        overrides: &[Override],
        sources: &[SourceTable],
    ) -> Result<Self, ConfigErrors> {
        let (name, text) = read(path);
        Self::build(&text.map_err(|error| unreadable(&name, &error))?, &name, overrides, sources)
    }

    fn build(text: &str, name: &str, overrides: &[Override], sources: &[SourceTable]) -> Result<Self, ConfigErrors> {
        let mut errors = Vec::new();
        let mut raw = Raw::parse(text, Self::definitions(sources), &mut errors);
        for flag in overrides {
            raw.set(flag);
        }
        let config = Self::read(&raw, sources, &mut errors);
        if errors.is_empty() { Ok(config) } else { Err(ConfigErrors::new(name, errors)) }
    }
}

impl Listen {
    /// Finds the sockets of the daemon that reads the file at `path`, or else [`DEFAULT_PATH`]. If the default file does not exist
    /// or this user may not read it, returns the default sockets.
    ///
    /// # Errors
    /// The errors of the file's syntax and of the two addresses; or one error if a named file can't be read.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigErrors> {
        let (name, text) = read(path);
        let text = match text {
            Err(error) if path.is_none() && error.kind() == io::ErrorKind::PermissionDenied => String::new(),
            text => text.map_err(|error| unreadable(&name, &error))?,
        };
        let mut errors = Vec::new();
        let raw = Raw::parse(&text, Config::definitions(&[]), &mut errors);
        let listen = Self::read(&mut Reader::new(Self::DEFINITION, &raw, &mut errors));
        // Ignore all other errors. A client can connect in spite of the table of a source, a key of a newer daemon, or a group that
        // exists only in the daemon's container.
        errors.retain(|error| {
            matches!(error.place, Place::Line(_, Some(_)))
                || ["listen.public", "listen.admin"].contains(&error.key.as_str())
        });
        if errors.is_empty() { Ok(listen) } else { Err(ConfigErrors::new(&name, errors)) }
    }
}

/// The file's name, and its text. The text is empty if the default file does not exist.
fn read(path: Option<&Path>) -> (String, io::Result<String>) {
    let file = path.unwrap_or(Path::new(DEFAULT_PATH));
    let text = match fs::read_to_string(file) {
        Err(error) if path.is_none() && error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        text => text,
    };
    (file.display().to_string(), text)
}

fn unreadable(name: &str, error: &io::Error) -> ConfigErrors {
    let problem = match error.kind() {
        io::ErrorKind::InvalidData => Problem::new("is not UTF-8", "write it as TOML, in UTF-8"),
        io::ErrorKind::NotFound => {
            Problem::new("there is no such file", "correct the path, or leave it out for the defaults")
        }
        _ => Problem::new(format!("can't be read ({})", reason(error)), "see its mode and owner"),
    };
    ConfigErrors::new(name, vec![ConfigError { place: Place::File, key: String::new(), problem }])
}
