//! A value as it is written in the file, and its place. Knows no key.

use toml::de::DeValue;

use super::{errors::Place, syntax::Lines};

/// A value and its place.
#[derive(Debug)]
pub(crate) struct Located {
    pub(crate) place: Place,
    pub(crate) value: Value,
}

/// A value as written.
#[derive(Debug)]
pub(crate) enum Value {
    Text(String),
    Integer {
        number: i128,
        /// Whether it was written as `0o660`.
        octal: bool,
    },
    Boolean(bool),
    List(Vec<Located>),
    /// A value of a type that no key has, described in words.
    Other(String),
}

impl Value {
    /// Parses the default in a key's definition. A text that isn't TOML becomes [`Value::Other`], which passes no check.
    pub(super) fn parse(text: &str) -> Self {
        match DeValue::parse(text) {
            Ok(value) => convert(Lines(text), value.get_ref()),
            Err(error) => Self::Other(error.to_string()),
        }
    }

    /// Describes the value for an error message.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Text(text) => format!("{text:?}"),
            Self::Integer { number, .. } => format!("the number {number}"),
            Self::Boolean(boolean) => boolean.to_string(),
            Self::List(_) => "a list".to_owned(),
            Self::Other(what) => what.clone(),
        }
    }
}

/// Converts a value of the TOML parser.
pub(super) fn convert(lines: Lines<'_>, value: &DeValue<'_>) -> Value {
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
                .map(|item| Located { place: lines.place(item.span().start), value: convert(lines, item.get_ref()) })
                .collect(),
        ),
        DeValue::Table(_) => Value::Other("a table".to_owned()),
    }
}
