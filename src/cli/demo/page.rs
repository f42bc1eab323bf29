//! The page's files, built into the program. Serves nothing.

/// A file of the page.
pub(super) struct Asset {
    /// Its name; the one named `index.html` is the page.
    pub(super) name: &'static str,
    /// Its `Content-Type`.
    pub(super) content_type: &'static str,
    /// Its content.
    pub(super) text: &'static str,
}

/// All files but `places.json`, which depends on the demo's addresses.
pub(super) const ASSETS: [Asset; 5] = [
    Asset { name: "index.html", content_type: "text/html; charset=utf-8", text: include_str!("page.html") },
    Asset { name: "page.css", content_type: "text/css; charset=utf-8", text: include_str!("page.css") },
    Asset { name: "page.js", content_type: "text/javascript; charset=utf-8", text: include_str!("page.js") },
    Asset { name: "names.js", content_type: "text/javascript; charset=utf-8", text: include_str!("names.js") },
    Asset { name: "snippets.js", content_type: "text/javascript; charset=utf-8", text: include_str!("snippets.js") },
];
