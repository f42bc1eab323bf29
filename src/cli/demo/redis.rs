//! Finds the demo's Redis: the one at `--redis-url`, or the one on the default address if it answers. Makes the redis-cli command
//! for it. Takes no events.

use std::time::Duration;

use anyhow::Context as _;
use redis::{Client, ErrorKind, RedisError};
use tokio::time::timeout;

use crate::{config::Config, source};

const DEFAULT_URL: &str = "redis://127.0.0.1:6379";
/// Longest wait for Redis to answer a ping.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Redis {
    /// The URL of the Redis to use. `None`: events come from the admin socket alone.
    pub(super) url: Option<String>,
    /// Why the Redis on the default address is not used.
    pub(super) remark: Option<String>,
}

/// Why a Redis is not used.
#[derive(Debug, thiserror::Error)]
enum NoAnswer {
    #[error("the connection is refused")]
    Refused,
    #[error("no answer within {} s", ANSWER_WITHIN.as_secs())]
    Late,
    #[error("it asks for a password: give it in the URL, redis://:PASSWORD@HOST")]
    NoPassword,
    #[error("it doesn't take this user and password")]
    WrongPassword,
    #[error("{0}")]
    Other(RedisError),
}

/// Looks for the Redis at `url`; without a URL, for the one on the default address unless `none` is true.
///
/// # Errors
/// The Redis at `url` doesn't answer or refuses this client. For the one on the default address that is only a remark.
pub(super) async fn find(url: Option<&str>, none: bool) -> anyhow::Result<Redis> {
    if let Some(url) = url {
        check(url)?;
        ping(url).await.context("the Redis at --redis-url can't be used")?;
        return Ok(Redis { url: Some(url.to_owned()), remark: None });
    }
    if none {
        return Ok(Redis::default());
    }
    Ok(match ping(DEFAULT_URL).await {
        Ok(()) => Redis { url: Some(DEFAULT_URL.to_owned()), remark: None },
        Err(NoAnswer::Refused) => Redis::default(),
        Err(error) => {
            let error = error.to_string();
            let error = error.trim_end_matches('.');
            let remark = format!("the Redis on 127.0.0.1:6379 is not used: {error}. Name it with --redis-url");
            Redis { url: None, remark: Some(remark) }
        }
    })
}

impl NoAnswer {
    fn of(error: RedisError) -> Self {
        let text = error.to_string();
        // HELLO is the first command of a connection. A Redis with a password refuses it in words that don't mention the password.
        if text.contains("NOAUTH") || text.contains("HELLO must be called") {
            Self::NoPassword
        } else if error.kind() == ErrorKind::AuthenticationFailed || text.contains("WRONGPASS") {
            Self::WrongPassword
        } else {
            Self::Other(error)
        }
    }
}

/// Checks a URL as the configuration does.
fn check(url: &str) -> anyhow::Result<()> {
    // A JSON string is a TOML string with the same value.
    let document = format!("redis.url = {}", serde_json::json!(url));
    let Err(errors) = Config::parse(&document, "--redis-url", source::TABLES) else {
        let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
        let is_plain = matches!(scheme, "redis" | "redis+unix" | "unix");
        anyhow::ensure!(
            is_plain,
            "--redis-url: the demo reaches one Redis without TLS: write redis:// or redis+unix://"
        );
        return Ok(());
    };
    let errors = errors.to_string();
    let problem = errors.split_once("redis.url: ").map_or(errors.as_str(), |(_, problem)| problem);
    anyhow::bail!("--redis-url: {}", problem.trim_end())
}

async fn ping(url: &str) -> Result<(), NoAnswer> {
    let client = Client::open(url).map_err(NoAnswer::Other)?;
    let answered = timeout(ANSWER_WITHIN, async {
        let mut redis = client.get_multiplexed_async_connection().await?;
        redis::cmd("PING").query_async::<()>(&mut redis).await
    });
    match answered.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) if error.is_connection_refusal() => Err(NoAnswer::Refused),
        Ok(Err(error)) => Err(NoAnswer::of(error)),
        Err(_) => Err(NoAnswer::Late),
    }
}

/// redis-cli with the options that connect it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Command {
    /// The command line, without a Redis command.
    pub(super) text: String,
    /// Whether there is a password in it.
    pub(super) secret: bool,
}

/// redis-cli for the Redis at `url`.
pub(super) fn command(url: &str) -> Command {
    if url == DEFAULT_URL {
        return Command { text: "redis-cli".to_owned(), secret: false };
    }
    let secret = url.contains('@') || url.contains("pass=");
    let options = match url.split_once("://") {
        Some(("unix" | "redis+unix" | "valkey+unix", path)) => unix_options(path),
        // For `redis://:PASSWORD@`, redis-cli would send an empty user name, which Redis refuses.
        _ => format!("-u {}", quoted(&url.replacen("://:", "://default:", 1))),
    };
    Command { text: format!("redis-cli {options}"), secret }
}

/// redis-cli accepts no URL of a Unix socket, but has an option for each of its parts.
fn unix_options(path: &str) -> String {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let mut options = format!("-s {}", quoted(path));
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let option = match &*name {
            "db" => "-n",
            "user" => "--user",
            "pass" => "--no-auth-warning -a",
            _ => continue,
        };
        options.push_str(&format!(" {option} {}", quoted(&value)));
    }
    options
}

/// `word`, quoted for a POSIX shell.
fn quoted(word: &str) -> String {
    let plain = |char: char| char.is_ascii_alphanumeric() || "/._-:=+,".contains(char);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_url_gives_its_redis_cli_command() {
        let line = |url| command(url).text;
        assert_eq!(line(DEFAULT_URL), "redis-cli");
        assert_eq!(line("redis://h:1/2"), "redis-cli -u redis://h:1/2");
        assert_eq!(line("redis://u:it's@h"), r"redis-cli -u 'redis://u:it'\''s@h'");
        assert_eq!(line("redis://:p@h"), "redis-cli -u 'redis://default:p@h'");
        assert_eq!(line("redis+unix:///a b.sock?db=2"), "redis-cli -s '/a b.sock' -n 2");
        assert_eq!(
            line("unix:///r.sock?pass=p%20w&user=u"),
            "redis-cli -s /r.sock --no-auth-warning -a 'p w' --user u"
        );
    }

    #[test]
    fn a_command_with_a_password_is_secret() {
        assert!(command("redis://:p@h").secret);
        assert!(command("redis+unix:///r?pass=p").secret);
        assert!(!command("redis+unix:///r?db=1").secret);
    }
}
