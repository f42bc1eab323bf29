//! Opens connections to the Redis of the configuration: finds the primary through Sentinel, makes the connection secure, logs in,
//! and refuses a server that is too old. It never reconnects.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, ProtocolVersion, RedisConnectionInfo, RedisError, RedisResult, Value,
    aio::MultiplexedConnection,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

use super::{
    config::RedisConfig,
    error::{ANSWER_TIMEOUT, CONNECT_TIMEOUT, broken, explain, login_refused, too_old},
    slots::Slots,
    url::{Address, RedisUrl, Topology},
    version::{OLDEST, Product},
};
use crate::{
    config::reason,
    lock::lock,
    source::{SourceError, tls},
};

/// The keys of `[redis]` that TLS needs.
const KEYS: tls::Keys =
    tls::Keys { url: "redis.url", ca_file: "redis.ca_file", cert_file: "redis.cert_file", key_file: "redis.key_file" };

/// Longest wait for TLS, within [`CONNECT_TIMEOUT`].
const TLS_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for one Sentinel, with the connection to it. The next one is asked after that.
const SENTINEL_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest wait for one node of a cluster that is asked about the others, with the connection to it. The next one is asked after
/// that.
const NODE_TIMEOUT: Duration = Duration::from_secs(1);

/// The bytes of a connection: TCP, TLS or a Unix socket.
pub(in crate::source) type Stream = Box<dyn Socket>;

/// What [`Stream`] can do.
pub(in crate::source) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Socket for S {}

/// The Redis of the configuration: where it is and how to log in. Cheap to clone.
#[derive(Clone)]
pub(in crate::source) struct Server(Arc<Inner>);

struct Inner {
    topology: Topology,
    tls: Option<TlsConnector>,
    login: RedisConnectionInfo,
    sentinel_login: RedisConnectionInfo,
    /// The Sentinel that answered last, which is asked first.
    sentinel: AtomicUsize,
    /// Nodes of the cluster that are known beside those of the URL.
    nodes: Mutex<Vec<Address>>,
}

/// A connection that is logged in. It is closed when this is dropped.
pub(in crate::source) struct Connection {
    /// Sends commands. Clones of it share this connection, and work as long as this exists.
    pub(in crate::source) commands: MultiplexedConnection,
    /// The server's address.
    pub(in crate::source) address: Address,
    /// What the server says of itself.
    pub(in crate::source) product: Product,
    /// The task that reads and writes.
    driver: JoinSet<()>,
}

impl Connection {
    /// Closes the connection. When it returns, nothing more of it is read.
    pub(in crate::source) async fn close(mut self) {
        self.driver.shutdown().await;
    }
}

impl Server {
    /// The Redis that the table `[redis]` describes.
    ///
    /// # Errors
    /// Keys contradict each other, or a certificate can't be used. The error names the key.
    pub(in crate::source) fn new(config: &RedisConfig) -> Result<Self, SourceError> {
        let refused = |key, why: &str| Err(SourceError { key, why: why.to_owned() });
        let url =
            RedisUrl::parse(&config.url).map_err(|error| SourceError { key: "redis.url", why: error.to_string() })?;
        if !url.tls {
            let given = [
                ("redis.ca_file", config.ca_file.is_some()),
                ("redis.cert_file", config.cert_file.is_some()),
                ("redis.key_file", config.key_file.is_some()),
            ];
            if let Some((key, _)) = given.into_iter().find(|(_, given)| *given) {
                return refused(key, "redis.url does not use TLS; let it begin with \"rediss\"");
            }
        }
        let is_sentinel = matches!(url.topology, Topology::Sentinel { .. });
        if !is_sentinel && !config.sentinel_user.is_empty() {
            return refused("redis.sentinel_user", "redis.url is not that of a Sentinel");
        }
        if !is_sentinel && config.sentinel_password_file.is_some() {
            return refused("redis.sentinel_password_file", "redis.url is not that of a Sentinel");
        }
        // RESP3 confirms subscriptions in the order of the messages.
        let mut login = url.login.set_protocol(ProtocolVersion::RESP3);
        if let Some(password) = &config.password_file {
            if login.password().is_some() {
                return refused("redis.password_file", "redis.url has a password as well; remove one of the two");
            }
            login = login.set_password(password.expose());
        }
        // Every Sentinel speaks RESP2.
        let mut sentinel_login = RedisConnectionInfo::default();
        if !config.sentinel_user.is_empty() {
            sentinel_login = sentinel_login.set_username(&config.sentinel_user);
        }
        if let Some(password) = &config.sentinel_password_file {
            sentinel_login = sentinel_login.set_password(password.expose());
        }
        let (authorities, own, key) = (&config.ca_file, &config.cert_file, &config.key_file);
        let files = tls::Files { authorities: authorities.as_ref(), own: own.as_ref(), key: key.as_ref() };
        let tls = if url.tls { Some(TlsConnector::from(tls::client(&KEYS, files)?)) } else { None };
        let topology = url.topology;
        Ok(Self(Arc::new(Inner {
            topology,
            tls,
            login,
            sentinel_login,
            sentinel: AtomicUsize::new(0),
            nodes: Mutex::default(),
        })))
    }

