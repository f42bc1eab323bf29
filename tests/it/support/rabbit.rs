//! A RabbitMQ with folder, ports and port mapper of its own. Tests that don't stop it share one, each with an exchange of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind,
    options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions},
    types::FieldTable,
};
use tokio::{runtime::Runtime, time::timeout};

use super::{Child, Folder, free_port};

/// The scripts as they are. The one in PATH becomes another user.
const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";

pub(crate) struct RabbitServer {
    child: Child,
    command: Command,
    environment: Vec<(&'static str, String)>,
    log: PathBuf,
    port: u16,
    tls_port: Option<u16>,
    _epmd: Child,
    /// Of a server that tests share.
    _folder: Option<Folder>,
}

impl RabbitServer {
    /// A server of the test's own.
    pub(crate) fn start(folder: &Folder) -> Self {
        Self::start_with(folder, "", None)
    }

    /// A server with a listener for TLS, whose certificate and key are those, signed by the authority `authority`. It asks clients
    /// for a certificate.
    pub(crate) fn start_with_tls(folder: &Folder, authority: &Path, certificate: &Path, key: &Path) -> Self {
        let port = free_port();
        let lines = format!(
            "listeners.ssl.default = {port}\nssl_options.cacertfile = {}\nssl_options.certfile = {}\n\
             ssl_options.keyfile = {}\nssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n",
            authority.display(),
            certificate.display(),
            key.display()
        );
        Self::start_with(folder, &lines, Some(port))
    }

