//! Where the demo's events come from beside the admin socket: the Redis that was asked for, or one that happens to be there.

use std::time::Duration;

use anyhow::Context as _;
use redis::{Client, RedisError};
use tokio::time::timeout;

use super::lines::Line;

const DEFAULT_URL: &str = "redis://127.0.0.1:6379";
/// A Redis on this machine answers in far less, one elsewhere in less.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Source {
    /// The Redis; none: the admin socket alone.
    pub(super) url: Option<String>,
    /// Why the Redis that is there is not the source.
    pub(super) remark: Option<String>,
}

/// Why a Redis is not the source.
#[derive(Debug, thiserror::Error)]
enum NoAnswer {
    #[error("the connection is refused")]
    Refused,
    #[error("no answer within {} s", ANSWER_WITHIN.as_secs())]
    Late,
    #[error("{0}")]
    Other(RedisError),
}

/// Looks for the source: `url`, or the Redis on the default address unless `embedded`.
///
/// # Errors
/// The Redis that was asked for doesn't answer. One that nobody asked for may do as it likes.
pub(super) async fn find(url: Option<&str>, embedded: bool) -> anyhow::Result<Source> {
    if let Some(url) = url {
        ping(url).await.context("there is no Redis at --redis-url")?;
        return Ok(Source { url: Some(url.to_owned()), remark: None });
    }
    if embedded {
        return Ok(Source::default());
    }
    Ok(match ping(DEFAULT_URL).await {
        Ok(()) => Source { url: Some(DEFAULT_URL.to_owned()), remark: None },
        Err(NoAnswer::Refused) => Source::default(),
        Err(error) => {
            let error = error.to_string();
            let error = error.trim_end_matches('.');
            let remark = format!("the Redis on 127.0.0.1:6379 is not used: {error}. Give it with --redis-url");
            Source { url: None, remark: Some(remark) }
        }
    })
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
        Ok(Err(error)) => Err(NoAnswer::Other(error)),
        Err(_) => Err(NoAnswer::Late),
    }
}

/// The line that publishes on `demo` with redis-cli, for this URL.
pub(super) fn redis_cli(url: &str) -> Line {
    let what = "Publish with redis-cli";
    if url == DEFAULT_URL {
        return Line { what, text: "redis-cli publish demo 'hello from Redis'".to_owned(), secret: false };
    }
    let secret = url.contains('@') || url.contains("pass=");
    let options = match url.split_once("://") {
        Some(("unix" | "redis+unix" | "valkey+unix", path)) => unix_options(path),
        // redis-cli sends an empty user's name, which no Redis knows.
        _ => format!("-u {}", quoted(&url.replacen("://:", "://default:", 1))),
    };
    Line { what, text: format!("redis-cli {options} publish demo 'hello from Redis'"), secret }
}

/// redis-cli takes no URL of a Unix socket, but has an option for each part.
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

/// A word for a POSIX shell.
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
    fn every_url_has_its_redis_cli() {
        let line = |url| redis_cli(url).text.replace(" publish demo 'hello from Redis'", "");
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
    fn a_password_is_known_as_one() {
        assert!(redis_cli("redis://:p@h").secret);
        assert!(redis_cli("redis+unix:///r?pass=p").secret);
        assert!(!redis_cli("redis+unix:///r?db=1").secret);
    }
}
