//! Ports for connections that need another than their own: unguessable, and bounded in the time
//! that the search takes (RFC 6056, RFC 7857 section 9).

use std::ops::RangeInclusive;

use crate::clock::Tick;
use crate::wire::address::fold_multiply;

/// Candidates of one search. In a large range nine tenths of which are taken, one search in
/// 10^11 misses the rest.
const TRIES: u32 = 256;
/// More of them for each worker, where a port must also lead to the one that searches: one search
/// in 10^7 finds none of its own.
const TRIES_PER_WORKER: u32 = 16;
/// Fruitless searches that are remembered, and for how long, milliseconds.
const MEMORIES: usize = 64;
const MEMORY_MS: u32 = 50;
/// An odd number with well mixed bits.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Where the next search begins.
#[derive(Debug)]
pub(super) struct PortChoice {
    state: u64,
    /// Searches that found nothing, by what they were for: not to be repeated for every packet.
    exhausted: [(u64, Tick); MEMORIES],
}

impl PortChoice {
    pub(super) const fn new(seed: u64) -> Self {
        Self { state: seed, exhausted: [(0, Tick(0)); MEMORIES] }
    }

    fn place(goal: u64) -> usize {
        usize::try_from(goal % MEMORIES as u64).unwrap_or(0)
    }

    /// Whether a search for this found nothing just now.
    pub(super) fn is_exhausted(&self, goal: u64, now: Tick) -> bool {
        let memory = self.exhausted.get(Self::place(goal));
        memory.is_some_and(|(known, at)| *known == goal && now.since(*at) < MEMORY_MS)
    }

    /// A search for this found nothing.
    pub(super) fn note_exhausted(&mut self, goal: u64, now: Tick) {
        if let Some(memory) = self.exhausted.get_mut(Self::place(goal)) {
            *memory = (goal, now);
        }
    }

    /// One of `count` things, another one each time; 0 where there is none.
    pub(super) fn next(&mut self, count: usize) -> usize {
        self.state = self.state.wrapping_add(STEP);
        let mixed = fold_multiply(self.state, STEP) % count.max(1) as u64;
        usize::try_from(mixed).unwrap_or(0)
    }

    /// The first candidate that is free. `hash`: keyed, of what the port must be unique for, so
    /// that who sees the ports of one destination learns nothing of another's (the purpose of RFC
    /// 6056 section 3.3.3). A small range is searched whole.
    pub(super) fn find(
        &mut self,
        range: &RangeInclusive<u16>,
        hash: u64,
        is_free: impl FnMut(u16) -> bool,
    ) -> Option<u16> {
        self.search(range, TRIES, hash, is_free)
    }

    /// As [`PortChoice::find`], where only one in `workers` candidates can be free.
    pub(super) fn find_own(
        &mut self,
        range: &RangeInclusive<u16>,
        workers: u16,
        hash: u64,
        is_free: impl FnMut(u16) -> bool,
    ) -> Option<u16> {
        self.search(range, TRIES + TRIES_PER_WORKER * u32::from(workers), hash, is_free)
    }

    fn search(
        &mut self,
        range: &RangeInclusive<u16>,
        tries: u32,
        hash: u64,
        mut is_free: impl FnMut(u16) -> bool,
    ) -> Option<u16> {
        let (first, last) = (u32::from(*range.start()), u32::from(*range.end()));
        let count = last.checked_sub(first)? + 1;
        self.state = self.state.wrapping_add(STEP);
        let seed = fold_multiply(hash ^ self.state, STEP);
        let is_small = count <= tries;
        (0..tries.min(count)).find_map(|attempt| {
            let offset = if is_small {
                (seed % u64::from(count) + u64::from(attempt)) % u64::from(count)
            } else {
                fold_multiply(seed ^ u64::from(attempt), STEP | 1) % u64::from(count)
            };
            let port = u16::try_from(u64::from(first) + offset).ok()?;
            is_free(port).then_some(port)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_range_is_searched_whole() {
        let mut choice = PortChoice::new(7);
        for free in 2000..=2255 {
            assert_eq!(choice.find(&(2000..=2255), 9, |port| port == free), Some(free));
        }
        assert_eq!(choice.find(&(2000..=2255), 9, |_| false), None);
    }

    #[test]
    fn choices_spread_over_the_range_and_do_not_follow_each_other() {
        let mut choice = PortChoice::new(7);
        let range = 1024..=65_535;
        let mut ports: Vec<_> =
            (0..1000).filter_map(|_| choice.find(&range, 3, |_| true)).collect();
        let neighbours = ports.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) < 16).count();
        assert!(neighbours < 10, "{neighbours}");
        ports.sort_unstable();
        let quarters = ports.chunk_by(|a, b| a / 16_384 == b / 16_384);
        let quarters: Vec<_> = quarters.map(<[u16]>::len).collect();
        assert!(quarters.iter().all(|count| (150..400).contains(count)), "{quarters:?}");
    }

    #[test]
    fn of_many_workers_each_finds_ports_of_its_own() {
        let mut choice = PortChoice::new(1);
        let range = 1024..=65_535;
        for worker in (0..127).cycle().take(10_000) {
            let found = choice.find_own(&range, 127, 5, |port| port % 127 == worker);
            assert!(found.is_some_and(|port| port % 127 == worker), "{worker}");
        }
    }

    #[test]
    fn nine_tenths_taken_leaves_no_search_without_a_port() {
        let mut choice = PortChoice::new(1);
        for _ in 0..1000 {
            assert!(choice.find(&(1024..=65_535), 5, |port| port % 10 == 3).is_some());
        }
    }
}
