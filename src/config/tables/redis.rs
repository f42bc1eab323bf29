//! `[redis]`.

use redis::IntoConnectionInfo as _;

use crate::config::{
    errors::Problem,
    raw::Value,
    table::table,
    values::{plain_text, text},
};

table! {
    /// `[redis]`: where events come from, and publishes go to.
    pub struct Redis from [redis] else "Without this table, which may be empty, events come from the admin socket alone." {
        /// The Redis server: this, or a socket such as `"redis+unix:///run/redis/redis.sock?db=1"`.
        pub url: String = redis_url("redis://127.0.0.1:6379");
        /// Put before a channel's name to make the name in Redis.
        pub prefix: String = plain_text("");
    }
}

impl Redis {
    /// The URL without user, password and options, for the log.
    #[must_use]
    pub fn address(&self) -> String {
        let url = self.url.split_once('?').map_or(self.url.as_str(), |(url, _)| url);
        let Some((scheme, rest)) = url.split_once("://") else { return String::new() };
        let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        // A password may have an @ of its own.
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        format!("{scheme}://{host}{path}")
    }
}

/// The URL of a Redis. Messages never repeat it: it may have a password.
fn redis_url(value: &Value) -> Result<String, Problem> {
    let fix = "write \"redis://[user[:password]@]host[:port][/db]\" or \"redis+unix:///path[?db=N&user=U&pass=P]\"";
    let url = text(value, fix)?;
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    match scheme {
        "redis" | "redis+unix" | "unix" => {}
        "rediss" => {
            let fix = "use \"redis://\" inside a private network, or a TLS tunnel such as stunnel";
            return Err(Problem::new("Redis over TLS (rediss://) is not compiled in", fix));
        }
        _ => return Err(Problem::new("this is not the URL of a Redis", fix)),
    }
    match url.into_connection_info() {
        Ok(_) => Ok(url.to_owned()),
        Err(error) => {
            // What follows the dash is the kind of error, and may repeat what was written.
            let error = error.to_string();
            let why = error.split(['-', ':']).next().unwrap_or_default().trim();
            Err(Problem::new(format!("this is not the URL of a Redis ({why})"), fix))
        }
    }
}
