//! `[stream]`.

use std::time::Duration;

use crate::config::{
    duration_range::DurationRange,
    errors::{Problem, Problems},
    table::table,
    value::Value,
    values::{duration, duration_range, flag, list, optional_duration, positive_count, positive_duration, text},
};

table! {
    /// `[stream]`: what a client gets.
    pub struct Stream from [stream] {
        /// Silence after which a client gets a `ssecast.ping` event.
        pub ping_interval: Duration = positive_duration("20s");
        /// How long clients wait before they reconnect, picked at random for each.
        pub retry: DurationRange = duration_range("1s..4s");
        /// Streams end after 80 to 100 % of it, to spread load; `"0s"` is never.
        pub max_lifetime: Option<Duration> = optional_duration("0s");
        /// Most clients at a time; the next one gets a 503.
        pub max_clients: usize = positive_count(100000);
        /// Most channels in one request; more is a 400.
        pub max_channels_per_client: usize = positive_count(64);
        /// How long events are gathered to be sent together, at most `"1s"`; `"0ms"`: not at all.
        pub coalesce: Duration = window("0ms");
        /// Compress streams once for all clients that accept gzip.
        pub gzip: bool = flag(false);
        /// Other origins whose pages may read streams: `"https://www.example.com"`, or `"*"`.
        pub allow_origins: Vec<String> = origins([]);
    }
}

/// A duration of at most a second.
fn window(value: &Value) -> Result<Duration, Problem> {
    let duration = duration(value)?;
    if duration > Duration::from_secs(1) {
        let fix = "every event waits this long; write \"1s\" or less, such as \"20ms\"";
        return Err(Problem::new(format!("{} is too long", value.describe()), fix));
    }
    Ok(duration)
}

fn origins(value: &Value) -> Result<Vec<String>, Problems> {
    list(value, origin)
}

/// An origin as browsers send it: scheme, host and port, or `*`.
fn origin(value: &Value) -> Result<String, Problem> {
    let fix = "write it as browsers send it, in lower case and without a path: \"https://www.example.com\", or \"*\"";
    let origin = text(value, fix)?;
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
    Err(Problem::new(format!("{origin:?} is not an origin"), fix))
}
