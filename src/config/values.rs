//! Checks that several tables use. Each converts one written value to its type, or returns what is wrong with it. Knows no key.

use std::{path::PathBuf, time::Duration};

use bytesize::ByteSize;
use nix::unistd::{Group, User};

use super::{
    address::{Address, AddressError, Addresses},
    duration_range::DurationRange,
    errors::{Problem, Problems},
    value::Value,
};

/// Longest duration. Longer ones could overflow a clock.
const MAX_DURATION: Duration = Duration::from_secs(3650 * 24 * 3600);
/// Largest count or size: more than any machine has, and far too small to overflow.
const MAX_NUMBER: u64 = 1 << 50;

/// The problem of a value whose type is wrong for its key.
pub(crate) fn wrong_type(value: &Value, fix: &str) -> Problem {
    Problem::new(format!("can't be {}", value.describe()), fix)
}

/// A text.
pub(crate) fn text<'v>(value: &'v Value, fix: &str) -> Result<&'v str, Problem> {
    match value {
        Value::Text(text) => Ok(text),
        _ => Err(wrong_type(value, fix)),
    }
}

/// A list, each item of which passes `check`. Every wrong item is reported, at its own line.
pub(crate) fn list<T>(value: &Value, check: impl Fn(&Value) -> Result<T, Problem>) -> Result<Vec<T>, Problems> {
    let Value::List(items) = value else {
        return Err(wrong_type(value, "write a list in square brackets, such as [\"…\"] or []").into());
    };
    let mut list = Vec::with_capacity(items.len());
    let mut problems = Problems::default();
    for item in items {
        match check(&item.value) {
            Ok(value) => list.push(value),
            Err(problem) => problems.add(item.place, problem),
        }
    }
    if problems.is_empty() { Ok(list) } else { Err(problems) }
}

/// A text without control characters.
pub(crate) fn plain_text(value: &Value) -> Result<String, Problem> {
    let text = text(value, "write a text in quotes")?;
    if text.contains(char::is_control) {
        return Err(Problem::new(format!("{text:?} has a control character"), "write it without"));
    }
    Ok(text.to_owned())
}

/// `true` or `false`.
pub(crate) fn flag(value: &Value) -> Result<bool, Problem> {
    match value {
        Value::Boolean(boolean) => Ok(*boolean),
        _ => Err(wrong_type(value, "write true or false, without quotes")),
    }
}

fn parse_duration(text: &str) -> Result<Duration, Problem> {
    let fix = "write a number with its unit, such as \"20s\", \"500ms\" or \"1h 30m\"";
    let duration =
        humantime::parse_duration(text.trim()).map_err(|_| Problem::new(format!("{text:?} is not a duration"), fix))?;
    if duration > MAX_DURATION {
        return Err(Problem::new(format!("{text:?} is too long"), "at most ten years (\"3650days\") make sense"));
    }
    Ok(duration)
}

/// A duration as `"20s"`, zero included.
pub(crate) fn duration(value: &Value) -> Result<Duration, Problem> {
    let fix = "write it in quotes, with its unit: \"20s\", \"500ms\" or \"1h 30m\"";
    parse_duration(text(value, fix)?)
}

/// A duration of at least a millisecond.
pub(crate) fn positive_duration(value: &Value) -> Result<Duration, Problem> {
    let duration = duration(value)?;
    if duration < Duration::from_millis(1) {
        return Err(Problem::new(format!("{} is too short", value.describe()), "write \"1ms\" or more"));
    }
    Ok(duration)
}

/// A duration, or `None` for zero.
pub(crate) fn optional_duration(value: &Value) -> Result<Option<Duration>, Problem> {
    Ok(Some(duration(value)?).filter(|duration| !duration.is_zero()))
}

/// Two durations as `"1s..4s"`; one alone is both ends.
pub(crate) fn duration_range(value: &Value) -> Result<DurationRange, Problem> {
    let text = text(value, "write the shortest and the longest in quotes: \"1s..4s\"")?;
    let (min, max) = text.split_once("..").unwrap_or((text, text));
    let range = DurationRange { min: parse_duration(min)?, max: parse_duration(max)? };
    if range.min > range.max {
        let fix = format!("write the shorter one first: \"{}..{}\"", max.trim(), min.trim());
        return Err(Problem::new(format!("{text:?} ends before it begins"), fix));
    }
    Ok(range)
}

