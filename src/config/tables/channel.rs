//! `[[channel]]`, the only table that the file may have several times, with the checks between its tables. What follows from
//! them for one channel is decided by [`crate::config::ChannelRules`].

use std::time::Duration;

use crate::{
    config::{
        errors::Problem,
        reader::Reader,
        table::table,
        value::Value,
        values::{count, duration, flag, text},
    },
    name::ChannelName,
    pattern,
};

table! {
    /// `[[channel]]`: what holds for some channels. The first table whose `match` fits a channel's name counts.
    pub struct Channel from [[channel]] else "Rules for single channels. The file may have this table several times; the first one that matches a channel's name counts." {
        /// The channels: a name, or a pattern in which `*` stands for any characters.
        pub r#match: ChannelName = subscribable("*");
        /// Most events kept of each; `"history.messages"`: as that key says.
        pub messages: Option<usize> = own_count("history.messages");
        /// How long an event is kept; `"history.age"`: as that key says.
        pub age: Option<Duration> = own_duration("history.age");
        /// Since when events are kept: `"on-demand"` (since the first client, with Redis) or `"always"`.
        pub keep: Keep = keep("on-demand");
        /// Whether clients may read these channels by a pattern, such as `news.*`.
        pub patterns: bool = flag(false);
        /// Most events kept of a pattern that clients read, all its channels together.
        pub pattern_messages: usize = count(1000);
    }
}

/// Since when a channel's events are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Since its first client, where a source must be asked for it.
    OnDemand,
    /// Since the sources were connected.
    Always,
}

/// Checks that no table is useless because an earlier one matches all of its channels. `readers` are the tables' readers.
pub(in crate::config) fn check_order(channels: &[Channel], mut report: impl FnMut(usize, Problem)) {
    for (index, channel) in channels.iter().enumerate() {
        let covers = |earlier: &&Channel| pattern::matches(earlier.r#match.as_str(), channel.r#match.as_str());
        if let Some(earlier) = channels[..index].iter().find(covers) {
            let what = format!(
                "\"{}\" is never used: an earlier [[channel]] has \"{}\", which matches the same channels",
                channel.r#match, earlier.r#match
            );
            report(index, Problem::new(what, "put this table before that one, or remove one of them"));
        }
    }
}

/// Reports a table that is useless.
pub(in crate::config) fn refuse(reader: &mut Reader<'_>, problem: Problem) {
    reader.refuse(&["match"], problem);
}

/// A name or a pattern that clients can subscribe to.
fn subscribable(value: &Value) -> Result<ChannelName, Problem> {
    let fix = "write a channel's name, or a pattern such as \"news.*\"";
    let name = ChannelName::subscribable(text(value, fix)?).map_err(|error| Problem::new(error.to_string(), fix))?;
    if name.is_reserved() {
        let what = format!("\"{name}\" matches no channel: names that begin with __ or ssecast: are reserved");
        return Err(Problem::new(what, fix));
    }
    Ok(name)
}

/// A whole number, or `None` for the text `"history.messages"`.
fn own_count(value: &Value) -> Result<Option<usize>, Problem> {
    if matches!(value, Value::Text(text) if text == "history.messages") {
        return Ok(None);
    }
    count(value).map(Some)
}

/// A duration, or `None` for the text `"history.age"`.
fn own_duration(value: &Value) -> Result<Option<Duration>, Problem> {
    if matches!(value, Value::Text(text) if text == "history.age") {
        return Ok(None);
    }
    duration(value).map(Some)
}

fn keep(value: &Value) -> Result<Keep, Problem> {
    let fix = "write \"on-demand\" or \"always\"";
    match text(value, fix)? {
        "on-demand" => Ok(Keep::OnDemand),
        "always" => Ok(Keep::Always),
        other => Err(Problem::new(format!("{other:?} is not understood"), fix)),
    }
}
