//! When the node gave positions that are older than the time at which it gave them. Pure: it reads no clock.
//!
//! A node that lags behind its sources gives what arrives an older position, so that its own ids claim no more than it has
//! delivered. For a client of another node such a position is too old: the client's cursor may be later, although the client has not
//! got the event. This holds for everything that has a position: events, also those that were dropped since, the beginnings of
//! channels, and the ends of holes.
//!
//! Invariants:
//! - A position after [`Lags::before`] a time is the only kind that a client can lack that has everything published before that time.
//! - At most [`MOST_SPANS`] are kept. Joining two of them makes that position earlier, never later.

use crate::cursor::Position;

/// Most spans that are kept.
const MOST_SPANS: usize = 256;

/// A span of time in which the node lagged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LagSpan {
    /// The end of the span, in microseconds since 1970.
    pub until: u64,
    /// The last position before the span: those that were given within it are later.
    pub after: Position,
}

/// The spans in which a node lagged.
#[derive(Debug, Default)]
pub(super) struct Lags {
    /// Both times and positions grow.
    spans: Vec<LagSpan>,
}

impl Lags {
    /// Adds a span that ends later than the ones before.
    pub(super) fn add(&mut self, span: LagSpan) {
        match self.spans.last_mut() {
            Some(last) if span.until <= last.until => {}
            Some(last) if span.after <= last.after => last.until = span.until,
            _ => self.spans.push(span),
        }
        if self.spans.len() > MOST_SPANS {
            self.join_oldest();
        }
    }

    /// Joins each two of the older half.
    fn join_oldest(&mut self) {
        let newer = self.spans.split_off(MOST_SPANS / 2);
        let joined = |pair: &[LagSpan]| Some(LagSpan { until: pair.last()?.until, after: pair.first()?.after });
        self.spans = self.spans.chunks(2).filter_map(joined).chain(newer).collect();
    }

    /// The position up to which a client has everything that has everything published before `time` (microseconds since 1970).
    pub(super) fn before(&self, time: u64) -> Position {
        let lagged = self.spans.get(self.spans.partition_point(|span| span.until < time));
        lagged.map_or(Position(time), |span| span.after.min(Position(time)))
    }

    /// The spans, in order.
    pub(super) fn spans(&self) -> &[LagSpan] {
        &self.spans
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_time_within_a_lag_is_the_position_before_it() {
        let mut lags = Lags::default();
        assert_eq!(lags.before(7), Position(7), "without a lag, a position is a time");
        lags.add(LagSpan { until: 60, after: Position(20) });
        lags.add(LagSpan { until: 70, after: Position(20) });
        lags.add(LagSpan { until: 80, after: Position(25) });
        let before = [10, 20, 30, 60, 70, 71, 80, 81].map(|time| lags.before(time).0);
        assert_eq!(before, [10, 20, 20, 20, 20, 25, 25, 81]);
        assert_eq!(lags.spans().len(), 2);
    }

    proptest! {
        #[test]
        fn many_spans_take_bounded_memory_and_hide_nothing(
            steps in prop::collection::vec((1..9_u64, 0..9_u64), 1..2_000),
            times in prop::collection::vec(0..10_000_u64, 20),
        ) {
            let (mut lags, mut all) = (Lags::default(), Vec::new());
            let (mut until, mut after) = (0, 0);
            for (time, positions) in steps {
                until += time;
                after = (after + positions).min(until);
                let span = LagSpan { until, after: Position(after) };
                lags.add(span);
                all.push(span);
            }
            prop_assert!(lags.spans().len() <= MOST_SPANS);
            for time in times {
                let exact = all.iter().find(|span| span.until >= time).map_or(time, |span| span.after.0.min(time));
                prop_assert!(lags.before(time).0 <= exact);
            }
        }
    }
}
