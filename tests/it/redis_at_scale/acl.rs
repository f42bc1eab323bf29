//! A user of Redis with the least rights, and with less.

use crate::support::{Daemon, Folder, RedisServer, Subscription, cluster::Cluster, eventually};

/// The least rights, as docs/redis.md gives them, but for the prefix of the channels.
const LEAST: &[&str] =
    &["&news", "&ssecast:*", "+ping", "+role", "+info", "+subscribe", "+unsubscribe", "+publish", "+multi", "+exec"];
/// What a cluster needs beside them.
const LEAST_IN_CLUSTER: &[&str] = &["+cluster|slots", "+ssubscribe", "+sunsubscribe", "+spublish"];

fn set_user(redis: &RedisServer, rights: &[&str]) {
    let mut command = redis::cmd("ACL");
    command.arg("SETUSER").arg("ssecast").arg("reset").arg("on").arg(">s3cret").arg(rights);
    let _: () = redis.query(&command);
}

fn start(rights: &[&str]) -> (Folder, RedisServer, Daemon) {
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    set_user(&redis, rights);
    let password = folder.write("password", "s3cret\n");
    let url = format!("redis://ssecast@127.0.0.1:{}", redis.port());
    let daemon = Daemon::start(&folder, &format!("[redis]\nurl = {url:?}\npassword_file = {password:?}\n"));
    (folder, redis, daemon)
}

#[test]
fn a_user_with_the_least_rights_delivers_publishes_and_is_upgraded_without_a_gap() {
    needs!("redis-server");
    let (_folder, redis, mut daemon) = start(LEAST);
    let mut stream = Subscription::to(&["news"]).open(daemon.public());
    redis.publish("news", "by Redis");
    daemon.publish("news", "by the admin socket");
    daemon.publish_many("news", ["one", "two"]);
    assert_eq!(stream.texts(4), ["by Redis", "by the admin socket", "one", "two"]);
    daemon.reload();
    redis.publish("news", "after the reload");
    assert_eq!(stream.texts(1), ["after the reload"]);
    let log = daemon.child().log();
    assert!(!log.contains("ACL") && !log.contains("refuses"), "nothing is missing: {log}");
}

#[test]
fn a_user_that_may_not_probe_delivers_and_is_logged_once() {
    needs!("redis-server");
    let rights = ["+ping", "+subscribe", "+unsubscribe", "&news", "&ssecast:*"];
    let (_folder, redis, mut daemon) = start(&rights);
    let words = "Redis's ACL does not allow the probe that checks delivery";
    eventually("it is logged", || daemon.child().log().contains(words).then_some(()));
    let mut stream = Subscription::to(&["news"]).open(daemon.public());
    redis.publish("news", "1");
    assert_eq!(stream.texts(1), ["1"]);
    redis.cut_subscribers();
    stream.gap();
    daemon.wait_until_ready();
    eventually("it is subscribed to again", || (redis.publish("news", "2") == 1).then_some(()));
    assert_eq!(stream.texts(1), ["2"]);
    assert_eq!(daemon.child().log().matches(words).count(), 1);
}

#[test]
fn a_list_fails_where_the_user_may_not_use_transactions_and_single_messages_go_on() {
    needs!("redis-server");
    let rights: Vec<&str> = LEAST.iter().copied().filter(|right| *right != "+multi").collect();
    let (_folder, _redis, daemon) = start(&rights);
    let stream = Subscription::to(&["other"]).request(daemon.public()).send(daemon.public());
    assert_eq!(stream.status(), 403, "a channel that is not allowed: {}", stream.text());
    daemon.publish("news", "one message needs none");
    let list = r#"[{"channel":"news","message":"1"},{"channel":"news","message":"2"}]"#;
    let answer = daemon.post("/publish", "application/json", list);
    assert_eq!((answer.status(), answer.json()["code"].as_str()), (503, Some("maybe_published")));
    daemon.publish("news", "again");
}

#[test]
fn a_user_with_the_least_rights_is_enough_in_a_cluster() {
    needs!("redis-server");
    let (folder, cluster) = (Folder::new(), Cluster::start(0));
    for server in &cluster.servers {
        set_user(server, &[LEAST, LEAST_IN_CLUSTER].concat());
    }
    let password = folder.write("password", "s3cret");
    let url = cluster.table().replace("redis+cluster://", "redis+cluster://ssecast@");
    let tables = format!("{url}password_file = {password:?}\n[history]\nlinger = \"0s\"\n");
    let mut daemon = Daemon::start(&folder, &tables);
    let mut stream = Subscription::to(&["news"]).open(daemon.public());
    cluster.publish("news", "by Redis");
    daemon.publish("news", "by the admin socket");
    assert_eq!(stream.texts(2), ["by Redis", "by the admin socket"]);
    drop(stream);
    eventually("it is unsubscribed", || (0..3).all(|server| cluster.subscribers(server, "news") == 0).then_some(()));
    assert!(!daemon.child().log().contains("ACL"), "{}", daemon.child().log());
}

/// Seen: the answer said that nothing was published, so a publisher that tried again published a part of the list twice.
#[test]
fn a_list_of_which_a_node_of_a_cluster_refuses_a_part_may_be_published() {
    needs!("redis-server");
    let (folder, cluster) = (Folder::new(), Cluster::start(0));
    for server in &cluster.servers {
        set_user(server, &[LEAST, LEAST_IN_CLUSTER].concat());
    }
    let password = folder.write("password", "s3cret");
    let url = cluster.table().replace("redis+cluster://", "redis+cluster://ssecast@");
    let daemon = Daemon::start(&folder, &format!("{url}password_file = {password:?}\n"));
    let mut stream = Subscription::to(&["news"]).open(daemon.public());
    // Both are in one slot.
    let list = r#"[{"channel":"news","message":"1"},{"channel":"{news}other","message":"2"}]"#;
    let answer = daemon.post("/publish", "application/json", list);
    assert_eq!((answer.status(), answer.json()["code"].as_str()), (503, Some("maybe_published")));
    assert_eq!(stream.texts(1), ["1"]);
    let answer = daemon.post("/publish", "application/json", r#"[{"channel":"other","message":"2"}]"#);
    assert_eq!(answer.status(), 403, "none of it: {}", answer.text());
}
