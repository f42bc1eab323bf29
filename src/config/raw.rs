//! The configuration as it is written: TOML in, located values out. Checks names, never values.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use toml::{Spanned, de::DeTable, de::DeValue};

use super::{
    Override,
    errors::{ConfigError, Place, Problem},
    keys,
};

/// What stands in a file, key by known key, with what flags have put over it.
#[derive(Debug, Default)]
pub(super) struct Raw {
    entries: BTreeMap<&'static str, Located>,
    tables: BTreeSet<&'static str>,
}

/// A value and where it stands.
#[derive(Debug)]
pub(super) struct Located {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// A value as written.
#[derive(Debug)]
pub(super) enum Value {
    Text(String),
    Integer {
        number: i128,
        /// Whether it was written as `0o660`.
        octal: bool,
    },
    Boolean(bool),
    List(Vec<Located>),
    /// What no key takes, described.
    Other(String),
}

impl Value {
    /// The value for an error message.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Text(text) => format!("{text:?}"),
            Self::Integer { number, .. } => format!("the number {number}"),
            Self::Boolean(boolean) => boolean.to_string(),
            Self::List(_) => "a list".to_owned(),
            Self::Other(what) => what.clone(),
        }
    }
}

impl Raw {
    /// Reads a file's text. Syntax errors and unknown names are put into `errors`; everything else is kept.
    pub(super) fn parse(text: &str, errors: &mut Vec<ConfigError>) -> Self {
        let lines = Lines(text);
        let (document, syntax) = DeTable::parse_recoverable(text);
        let mut reader = Reader { lines, errors: Vec::new(), raw: Self::default() };
        for (name, value) in document.get_ref() {
            reader.read_table(name, value);
        }
        let Reader { errors: mut found, mut raw, .. } = reader;
        if !syntax.is_empty() {
            // What the parser made of a line that it couldn't read says nothing; and below a heading that it couldn't
            // read, keys look like tables.
            let broken: Vec<_> = syntax.iter().map(|error| lines.position(start(error)).0).collect();
            let is_broken = |place: Place| matches!(place, Place::Line(line, _) if broken.contains(&line));
            let is_heading = |line: usize| text.lines().nth(line - 1).is_some_and(|line| line.trim().starts_with('['));
            let broken_heading = broken.iter().any(|&line| is_heading(line));
            found.retain(|error| !is_broken(error.place) && (error.key.contains('.') || !broken_heading));
            raw.entries.retain(|_, entry| !is_broken(entry.place));
        }
        errors.extend(found);
        errors.extend(syntax.iter().map(|error| lines.syntax_error(error, document.get_ref())));
        raw
    }

    /// Puts a flag's value over the file's.
    pub(super) fn set(&mut self, flag: &Override) {
        let Some(key) = keys::KEYS.iter().find(|key| key.path == flag.key) else {
            debug_assert!(false, "{} is no key", flag.key);
            return;
        };
        self.tables.insert(key.table());
        let located = Located { place: Place::Flag(flag.flag), value: Value::Text(flag.value.clone()) };
        self.entries.insert(key.path, located);
    }

    /// What was given for the key, as `stream.retry`.
    pub(super) fn get(&self, path: &str) -> Option<&Located> {
        debug_assert!(keys::KEYS.iter().any(|key| key.path == path), "{path} is no key");
        self.entries.get(path)
    }

    /// Whether the table was given, empty or not.
    pub(super) fn has_table(&self, table: &str) -> bool {
        self.tables.contains(table)
    }
}

struct Reader<'t> {
    lines: Lines<'t>,
    errors: Vec<ConfigError>,
    raw: Raw,
}

impl Reader<'_> {
    fn read_table(&mut self, name: &Spanned<Cow<'_, str>>, value: &Spanned<DeValue<'_>>) {
        let table = name.get_ref().as_ref();
        let place = self.lines.place(name.span().start);
        if !keys::is_table(table) {
            let problem = match value.get_ref() {
                DeValue::Table(_) | DeValue::Array(_) => keys::unknown_table(table),
                _ => keys::unknown_key("", table),
            };
            self.errors.push(ConfigError { place, key: show(table), problem });
            return;
        }
        let DeValue::Table(entries) = value.get_ref() else {
            let problem = Problem::new("is a table, not a value", format!("write [{table}], and its keys below it"));
            self.errors.push(ConfigError { place, key: show(table), problem });
            return;
        };
        for (name, value) in entries {
            let place = self.lines.place(name.span().start);
            match keys::find(table, name.get_ref()) {
                Some(key) => {
                    let value = self.lines.convert(value.get_ref());
                    self.raw.entries.insert(key.path, Located { place, value });
                }
                None => {
                    let key = format!("{table}.{}", show(name.get_ref()));
                    self.errors.push(ConfigError { place, key, problem: keys::unknown_key(table, name.get_ref()) });
                }
            }
        }
        if let Some(key) = keys::KEYS.iter().find(|key| key.table() == table) {
            self.raw.tables.insert(key.table());
        }
    }
}

