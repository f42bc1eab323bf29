//! Places for clients: as many as `stream.max_clients`, over all shards.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// How many clients there are, and may be.
#[derive(Debug)]
pub struct Seats {
    taken: AtomicUsize,
    most: usize,
}

/// A client's place, from before its request is answered until its connection ends.
#[derive(Debug)]
pub struct Seat(Arc<Seats>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Seats {
    /// Places for `most` clients.
    #[must_use]
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { taken: AtomicUsize::new(0), most })
    }

    /// Takes a place, if one is free.
    #[must_use]
    pub fn take(self: &Arc<Self>) -> Option<Seat> {
        let more = |taken| (taken < self.most).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Seat(Arc::clone(self)))
    }

    /// Makes a place for a client that is there already, even where none is free.
    #[must_use]
    pub fn make(self: &Arc<Self>) -> Seat {
        self.taken.fetch_add(1, Ordering::Relaxed);
        Seat(Arc::clone(self))
    }

    /// Places taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_places_are_given_than_there_are() {
        let seats = Seats::new(1);
        let seat = seats.take().unwrap();
        assert!(seats.take().is_none());
        let inherited = seats.make();
        assert_eq!(seats.taken(), 2);
        drop(seat);
        assert!(seats.take().is_none());
        drop(inherited);
        assert!(seats.take().is_some());
    }
}
