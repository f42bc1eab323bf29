//! A timer wheel: when to look at a client again, for a ping or its end. It knows nothing of clients.
//!
//! A client is in exactly one slot; one that has ended stays there until the slot comes up. Writing to a client does not
//! move it: when its slot comes up, the shard looks whether the time has really come and, if not, puts it where it will be
//! due.

use std::{num::NonZeroU32, time::Duration};

/// A time, counted in the wheel's ticks and kept modulo 2^32: with the shortest ticks it wraps after 248 days. Times less
/// than 2^31 ticks apart are compared rightly, and [`Wheel::ticks`] gives no more than half of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tick(NonZeroU32);

/// Most ticks that a time is away: 62 days with the shortest ticks.
const LONGEST: u32 = 1 << 30;

impl Tick {
    #[expect(clippy::cast_possible_truncation, reason = "times are kept modulo 2^32")]
    fn of(count: u64) -> Self {
        // 0 is left out, so that an optional time takes no more room. It is taken for the tick that follows.
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

const SLOTS: u64 = 64;

pub(super) struct Wheel<K> {
    slots: Vec<Vec<K>>,
    now: u64,
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

    /// Shows `client` again at `due`, or earlier if that is further than the wheel goes round.
    pub(super) fn put(&mut self, client: K, due: Tick) {
        let ahead = u64::from(due.since(self.now())).clamp(1, SLOTS - 1);
        self.slots[((self.now + ahead) % SLOTS) as usize].push(client);
    }

    /// Moves on by one tick; gives the clients to look at.
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
    fn no_time_is_further_away_than_ticks_can_be_compared() {
        let wheel = Wheel::<()>::new(Duration::from_millis(160));
        let year = wheel.ticks(Duration::from_secs(365 * 86_400));
        assert!(!wheel.now().after(year).has_come(wheel.now()));
    }
}
