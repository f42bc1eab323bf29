//! Errors of Redis as texts for people, and how long an answer is waited for. It does no I/O.

use std::time::Duration;

use redis::{ErrorKind, RedisError, ServerErrorKind};

use super::url::Address;

/// Longest wait for a connection to Redis: TCP, TLS and login together.
pub(in crate::source) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest wait for an answer of Redis.
pub(in crate::source) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

const NO_PASSWORD: &str = "Redis asks for a password: put one into the URL, redis://USER:PASSWORD@HOST";

/// Whether Redis has answered that its ACL does not allow the command.
pub(in crate::source) fn is_forbidden(error: &RedisError) -> bool {
    // A transaction gives the answers of its commands in its text alone.
    error.code() == Some("NOPERM") || error.code() == Some("EXECABORT") && error.to_string().contains("NoPerm")
}

/// Whether a node of a cluster answers that another one owns the slot, or that the slot is moving.
pub(in crate::source) fn has_moved(error: &RedisError) -> bool {
    use ServerErrorKind::{Ask, Moved, TryAgain};
    matches!(error.kind(), ErrorKind::Server(Moved | Ask | TryAgain))
}

/// An error of a connection that can't be relied on any more.
pub(in crate::source) fn broken(why: impl Into<String>) -> RedisError {
    (ErrorKind::Io, OWN, why.into()).into()
}

/// The error for a server that is older than ssecast needs. `needed`: the first version that will do.
pub(super) fn too_old(product: &str, address: &Address, needed: &str) -> RedisError {
    let why = format!("{product} at {address} is too old: ssecast needs Redis {needed} or later");
    (ErrorKind::RESP3NotSupported, OWN, why).into()
}

/// How errors that are made here begin. Their detail is the text for people: the library takes only a fixed text before it.
const OWN: &str = "ssecast";

/// Redis's error as a text for people. It says what to do, where that is known.
pub(in crate::source) fn explain(error: &RedisError) -> String {
    login_refused(error).unwrap_or_else(|| plain(error))
}

/// Why Redis refuses the login, or is refused, and would be again; `None` for any other error.
pub(in crate::source) fn login_refused(error: &RedisError) -> Option<String> {
    let why = match error.code() {
        Some("WRONGPASS") => "Redis does not take the user or the password of the URL (WRONGPASS)",
        Some("NOAUTH") => NO_PASSWORD,
        _ if error.kind() == ErrorKind::RESP3NotSupported => return Some(plain(error)),
        _ if error.to_string().contains("HELLO must be called with") => NO_PASSWORD,
        _ if error.to_string().contains("CertificateRequired") => {
            "Redis asks for a client certificate: set redis.cert_file and redis.key_file"
        }
        _ => return None,
    };
    Some(why.to_owned())
}

/// An error's text without the words that the library adds: the names of its types, and the index in a pipeline. Of several
/// errors, the first.
fn plain(error: &RedisError) -> String {
    let text = error.to_string();
    if let Some(detail) = error.detail().filter(|_| text.starts_with(OWN)) {
        return detail.to_owned();
    }
    let kind = format!(" - {:?}", error.kind());
    let (text, is_list) = match text.split_once("[(Index ").and_then(|(_, list)| list.split_once(", error: ")) {
        Some((_, list)) => (list.split("), (Index ").next().unwrap_or(list).trim_end_matches(")]").to_owned(), true),
        None => (text.replacen(&kind, "", 1), false),
    };
    // The server's errors begin with the name of their kind, without spaces.
    match text.split_once(": ") {
        Some((kind, detail)) if (is_list || error.code().is_some()) && !kind.contains(' ') => detail.to_owned(),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_no_words_of_the_library() {
        assert_eq!(explain(&broken("the connection was closed")), "the connection was closed");
        assert_eq!(explain(&broken("a: b")), "a: b");
        let old = too_old("Redis 5.0.14", &Address::Tcp("h".to_owned(), 1), "6.0");
        let words = "Redis 5.0.14 at h:1 is too old: ssecast needs Redis 6.0 or later";
        assert_eq!(login_refused(&old).unwrap(), words);
        let error = |text: &[u8]| match redis::parse_redis_value(text).unwrap() {
            redis::Value::ServerError(error) => RedisError::from(error),
            other => panic!("{other:?}"),
        };
        assert_eq!(explain(&error(b"-NOPERM User a has no permissions\r\n")), "User a has no permissions");
        assert_eq!(explain(&error(b"-MISCONF Redis is: broken\r\n")), "Redis is: broken");
        assert_eq!(explain(&error(b"-WRONGPASS no\r\n")), login_refused(&error(b"-WRONGPASS no\r\n")).unwrap());
        assert_eq!(explain(&error(b"-NOAUTH Authentication required.\r\n")), NO_PASSWORD);
        let refused = RedisError::from((redis::ErrorKind::Io, "no such host", "h: x".to_owned()));
        assert_eq!(explain(&refused), "no such host: h: x");
        let alert =
            RedisError::from((redis::ErrorKind::Io, "x", "received fatal alert: CertificateRequired".to_owned()));
        assert!(explain(&alert).contains("redis.cert_file"));
    }
}