fn start(error: &toml::de::Error) -> usize {
    error.span().map_or(0, |span| span.start)
}

/// The table that a line begins, `listen` for `[listen]` or `[[listen]]`.
fn heading(line: &str) -> Option<&str> {
    let name = line.trim().strip_prefix('[')?.trim_start_matches('[').split(']').next()?.trim();
    Some(name).filter(|name| !name.is_empty())
}

/// A name as it can be printed in a line.
fn show(name: &str) -> String {
    name.escape_debug().to_string()
}

/// The text, for turning offsets into lines.
#[derive(Clone, Copy)]
struct Lines<'t>(&'t str);

impl Lines<'_> {
    /// Line and column of a byte, both counted from 1; columns count characters.
    fn position(self, offset: usize) -> (usize, usize) {
        let before = self.0.get(..offset).unwrap_or(self.0);
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    fn place(self, offset: usize) -> Place {
        Place::Line(self.position(offset).0, None)
    }

    /// What is wrong with the TOML, and what to do about it. `document` is what the parser made of the rest.
    fn syntax_error(self, error: &toml::de::Error, document: &DeTable<'_>) -> ConfigError {
        let (line, column) = self.position(start(error));
        let place = Place::Line(line, Some(column));
        let content = self.0.lines().nth(line - 1).unwrap_or_default();
        if error.message().starts_with("duplicate key") {
            let (key, problem) = self.duplicate(line, content, document);
            return ConfigError { place, key, problem };
        }
        let value = content.split_once('=').map_or("", |(_, value)| value);
        // By far the most frequent of them.
        let unquoted = !value.trim().is_empty() && !value.contains(['"', '\'', '[', '{']);
        let fix = if unquoted { "texts, durations, sizes and modes are written in quotes" } else { "" };
        // "Expected nothing" is the parser's way to say that it has nothing to propose.
        let what = error.message().trim_end_matches(", expected nothing");
        ConfigError { place, key: String::new(), problem: Problem::new(format!("not TOML: {what}"), fix) }
    }

    /// A table or a key that is in the file twice: the key, and where the first one is. `line` is the second one's.
    fn duplicate(self, line: usize, content: &str, document: &DeTable<'_>) -> (String, Problem) {
        let on_line = |first: Option<usize>| {
            first.filter(|&first| first < line).map_or(String::new(), |first| format!(" on line {first}"))
        };
        if let Some(table) = heading(content) {
            let first = self.0.lines().position(|line| heading(line) == Some(table)).map(|index| index + 1);
            let what = format!("[{table}] is there already{}", on_line(first));
            return (String::new(), Problem::new(what, "add your keys there"));
        }
        let name = content.split_once('=').map_or(content, |(name, _)| name).trim();
        let table = self.0.lines().take(line).filter_map(heading).last();
        let path = table.map_or_else(|| name.to_owned(), |table| format!("{table}.{name}"));
        let first = path.split_once('.').and_then(|(table, name)| {
            let entries = document.iter().find(|(known, _)| known.get_ref() == table)?.1.get_ref().as_table()?;
            entries
                .iter()
                .find(|(known, _)| known.get_ref() == name)
                .map(|(known, _)| self.position(known.span().start).0)
        });
        (show(&path), Problem::new(format!("is there already{}", on_line(first)), "keep one of the two"))
    }

    fn convert(self, value: &DeValue<'_>) -> Value {
        match value {
            DeValue::String(text) => Value::Text(text.clone().into_owned()),
            DeValue::Integer(integer) => match i128::from_str_radix(integer.as_str(), integer.radix()) {
                Ok(number) => Value::Integer { number, octal: integer.radix() == 8 },
                Err(_) => Value::Other(format!("the number {integer}")),
            },
            DeValue::Float(float) => Value::Other(format!("the number {float}")),
            DeValue::Boolean(boolean) => Value::Boolean(*boolean),
            DeValue::Datetime(_) => Value::Other("a date".to_owned()),
            DeValue::Array(items) => Value::List(
                items
                    .iter()
                    .map(|item| Located { place: self.place(item.span().start), value: self.convert(item.get_ref()) })
                    .collect(),
            ),
            DeValue::Table(_) => Value::Other("a table".to_owned()),
        }
    }
}
