//! The keys that a configuration file may have: the one list behind what is read, what is suggested for a misspelt key, and
//! the commented file of defaults.

use std::fmt::Write as _;

use super::errors::Problem;

/// A key of the configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Table and name, as `stream.retry`.
    pub path: &'static str,
    /// The default as it would be written in the file.
    pub default: &'static str,
    /// What it is for, in a line.
    pub help: &'static str,
}

impl Key {
    /// Its table.
    #[must_use]
    pub fn table(&self) -> &'static str {
        self.path.split_once('.').map_or("", |(table, _)| table)
    }

    /// Its name in the table.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.path.split_once('.').map_or(self.path, |(_, name)| name)
    }
}

const fn key(path: &'static str, default: &'static str, help: &'static str) -> Key {
    Key { path, default, help }
}

/// Every key there is, table by table.
pub const KEYS: &[Key] = &[
    key("listen.public", r#""/run/ssecast/ssecast.sock""#, "where nginx connects: a path, or \"tcp://127.0.0.1:8888\""),
    key("listen.public_mode", r#""0660""#, "file mode of that socket"),
    key("listen.public_group", r#""""#, "group of that socket; empty leaves the process's own"),
    key("listen.admin", r#""/run/ssecast/admin.sock""#, "where publishers connect: a path, or a TCP address"),
    key("listen.admin_mode", r#""0660""#, "file mode of that socket"),
    key("listen.admin_group", r#""""#, "group of that socket; empty leaves the process's own"),
    key("process.user", r#""""#, "whom the daemon becomes when root starts it, by name or number; empty: nobody else"),
    key("process.group", r#""""#, "the group it takes with that; empty: the user's own"),
    key("process.pidfile", r#""""#, "holds the daemon's number, locked; empty: none"),
    key("process.log_file", r#""""#, "reopened on SIGUSR1; empty: standard error"),
    key("process.log_format", r#""text""#, "or \"json\": an object a line"),
    key(
        "process.core_limit",
        r#""""#,
        "largest core file: \"0\", a size or \"unlimited\"; empty: as it was started with",
    ),
    key("process.workers", "1", "threads that write to clients"),
    key("process.drain", r#""10s""#, "longest time from SIGTERM to the exit"),
    key("stream.ping_interval", r#""20s""#, "silence after which a client gets a comment"),
    key("stream.retry", r#""1s..4s""#, "when clients reconnect, picked at random for each"),
    key("stream.max_lifetime", r#""0s""#, "streams end after 80 to 100 % of it, to spread load; \"0s\" is never"),
    key("stream.max_clients", "100000", "most clients at a time; the next one gets a 503"),
    key("stream.max_channels_per_client", "64", "most channels in one request; more is a 400"),
    key(
        "stream.coalesce",
        r#""0ms""#,
        "how long events are gathered to leave together, at most \"1s\"; \"0ms\": not at all",
    ),
    key("stream.gzip", "false", "compress streams once for all clients that accept gzip"),
    key(
        "stream.allow_origins",
        "[]",
        "other origins whose pages may read streams: \"https://www.example.com\", or \"*\"",
    ),
    key("history.messages", "100", "most events kept of a channel"),
    key("history.age", r#""1h""#, "how long an event is kept"),
    key("history.bytes", r#""64MiB""#, "most bytes kept of all channels together"),
    key("history.linger", r#""60s""#, "how long a channel stays subscribed after its last client has left"),
    key("history.skew", r#""2s""#, "how far the clocks of two nodes may differ"),
    key("history.stretch", r#""5s""#, "how long events beyond `messages` are kept for clients that are behind"),
    key(
        "redis.url",
        r#""redis://127.0.0.1:6379""#,
        "used only with a [redis] table, which may be empty; or \"redis+unix:///run/redis/redis.sock?db=1\"",
    ),
    key("redis.prefix", r#""""#, "put before a channel's name to make the name in Redis"),
    key("publish.key_files", "[]", "files with one key a line, of which publishers give one"),
    key("publish.users", "[]", "users that may publish, by name or number"),
    key("publish.groups", "[]", "groups whose members may publish, by name or number"),
    key("publish.max_message", r#""1MiB""#, "most bytes of one message"),
    key("drain.spread", r#""10s""#, "when the daemon stops, clients are told to come back within this time"),
];

/// The tables, in the order of [`KEYS`].
fn tables() -> Vec<&'static str> {
    let mut tables: Vec<_> = KEYS.iter().map(Key::table).collect();
    tables.dedup();
    tables
}

/// The key `name` of `table`, if there is one.
pub(super) fn find(table: &str, name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.table() == table && key.name() == name)
}

/// Whether there is such a table.
pub(super) fn is_table(name: &str) -> bool {
    KEYS.iter().any(|key| key.table() == name)
}

/// Says of an unknown table which one may have been meant.
pub(super) fn unknown_table(name: &str) -> Problem {
    Problem::new("there is no such table", suggest(name, &tables(), |table| format!("[{table}]")))
}

/// Says of an unknown key which one may have been meant: of `table`, or of another where it has the name exactly. `table` is
/// empty for keys outside of any.
pub(super) fn unknown_key(table: &str, name: &str) -> Problem {
    let what = "there is no such key";
    if let Some(key) = KEYS.iter().find(|key| key.name() == name) {
        return Problem::new(what, format!("`{name}` belongs under [{}]", key.table()));
    }
    let near: Vec<_> = KEYS.iter().filter(|key| key.table() == table).map(Key::name).collect();
    if near.is_empty() {
        return Problem::new(what, suggest(name, &KEYS.iter().map(|key| key.path).collect::<Vec<_>>(), backticks));
    }
    Problem::new(what, suggest(name, &near, backticks))
}

fn backticks(name: &str) -> String {
    format!("`{name}`")
}

fn suggest(name: &str, known: &[&str], show: impl Fn(&str) -> String) -> String {
    /// Below this two names have too little in common for a typing error.
    const ALIKE: f64 = 0.65;
    // A key outside of its table is compared by its name alone.
    let likeness = |known: &str| strsim::jaro_winkler(name, known.rsplit('.').next().unwrap_or(known));
    let nearest = known.iter().map(|known| (likeness(known), known)).max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((alike, nearest)) if alike >= ALIKE => format!("did you mean {}?", show(nearest)),
        // Two dozen names would help nobody.
        _ if known.len() == KEYS.len() => {
            format!(
                "keys stand under {}",
                tables().iter().map(|table| format!("[{table}]")).collect::<Vec<_>>().join(", ")
            )
        }
        _ => format!("known here: {}", known.iter().map(|known| show(known)).collect::<Vec<_>>().join(", ")),
    }
}

/// The configuration file with every key at its default, all of them commented out.
#[must_use]
pub fn default_document() -> String {
    let mut document = String::from(
        "# ssecast.toml. Every key is optional; what is commented out is the default.\n\
         # `ssecast check` tells every error of this file with its line.\n",
    );
    for table in tables() {
        // The table itself turns Redis on, so its heading is commented out as well.
        let heading = if table == "redis" {
            "# Without this table, events come from the admin socket alone.\n# [redis]".to_owned()
        } else {
            format!("[{table}]")
        };
        // Writing into a String cannot fail.
        let _ = writeln!(document, "\n{heading}");
        for key in KEYS.iter().filter(|key| key.table() == table) {
            let _ = writeln!(document, "# {} = {}  # {}", key.name(), key.default, key.help);
        }
    }
    document
}
