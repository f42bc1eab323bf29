//! A server that answers PING and says that it is a primary, while publishers are at another one.

use super::numbers::{Numbers, check, read_until};
use crate::support::{Daemon, Folder, RedisServer, Subscription, eventually, relay::Relay};

/// 667 of 667 events were lost in such a case, with `/readyz` at 200 and without a gap event.
#[test]
fn a_server_whose_address_has_moved_is_noticed_by_the_probe_though_it_answers_ping() {
    needs!("redis-server");
    let (folder, other_folder) = (Folder::new(), Folder::new());
    let (before, after) = (RedisServer::start(&folder), RedisServer::start(&other_folder));
    let relay = Relay::start(before.port());
    let mut daemon = Daemon::start(&folder, &format!("[redis]\nurl = \"redis://127.0.0.1:{}\"\n", relay.port()));
    let mut stream = Subscription::to(&["numbers"]).open(daemon.public());
    relay.lead_to(after.port());
    let port = after.port();
    let numbers = Numbers::begin(move || Some(port));
    eventually("/readyz says why", || {
        daemon.admin_get("/readyz").text().contains("what is published does not arrive").then_some(())
    });
    eventually("it is subscribed at the other server", || (after.subscribers("numbers") == 1).then_some(()));
    daemon.wait_until_ready();
    let published = numbers.end();
    daemon.publish("numbers", "last");
    let (missing, gaps) = check(&read_until(&mut stream, "last"), &published);
    assert!(missing > 0 && gaps == 1, "{missing} lost, {gaps} gap events");
}

#[test]
fn a_server_that_is_demoted_while_its_address_moves_is_left_for_the_primary() {
    needs!("redis-server");
    let (folder, other_folder) = (Folder::new(), Folder::new());
    let (before, after) = (RedisServer::start(&folder), RedisServer::start(&other_folder));
    let relay = Relay::start(before.port());
    let mut daemon = Daemon::start(&folder, &format!("[redis]\nurl = \"redis://127.0.0.1:{}\"\n", relay.port()));
    let mut stream = Subscription::to(&["numbers"]).open(daemon.public());
    relay.lead_to(after.port());
    let _: () = before.query(redis::cmd("REPLICAOF").arg("127.0.0.1").arg(after.port()));
    let port = after.port();
    let numbers = Numbers::begin(move || Some(port));
    eventually("it is subscribed at the other server", || (after.subscribers("numbers") == 1).then_some(()));
    daemon.wait_until_ready();
    let published = numbers.end();
    daemon.publish("numbers", "last");
    let (_, gaps) = check(&read_until(&mut stream, "last"), &published);
    assert_eq!(gaps, 1);
}