    /// How its servers belong together.
    pub(in crate::source) fn topology(&self) -> &Topology {
        &self.0.topology
    }

    /// Opens a connection to the server that [`Server::find`] returns.
    ///
    /// # Errors
    /// As [`Server::find`] and [`Server::open`].
    pub(in crate::source) async fn connect(&self, options: &AsyncConnectionConfig) -> RedisResult<Connection> {
        let address = self.find().await?;
        self.open(&address, options, |stream| stream).await
    }

    /// The address to connect to: the server's or, with Sentinel, the primary's at this moment. In a cluster it is that of the
    /// first primary that can be reached.
    ///
    /// # Errors
    /// No Sentinel answers, or none knows the primary; no node of the cluster can be reached.
    pub(in crate::source) async fn find(&self) -> RedisResult<Address> {
        match &self.0.topology {
            Topology::Single(address) => Ok(address.clone()),
            Topology::Sentinel { sentinels, primary } => self.ask_sentinels(sentinels, primary).await,
            Topology::Cluster(_) => {
                let (slots, _) = self.slots().await?;
                let reach = |server: Self, address| async move { server.stream(&address).await.map(|_| address) };
                self.try_each(slots.primaries(), reach).await
            }
        }
    }

    /// Asks the cluster which node owns which slot. Also returns the product of the node that answered.
    ///
    /// # Errors
    /// No node of the cluster answers.
    pub(in crate::source) async fn slots(&self) -> RedisResult<(Slots, Product)> {
        let Topology::Cluster(named) = &self.0.topology else { return Err(broken("this is no cluster")) };
        let mut nodes = named.clone();
        nodes.extend(lock(&self.0.nodes).iter().filter(|node| !named.contains(node)).cloned());
        let ask = |server: Self, address| async move { server.slots_at(&address).await };
        let (slots, product) = self.try_each(nodes, ask).await?;
        *lock(&self.0.nodes) = slots.primaries();
        Ok((slots, product))
    }

