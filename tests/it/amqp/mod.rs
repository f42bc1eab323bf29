//! AMQP, on a real RabbitMQ: bound on demand, acknowledged after delivery, nothing lost while the queue lives.

mod loss;
mod trouble;
mod upgrade;

use std::sync::atomic::{AtomicUsize, Ordering};

use lapin::ExchangeKind;
use nix::sys::signal::Signal;

use crate::support::{
    Daemon, Folder, Gap, RabbitServer, RedisServer, Request, Stream, Subscription, certificates::Authority, eventually,
    holds_for_a_while, rabbit::Kind,
};

/// A name for an exchange that no other test uses.
fn exchange() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("exchange {}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn open(daemon: &Daemon, channels: &[&str]) -> Stream {
    Subscription::to(channels).open(daemon.public())
}

fn gap(channels: &[&str]) -> Gap {
    Gap { channels: channels.iter().map(|&channel| channel.to_owned()).collect(), reason: "source".to_owned() }
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// Waits until `/readyz` answers 503, and returns its text.
fn wait_until_not_ready(daemon: &Daemon) -> String {
    eventually("the daemon knows that AMQP is disconnected", || {
        let response = daemon.admin_get("/readyz");
        (response.status() == 503).then(|| response.text())
    })
}

/// Waits until the log has all of `words`.
fn assert_logged(daemon: &mut Daemon, words: &[&str]) {
    eventually(&format!("the log says {words:?}"), || {
        let log = daemon.child().log();
        words.iter().all(|words| log.contains(words)).then_some(())
    });
}

#[test]
fn a_message_published_to_the_exchange_reaches_every_client_unchanged() {
    needs!("rabbitmq-server");
    let (rabbit, exchange, folder) = (RabbitServer::shared(), exchange(), Folder::new());
    let daemon = Daemon::start(&folder, &rabbit.table(&exchange));
    let mut publisher = rabbit.publisher(&exchange);
    let mut clients: Vec<Stream> = (0..3).map(|_| open(&daemon, &["größe &"])).collect();
    let mut other = open(&daemon, &["dogs"]);
    assert!(publisher.publish("größe &", "[1,2,3]\nline"));
    publisher.publish_all("größe &", ["typed"], Kind { event: Some("price"), ..Kind::default() });
    publisher.publish("dogs", "woof");
    for client in &mut clients {
        assert_eq!(client.texts(1), ["[1,2,3]\nline"]);
        let event = client.event();
        assert_eq!((event.kind.as_str(), event.text()), ("price", "typed".to_owned()));
    }
    assert_eq!(other.texts(1), ["woof"]);
    // Many, in order.
    publisher.publish_all("dogs", numbers(0..5000), Kind::default());
    assert_eq!(other.texts(5000), numbers(0..5000));
}

#[test]
fn the_queue_is_bound_while_a_channel_has_clients() {
    needs!("rabbitmq-server");
    let (rabbit, exchange, folder) = (RabbitServer::shared(), exchange(), Folder::new());
    let daemon = Daemon::start(&folder, &format!("{}[history]\nlinger = \"100ms\"\n", rabbit.table(&exchange)));
    let mut publisher = rabbit.publisher(&exchange);
    assert!(!publisher.publish("cats", "nobody"), "no queue gets it");
    let mut first = open(&daemon, &["cats", "dogs"]);
    assert!(publisher.publish("cats", "1"));
    assert_eq!(first.texts(1), ["1"]);
    drop(first);
    eventually("a channel without clients is unbound after its linger", || {
        (!publisher.publish("cats", "nobody")).then_some(())
    });
    let mut again = open(&daemon, &["cats"]);
    assert!(publisher.publish("cats", "again"));
    assert_eq!(again.texts(1), ["again"]);
}

#[test]
fn a_fanout_exchange_gives_all_channels() {
    needs!("rabbitmq-server");
    let (rabbit, exchange, folder) = (RabbitServer::shared(), exchange(), Folder::new());
    let mut publisher = rabbit.publisher(&exchange);
    publisher.declare(ExchangeKind::Fanout, true);
    let daemon = Daemon::start(&folder, &format!("{}exchange_type = \"fanout\"\n", rabbit.table(&exchange)));
    let mut stream = open(&daemon, &["cats"]);
    publisher.publish("dogs", "nobody");
    publisher.publish("cats", "1");
    assert_eq!(stream.texts(1), ["1"]);
}

#[test]
fn channels_that_a_rule_keeps_and_patterns_are_bound_to_a_topic_exchange() {
    needs!("rabbitmq-server");
    let (rabbit, exchange, folder) = (RabbitServer::shared(), exchange(), Folder::new());
    let tables = format!(
        "{}exchange_type = \"topic\"\n[[channel]]\nmatch = \"kept.*\"\nkeep = \"always\"\n\
         [[channel]]\nmatch = \"news.*\"\npatterns = true\n",
        rabbit.table(&exchange)
    );
    let mut daemon = Daemon::start(&folder, &tables);
    let mut publisher = rabbit.publisher(&exchange);
    let id = open(&daemon, &["elsewhere"]).last_event_id();
    assert!(publisher.publish("kept.1", "before the first client"), "bound from the start");
    let resumed = || Subscription::to(&["kept.1"]).after(&id).open(daemon.public());
    assert_eq!(resumed().texts(1), ["before the first client"]);

    let (mut pattern, mut both) = (open(&daemon, &["news.*"]), open(&daemon, &["news.*", "news.1"]));
    publisher.publish("news.1", "1");
    publisher.publish("news.a.b", "2");
    // The key of the pattern gives this one as well, and no client wants it.
    assert!(publisher.publish("news", "not of the pattern"));
    publisher.publish("news.1", "3");
    let in_envelope = |channel: &str, data: &str| serde_json::json!({"channel": channel, "data": data}).to_string();
    for stream in [&mut pattern, &mut both] {
        let expected = [in_envelope("news.1", "1"), in_envelope("news.a.b", "2"), in_envelope("news.1", "3")];
        assert_eq!(stream.texts(3), expected, "each once");
    }
    daemon.reload();
    publisher.publish("news.1", "4");
    for stream in [&mut pattern, &mut both] {
        assert_eq!(stream.texts(1), [in_envelope("news.1", "4")]);
    }
}

#[test]
fn a_direct_exchange_refuses_patterns_and_keeps_names_always() {
    needs!("rabbitmq-server");
    let (rabbit, exchange, folder) = (RabbitServer::shared(), exchange(), Folder::new());
    let tables = format!(
        "{}[[channel]]\nmatch = \"kept\"\nkeep = \"always\"\n[[channel]]\nmatch = \"news.*\"\npatterns = true\n",
        rabbit.table(&exchange)
    );
    let mut daemon = Daemon::start(&folder, &tables);
    let mut publisher = rabbit.publisher(&exchange);
    let id = open(&daemon, &["elsewhere"]).last_event_id();
    assert!(publisher.publish("kept", "early"), "bound from the start");
    assert_eq!(Subscription::to(&["kept"]).after(&id).open(daemon.public()).texts(1), ["early"]);
    let refused = Subscription::to(&["news.*"]).request(daemon.public()).send(daemon.public());
    assert_eq!(refused.status(), 403);
    assert_logged(&mut daemon, &["use one of the type topic or fanout"]);
    let mut stream = open(&daemon, &["news.1"]);
    publisher.publish("news.1", "1");
    assert_eq!(stream.texts(1), ["1"]);
}

#[test]
fn what_can_not_be_an_event_is_dropped_counted_and_reported_to_its_channel() {
    needs!("rabbitmq-server");
    let (rabbit, exchange, folder) = (RabbitServer::shared(), exchange(), Folder::new());
    let tables = format!("{}[publish]\nmax_message = \"100B\"\n", rabbit.table(&exchange));
    let mut daemon = Daemon::start(&folder, &tables);
    let mut publisher = rabbit.publisher(&exchange);
    let mut stream = open(&daemon, &["cats"]);
    publisher.publish("cats", "x".repeat(1601));
    assert_eq!(stream.gap(), gap(&["cats"]));
    publisher.publish_all("cats", ["1"], Kind { event: Some("a\nid: 1"), ..Kind::default() });
    assert_eq!(stream.gap(), gap(&["cats"]));
    publisher.publish("cats", "good");
    assert_eq!(stream.texts(1), ["good"]);
    assert_logged(&mut daemon, &["has 1601 bytes, more than 16 times publish.max_message"]);
}

#[test]
fn publishes_on_the_admin_socket_are_confirmed_by_amqp() {
    needs!("rabbitmq-server");
    let (rabbit, exchange) = (RabbitServer::shared(), exchange());
    let (folder, other) = (Folder::new(), Folder::new());
    let daemon = Daemon::start(&folder, &rabbit.table(&exchange));
    let elsewhere = Daemon::start(&other, &rabbit.table(&exchange));
    let mut streams = [open(&daemon, &["cats"]), open(&elsewhere, &["cats"])];
    let published = daemon.publish("cats", "1");
    assert_eq!((published.id, published.subscribers), (None, 1));
    daemon.publish_many("cats", ["2", "3"]);
    for stream in &mut streams {
        assert_eq!(stream.texts(3), ["1", "2", "3"]);
    }
}

#[test]
fn redis_and_amqp_at_once_don_t_wait_for_each_other() {
    needs!("rabbitmq-server", "redis-server");
    let (rabbit, exchange, folder) = (RabbitServer::shared(), exchange(), Folder::new());
    let mut redis = RedisServer::start(&folder);
    let mut daemon = Daemon::start(&folder, &format!("{}{}", redis.table(), rabbit.table(&exchange)));
    let mut publisher = rabbit.publisher(&exchange);
    let mut stream = open(&daemon, &["cats"]);
    redis.publish("cats", "by Redis");
    assert_eq!(stream.texts(1), ["by Redis"]);
    publisher.publish("cats", "by AMQP");
    assert_eq!(stream.texts(1), ["by AMQP"]);

    redis.child().signal(Signal::SIGSTOP);
    publisher.publish_all("cats", numbers(0..500), Kind::default());
    assert_eq!(stream.texts(500), numbers(0..500), "while Redis hangs");
    redis.child().signal(Signal::SIGCONT);
    redis.kill();
    let ready = wait_until_not_ready(&daemon);
    assert!(ready.contains("redis") && !ready.contains("amqp"), "{ready}");
    publisher.publish("cats", "without Redis");
    assert_eq!(stream.texts(1), ["without Redis"]);
    let mut late = open(&daemon, &["cats", "late"]);
    publisher.publish("late", "a channel that is new");
    assert_eq!(late.texts(1), ["a channel that is new"]);
    redis.start_again();
    daemon.wait_until_ready();
    assert_eq!(stream.gap(), gap(&["cats"]), "for what Redis may have lost");
    redis.publish("cats", "again");
    assert_eq!(stream.texts(1), ["again"]);
}

#[test]
fn amqps_works_with_an_own_authority_and_a_client_certificate() {
    needs!("rabbitmq-server", "openssl");
    let folder = Folder::new();
    let authority = Authority::new(&folder, "authority");
    let (server, client) = (authority.sign("server"), authority.sign("client"));
    let rabbit = RabbitServer::start_with_tls(&folder, &authority.certificate(), &server.certificate, &server.key);
    let table = format!(
        "[amqp]\nurl = {:?}\nca_file = {:?}\ncert_file = {:?}\nkey_file = {:?}\n",
        rabbit.tls_url(),
        authority.certificate(),
        client.certificate,
        client.key
    );
    let daemon = Daemon::start(&folder, &table);
    let mut stream = open(&daemon, &["cats"]);
    rabbit.publisher("sse-cyclone-server").publish("cats", "x".repeat(300_000));
    assert_eq!(stream.texts(1)[0].len(), 300_000);
    daemon.publish("cats", "by the admin socket");
    assert_eq!(stream.texts(1), ["by the admin socket"]);

    // An authority that has not signed it.
    let stranger = Authority::new(&folder, "stranger");
    let table = format!("[amqp]\nurl = {:?}\nca_file = {:?}\n", rabbit.tls_url(), stranger.certificate());
    let strange = Daemon::start_named(&folder, "strange", &table);
    let ready = wait_until_not_ready(&strange);
    assert!(ready.contains("amqp"), "{ready}");
    eventually("the reason", || {
        let ready = strange.admin_get("/readyz").text();
        ready.contains("another authority than those of amqp.ca_file").then_some(())
    });
}
