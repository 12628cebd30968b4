//! What a side counts in one trial.

use hdrhistogram::Histogram;
use pointsman::dpdk::tsc;
use serde::Serialize;

use super::numbers::{fraction, nanoseconds, rounded};

/// The longest latency that is told apart, in nanoseconds.
const LONGEST: u64 = 60_000_000_000;

/// Counts of one side.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Packets of the trial that came, each counted once where flows have one each.
    pub(crate) received: u64,
    /// Of those, which had come before.
    pub(crate) duplicates: u64,
    /// Of the measured protocol, but of another trial or to the wrong end.
    pub(crate) strays: u64,
    /// With a wrong checksum or length.
    pub(crate) corrupt: u64,
    latency: Histogram<u64>,
}

impl Tally {
    /// Nothing yet.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let latency = Histogram::new_with_bounds(1, LONGEST, 3)?;
        Ok(Self { received: 0, duplicates: 0, strays: 0, corrupt: 0, latency })
    }

    /// Notes how long a packet took, in cycles.
    #[inline]
    pub(crate) fn took(&mut self, cycles: u64, hz: u64) {
        self.latency.saturating_record(nanoseconds(cycles, hz));
    }

    /// The distribution of latencies; `None` without any.
    pub(crate) fn latency(&self) -> Option<Latency> {
        let at = |quantile| microseconds(self.latency.value_at_quantile(quantile));
        (!self.latency.is_empty()).then(|| Latency {
            packets: self.latency.len(),
            min: microseconds(self.latency.min()),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: microseconds(self.latency.max()),
        })
    }
}

fn microseconds(nanoseconds: u64) -> f64 {
    rounded(fraction(nanoseconds) / 1000.0)
}

/// A distribution of latencies, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) packets: u64,
    pub(crate) min: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

/// Cycles of the time-stamp counter in a second, read once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    pub(crate) hz: u64,
}

impl Clock {
    /// The machine's.
    pub(crate) fn new() -> Self {
        Self { hz: tsc::hz().max(1) }
    }
}
