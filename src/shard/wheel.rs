//! A timer wheel: it says when to look at a client again, for a ping or the end of its lifetime. It does not look at clients.
//!
//! Each client is in exactly one slot of the wheel. A client that has ended stays in its slot until the wheel reaches the slot.
//! Writing to a client does not move it to another slot. When the wheel reaches the slot, the shard checks whether the client is
//! really due. If not, it puts the client into a later slot.

use std::{num::NonZeroU32, time::Duration};

/// A time as a number of ticks, modulo 2^32: with the shortest ticks it wraps after 248 days. Times less than 2^31 ticks apart are
/// compared correctly, and [`Wheel::ticks`] returns no more than half of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tick(NonZeroU32);

/// The longest time, in ticks: 62 days with the shortest ticks.
const LONGEST: u32 = 1 << 30;

impl Tick {
    #[expect(clippy::cast_possible_truncation, reason = "times are kept modulo 2^32")]
    fn of(count: u64) -> Self {
        // 0 is not used, so that `Option<Tick>` takes no more memory. It counts as 1.
        Self(NonZeroU32::new(count as u32).unwrap_or(NonZeroU32::MIN))
    }

    /// The time `ticks` later.
    pub(super) fn after(self, ticks: u32) -> Self {
        Self::of(u64::from(self.0.get()) + u64::from(ticks))
    }

    /// The time `ticks` earlier.
    pub(super) fn before(self, ticks: u32) -> Self {
        Self::of((1 << 32) + u64::from(self.0.get()) - u64::from(ticks))
    }

    /// Ticks since `earlier`, 0 if that is later.
    pub(super) fn since(self, earlier: Self) -> u32 {
        let since = self.0.get().wrapping_sub(earlier.0.get());
        if since > u32::MAX / 2 { 0 } else { since }
    }

    /// Whether the time has come at `now`.
    pub(super) fn has_come(self, now: Self) -> bool {
        self == now || now.since(self) > 0
    }

    /// The earlier of two times.
    pub(super) fn earlier(self, other: Self) -> Self {
        if self.has_come(other) { self } else { other }
    }
}

/// Number of slots: two ping intervals.
const SLOTS: u64 = 64;

/// A timer wheel of clients with keys `K`.
pub(super) struct Wheel<K> {
    slots: Vec<Vec<K>>,
    /// Ticks since the wheel was made, plus 1.
    now: u64,
    /// The length of a tick.
    tick: Duration,
}

impl<K> Wheel<K> {
    /// A wheel fine enough for pings after `interval` of silence.
    pub(super) fn new(interval: Duration) -> Self {
        let tick = (interval / 32).clamp(Duration::from_millis(5), Duration::from_secs(1));
        Self { slots: (0..SLOTS).map(|_| Vec::new()).collect(), now: 1, tick }
    }

    /// The length of a tick.
    pub(super) fn tick(&self) -> Duration {
        self.tick
    }

    /// The current tick.
    pub(super) fn now(&self) -> Tick {
        Tick::of(self.now)
    }

    /// `duration` in ticks: at least one, at most 2^30.
    pub(super) fn ticks(&self, duration: Duration) -> u32 {
        let ticks = u32::try_from(duration.as_micros().div_ceil(self.tick.as_micros())).unwrap_or(LONGEST);
        ticks.clamp(1, LONGEST)
    }

    /// Puts `client` into the slot for `due`, or into the last slot if `due` is later than one round of the wheel.
    pub(super) fn put(&mut self, client: K, due: Tick) {
        let ahead = u64::from(due.since(self.now())).clamp(1, SLOTS - 1);
        self.slots[((self.now + ahead) % SLOTS) as usize].push(client);
    }

    /// Moves on by one tick. Returns the clients of the slot that was reached.
    pub(super) fn advance(&mut self) -> Vec<K> {
        self.now += 1;
        std::mem::take(&mut self.slots[(self.now % SLOTS) as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_go_on_when_the_ticks_wrap_after_248_days() {
        let mut wheel = Wheel::new(Duration::from_millis(160));
        wheel.now = (1 << 32) - 3;
        let written = wheel.now();
        let due = written.after(5);
        wheel.put("client", due);
        let mut shown = Vec::new();
        for _ in 0..5 {
            assert!(!due.has_come(wheel.now()), "{:?}", wheel.now());
            shown.extend(wheel.advance());
        }
        assert!(due.has_come(wheel.now()) && !due.after(1).has_come(wheel.now()));
        assert_eq!((shown, wheel.now().since(written)), (vec!["client"], 5));
        assert_eq!(due.earlier(due.after(9)), due);
        assert_eq!(due.after(9).before(9), due);
    }

    #[test]
    fn the_longest_time_can_be_compared() {
        let wheel = Wheel::<()>::new(Duration::from_millis(160));
        let year = wheel.ticks(Duration::from_secs(365 * 86_400));
        assert!(!wheel.now().after(year).has_come(wheel.now()));
    }
}
