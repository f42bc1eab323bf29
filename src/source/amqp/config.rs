//! The table `[amqp]`: its keys and their checks. Files that it names are read here.

use std::time::Duration;

use lapin::{
    ExchangeKind,
    uri::{AMQPScheme, AMQPUri},
};

use crate::{
    config::{
        errors::Problem,
        table::table,
        value::Value,
        values::{flag, plain_text, positive_duration, text, wrong_type},
    },
    source::tls::{self, Certificates, PrivateKey, Secret, certificates, private_key, secret},
};

table! {
    /// `[amqp]`: a RabbitMQ, or another server of AMQP 0-9-1, that events come from.
    pub struct AmqpConfig from [amqp] else "Without this table, which may be empty, no events come from AMQP." {
        /// The server: `amqp://user:password@host:port/vhost`, or `amqps://` (TLS); see docs/amqp.md.
        pub url: String = amqp_url("amqp://127.0.0.1:5672");
        /// A file with the password of the URL's user, so that the URL needs none.
        pub password_file: Option<Secret> = secret("");
        /// A file with the certificate authorities (PEM) that may have signed the server's certificate; without it, the system's.
        pub ca_file: Option<Certificates> = certificates("");
        /// A file with the client's certificate (PEM) for TLS.
        pub cert_file: Option<Certificates> = certificates("");
        /// A file with the private key of `amqp.cert_file` (PEM, without a passphrase).
        pub key_file: Option<PrivateKey> = private_key("");
        /// The exchange that applications publish to, with the channel as routing key.
        pub exchange: String = exchange_name("sse-cyclone-server");
        /// Its type: `"direct"`, `"topic"` or `"fanout"`.
        pub exchange_type: ExchangeType = exchange_type("direct");
        /// Whether the exchange survives a restart of the server, if it is ssecast that makes it.
        pub exchange_durable: bool = flag(false);
        /// How long the server keeps the queue of a node that is not connected.
        pub queue_expiry: Duration = queue_expiry("5m");
    }
}

/// The keys that TLS needs.
pub(super) const KEYS: tls::Keys =
    tls::Keys { url: "amqp.url", ca_file: "amqp.ca_file", cert_file: "amqp.cert_file", key_file: "amqp.key_file" };

/// How an exchange gives messages to queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExchangeType {
    /// To those that are bound with the routing key.
    Direct,
    /// To those that are bound with a pattern that matches the routing key.
    Topic,
    /// To all.
    Fanout,
}

impl ExchangeType {
    pub(super) fn kind(self) -> ExchangeKind {
        match self {
            Self::Direct => ExchangeKind::Direct,
            Self::Topic => ExchangeKind::Topic,
            Self::Fanout => ExchangeKind::Fanout,
        }
    }
}

/// A URL as it is used.
pub(super) struct AmqpUrl {
    pub(super) uri: AMQPUri,
    pub(super) host: String,
    pub(super) has_password: bool,
}

impl AmqpUrl {
    /// Parses a URL; `None` if it is none. The text of an error could have a password.
    pub(super) fn parse(url: &str) -> Option<Self> {
        let (_, rest) = url.split_once("://")?;
        let authority = rest.split(['/', '?', '#']).next()?;
        let (user, address) = authority.rsplit_once('@').unwrap_or(("", authority));
        let uri: AMQPUri = url.parse().ok()?;
        // The library does not return IPv6 addresses.
        let host = match address.strip_prefix('[') {
            Some(address) => address.split(']').next()?.to_owned(),
            None => uri.authority.host.clone(),
        };
        if url.contains(['?', '#']) || host.is_empty() {
            return None;
        }
        Some(Self { uri, host, has_password: user.contains(':') })
    }

    pub(super) fn is_tls(&self) -> bool {
        self.uri.scheme == AMQPScheme::AMQPS
    }
}

impl AmqpConfig {
    /// The URL without user and password, for the log.
    #[must_use]
    pub fn address(&self) -> String {
        let Some((scheme, rest)) = self.url.split_once("://") else { return String::new() };
        let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        format!("{scheme}://{host}{path}")
    }
}

