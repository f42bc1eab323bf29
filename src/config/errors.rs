//! The errors of a configuration: all at once, each with its place and how to fix it. Finds none itself.

use std::{fmt, io};

/// Everything that is wrong with a configuration, in the order of the file. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    file: String,
    errors: Vec<ConfigError>,
}

impl ConfigErrors {
    /// The errors found in `file`, sorted by place.
    pub(super) fn new(file: &str, mut errors: Vec<ConfigError>) -> Self {
        errors.sort_by_key(|error| error.place);
        Self { file: file.to_owned(), errors }
    }

    /// One line for each error: `file:line: key: what is wrong; how to fix it`. A flag's errors begin with the flag.
    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        self.errors.iter().map(|error| error.line(&self.file))
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, line) in self.lines().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            f.write_str(&line)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Where a value stands. Places sort as a reader meets them: the file, its lines, then the flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// The file as a whole.
    File,
    /// A line and, where TOML itself is broken, a column; both counted from 1.
    Line(usize, Option<usize>),
    /// A flag of the command line.
    Flag(&'static str),
}

/// One error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ConfigError {
    pub(super) place: Place,
    /// The key with its table, as `stream.retry`; empty if the error is not about a key.
    pub(super) key: String,
    pub(super) problem: Problem,
}

impl ConfigError {
    fn line(&self, file: &str) -> String {
        let place = match self.place {
            Place::File => file.to_owned(),
            Place::Line(line, None) => format!("{file}:{line}"),
            Place::Line(line, Some(column)) => format!("{file}:{line}:{column}"),
            Place::Flag(flag) => flag.to_owned(),
        };
        let key = match (self.key.as_str(), self.place) {
            // The name of a flag replaces that of its key.
            ("", _) | (_, Place::Flag(_)) => String::new(),
            (key, _) => format!("{key}: "),
        };
        let Problem { what, fix } = &self.problem;
        let separator = if fix.is_empty() { "" } else { "; " };
        format!("{place}: {key}{what}{separator}{fix}")
    }
}

/// What is wrong with a value, and how to fix it; the fix is empty where it is obvious.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) what: String,
    pub(crate) fix: String,
}

impl Problem {
    pub(crate) fn new(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what: what.into(), fix: fix.into() }
    }
}

/// The problems of one value; a list can have several. Each has the place of its item, or `None` if it is about the whole value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Problems(Vec<(Option<Place>, Problem)>);

impl Problems {
    /// Adds the problem of an item.
    pub(crate) fn add(&mut self, place: Place, problem: Problem) {
        self.0.push((Some(place), problem));
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![(None, problem)])
    }
}

impl IntoIterator for Problems {
    type Item = (Option<Place>, Problem);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// The text of an operating system's error, without its number.
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}
