//! URLs of a Redis, a Redis behind Sentinel, and a Redis Cluster. It opens no connection.

use std::{fmt, path::PathBuf};

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisError};

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::source) enum Address {
    /// A host's name or IP address, and a port.
    Tcp(String, u16),
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// How the servers of a URL belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::source) enum Topology {
    /// One server.
    Single(Address),
    /// Sentinels, which know the address of the primary with this name.
    Sentinel {
        /// At least one.
        sentinels: Vec<Address>,
        /// The primary's name in Sentinel's configuration.
        primary: String,
    },
    /// Nodes of a cluster, at least one. They know the others.
    Cluster(Vec<Address>),
}

/// A URL that has been parsed. Its user and password are those of Redis, not of Sentinel.
#[derive(Debug, Clone)]
pub(in crate::source) struct RedisUrl {
    /// Its servers.
    pub(in crate::source) topology: Topology,
    /// Whether all connections use TLS.
    pub(in crate::source) tls: bool,
    /// User, password and database. It prints no password.
    pub(in crate::source) login: redis::RedisConnectionInfo,
}

/// Why a text is not the URL of a Redis. It never repeats the text, which may have a password.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::source) enum UrlError {
    /// The scheme is none of those that are known.
    #[error("this is not the URL of a Redis")]
    Scheme,
    /// The client library does not take it.
    #[error("this is not the URL of a Redis ({0})")]
    Library(String),
    /// TLS without a check of the certificate is not offered.
    #[error("this is not the URL of a Redis (# is not allowed: certificates are always checked)")]
    Fragment,
    /// `redis+sentinel://` without the primary's name.
    #[error("this URL of Sentinel lacks the primary's name")]
    NoName,
    /// The name has characters that Sentinel does not allow.
    #[error("a primary's name in Sentinel has letters, digits, dots, dashes and underscores only")]
    Name,
    /// A cluster has one database.
    #[error("a Redis Cluster has no databases but 0")]
    Database,
    /// Options after `?`.
    #[error("a URL with several hosts takes no options after \"?\"")]
    Options,
}

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

impl RedisUrl {
    /// Parses a URL.
    ///
    /// # Errors
    /// [`UrlError`]: what is wrong with it.
    pub(in crate::source) fn parse(url: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = url.split_once("://").ok_or(UrlError::Scheme)?;
        let tls = scheme.starts_with("rediss");
        if tls && rest.contains('#') {
            return Err(UrlError::Fragment);
        }
        match scheme {
            "redis" | "redis+unix" | "unix" => Self::of_library(url, false),
            "rediss" => Self::of_library(&format!("redis://{rest}"), true),
            "redis+sentinel" | "rediss+sentinel" => {
                let Hosts { user, hosts, path } = Hosts::split(rest)?;
                let (primary, database) = path.split_once('/').unwrap_or((path, ""));
                if primary.is_empty() {
                    return Err(UrlError::NoName);
                }
                if !primary.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c)) {
                    return Err(UrlError::Name);
                }
                let (sentinels, login) = each_host(user, &hosts, SENTINEL_PORT, database)?;
                Ok(Self { topology: Topology::Sentinel { sentinels, primary: primary.to_owned() }, tls, login })
            }
            "redis+cluster" | "rediss+cluster" => {
                let Hosts { user, hosts, path } = Hosts::split(rest)?;
                if !matches!(path, "" | "0") {
                    return Err(UrlError::Database);
                }
                let (nodes, login) = each_host(user, &hosts, REDIS_PORT, "")?;
                Ok(Self { topology: Topology::Cluster(nodes), tls, login })
            }
            _ => Err(UrlError::Scheme),
        }
    }

    fn of_library(url: &str, tls: bool) -> Result<Self, UrlError> {
        let info = parse_one(url)?;
        let login = info.redis_settings().clone();
        Ok(Self { topology: Topology::Single(address(&info)?), tls, login })
    }
}

/// The parts of a URL with several hosts, after its scheme.
struct Hosts<'u> {
    /// `user:password@`, or nothing.
    user: &'u str,
    hosts: Vec<&'u str>,
    /// Without the slash at its beginning.
    path: &'u str,
}

