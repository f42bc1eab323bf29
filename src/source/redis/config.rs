//! The table `[redis]`: its keys and their checks. Files that it names are read here.

use super::url::{RedisUrl, UrlError};
use crate::{
    config::{
        errors::{Problem, Problems},
        table::table,
        value::Value,
        values::{count, flag, list, plain_text, text, wrong_type},
    },
    cursor::MOST_JOURNALS,
    source::tls::{Certificates, PrivateKey, Secret, certificates, private_key, secret},
};

table! {
    /// `[redis]`: where events come from, and publishes go to.
    pub struct RedisConfig from [redis] else "Without this table, which may be empty, events come from the admin socket alone." {
        /// The Redis server: `redis://`, `rediss://` (TLS), `redis+unix://`, `redis+sentinel://` or `redis+cluster://`; see docs/redis.md.
        pub url: String = redis_url("redis://127.0.0.1:6379");
        /// A file with the password of the URL's user, so that the URL needs none.
        pub password_file: Option<Secret> = secret("");
        /// A file with the certificate authorities (PEM) that may have signed Redis's certificate; without it, the system's.
        pub ca_file: Option<Certificates> = certificates("");
        /// A file with the client's certificate (PEM) for TLS.
        pub cert_file: Option<Certificates> = certificates("");
        /// A file with the private key of `redis.cert_file` (PEM, without a passphrase).
        pub key_file: Option<PrivateKey> = private_key("");
        /// Sentinel's own user, if it has users; the URL's user is that of Redis.
        pub sentinel_user: String = plain_text("");
        /// A file with Sentinel's own password, if it has one.
        pub sentinel_password_file: Option<Secret> = secret("");
        /// In a cluster of Redis 7.0 or later: SSUBSCRIBE and SPUBLISH, of which only the channel's node knows. `false`: SUBSCRIBE and PUBLISH.
        pub sharded: bool = flag(true);
        /// Put before a channel's name to make the name in Redis.
        pub prefix: String = plain_text("");
        /// Streams that keep every event (a journal): a key such as `"ssecast"`, or a list of at most four; see docs/sources.md.
        pub journal: Vec<String> = journals([]);
        /// Whether what is published with PUBLISH is delivered: `true`, `false`, or `"auto"`, which is `true` if there is no journal.
        pub pubsub: Option<bool> = pubsub("auto");
        /// About how many entries of each stream a publish on the admin socket leaves; `0`: all.
        pub journal_maxlen: usize = count(100_000);
    }
}

impl RedisConfig {
    /// Whether Redis's pub/sub is a source.
    #[must_use]
    pub fn reads_pubsub(&self) -> bool {
        self.pubsub.unwrap_or(self.journal.is_empty())
    }

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
    let fix = "write \"redis://[user[:password]@]host[:port][/db]\", \"rediss://…\" for TLS, \
               \"redis+unix:///path[?db=N&user=U&pass=P]\", \"redis+sentinel://[user:password@]host[:port],…/name[/db]\" or \
               \"redis+cluster://[user:password@]host[:port],…\"";
    let url = text(value, fix)?;
    match RedisUrl::parse(url) {
        Ok(_) => Ok(url.to_owned()),
        Err(error @ UrlError::NoName) => Err(Problem::new(
            error.to_string(),
            "write it after the hosts, as in \"redis+sentinel://host:26379/mymaster\"",
        )),
        Err(error) => Err(Problem::new(error.to_string(), fix)),
    }
}

/// The key of a stream, or a list of keys. An empty text or list is none.
fn journals(value: &Value) -> Result<Vec<String>, Problems> {
    if let Value::Text(_) = value {
        let key = plain_text(value)?;
        return Ok(Some(key).filter(|key| !key.is_empty()).into_iter().collect());
    }
    let keys = list(value, |key| match plain_text(key)? {
        empty if empty.is_empty() => Err(Problem::new("a stream's key is empty", "write a key such as \"ssecast\"")),
        key => Ok(key),
    })?;
    if keys.len() > MOST_JOURNALS {
        let why = format!("{} journals are too many: an event's id has room for {MOST_JOURNALS}", keys.len());
        return Err(Problem::new(why, format!("write {MOST_JOURNALS} or fewer")).into());
    }
    let mut sorted = keys.clone();
    sorted.sort();
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Problem::new(format!("{:?} stands there twice", pair[0]), "write each stream once").into());
    }
    Ok(keys)
}

