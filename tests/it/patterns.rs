//! Patterns: a client reads all channels that match. Each event says its channel, comes once, and is resumed as on a channel.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    kept::patterns,
    support::{Daemon, Folder, RedisServer, Request, Stream, Subscription, eventually},
};

const ALLOWED: &str = "[[channel]]\nmatch = \"*\"\npatterns = true\n";

fn start(tables: &str) -> (Folder, RedisServer, Daemon) {
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let daemon = Daemon::start(&folder, &format!("{}{tables}", redis.table()));
    (folder, redis, daemon)
}

fn open(daemon: &Daemon, channels: &[&str]) -> Stream {
    Subscription::to(channels).open(daemon.public())
}

/// The next `count` events, each as `channel=data`. Panics at a gap.
pub(crate) fn events(stream: &mut Stream, count: usize) -> Vec<String> {
    let event = |text: &String| {
        let envelope: Value = serde_json::from_str(text).unwrap();
        format!("{}={}", envelope["channel"].as_str().unwrap(), envelope["data"].as_str().unwrap())
    };
    stream.texts(count).iter().map(event).collect()
}

#[test]
fn a_pattern_is_a_403_unless_the_rules_of_all_its_channels_allow_it() {
    let folder = Folder::new();
    let mut daemon = Daemon::start(&folder, "");
    let answer = |daemon: &Daemon, pattern: &str| {
        let answer = Subscription::to(&[pattern]).request(daemon.public()).send(daemon.public());
        (answer.status(), answer.text())
    };
    let (status, text) = answer(&daemon, "news.*");
    assert_eq!(status, 403, "closed by default");
    assert!(text.contains(r#""code":"pattern_not_allowed""#) && text.contains("set patterns = true in"), "{text}");
    daemon.configure("[[channel]]\nmatch = \"news.secret\"\n[[channel]]\nmatch = \"news.*\"\npatterns = true\n");
    daemon.reload();
    assert_eq!(["news.*", "*", "n*", "cats.*"].map(|pattern| answer(&daemon, pattern).0), [403; 4]);
    let mut stream = open(&daemon, &["news.d*"]);
    daemon.publish("news.de", "1");
    assert_eq!(events(&mut stream, 1), ["news.de=1"]);
    let (status, text) = answer(&daemon, "news.?");
    assert!(status == 400 && text.contains("bad_channel"), "{text}");
    let (status, text) = answer(&daemon, "ssecast:*");
    assert!(status == 400 && text.contains("reserved_channel"), "{text}");
}

#[test]
fn each_event_says_its_channel_in_streams_and_polls() {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, ALLOWED);
    let mut stream = open(&daemon, &["news.d*", "cats"]);
    let id = stream.last_event_id();
    let mut plain = {
        let target = format!("{}?channels=news.d*&envelope=0", daemon.public().base());
        Stream::new(Request::get(target).header("Accept", "text/event-stream").send(daemon.public()))
    };
    plain.last_event_id();
    for (channel, data) in [("news.de", "1"), ("cats", "2"), ("news.dk", "3"), ("news.fr", "4")] {
        daemon.publish(channel, data);
    }
    assert_eq!(events(&mut stream, 3), ["news.de=1", "cats=2", "news.dk=3"]);
    assert_eq!(plain.texts(2), ["1", "3"]);
    let target = format!("{}?channels=news.d*&last_event_id={id}", daemon.public().base());
    let poll = Request::get(target).header("Connection", "close").header("Accept", "application/json");
    let answer = poll.send(daemon.public()).json();
    let got: Vec<Value> = answer["events"].as_array().unwrap().iter().map(|event| event["channel"].clone()).collect();
    assert_eq!(got, [json!("news.de"), json!("news.dk")]);
}

#[test]
fn an_event_that_several_subscriptions_of_a_client_match_comes_once() {
    needs!("redis-server");
    let (_folder, redis, daemon) = start(&format!("[process]\nworkers = 2\n{ALLOWED}"));
    let mut streams: Vec<Stream> = (0..4).map(|_| open(&daemon, &["a*", "*b", "axb", "c"])).collect();
    let mut named = open(&daemon, &["axb"]);
    let names = ["axb", "c", "ab", "zb", "az", "zz"];
    for (number, channel) in names.iter().enumerate() {
        redis.publish(channel, number.to_string());
    }
    for stream in &mut streams {
        assert_eq!(events(stream, 5), ["axb=0", "c=1", "ab=2", "zb=3", "az=4"]);
    }
    assert_eq!(named.texts(1), ["0"]);
    let answer = daemon.publish("axb", "5");
    assert_eq!(answer.subscribers, 5, "each client counts once");
    assert!(streams.iter_mut().all(|stream| events(stream, 1) == ["axb=5"]));
    assert_eq!(named.texts(1), ["5"]);
}

#[test]
fn a_pattern_is_subscribed_on_demand_and_unsubscribed_after_its_linger() {
    needs!("redis-server");
    let (_folder, redis, daemon) = start(&format!("[history]\nlinger = \"300ms\"\n{ALLOWED}"));
    assert_eq!(patterns(&redis), 0);
    let mut stream = open(&daemon, &["a*"]);
    assert_eq!((patterns(&redis), redis.publish("ab", "1")), (1, 1));
    assert_eq!(events(&mut stream, 1), ["ab=1"]);
    let id = stream.last_event_id();
    drop(stream);
    redis.publish("ac", "2");
    let mut stream = Subscription::to(&["a*"]).after(&id).open(daemon.public());
    assert_eq!(events(&mut stream, 1), ["ac=2"], "within the linger nothing is lost");
    drop(stream);
    eventually("it is unsubscribed", || (patterns(&redis) == 0).then_some(()));
    redis.publish("ac", "lost");
    let mut stream = Subscription::to(&["a*"]).after(&id).open(daemon.public());
    assert_eq!(stream.gap().channels, ["a*"]);
    redis.publish("ad", "3");
    assert_eq!(events(&mut stream, 1), ["ad=3"]);
}

#[test]
fn what_was_kept_of_channels_is_given_to_the_first_client_of_a_pattern() {
    needs!("redis-server");
    let (_folder, redis, daemon) =
        start("[[channel]]\nmatch = \"news.*\"\nkeep = \"always\"\npatterns = true\n[process]\nworkers = 2\n");
    let id = open(&daemon, &["elsewhere"]).last_event_id();
    for number in 0..3 {
        redis.publish(&format!("news.{number}"), number.to_string());
    }
    for pattern in ["news.*", "news.*", "news.1*"] {
        let mut stream = Subscription::to(&[pattern]).after(&id).open(daemon.public());
        let expected: &[&str] = if pattern == "news.*" { &["news.0=0", "news.1=1", "news.2=2"] } else { &["news.1=1"] };
        assert_eq!(events(&mut stream, expected.len()), expected);
    }
    assert_eq!(patterns(&redis), 1, "the rule's own subscription is enough");
}

/// Seen: the request of such a client was never answered.
#[test]
fn a_pattern_of_a_kept_rule_of_which_an_earlier_rule_has_a_channel_is_answered() {
    needs!("redis-server");
    let tables = "[[channel]]\nmatch = \"news.brief\"\nmessages = 1\npatterns = true\n\
                  [[channel]]\nmatch = \"news.*\"\nkeep = \"always\"\npatterns = true\n";
    let (_folder, redis, mut daemon) = start(tables);
    eventually("the rule is subscribed", || (patterns(&redis) == 1).then_some(()));
    let mut stream = open(&daemon, &["news.*"]);
    for (channel, data) in [("news.brief", "1"), ("news.1", "2")] {
        daemon.publish(channel, data);
    }
    assert_eq!(events(&mut stream, 2), ["news.brief=1", "news.1=2"]);
    daemon.reload();
    for (channel, data) in [("news.1", "3"), ("news.brief", "4")] {
        daemon.publish(channel, data);
    }
    assert_eq!(events(&mut stream, 2), ["news.1=3", "news.brief=4"], "no gap, and each once");
    eventually("Redis has the pattern of the new process alone", || (patterns(&redis) == 1).then_some(()));
}

#[test]
fn a_disconnection_of_redis_is_a_gap_that_names_the_pattern() {
    needs!("redis-server");
    let (_folder, redis, daemon) = start(ALLOWED);
    let mut stream = open(&daemon, &["a*", "b"]);
    redis.publish("ab", "1");
    assert_eq!(events(&mut stream, 1), ["ab=1"]);
    redis.cut_subscribers();
    let gap = stream.gap();
    assert_eq!((gap.channels, gap.reason.as_str()), (vec!["a*".to_owned(), "b".to_owned()], "source"));
    redis.publish("ab", "2");
    redis.publish("b", "3");
    assert_eq!(events(&mut stream, 2), ["ab=2", "b=3"]);
}

#[test]
fn a_message_that_is_too_long_is_a_gap_for_the_patterns_of_its_channel() {
    needs!("redis-server");
    let (_folder, redis, daemon) = start(&format!("[publish]\nmax_message = 100\n{ALLOWED}"));
    let mut stream = open(&daemon, &["a*"]);
    let mut other = open(&daemon, &["b*"]);
    redis.publish("ab", "x".repeat(1601));
    redis.publish("ab", "1");
    redis.publish("bb", "2");
    assert_eq!(stream.gap().channels, ["a*"]);
    assert_eq!(events(&mut stream, 1), ["ab=1"]);
    assert_eq!(events(&mut other, 1), ["bb=2"]);
}

#[test]
fn a_pattern_that_redis_refuses_is_a_403_and_names_go_on() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let mut command = redis::cmd("ACL");
    command.arg("SETUSER").arg("daemon").arg("on").arg(">secret").arg("+@all").arg("~*").arg("resetchannels");
    let _: () = redis.query(command.arg("&ab").arg("&ssecast:*"));
    let url = format!("[redis]\nurl = \"redis://daemon:secret@127.0.0.1:{}\"\n", redis.port());
    let daemon = Daemon::start(&folder, &format!("{url}{ALLOWED}"));
    let answer = Subscription::to(&["a*"]).request(daemon.public()).send(daemon.public());
    assert_eq!(answer.status(), 403);
    let text = answer.text();
    assert!(text.contains("refused_by_source"), "{text}");
    let mut stream = open(&daemon, &["ab"]);
    redis.publish("ab", "1");
    assert_eq!(stream.texts(1), ["1"]);
}

