//! A Redis primary with a replica, and a Sentinel that watches them. Each has its own folder.

use std::{collections::HashMap, process::Command};

use super::{Child, Folder, RedisServer, eventually, free_port, program_in_path};

pub(crate) struct Sentinel {
    /// Two servers. At first, number 0 is the primary.
    pub(crate) servers: Vec<RedisServer>,
    port: u16,
    password: Option<&'static str>,
    _folders: Vec<Folder>,
    _child: Child,
}

impl Sentinel {
    /// Starts all three, and waits until Sentinel knows the replica. `password`: Sentinel's own.
    pub(crate) fn start(password: Option<&'static str>) -> Self {
        let folders: Vec<Folder> = (0..3).map(|_| Folder::new()).collect();
        let at_once = ["--repl-diskless-sync-delay", "0"];
        let primary = RedisServer::start_with_options(&folders[0], &at_once);
        let port = primary.port().to_string();
        let replica = RedisServer::start_with_options(
            &folders[1],
            &[&at_once[..], &["--replicaof", &format!("127.0.0.1 {port}")]].concat(),
        );
        let own_port = free_port();
        let mut text = format!(
            "port {own_port}\nbind 127.0.0.1\ndir {}\nsentinel monitor main 127.0.0.1 {port} 1\n\
             sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 6000\n",
            folders[2].path("").display()
        );
        if let Some(password) = password {
            text += &format!("requirepass {password}\n");
        }
        let config = folders[2].write("sentinel.conf", &text);
        let mut command = Command::new(program_in_path("redis-server"));
        command.arg(config).arg("--sentinel");
        let child = Child::start("redis-sentinel", &mut command, folders[2].path("sentinel.log"));
        let servers = vec![primary, replica];
        let this = Self { servers, port: own_port, password, _folders: folders, _child: child };
        eventually("Sentinel knows the replica", || {
            let replicas: Vec<HashMap<String, String>> =
                redis::cmd("SENTINEL").arg("REPLICAS").arg("main").query(&mut this.connect()?).ok()?;
            // It is promoted only if it is in order.
            let is_in_order = |replica: &HashMap<String, String>| {
                replica["flags"] == "slave" && replica["master-link-status"] == "ok"
            };
            replicas.iter().any(is_in_order).then_some(())
        });
        this
    }

    fn connect(&self) -> Option<redis::Connection> {
        let password = self.password.map(|password| format!(":{password}@")).unwrap_or_default();
        let client = redis::Client::open(format!("redis://{password}127.0.0.1:{}", self.port)).unwrap();
        client.get_connection().ok()
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The configuration table for it.
    pub(crate) fn table(&self) -> String {
        format!("[redis]\nurl = \"redis+sentinel://127.0.0.1:{}/main\"\n", self.port)
    }

    /// The port of the primary that Sentinel names.
    pub(crate) fn primary(&self) -> Option<u16> {
        primary(&mut self.connect()?)
    }

    /// The port of the primary that the Sentinel at `port` names. It has no password.
    pub(crate) fn primary_of(port: u16) -> Option<u16> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
        primary(&mut client.get_connection().ok()?)
    }

    /// Names another server as the primary, without demoting the one that is it.
    pub(crate) fn name_instead(&self, port: u16) {
        let mut sentinel = self.connect().unwrap();
        let _: () = redis::cmd("SENTINEL").arg("REMOVE").arg("main").query(&mut sentinel).unwrap();
        let mut monitor = redis::cmd("SENTINEL");
        monitor.arg("MONITOR").arg("main").arg("127.0.0.1").arg(port).arg(1);
        let _: () = monitor.query(&mut sentinel).unwrap();
    }

    /// Asks for a failover: the replica becomes the primary, and the primary its replica.
    pub(crate) fn fail_over(&self) {
        eventually("Sentinel begins a failover", || {
            let done: Result<String, _> =
                redis::cmd("SENTINEL").arg("FAILOVER").arg("main").query(&mut self.connect()?);
            done.ok()
        });
    }
}

fn primary(sentinel: &mut redis::Connection) -> Option<u16> {
    let mut question = redis::cmd("SENTINEL");
    let answer: Option<(String, u16)> = question.arg("GET-MASTER-ADDR-BY-NAME").arg("main").query(sentinel).ok()?;
    answer.map(|(_, port)| port)
}
