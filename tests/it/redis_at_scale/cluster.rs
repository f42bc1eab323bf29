//! A Redis Cluster: sharded channels, slots that move, nodes that are killed.

use crate::support::{Daemon, Folder, Gap, Stream, Subscription, cluster::Cluster, eventually};

/// A channel in the slots of each primary.
const OF_NODES: [&str; 3] = ["b", "c", "a"];

fn source_gap(channels: &[&str]) -> Gap {
    Gap { channels: channels.iter().map(|&name| name.to_owned()).collect(), reason: "source".to_owned() }
}

fn start(replicas: usize) -> (Folder, Cluster, Daemon) {
    let (folder, cluster) = (Folder::new(), Cluster::start(replicas));
    for (node, channel) in OF_NODES.iter().enumerate() {
        assert_eq!(usize::from(cluster.slot(channel) / 5462), node, "{channel}");
    }
    let daemon = Daemon::start(&folder, &cluster.table());
    (folder, cluster, daemon)
}

fn open(daemon: &Daemon) -> Stream {
    Subscription::to(&OF_NODES).open(daemon.public())
}

/// Publishes on each channel, at its node and on the admin socket, and asserts that all arrive.
fn assert_delivers(cluster: &Cluster, daemon: &Daemon, stream: &mut Stream) {
    for channel in OF_NODES {
        let text = format!("for {channel}");
        eventually("a node takes it", || (cluster.publish(channel, &text)? == 1).then_some(()));
        assert_eq!(stream.texts(1), [text]);
        daemon.publish(channel, "by the admin socket");
        assert_eq!(stream.texts(1), ["by the admin socket"]);
    }
}

#[test]
fn each_channel_is_subscribed_to_at_its_node_only() {
    needs!("redis-server");
    let (_folder, cluster, daemon) = start(0);
    let mut stream = open(&daemon);
    for (node, channel) in OF_NODES.iter().enumerate() {
        let subscribers = [0, 1, 2].map(|server| cluster.subscribers(server, channel));
        assert_eq!(subscribers.iter().position(|count| *count == 1), Some(node), "{channel}: {subscribers:?}");
        assert_eq!(subscribers.iter().sum::<usize>(), 1);
    }
    assert_delivers(&cluster, &daemon, &mut stream);
    let list = r#"[{"channel":"a","message":"1"},{"channel":"b","message":"2"},{"channel":"a","message":"3"}]"#;
    assert_eq!(daemon.post("/publish", "application/json", list).status(), 200);
    let mut texts = stream.texts(3);
    assert!(texts.iter().position(|text| text == "1") < texts.iter().position(|text| text == "3"), "{texts:?}");
    texts.sort();
    assert_eq!(texts, ["1", "2", "3"]);
}

#[test]
fn a_channel_without_clients_is_unsubscribed_at_its_node() {
    needs!("redis-server");
    let (folder, cluster) = (Folder::new(), Cluster::start(0));
    let daemon = Daemon::start(&folder, &format!("{}[history]\nlinger = \"0s\"\n", cluster.table()));
    for _ in 0..3 {
        let stream = open(&daemon);
        assert_eq!(cluster.subscribers(2, "a"), 1);
        drop(stream);
        eventually("it is unsubscribed", || (cluster.subscribers(2, "a") == 0).then_some(()));
    }
    let mut stream = open(&daemon);
    assert_delivers(&cluster, &daemon, &mut stream);
}

#[test]
fn a_slot_that_moves_costs_its_channels_a_gap_and_no_others() {
    needs!("redis-server");
    let (_folder, cluster, mut daemon) = start(0);
    let mut moved = Subscription::to(&["a"]).open(daemon.public());
    let mut others = Subscription::to(&["b", "c"]).open(daemon.public());
    for (from, to) in [(2, 0), (0, 1)] {
        cluster.move_slot(cluster.slot("a"), from, to);
        eventually("it is subscribed to at the new owner", || (cluster.subscribers(to, "a") == 1).then_some(()));
        assert_eq!(moved.gap(), source_gap(&["a"]));
        daemon.publish("a", "after the move");
        loop {
            let event = moved.event();
            if event.gap().is_none() {
                assert_eq!(event.text(), "after the move");
                break;
            }
        }
        cluster.publish("b", "without a gap");
        assert_eq!(others.texts(1), ["without a gap"]);
    }
    let words = "slots of the Redis Cluster have moved";
    eventually("the log says why", || daemon.child().log().contains(words).then_some(()));
}

#[test]
fn a_killed_node_is_named_and_costs_a_gap_once_it_is_replaced() {
    needs!("redis-server");
    let (_folder, mut cluster, mut daemon) = start(1);
    let mut stream = open(&daemon);
    let port = cluster.servers[0].port();
    cluster.servers[0].kill();
    eventually("/readyz names the node", || {
        daemon.admin_get("/readyz").text().contains(&port.to_string()).then_some(())
    });
    // The replica takes over.
    daemon.wait_until_ready();
    let mut gap = stream.gap();
    gap.channels.sort();
    assert_eq!(gap, source_gap(&["a", "b", "c"]));
    eventually("it is subscribed to at the replica", || (cluster.subscribers(3, "b") == 1).then_some(()));
    assert_delivers(&cluster, &daemon, &mut stream);
}

#[test]
fn a_node_that_is_killed_and_started_again_costs_a_gap() {
    needs!("redis-server");
    let (_folder, mut cluster, mut daemon) = start(0);
    let mut stream = open(&daemon);
    cluster.servers[1].kill();
    eventually("it is not ready", || (daemon.admin_get("/readyz").status() == 503).then_some(()));
    cluster.servers[1].start_again();
    cluster.wait_until_all_is_well(3);
    daemon.wait_until_ready();
    let mut gap = stream.gap();
    gap.channels.sort();
    assert_eq!(gap, source_gap(&["a", "b", "c"]));
    assert_delivers(&cluster, &daemon, &mut stream);
}

#[test]
fn without_sharding_a_publish_at_any_node_arrives() {
    needs!("redis-server");
    let (folder, cluster) = (Folder::new(), Cluster::start(0));
    let mut daemon = Daemon::start(&folder, &format!("{}sharded = false\n", cluster.table()));
    let mut stream = open(&daemon);
    for (number, server) in cluster.servers.iter().enumerate() {
        server.publish("a", number.to_string());
        assert_eq!(stream.texts(1), [number.to_string()]);
    }
    daemon.publish("a", "by the admin socket");
    assert_eq!(stream.texts(1), ["by the admin socket"]);
    // Nodes have no common order that a marker could divide.
    daemon.reload();
    let mut gap = stream.gap();
    gap.channels.sort();
    assert_eq!(gap.channels, ["a", "b", "c"]);
    cluster.servers[1].publish("a", "after the reload");
    assert_eq!(stream.texts(1), ["after the reload"]);
    let words = "the nodes of a Redis Cluster have no common order";
    eventually("the log says why", || daemon.child().log().contains(words).then_some(()));
}

#[test]
fn a_server_that_is_no_node_of_a_cluster_is_reported() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = crate::support::RedisServer::start(&folder);
    let url = format!("redis+cluster://127.0.0.1:{}", redis.port());
    let daemon = Daemon::start_unready(&folder, &format!("[redis]\nurl = {url:?}\n"));
    eventually("/readyz says why", || {
        daemon.admin_get("/readyz").text().contains("it is no node of a cluster").then_some(())
    });
}
