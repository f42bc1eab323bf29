//! What a misspelt or misplaced name was meant to be: the message for names that no table defines.

use super::{definition::Definition, errors::Problem};

/// Names the tables, one of which may have been meant by `name`.
pub(super) fn unknown_table(tables: &[&'static Definition], name: &str) -> Problem {
    let known = tables.iter().map(|table| format!("[{}]", table.name)).collect::<Vec<_>>().join(", ");
    let nearest = nearest(name, tables.iter().map(|table| (table.name, format!("[{}]", table.name))));
    Problem::new("there is no such table", nearest.unwrap_or_else(|| format!("known here: {known}")))
}

/// Names the key that may have been meant: one of `table`, or one of another table that has exactly this name. `table` is empty
/// for keys outside of any.
pub(super) fn unknown_key(tables: &[&'static Definition], table: &str, name: &str) -> Problem {
    let what = "there is no such key";
    if let Some(table) = tables.iter().find(|table| table.keys.iter().any(|key| key.name == name)) {
        return Problem::new(what, format!("`{name}` belongs under [{}]", table.name));
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
                // All their keys would be too many to help.
                let known: Vec<_> = tables.iter().map(|table| format!("[{}]", table.name)).collect();
                format!("keys belong under {}", known.join(", "))
            })
        }
    };
    Problem::new(what, fix)
}

/// Asks whether the known name most like `name` was meant, if one is like it enough. Each comes with how it is shown.
fn nearest<'n>(name: &str, known: impl Iterator<Item = (&'n str, String)>) -> Option<String> {
    /// Below this two names have too little in common for a typing error.
    const ALIKE: f64 = 0.65;
    let likeness = known.map(|(known, shown)| (strsim::jaro_winkler(name, known), shown));
    let (alike, shown) = likeness.max_by(|one, other| one.0.total_cmp(&other.0))?;
    (alike >= ALIKE).then(|| format!("did you mean {shown}?"))
}
