//! twos: two servers are drawn with chances by weight; the one with fewer connections in relation
//! to its weight is chosen (the power of two choices). IPVS draws from the kernel's random numbers,
//! so no sequence can equal its.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::Candidates;
use super::least_connections::least_share;
use crate::service::table::Server;
use crate::wire::address::fold_multiply;

/// 2^64 divided by the golden ratio: every step of a counter that grows by it is far from the
/// others.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
const MIX: u64 = 0xbf58_476d_1ce4_e5b9;

pub(super) fn pick<'s, A>(
    from: &Candidates<'s, '_, A>,
    draws: &AtomicU64,
) -> Option<&'s Server<A>> {
    let total: u64 = from.open().map(|server| u64::from(server.weight)).sum();
    let drawn = [(); 2].map(|()| {
        let mixed = fold_multiply(draws.fetch_add(STEP, Relaxed) ^ STEP, MIX);
        fold_multiply(mixed ^ MIX, STEP)
    });
    let chosen = drawn.map(|random| {
        let at = u64::try_from((u128::from(random) * u128::from(total)) >> 64).unwrap_or(0);
        at_weight(from, at)
    });
    least_share(chosen.into_iter().flatten(), |server| from.loads.overhead(server.slot))
}

/// The server that has this place when each takes as many as its weight. The last, if servers have
/// become overloaded since the places were counted.
fn at_weight<'s, A>(from: &Candidates<'s, '_, A>, mut at: u64) -> Option<&'s Server<A>> {
    let mut last = None;
    for server in from.open() {
        last = Some(server);
        let weight = u64::from(server.weight);
        if at < weight {
            break;
        }
        at -= weight;
    }
    last
}
