//! The time that becomes an event's position: never later than what is known, and not changed by a clock that steps and comes
//! back. Pure: it reads no clock.
//!
//! A client that moves to another node gets the events that are younger than its cursor less `history.skew`. So a position must
//! not claim more than the node has delivered: everything that was published half of `history.skew` before it. The other half
//! allows for the difference of two nodes' clocks.
//!
//! Positions only grow. Where a clock was set back, they are ahead of it until it has caught up, and their ids say so
//! ([`Stamps::is_ahead`]).

use std::time::Duration;

/// Changes of the difference between the wall clock and the monotonic clock up to this are followed at once, in microseconds.
const SLEWED: u64 = 250_000;
/// How long a clock must stay where it stepped to before it is followed, in microseconds.
const TRUSTED_AFTER: u64 = 30_000_000;
/// Length of a span of lag, in microseconds. A longer one gives more events twice; a shorter one is noted more often.
const LAG_SPAN: u64 = 100_000;

/// A step of the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It has stepped by so many microseconds. Positions don't follow yet.
    Seen(i64),
    /// It has returned to the time before the step.
    Undone,
    /// The new time has lasted, and is followed from now on.
    Followed(i64),
}

/// A wall clock that doesn't step with the system's: a step is followed only once it has lasted. All in microseconds.
#[derive(Debug)]
struct SteadyClock {
    /// Wall time less monotonic time.
    offset: i128,
    /// A step: its offset, and since when (monotonic).
    stepped: Option<(i128, u64)>,
}

impl SteadyClock {
    fn read(&mut self, wall: u64, monotonic: u64) -> (u64, Option<Step>) {
        let offset = i128::from(wall) - i128::from(monotonic);
        let mut step = None;
        if offset.abs_diff(self.offset) <= u128::from(SLEWED) {
            step = self.stepped.take().map(|_| Step::Undone);
            self.offset = offset;
        } else {
            let by = i64::try_from(offset - self.offset).unwrap_or(i64::MAX);
            match self.stepped {
                Some((to, since)) if to.abs_diff(offset) <= u128::from(SLEWED) => {
                    if monotonic.saturating_sub(since) >= TRUSTED_AFTER {
                        (self.offset, self.stepped) = (offset, None);
                        step = Some(Step::Followed(by));
                    }
                }
                _ => {
                    self.stepped = Some((offset, monotonic));
                    step = Some(Step::Seen(by));
                }
            }
        }
        let now = i128::from(monotonic) + self.offset;
        (u64::try_from(now.max(0)).unwrap_or(u64::MAX), step)
    }
}

/// Makes the times of positions.
#[derive(Debug)]
pub(super) struct Stamps {
    clock: SteadyClock,
    /// How much later than a source's watermark a position may be.
    margin: u64,
    /// For each source: all published before this time has been delivered, or is lost and reported by a gap event. Of one whose
    /// events need no times: the end of time.
    watermarks: Vec<u64>,
    /// The end of the last span of lag.
    lags_until: u64,
}

impl Stamps {
    /// Stamps for sources; each says whether its events are found by time on other nodes. Those of a journal are found by their
    /// entries. `wall`, `monotonic`: the clocks now, in microseconds; `skew`: `history.skew`.
    pub(super) fn new(sources: impl Iterator<Item = bool>, skew: Duration, wall: u64, monotonic: u64) -> Self {
        let clock = SteadyClock { offset: i128::from(wall) - i128::from(monotonic), stepped: None };
        let margin = u64::try_from(skew.as_micros() / 2).unwrap_or(u64::MAX);
        let watermarks = sources.map(|timed| if timed { 0 } else { u64::MAX }).collect();
        Self { clock, margin, watermarks, lags_until: 0 }
    }

    /// The time, and whether the wall clock has stepped.
    pub(super) fn now(&mut self, wall: u64, monotonic: u64) -> (u64, Option<Step>) {
        let (now, step) = self.clock.read(wall, monotonic);
        if let Some(Step::Followed(by)) = step {
            // They are times of the clock before its step.
            for watermark in &mut self.watermarks {
                *watermark = watermark.saturating_add_signed(by);
            }
        }
        (now, step)
    }

