//! The window of `stream.coalesce`: batches wait until it ends, and then the clients that epoll reports are served for a bounded
//! number of turns. It sends nothing.

use std::{future, io, time::Duration};

use tokio::time::{Instant, sleep_until};

/// After a window, epoll's events are handled in up to this many turns before the next window may begin.
const TURNS: usize = 64;

/// The time during which a shard collects events before it sends them.
#[derive(Debug)]
pub(super) struct Window {
    length: Duration,
    /// `None`: no window is open.
    ends: Option<Instant>,
}

impl Window {
    pub(super) fn new(length: Duration) -> Self {
        Self { length, ends: None }
    }

    /// Opens a window if batches wait and none is open. Closes it if none wait.
    pub(super) fn update(&mut self, batches_wait: bool) {
        self.ends = match (batches_wait, self.ends) {
            (false, _) => None,
            (true, None) => Some(Instant::now() + self.length),
            (true, open) => open,
        };
    }

    /// Whether batches wait for the end of a window.
    pub(super) fn is_open(&self) -> bool {
        self.ends.is_some()
    }

    /// Resolves when the window ends; never if none is open.
    pub(super) async fn ended(&self) {
        match self.ends {
            Some(ends) => sleep_until(ends).await,
            None => future::pending().await,
        }
    }

    /// Calls `turn`, which handles epoll's events, until it returns that there are no more, but at most [`TURNS`] times. While a
    /// window was open no events were handled. So this happens after each window, however soon the next one begins.
    ///
    /// # Errors
    /// That of `turn`.
    pub(super) fn serve_ready(mut turn: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
        for _ in 0..TURNS {
            if !turn()? {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_opens_with_the_first_event_and_ends_at_the_same_time_whatever_follows() {
        let mut window = Window::new(Duration::from_secs(5));
        window.update(false);
        assert!(!window.is_open());
        let before = Instant::now();
        window.update(true);
        let ends = window.ends.unwrap();
        assert!(ends >= before + window.length && ends <= Instant::now() + window.length);
        window.update(true);
        assert_eq!(window.ends, Some(ends), "a second event must not delay the first");
        window.update(false);
        assert!(!window.is_open());
    }

    #[tokio::test]
    async fn an_open_window_ends_and_a_closed_one_does_not() {
        let mut window = Window::new(Duration::ZERO);
        let closed = tokio::time::timeout(Duration::from_millis(5), window.ended()).await;
        assert!(closed.is_err());
        window.update(true);
        window.ended().await;
    }

    #[test]
    fn clients_are_served_for_a_bounded_number_of_turns() {
        let count = |more: usize| {
            let mut turns = 0;
            Window::serve_ready(|| {
                turns += 1;
                Ok(turns < more)
            })
            .unwrap();
            turns
        };
        assert_eq!((count(0), count(3), count(usize::MAX)), (1, 3, TURNS));
        assert!(Window::serve_ready(|| Err(io::ErrorKind::Other.into())).is_err());
    }
}
