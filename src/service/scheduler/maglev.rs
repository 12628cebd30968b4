//! maglev: Maglev hashing (NSDI 2016) with a larger table and whole weights.
//!
//! Each server has a way through all places of its own, given by its address and port alone, so
//! that every director builds the same table and few places change hands when servers come or go.
//! Servers take places one after the other, each whenever its share is behind; every server gets
//! one place at least, and its share but for one place.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::client_hash::mixed;
use crate::service::table::Server;
use crate::wire::address::Address;

/// Places: a prime, so that every step leads through all of them.
pub(super) const PLACES: usize = 65_537;

/// Taken places that a server passes over before it takes whichever is free: what bounds the time
/// that a table takes to build. Only the last places of a table are far between.
const PATIENCE: usize = 512;

/// The way of one server through the table.
struct Way {
    place: usize,
    step: usize,
    /// Between two places that it takes, in units of which the heaviest server needs 2^32.
    interval: u64,
}

/// The place of a hash.
#[inline]
pub(super) fn place(hash: u64) -> usize {
    usize::try_from((u128::from(hash) * PLACES as u128) >> 64).unwrap_or(0)
}

/// Whose each place is; empty if all weights are 0.
pub(super) fn places<A: Address>(servers: &[Server<A>], weights: &[u32]) -> Vec<u16> {
    let Some(largest) = weights.iter().copied().max().filter(|largest| *largest > 0) else {
        return Vec::new();
    };
    let mut ways = Vec::with_capacity(servers.len());
    let mut turns = BinaryHeap::with_capacity(servers.len());
    for ((server, weight), index) in servers.iter().zip(weights).zip(0_u16..) {
        let [place, step] = [1, 2].map(|number| mixed(&server.address, server.port, number));
        let interval = (u64::from(largest) << 32).checked_div(u64::from(*weight));
        if interval.is_some() {
            // Of equals the turn is by hash, whatever the order of the file.
            turns.push(Reverse((0_u64, place, index)));
        }
        ways.push(Way {
            place: self::place(place),
            step: self::place(step) % (PLACES - 1) + 1,
            interval: interval.unwrap_or(0),
        });
    }
    populate(ways, turns)
}

fn populate(mut ways: Vec<Way>, mut turns: BinaryHeap<Reverse<(u64, u64, u16)>>) -> Vec<u16> {
    let mut places: Vec<Option<u16>> = vec![None; PLACES];
    let mut first_free = 0;
    for _ in 0..PLACES {
        let Some(Reverse((time, rank, index))) = turns.pop() else { break };
        let Some(way) = ways.get_mut(usize::from(index)) else { break };
        let place = way.next_free(&places, &mut first_free);
        if let Some(place) = places.get_mut(place) {
            *place = Some(index);
        }
        turns.push(Reverse((time.saturating_add(way.interval), rank, index)));
    }
    places.into_iter().flatten().collect()
}

impl Way {
    /// The next place that is free; `first_free` is where the search for whichever is free
    /// begins.
    fn next_free(&mut self, places: &[Option<u16>], first_free: &mut usize) -> usize {
        let is_free = |place: usize| places.get(place).is_some_and(Option::is_none);
        for _ in 0..PATIENCE {
            let place = self.place;
            self.place = (self.place + self.step) % PLACES;
            if is_free(place) {
                return place;
            }
        }
        while *first_free < PLACES && !is_free(*first_free) {
            *first_free += 1;
        }
        *first_free
    }
}