/// A size as `"64MiB"`, or a number of bytes.
pub(crate) fn size(value: &Value) -> Result<usize, Problem> {
    let fix = "write a number with its unit, such as \"64MiB\" or \"500kB\"";
    let bytes = match value {
        Value::Integer { number, .. } => u64::try_from(*number).map_err(|_| wrong_type(value, fix))?,
        _ => {
            let size: Result<ByteSize, _> = text(value, fix)?.trim().parse();
            size.map_err(|_| Problem::new(format!("{} is not a size", value.describe()), fix))?.as_u64()
        }
    };
    usize::try_from(bytes)
        .ok()
        .filter(|_| bytes <= MAX_NUMBER)
        .ok_or_else(|| Problem::new(format!("{} is too large", value.describe()), "at most \"1PiB\" makes sense"))
}

/// A size of at least one byte.
pub(crate) fn positive_size(value: &Value) -> Result<usize, Problem> {
    match size(value)? {
        0 => Err(Problem::new("can't be zero bytes", "write a size such as \"1MiB\"")),
        size => Ok(size),
    }
}

/// A whole number from zero on.
pub(crate) fn count(value: &Value) -> Result<usize, Problem> {
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
pub(crate) fn positive_count(value: &Value) -> Result<usize, Problem> {
    match count(value)? {
        0 => Err(wrong_type(value, "write 1 or more")),
        count => Ok(count),
    }
}

/// A file mode as `"0660"`, or as TOML's `0o660`.
pub(crate) fn mode(value: &Value) -> Result<u32, Problem> {
    let fix = "write it in quotes, as chmod takes it: \"0660\"";
    let mode = match value {
        Value::Text(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => u32::from_str_radix(text, 8).ok(),
        Value::Integer { number, octal: true } => u32::try_from(*number).ok(),
        _ => None,
    };
    mode.filter(|mode| *mode <= 0o777)
        .ok_or_else(|| Problem::new(format!("{} is not a file mode", value.describe()), fix))
}

/// A path, or `tcp://IP:PORT`.
pub(crate) fn address(value: &Value) -> Result<Address, Problem> {
    let text = text(value, "write a path or \"tcp://127.0.0.1:8888\" in quotes")?;
    text.parse().map_err(|error: AddressError| Problem::new(error.to_string(), ""))
}

/// An address as [`address`] takes it, or a list of several.
pub(crate) fn addresses(value: &Value) -> Result<Addresses, Problems> {
    if !matches!(value, Value::List(_)) {
        return Ok(address(value)?.into());
    }
    let mut others = list(value, address)?;
    if let Some((one, _)) = pairs(&others).find(|(one, other)| one.excludes(other)) {
        return Err(Problem::new(format!("{one} can't be listened on twice"), "write each address once").into());
    }
    if others.is_empty() {
        return Err(Problem::new("can't be an empty list", "write one address at least").into());
    }
    let first = others.remove(0);
    Ok(Addresses { first, others })
}

/// Each pair of two items.
fn pairs<T>(items: &[T]) -> impl Iterator<Item = (&T, &T)> {
    items.iter().enumerate().flat_map(|(index, one)| items[index + 1..].iter().map(move |other| (one, other)))
}

/// The name of a group that exists, or `None` for the empty text.
pub(crate) fn group_name(value: &Value) -> Result<Option<String>, Problem> {
    let name = plain_text(value)?;
    if name.is_empty() {
        return Ok(None);
    }
    match Group::from_name(&name) {
        Ok(Some(_)) => Ok(Some(name)),
        _ => Err(no_such("group", &name, "groupadd")),
    }
}

/// A path, or `None` for the empty text.
pub(crate) fn optional_path(value: &Value) -> Result<Option<PathBuf>, Problem> {
    let path = plain_text(value)?;
    if path.ends_with('/') {
        return Err(Problem::new(format!("{path:?} is a folder"), "write the path of a file"));
    }
    Ok(Some(path).filter(|path| !path.is_empty()).map(PathBuf::from))
}

/// The id of a user, by name or number.
pub(crate) fn user_id(value: &Value) -> Result<u32, Problem> {
    id(value, "user", "useradd", |name| User::from_name(name).ok().flatten().map(|user| user.uid.as_raw()))
}

/// The id of a group, by name or number.
pub(crate) fn group_id(value: &Value) -> Result<u32, Problem> {
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

/// The problem of a user or group that doesn't exist; `tool` makes one.
pub(crate) fn no_such(kind: &str, name: &str, tool: &str) -> Problem {
    let fix = format!("correct the name, or make the {kind} ({tool} --system {name})");
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c == '\'') {
        return Problem::new(format!("there is no {kind} {name:?}"), "correct the name");
    }
    Problem::new(format!("there is no {kind} {name:?} on this machine"), fix)
}
