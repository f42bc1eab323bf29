//! One value at a time: from what is written to its type, or what is wrong with it.

use std::{fs, num::NonZeroUsize, path::PathBuf, time::Duration};

use bytesize::ByteSize;
use nix::unistd::{Group, User};
use redis::IntoConnectionInfo as _;

use super::{Account, Address, DurationRange, LogFormat, errors::Problem, raw::Value};

/// Longest duration. Beyond it clocks could overflow, and nobody waits.
const MAX_DURATION: Duration = Duration::from_secs(3650 * 24 * 3600);
/// Most that a count or a size may be: far above any machine, far below what arithmetic could overflow at.
const MAX_NUMBER: u64 = 1 << 50;

fn wrong_type(value: &Value, mend: &str) -> Problem {
    Problem::new(format!("can't be {}", value.describe()), mend)
}

fn text<'v>(value: &'v Value, mend: &str) -> Result<&'v str, Problem> {
    match value {
        Value::Text(text) => Ok(text),
        _ => Err(wrong_type(value, mend)),
    }
}

/// A text without control characters.
pub(super) fn plain_text(value: &Value) -> Result<String, Problem> {
    let text = text(value, "write a text in quotes")?;
    if text.contains(char::is_control) {
        return Err(Problem::new(format!("{text:?} has a control character"), "write it without"));
    }
    Ok(text.to_owned())
}

/// `true` or `false`.
pub(super) fn flag(value: &Value) -> Result<bool, Problem> {
    match value {
        Value::Boolean(boolean) => Ok(*boolean),
        _ => Err(wrong_type(value, "write true or false, without quotes")),
    }
}

fn parse_duration(text: &str) -> Result<Duration, Problem> {
    let mend = "write a number with its unit, such as \"20s\", \"500ms\" or \"1h 30m\"";
    let duration = humantime::parse_duration(text.trim())
        .map_err(|_| Problem::new(format!("{text:?} is not a duration"), mend))?;
    if duration > MAX_DURATION {
        return Err(Problem::new(format!("{text:?} is too long"), "at most ten years (\"3650days\") make sense"));
    }
    Ok(duration)
}

/// A duration as `"20s"`, zero included.
pub(super) fn duration(value: &Value) -> Result<Duration, Problem> {
    let mend = "write it in quotes, with its unit: \"20s\", \"500ms\" or \"1h 30m\"";
    parse_duration(text(value, mend)?)
}

/// A duration of at most a second.
pub(super) fn window(value: &Value) -> Result<Duration, Problem> {
    let duration = duration(value)?;
    if duration > Duration::from_secs(1) {
        let mend = "events are kept back for so long; write \"1s\" or less, such as \"20ms\"";
        return Err(Problem::new(format!("{} is too long", value.describe()), mend));
    }
    Ok(duration)
}

/// A duration of at least a millisecond.
pub(super) fn positive_duration(value: &Value) -> Result<Duration, Problem> {
    let duration = duration(value)?;
    if duration < Duration::from_millis(1) {
        return Err(Problem::new(format!("{} is too short", value.describe()), "write \"1ms\" or more"));
    }
    Ok(duration)
}

/// A duration, or `None` for zero.
pub(super) fn optional_duration(value: &Value) -> Result<Option<Duration>, Problem> {
    Ok(Some(duration(value)?).filter(|duration| !duration.is_zero()))
}

/// Two durations as `"1s..4s"`; one alone is both ends.
pub(super) fn duration_range(value: &Value) -> Result<DurationRange, Problem> {
    let text = text(value, "write the shortest and the longest in quotes: \"1s..4s\"")?;
    let (min, max) = text.split_once("..").unwrap_or((text, text));
    let range = DurationRange { min: parse_duration(min)?, max: parse_duration(max)? };
    if range.min > range.max {
        let mend = format!("write the shorter one first: \"{}..{}\"", max.trim(), min.trim());
        return Err(Problem::new(format!("{text:?} ends before it begins"), mend));
    }
    Ok(range)
}

