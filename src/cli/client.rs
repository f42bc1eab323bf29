//! A client of the daemon's sockets: one HTTP request at a time over a Unix or a TCP socket, and errors that say what to do.

use std::{error::Error as StdError, io, net::SocketAddr, path::PathBuf, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{HOST, HeaderName, HeaderValue},
    http::uri::{InvalidUri, PathAndQuery},
};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use hyperlocal::UnixConnector;

use super::{
    Failure, exit, printable,
    socket::{PackagedSocket, Socket},
};
use crate::config::{Address, reason};

/// Longest wait for an answer. The daemon answers a publish after Redis has accepted it; a healthy daemon is far faster than
/// this.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Most bytes of an answer. The answer to a publish is one line.
const MAX_ANSWER: usize = 1 << 20;

/// A client of one socket.
#[derive(Debug, Clone)]
pub struct Client {
    socket: Socket,
    http: Http,
}

#[derive(Debug, Clone)]
enum Http {
    Unix(legacy::Client<UnixConnector, Full<Bytes>>, PathBuf),
    Tcp(legacy::Client<HttpConnector, Full<Bytes>>, SocketAddr),
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No process listens on the socket.
    #[error(
        "no ssecast answers on {address} ({reason}): is it running? See `systemctl status ssecast`, or give {flag}"
    )]
    Unreachable {
        /// Where.
        address: Address,
        /// What the operating system reports.
        reason: String,
        /// The flag that names another socket.
        flag: &'static str,
    },
    /// No process listens on the configured socket, but one does on the package's.
    #[error(
        "no ssecast answers on {address} ({reason}): something listens on {}, where the package's systemd sockets are: \
         give {flag} {}, or remove {key} from the configuration", packaged.display(), packaged.display()
    )]
    OnlyPackaged {
        /// Where.
        address: Address,
        /// What the operating system reports.
        reason: String,
        /// The package's socket.
        packaged: PathBuf,
        /// The flag that names another socket.
        flag: &'static str,
        /// The configuration's key that names `address`.
        key: &'static str,
    },
    /// This user has no permission to connect.
    #[error("you may not connect to {address} ({reason}): join the group of that socket, or be root")]
    NotAllowed {
        /// Where.
        address: Address,
        /// What the operating system reports.
        reason: String,
    },
    /// The connection broke before the answer was complete, or the answer is not HTTP.
    #[error("{address} broke off before its answer was complete ({reason})")]
    Broken {
        /// Where.
        address: Address,
        /// What went wrong.
        reason: String,
    },
    /// There was no answer in time.
    #[error("{address} took the request, but did not answer within {} s", ANSWER_WITHIN.as_secs())]
    Silent {
        /// Where.
        address: Address,
    },
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let code = match error {
            ClientError::Unreachable { .. } | ClientError::OnlyPackaged { .. } => exit::UNAVAILABLE,
            ClientError::NotAllowed { .. } => exit::NO_PERMISSION,
            ClientError::Broken { .. } | ClientError::Silent { .. } => exit::IO,
        };
        Self::new(code, error)
    }
}

impl Client {
    /// A client of `socket`. It connects with each request. It must be made and used inside a tokio runtime.
    #[must_use]
    pub(super) fn new(socket: Socket) -> Self {
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        builder.pool_max_idle_per_host(0);
        let http = match &socket.address {
            Address::Unix(path) => Http::Unix(builder.build(UnixConnector), path.clone()),
            Address::Tcp(address) => Http::Tcp(builder.build_http(), *address),
        };
        Self { socket, http }
    }

