//! A timer wheel: when to look at a client again, for a ping or its end.
//!
//! A client is in exactly one slot; one that has ended stays there until the slot comes up. Writing to a client does not move it: when its slot comes up, the shard looks whether
//! the time has really come and, if not, puts it where it will be due.

use std::time::Duration;

/// A time, counted in the wheel's ticks.
pub(super) type Tick = u32;

const SLOTS: u32 = 64;

/// Where the wheel begins, so that there is a time before: an inherited client was last written to then.
const BEGINNING: Tick = 1 << 24;

pub(super) struct Wheel<K> {
    slots: Vec<Vec<K>>,
    now: Tick,
    tick: Duration,
}

impl<K> Wheel<K> {
    /// A wheel fine enough for pings after `interval` of silence.
    pub(super) fn new(interval: Duration) -> Self {
        let tick = (interval / 32).clamp(Duration::from_millis(5), Duration::from_secs(1));
        Self { slots: (0..SLOTS).map(|_| Vec::new()).collect(), now: BEGINNING, tick }
    }

    /// The length of a tick.
    pub(super) fn tick(&self) -> Duration {
        self.tick
    }

    /// The current tick.
    pub(super) fn now(&self) -> Tick {
        self.now
    }

    /// `duration` in ticks, at least one.
    pub(super) fn ticks(&self, duration: Duration) -> Tick {
        u32::try_from(duration.as_micros().div_ceil(self.tick.as_micros())).unwrap_or(u32::MAX).max(1)
    }

    /// Shows `client` again at `due`, or earlier if that is further than the wheel goes round.
    pub(super) fn put(&mut self, client: K, due: Tick) {
        let ahead = due.saturating_sub(self.now).clamp(1, SLOTS - 1);
        self.slots[((self.now + ahead) % SLOTS) as usize].push(client);
    }

    /// Moves on by one tick; gives the clients to look at.
    pub(super) fn advance(&mut self) -> Vec<K> {
        self.now += 1;
        std::mem::take(&mut self.slots[(self.now % SLOTS) as usize])
    }
}
