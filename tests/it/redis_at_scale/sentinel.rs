//! A primary with a replica behind Sentinel: the primary is killed, it hangs, it is demoted. Whatever is lost lies under a gap
//! event, and nothing is silent afterwards.

use std::{thread, time::Duration};

use nix::sys::signal::Signal;

use super::numbers::{Numbers, check, read_until};
use crate::support::{Daemon, Folder, RedisServer, Subscription, eventually, publisher::refused, sentinel::Sentinel};

/// Publishes numbers while `fail` makes the replica the primary, until a publish on the admin socket arrives after that.
fn assert_followed(fail: impl FnOnce(&mut Sentinel)) {
    let folder = Folder::new();
    let mut sentinel = Sentinel::start(None);
    let mut daemon = Daemon::start(&folder, &sentinel.table());
    let mut stream = Subscription::to(&["numbers"]).open(daemon.public());
    let own = sentinel.port();
    let numbers = Numbers::begin(move || Sentinel::primary_of(own));
    assert_eq!(stream.texts(1), ["1"]);
    let replica = sentinel.servers[1].port();

    fail(&mut sentinel);
    eventually("Sentinel names the replica", || (sentinel.primary() == Some(replica)).then_some(()));
    eventually("the source follows", || (sentinel.servers[1].subscribers("numbers") == 1).then_some(()));
    daemon.wait_until_ready();
    thread::sleep(Duration::from_millis(500)); // More numbers.
    let mut published = numbers.end();
    let answer = daemon.post_form(&[("channel", "numbers"), ("message", "last")]);
    assert_eq!(answer.status(), 200, "publishes follow as well");
    published.retain(|number| *number > 1);
    let events = read_until(&mut stream, "last");
    let (missing, gaps) = check(&events, &published);
    assert!((1..=3).contains(&gaps), "{gaps} gap events");
    println!("{missing} of {} numbers were lost, under {gaps} gap events", published.len());
}

#[test]
fn a_killed_primary_is_replaced_and_losses_lie_under_a_gap() {
    needs!("redis-server");
    assert_followed(|sentinel| sentinel.servers[0].kill());
}

#[test]
fn a_primary_that_hangs_is_replaced_and_losses_lie_under_a_gap() {
    needs!("redis-server");
    assert_followed(|sentinel| {
        sentinel.servers[0].child().signal(Signal::SIGSTOP);
        let replica = sentinel.servers[1].port();
        eventually("Sentinel names the replica", || (sentinel.primary() == Some(replica)).then_some(()));
        sentinel.servers[0].child().signal(Signal::SIGCONT);
    });
}

#[test]
fn a_primary_that_sentinel_demotes_is_replaced_and_losses_lie_under_a_gap() {
    needs!("redis-server");
    assert_followed(|sentinel| sentinel.fail_over());
}

/// As behind a network that is cut: the old primary does not learn that it was replaced. It takes 10 to 15 seconds, since
/// publishers may still be at the old primary.
#[test]
fn a_primary_that_is_replaced_but_not_demoted_is_left_after_a_while() {
    needs!("redis-server");
    let (folder, other_folder) = (Folder::new(), Folder::new());
    let sentinel = Sentinel::start(None);
    let other = RedisServer::start(&other_folder);
    let mut daemon = Daemon::start(&folder, &sentinel.table());
    let mut stream = Subscription::to(&["numbers"]).open(daemon.public());
    sentinel.name_instead(other.port());
    sentinel.servers[0].publish("numbers", "1");
    assert_eq!(stream.texts(1), ["1"], "a publisher that is still at the old primary");
    let port = other.port();
    let numbers = Numbers::begin(move || Some(port));
    eventually("the source follows", || (other.subscribers("numbers") == 1).then_some(()));
    daemon.wait_until_ready();
    let words = "Sentinel names another primary";
    eventually("the log says why", || daemon.child().log().contains(words).then_some(()));
    let published = numbers.end();
    assert_eq!(daemon.post_form(&[("channel", "numbers"), ("message", "last")]).status(), 200);
    let (missing, gaps) = check(&read_until(&mut stream, "last"), &published);
    assert!(missing > 0 && gaps == 1, "{missing} lost, {gaps} gap events");
}

#[test]
fn sentinel_has_a_password_of_its_own() {
    needs!("redis-server");
    let folder = Folder::new();
    let sentinel = Sentinel::start(Some("s3ntinel"));
    let file = folder.write("password", "s3ntinel\n");
    let table = format!("{}sentinel_password_file = {file:?}\n", sentinel.table());
    let daemon = Daemon::start(&folder, &table);
    let mut stream = Subscription::to(&["cats"]).open(daemon.public());
    daemon.publish("cats", "meow");
    assert_eq!(stream.texts(1), ["meow"]);
}

#[test]
fn a_name_that_sentinel_does_not_know_is_reported_with_each_sentinel() {
    needs!("redis-server");
    let folder = Folder::new();
    let sentinel = Sentinel::start(None);
    // Nobody listens on port 1.
    let url = format!("redis+sentinel://127.0.0.1:1,127.0.0.1:{}/other", sentinel.port());
    let daemon = Daemon::start_unready(&folder, &format!("[redis]\nurl = {url:?}\n"));
    let said = eventually("/readyz says why", || {
        let text = daemon.admin_get("/readyz").text();
        text.contains("no Sentinel names the primary").then_some(text)
    });
    assert!(
        said.contains("127.0.0.1:1: Connection refused") && said.contains("it knows no primary of this name"),
        "{said}"
    );
    refused(daemon.post_form(&[("channel", "cats"), ("message", "m")]), 503);
}