    async fn slots_at(&self, address: &Address) -> RedisResult<(Slots, Product)> {
        let mut connection = self.open(address, &AsyncConnectionConfig::new(), |stream| stream).await?;
        if !connection.product.is_cluster {
            return Err(broken("it is no node of a cluster; let redis.url begin with \"redis://\" or \"rediss://\""));
        }
        let answer: Value = redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut connection.commands).await?;
        Ok((Slots::of(&answer, address), connection.product))
    }

    /// Tries nodes of the cluster one after the other, until one does what is asked.
    async fn try_each<T, F>(&self, nodes: Vec<Address>, attempt: impl Fn(Self, Address) -> F) -> RedisResult<T>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let mut failures = Vec::new();
        for node in nodes {
            let tried = timeout(NODE_TIMEOUT, attempt(self.clone(), node.clone())).await;
            match tried.unwrap_or_else(|_| Err(broken("no answer"))) {
                Err(error) if login_refused(&error).is_some() => return Err(error),
                Err(error) => failures.push(format!("{node}: {}", explain(&error))),
                done => return done,
            }
        }
        Err(broken(format!("no node of the cluster can be used ({})", failures.join("; "))))
    }

    /// Opens a connection to one address, and logs in. `wrap` may put something between the socket and the client library.
    ///
    /// # Errors
    /// The server can't be reached within [`CONNECT_TIMEOUT`], TLS or the login fails, the server is too old, or it is a replica
    /// where Sentinel named it as the primary.
    pub(in crate::source) async fn open<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        address: &Address,
        options: &AsyncConnectionConfig,
        wrap: impl FnOnce(Stream) -> S,
    ) -> RedisResult<Connection> {
        let opening = async {
            let stream = wrap(self.stream(address).await?);
            let (commands, driver) = match log_in(&self.0.login, stream, options.clone()).await {
                Err(error) if knows_no_hello(&error) => return Err(self.too_old(address).await),
                done => done?,
            };
            let product = Product::ask(&mut commands.clone()).await?;
            if product.is_older_than(OLDEST) {
                return Err(too_old(&product.name(), address, "6.0"));
            }
            if matches!(self.0.topology, Topology::Sentinel { .. }) && !product.is_primary {
                return Err(broken(format!("{address}, which Sentinel names as the primary, is a replica")));
            }
            Ok(Connection { commands, address: address.clone(), product, driver })
        };
        timeout(CONNECT_TIMEOUT, opening)
            .await
            .unwrap_or_else(|_| Err(broken(format!("{address} gave no answer while connecting"))))
    }

    /// A connection's bytes, before the login.
    async fn stream(&self, address: &Address) -> RedisResult<Stream> {
        let failed = |error: &std::io::Error| broken(format!("{address}: {}", reason(error)));
        let (host, port) = match address {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(|error| failed(&error))?;
                return Ok(Box::new(stream));
            }
            Address::Tcp(host, port) => (host, *port),
        };
        let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|error| failed(&error))?;
        stream.set_nodelay(true)?;
        let Some(tls) = &self.0.tls else { return Ok(Box::new(stream)) };
        let name = ServerName::try_from(host.clone())
            .map_err(|_| broken(format!("{host} is neither a host's name nor an IP address")))?;
        match timeout(TLS_TIMEOUT, tls.connect(name, stream)).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(error)) => {
                Err(broken(format!("TLS with {address} failed: {}", tls::explain(&KEYS, &error.to_string()))))
            }
            // Redis waits for more where it takes the greeting of TLS for a long command.
            Err(_) => Err(broken(format!("TLS with {address} failed: no answer; perhaps this port has no TLS"))),
        }
    }

    /// The error for a server that does not know HELLO, which came with Redis 6.0.
    async fn too_old(&self, address: &Address) -> RedisError {
        let login = self.0.login.clone().set_protocol(ProtocolVersion::RESP2);
        let ask = async {
            let (mut commands, _driver) =
                log_in(&login, self.stream(address).await?, AsyncConnectionConfig::new()).await?;
            redis::cmd("INFO").arg("server").query_async::<String>(&mut commands).await
        };
        let info = ask.await.unwrap_or_default();
        let version = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or("before 6.0");
        too_old(&format!("Redis {}", version.trim()), address, "6.0")
    }

    async fn ask_sentinels(&self, sentinels: &[Address], primary: &str) -> RedisResult<Address> {
        let first = self.0.sentinel.load(Ordering::Relaxed);
        let mut failures = Vec::new();
        for number in (0..sentinels.len()).map(|number| (first + number) % sentinels.len()) {
            let sentinel = &sentinels[number];
            let asked = timeout(SENTINEL_TIMEOUT, self.ask_sentinel(sentinel, primary)).await;
            match asked.unwrap_or_else(|_| Err(broken("no answer"))) {
                Ok(address) => {
                    self.0.sentinel.store(number, Ordering::Relaxed);
                    return Ok(address);
                }
                Err(error) => failures.push(format!("{sentinel}: {}", explain(&error))),
            }
        }
        Err(broken(format!("no Sentinel names the primary {primary:?} ({})", failures.join("; "))))
    }

    async fn ask_sentinel(&self, sentinel: &Address, primary: &str) -> RedisResult<Address> {
        let options = AsyncConnectionConfig::new();
        let (mut commands, _driver) = log_in(&self.0.sentinel_login, self.stream(sentinel).await?, options).await?;
        let mut question = redis::cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(primary);
        let answer: Option<(String, u16)> = question.query_async(&mut commands).await?;
        let (host, port) = answer.ok_or_else(|| broken("it knows no primary of this name; correct redis.url"))?;
        Ok(Address::Tcp(host, port))
    }
}

/// Logs in on a stream, and starts the task that reads and writes it.
async fn log_in<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    login: &RedisConnectionInfo,
    stream: S,
    options: AsyncConnectionConfig,
) -> RedisResult<(MultiplexedConnection, JoinSet<()>)> {
    let options = options.set_response_timeout(Some(ANSWER_TIMEOUT));
    let (commands, drive) = MultiplexedConnection::new_with_config(login, stream, options).await?;
    let mut driver = JoinSet::new();
    driver.spawn(drive);
    Ok((commands, driver))
}

/// Whether the server does not know the command that begins a connection.
fn knows_no_hello(error: &RedisError) -> bool {
    let text = error.to_string();
    error.kind() == redis::ErrorKind::RESP3NotSupported || text.contains("unknown command") && text.contains("HELLO")
}
