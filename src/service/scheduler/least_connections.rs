//! lc and wlc: the server with the fewest connections, plain or in relation to its weight. Of
//! equals the first in table order.

use crate::service::ServerLoads;
use crate::service::table::Server;

pub(super) fn least<'s, A>(servers: &'s [Server<A>], loads: &ServerLoads) -> Option<&'s Server<A>> {
    servers
        .iter()
        .filter(|server| server.weight > 0)
        .min_by_key(|server| loads.overhead(server.slot))
}

/// Compares overhead / weight as fractions, without dividing.
pub(super) fn least_weighted<'s, A>(
    servers: &'s [Server<A>],
    loads: &ServerLoads,
) -> Option<&'s Server<A>> {
    let mut open = servers.iter().filter(|server| server.weight > 0);
    let mut best = open.next()?;
    let mut best_overhead = loads.overhead(best.slot);
    for server in open {
        let overhead = loads.overhead(server.slot);
        let this = u128::from(overhead) * u128::from(best.weight);
        let that = u128::from(best_overhead) * u128::from(server.weight);
        if this < that {
            best = server;
            best_overhead = overhead;
        }
    }
    Some(best)
}
