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

/// The figure of one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) value: f64,
    /// The core was not shared before it and after it.
    pub(crate) is_quiet: bool,
}

/// Nobody has looked whether it was quiet, or it does not matter.
impl From<f64> for Run {
    fn from(value: f64) -> Self {
        Self { value, is_quiet: false }
    }
}

/// Several runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Runs(Vec<Run>);

impl Runs {
    /// None yet.
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    /// Notes a run.
    pub(crate) fn push(&mut self, run: impl Into<Run>) {
        self.0.push(run.into());
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The middle one, or the mean of the two in the middle; 0 without any.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted: Vec<_> = self.values().collect();
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
        let min = self.values().fold(f64::INFINITY, f64::min);
        let max = self.values().fold(f64::NEG_INFINITY, f64::max);
        [min, max]
    }

    /// This and `other`, run by run.
    pub(crate) fn with(&self, other: &Self, combine: impl Fn(f64, f64) -> f64) -> Self {
        let both = self.0.iter().zip(&other.0).map(|(a, b)| Run {
            value: combine(a.value, b.value),
            is_quiet: a.is_quiet && b.is_quiet,
        });
        Self(both.collect())
    }

    /// The quiet ones.
    pub(crate) fn quiet(&self) -> Self {
        Self(self.0.iter().filter(|run| run.is_quiet).copied().collect())
    }

    fn values(&self) -> impl Iterator<Item = f64> {
        self.0.iter().map(|run| run.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(values: &[f64]) -> Runs {
        Runs(values.iter().copied().map(Run::from).collect())
    }

    #[test]
    fn what_comes_of_two_runs_is_quiet_where_both_are() {
        let of = |quiet: [bool; 3]| Runs(quiet.map(|is_quiet| Run { value: 1.0, is_quiet }).into());
        let both = of([true, true, false]).with(&of([true, false, true]), |a, b| a + b);
        assert_eq!((both.len(), both.quiet().len()), (3, 1));
        assert!(both.quiet().median().total_cmp(&2.0).is_eq());
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert!(runs(&[3.0, 1.0, 2.0]).median().total_cmp(&2.0).is_eq());
        assert!(runs(&[4.0, 1.0, 2.0, 3.0]).median().total_cmp(&2.5).is_eq());
        let [least, most] = runs(&[3.0, 1.0]).spread();
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
