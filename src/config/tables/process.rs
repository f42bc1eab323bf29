//! `[process]`, and the check that a group is set only together with a user.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use nix::unistd::User;

use crate::config::{
    errors::Problem,
    reader::Reader,
    table::table,
    value::Value,
    values::{count, duration, group_id, no_such, optional_path, plain_text, size, text, wrong_type},
};

table! {
    /// `[process]`: the daemon as a process.
    pub struct Process from [process] {
        /// User that the daemon becomes when root starts it, by name or number; empty: no change.
        pub user: Option<Account> = account("");
        /// Group that it takes with that user; empty: the user's own.
        pub group: Option<u32> = optional_group_id("");
        /// File with the daemon's process id, locked while it runs; empty: none.
        pub pidfile: Option<PathBuf> = optional_path("");
        /// File to log to, reopened on SIGUSR1; empty: standard error.
        pub log_file: Option<PathBuf> = optional_path("");
        /// `"text"`, or `"json"` for one JSON object a line.
        pub log_format: LogFormat = log_format("text");
        /// Largest core file: `"0"`, a size or `"unlimited"`; empty: as it was started with.
        pub core_limit: Option<u64> = limit("");
        /// Threads that write to clients.
        pub workers: NonZeroUsize = threads(1);
        /// Longest time from SIGTERM to the exit.
        pub drain: Duration = duration("10s");
    }
}

/// A user of this machine, with the group that is to be its first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its name, for looking up its supplementary groups.
    pub name: String,
    /// Its user id; never root's.
    pub uid: u32,
    /// Its group id: `process.group` if that is set.
    pub gid: u32,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// A line for each event, for people.
    Text,
    /// A JSON object for each event, on a line, for programs.
    Json,
}

impl Process {
    /// Puts `group` into `user`.
    pub(in crate::config) fn combine(&mut self, reader: &mut Reader<'_>) {
        match (&mut self.user, self.group) {
            (Some(user), Some(gid)) => user.gid = gid,
            (None, Some(_)) if !reader.has_error("process.user") => {
                let fix = "set process.user too, or leave process.group out";
                reader.refuse(&["group"], Problem::new("is changed only together with the user", fix));
            }
            _ => {}
        }
    }
}

/// A user other than root, by name or number, or `None` for the empty text.
fn account(value: &Value) -> Result<Option<Account>, Problem> {
    let number = match value {
        Value::Integer { number, .. } => number.to_string(),
        Value::Text(_) => plain_text(value)?,
        _ => return Err(wrong_type(value, "write a user's name or number")),
    };
    if number.is_empty() {
        return Ok(None);
    }
    let by_number = || User::from_uid(number.parse::<u32>().ok()?.into()).ok().flatten();
    let user = User::from_name(&number).ok().flatten().or_else(by_number);
    let user = user.ok_or_else(|| no_such("user", &number, "useradd"))?;
    if user.uid.is_root() {
        return Err(Problem::new(
            "can't be root",
            "name a user that owns nothing, or leave it empty to change nothing",
        ));
    }
    Ok(Some(Account { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw() }))
}

/// The id of a group, by name or number, or `None` for the empty text.
fn optional_group_id(value: &Value) -> Result<Option<u32>, Problem> {
    if matches!(value, Value::Text(text) if text.is_empty()) { Ok(None) } else { group_id(value).map(Some) }
}

fn log_format(value: &Value) -> Result<LogFormat, Problem> {
    let fix = "write \"text\" or \"json\"";
    match text(value, fix)? {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(wrong_type(value, fix)),
    }
}

/// A resource limit in bytes, `u64::MAX` for `"unlimited"`, or `None` for the empty text.
fn limit(value: &Value) -> Result<Option<u64>, Problem> {
    match value {
        Value::Text(text) if text.is_empty() => Ok(None),
        Value::Text(text) if text == "unlimited" => Ok(Some(u64::MAX)),
        _ => size(value).map(|size| Some(size as u64)),
    }
}

/// A number of threads.
fn threads(value: &Value) -> Result<NonZeroUsize, Problem> {
    /// More threads than cores gain nothing; a larger number is probably a typing error.
    const MOST: usize = 64;
    NonZeroUsize::new(count(value)?)
        .filter(|threads| threads.get() <= MOST)
        .ok_or_else(|| wrong_type(value, "write 1, or up to the number of the machine's cores, at most 64"))
}