/// `true` or `false`; `None` for `"auto"`.
fn pubsub(value: &Value) -> Result<Option<bool>, Problem> {
    match value {
        Value::Boolean(boolean) => Ok(Some(*boolean)),
        Value::Text(text) if text == "auto" => Ok(None),
        _ => Err(wrong_type(value, "write true or false without quotes, or \"auto\"")),
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
        let url = "redis+unix:///run/redis.sock?db=2".into();
        let expected = RedisConfig { url, prefix: "site:".into(), ..RedisConfig::default() };
        assert_eq!(config.sources.get(), Some(&expected));
    }

    /// One value a line, and what the error says.
    #[test]
    fn wrong_values_say_what_to_write() {
        for (line, words) in [
            (r#"redis.url = "redis+sentinel://h""#, "lacks the primary's name; write it after the hosts"),
            (r#"redis.password_file = "/nonexistent""#, "\"/nonexistent\" can't be read (No such file or directory)"),
            (r#"redis.ca_file = "/nonexistent""#, "\"/nonexistent\" can't be read"),
            (r#"redis.cert_file = "/dev/null""#, "\"/dev/null\" has no certificate; write"),
            (r#"redis.key_file = "/dev/null""#, "\"/dev/null\" has no private key"),
            (r#"redis.sentinel_password_file = "/dev/null""#, "\"/dev/null\" has no password; write it"),
            (r#"redis.url = "h:6379""#, "this is not the URL of a Redis; write \"redis://"),
            (r#"redis.url = "redis://h:x""#, "this is not the URL of a Redis"),
            (r#"redis.url = "redis://u:secret@h/x""#, "not the URL of a Redis (Invalid database number); write"),
            (r#"redis.url = """#, "this is not the URL of a Redis"),
            ("redis.url = 1.5", "can't be the number 1.5; write \"redis://"),
            ("redis.prefix = 1.5", "can't be the number 1.5; write a text in quotes"),
            (r#"redis.prefix = "a\n""#, "control character"),
            ("redis.journal = 1.5", "can't be the number 1.5; write"),
            (r#"redis.journal = ["a", ""]"#, "a stream's key is empty; write a key such as"),
            (r#"redis.journal = ["a", "b", "a"]"#, "\"a\" stands there twice; write each stream once"),
            (
                r#"redis.journal = ["1", "2", "3", "4", "5"]"#,
                "5 journals are too many: an event's id has room for 4; write 4 or fewer",
            ),
            ("redis.pubsub = \"no\"", "can't be \"no\"; write true or false without quotes, or \"auto\""),
            ("redis.journal_maxlen = -1", "can't be the number -1"),
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
    fn a_journal_is_a_key_or_a_list_of_keys() {
        let keys = |text: &str| parse(text).unwrap().sources.get::<RedisConfig>().unwrap().journal.clone();
        assert_eq!(keys("redis.journal = \"ssecast\""), ["ssecast"]);
        assert_eq!(keys("redis.journal = [\"s:{0}\", \"s:{1}\"]"), ["s:{0}", "s:{1}"]);
        for none in ["[redis]", "redis.journal = \"\"", "redis.journal = []"] {
            assert_eq!(keys(none), [""; 0], "{none}");
        }
    }

    #[test]
    fn the_address_of_redis_has_no_password() {
        for (url, address) in [
            ("redis://h", "redis://h"),
            ("redis://u:p@h:6380/2", "redis://h:6380/2"),
            ("redis://:p@ss@h/", "redis://h/"),
            ("redis+unix:///run/redis.sock?db=2&pass=p", "redis+unix:///run/redis.sock"),
            ("redis+sentinel://u:p@a:1,b:2/main", "redis+sentinel://a:1,b:2/main"),
        ] {
            assert_eq!(RedisConfig { url: url.into(), ..RedisConfig::default() }.address(), address);
        }
    }
}
