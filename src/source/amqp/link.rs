//! Opens connections to the AMQP server of the configuration, and closes them for certain. It never reconnects.

use std::{
    io,
    net::{Shutdown, SocketAddr},
    os::fd::{AsFd, AsRawFd},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use async_rs::{Runtime, Tokio, traits::Reactor, util::RuntimeParts};
use lapin::{AsyncTcpStream, Connection, ConnectionProperties, uri::AMQPUri};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

use super::{
    config::{AmqpConfig, AmqpUrl, KEYS},
    error::Failure,
};
use crate::source::{SourceError, tls};

/// Longest wait for a connection: TCP, TLS and login together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The server drops a connection that is silent for twice as long, in seconds. Only then the next one gets its messages.
const HEARTBEAT: u16 = 10;

/// The server of the configuration: where it is and how to log in. Cheap to clone.
#[derive(Clone)]
pub(super) struct Server(Arc<Inner>);

struct Inner {
    uri: AMQPUri,
    host: String,
    tls: Option<TlsConnector>,
}

/// A connection that is logged in. When this is dropped, it is closed, and the server knows that.
pub(super) struct Link {
    /// The library's connection.
    pub(super) connection: Connection,
    _socket: ClosedOnDrop,
}

/// The socket of a connection. The library closes it when its thread comes to that, which may be never.
#[derive(Clone, Default)]
struct OpenSocket(Arc<Mutex<Option<std::net::TcpStream>>>);

struct ClosedOnDrop(OpenSocket);

impl Drop for ClosedOnDrop {
    fn drop(&mut self) {
        if let Some(socket) = crate::lock::lock(&self.0.0).take() {
            // An error means that it is closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Server {
    /// The server that the table `[amqp]` describes.
    ///
    /// # Errors
    /// Keys contradict each other, or a certificate can't be used. The error names the key.
    pub(super) fn new(config: &AmqpConfig) -> Result<Self, SourceError> {
        let refused = |key, why: &str| Err(SourceError { key, why: why.to_owned() });
        let Some(url) = AmqpUrl::parse(&config.url) else {
            return refused("amqp.url", "this is not the URL of an AMQP server");
        };
        let files = tls::Files {
            authorities: config.ca_file.as_ref(),
            own: config.cert_file.as_ref(),
            key: config.key_file.as_ref(),
        };
        let tls = if url.is_tls() {
            Some(TlsConnector::from(tls::client(&KEYS, files)?))
        } else {
            let given = [
                ("amqp.ca_file", config.ca_file.is_some()),
                ("amqp.cert_file", config.cert_file.is_some()),
                ("amqp.key_file", config.key_file.is_some()),
            ];
            if let Some((key, _)) = given.into_iter().find(|(_, given)| *given) {
                return refused(key, "amqp.url does not use TLS; let it begin with \"amqps\"");
            }
            None
        };
        let AmqpUrl { mut uri, host, has_password } = url;
        if let Some(password) = &config.password_file {
            if has_password {
                return refused("amqp.password_file", "amqp.url has a password as well; remove one of the two");
            }
            uri.authority.userinfo.password = password.expose().to_owned();
        }
        uri.query.heartbeat = Some(HEARTBEAT);
        Ok(Self(Arc::new(Inner { uri, host, tls })))
    }

    /// Opens a connection. `name` is what the server shows of it.
    ///
    /// # Errors
    /// The server can't be reached, refuses the login, or gives no answer.
    pub(super) async fn connect(&self, name: &str) -> Result<Link, Failure> {
        let socket = OpenSocket::default();
        let closed = ClosedOnDrop(socket.clone());
        let server = self.clone();
        let opens = async move |_: AMQPUri, _: Runtime<Kit>| -> lapin::Result<AsyncTcpStream<Stream>> {
            Ok(AsyncTcpStream::Plain(server.open(&socket).await?))
        };
        let runtime = Runtime::new(RuntimeParts::new(Tokio::current(), Streams(Tokio::current())));
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let connecting = Connection::connector(self.0.uri.clone(), runtime, opens, properties);
        match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(connection) => Ok(Link { connection: connection?, _socket: closed }),
            Err(_) => Err(Failure::Broken(format!("the server gave no answer in {CONNECT_TIMEOUT:?}"))),
        }
    }

    async fn open(&self, socket: &OpenSocket) -> io::Result<Stream> {
        let Inner { uri, host, tls } = &*self.0;
        let stream = TcpStream::connect((host.as_str(), uri.authority.port)).await?;
        stream.set_nodelay(true)?;
        *crate::lock::lock(&socket.0) = Some(stream.as_fd().try_clone_to_owned()?.into());
        let Some(tls) = tls else { return Ok(Stream::new(stream)) };
        let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
        let stream = tls.connect(name, stream).await;
        Ok(Stream::new(stream.map_err(|error| io::Error::other(format!("TLS failed: {error}")))?))
    }
}

/// What the library runs on: the current tokio runtime, with streams that may be TLS. The library's own TLS takes no provider and
/// no configuration of ours, and brings a second way to read certificates.
type Kit = RuntimeParts<Tokio, Streams>;

/// The bytes of a connection, by the traits that the library uses.
struct Stream(Pin<Box<dyn Socket>>);

trait Socket: AsyncRead + AsyncWrite + Send {}

impl<S: AsyncRead + AsyncWrite + Send> Socket for S {}

impl Stream {
    fn new(stream: impl Socket + 'static) -> Self {
        Self(Box::pin(stream))
    }
}

impl futures_io::AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut out = ReadBuf::new(out);
        ready!(self.0.as_mut().poll_read(cx, &mut out))?;
        Poll::Ready(Ok(out.filled().len()))
    }
}

impl futures_io::AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.as_mut().poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_shutdown(cx)
    }
}

/// The reactor of tokio, for streams of the type [`Stream`].
#[derive(Debug, Clone)]
struct Streams(Tokio);

impl Reactor for Streams {
    type TcpStream = Stream;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: io::Read + io::Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl futures_io::AsyncRead + futures_io::AsyncWrite + Send + Unpin + 'static> {
        self.0.register(socket)
    }

    fn sleep(&self, time: Duration) -> Self::Sleep {
        self.0.sleep(time)
    }

    fn interval(&self, time: Duration) -> impl futures_core::Stream<Item = Instant> + Send + 'static {
        self.0.interval(time)
    }

    #[expect(clippy::manual_async_fn, reason = "the future must not borrow self")]
    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        async move { Ok(Stream::new(TcpStream::connect(address).await?)) }
    }
}