    /// Where it connects to.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.socket.address
    }

    /// Sends a request and waits for the head of the answer, 30 s at most.
    ///
    /// # Errors
    /// [`ClientError`] if no answer came. An answer with any status is not an error here.
    pub async fn send(
        &self,
        method: Method,
        target: &PathAndQuery,
        headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        request.headers_mut().extend(headers);
        // HTTP/1.1 needs a host, and the path of a socket is none.
        request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
        let answer = async {
            let answer = match &self.http {
                Http::Unix(client, path) => {
                    *request.uri_mut() = hyperlocal::Uri::new(path, target.as_str()).into();
                    client.request(request).await
                }
                Http::Tcp(client, address) => {
                    let uri = format!("http://{address}{target}").parse();
                    *request.uri_mut() = uri.map_err(|error: InvalidUri| self.broken(&error))?;
                    client.request(request).await
                }
            };
            match answer {
                Ok(answer) => Ok(answer),
                Err(error) => Err(self.explain(&error).await),
            }
        };
        tokio::time::timeout(ANSWER_WITHIN, answer)
            .await
            .unwrap_or_else(|_| Err(ClientError::Silent { address: self.address().clone() }))
    }

    /// Reads the whole body of an answer, 1 MiB at most, within 30 s.
    ///
    /// # Errors
    /// [`ClientError::Broken`] if the body ends too soon or is larger; [`ClientError::Silent`] if it doesn't arrive in time.
    pub async fn read_body(&self, answer: Response<Incoming>) -> Result<Bytes, ClientError> {
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect();
        match tokio::time::timeout(ANSWER_WITHIN, body).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) => Err(self.broken(&*error)),
            Err(_) => Err(ClientError::Silent { address: self.address().clone() }),
        }
    }

    /// The failure for a status other than 200. Its message is the error in the body or, without one, the status. Its exit
    /// code is that of [`exit_code`].
    pub async fn refusal(&self, answer: Response<Incoming>) -> Failure {
        let status = answer.status();
        let body = self.read_body(answer).await.unwrap_or_default();
        refusal(self.address(), status, &body)
    }

    async fn explain(&self, error: &legacy::Error) -> ClientError {
        let address = self.address().clone();
        if !error.is_connect() {
            return self.broken(error);
        }
        match find_io(error) {
            Some(io) if io.kind() == io::ErrorKind::PermissionDenied => {
                ClientError::NotAllowed { address, reason: reason(io) }
            }
            io => {
                let reason = io.map_or_else(|| innermost(error), reason);
                let flag = self.socket.flag;
                match &self.socket.packaged {
                    Some(packaged) if packaged.is_served().await => {
                        let PackagedSocket { path, key } = packaged;
                        ClientError::OnlyPackaged { address, reason, packaged: path.clone(), flag, key }
                    }
                    _ => ClientError::Unreachable { address, reason, flag },
                }
            }
        }
    }

    fn broken(&self, error: &(dyn StdError + 'static)) -> ClientError {
        let reason = find_io(error).map_or_else(|| innermost(error), reason);
        ClientError::Broken { address: self.address().clone(), reason }
    }
}

fn refusal(address: &Address, status: StatusCode, body: &[u8]) -> Failure {
    let body = String::from_utf8_lossy(body);
    // Another program may listen there, and answer with a page of HTML, which is not shown.
    match body.lines().next().map(str::trim).filter(|line| line.starts_with('{')) {
        Some(line) => {
            let json = serde_json::from_str::<serde_json::Value>(line).unwrap_or_default();
            let sentence = json["error"].as_str().filter(|sentence| !sentence.is_empty());
            Failure::new(exit_code(status), printable(sentence.unwrap_or(line), "\n"))
        }
        None => Failure::new(exit_code(status), format_args!("{address} answered {status}")),
    }
}

/// The exit code for an answer other than success. It says whether a retry can help, permission is missing, or the request is
/// wrong.
fn exit_code(status: StatusCode) -> u8 {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => exit::NO_PERMISSION,
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => exit::DATA,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => exit::TEMPORARY,
        _ => 1,
    }
}