/// Names join and leave, and so do patterns that match them: whichever copy Redis sends, each event comes once.
#[test]
fn no_event_is_lost_or_doubled_while_patterns_come_and_go() {
    needs!("redis-server");
    // The two clients that stay read only in the end, so all must be kept for them.
    let history = "[history]\nlinger = \"0s\"\nmessages = 1000000\nbytes = \"1GiB\"\n";
    let rules = format!("[process]\nworkers = 2\n{ALLOWED}pattern_messages = 1000000\n");
    let (_folder, redis, daemon) = start(&format!("{history}{rules}"));
    let mut named = open(&daemon, &["ab"]);
    let mut by_pattern = open(&daemon, &["a*"]);
    let (done, published) = (AtomicBool::new(false), AtomicBool::new(false));
    let count = thread::scope(|scope| {
        let publishing = scope.spawn(|| {
            let mut connection = redis.connect();
            let mut count = 0;
            while !published.load(Ordering::Relaxed) {
                redis::cmd("PUBLISH").arg("ab").arg(count.to_string()).exec(&mut connection).unwrap();
                count += 1;
                thread::sleep(Duration::from_micros(100));
            }
            count
        });
        let comers: Vec<_> = [["*b", "ab"], ["*", "a*b"]]
            .into_iter()
            .map(|subjects| {
                let (done, daemon) = (&done, &daemon);
                scope.spawn(move || {
                    while !done.load(Ordering::Relaxed) {
                        for subject in subjects {
                            let mut stream = open(daemon, &[subject]);
                            let numbers: Vec<u64> = match subject {
                                "ab" => stream.texts(20).iter().map(|number| number.parse().unwrap()).collect(),
                                _ => events(&mut stream, 20).iter().map(|event| event[3..].parse().unwrap()).collect(),
                            };
                            assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{subject}: {numbers:?}");
                        }
                    }
                })
            })
            .collect();
        thread::sleep(Duration::from_secs(4));
        done.store(true, Ordering::Relaxed);
        let comers: Vec<_> = comers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        published.store(true, Ordering::Relaxed);
        assert!(comers.iter().all(Result::is_ok));
        publishing.join().unwrap()
    });
    println!("{count} published");
    let numbers: Vec<String> = (0..count).map(|number| number.to_string()).collect();
    assert_eq!(named.texts(count), numbers);
    let expected: Vec<String> = numbers.iter().map(|number| format!("ab={number}")).collect();
    assert_eq!(events(&mut by_pattern, count), expected);
}

#[test]
fn a_pattern_means_the_same_in_redis_and_here() {
    needs!("redis-server");
    let (_folder, redis, daemon) = start(&format!("[history]\nlinger = \"0s\"\n{ALLOWED}"));
    let names = ["a", "ab", "a.b", "ba", "größe", "ö", "a b", "aab", "abab", "^a", "a-b"];
    for pattern in ["a*", "*b", "*ö*", "a*b", "*", "a**b", "*a*b*", "^*", "a-*"] {
        let mut stream = open(&daemon, &[pattern]);
        let sent: Vec<String> =
            names.iter().filter(|name| redis.publish(name, "x") == 1).map(|name| format!("{name}=x")).collect();
        assert!(!sent.is_empty(), "{pattern}");
        assert_eq!(events(&mut stream, sent.len()), sent, "{pattern}");
        drop(stream);
        eventually("it is unsubscribed", || (patterns(&redis) == 0).then_some(()));
    }
}
