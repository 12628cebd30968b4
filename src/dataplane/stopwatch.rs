//! Where a worker's cycles go: of one round in [`ROUNDS`], the TSC cycles of each stage. So few
//! rounds cost nothing that can be measured, and are enough for an average.

use super::stats::{Stage, StageStats};
use crate::dpdk::tsc;

/// One round of so many is watched: an odd number, or the watch would always, or never, look at
/// rounds in which the mailbox and the timers have their turn.
pub const ROUNDS: u32 = 63;
const _: () = assert!(ROUNDS % 2 == 1);

/// The laps of one round. At rest it does nothing.
#[derive(Debug, Default)]
pub struct Stopwatch {
    /// When the last lap ended; `None`: at rest.
    last: Option<u64>,
    laps: [u64; Stage::ALL.len()],
}

impl Stopwatch {
    /// A round begins that is watched.
    pub fn start(&mut self) {
        self.laps = [0; Stage::ALL.len()];
        self.last = Some(tsc::now());
    }

    /// A stage of the round has ended, and the next begins.
    #[inline]
    pub fn lap(&mut self, stage: Stage) {
        if let Some(last) = self.last {
            self.end_lap(stage, last);
        }
    }

    #[cold]
    fn end_lap(&mut self, stage: Stage, last: u64) {
        let now = tsc::now();
        if let Some(lap) = self.laps.get_mut(stage as usize) {
            *lap += now.wrapping_sub(last);
        }
        self.last = Some(now);
    }

    /// The round has ended. What it took is counted if it was watched and had packets.
    pub fn stop(&mut self, packets: usize, stats: &StageStats) {
        if self.last.take().is_none() || packets == 0 {
            return;
        }
        stats.packets.add(packets as u64);
        for (stage, lap) in Stage::ALL.iter().zip(self.laps) {
            stats.of(*stage).add(lap);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "there is no time-stamp counter")]
    fn laps_are_counted_of_watched_rounds_with_packets_and_of_no_others() {
        let stats = StageStats::default();
        let mut watch = Stopwatch::default();
        watch.lap(Stage::Forward);
        watch.stop(7, &stats);
        watch.start();
        watch.lap(Stage::Receive);
        watch.stop(0, &stats);
        assert_eq!(stats.packets.get(), 0);
        assert!(Stage::ALL.iter().all(|stage| stats.of(*stage).get() == 0));
        watch.start();
        std::thread::yield_now();
        watch.lap(Stage::Forward);
        watch.stop(7, &stats);
        assert_eq!(stats.packets.get(), 7);
        assert!(stats.of(Stage::Forward).get() > 0);
        assert_eq!(stats.of(Stage::Receive).get(), 0);
    }
}
