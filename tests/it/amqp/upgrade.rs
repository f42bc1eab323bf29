//! AMQP and upgrades: the successor goes on with the queue, exactly.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use super::{Daemon, Folder, Kind, RabbitServer, exchange, gap, holds_for_a_while, numbers, open};

#[test]
fn reloads_under_load_lose_nothing_and_show_nothing_twice() {
    needs!("rabbitmq-server");
    const RELOADS: usize = 4;
    let (rabbit, exchange, folder) = (RabbitServer::shared(), exchange(), Folder::new());
    let tables = format!("{}[history]\nmessages = 100000\nbytes = \"100MiB\"\n", rabbit.table(&exchange));
    let mut daemon = Daemon::start(&folder, &tables);
    let mut streams = [open(&daemon, &["cats"]), open(&daemon, &["cats", "dogs"])];
    let done = AtomicBool::new(false);
    let count = thread::scope(|scope| {
        let publishing = scope.spawn(|| {
            let mut publisher = rabbit.publisher(&exchange);
            let mut count = 0;
            while !done.load(Ordering::Relaxed) {
                let kind = Kind { without_id: count % 20 == 0, ..Kind::default() };
                publisher.publish_all("cats", numbers(count..count + 10), kind);
                count += 10;
            }
            count
        });
        for _ in 0..RELOADS {
            thread::sleep(Duration::from_millis(300));
            daemon.reload();
        }
        daemon.wait_until_ready();
        done.store(true, Ordering::Relaxed);
        publishing.join().unwrap()
    });
    for stream in &mut streams {
        assert_eq!(stream.texts(count), numbers(0..count));
        holds_for_a_while("no event comes twice", || stream.arrived().is_empty());
    }
    assert!(count > 100, "{count}");
    // Channels are bound and unbound as before.
    let mut late = open(&daemon, &["late"]);
    rabbit.publisher(&exchange).publish("late", "1");
    assert_eq!(late.texts(1), ["1"]);
}

#[test]
fn a_reload_to_another_exchange_gives_a_gap() {
    needs!("rabbitmq-server");
    let (rabbit, folder) = (RabbitServer::shared(), Folder::new());
    let (before, after) = (exchange(), exchange());
    let mut daemon = Daemon::start(&folder, &rabbit.table(&before));
    let mut stream = open(&daemon, &["cats"]);
    rabbit.publisher(&before).publish("cats", "1");
    assert_eq!(stream.texts(1), ["1"]);
    daemon.configure(&rabbit.table(&after));
    daemon.reload();
    daemon.wait_until_ready();
    assert_eq!(stream.gap(), gap(&["cats"]));
    rabbit.publisher(&after).publish("cats", "2");
    assert_eq!(stream.texts(1), ["2"]);
}
