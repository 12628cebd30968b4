//! wrr: interleaved turns in proportion to the weights, the sequence of IPVS.
//!
//! Rounds go over all servers with a falling threshold; a server takes part in a round when its
//! weight reaches the threshold. The threshold falls in steps of the weights' greatest common
//! divisor down to 1, then starts again at the highest that a server reaches. The first round of
//! all has threshold 1: in IPVS that is what adding servers one by one comes to.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::service::table::Server;

/// What the sequence needs to know of the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weights {
    /// The threshold of the highest round; 0: every weight is 0.
    highest: u32,
    divisor: u32,
}

/// Where the rotation stands: places already visited in this round, and the round's threshold.
#[derive(Clone, Copy)]
struct Position {
    place: usize,
    threshold: u32,
}

impl Position {
    fn unpack(cursor: u64) -> Self {
        #[allow(clippy::cast_possible_truncation, reason = "the halves are what is wanted")]
        let (place, threshold) = ((cursor >> 32) as usize, cursor as u32);
        Self { place, threshold }
    }

    fn pack(self) -> u64 {
        (self.place as u64) << 32 | u64::from(self.threshold)
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Weights {
    pub(super) fn of(weights: impl Iterator<Item = u32>) -> Self {
        let (largest, divisor) = weights
            .fold((0, 0), |(largest, divisor), weight| (weight.max(largest), gcd(weight, divisor)));
        Self { highest: if largest == 0 { 0 } else { largest - (divisor - 1) }, divisor }
    }

    pub(super) fn pick<'s, A>(
        self,
        servers: &'s [Server<A>],
        cursor: &AtomicU64,
    ) -> Option<&'s Server<A>> {
        if self.highest == 0 {
            return None;
        }
        let mut old = cursor.load(Relaxed);
        loop {
            let (place, next) = self.step(servers, Position::unpack(old))?;
            match cursor.compare_exchange_weak(old, next.pack(), Relaxed, Relaxed) {
                Ok(_) => return servers.get(place),
                Err(now) => old = now,
            }
        }
    }

    /// The next server's place and the position after it. Ends: a round of the highest threshold
    /// finds a server.
    fn step<A>(self, servers: &[Server<A>], at: Position) -> Option<(usize, Position)> {
        let mut threshold = at.threshold;
        if threshold == 0 || threshold > self.highest {
            threshold = 1;
        }
        let mut start = at.place;
        let mut highest_seen = false;
        loop {
            let rest = servers.get(start..).unwrap_or_default();
            if let Some(steps) = rest.iter().position(|server| server.weight >= threshold) {
                let place = start + steps;
                return Some((place, Position { place: place + 1, threshold }));
            }
            if highest_seen {
                return None;
            }
            start = 0;
            threshold = match threshold.checked_sub(self.divisor) {
                Some(lower) if lower > 0 => lower,
                _ => {
                    highest_seen = true;
                    self.highest
                }
            };
        }
    }
}
