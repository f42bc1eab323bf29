//! A Redis Cluster of three primaries, each with a third of the slots, and replicas if a test needs them. Each server has its own
//! folder.

use super::{Folder, RedisServer, eventually, free_port};

const SLOTS: [(u16, u16); 3] = [(0, 5460), (5461, 10922), (10923, 16383)];

pub(crate) struct Cluster {
    /// The primaries, and then the replicas.
    pub(crate) servers: Vec<RedisServer>,
    _folders: Vec<Folder>,
}

impl Cluster {
    /// Starts the servers, and waits until all know each other. `replicas`: how many replicas the first primary has.
    pub(crate) fn start(replicas: usize) -> Self {
        let (mut servers, mut folders) = (Vec::new(), Vec::new());
        let mut ports = Vec::new();
        for _ in 0..3 + replicas {
            let (folder, port) = (Folder::new(), free_port().to_string());
            let options = [
                "--cluster-enabled",
                "yes",
                "--cluster-node-timeout",
                "1500",
                "--cluster-port",
                &port,
                "--repl-diskless-sync-delay",
                "0",
            ];
            servers.push(RedisServer::start_with_options(&folder, &options));
            folders.push(folder);
            ports.push(port);
        }
        let this = Self { servers, _folders: folders };
        for (server, (first, last)) in this.servers.iter().zip(SLOTS) {
            let _: () = server.query(redis::cmd("CLUSTER").arg("ADDSLOTSRANGE").arg(first).arg(last));
        }
        for (epoch, server) in this.servers.iter().enumerate() {
            let _: () = server.query(redis::cmd("CLUSTER").arg("SET-CONFIG-EPOCH").arg(epoch + 1));
        }
        for (other, port) in this.servers.iter().zip(&ports).skip(1) {
            let mut meet = redis::cmd("CLUSTER");
            meet.arg("MEET").arg("127.0.0.1").arg(other.port()).arg(port);
            let _: () = this.servers[0].query(&meet);
        }
        this.wait_until_all_is_well(this.servers.len());
        let id = this.id(0);
        for replica in &this.servers[3..] {
            let _: () = replica.query(redis::cmd("CLUSTER").arg("REPLICATE").arg(&id));
        }
        for replica in &this.servers[3..] {
            eventually("the replica is in order", || {
                let info: String = replica.try_query(redis::cmd("INFO").arg("replication"))?;
                info.contains("master_link_status:up").then_some(())
            });
        }
        this
    }

    /// Waits until every server that answers says that all slots are served, and knows `known` nodes.
    pub(crate) fn wait_until_all_is_well(&self, known: usize) {
        for server in &self.servers {
            eventually("the cluster is in order", || {
                let info: String = server.try_query(redis::cmd("CLUSTER").arg("INFO"))?;
                let knows_all = info.contains(&format!("cluster_known_nodes:{known}\r"));
                (info.contains("cluster_state:ok") && knows_all).then_some(())
            });
        }
    }

    fn id(&self, server: usize) -> String {
        self.servers[server].query(redis::cmd("CLUSTER").arg("MYID"))
    }

    /// The configuration table for it.
    pub(crate) fn table(&self) -> String {
        let hosts: Vec<String> = self.servers.iter().map(|server| format!("127.0.0.1:{}", server.port())).collect();
        format!("[redis]\nurl = \"redis+cluster://{}\"\n", hosts.join(","))
    }

    /// The slot of a channel.
    pub(crate) fn slot(&self, channel: &str) -> u16 {
        self.servers[2].query(redis::cmd("CLUSTER").arg("KEYSLOT").arg(channel))
    }

    /// `SPUBLISH`, at the node that takes it. Returns the number of subscribers; `None` if no node takes it.
    pub(crate) fn publish(&self, channel: &str, message: &str) -> Option<usize> {
        let mut publish = redis::cmd("SPUBLISH");
        publish.arg(channel).arg(message);
        self.servers.iter().find_map(|server| server.try_query(&publish))
    }

    /// Number of connections to a server that are subscribed to a channel by SSUBSCRIBE.
    pub(crate) fn subscribers(&self, server: usize, channel: &str) -> usize {
        let counts: Option<(String, usize)> =
            self.servers[server].try_query(redis::cmd("PUBSUB").arg("SHARDNUMSUB").arg(channel));
        counts.map_or(0, |(_, count)| count)
    }

    /// Moves a slot, which has no keys, to another primary.
    pub(crate) fn move_slot(&self, slot: u16, from: usize, to: usize) {
        let id = self.id(to);
        let mut set = redis::cmd("CLUSTER");
        set.arg("SETSLOT").arg(slot).arg("NODE").arg(&id);
        // The new owner first, so that the slot always has one.
        for server in [to, from] {
            let _: () = self.servers[server].query(&set);
        }
    }
}
