//! Log lines on their way to the log: a bounded queue, written by a thread of its own, so that a log that can't be written
//! neither blocks nor ends the thread that logs. Does not know where the lines go.
//!
//! Invariants:
//! - [`LineQueue::push`] never waits for a write.
//! - A line is written whole and in order, or it is counted as lost. The log says so once it can be written again.
//!
//! tracing-appender has such a queue too. It starts its thread at once, when the daemon has yet to fork and to drop its
//! privileges, and it doesn't count a line that could not be written.

use std::{
    cell::Cell,
    collections::VecDeque,
    io,
    sync::{Condvar, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use crate::log_rate::LogRate;

/// Most bytes that wait. A line costs its length and [`LINE_COST`].
const MAX_BYTES: usize = 1 << 20;
/// Bytes that a line costs beside its text, so that empty lines are bounded as well.
const LINE_COST: usize = 64;

thread_local! {
    /// Whether this is the thread that writes. Its own lines, which report lost lines, are always queued.
    static IS_WRITER: Cell<bool> = const { Cell::new(false) };
}

/// The queue. Until [`LineQueue::write_all`] runs on some thread, lines only gather.
#[derive(Debug, Default)]
pub(super) struct LineQueue {
    state: Mutex<State>,
    /// Notified when a line is pushed.
    pushed: Condvar,
    /// Notified when all lines are written or lost.
    emptied: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Box<[u8]>>,
    /// Memory that all lines take together.
    bytes: usize,
    /// Whether the writer has taken a line and not yet finished it.
    writing: bool,
    /// Lines lost since the start: the queue was full, or the write failed.
    lost: u64,
}

impl LineQueue {
    /// Puts a line, which ends in a line feed, behind the others; or counts it as lost, if too many wait already.
    pub(super) fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        let cost = line.len() + LINE_COST;
        if state.bytes + cost > MAX_BYTES && !IS_WRITER.get() {
            state.lost += 1;
            return;
        }
        state.bytes += cost;
        state.lines.push_back(line.into());
        self.pushed.notify_one();
    }

    /// Writes lines with `write`, for ever. To be called on a thread that may block.
    pub(super) fn write_all(&self, mut write: impl FnMut(&[u8]) -> io::Result<()>) -> ! {
        // One line a minute at most: a reader that is always late would get nothing but these.
        let rate = LogRate::new();
        IS_WRITER.set(true);
        let mut reported = 0;
        loop {
            let line = self.take();
            let written = write(&line).is_ok();
            let mut state = self.lock();
            state.lost += u64::from(!written);
            let lost = state.lost;
            drop(state);
            if written && lost > reported && rate.count().is_some() {
                reported = lost;
                tracing::warn!(
                    lost_since_start = lost,
                    "log lines were lost: the log could not be written, or not fast enough; see its disk or its reader"
                );
            }
            self.finish();
        }
    }

    /// Waits until all lines are written or lost, for `limit` at most. Says whether they are.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let mut state = self.lock();
        while state.writing || !state.lines.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = crate::lock::wait_timeout(&self.emptied, state, left);
        }
        true
    }

    /// Takes the next line, and waits for it.
    fn take(&self) -> Box<[u8]> {
        let mut state = self.lock();
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.bytes -= line.len() + LINE_COST;
                state.writing = true;
                return line;
            }
            state = crate::lock::wait(&self.pushed, state);
        }
    }

    fn finish(&self) {
        let mut state = self.lock();
        state.writing = false;
        if state.lines.is_empty() {
            self.emptied.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        crate::lock::lock(&self.state)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, mpsc},
        thread,
    };

    use super::*;

    /// A queue whose lines come out of a channel, each write waiting until its result is given.
    fn queue() -> (Arc<LineQueue>, mpsc::Sender<io::Result<()>>, mpsc::Receiver<String>) {
        let queue = Arc::new(LineQueue::default());
        let (result, results) = mpsc::channel();
        let (line, lines) = mpsc::channel();
        let (writer, logged) = (Arc::clone(&queue), Arc::clone(&queue));
        let to_queue = move || Line(Arc::clone(&logged));
        let subscriber = tracing_subscriber::fmt().without_time().with_ansi(false).with_writer(to_queue).finish();
        let write = move |text: &[u8]| {
            line.send(String::from_utf8(text.to_vec()).unwrap()).map_err(io::Error::other)?;
            results.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
        };
        thread::spawn(move || tracing::subscriber::with_default(subscriber, || writer.write_all(write)));
        (queue, result, lines)
    }

    /// A line that the writing thread logs itself.
    struct Line(Arc<LineQueue>);

    impl io::Write for Line {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.push(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_are_written_in_order_and_a_flush_waits_for_them_but_not_for_ever() {
        let (queue, result, lines) = queue();
        assert!(queue.flush(Duration::ZERO));
        queue.push(b"1\n");
        queue.push(b"2\n");
        assert!(!queue.flush(Duration::from_millis(1)), "the first one is being written");
        result.send(Ok(())).unwrap();
        result.send(Ok(())).unwrap();
        assert!(queue.flush(Duration::from_secs(20)));
        assert_eq!(lines.iter().take(2).collect::<String>(), "1\n2\n");
    }

    #[test]
    fn a_writer_that_hangs_costs_a_bounded_number_of_bytes_and_lost_lines_are_counted() {
        let (queue, _result, lines) = queue();
        queue.push(b"hangs\n");
        lines.recv().unwrap();
        let line = [b'x'; 1000];
        for _ in 0..2000 {
            queue.push(&line);
        }
        let state = queue.lock();
        assert!(state.bytes <= MAX_BYTES && state.lines.len() == MAX_BYTES / (line.len() + LINE_COST));
        assert_eq!(state.lost, 2000 - state.lines.len() as u64);
    }

    #[test]
    fn a_line_that_could_not_be_written_is_counted() {
        let (queue, result, _lines) = queue();
        queue.push(b"1\n");
        result.send(Err(io::ErrorKind::StorageFull.into())).unwrap();
        assert!(queue.flush(Duration::from_secs(20)));
        assert_eq!(queue.lock().lost, 1);
    }

    #[test]
    fn lost_lines_are_reported_once_the_log_can_be_written_again() {
        let (queue, result, lines) = queue();
        for (line, can_be_written) in [("1\n", true), ("2\n", false), ("3\n", false), ("4\n", true)] {
            queue.push(line.as_bytes());
            result.send(if can_be_written { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }).unwrap();
            assert_eq!(lines.recv().unwrap(), line);
        }
        result.send(Ok(())).unwrap();
        let report = lines.recv().unwrap();
        assert!(report.contains("log lines were lost") && report.contains("lost_since_start=2"), "{report}");
        assert!(queue.flush(Duration::from_secs(20)));
    }
}
