//! Publishes numbers while Redis fails over, and checks what a client has assembled.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use crate::support::{Event, Stream};

/// A thread that publishes 1, 2, 3, … on the channel `numbers`, each once, at whichever server is the primary.
pub(super) struct Numbers {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<Vec<u64>>,
}

impl Numbers {
    /// Begins. `primary` returns the port to connect to; it is asked after each error.
    pub(super) fn begin(primary: impl Fn() -> Option<u16> + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let (mut connection, mut published) = (None, Vec::new());
            for number in 1_u64.. {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                if connection.is_none() {
                    connection = primary().and_then(connect);
                }
                let done = connection.as_mut().map(|connection| {
                    redis::cmd("PUBLISH").arg("numbers").arg(number).query::<u64>(connection).is_ok()
                });
                match done {
                    Some(true) => published.push(number),
                    _ => connection = None,
                }
                thread::sleep(Duration::from_millis(5));
            }
            published
        });
        Self { stop, thread }
    }

    /// Stops. Returns the numbers that a server has taken.
    pub(super) fn end(self) -> Vec<u64> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

fn connect(port: u16) -> Option<redis::Connection> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
    let wait = Duration::from_millis(500);
    let connection = client.get_connection_with_timeout(wait).ok()?;
    connection.set_read_timeout(Some(wait)).unwrap();
    Some(connection)
}

/// Reads up to the event with the text `last`.
pub(super) fn read_until(stream: &mut Stream, last: &str) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        let event = stream.event();
        if event.text() == last {
            return events;
        }
        events.push(event);
    }
}

/// Asserts that the numbers among the events are in order, each once, and that each published number that is missing has a gap event
/// between the numbers around it. Returns how many are missing, and how many gap events there were.
pub(super) fn check(events: &[Event], published: &[u64]) -> (usize, usize) {
    let (mut last, mut gap, mut gaps, mut missing) = (0, false, 0, 0);
    let lost_between = |from: u64, to: u64| published.iter().filter(|&&number| from < number && number < to).count();
    for event in events {
        if event.gap().is_some() {
            gap = true;
            gaps += 1;
            continue;
        }
        let number: u64 = event.text().parse().unwrap();
        assert!(number > last, "{number} after {last}");
        let lost = lost_between(last, number);
        assert!(lost == 0 || gap, "{lost} numbers between {last} and {number} were lost without a gap event");
        missing += lost;
        (last, gap) = (number, false);
    }
    let lost = lost_between(last, u64::MAX);
    assert!(lost == 0 || gap, "{lost} numbers after {last} were lost without a gap event");
    (missing + lost, gaps)
}
