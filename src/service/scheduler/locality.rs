//! lblc and lblcr: new connections to a destination go where the earlier ones went, as long as
//! that server is not too busy.

use std::sync::Arc;

use super::least_connections::{least_share, least_weighted};
use super::locality_table::{LocalityTable, SERVERS, Servers};
use super::{Asking, Candidates, SchedulerState, Setup};
use crate::ids::ServerSlot;
use crate::service::table::Server;
use crate::wire::address::Address;

/// A destination's set of servers shrinks by one when it has not changed for so long
/// (`lblcr_expiration`: 24 hours).
const SHRINK_MS: u32 = 24 * 3600 * 1000;

/// The places of the servers, by slot.
#[derive(Clone, Debug)]
pub(in crate::service) struct Places(Arc<[(ServerSlot, u16)]>);

impl Places {
    pub(super) fn new<A>(setup: &Setup<'_, A>) -> Self {
        // A table of one destination is replaced by none of many: what a service listens on makes
        // it another service.
        setup.state.localities.get_or_init(|| LocalityTable::new(setup.destinations));
        let mut places: Vec<_> =
            setup.servers.iter().zip(0..).map(|(server, place)| (server.slot, place)).collect();
        places.sort_unstable();
        Self(places.into())
    }

    fn server<'s, A>(
        &self,
        from: &Candidates<'s, '_, A>,
        slot: ServerSlot,
    ) -> Option<&'s Server<A>> {
        let found = self.0.binary_search_by_key(&slot, |(slot, _)| *slot).ok()?;
        let (_, place) = self.0.get(found)?;
        from.servers.get(usize::from(*place))
    }

    /// lblc.
    pub(super) fn pick<'s, A: Address>(
        &self,
        from: &Candidates<'s, '_, A>,
        state: &SchedulerState,
        asking: &Asking<'_, A>,
    ) -> Option<&'s Server<A>> {
        let table = state.localities.get()?;
        let destination = &asking.key.destination;
        let known = table.find(destination, asking.now);
        let last = known.and_then(|known| self.server(from, *known.servers.first()?));
        if let Some(server) = last.filter(|server| from.is_open(server) && !is_busy(from, server)) {
            return Some(server);
        }
        let server = least_weighted(from)?;
        table.put(destination, &Servers::from_iter([server.slot]), asking.now);
        Some(server)
    }

    /// lblcr.
    pub(super) fn pick_replicated<'s, A: Address>(
        &self,
        from: &Candidates<'s, '_, A>,
        state: &SchedulerState,
        asking: &Asking<'_, A>,
    ) -> Option<&'s Server<A>> {
        let table = state.localities.get()?;
        let (destination, now) = (&asking.key.destination, asking.now);
        let Some(known) = table.find(destination, now) else {
            let server = least_weighted(from)?;
            table.put(destination, &Servers::from_iter([server.slot]), now);
            return Some(server);
        };
        let overhead = |server: &Server<A>| from.loads.overhead(server.slot);
        let members = || known.servers.iter().filter_map(|slot| self.server(from, *slot));
        let least = least_share(members().filter(|server| from.is_open(server)), overhead);
        let mut kept = known.servers.clone();
        if kept.len() > 1
            && now.since(known.changed) > SHRINK_MS
            && let Some(most) = most_loaded(members().filter(|server| server.weight > 0), overhead)
        {
            kept.retain(|slot| *slot != most.slot);
            table.put(destination, &kept, now);
        }
        if let Some(server) = least.filter(|server| !is_busy(from, server)) {
            return Some(server);
        }
        let server = least_weighted(from)?;
        if !kept.contains(&server.slot) {
            // Those that are gone make room first.
            kept.retain(|slot| self.server(from, *slot).is_some());
            kept.truncate(SERVERS - 1);
            kept.insert(0, server.slot);
            table.put(destination, &kept, now);
        }
        Some(server)
    }
}

/// Whether a server has more active connections than its weight while another has fewer than half
/// of its own: what IPVS calls overloaded here.
fn is_busy<A>(from: &Candidates<'_, '_, A>, server: &Server<A>) -> bool {
    let active = |server: &Server<A>| u64::from(from.loads.active(server.slot));
    active(server) > u64::from(server.weight)
        && from.servers.iter().any(|other| active(other) * 2 < u64::from(other.weight))
}

/// Of equals the first.
fn most_loaded<'s, A: 's>(
    mut servers: impl Iterator<Item = &'s Server<A>>,
    overhead: impl Fn(&Server<A>) -> u64,
) -> Option<&'s Server<A>> {
    let mut most = servers.next()?;
    for server in servers {
        let this = u128::from(overhead(server)) * u128::from(most.weight);
        let that = u128::from(overhead(most)) * u128::from(server.weight);
        if this > that {
            most = server;
        }
    }
    Some(most)
}