    /// The time for the position of what happens `now`.
    pub(super) fn stamp(&self, now: u64) -> u64 {
        let known = self.watermarks.iter().min().map_or(u64::MAX, |oldest| oldest.saturating_add(self.margin));
        now.min(known)
    }

    /// If a position given `now` is older than that, and this is no part of a span that was noted before: the end of a span of
    /// lag that begins now.
    pub(super) fn begin_lag(&mut self, now: u64) -> Option<u64> {
        if self.stamp(now) >= now || now <= self.lags_until {
            return None;
        }
        self.lags_until = now.saturating_add(LAG_SPAN);
        Some(self.lags_until)
    }

    /// Whether the last position claims more than is known `now`, so that it must not be taken for a time.
    pub(super) fn is_ahead(&self, last: u64, now: u64) -> bool {
        // Of a source that has never been connected, nothing is known and nothing claimed.
        let connected = self.watermarks.iter().filter(|watermark| **watermark > 0);
        let known = connected.min().map_or(u64::MAX, |oldest| oldest.saturating_add(self.margin));
        last > now.min(known).saturating_add(SLEWED)
    }

    /// All that was published at the source before `at` has been delivered, or is lost and reported. `now`: the time.
    pub(super) fn watermark(&mut self, source: usize, at: u64, now: u64) {
        // A later time was read before the clock was set back: the source's next watermark counts.
        if at <= now {
            let watermark = &mut self.watermarks[source];
            *watermark = at.max(*watermark);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000;
    const START: u64 = 1_700_000_000 * SECOND;

    fn stamps(sources: usize) -> Stamps {
        Stamps::new((0..sources).map(|_| true), Duration::from_secs(2), START, 0)
    }

    #[test]
    fn a_lagging_node_does_not_stamp_later_than_its_source_is_known_to_have_delivered() {
        let mut stamps = stamps(2);
        stamps.watermark(0, START, START);
        stamps.watermark(1, START + 5 * SECOND, START + 5 * SECOND);
        assert_eq!(stamps.stamp(START + SECOND / 2), START + SECOND / 2);
        assert_eq!(stamps.stamp(START + 4 * SECOND), START + SECOND, "the source that lags most counts");
        stamps.watermark(0, START + 4 * SECOND, START + 5 * SECOND);
        stamps.watermark(0, START + SECOND, START + 5 * SECOND);
        assert_eq!(stamps.stamp(START + 4 * SECOND), START + 4 * SECOND, "a watermark only rises");
    }

    #[test]
    fn each_position_that_is_older_than_the_time_is_within_a_span_of_lag() {
        let mut stamps = stamps(1);
        stamps.watermark(0, START, START);
        assert_eq!(stamps.begin_lag(START + SECOND), None, "its position is the time");
        let late = START + SECOND + 1;
        assert_eq!(stamps.begin_lag(late), Some(late + LAG_SPAN));
        assert_eq!(stamps.begin_lag(late + LAG_SPAN), None);
        assert_eq!(stamps.begin_lag(late + LAG_SPAN + 1), Some(late + 2 * LAG_SPAN + 1));
        stamps.watermark(0, START + 2 * SECOND, START + 2 * SECOND);
        assert_eq!(stamps.begin_lag(START + 2 * SECOND), None);
    }

    #[test]
    fn without_sources_the_time_is_the_clocks() {
        assert_eq!(stamps(0).stamp(START + 7), START + 7);
    }

    #[test]
    fn a_clock_that_jumps_ahead_and_comes_back_moves_no_position() {
        let mut stamps = stamps(0);
        let day = 86_400 * SECOND;
        assert_eq!(stamps.now(START + SECOND, SECOND), (START + SECOND, None));
        let jumped = stamps.now(START + day + 2 * SECOND, 2 * SECOND);
        assert_eq!(jumped, (START + 2 * SECOND, Some(Step::Seen(day as i64))));
        assert_eq!(stamps.now(START + day + 3 * SECOND, 3 * SECOND), (START + 3 * SECOND, None));
        assert_eq!(stamps.now(START + 4 * SECOND, 4 * SECOND), (START + 4 * SECOND, Some(Step::Undone)));
    }

    #[test]
    fn a_step_that_lasts_is_followed() {
        for by in [3_600_i64, -3_600] {
            let by = by * SECOND as i64;
            let mut stamps = stamps(0);
            let wall = |monotonic: u64| (START + monotonic).checked_add_signed(by).unwrap();
            assert_eq!(stamps.now(wall(SECOND), SECOND).1, Some(Step::Seen(by)));
            let after = SECOND + TRUSTED_AFTER;
            assert_eq!(stamps.now(wall(after), after), (wall(after), Some(Step::Followed(by))));
        }
    }

    #[test]
    fn a_clock_that_was_set_back_leaves_positions_ahead_until_it_has_caught_up() {
        let mut stamps = stamps(1);
        let (hour, bound) = (3_600 * SECOND, SLEWED);
        stamps.watermark(0, START, START);
        let last = stamps.stamp(START);
        assert!(!stamps.is_ahead(last, START));
        stamps.now(START - hour, 0);
        assert_eq!(stamps.now(START - hour + TRUSTED_AFTER, TRUSTED_AFTER).1, Some(Step::Followed(-(hour as i64))));
        let now = START - hour + TRUSTED_AFTER;
        stamps.watermark(0, START + SECOND, now); // It was read before the step was followed.
        assert_eq!(stamps.stamp(now), START - hour + SECOND, "of the source no more is known than before the step");
        for (elapsed, ahead) in [(TRUSTED_AFTER, true), (hour - bound - 1, true), (hour - bound, false), (hour, false)]
        {
            let now = START - hour + elapsed;
            stamps.watermark(0, now, now);
            assert_eq!(stamps.is_ahead(last, now), ahead, "{elapsed} us after the step");
        }
    }

    #[test]
    fn positions_of_a_node_whose_source_is_not_connected_are_not_ahead() {
        assert!(!stamps(1).is_ahead(START, START));
    }

    proptest! {
        /// Positions as the sequencer makes them, while clocks step and a source lags.
        #[test]
        fn a_position_that_is_taken_for_a_time_claims_no_more_than_is_known(
            inputs in prop::collection::vec((1_u64..5 * SECOND, -10_i64..10, 0_u64..4 * SECOND, 0_usize..3), 1..300),
        ) {
            let mut stamps = stamps(1);
            // `known`: until when the source has delivered everything, by the monotonic clock.
            let (mut monotonic, mut offset, mut last, mut known) = (0, 0_i64, 0, None);
            for (elapsed, seconds, lag, input) in inputs {
                monotonic += elapsed;
                offset += if seconds.abs() > 7 { seconds * SECOND as i64 } else { 0 };
                let (now, _) = stamps.now((START + monotonic).checked_add_signed(offset).unwrap(), monotonic);
                if input == 0 {
                    let at = monotonic.saturating_sub(lag);
                    stamps.watermark(0, now - (monotonic - at), now);
                    known = known.max(Some(at));
                }
                last = stamps.stamp(now).max(last + 1);
                if let Some(known) = known && !stamps.is_ahead(last, now) {
                    let claimed = last - (now - monotonic);
                    prop_assert!(claimed <= known + SECOND + 2 * SLEWED, "{claimed} with {known} known");
                }
            }
        }

        #[test]
        fn the_steady_clock_never_runs_back_unless_it_follows_a_step(
            steps in prop::collection::vec((1_u64..5 * SECOND, -10_i64..10), 1..200),
        ) {
            let mut stamps = stamps(0);
            let (mut monotonic, mut offset, mut last) = (0, 0_i64, START);
            for (elapsed, seconds) in steps {
                monotonic += elapsed;
                offset += if seconds.abs() > 7 { seconds * SECOND as i64 } else { 0 };
                let (now, step) = stamps.now((START + monotonic).checked_add_signed(offset).unwrap(), monotonic);
                prop_assert!(now + SLEWED >= last || matches!(step, Some(Step::Followed(_))));
                last = now;
            }
        }
    }
}
