//! fo and ovf: the weight is a rank. Of equals the first in table order.

use super::Candidates;
use crate::service::table::Server;

/// fo: the heaviest server that takes connections gets all of them.
pub(super) fn failover<'s, A>(from: &Candidates<'s, '_, A>) -> Option<&'s Server<A>> {
    heaviest(from.open())
}

/// ovf: the heaviest server, until it has more active connections than its weight; then the next.
pub(super) fn overflow<'s, A>(from: &Candidates<'s, '_, A>) -> Option<&'s Server<A>> {
    heaviest(from.open().filter(|server| from.loads.active(server.slot) <= server.weight))
}

fn heaviest<'s, A: 's>(servers: impl Iterator<Item = &'s Server<A>>) -> Option<&'s Server<A>> {
    servers.reduce(|best, server| if server.weight > best.weight { server } else { best })
}
