//! The page and its parts, as they are in the program.

use super::lines::Line;

/// A file of the page.
pub(super) struct Asset {
    /// Its name; the one named `index.html` is the page.
    pub(super) name: &'static str,
    /// Its `Content-Type`.
    pub(super) kind: &'static str,
    /// What is in it.
    pub(super) text: &'static str,
}

/// The page's files, but for [`COMMANDS`], which is made anew each time.
pub(super) const ASSETS: [Asset; 3] = [
    Asset { name: "index.html", kind: "text/html; charset=utf-8", text: include_str!("page.html") },
    Asset { name: "page.css", kind: "text/css; charset=utf-8", text: include_str!("page.css") },
    Asset { name: "page.js", kind: "text/javascript; charset=utf-8", text: include_str!("page.js") },
];

/// The name of the file with the lines to paste.
pub(super) const COMMANDS: &str = "commands.json";

/// The lines to paste, as the page reads them. Any user of this machine can read the page, so those with a password are left out.
pub(super) fn commands(lines: &[Line]) -> String {
    let shown: Vec<_> = lines
        .iter()
        .filter(|line| !line.secret)
        .map(|line| serde_json::json!({ "what": line.what, "line": line.text }))
        .collect();
    serde_json::Value::Array(shown).to_string()
}
