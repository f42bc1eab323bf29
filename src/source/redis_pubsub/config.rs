//! The table `[redis]`: its keys and their checks.

use redis::IntoConnectionInfo as _;

use crate::config::{
    errors::Problem,
    table::table,
    value::Value,
    values::{plain_text, text},
};

table! {
    /// `[redis]`: where events come from, and publishes go to.
    pub struct RedisConfig from [redis] else "Without this table, which may be empty, events come from the admin socket alone." {
        /// The Redis server: this, or a socket such as `"redis+unix:///run/redis/redis.sock?db=1"`.
        pub url: String = redis_url("redis://127.0.0.1:6379");
        /// Put before a channel's name to make the name in Redis.
        pub prefix: String = plain_text("");
    }
}

impl RedisConfig {
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
            // The text after the dash is the kind of error, and may repeat the URL with its password.
            let error = error.to_string();
            let why = error.split(['-', ':']).next().unwrap_or_default().trim();
            Err(Problem::new(format!("this is not the URL of a Redis ({why})"), fix))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Config, source};

    fn parse(text: &str) -> Result<Config, Vec<String>> {
        Config::parse(text, "t.toml", source::TABLES).map_err(|errors| errors.lines().collect())
    }

    #[test]
    fn the_table_turns_redis_on() {
        assert_eq!(parse("").unwrap().sources.get::<RedisConfig>(), None);
        assert_eq!(parse("[redis]").unwrap().sources.get(), Some(&RedisConfig::default()));
        let config = parse("[redis]\nurl = \"redis+unix:///run/redis.sock?db=2\"\nprefix = \"site:\"").unwrap();
        let expected = RedisConfig { url: "redis+unix:///run/redis.sock?db=2".into(), prefix: "site:".into() };
        assert_eq!(config.sources.get(), Some(&expected));
    }

    /// One value a line, and what the error says.
    #[test]
    fn wrong_values_say_what_to_write() {
        for (line, words) in [
            (r#"redis.url = "rediss://h""#, "Redis over TLS (rediss://) is not compiled in"),
            (r#"redis.url = "h:6379""#, "this is not the URL of a Redis; write \"redis://"),
            (r#"redis.url = "redis://h:x""#, "this is not the URL of a Redis"),
            (r#"redis.url = "redis://u:secret@h/x""#, "not the URL of a Redis (Invalid database number); write"),
            (r#"redis.url = """#, "this is not the URL of a Redis"),
            ("redis.url = 1.5", "can't be the number 1.5; write \"redis://"),
            ("redis.prefix = 1.5", "can't be the number 1.5; write a text in quotes"),
            (r#"redis.prefix = "a\n""#, "control character"),
        ] {
            let found = parse(line).unwrap_err();
            assert!(
                found.len() == 1 && found[0].starts_with("t.toml:1: redis.") && found[0].contains(words),
                "{line}: {found:#?}"
            );
            assert!(!found[0].contains("secret"), "{found:?}");
        }
    }

    #[test]
    fn the_address_of_redis_has_no_password() {
        for (url, address) in [
            ("redis://h", "redis://h"),
            ("redis://u:p@h:6380/2", "redis://h:6380/2"),
            ("redis://:p@ss@h/", "redis://h/"),
            ("redis+unix:///run/redis.sock?db=2&pass=p", "redis+unix:///run/redis.sock"),
        ] {
            assert_eq!(RedisConfig { url: url.into(), prefix: String::new() }.address(), address);
        }
    }
}