/// The URL of an AMQP server. Messages never repeat it: it may have a password.
fn amqp_url(value: &Value) -> Result<String, Problem> {
    let fix = "write \"amqp://[user[:password]@]host[:port][/vhost]\", or \"amqps://…\" for TLS; characters such as @ and / in a \
               password are written %40 and %2F";
    let url = text(value, fix)?;
    match AmqpUrl::parse(url) {
        Some(_) => Ok(url.to_owned()),
        None => Err(Problem::new("this is not the URL of an AMQP server", fix)),
    }
}

fn exchange_name(value: &Value) -> Result<String, Problem> {
    let name = plain_text(value)?;
    if name.is_empty() || name.len() > 255 {
        let what = format!("an exchange's name has 1 to 255 bytes, and this has {}", name.len());
        return Err(Problem::new(what, "write the name of the exchange that applications publish to"));
    }
    Ok(name)
}

fn exchange_type(value: &Value) -> Result<ExchangeType, Problem> {
    let fix = "write \"direct\", \"topic\" or \"fanout\"";
    match text(value, fix)? {
        "direct" => Ok(ExchangeType::Direct),
        "topic" => Ok(ExchangeType::Topic),
        "fanout" => Ok(ExchangeType::Fanout),
        _ => Err(wrong_type(value, fix)),
    }
}

/// A time that the server can count: milliseconds in 32 bits.
fn queue_expiry(value: &Value) -> Result<Duration, Problem> {
    let expiry = positive_duration(value)?;
    if !(Duration::from_secs(10)..=Duration::from_secs(24 * 86400)).contains(&expiry) {
        let what = format!("{} is too short or too long", value.describe());
        return Err(Problem::new(what, "write a time from \"10s\" to \"24days\""));
    }
    Ok(expiry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Config, source};

    fn parse(text: &str) -> Result<Config, Vec<String>> {
        Config::parse(text, "t.toml", source::TABLES).map_err(|errors| errors.lines().collect())
    }

    #[test]
    fn the_table_turns_amqp_on() {
        assert_eq!(parse("").unwrap().sources.get::<AmqpConfig>(), None);
        let config = parse("[amqp]").unwrap();
        let found: &AmqpConfig = config.sources.get().unwrap();
        assert_eq!(found, &AmqpConfig::default());
        assert_eq!((found.exchange.as_str(), found.exchange_type), ("sse-cyclone-server", ExchangeType::Direct));
    }

    /// One value a line, and what the error says.
    #[test]
    fn wrong_values_say_what_to_write() {
        for (line, words) in [
            (r#"amqp.url = "redis://h""#, "this is not the URL of an AMQP server; write \"amqp://"),
            (r#"amqp.url = "amqp://u:secret@h:x/""#, "this is not the URL of an AMQP server"),
            (r#"amqp.url = "amqp://h?heartbeat=1""#, "this is not the URL of an AMQP server"),
            (r#"amqp.url = """#, "this is not the URL of an AMQP server"),
            (r#"amqp.exchange = """#, "an exchange's name has 1 to 255 bytes"),
            (r#"amqp.exchange_type = "headers""#, "write \"direct\", \"topic\" or \"fanout\""),
            (r#"amqp.queue_expiry = "1s""#, "write a time from \"10s\""),
            (r#"amqp.password_file = "/nonexistent""#, "\"/nonexistent\" can't be read"),
            (r#"amqp.ca_file = "/dev/null""#, "\"/dev/null\" has no certificate"),
        ] {
            let found = parse(line).unwrap_err();
            assert!(
                found.len() == 1 && found[0].starts_with("t.toml:1: amqp.") && found[0].contains(words),
                "{line}: {found:#?}"
            );
            assert!(!found[0].contains("secret"), "{found:?}");
        }
    }

    #[test]
    fn urls_name_host_and_virtual_host() {
        for (url, host, port, vhost) in [
            ("amqp://h", "h", 5672, "/"),
            ("amqps://h/%2F", "h", 5671, "/"),
            ("amqp://u:p@127.0.0.1:1/site", "127.0.0.1", 1, "site"),
            ("amqp://[::1]:2/", "::1", 2, ""),
        ] {
            let AmqpUrl { uri, host: found, .. } = AmqpUrl::parse(url).unwrap();
            assert_eq!((found.as_str(), uri.authority.port, uri.vhost.as_str()), (host, port, vhost), "{url}");
        }
        let config = AmqpConfig { url: "amqp://u:p@h:1/v".to_owned(), ..AmqpConfig::default() };
        assert_eq!(config.address(), "amqp://h:1/v");
    }
}
