//! Redis disconnects and reconnects: connected clients get one gap event each, and events again.

use nix::sys::signal::Signal;

use super::{open, start, wait_until_not_ready};
use crate::support::{Daemon, Folder, Gap, RedisServer, Subscription, eventually, publisher::refused};

pub(super) fn source_gap(channels: &[&str]) -> Gap {
    Gap { channels: channels.iter().map(|&name| name.to_owned()).collect(), reason: "source".to_owned() }
}

#[test]
fn a_killed_and_restarted_redis_costs_each_client_one_gap() {
    needs!("redis-server");
    let (_folder, mut redis, mut daemon) = start("");
    let mut live = open(&daemon, &["cats", "dogs"]);
    let mut left = open(&daemon, &["cats"]);
    redis.publish("cats", "1");
    assert_eq!((live.texts(1), left.texts(1)), (vec!["1".to_owned()], vec!["1".to_owned()]));
    let cursor = left.last_event_id();
    drop(left);

    redis.kill();
    assert!(wait_until_not_ready(&daemon).to_lowercase().contains("redis"), "it names what is not ready");
    assert_eq!(daemon.admin_get("/healthz").status(), 200, "it still serves");
    let mut opened_meanwhile = open(&daemon, &["birds"]);
    let refusal = daemon.post_form(&[("channel", "cats"), ("message", "lost?")]);
    assert!(refusal.header("retry-after").is_some());
    refused(refusal, 503);

    redis.start_again();
    daemon.wait_until_ready();
    let mut gap = live.gap();
    gap.channels.sort();
    assert_eq!(gap, source_gap(&["cats", "dogs"]));
    assert_eq!(opened_meanwhile.gap(), source_gap(&["birds"]), "a stream opened meanwhile begins with a gap");
    for channel in ["birds", "cats", "dogs"] {
        eventually("all channels are subscribed again", || (redis.subscribers(channel) == 1).then_some(()));
        redis.publish(channel, channel);
    }
    assert_eq!(live.texts(2), ["cats", "dogs"]);
    assert_eq!(opened_meanwhile.texts(1), ["birds"]);

    let mut resumed = Subscription::to(&["cats"]).after(&cursor).open(daemon.public());
    assert_eq!(resumed.gap(), source_gap(&["cats"]));
    assert_eq!(resumed.texts(1), ["cats"]);
    let mut resumed = Subscription::to(&["dogs"]).after(&live.last_event_id()).open(daemon.public());
    redis.publish("dogs", "no second gap");
    assert_eq!(resumed.texts(1), ["no second gap"]);
}

#[test]
fn a_cut_redis_connection_is_made_again() {
    needs!("redis-server");
    let (_folder, redis, mut daemon) = start("");
    let mut stream = open(&daemon, &["cats"]);
    for round in 0..5 {
        redis.cut_subscribers();
        assert_eq!(stream.gap(), source_gap(&["cats"]));
        daemon.wait_until_ready();
        eventually("it is subscribed to again", || (redis.subscribers("cats") == 1).then_some(()));
        redis.publish("cats", round.to_string());
        assert_eq!(stream.texts(1), [round.to_string()]);
    }
}

#[test]
fn a_daemon_may_start_before_its_redis() {
    needs!("redis-server");
    let folder = Folder::new();
    let mut redis = RedisServer::start(&folder);
    redis.kill();
    let mut daemon = Daemon::start_unready(&folder, &redis.table());
    assert_eq!(daemon.admin_get("/readyz").status(), 503);
    let mut stream = open(&daemon, &["cats"]);
    redis.start_again();
    daemon.wait_until_ready();
    assert_eq!(stream.gap(), source_gap(&["cats"]));
    eventually("it is subscribed to", || (redis.subscribers("cats") == 1).then_some(()));
    redis.publish("cats", "1");
    assert_eq!(stream.texts(1), ["1"]);
}

#[test]
fn a_publish_while_redis_is_disconnected_is_refused() {
    needs!("redis-server");
    let (_folder, mut redis, mut daemon) = start("");
    let mut stream = open(&daemon, &["cats"]);
    redis.kill();
    wait_until_not_ready(&daemon);
    for response in [
        daemon.post_form(&[("channel", "cats"), ("message", "m")]),
        daemon.post("/publish/cats", "", "m"),
        daemon.post("/publish", "application/json", r#"{"channel":"cats","message":"m"}"#),
    ] {
        assert!(response.header("retry-after").is_some());
        refused(response, 503);
    }
    redis.start_again();
    daemon.wait_until_ready();
    assert_eq!(stream.gap(), source_gap(&["cats"]));
    daemon.publish("cats", "accepted");
    assert_eq!(stream.texts(1), ["accepted"], "the refused message was not published");
}

#[test]
fn a_publish_right_after_redis_died_is_refused() {
    needs!("redis-server");
    let (_folder, mut redis, mut daemon) = start("");
    let stream = open(&daemon, &["cats"]);
    redis.kill();
    // The daemon may not know yet that Redis is dead, but must not accept the message.
    let response = daemon.post_form(&[("channel", "cats"), ("message", "m")]);
    refused(response, 503);
    redis.start_again();
    daemon.wait_until_ready();
    drop(stream);
}

#[test]
fn a_redis_that_hangs_counts_as_disconnected() {
    needs!("redis-server");
    let (_folder, mut redis, mut daemon) = start("");
    let mut live = open(&daemon, &["cats"]);
    redis.child().signal(Signal::SIGSTOP);
    let refusal = daemon.post_form(&[("channel", "cats"), ("message", "m")]);
    assert!(refusal.header("retry-after").is_some());
    refused(refusal, 503);
    wait_until_not_ready(&daemon);
    let mut opened_meanwhile = open(&daemon, &["dogs"]);
    redis.child().signal(Signal::SIGCONT);
    daemon.wait_until_ready();
    assert_eq!((live.gap(), opened_meanwhile.gap()), (source_gap(&["cats"]), source_gap(&["dogs"])));
    for (stream, channel) in [(&mut live, "cats"), (&mut opened_meanwhile, "dogs")] {
        eventually("it is subscribed to again", || (redis.publish(channel, "back") == 1).then_some(()));
        eventually("the event", || (stream.event().text() == "back").then_some(()));
    }
}
