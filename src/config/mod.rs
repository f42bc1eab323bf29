//! The configuration as the program uses it: every value checked, typed and with a default.
//!
//! It is made in steps, a file each: `raw` has what is written, `values` and `resolve` make of it what is used, `load` finds the
//! file. Every error is collected on the way. Nothing here opens a socket.

mod address;
#[cfg(test)]
mod docs;
mod errors;
mod keys;
mod load;
mod raw;
mod resolve;
#[cfg(test)]
mod tests;
mod values;

pub use address::AddressError;
pub use errors::ConfigErrors;
pub use keys::{KEYS, Key, default_document};
pub use load::{DEFAULT_PATH, Override};

use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf, time::Duration};

/// Everything that can be configured. The default is what a machine with no configuration file gets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// `[listen]`
    pub listen: Listen,
    /// `[process]`
    pub process: Process,
    /// `[stream]`
    pub stream: Stream,
    /// `[history]`
    pub history: History,
    /// `[redis]`; without the table, events come from the admin socket alone.
    pub redis: Option<Redis>,
    /// `[publish]`
    pub publish: Publish,
    /// `[drain]`
    pub drain: Drain,
}

/// A place to listen on or to connect to: a path, or `tcp://ADDRESS:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP socket.
    Tcp(SocketAddr),
}

/// `[listen]`: the two sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Where nginx connects.
    pub public: Address,
    /// Where publishers connect.
    pub admin: Address,
    /// File mode of the public socket.
    pub public_mode: u32,
    /// Group of the public socket by name; `None` leaves the process's own.
    pub public_group: Option<String>,
    /// File mode of the admin socket.
    pub admin_mode: u32,
    /// Group of the admin socket by name; `None` leaves the process's own.
    pub admin_group: Option<String>,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            public: Address::Unix("/run/ssecast/ssecast.sock".into()),
            admin: Address::Unix("/run/ssecast/admin.sock".into()),
            public_mode: 0o660,
            public_group: None,
            admin_mode: 0o660,
            admin_group: None,
        }
    }
}

/// `[process]`: the daemon as a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Who the daemon becomes when root starts it (`process.user`, with `process.group` in it); `None`: it stays who it is.
    pub user: Option<Account>,
    /// The file that holds the daemon's number and its lock.
    pub pidfile: Option<PathBuf>,
    /// Where the log goes; `None` is standard error.
    pub log_file: Option<PathBuf>,
    /// How the log is written.
    pub log_format: LogFormat,
    /// The largest core file, in bytes; `None` leaves the limit that the process was started with.
    pub core_limit: Option<u64>,
    /// Threads that write to clients.
    pub workers: NonZeroUsize,
    /// Longest time from SIGTERM to the exit.
    pub drain: Duration,
}

impl Default for Process {
    fn default() -> Self {
        Self {
            user: None,
            pidfile: None,
            log_file: None,
            log_format: LogFormat::Text,
            core_limit: None,
            workers: NonZeroUsize::MIN,
            drain: Duration::from_secs(10),
        }
    }
}

/// A user of this machine, with the group that is to be its first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its name, which the list of its further groups is found by.
    pub name: String,
    /// Its user id; never root's.
    pub uid: u32,
    /// Its group id.
    pub gid: u32,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// A line for each event, for eyes.
    Text,
    /// A JSON object for each event, on a line, for programs.
    Json,
}

/// A duration picked at random between two, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DurationRange {
    /// The shortest.
    pub min: Duration,
    /// The longest, not below `min`.
    pub max: Duration,
}

impl DurationRange {
    /// One of them, to the millisecond.
    #[must_use]
    pub fn pick(&self) -> Duration {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(fastrand::u64(millis(self.min)..=millis(self.max)))
    }
}

/// `[stream]`: what a client gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// Silence after which a client gets a comment.
    pub ping_interval: Duration,
    /// What `retry:` tells a client, picked for each.
    pub retry: DurationRange,
    /// After this (80 to 100 % of it, picked for each client) a stream ends; `None`: never.
    pub max_lifetime: Option<Duration>,
    /// Most clients at a time; the next one gets a 503.
    pub max_clients: usize,
    /// Most channels in one request; more is a 400.
    pub max_channels_per_client: usize,
    /// How long events are gathered before they are sent together; zero: not at all.
    pub coalesce: Duration,
    /// Whether streams are compressed for clients that accept it.
    pub gzip: bool,
    /// Origins of pages on other hosts that may read streams; `*` is any. None by default: same origin only.
    pub allow_origins: Vec<String>,
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            ping_interval: Duration::from_secs(20),
            retry: DurationRange { min: Duration::from_secs(1), max: Duration::from_secs(4) },
            max_lifetime: None,
            max_clients: 100_000,
            max_channels_per_client: 64,
            coalesce: Duration::ZERO,
            gzip: false,
            allow_origins: Vec::new(),
        }
    }
}

/// `[history]`: what is kept for clients that come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// Most events kept of a channel.
    pub messages: usize,
    /// How long an event is kept.
    pub age: Duration,
    /// Most bytes kept of all channels together; the channels published to least recently give way.
    pub bytes: usize,
    /// How long a channel is kept subscribed after its last client has left.
    pub linger: Duration,
    /// How far the clocks of two nodes may differ: a cursor of another node is taken to be this much older.
    pub skew: Duration,
    /// How long a channel keeps events beyond `messages` for clients that are behind, within `bytes`.
    pub stretch: Duration,
}

impl Default for History {
    fn default() -> Self {
        Self {
            messages: 100,
            age: Duration::from_secs(3600),
            bytes: 64 << 20,
            linger: Duration::from_secs(60),
            skew: Duration::from_secs(2),
            stretch: Duration::from_secs(5),
        }
    }
}

/// `[redis]`: where events come from, and publishes go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redis {
    /// `redis://[user[:password]@]host[:port][/db]` or `redis+unix:///path[?db=N&user=U&pass=P]`.
    pub url: String,
    /// Put before a channel's name to make the name in Redis.
    pub prefix: String,
}

/// `[publish]`: who may publish, and how much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Keys, one of which a publisher gives as `key`, read from `key_files`.
    pub keys: Vec<String>,
    /// Ids of the users that may publish.
    pub users: Vec<u32>,
    /// Ids of the groups whose members may publish.
    pub groups: Vec<u32>,
    /// Most bytes of one message.
    pub max_message: usize,
}

impl Default for Publish {
    fn default() -> Self {
        Self { keys: Vec::new(), users: Vec::new(), groups: Vec::new(), max_message: 1 << 20 }
    }
}

/// `[drain]`: how clients are sent away when the daemon stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    /// Clients come back spread over this time.
    pub spread: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self { spread: Duration::from_secs(10) }
    }
}
