//! A test's own Redis server, on a Unix socket and a loopback port. It keeps nothing on disk.

use std::{path::PathBuf, process::Command};

use redis::{Commands, Connection, FromRedisValue};

use super::{Child, Folder, free_port, program_in_path};

pub(crate) struct RedisServer {
    child: Child,
    command: Command,
    log: PathBuf,
    socket: PathBuf,
    port: u16,
    password: Option<&'static str>,
}

impl RedisServer {
    pub(crate) fn start(folder: &Folder) -> Self {
        Self::start_with(folder, None, &[])
    }

    /// A server with options of redis-server, such as `["--tls-port", "12345"]`.
    pub(crate) fn start_with_options(folder: &Folder, options: &[&str]) -> Self {
        Self::start_with(folder, None, options)
    }

    /// A server whose default user has a password.
    pub(crate) fn start_with_password(folder: &Folder, password: &'static str) -> Self {
        Self::start_with(folder, Some(password), &[])
    }

    fn start_with(folder: &Folder, password: Option<&'static str>, options: &[&str]) -> Self {
        let (socket, log, port) = (folder.path("redis.sock"), folder.path("redis.log"), free_port());
        let mut command = Command::new(program_in_path("redis-server"));
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        command.arg("--unixsocket").arg(&socket).arg("--dir").arg(folder.path(""));
        if let Some(password) = password {
            command.args(["--requirepass", password]);
        }
        command.args(options);
        let child = Child::start("redis-server", &mut command, log.clone());
        let mut server = Self { child, command, log, socket, port, password };
        server.wait_until_it_answers();
        server
    }

    fn wait_until_it_answers(&mut self) {
        let client = self.client();
        self.child.wait_until("answering", || {
            client.get_connection().and_then(|mut connection| connection.ping::<String>()).is_ok()
        });
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(&mut self) {
        self.child.kill();
    }

    /// Starts it again, on the same addresses.
    pub(crate) fn start_again(&mut self) {
        self.child = Child::start("redis-server", &mut self.command, self.log.clone());
        self.wait_until_it_answers();
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn unix_url(&self) -> String {
        let path = self.socket.display();
        match self.password {
            Some(password) => format!("redis+unix://{path}?pass={}", in_url(password)),
            None => format!("redis+unix://{path}"),
        }
    }

    /// The configuration table for it.
    pub(crate) fn table(&self) -> String {
        format!("[redis]\nurl = {:?}\n", self.url())
    }

    fn client(&self) -> redis::Client {
        redis::Client::open(self.unix_url()).unwrap()
    }

    pub(crate) fn connect(&self) -> Connection {
        self.client().get_connection().unwrap()
    }

    /// `PUBLISH`. Returns the number of subscribers.
    pub(crate) fn publish(&self, channel: &str, message: impl AsRef<[u8]>) -> usize {
        self.connect().publish(channel, message.as_ref()).unwrap()
    }

    /// Number of connections that are subscribed to `channel`.
    pub(crate) fn subscribers(&self, channel: &str) -> usize {
        let counts: (String, usize) = self.query(redis::cmd("PUBSUB").arg("NUMSUB").arg(channel));
        counts.1
    }

    /// Every channel with a subscriber, except ssecast's own.
    pub(crate) fn channels(&self) -> Vec<String> {
        let mut channels: Vec<String> = self.query(redis::cmd("PUBSUB").arg("CHANNELS"));
        channels.retain(|name| !name.contains("ssecast:"));
        channels.sort();
        channels
    }

    /// Cuts the connections of all subscribers, as a network would.
    pub(crate) fn cut_subscribers(&self) {
        let _: usize = self.query(redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("pubsub"));
    }

    /// As [`RedisServer::query`], but `None` if the server does not answer or refuses the command.
    pub(crate) fn try_query<T: FromRedisValue>(&self, command: &redis::Cmd) -> Option<T> {
        command.query(&mut self.client().get_connection().ok()?).ok()
    }

    pub(crate) fn query<T: FromRedisValue>(&self, command: &redis::Cmd) -> T {
        command.query(&mut self.connect()).unwrap()
    }
}

/// `text` as it is written in a URL.
pub(crate) fn in_url(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}
