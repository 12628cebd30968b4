//! wrr: interleaved turns in proportion to the weights, the sequence of IPVS.
//!
//! Rounds go over all servers with a falling threshold; a server takes part in a round when its
//! weight reaches the threshold. The threshold falls in steps of the weights' greatest common
//! divisor down to 1, then starts again at the highest that a server reaches. The first round of
//! all has threshold 1: in IPVS that is what adding servers one by one comes to.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::Candidates;
use super::rotation::{Rotation, Stand};
use crate::service::table::Server;

/// What the sequence needs to know of the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::service) struct Weights {
    /// The threshold of the highest round; 0: every weight is 0.
    highest: u32,
    divisor: u32,
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Weights {
    pub(super) fn of(weights: impl Iterator<Item = u32>) -> Self {
        let (largest, divisor) = weights
            .fold((0, 0), |(largest, divisor), weight| (weight.max(largest), gcd(weight, divisor)));
        Self { highest: highest(largest, divisor), divisor }
    }

    pub(super) fn pick<'s, A>(
        self,
        from: &Candidates<'s, '_, A>,
        rotation: &Rotation,
        cursor: &AtomicU64,
    ) -> Option<&'s Server<A>> {
        if self.highest == 0 {
            return None;
        }
        let mut old = cursor.load(Relaxed);
        loop {
            let stand = Stand::unpack(old);
            let start = rotation.start(from.servers, stand);
            let (place, threshold) = self.step(from, start, self.aligned(stand.threshold))?;
            let next = Stand::at(from.servers, place, threshold).pack();
            match cursor.compare_exchange_weak(old, next, Relaxed, Relaxed) {
                Ok(_) => return from.servers.get(place),
                Err(now) => old = now,
            }
        }
    }

    /// A threshold that may be from a time of other weights, as one of these weights; what IPVS
    /// does when weights change.
    fn aligned(self, threshold: u32) -> u32 {
        match threshold {
            0 => 1,
            _ if threshold > self.highest => self.highest,
            _ if self.divisor > 1 => threshold / self.divisor * self.divisor + 1,
            _ => threshold,
        }
    }

    /// The next server's place and the round's threshold.
    fn step<A>(
        self,
        from: &Candidates<'_, '_, A>,
        start: usize,
        threshold: u32,
    ) -> Option<(usize, u32)> {
        let takes_part =
            |server: &Server<A>, threshold| server.weight >= threshold && from.is_open(server);
        let rest = from.servers.get(start..).unwrap_or_default();
        if let Some(steps) = rest.iter().position(|server| takes_part(server, threshold)) {
            return Some((start + steps, threshold));
        }
        // Rounds of which the servers that take part are overloaded are left out in one step: with
        // weights of millions there may be millions.
        let largest = from.open().map(|server| server.weight).max()?;
        let reached = highest(largest, self.divisor);
        let threshold = match threshold.checked_sub(self.divisor) {
            Some(lower) if lower > 0 => lower.min(reached),
            _ => reached,
        };
        let place = from.servers.iter().position(|server| takes_part(server, threshold))?;
        Some((place, threshold))
    }
}

/// The highest threshold that a weight reaches.
fn highest(weight: u32, divisor: u32) -> u32 {
    if weight == 0 { 0 } else { weight - (divisor - 1) }
}
