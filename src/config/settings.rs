//! The values of a table that a program adds to the configuration file, by key. The type of a key's default is the type of its
//! values. Knows no table.

use std::{error::Error, fmt, time::Duration};

use super::{
    errors::{Problem, Problems},
    reader::Reader,
    value::Value,
    values,
};

/// The values of a program's own table of the configuration file. A key that the file does not have is at its default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub(super) table: &'static str,
    values: Vec<(&'static str, Setting)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Setting {
    Text(String),
    Integer(i64),
    Boolean(bool),
    List(Vec<String>),
}

/// A setting can't be used. It names the key, as `postgres.url`, and says why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingError {
    key: String,
    why: String,
}

impl fmt::Display for SettingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.why)
    }
}

impl Error for SettingError {}

impl Settings {
    /// Reads every key of the reader's table.
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let table = reader.table();
        let value = |key: &super::definition::Key| {
            let kind = Value::parse(key.default);
            (key.name, reader.get(key.name, key.default, |value| check(value, &kind, key.default)))
        };
        Self { table: table.name, values: table.keys.iter().map(value).collect() }
    }

    /// The text of a key, as `"abc"` in the file.
    ///
    /// # Errors
    /// The table's definition does not have the key, or its default is no text.
    pub fn text(&self, key: &str) -> Result<&str, SettingError> {
        match self.get(key)? {
            Setting::Text(text) => Ok(text),
            _ => Err(self.error(key, "is no text")),
        }
    }

    /// The whole number of a key.
    ///
    /// # Errors
    /// The table's definition does not have the key, or its default is no whole number.
    pub fn integer(&self, key: &str) -> Result<i64, SettingError> {
        match self.get(key)? {
            Setting::Integer(number) => Ok(*number),
            _ => Err(self.error(key, "is no whole number")),
        }
    }

    /// Whether a key is `true` or `false`.
    ///
    /// # Errors
    /// The table's definition does not have the key, or its default is neither.
    pub fn boolean(&self, key: &str) -> Result<bool, SettingError> {
        match self.get(key)? {
            Setting::Boolean(boolean) => Ok(*boolean),
            _ => Err(self.error(key, "is neither true nor false")),
        }
    }

    /// The texts of a key, as `["a", "b"]` in the file.
    ///
    /// # Errors
    /// The table's definition does not have the key, or its default is no list.
    pub fn list(&self, key: &str) -> Result<&[String], SettingError> {
        match self.get(key)? {
            Setting::List(items) => Ok(items),
            _ => Err(self.error(key, "is no list")),
        }
    }

    /// The duration of a key, as `"20s"`, `"500ms"` or `"1h 30m"` in the file.
    ///
    /// # Errors
    /// The value is no duration, or the table's definition does not have the key.
    pub fn duration(&self, key: &str) -> Result<Duration, SettingError> {
        let text = Value::Text(self.text(key)?.to_owned());
        values::duration(&text).map_err(|problem| self.error(key, format!("{}; {}", problem.what, problem.fix)))
    }

    /// An error about a key, for values that only the program can check.
    #[must_use]
    pub fn error(&self, key: &str, why: impl fmt::Display) -> SettingError {
        SettingError { key: format!("{}.{key}", self.table), why: why.to_string() }
    }

    fn get(&self, key: &str) -> Result<&Setting, SettingError> {
        let found = self.values.iter().find(|(name, _)| *name == key);
        found.map(|(_, value)| value).ok_or_else(|| self.error(key, "the table's definition has no such key"))
    }
}

/// Checks that a value is of the same type as the default, `kind`.
fn check(value: &Value, kind: &Value, default: &str) -> Result<Setting, Problems> {
    let wrong = |value: &Value| {
        Problem::new(format!("{} is of another type", value.describe()), format!("the default is {default}"))
    };
    match (kind, value) {
        (Value::Text(_), Value::Text(text)) => Ok(Setting::Text(text.clone())),
        (Value::Integer { .. }, Value::Integer { number, .. }) => {
            Ok(Setting::Integer(i64::try_from(*number).map_err(|_| Problem::new("is too large", ""))?))
        }
        (Value::Boolean(_), Value::Boolean(boolean)) => Ok(Setting::Boolean(*boolean)),
        (Value::List(_), Value::List(items)) => {
            let (mut texts, mut problems) = (Vec::new(), Problems::default());
            for item in items {
                match &item.value {
                    Value::Text(text) => texts.push(text.clone()),
                    other => problems.add(
                        item.place,
                        Problem::new(format!("{} is no text", other.describe()), "write it in quotes"),
                    ),
                }
            }
            if problems.is_empty() { Ok(Setting::List(texts)) } else { Err(problems) }
        }
        (_, value) => Err(wrong(value).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Definition, Key, SourceTable};

    static CLOCK: Definition = Definition::new(
        "clock",
        &[
            Key::new("every", "\"1s\"", "Time between two events."),
            Key::new("channels", "[\"clock\"]", "Where they are published."),
            Key::new("from", "1", "The first number."),
            Key::new("loud", "false", "Whether it is in capitals."),
        ],
    )
    .optional("Without this table there is no clock.");

    fn parse(text: &str) -> Result<Config, Vec<String>> {
        Config::parse(text, "t.toml", &[SourceTable::of_settings(&CLOCK)]).map_err(|errors| errors.lines().collect())
    }

    #[test]
    fn settings_have_the_types_of_their_defaults() {
        assert_eq!(parse("").unwrap().settings("clock"), None);
        let config = parse("[clock]\nevery = \"2s\"\nchannels = [\"a\", \"b\"]\n").unwrap();
        let settings = config.settings("clock").unwrap();
        assert_eq!(settings.duration("every"), Ok(Duration::from_secs(2)));
        assert_eq!(settings.list("channels").unwrap(), ["a", "b"]);
        assert_eq!((settings.integer("from"), settings.boolean("loud")), (Ok(1), Ok(false)));
        assert_eq!(
            settings.text("form").unwrap_err().to_string(),
            "clock.form: the table's definition has no such key"
        );
        assert_eq!(settings.duration("every").map(|_| ()), Ok(()));
        assert_eq!(settings.boolean("every").unwrap_err().to_string(), "clock.every: is neither true nor false");
        assert_eq!(config, parse("[clock]\nchannels = [\"a\", \"b\"]\nevery = \"2s\"\n").unwrap());
        assert_ne!(config, parse("[clock]\n").unwrap());
    }

    #[test]
    fn errors_of_an_added_table_have_their_lines() {
        let errors = parse("[clock]\nevery = 2\nchannels = [\"a\", 3]\nform = 1\n").unwrap_err();
        assert_eq!(
            errors,
            [
                "t.toml:2: clock.every: the number 2 is of another type; the default is \"1s\"",
                "t.toml:3: clock.channels: the number 3 is no text; write it in quotes",
                "t.toml:4: clock.form: there is no such key; did you mean `from`?",
            ]
        );
    }

    #[test]
    fn a_value_of_a_wrong_form_names_its_key() {
        let config = parse("[clock]\nevery = \"soon\"\n").unwrap();
        let error = config.settings("clock").unwrap().duration("every").unwrap_err().to_string();
        assert!(error.starts_with("clock.every: \"soon\" is not a duration; "), "{error}");
    }
}
