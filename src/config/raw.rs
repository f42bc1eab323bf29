//! The configuration as it is written: parses TOML into values with their places. Checks names, never values.

use std::{borrow::Cow, collections::BTreeMap};

use toml::{Spanned, de::DeTable, de::DeValue};

use super::{
    definition::Definition,
    errors::{ConfigError, Place, Problem},
    suggest,
    syntax::{self, Lines},
    value::{Located, Value, convert},
};

/// A flag of the command line that overrides a key of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// The flag, as `--socket`: errors name it.
    pub flag: &'static str,
    /// The key, as `listen.public`.
    pub key: &'static str,
    /// The value, as it would stand in quotes in the file.
    pub value: String,
}

/// The values of a file by key, with those of flags put over them.
#[derive(Debug)]
pub(super) struct Raw {
    /// The tables that are allowed.
    known: Vec<&'static Definition>,
    /// The tables that the file or a flag has, by name.
    given: BTreeMap<&'static str, Entries>,
    /// The tables that the file may have several times: each one with its place, in the order of the file.
    repeated: BTreeMap<&'static str, Vec<(Place, Entries)>>,
}

/// The values of a table, by key.
pub(super) type Entries = BTreeMap<&'static str, Located>;

impl Raw {
    /// Parses a file's text, in which the tables `known` are allowed. Adds syntax errors and unknown names to `errors`, and keeps
    /// everything else.
    pub(super) fn parse(text: &str, known: Vec<&'static Definition>, errors: &mut Vec<ConfigError>) -> Self {
        let lines = Lines(text);
        let (document, syntax) = DeTable::parse_recoverable(text);
        let mut raw = Self { known, given: BTreeMap::new(), repeated: BTreeMap::new() };
        let mut found = Vec::new();
        for (name, value) in document.get_ref() {
            raw.read_table(lines, name, value, &mut found);
        }
        if !syntax.is_empty() {
            // Drop errors and values that only follow from a syntax error: those of the broken line itself; and, below a broken
            // heading, keys that look like tables.
            let broken: Vec<_> = syntax.iter().map(|error| lines.position(syntax::start(error)).0).collect();
            let is_broken = |place: Place| matches!(place, Place::Line(line, _) if broken.contains(&line));
            let is_heading = |line: usize| text.lines().nth(line - 1).is_some_and(|line| line.trim().starts_with('['));
            let broken_heading = broken.iter().any(|&line| is_heading(line));
            found.retain(|error| !is_broken(error.place) && (error.key.contains('.') || !broken_heading));
            let repeated = raw.repeated.values_mut().flatten().map(|(_, entries)| entries);
            for entries in raw.given.values_mut().chain(repeated) {
                entries.retain(|_, entry| !is_broken(entry.place));
            }
        }
        errors.extend(found);
        errors.extend(syntax.iter().map(|error| lines.syntax_error(error, document.get_ref())));
        raw
    }

    /// Puts a flag's value over the file's.
    pub(super) fn set(&mut self, flag: &Override) {
        let known = flag.key.split_once('.').and_then(|(table, name)| {
            let table = self.known.iter().find(|known| known.name == table)?;
            Some((table.name, table.keys.iter().find(|key| key.name == name)?.name))
        });
        let Some((table, key)) = known else {
            debug_assert!(false, "{} is no key", flag.key);
            return;
        };
        let located = Located { place: Place::Flag(flag.flag), value: Value::Text(flag.value.clone()) };
        self.given.entry(table).or_default().insert(key, located);
    }

    /// The values of a table; `None` if neither the file nor a flag has the table.
    pub(super) fn table(&self, name: &str) -> Option<&Entries> {
        debug_assert!(self.known.iter().any(|known| known.name == name), "{name} is no table");
        self.given.get(name)
    }

    /// The tables of this name, which the file may have several times; each with its place.
    pub(super) fn tables(&self, name: &str) -> &[(Place, Entries)] {
        self.repeated.get(name).map_or(&[], Vec::as_slice)
    }

    fn read_table(
        &mut self,
        lines: Lines<'_>,
        name: &Spanned<Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
        errors: &mut Vec<ConfigError>,
    ) {
        let place = lines.place(name.span().start);
        let name = name.get_ref().as_ref();
        let Some(table) = self.known.iter().find(|known| known.name == name).copied() else {
            let problem = match value.get_ref() {
                DeValue::Table(_) | DeValue::Array(_) => suggest::unknown_table(&self.known, name),
                _ => suggest::unknown_key(&self.known, "", name),
            };
            errors.push(ConfigError { place, key: syntax::show(name), problem });
            return;
        };
        let is_no_table = |place: Place| {
            let (what, heading) = (if table.repeated { "is a list of tables" } else { "is a table" }, table.heading());
            let not = if matches!(value.get_ref(), DeValue::Table(_)) { "one table" } else { "a value" };
            let problem = Problem::new(format!("{what}, not {not}"), format!("write {heading}, and its keys below it"));
            ConfigError { place, key: syntax::show(name), problem }
        };
        match value.get_ref() {
            DeValue::Table(entries) if !table.repeated => {
                let mut given = self.given.remove(table.name).unwrap_or_default();
                self.read_entries(lines, table, entries, &mut given, errors);
                self.given.insert(table.name, given);
            }
            DeValue::Array(items) if table.repeated => {
                for item in items {
                    let place = lines.place(item.span().start);
                    let DeValue::Table(entries) = item.get_ref() else {
                        errors.push(is_no_table(place));
                        continue;
                    };
                    let mut given = Entries::new();
                    self.read_entries(lines, table, entries, &mut given, errors);
                    self.repeated.entry(table.name).or_default().push((place, given));
                }
            }
            _ => errors.push(is_no_table(place)),
        }
    }

    fn read_entries(
        &self,
        lines: Lines<'_>,
        table: &'static Definition,
        entries: &DeTable<'_>,
        given: &mut Entries,
        errors: &mut Vec<ConfigError>,
    ) {
        for (name, value) in entries {
            let place = lines.place(name.span().start);
            match table.keys.iter().find(|key| key.name == name.get_ref()) {
                Some(key) => {
                    given.insert(key.name, Located { place, value: convert(lines, value.get_ref()) });
                }
                None => {
                    let key = format!("{}.{}", table.name, syntax::show(name.get_ref()));
                    let problem = suggest::unknown_key(&self.known, table.name, name.get_ref());
                    errors.push(ConfigError { place, key, problem });
                }
            }
        }
    }
}
