//! Whether a CPU has its core to itself, and patience until it has.
//!
//! Two hardware threads share a core's units: with a busy neighbour on the other one, which a
//! virtual machine neither sees nor chooses, everything but waiting takes up to twice as long. A
//! chain of dependent instructions only waits, and takes as long in company as alone; several
//! chains side by side need units, and take longer. Their ratio tells, whatever the clock rate,
//! and without an earlier measurement to compare with.

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use pointsman::dpdk::tsc;

use crate::measure::{Cycles, Run};

/// Chains side by side: together 18 instructions for three cycles.
const CHAINS: usize = 6;
/// Steps of a chain in one sample, and samples of one look: about a millisecond.
const STEPS: usize = 1000;
const SAMPLES: usize = 200;
/// How many times as long as one chain all of them may take on a quiet core. One that executes four
/// such instructions in a cycle needs 1.5 to 1.6, with a busy neighbour 2 and more; where it
/// executes six, the figures are 1 and 2.
const LIMIT: f64 = 1.75;
/// Between two looks of who waits.
const PAUSE: Duration = Duration::from_millis(5);

/// Whether the CPU of the calling thread is quiet.
pub(crate) fn is_quiet() -> bool {
    let [mut one, mut all] = [Cycles::new(SAMPLES), Cycles::new(SAMPLES)];
    for _ in 0..SAMPLES {
        one.push(cycles([1]));
        all.push(cycles([1; CHAINS]));
    }
    all.median_per(STEPS) <= LIMIT * one.median_per(STEPS)
}

/// What so many chains take.
fn cycles<const N: usize>(chains: [u64; N]) -> u64 {
    let chains = black_box(chains);
    let before = tsc::now();
    black_box(step_all(chains));
    tsc::now().wrapping_sub(before)
}

/// Three dependent instructions a step and chain, none of which a compiler can do without, nor
/// for several chains at once.
#[inline(never)]
fn step_all<const N: usize>(mut chains: [u64; N]) -> [u64; N] {
    let odd = black_box(0x9e37_79b9_7f4a_7c15);
    for _ in 0..STEPS {
        for (turn, chain) in (3..).step_by(5).zip(&mut chains) {
            *chain = (chain.rotate_left(turn) ^ odd).wrapping_add(odd);
        }
    }
    chains
}

/// Waits for a quiet moment before each run, for so long altogether. Each run counts, quiet or not.
#[derive(Debug)]
pub(crate) struct Patience<L> {
    left: Duration,
    /// Looks where the run will be.
    look: L,
}

impl<L: FnMut() -> Result<bool>> Patience<L> {
    /// Of so many seconds.
    pub(crate) fn new(seconds: u64, look: L) -> Self {
        Self { left: Duration::from_secs(seconds), look }
    }

    /// Does work, and tells whether it was quiet before and after.
    pub(crate) fn watch<T>(&mut self, work: impl FnOnce() -> Result<T>) -> Result<(T, bool)> {
        let before = self.wait()?;
        let result = work()?;
        Ok((result, (self.look)()? && before))
    }

    /// A run that work gives the figure of.
    pub(crate) fn run(&mut self, work: impl FnOnce() -> Result<f64>) -> Result<Run> {
        let (value, is_quiet) = self.watch(work)?;
        Ok(Run { value, is_quiet })
    }

    /// Whether it is quiet in the end.
    fn wait(&mut self) -> Result<bool> {
        let begun = Instant::now();
        let mut is_quiet = (self.look)()?;
        while !is_quiet && begun.elapsed() < self.left {
            thread::sleep(PAUSE);
            is_quiet = (self.look)()?;
        }
        self.left = self.left.saturating_sub(begun.elapsed());
        Ok(is_quiet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_waits_until_it_is_quiet() {
        let mut looks = [false, false, true, true].into_iter();
        let mut patience = Patience::new(60, || Ok(looks.next().unwrap()));
        let run = patience.run(|| Ok(7.0)).unwrap();
        assert!(run.is_quiet && run.value.total_cmp(&7.0).is_eq());
    }

    #[test]
    fn a_run_that_becomes_loud_counts_and_says_so() {
        let mut looks = [true, false].into_iter();
        let mut patience = Patience::new(60, || Ok(looks.next().unwrap()));
        assert!(!patience.run(|| Ok(7.0)).unwrap().is_quiet);
    }

    #[test]
    fn patience_ends() {
        let mut patience = Patience::new(0, || Ok(false));
        assert!(!patience.run(|| Ok(7.0)).unwrap().is_quiet);
    }
}