/// A size as `"64MiB"`, or a number of bytes.
pub(super) fn size(value: &Value) -> Result<usize, Problem> {
    let mend = "write a number with its unit, such as \"64MiB\" or \"500kB\"";
    let bytes = match value {
        Value::Integer { number, .. } => u64::try_from(*number).map_err(|_| wrong_type(value, mend))?,
        _ => {
            let size: Result<ByteSize, _> = text(value, mend)?.trim().parse();
            size.map_err(|_| Problem::new(format!("{} is not a size", value.describe()), mend))?.as_u64()
        }
    };
    usize::try_from(bytes)
        .ok()
        .filter(|_| bytes <= MAX_NUMBER)
        .ok_or_else(|| Problem::new(format!("{} is too large", value.describe()), "at most \"1PiB\" makes sense"))
}

/// A size of at least one byte.
pub(super) fn positive_size(value: &Value) -> Result<usize, Problem> {
    match size(value)? {
        0 => Err(Problem::new("can't be zero bytes", "write a size such as \"1MiB\"")),
        size => Ok(size),
    }
}

/// A whole number from zero on.
pub(super) fn count(value: &Value) -> Result<usize, Problem> {
    let Value::Integer { number, .. } = *value else {
        return Err(wrong_type(value, "write a whole number without quotes"));
    };
    u64::try_from(number)
        .ok()
        .filter(|&number| number <= MAX_NUMBER)
        .and_then(|number| usize::try_from(number).ok())
        .ok_or_else(|| wrong_type(value, "write a whole number from 0 on, below 10^15"))
}

/// A whole number from one on.
pub(super) fn positive_count(value: &Value) -> Result<usize, Problem> {
    match count(value)? {
        0 => Err(wrong_type(value, "write 1 or more")),
        count => Ok(count),
    }
}

/// A number of threads.
pub(super) fn threads(value: &Value) -> Result<NonZeroUsize, Problem> {
    /// More would be a typing error: there is no gain in more threads than cores.
    const MOST: usize = 64;
    NonZeroUsize::new(count(value)?)
        .filter(|threads| threads.get() <= MOST)
        .ok_or_else(|| wrong_type(value, "write 1, or up to the number of the machine's cores, at most 64"))
}

/// A file mode as `"0660"`, or as TOML's `0o660`.
pub(super) fn mode(value: &Value) -> Result<u32, Problem> {
    let mend = "write it in quotes, as chmod takes it: \"0660\"";
    let mode = match value {
        Value::Text(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => u32::from_str_radix(text, 8).ok(),
        Value::Integer { number, octal: true } => u32::try_from(*number).ok(),
        _ => None,
    };
    mode.filter(|mode| *mode <= 0o777)
        .ok_or_else(|| Problem::new(format!("{} is not a file mode", value.describe()), mend))
}

/// A path, or `tcp://IP:PORT`.
pub(super) fn address(value: &Value) -> Result<Address, Problem> {
    let text = text(value, "write a path or \"tcp://127.0.0.1:8888\" in quotes")?;
    text.parse().map_err(|error: super::AddressError| Problem::new(error.to_string(), ""))
}

/// The name of a group that exists, or `None` for the empty text.
pub(super) fn group_name(value: &Value) -> Result<Option<String>, Problem> {
    let name = plain_text(value)?;
    if name.is_empty() {
        return Ok(None);
    }
    match Group::from_name(&name) {
        Ok(Some(_)) => Ok(Some(name)),
        _ => Err(no_such("group", &name, "groupadd")),
    }
}

/// A user other than root, by name or number, or `None` for the empty text.
pub(super) fn account(value: &Value) -> Result<Option<Account>, Problem> {
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
pub(super) fn optional_group_id(value: &Value) -> Result<Option<u32>, Problem> {
    if matches!(value, Value::Text(text) if text.is_empty()) { Ok(None) } else { group_id(value).map(Some) }
}

/// A path, or `None` for the empty text.
pub(super) fn optional_path(value: &Value) -> Result<Option<PathBuf>, Problem> {
    let path = plain_text(value)?;
    if path.ends_with('/') {
        return Err(Problem::new(format!("{path:?} is a folder"), "write the path of a file"));
    }
    Ok(Some(path).filter(|path| !path.is_empty()).map(PathBuf::from))
}

/// How the log is written.
pub(super) fn log_format(value: &Value) -> Result<LogFormat, Problem> {
    let mend = "write \"text\" or \"json\"";
    match text(value, mend)? {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(wrong_type(value, mend)),
    }
}

/// A resource limit in bytes, `u64::MAX` for `"unlimited"`, or `None` for the empty text.
pub(super) fn limit(value: &Value) -> Result<Option<u64>, Problem> {
    match value {
        Value::Text(text) if text.is_empty() => Ok(None),
        Value::Text(text) if text == "unlimited" => Ok(Some(u64::MAX)),
        _ => size(value).map(|size| Some(size as u64)),
    }
}

/// The id of a user, by name or number.
pub(super) fn user_id(value: &Value) -> Result<u32, Problem> {
    id(value, "user", "useradd", |name| User::from_name(name).ok().flatten().map(|user| user.uid.as_raw()))
}

/// The id of a group, by name or number.
pub(super) fn group_id(value: &Value) -> Result<u32, Problem> {
    id(value, "group", "groupadd", |name| Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw()))
}

fn id(value: &Value, kind: &str, tool: &str, find: impl Fn(&str) -> Option<u32>) -> Result<u32, Problem> {
    match value {
        Value::Integer { number, .. } => {
            u32::try_from(*number).map_err(|_| wrong_type(value, &format!("write a {kind}'s name or number")))
        }
        Value::Text(_) => {
            let name = plain_text(value)?;
            find(&name).or_else(|| name.parse().ok()).ok_or_else(|| no_such(kind, &name, tool))
        }
        _ => Err(wrong_type(value, &format!("write a {kind}'s name or number"))),
    }
}

fn no_such(kind: &str, name: &str, tool: &str) -> Problem {
    let mend = format!("mend the name, or make the {kind} ({tool} --system {name})");
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c == '\'') {
        return Problem::new(format!("there is no {kind} {name:?}"), "mend the name");
    }
    Problem::new(format!("there is no {kind} {name:?} on this machine"), mend)
}