    /// The server that tests share. It ends when none of them runs any more.
    pub(crate) fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<RabbitServer>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let folder = Folder::new();
            let mut server = Self::start(&folder);
            server._folder = Some(folder);
            let server = Arc::new(server);
            *shared = Arc::downgrade(&server);
            server
        })
    }

    fn start_with(folder: &Folder, lines: &str, tls_port: Option<u16>) -> Self {
        let (port, distribution, mapper) = (free_port(), free_port(), free_port());
        let path = |name: &str| folder.path(name).display().to_string();
        for name in ["mnesia", "rabbit-log", "home"] {
            fs::create_dir_all(folder.path(name)).unwrap();
        }
        folder.write("plugins", "[].\n");
        folder
            .write("rabbitmq.conf", &format!("log.console = false\nlisteners.tcp.default = 127.0.0.1:{port}\n{lines}"));
        let environment = vec![
            ("HOME", path("home")),
            ("RABBITMQ_NODENAME", format!("test{port}@localhost")),
            ("RABBITMQ_DIST_PORT", distribution.to_string()),
            ("RABBITMQ_MNESIA_BASE", path("mnesia")),
            ("RABBITMQ_LOG_BASE", path("rabbit-log")),
            ("RABBITMQ_PID_FILE", path("rabbit.pid")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", path("plugins")),
            ("RABBITMQ_CONFIG_FILE", path("rabbitmq.conf")),
            ("RABBITMQ_CONF_ENV_FILE", "/dev/null".to_owned()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
            ("ERL_EPMD_PORT", mapper.to_string()),
            // The shell script is replaced by the server, which so has the child's pid.
            ("RABBITMQ_ALLOW_INPUT", "true".to_owned()),
            (
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-noinput +S 1:1 +sbwt none -kernel inet_dist_use_interface {127,0,0,1}".to_owned(),
            ),
        ];
        let mut epmd = Command::new(super::program_in_path("epmd"));
        epmd.args(["-port", &mapper.to_string(), "-address", "127.0.0.1"]);
        let epmd = Child::start("epmd", &mut epmd, folder.path("epmd.log"));
        let mut command = Command::new(Path::new(PROGRAMS).join("rabbitmq-server"));
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        let log = folder.path("rabbit.log");
        let child = Child::start("rabbitmq-server", &mut command, log.clone());
        let mut server = Self { child, command, environment, log, port, tls_port, _epmd: epmd, _folder: None };
        server.wait_until_it_answers();
        server
    }

    fn wait_until_it_answers(&mut self) {
        let url = self.url();
        self.child.wait_until("answering", || {
            // A server that has just begun to listen may never answer.
            let connecting = Connection::connect(&url, ConnectionProperties::default());
            runtime()
                .block_on(async { timeout(Duration::from_secs(2), connecting).await.is_ok_and(|done| done.is_ok()) })
        });
    }

    pub(crate) fn url(&self) -> String {
        format!("amqp://127.0.0.1:{}", self.port)
    }

    /// Of the listener for TLS.
    pub(crate) fn tls_url(&self) -> String {
        format!("amqps://127.0.0.1:{}", self.tls_port.unwrap())
    }

    /// The configuration table for it, with an exchange of this name.
    pub(crate) fn table(&self, exchange: &str) -> String {
        format!("[amqp]\nurl = {:?}\nexchange = {exchange:?}\n", self.url())
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(&mut self) {
        self.child.kill();
    }

    /// Starts it again, with what it has on disk.
    pub(crate) fn start_again(&mut self) {
        self.child = Child::start("rabbitmq-server", &mut self.command, self.log.clone());
        self.wait_until_it_answers();
    }

    /// Runs `rabbitmqctl`; returns what it prints.
    pub(crate) fn control(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(Path::new(PROGRAMS).join("rabbitmqctl"));
        command.arg("-q").args(arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        let Output { status, stdout, stderr } = command.output().unwrap();
        assert!(status.success(), "rabbitmqctl {arguments:?}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).unwrap()
    }

    /// Names of ssecast's queues.
    pub(crate) fn queues(&self) -> Vec<String> {
        let list = self.control(&["list_queues", "--no-table-headers", "name"]);
        list.lines().map(str::to_owned).filter(|name| name.starts_with("ssecast-")).collect()
    }

    /// A connection that publishes to the exchange.
    pub(crate) fn publisher(&self, exchange: &str) -> RabbitPublisher {
        RabbitPublisher::connect(&self.url(), exchange)
    }
}

/// Messages are persistent and have an id, unless it is said otherwise.
#[derive(Clone, Copy, Default)]
pub(crate) struct Kind<'a> {
    pub(crate) event: Option<&'a str>,
    pub(crate) transient: bool,
    pub(crate) without_id: bool,
}

/// An application that publishes.
pub(crate) struct RabbitPublisher {
    runtime: Runtime,
    exchange: String,
    channel: Channel,
    _connection: Connection,
    published: u64,
}

impl RabbitPublisher {
    fn connect(url: &str, exchange: &str) -> Self {
        let runtime = runtime();
        let (connection, channel) = runtime.block_on(async {
            let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
            let channel = connection.create_channel().await.unwrap();
            channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
            (connection, channel)
        });
        Self { runtime, exchange: exchange.to_owned(), channel, _connection: connection, published: 0 }
    }

    /// Makes the exchange.
    pub(crate) fn declare(&self, kind: ExchangeKind, durable: bool) {
        let options = ExchangeDeclareOptions { durable, ..ExchangeDeclareOptions::default() };
        let exchange = self.exchange.as_str().into();
        self.runtime.block_on(self.channel.exchange_declare(exchange, kind, options, FieldTable::default())).unwrap();
    }

    /// Publishes, and waits until the server has it. Returns whether any queue has got it.
    pub(crate) fn publish(&mut self, channel: &str, message: impl AsRef<[u8]>) -> bool {
        self.publish_all(channel, [message.as_ref()], Kind::default())
    }

    /// Publishes messages in order, and waits until the server has them. Returns whether any queue has got the last one.
    pub(crate) fn publish_all<M: AsRef<[u8]>>(
        &mut self,
        channel: &str,
        messages: impl IntoIterator<Item = M>,
        kind: Kind<'_>,
    ) -> bool {
        let Self { runtime, exchange, channel: publishing, published, .. } = self;
        runtime.block_on(async {
            let mut confirmations = Vec::new();
            for message in messages {
                *published += 1;
                let mut properties = BasicProperties::default().with_delivery_mode(if kind.transient { 1 } else { 2 });
                if !kind.without_id {
                    properties =
                        properties.with_message_id(format!("{exchange} {published} {}", std::process::id()).into());
                }
                if let Some(event) = kind.event {
                    properties = properties.with_type(event.into());
                }
                let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
                let (exchange, key) = (exchange.as_str().into(), channel.into());
                confirmations.push(
                    publishing.basic_publish(exchange, key, options, message.as_ref(), properties).await.unwrap(),
                );
            }
            let mut routed = false;
            for confirmation in confirmations {
                routed = match confirmation.await.unwrap() {
                    Confirmation::Ack(returned) => returned.is_none(),
                    other => panic!("{other:?}"),
                };
            }
            routed
        })
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}