/// The operating system's error below `error`, if there is one.
fn find_io<'e>(error: &'e (dyn StdError + 'static)) -> Option<&'e io::Error> {
    std::iter::successors(Some(error), |&error| error.source()).find_map(|error| error.downcast_ref())
}

fn innermost(error: &(dyn StdError + 'static)) -> String {
    std::iter::successors(Some(error), |&error| error.source()).last().map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{super::stub::Stub, *};

    fn get(address: Address) -> Result<Bytes, Failure> {
        get_from(Socket::given(address, "--socket"))
    }

    fn get_from(socket: Socket) -> Result<Bytes, Failure> {
        super::super::runtime().unwrap().block_on(async {
            let client = Client::new(socket);
            let target = PathAndQuery::from_static("/stats");
            let answer = client.send(Method::GET, &target, [], Bytes::new()).await?;
            if answer.status() != StatusCode::OK {
                return Err(client.refusal(answer).await);
            }
            Ok(client.read_body(answer).await?)
        })
    }

    #[test]
    fn an_unreachable_daemon_is_an_error_that_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        let failure = get(Address::Unix(path.clone())).unwrap_err();
        let expected = format!(
            "no ssecast answers on {} (No such file or directory): is it running? See `systemctl status ssecast`, \
             or give --socket",
            path.display()
        );
        assert_eq!((failure.code(), failure.to_string()), (exit::UNAVAILABLE, expected));

        // A socket whose daemon has died.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let failure = get(Address::Unix(path)).unwrap_err();
        assert_eq!(failure.code(), exit::UNAVAILABLE);
        assert!(failure.to_string().contains("(Connection refused)"), "{failure}");

        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        drop(listener);
        let failure = get(address).unwrap_err();
        assert_eq!(failure.code(), exit::UNAVAILABLE);
        assert!(failure.to_string().contains("(Connection refused)"), "{failure}");
    }

    /// With the package's units, `listen.*` changes nothing: the error only asked whether ssecast was running.
    #[test]
    fn an_unreachable_configured_socket_names_the_packaged_one_if_it_is_served() {
        let folder = tempfile::tempdir().unwrap();
        let (configured, path) = (folder.path().join("other.sock"), folder.path().join("ssecast.sock"));
        let packaged = PackagedSocket { path: path.clone(), key: "listen.public" };
        let socket =
            Socket { packaged: Some(packaged), ..Socket::given(Address::Unix(configured.clone()), "--socket") };
        let message = |socket: &Socket| {
            let failure = get_from(socket.clone()).unwrap_err();
            assert_eq!(failure.code(), exit::UNAVAILABLE);
            failure.to_string()
        };
        let unreachable = message(&socket);
        assert!(
            unreachable.ends_with("is it running? See `systemctl status ssecast`, or give --socket"),
            "{unreachable}"
        );

        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let expected = format!(
            "no ssecast answers on {} (No such file or directory): something listens on {1}, where the package's systemd \
             sockets are: give --socket {1}, or remove listen.public from the configuration",
            configured.display(),
            path.display()
        );
        assert_eq!(message(&socket), expected);

        // Its process has died.
        drop(listener);
        assert_eq!(message(&socket), unreachable);
    }

    #[test]
    fn a_truncated_or_invalid_answer_is_an_error() {
        let stub = Stub::start(&[b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"]);
        assert_eq!(get(stub.address()).unwrap(), "hello");
        let request = String::from_utf8(stub.requests().remove(0)).unwrap();
        assert!(request.starts_with("GET /stats HTTP/1.1\r\n") && request.contains("host: localhost\r\n"), "{request}");

        for broken in [&b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello"[..], b"", b"220 mail.example.com\r\n"] {
            let failure = get(Stub::start(&[broken]).address()).unwrap_err();
            assert_eq!(failure.code(), exit::IO, "{failure}");
            assert!(failure.to_string().contains("broke off"), "{failure}");
        }
    }

    #[test]
    fn a_refusal_shows_the_error_text_of_the_daemon() {
        let stub =
            Stub::start(&[b"HTTP/1.1 403 Forbidden\r\nContent-Length: 27\r\n\r\n{\"error\":\"no such key\x1b[1m\"}"]);
        let failure = get(stub.address()).unwrap_err();
        assert_eq!(
            (failure.code(), failure.to_string().as_str()),
            (exit::NO_PERMISSION, "{\"error\":\"no such key\\u{1b}[1m\"}")
        );
        let stub =
            Stub::start(&[b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 21\r\n\r\n{\"error\":\"try again\"}"]);
        let failure = get(stub.address()).unwrap_err();
        assert_eq!((failure.code(), failure.to_string().as_str()), (exit::TEMPORARY, "try again"));
        let stub = Stub::start(&[b"HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\n\r\n<html>"]);
        let address = stub.address();
        assert_eq!(get(stub.address()).unwrap_err().to_string(), format!("{address} answered 404 Not Found"));
    }
}
