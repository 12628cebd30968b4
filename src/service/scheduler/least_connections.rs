//! lc, wlc, sed and nq: the server with the fewest connections, plain or in relation to its
//! weight. Of equals the first in table order.

use super::Candidates;
use crate::service::table::Server;

/// lc.
pub(super) fn least<'s, A>(from: &Candidates<'s, '_, A>) -> Option<&'s Server<A>> {
    from.open().min_by_key(|server| from.loads.overhead(server.slot))
}

/// wlc.
pub(super) fn least_weighted<'s, A>(from: &Candidates<'s, '_, A>) -> Option<&'s Server<A>> {
    least_share(from.open(), |server| from.loads.overhead(server.slot))
}

/// sed: the connections that a server would have with this one, in relation to its weight.
pub(super) fn shortest_delay<'s, A>(from: &Candidates<'s, '_, A>) -> Option<&'s Server<A>> {
    least_share(from.open(), |server| expected(from, server))
}

/// nq: one that has nothing to do, or else as sed.
pub(super) fn never_queue<'s, A>(from: &Candidates<'s, '_, A>) -> Option<&'s Server<A>> {
    let idle = from.open().find(|server| from.loads.active(server.slot) == 0);
    idle.or_else(|| shortest_delay(from))
}

fn expected<A>(from: &Candidates<'_, '_, A>, server: &Server<A>) -> u64 {
    u64::from(from.loads.active(server.slot)) + 1
}

/// Compares overhead / weight as fractions, without dividing. 64 bits would not hold the products
/// of the largest weights.
#[inline]
pub(super) fn least_share<'s, A>(
    mut servers: impl Iterator<Item = &'s Server<A>>,
    overhead: impl Fn(&Server<A>) -> u64,
) -> Option<&'s Server<A>> {
    let mut best = servers.next()?;
    let mut best_overhead = overhead(best);
    for server in servers {
        let overhead = overhead(server);
        let this = u128::from(overhead) * u128::from(best.weight);
        let that = u128::from(best_overhead) * u128::from(server.weight);
        if this < that {
            best = server;
            best_overhead = overhead;
        }
    }
    Some(best)
}
