//! Suggests the right name for a misspelt or misplaced one. Knows no particular table.

use super::{definition::Definition, errors::Problem};

/// The problem of an unknown table `name`: suggests the most similar table, or lists all.
pub(super) fn unknown_table(tables: &[&'static Definition], name: &str) -> Problem {
    let known = tables.iter().map(|table| table.heading()).collect::<Vec<_>>().join(", ");
    let nearest = nearest(name, tables.iter().map(|table| (table.name, table.heading())));
    Problem::new("there is no such table", nearest.unwrap_or_else(|| format!("known here: {known}")))
}

/// The problem of an unknown key `name`: suggests the table that has this key, or the most similar key of `table`, or lists all.
/// `table` is empty for a key outside of any table.
pub(super) fn unknown_key(tables: &[&'static Definition], table: &str, name: &str) -> Problem {
    let what = "there is no such key";
    if let Some(table) = tables.iter().find(|table| table.keys.iter().any(|key| key.name == name)) {
        return Problem::new(what, format!("`{name}` belongs under {}", table.heading()));
    }
    let fix = match tables.iter().find(|known| known.name == table) {
        Some(table) => nearest(name, table.keys.iter().map(|key| (key.name, format!("`{}`", key.name))))
            .unwrap_or_else(|| {
                let known: Vec<_> = table.keys.iter().map(|key| format!("`{}`", key.name)).collect();
                format!("known here: {}", known.join(", "))
            }),
        None => {
            let paths = tables.iter().flat_map(|table| table.keys.iter().map(move |key| (table.name, key.name)));
            nearest(name, paths.map(|(table, key)| (key, format!("`{table}.{key}`")))).unwrap_or_else(|| {
                // There are too many keys to list.
                let known: Vec<_> = tables.iter().map(|table| table.heading()).collect();
                format!("keys belong under {}", known.join(", "))
            })
        }
    };
    Problem::new(what, fix)
}

/// "did you mean …?" with the known name most similar to `name`; `None` if none is similar enough. `known` has each name and how
/// to show it.
fn nearest<'n>(name: &str, known: impl Iterator<Item = (&'n str, String)>) -> Option<String> {
    /// Least similarity for which a typing error is likely.
    const ALIKE: f64 = 0.65;
    let likeness = known.map(|(known, shown)| (strsim::jaro_winkler(name, known), shown));
    let (alike, shown) = likeness.max_by(|one, other| one.0.total_cmp(&other.0))?;
    (alike >= ALIKE).then(|| format!("did you mean {shown}?"))
}
