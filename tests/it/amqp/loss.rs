//! A RabbitMQ that is killed, hangs, cuts connections, or loses the queue. Nothing is lost without a gap event, and no gap event comes
//! where nothing was lost.

use std::time::{Duration, Instant};

use super::{
    Daemon, Folder, Kind, RabbitServer, Signal, assert_logged, eventually, exchange, gap, holds_for_a_while, numbers,
    open, wait_until_not_ready,
};

/// An exchange that survives a restart of the server.
fn durable_table(rabbit: &RabbitServer) -> String {
    format!("{}exchange_durable = true\n", rabbit.table("durable"))
}

#[test]
fn persistent_messages_survive_a_server_that_is_killed_and_transient_ones_leave_a_gap() {
    needs!("rabbitmq-server");
    let folder = Folder::new();
    let mut rabbit = RabbitServer::start(&folder);
    let mut daemon = Daemon::start(&folder, &durable_table(&rabbit));
    let mut stream = open(&daemon, &["cats"]);
    let mut publisher = rabbit.publisher("durable");
    publisher.publish_all("cats", numbers(0..100), Kind::default());
    assert_eq!(stream.texts(100), numbers(0..100));

    // What ssecast can't take waits in the queue.
    daemon.child().signal(Signal::SIGSTOP);
    publisher.publish_all("cats", numbers(100..200), Kind::default());
    rabbit.kill();
    daemon.child().signal(Signal::SIGCONT);
    wait_until_not_ready(&daemon);
    rabbit.start_again();
    daemon.wait_until_ready();
    rabbit.publisher("durable").publish_all("cats", numbers(200..300), Kind::default());
    assert_eq!(stream.texts(200), numbers(100..300), "each once, and no gap");

    rabbit.publisher("durable").publish_all("cats", ["300"], Kind { transient: true, ..Kind::default() });
    assert_eq!(stream.texts(1), ["300"]);
    rabbit.kill();
    wait_until_not_ready(&daemon);
    rabbit.start_again();
    daemon.wait_until_ready();
    assert_eq!(stream.gap(), gap(&["cats"]), "a transient message may be lost");
    rabbit.publisher("durable").publish("cats", "301");
    assert_eq!(stream.texts(1), ["301"]);
}

#[test]
fn connections_that_the_server_closes_and_a_server_that_hangs_lose_nothing() {
    needs!("rabbitmq-server");
    let folder = Folder::new();
    let mut rabbit = RabbitServer::start(&folder);
    let mut daemon = Daemon::start(&folder, &durable_table(&rabbit));
    let mut stream = open(&daemon, &["cats"]);
    let mut next = 0;
    for round in 0..3 {
        // Without ids, the messages themselves say which of them come again.
        let kind = Kind { without_id: round % 2 == 0, ..Kind::default() };
        rabbit.publisher("durable").publish_all("cats", numbers(next..next + 2000), kind);
        rabbit.control(&["close_all_connections", "test"]);
        rabbit.publisher("durable").publish_all("cats", numbers(next + 2000..next + 2100), kind);
        assert_eq!(stream.texts(2100), numbers(next..next + 2100), "each once, and no gap");
        next += 2100;
    }
    assert_logged(&mut daemon, &["AMQP disconnected", "AMQP reconnected; nothing was lost"]);

    rabbit.child().signal(Signal::SIGSTOP);
    let since = Instant::now();
    let ready = wait_until_not_ready(&daemon);
    assert!(ready.contains("amqp") && since.elapsed() < Duration::from_secs(15), "{ready} {:?}", since.elapsed());
    let mut late = open(&daemon, &["late"]);
    rabbit.child().signal(Signal::SIGCONT);
    daemon.wait_until_ready();
    rabbit.publisher("durable").publish("cats", "end");
    assert_eq!(stream.texts(1), ["end"]);
    assert_eq!(late.gap(), gap(&["late"]), "its channel was not bound yet");
}

#[test]
fn a_queue_that_is_deleted_leaves_a_gap_and_reading_goes_on() {
    needs!("rabbitmq-server");
    let folder = Folder::new();
    let rabbit = RabbitServer::start(&folder);
    let name = exchange();
    let mut daemon = Daemon::start(&folder, &rabbit.table(&name));
    let mut stream = open(&daemon, &["cats"]);
    let queues = rabbit.queues();
    assert_eq!(queues.len(), 1, "{queues:?}");
    rabbit.control(&["delete_queue", &queues[0]]);
    assert_eq!(stream.gap(), gap(&["cats"]));
    daemon.wait_until_ready();
    let mut publisher = rabbit.publisher(&name);
    publisher.publish("cats", "1");
    assert_eq!(stream.texts(1), ["1"]);
    holds_for_a_while("no event comes twice", || stream.arrived().is_empty());
    assert_logged(&mut daemon, &["the queue was deleted", "the queue was lost"]);
    let marks = rabbit.control(&["list_exchanges", "--no-table-headers", "name"]);
    eventually("the mark of the queue is deleted with it", || (!marks.contains(&queues[0])).then_some(()));
}
