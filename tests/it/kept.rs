//! Channels that a rule keeps always: what is published before the first client joins, through losses and reloads.

use crate::support::{Daemon, Folder, RedisServer, Stream, Subscription, eventually};

/// All channels of `news.*` are kept always, except one.
pub(crate) const ALWAYS: &str =
    "[[channel]]\nmatch = \"news.secret\"\n[[channel]]\nmatch = \"news.*\"\nkeep = \"always\"\n";

fn start(tables: &str) -> (Folder, RedisServer, Daemon) {
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let daemon = Daemon::start(&folder, &format!("{}{tables}", redis.table()));
    (folder, redis, daemon)
}

/// Number of patterns that are subscribed to.
pub(crate) fn patterns(redis: &RedisServer) -> usize {
    redis.query(redis::cmd("PUBSUB").arg("NUMPAT"))
}

/// An id of now.
fn now(daemon: &Daemon) -> String {
    Subscription::to(&["elsewhere"]).open(daemon.public()).last_event_id()
}

fn resume(daemon: &Daemon, channel: &str, id: &str) -> Stream {
    Subscription::to(&[channel]).after(id).open(daemon.public())
}

#[test]
fn what_is_published_before_the_first_client_joins_can_be_asked_for() {
    needs!("redis-server");
    let (_folder, redis, daemon) = start(&format!("[process]\nworkers = 2\n{ALWAYS}"));
    assert_eq!(patterns(&redis), 1, "subscribed before it was ready");
    let id = now(&daemon);
    for number in 0..3 {
        assert_eq!(redis.publish("news.1", number.to_string()), 1);
    }
    assert_eq!(redis.publish("cats", "lost"), 0);
    // Several times, so that both shards are asked.
    for _ in 0..4 {
        assert_eq!(resume(&daemon, "news.1", &id).texts(3), ["0", "1", "2"]);
        let mut asks_for_nothing = Subscription::to(&["news.1", "cats"]).open(daemon.public());
        assert_eq!(asks_for_nothing.last_event_id().split('-').next(), id.split('-').next());
        assert_eq!(asks_for_nothing.arrived(), []);
        assert_eq!(resume(&daemon, "cats", &id).gap().channels, ["cats"]);
    }
    assert_eq!(redis.subscribers("news.1"), 0, "it needs no subscription of its own");
    let all: Vec<String> = resume(&daemon, "news.1", "0").events(4).iter().skip(1).map(|event| event.text()).collect();
    assert_eq!(all, ["0", "1", "2"], "after the gap event");
}

#[test]
fn a_channel_that_an_earlier_rule_excepts_gets_each_event_once_and_is_not_kept() {
    needs!("redis-server");
    let (_folder, redis, daemon) = start(ALWAYS);
    let id = now(&daemon);
    redis.publish("news.secret", "lost");
    redis.publish("news.2", "passed");
    assert_eq!(resume(&daemon, "news.2", &id).texts(1), ["passed"], "all before it has been passed as well");
    let mut stream = resume(&daemon, "news.secret", &id);
    assert_eq!(stream.gap().channels, ["news.secret"]);
    let mut both = Subscription::to(&["news.secret", "news.1"]).open(daemon.public());
    for number in 0..20 {
        assert_eq!(redis.publish("news.secret", number.to_string()), 2, "by its name, and by the pattern");
        redis.publish("news.1", number.to_string());
    }
    let numbers: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    assert_eq!(stream.texts(20), numbers);
    assert_eq!(both.texts(40), numbers.iter().flat_map(|number| [number.clone(), number.clone()]).collect::<Vec<_>>());
}

#[test]
fn a_disconnection_is_a_gap_for_who_asks_for_what_was_published_meanwhile() {
    needs!("redis-server");
    let (_folder, mut redis, daemon) = start(ALWAYS);
    let before = now(&daemon);
    redis.publish("news.1", "1");
    let mut stream = resume(&daemon, "news.1", &before);
    assert_eq!(stream.texts(1), ["1"]);
    redis.kill();
    eventually("it is disconnected", || (daemon.admin_get("/readyz").status() == 503).then_some(()));
    redis.start_again();
    eventually("it is connected", || (daemon.admin_get("/readyz").status() == 200).then_some(()));
    let gap = stream.gap();
    assert_eq!((gap.channels, gap.reason.as_str()), (vec!["news.1".to_owned()], "source"));
    redis.publish("news.1", "2");
    redis.publish("news.2", "3");
    assert_eq!(stream.texts(1), ["2"]);
    let mut resumed = resume(&daemon, "news.1", &before);
    assert_eq!(resumed.event().text(), "1");
    assert_eq!(resumed.gap().reason, "source");
    assert_eq!(resumed.texts(1), ["2"]);
    let mut other = resume(&daemon, "news.2", &before);
    assert_eq!(other.gap().channels, ["news.2"]);
    assert_eq!(other.texts(1), ["3"]);
}

#[test]
fn redis_may_be_down_at_the_start() {
    needs!("redis-server");
    let folder = Folder::new();
    let mut redis = RedisServer::start(&folder);
    redis.kill();
    let daemon = Daemon::start_unready(&folder, &format!("{}{ALWAYS}", redis.table()));
    eventually("it serves", || (daemon.admin_get("/healthz").status() == 200).then_some(()));
    let mut early = Subscription::to(&["news.1"]).open(daemon.public());
    let id = early.last_event_id();
    redis.start_again();
    assert_eq!(early.gap().channels, ["news.1"]);
    redis.publish("news.2", "x");
    let mut stream = resume(&daemon, "news.2", &id);
    assert_eq!(stream.gap().channels, ["news.2"]);
    assert_eq!(stream.texts(1), ["x"]);
}

#[test]
fn wildcards_in_the_prefix_stand_for_themselves() {
    needs!("redis-server");
    let (_folder, redis, daemon) = start(&format!("prefix = 'a*b?[c]\\:'\n{ALWAYS}"));
    let id = now(&daemon);
    assert_eq!(redis.publish("axbyc:news.1", "another program's"), 0);
    assert_eq!(redis.publish("a*b?[c]\\:news.1", "ours"), 1);
    assert_eq!(resume(&daemon, "news.1", &id).texts(1), ["ours"]);
}

#[test]
fn a_pattern_that_redis_refuses_is_a_403() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let mut command = redis::cmd("ACL");
    command.arg("SETUSER").arg("daemon").arg("on").arg(">secret").arg("+@all").arg("~*").arg("resetchannels");
    let _: () = redis.query(command.arg("&cats").arg("&ssecast:*"));
    let url = format!("[redis]\nurl = \"redis://daemon:secret@127.0.0.1:{}\"\n", redis.port());
    let daemon = Daemon::start(&folder, &format!("{url}{ALWAYS}"));
    let answer = Subscription::to(&["news.1"]).request(daemon.public()).send(daemon.public());
    assert_eq!(answer.status(), 403, "{}", answer.text());
    let mut cats = Subscription::to(&["cats"]).open(daemon.public());
    redis.publish("cats", "meow");
    assert_eq!(cats.texts(1), ["meow"], "other channels are not touched");
}
