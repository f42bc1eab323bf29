//! Reads the values of one table, and collects their errors. Knows no particular table.

use super::{
    definition::Definition,
    errors::{ConfigError, Place, Problem, Problems},
    raw::{Entries, Raw},
    value::Value,
};

/// Reads one table from a file and the flags.
pub(crate) struct Reader<'r> {
    table: &'static Definition,
    /// `None` if neither has the table.
    entries: Option<&'r Entries>,
    /// Where a table is that the file has several times; else the file as a whole.
    place: Place,
    errors: &'r mut Vec<ConfigError>,
}

impl<'r> Reader<'r> {
    /// A reader of `table`, which adds its errors to `errors`.
    pub(super) fn new(table: &'static Definition, raw: &'r Raw, errors: &'r mut Vec<ConfigError>) -> Self {
        Self { table, entries: raw.table(table.name), place: Place::File, errors }
    }

    /// A reader of one of several tables of the same name.
    pub(super) fn of_item(
        table: &'static Definition,
        (place, entries): &'r (Place, Entries),
        errors: &'r mut Vec<ConfigError>,
    ) -> Self {
        Self { table, entries: Some(entries), place: *place, errors }
    }

    /// The table that is read.
    pub(super) fn table(&self) -> &'static Definition {
        self.table
    }

    /// Returns the value of `key`. If there is none, or `check` refuses it, returns the default, so that the other keys can be read
    /// too.
    pub(crate) fn get<T, E: Into<Problems>>(
        &mut self,
        key: &str,
        default_value: &str,
        check: impl Fn(&Value) -> Result<T, E>,
    ) -> T {
        debug_assert!(self.table.keys.iter().any(|known| known.name == key), "{key} is no key");
        let Some(located) = self.entries.and_then(|entries| entries.get(key)) else {
            return default(default_value, check);
        };
        check(&located.value).unwrap_or_else(|error| {
            for (place, problem) in error.into() {
                self.report(key, place.unwrap_or(located.place), problem);
            }
            default(default_value, check)
        })
    }

    /// Reports that the values of `keys` don't fit together, at the place of the last of them.
    pub(crate) fn refuse(&mut self, keys: &[&str], problem: Problem) {
        let place = |key: &&str| self.entries.and_then(|entries| entries.get(*key)).map(|located| located.place);
        let given = keys.iter().filter_map(|key| Some((place(key)?, *key))).max();
        // The defaults fit together, so one of the keys is given.
        let (place, key) = given.unwrap_or((self.place, keys.first().copied().unwrap_or_default()));
        self.report(key, place, problem);
    }

    /// Whether an error is reported for the key `path`, as `stream.retry`, of this or another table.
    pub(crate) fn has_error(&self, path: &str) -> bool {
        self.errors.iter().any(|error| error.key == path)
    }

    fn report(&mut self, key: &str, place: Place, problem: Problem) {
        self.errors.push(ConfigError { place, key: format!("{}.{key}", self.table.name), problem });
    }
}

/// Reads a default. It must pass the key's check; a test reads all defaults.
pub(crate) fn default<T, E: Into<Problems>>(written: &str, check: impl FnOnce(&Value) -> Result<T, E>) -> T {
    let value = Value::parse(written);
    check(&value).unwrap_or_else(|error| panic!("the default {written} doesn't pass its check: {:?}", error.into()))
}
