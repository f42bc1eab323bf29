//! A user of Redis with the least rights, and with less.

use crate::support::{Daemon, Folder, RedisServer, Subscription, eventually};

/// The least rights, as docs/sources.md gives them, but for the password and `redis.prefix`.
const LEAST: &[&str] =
    &["+ping", "+role", "+subscribe", "+unsubscribe", "+publish", "+multi", "+exec", "&news", "&ssecast:*"];

fn start(rights: &[&str]) -> (Folder, RedisServer, Daemon) {
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let mut command = redis::cmd("ACL");
    command.arg("SETUSER").arg("ssecast").arg("reset").arg("on").arg(">s3cret").arg(rights);
    let _: () = redis.query(&command);
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