/// An origin as browsers send it: scheme, host and port, or `*`.
pub(super) fn origin(value: &Value) -> Result<String, Problem> {
    let mend = "write it as browsers send it, in lower case and without a path: \"https://www.example.com\", or \"*\"";
    let origin = text(value, mend)?;
    let is_origin = origin.split_once("://").is_some_and(|(scheme, host)| {
        let good = |byte: u8| byte.is_ascii_graphic() && !byte.is_ascii_uppercase() && !b"/?#@,\"".contains(&byte);
        !scheme.is_empty()
            && !host.is_empty()
            && origin.len() == scheme.len() + host.len() + 3
            && host.bytes().all(good)
            && scheme.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte))
    });
    if origin == "*" || is_origin {
        return Ok(origin.to_owned());
    }
    Err(Problem::new(format!("{origin:?} is not an origin"), mend))
}

/// The URL of a Redis. Messages never repeat it: it may have a password.
pub(super) fn redis_url(value: &Value) -> Result<String, Problem> {
    let mend = "write \"redis://[user[:password]@]host[:port][/db]\" or \"redis+unix:///path[?db=N&user=U&pass=P]\"";
    let url = text(value, mend)?;
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    match scheme {
        "redis" | "redis+unix" | "unix" => {}
        "rediss" => {
            let mend = "use \"redis://\" inside a private network, or a TLS tunnel such as stunnel";
            return Err(Problem::new("Redis over TLS (rediss://) is not compiled in", mend));
        }
        _ => return Err(Problem::new("this is not the URL of a Redis", mend)),
    }
    match url.into_connection_info() {
        Ok(_) => Ok(url.to_owned()),
        Err(error) => {
            // What follows the dash is the kind of error, and may repeat what was written.
            let error = error.to_string();
            let why = error.split(['-', ':']).next().unwrap_or_default().trim();
            Err(Problem::new(format!("this is not the URL of a Redis ({why})"), mend))
        }
    }
}

/// The keys in the file that `value` names: one a line, blank lines and those that begin with `#` aside.
pub(super) fn keys_of_file(value: &Value) -> Result<Vec<String>, Problem> {
    let path = text(value, "write the path of a file, in quotes")?;
    let content = fs::read(path).map_err(|error| {
        let mend = "write the path of a file with one key a line, which ssecast may read";
        Problem::new(format!("{path:?} can't be read ({})", super::load::reason(&error)), mend)
    })?;
    let content = String::from_utf8(content)
        .map_err(|_| Problem::new(format!("{path:?} is not UTF-8"), "write one key a line into it, as text"))?;
    let lines = content.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let keys: Vec<String> = lines.map(str::to_owned).collect();
    if keys.is_empty() {
        let mend = "write one into it (openssl rand -hex 24), or leave the file out";
        return Err(Problem::new(format!("{path:?} has no key"), mend));
    }
    Ok(keys)
}
