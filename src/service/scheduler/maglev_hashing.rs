//! mh: the table of IPVS's Maglev hashing (Eisenbud et al., "Maglev: A Fast and Reliable Software
//! Network Load Balancer", NSDI 2016), place for place.

use super::client_hash::{added, siphash};
use crate::service::table::Server;
use crate::wire::address::Address;

/// Places: the prime of the kernel's default `CONFIG_IP_VS_MH_TAB_INDEX`, 12.
pub(super) const PLACES: usize = 4093;
/// Bits of the largest weight that count.
const WEIGHT_BITS: u32 = 6;
/// The key of clients, and of the servers' first places.
pub(super) const KEY: u64 = 2_654_435_761;
/// The key of the servers' steps.
const STEP_KEY: u64 = 2_654_446_892;

/// The way of one server through the table.
struct Permutation {
    place: usize,
    step: usize,
    /// Places that it takes when it is its turn.
    turns: u32,
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Whose each place is; empty if all weights are 0.
pub(super) fn places<A: Address>(servers: &[Server<A>], weights: &[u32]) -> Vec<u16> {
    let divisor = weights.iter().fold(0, |divisor, weight| gcd(*weight, divisor));
    let Some(largest) = weights.iter().max().and_then(|largest| largest.checked_div(divisor))
    else {
        return Vec::new();
    };
    let shift = (u32::BITS - largest.leading_zeros()).saturating_sub(WEIGHT_BITS);
    let ways = servers.iter().zip(weights).map(|(server, weight)| {
        let server = added(&server.address, server.port);
        let turns = (weight / divisor) >> shift;
        Permutation {
            place: siphash(server, KEY) as usize % PLACES,
            step: siphash(server, STEP_KEY) as usize % (PLACES - 1) + 1,
            turns: if turns == 0 { u32::from(*weight != 0) } else { turns },
        }
    });
    populate(ways.collect())
}

impl Permutation {
    /// The next place that is free.
    fn next_free(&mut self, places: &[Option<u16>]) -> usize {
        while places.get(self.place).is_some_and(Option::is_some) {
            self.place = (self.place + self.step) % PLACES;
        }
        self.place
    }
}

fn populate(mut ways: Vec<Permutation>) -> Vec<u16> {
    let mut places: Vec<Option<u16>> = vec![None; PLACES];
    let mut left = PLACES;
    while left > 0 {
        for (way, server) in ways.iter_mut().zip(0..) {
            let turns = left.min(way.turns as usize);
            for _ in 0..turns {
                let place = way.next_free(&places);
                places.get_mut(place).into_iter().for_each(|place| *place = Some(server));
            }
            left -= turns;
        }
    }
    places.into_iter().flatten().collect()
}
