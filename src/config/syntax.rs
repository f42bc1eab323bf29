//! Errors of a text that is not TOML, with line and column. Knows no key.

use toml::de::DeTable;

use super::errors::{ConfigError, Place, Problem};

/// The byte at which an error begins.
pub(super) fn start(error: &toml::de::Error) -> usize {
    error.span().map_or(0, |span| span.start)
}

/// The table that a line begins: `listen` for `[listen]` or `[[listen]]`.
fn heading(line: &str) -> Option<&str> {
    let name = line.trim().strip_prefix('[')?.trim_start_matches('[').split(']').next()?.trim();
    Some(name).filter(|name| !name.is_empty())
}

/// `name` with control characters escaped.
pub(super) fn show(name: &str) -> String {
    name.escape_debug().to_string()
}

/// The text, for turning offsets into lines.
#[derive(Clone, Copy)]
pub(super) struct Lines<'t>(pub(super) &'t str);

impl Lines<'_> {
    /// Line and column of a byte, both counted from 1; columns count characters.
    pub(super) fn position(self, offset: usize) -> (usize, usize) {
        let before = self.0.get(..offset).unwrap_or(self.0);
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    /// The line of a byte.
    pub(super) fn place(self, offset: usize) -> Place {
        Place::Line(self.position(offset).0, None)
    }

    /// Makes the error for a syntax error. `document` has what the parser could read.
    pub(super) fn syntax_error(self, error: &toml::de::Error, document: &DeTable<'_>) -> ConfigError {
        let (line, column) = self.position(start(error));
        let place = Place::Line(line, Some(column));
        let content = self.0.lines().nth(line - 1).unwrap_or_default();
        if error.message().starts_with("duplicate key") {
            let (key, problem) = self.duplicate(line, content, document);
            return ConfigError { place, key, problem };
        }
        let value = content.split_once('=').map_or("", |(_, value)| value);
        // The most frequent syntax error.
        let unquoted = !value.trim().is_empty() && !value.contains(['"', '\'', '[', '{']);
        let fix = if unquoted { "texts, durations, sizes and modes are written in quotes" } else { "" };
        // The parser writes "expected nothing" if it has no suggestion.
        let what = error.message().trim_end_matches(", expected nothing");
        ConfigError { place, key: String::new(), problem: Problem::new(format!("not TOML: {what}"), fix) }
    }

    /// The key and the problem of a table or key that is in the file twice. `line` is the line of the second one.
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
}
