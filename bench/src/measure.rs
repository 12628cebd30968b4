//! Medians and spreads.

#![allow(clippy::cast_precision_loss, reason = "measured numbers are far below 2^52")]

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// What the calling thread has had of its CPU.
pub(crate) fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanoseconds.unwrap_or(0))
}

/// Cycles of every burst of one run.
#[derive(Debug)]
pub(crate) struct Cycles(Vec<u32>);

impl Cycles {
    /// Room for `bursts`.
    pub(crate) fn new(bursts: usize) -> Self {
        Self(Vec::with_capacity(bursts))
    }

    /// Notes a burst, as long as there is room.
    #[inline]
    pub(crate) fn push(&mut self, cycles: u64) {
        if self.0.len() < self.0.capacity() {
            self.0.push(u32::try_from(cycles).unwrap_or(u32::MAX));
        }
    }

    /// Forgets all bursts.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Cycles per packet of the median burst: what the scheduler or a neighbour took is in the
    /// bursts that it hit, and falls out.
    pub(crate) fn median_per(&mut self, packets: usize) -> f64 {
        let middle = self.0.len() / 2;
        if self.0.is_empty() {
            return 0.0;
        }
        let (_, median, _) = self.0.select_nth_unstable(middle);
        f64::from(*median) / packets as f64
    }
}

/// The figures of several runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Runs(Vec<f64>);

impl Runs {
    /// None yet.
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    /// Notes a run.
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The middle one, or the mean of the two in the middle; 0 without any.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match (sorted.get(middle.wrapping_sub(1)), sorted.get(middle)) {
            (Some(below), Some(above)) if sorted.len().is_multiple_of(2) => {
                f64::midpoint(*below, *above)
            }
            (_, Some(value)) => *value,
            _ => 0.0,
        }
    }

    /// The smallest and the largest.
    pub(crate) fn spread(&self) -> [f64; 2] {
        let min = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let max = self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        [min, max]
    }

    /// This and `other`, run by run.
    pub(crate) fn with(&self, other: &Self, combine: impl Fn(f64, f64) -> f64) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| combine(*a, *b)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert!(Runs(vec![3.0, 1.0, 2.0]).median().total_cmp(&2.0).is_eq());
        assert!(Runs(vec![4.0, 1.0, 2.0, 3.0]).median().total_cmp(&2.5).is_eq());
        let [least, most] = Runs(vec![3.0, 1.0]).spread();
        assert!(least.total_cmp(&1.0).is_eq() && most.total_cmp(&3.0).is_eq());
    }

    #[test]
    fn one_preempted_burst_does_not_move_the_median() {
        let mut cycles = Cycles::new(5);
        for burst in [640, 640, 640, 1_000_000, 640] {
            cycles.push(burst);
        }
        assert!(cycles.median_per(64).total_cmp(&10.0).is_eq());
    }
}
