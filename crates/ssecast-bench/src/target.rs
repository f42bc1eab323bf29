//! Where clients and publishers connect: a URL as typed, resolved once, and what a request to it begins with.

use std::{
    fmt,
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

/// Longest time for a TCP connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A parsed URL: `unix:///path`, `unix:///path:/uri`, `http://host:port/uri` or `tcp://host:port`. In the URI,
/// `{channels}` stands for a client's channels; without it they are given as `?channels=a,b`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where to connect.
    pub address: Address,
    /// The value of `Host:`.
    pub host: String,
    /// The path and query of a request.
    pub uri: String,
}

/// A socket address that can be connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// The path of a Unix socket.
    Unix(PathBuf),
    /// An IP address and a port.
    Tcp(SocketAddr),
}

/// Why a URL was refused.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// None of the forms that are understood.
    #[error("{0:?} is none of unix:///path, unix:///path:/uri, http://host:port/uri, tcp://host:port")]
    Form(String),
    /// The host's name has no address.
    #[error("{host} can't be resolved")]
    Resolve {
        /// The host and port as typed.
        host: String,
        /// The resolver's error.
        source: std::io::Error,
    },
}

impl Target {
    /// The request of a client for `channels`.
    #[must_use]
    pub fn subscribe_request<'a>(&self, channels: impl Iterator<Item = &'a str>) -> Vec<u8> {
        let names: Vec<String> = channels.map(escape).collect();
        let names = names.join(",");
        let uri = if self.uri.contains("{channels}") {
            self.uri.replace("{channels}", &names)
        } else {
            let separator = if self.uri.contains('?') { '&' } else { '?' };
            format!("{}{separator}channels={names}", self.uri)
        };
        format!("GET {uri} HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\n\r\n", self.host).into_bytes()
    }

    /// Connects without waiting; the socket returned does not block.
    ///
    /// # Errors
    /// The kernel's error; `WouldBlock` if a Unix socket's backlog is full at the moment.
    pub fn connect(&self) -> std::io::Result<OwnedFd> {
        match &self.address {
            Address::Unix(path) => connect_unix(path),
            Address::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, CONNECT_TIMEOUT)?;
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                Ok(stream.into())
            }
        }
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(url: &str) -> Result<Self, TargetError> {
        if let Some(rest) = url.strip_prefix("unix://").filter(|rest| rest.starts_with('/')) {
            let (path, uri) = rest.rsplit_once(':').filter(|(_, uri)| uri.starts_with('/')).unwrap_or((rest, "/"));
            return Ok(Self { address: Address::Unix(path.into()), host: "localhost".to_owned(), uri: uri.to_owned() });
        }
        let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("tcp://"));
        let rest = rest.ok_or_else(|| TargetError::Form(url.to_owned()))?;
        let (host, uri) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
        let with_port = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
        let resolved = with_port.to_socket_addrs().map(|mut addresses| addresses.next());
        match resolved {
            Ok(Some(address)) => {
                Ok(Self { address: Address::Tcp(address), host: host.to_owned(), uri: uri.to_owned() })
            }
            Ok(None) => Err(TargetError::Form(url.to_owned())),
            Err(source) => Err(TargetError::Resolve { host: with_port, source }),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Unix(path) if self.uri == "/" => write!(f, "unix://{}", path.display()),
            Address::Unix(path) => write!(f, "unix://{}:{}", path.display(), self.uri),
            Address::Tcp(_) => write!(f, "http://{}{}", self.host, self.uri),
        }
    }
}

/// Percent-encodes a channel name for a path or a query.
#[must_use]
pub fn escape(name: &str) -> String {
    percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn connect_unix(path: &Path) -> std::io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(url: &str) -> String {
        let channels = ["cats", "a b"].into_iter();
        String::from_utf8(url.parse::<Target>().unwrap().subscribe_request(channels)).unwrap()
    }

    #[test]
    fn urls_make_requests() {
        assert!(request("unix:///run/s.sock").starts_with("GET /?channels=cats,a%20b HTTP/1.1\r\nHost: localhost\r\n"));
        assert!(request("unix:///run/s.sock:/sse/").starts_with("GET /sse/?channels=cats,a%20b HTTP/1.1\r\n"));
        assert!(request("http://127.0.0.1:81/sse/?envelope=1").starts_with("GET /sse/?envelope=1&channels=cats,"));
        assert!(request("http://127.0.0.1:81/sub/{channels}").starts_with("GET /sub/cats,a%20b HTTP/1.1\r\n"));
        assert!(request("tcp://127.0.0.1:81").contains("Host: 127.0.0.1:81\r\n"));
        assert!("ftp://x".parse::<Target>().is_err());
        assert!("unix://relative".parse::<Target>().is_err());
    }

    #[test]
    fn a_target_is_shown_as_typed() {
        for url in ["unix:///run/s.sock", "unix:///run/s.sock:/sse/", "http://127.0.0.1:81/sse/"] {
            assert_eq!(url.parse::<Target>().unwrap().to_string(), url);
        }
    }
}
