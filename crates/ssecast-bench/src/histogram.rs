//! A histogram of microseconds of a fixed size: its quantiles are exact to 1.6 %. Reads no clock.

use serde::Serialize;

/// Each value below this has its own bucket. Above, each doubling of the value has half as many buckets.
const EXACT: u64 = 128;
const PLACES_A_DOUBLING: u64 = EXACT / 2;
const PLACES: usize = 128 + 57 * 64;

/// The histogram.
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Box<[u64]>,
    total: u64,
    max: u64,
}

/// A histogram's figures for a report, in microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Quantiles {
    /// Half of all are at most this.
    pub p50: u64,
    /// 99 of 100 are at most this.
    pub p99: u64,
    /// The largest.
    pub max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; PLACES].into(), total: 0, max: 0 }
    }
}

impl Histogram {
    /// Counts `value`.
    pub fn add(&mut self, value: u64) {
        self.counts[place(value)] += 1;
        self.total += 1;
        self.max = self.max.max(value);
    }

    /// Number of counted values.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Its quantiles; `None` if it is empty.
    #[must_use]
    pub fn quantiles(&self) -> Option<Quantiles> {
        (self.total > 0).then(|| Quantiles { p50: self.at(50), p99: self.at(99), max: self.max })
    }

    /// The value that `percent` of all values do not exceed.
    fn at(&self, percent: u64) -> u64 {
        let rank = (self.total * percent).div_ceil(100);
        let mut below = 0;
        for (place, count) in self.counts.iter().enumerate() {
            below += count;
            if below >= rank {
                return upper(place).min(self.max);
            }
        }
        self.max
    }
}

fn place(value: u64) -> usize {
    if value < EXACT {
        return value as usize;
    }
    let doubling = u64::from(value.ilog2() - EXACT.ilog2());
    let within = (value >> (doubling + 1)) - PLACES_A_DOUBLING;
    (EXACT + doubling * PLACES_A_DOUBLING + within) as usize
}

/// The largest value counted at `place`.
fn upper(place: usize) -> u64 {
    let place = place as u64;
    if place < EXACT {
        return place;
    }
    let doubling = (place - EXACT) / PLACES_A_DOUBLING;
    let within = (place - EXACT) % PLACES_A_DOUBLING;
    (((within + PLACES_A_DOUBLING + 1) as u128) << (doubling + 1)).saturating_sub(1).min(u128::from(u64::MAX)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_exact_to_a_few_percent() {
        let mut histogram = Histogram::default();
        assert!(histogram.quantiles().is_none());
        for value in 1..=100_000 {
            histogram.add(value);
        }
        let quantiles = histogram.quantiles().unwrap();
        assert!((50_000..50_800).contains(&quantiles.p50), "{quantiles:?}");
        assert!((99_000..100_600).contains(&quantiles.p99), "{quantiles:?}");
        assert_eq!(quantiles.max, 100_000);
    }

    #[test]
    fn every_value_has_a_place() {
        for value in (0..64).map(|shift| 1u64 << shift).chain([0, 127, 128, 129, u64::MAX]) {
            let place = place(value);
            assert!(place < PLACES && upper(place) >= value, "{value}: {place}");
            assert!(place == 0 || upper(place - 1) < value, "{value}: {place}");
        }
    }
}
