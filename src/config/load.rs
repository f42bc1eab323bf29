//! Where a configuration comes from: a file that is named, the default one if it is there, flags over either.

use std::{fs, io, path::Path};

use super::{
    Config, ConfigErrors, Listen,
    errors::{ConfigError, Place, Problem},
    raw::Raw,
};

/// The file that is read where none is named; it need not be there.
pub const DEFAULT_PATH: &str = "/etc/ssecast/ssecast.toml";

/// A flag of the command line that stands over a key of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// The flag, as `--socket`: errors name it.
    pub flag: &'static str,
    /// The key, as `listen.public`.
    pub key: &'static str,
    /// The value, as a text of the file would be.
    pub value: String,
}

impl Config {
    /// Reads the file at `path`, which must be there.
    ///
    /// # Errors
    /// Every error of the file at once; one if it can't be read.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        Self::assemble(Some(path), &[])
    }

    /// Reads a file's text; `name` is what errors call it.
    ///
    /// # Errors
    /// Every error of the text at once.
    pub fn parse(text: &str, name: &str) -> Result<Self, ConfigErrors> {
        Self::build(text, name, &[])
    }

    /// Reads the file at `path`, or [`DEFAULT_PATH`] if that is there, and puts `overrides` over it.
    ///
    /// # Errors
    /// Every error of the file and of the flags at once; one if the file can't be read.
    pub fn assemble(path: Option<&Path>, overrides: &[Override]) -> Result<Self, ConfigErrors> {
        let (name, text) = read(path);
        Self::build(&text.map_err(|error| unreadable(&name, &error))?, &name, overrides)
    }

    fn build(text: &str, name: &str, overrides: &[Override]) -> Result<Self, ConfigErrors> {
        let mut errors = Vec::new();
        let mut raw = Raw::parse(text, Self::TABLES.to_vec(), &mut errors);
        for flag in overrides {
            raw.set(flag);
        }
        let config = Self::read(&raw, &mut errors);
        if errors.is_empty() { Ok(config) } else { Err(ConfigErrors::new(name, errors)) }
    }
}

impl Listen {
    /// Finds the sockets of the daemon that reads the file at `path`, or [`DEFAULT_PATH`]. Where the default file is not there
    /// or not for this user's eyes, the sockets are the default ones.
    ///
    /// # Errors
    /// What is wrong with the file's `[listen]` or its syntax; one error if a named file can't be read.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigErrors> {
        let (name, text) = read(path);
        let text = match text {
            Err(error) if path.is_none() && error.kind() == io::ErrorKind::PermissionDenied => String::new(),
            text => text.map_err(|error| unreadable(&name, &error))?,
        };
        let mut errors = Vec::new();
        let raw = Raw::parse(&text, Config::TABLES.to_vec(), &mut errors);
        let listen: Self = raw.read(&mut errors);
        // A key of a newer daemon, or a group that only the daemon's container knows, keeps nobody from connecting.
        errors.retain(|error| {
            matches!(error.place, Place::Line(_, Some(_)))
                || ["listen.public", "listen.admin"].contains(&error.key.as_str())
        });
        if errors.is_empty() { Ok(listen) } else { Err(ConfigErrors::new(&name, errors)) }
    }
}

/// The file's name, and its text: empty where the default file isn't there.
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

/// What the operating system reports with an error, without its number.
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}
