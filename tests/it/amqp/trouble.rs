//! A RabbitMQ that refuses: a wrong password, a user without permissions, an exchange of another type.

use super::{
    Daemon, ExchangeKind, Folder, RabbitServer, Request, Subscription, assert_logged, eventually, exchange, open,
    wait_until_not_ready,
};
use crate::support::publisher::refused;

#[test]
fn a_wrong_password_is_reported_without_it_and_a_reload_does_not_wait() {
    needs!("rabbitmq-server");
    let (rabbit, folder) = (RabbitServer::shared(), Folder::new());
    let url = rabbit.url().replace("://", "://guest:s3cret@");
    let mut daemon = Daemon::start_unready(&folder, &format!("[amqp]\nurl = {url:?}\n"));
    eventually("the reason", || {
        let ready = wait_until_not_ready(&daemon);
        ready.contains("does not take the user or the password of amqp.url").then_some(())
    });
    assert_logged(&mut daemon, &["does not take the user or the password"]);
    let log = daemon.child().log();
    assert!(!log.contains("s3cret"), "{log}");
    let reason = refused(daemon.post("/publish/cats", "text/plain", "1"), 503);
    assert!(reason.contains("nothing was published") && !reason.contains("s3cret"), "{reason}");
    // With the password in a file it works.
    let file = folder.write("password", "guest\n");
    let url = rabbit.url().replace("://", "://guest@");
    daemon.configure(&format!("[amqp]\nurl = {url:?}\npassword_file = {file:?}\n"));
    daemon.reload();
    daemon.wait_until_ready();
}

#[test]
fn channels_that_the_user_may_not_bind_are_refused_and_so_are_its_publishes() {
    needs!("rabbitmq-server");
    let (rabbit, exchange, folder) = (RabbitServer::shared(), exchange(), Folder::new());
    rabbit.publisher(&exchange).declare(ExchangeKind::Direct, false);
    rabbit.control(&["add_user", "limited", "secret"]);
    // It may use its queues, but neither read nor write the exchange.
    rabbit.control(&["set_permissions", "limited", "^ssecast-.*", "^ssecast-.*", "^ssecast-.*"]);
    let url = rabbit.url().replace("://", "://limited:secret@");
    let mut daemon = Daemon::start(&folder, &format!("[amqp]\nurl = {url:?}\nexchange = {exchange:?}\n"));
    let answer = || Subscription::to(&["cats"]).request(daemon.public()).send(daemon.public()).status();
    assert_eq!(answer(), 403);
    let reason = refused(daemon.post("/publish/cats", "text/plain", "1"), 403);
    assert!(reason.contains("nothing was published"), "{reason}");
    assert_logged(&mut daemon, &["AMQP refuses channels"]);

    rabbit.control(&["set_permissions", "limited", "^ssecast-.*", ".*", ".*"]);
    let mut stream = eventually("it is allowed", || {
        let response = Subscription::to(&["cats"]).request(daemon.public()).send(daemon.public());
        (response.status() == 200).then(|| crate::support::Stream::new(response))
    });
    daemon.publish("cats", "1");
    assert_eq!(stream.texts(1), ["1"]);
}

#[test]
fn an_exchange_with_other_arguments_is_used_as_it_is() {
    needs!("rabbitmq-server");
    let (rabbit, exchange, folder) = (RabbitServer::shared(), exchange(), Folder::new());
    let mut publisher = rabbit.publisher(&exchange);
    publisher.declare(ExchangeKind::Topic, true);
    let mut daemon = Daemon::start(&folder, &rabbit.table(&exchange));
    let mut stream = open(&daemon, &["cats"]);
    publisher.publish("cats", "1");
    assert_eq!(stream.texts(1), ["1"]);
    assert_logged(&mut daemon, &["the exchange exists with another type than amqp.exchange_type"]);
    assert_eq!(Request::get("/readyz").send(daemon.admin()).status(), 200);
}
