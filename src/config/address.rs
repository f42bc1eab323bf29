//! Parses the address of a socket: a path, or `tcp://IP:PORT`; one, or several. Opens nothing.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

/// The address of a socket to listen on or to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP socket.
    Tcp(SocketAddr),
}

/// The addresses of a socket that listens at several places: one at least, and no two that exclude each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// The one that subcommands connect to.
    pub first: Address,
    /// The others.
    pub others: Vec<Address>,
}

impl Addresses {
    /// All of them, the first one first.
    pub fn iter(&self) -> impl Iterator<Item = &Address> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

impl From<Address> for Addresses {
    fn from(first: Address) -> Self {
        Self { first, others: Vec::new() }
    }
}

impl Address {
    /// Whether the two can't be listened on at the same time. Port 0 is a free port each time.
    #[must_use]
    pub fn excludes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unix(one), Self::Unix(other)) => one == other,
            (Self::Tcp(one), Self::Tcp(other)) => {
                let any = one.ip().is_unspecified() || other.ip().is_unspecified();
                one.port() != 0 && one.port() == other.port() && (any || one.ip() == other.ip())
            }
            _ => false,
        }
    }
}

/// Longest path of a Unix socket, in bytes: `sun_path` without its final NUL, unix(7).
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// Why a text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The text is empty.
    #[error("is empty; write a path or \"tcp://127.0.0.1:8888\"")]
    Empty,
    /// The text after `tcp://` is not an IP address with a port.
    #[error("{0:?} has no IP address with a port; write \"tcp://127.0.0.1:8888\" or \"tcp://[::1]:8888\"")]
    NotTcp(String),
    /// It has a scheme other than `tcp://`.
    #[error("{0:?} is neither a path nor a TCP address; write a path alone, or \"tcp://127.0.0.1:8888\"")]
    Scheme(String),
    /// The text is a port, with or without a host, but has no `tcp://`. The second field is what to write instead.
    #[error("{0:?} is a port, not a path; write \"{1}\"")]
    NoScheme(String, String),
    /// The path is longer than the kernel takes.
    #[error("the path has {0} bytes; a Unix socket's path has at most {MAX_SOCKET_PATH_BYTES}")]
    TooLong(usize),
    /// The path can't be a file's: it ends in a slash or has a NUL.
    #[error("{0:?} can't be a socket's path; write one that ends in a file name")]
    NotAFile(String),
}

impl FromStr for Address {
    type Err = AddressError;

    /// Reads `tcp://IP:PORT`, or a path. A relative path is relative to the working directory.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.is_empty() {
            return Err(AddressError::Empty);
        }
        if let Some(address) = text.strip_prefix("tcp://") {
            let address: SocketAddr = address.parse().map_err(|_| AddressError::NotTcp(text.to_owned()))?;
            return Ok(Self::Tcp(address));
        }
        // "unix:" is how nginx writes a socket.
        if text.contains("://") || text.starts_with("unix:") {
            return Err(AddressError::Scheme(text.to_owned()));
        }
        if let Some(tcp) = without_scheme(text) {
            return Err(AddressError::NoScheme(text.to_owned(), tcp));
        }
        if text.ends_with('/') || text.contains('\0') {
            return Err(AddressError::NotAFile(text.to_owned()));
        }
        if text.len() > MAX_SOCKET_PATH_BYTES {
            return Err(AddressError::TooLong(text.len()));
        }
        Ok(Self::Unix(PathBuf::from(text)))
    }
}

/// The TCP address that `:8888`, `8888`, `localhost:8888`, `host:8888` or `127.0.0.1:8888` probably means. As paths, these would
/// be files in the current folder.
fn without_scheme(text: &str) -> Option<String> {
    if text.contains('/') {
        return None;
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let port: u16 = port.parse().ok()?;
    let host = match host {
        "*" => "0.0.0.0",
        host if format!("{host}:{port}").parse::<SocketAddr>().is_ok() => host,
        // Names are not looked up.
        _ => "127.0.0.1",
    };
    Some(format!("tcp://{host}:{port}"))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => path.display().fmt(f),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

impl fmt::Display for Addresses {
    /// As a reader expects it: with a comma and a space between them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.first.fmt(f)?;
        self.others.iter().try_for_each(|address| write!(f, ", {address}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_displayed_as_it_was_parsed() {
        for text in ["/run/a.sock", "a.sock", "tcp://127.0.0.1:8888", "tcp://[::1]:0"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn an_invalid_address_has_its_error() {
        let long = "/x".repeat(54);
        for (text, error) in [
            ("", AddressError::Empty),
            ("tcp://localhost:1", AddressError::NotTcp("tcp://localhost:1".into())),
            ("tcp://127.0.0.1", AddressError::NotTcp("tcp://127.0.0.1".into())),
            ("unix:/run/a.sock", AddressError::Scheme("unix:/run/a.sock".into())),
            ("http://a", AddressError::Scheme("http://a".into())),
            ("/run/", AddressError::NotAFile("/run/".into())),
            (&long, AddressError::TooLong(108)),
        ] {
            assert_eq!(text.parse::<Address>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_port_without_tcp_is_an_error_that_says_what_to_write() {
        for (text, tcp) in [
            (":8080", "tcp://127.0.0.1:8080"),
            ("8080", "tcp://127.0.0.1:8080"),
            ("localhost:9000", "tcp://127.0.0.1:9000"),
            ("*:80", "tcp://0.0.0.0:80"),
            ("10.0.0.1:8888", "tcp://10.0.0.1:8888"),
            ("[::1]:8888", "tcp://[::1]:8888"),
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert_eq!(error.to_string(), format!("{text:?} is a port, not a path; write \"{tcp}\""));
        }
        // A path may have a colon.
        for text in ["/run/a:80", "./a:80", "a:b.sock", "a:99999"] {
            assert_eq!(text.parse(), Ok(Address::Unix(text.into())));
        }
    }
}