impl<'u> Hosts<'u> {
    fn split(rest: &'u str) -> Result<Self, UrlError> {
        if rest.contains('?') {
            return Err(UrlError::Options);
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        // A password may have an @ of its own.
        let (user, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
        Ok(Self { user, hosts: hosts.split(',').map(str::trim).collect(), path: path.trim_end_matches('/') })
    }
}

/// The address of each host, and the login, which is the same for all.
fn each_host(
    user: &str,
    hosts: &[&str],
    port: u16,
    database: &str,
) -> Result<(Vec<Address>, redis::RedisConnectionInfo), UrlError> {
    let mut addresses = Vec::new();
    let mut login = redis::RedisConnectionInfo::default();
    for host in hosts {
        // The colons of an IPv6 address are in brackets.
        let has_port = host.rsplit_once(']').map_or(*host, |(_, rest)| rest).contains(':');
        let port = if has_port { String::new() } else { format!(":{port}") };
        let info = parse_one(&format!("redis://{user}{host}{port}/{database}"))?;
        addresses.push(address(&info)?);
        login = info.redis_settings().clone();
    }
    Ok((addresses, login))
}

fn parse_one(url: &str) -> Result<ConnectionInfo, UrlError> {
    url.into_connection_info().map_err(|error: RedisError| {
        // The text after the dash is the kind of error, and may repeat the URL with its password.
        let error = error.to_string();
        UrlError::Library(error.split(['-', ':']).next().unwrap_or_default().trim().to_owned())
    })
}

fn address(info: &ConnectionInfo) -> Result<Address, UrlError> {
    match info.addr() {
        ConnectionAddr::Tcp(host, port) => Ok(Address::Tcp(host.clone(), *port)),
        ConnectionAddr::Unix(path) => Ok(Address::Unix(path.clone())),
        _ => Err(UrlError::Scheme),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp(host.to_owned(), port)
    }

    #[test]
    fn a_single_server_is_reached_by_tcp_tls_or_a_unix_socket() {
        for (url, address, tls) in [
            ("redis://h", tcp("h", 6379), false),
            ("redis://u:p@h:6380/2", tcp("h", 6380), false),
            ("rediss://h:6380", tcp("h", 6380), true),
            ("rediss://[::1]:6380", tcp("::1", 6380), true),
            ("redis+unix:///run/redis.sock?db=2", Address::Unix("/run/redis.sock".into()), false),
            ("unix:///run/redis.sock", Address::Unix("/run/redis.sock".into()), false),
        ] {
            let parsed = RedisUrl::parse(url).unwrap();
            assert_eq!((parsed.topology, parsed.tls), (Topology::Single(address), tls), "{url}");
        }
    }

    #[test]
    fn sentinels_and_clusters_have_several_hosts() {
        let url = RedisUrl::parse("redis+sentinel://u:p%40s@a:1,b,[::1]/main/3").unwrap();
        let sentinels = vec![tcp("a", 1), tcp("b", 26379), tcp("::1", 26379)];
        assert_eq!(url.topology, Topology::Sentinel { sentinels, primary: "main".to_owned() });
        assert_eq!((url.login.username(), url.login.password(), url.login.db()), (Some("u"), Some("p@s"), 3));
        assert!(!url.tls && RedisUrl::parse("rediss+sentinel://a/m").unwrap().tls);
        let url = RedisUrl::parse("rediss+cluster://:p@a:1,b/").unwrap();
        assert_eq!(url.topology, Topology::Cluster(vec![tcp("a", 1), tcp("b", 6379)]));
        assert_eq!((url.login.username(), url.login.password(), url.tls), (None, Some("p"), true));
    }

    #[test]
    fn a_wrong_url_is_refused_without_being_repeated() {
        for (url, error) in [
            ("h:6379", UrlError::Scheme),
            ("http://h", UrlError::Scheme),
            ("rediss://h/#insecure", UrlError::Fragment),
            ("redis+sentinel://a:1", UrlError::NoName),
            ("redis+sentinel://a:1/", UrlError::NoName),
            ("redis+sentinel://a:1/na%20me", UrlError::Name),
            ("redis+sentinel://a/m?x=1", UrlError::Options),
            ("redis+cluster://a/1", UrlError::Database),
        ] {
            assert_eq!(RedisUrl::parse(url).unwrap_err(), error, "{url}");
        }
        for url in ["redis://u:secret@h/x", "redis://h:x", "redis+sentinel://u:secret@a,/m", "redis+cluster://secret:x"]
        {
            let error = RedisUrl::parse(url).unwrap_err();
            assert!(matches!(error, UrlError::Library(_)) && !error.to_string().contains("secret"), "{url}: {error}");
        }
    }

    #[test]
    fn addresses_are_written_as_in_a_url() {
        let texts = [tcp("h", 1), tcp("::1", 2), Address::Unix("/r".into())].map(|address| address.to_string());
        assert_eq!(texts, ["h:1", "[::1]:2", "/r"]);
    }
}
