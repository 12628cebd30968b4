//! Connections that inside hosts open to the outside: they appear with an external address and a
//! port of ours (RFC 3022 section 2.2).
//!
//! The outside endpoint's address and port decide the owning worker, as for every flow. So a port
//! need only be free for that one endpoint, and this worker alone decides about it.

use super::admit::insert;
use super::classify::Packet;
use super::conn::{Connection, ConnectionTable, Endpoints, Flags, Found};
use super::family::Family;
use super::frame::Frame;
use super::own_error::Refusal;
use super::shared::Shared;
use super::stats::DropReason;
use crate::clock::Tick;
use crate::service::FamilyServices;
use crate::wire::U16;
use crate::wire::flow_key::{Direction, FlowKey};
use crate::wire::ipv4::protocol;

/// Addresses of a pool that are searched beside the host's own where that has no port left: a
/// packet keeps its worker for a bounded time. They change from packet to packet.
const OTHER_ADDRESSES: usize = 4;

/// What masquerades leave of the table to services: one part in so many.
const RESERVE: u32 = 8;

/// Opens a connection for an inside host's packet to the outside.
pub(super) fn open<A: Family, F: Frame>(
    table: &mut ConnectionTable<A>,
    shared: &mut Shared<F>,
    (packet, key, now): (&Packet, &FlowKey<A>, Tick),
) -> Result<Found, Refusal> {
    match key.protocol {
        protocol::UDP => {}
        protocol::TCP if packet.is_syn() => {}
        protocol::TCP => return Err(DropReason::NoConnection.into()),
        // A reply to nothing.
        other if other == A::ICMP && key.destination_port != U16::new(0) => {
            return Err(DropReason::NoConnection.into());
        }
        other if other == A::ICMP => {}
        _ => return Err(DropReason::UnknownProtocol.into()),
    }
    if packet.ttl <= 1 {
        return Err(DropReason::TtlExpired.into());
    }
    let room = table.room();
    if room.used >= room.capacity - room.capacity / RESERVE {
        return Err(DropReason::TableFull.into());
    }
    let external = external_endpoint(table, shared, key, now).ok_or(DropReason::PortsExhausted)?;
    let outside = (key.destination, key.destination_port);
    let hops = shared.hops(key.source, shared.next_hops.route(key.destination))?;
    let mut connection = Connection::new(Endpoints {
        client: outside,
        service: external,
        local: outside,
        server: (key.source, key.source_port),
        protocol: key.protocol,
    });
    connection.flags = connection.flags.with(Flags::OUTBOUND);
    let id = insert(table, shared, connection, hops, (packet, now))?;
    Ok(Found { id, direction: Direction::Reply })
}

/// The external address and port of a new connection: the host's own port where it is free, and
/// one address per host as long as that has ports.
fn external_endpoint<A: Family, F: Frame>(
    table: &ConnectionTable<A>,
    shared: &mut Shared<F>,
    key: &FlowKey<A>,
    now: Tick,
) -> Option<(A, U16)> {
    let Shared { services, steering, port_choice, .. } = shared;
    let services = A::services(services);
    let rule = services.masquerade(&key.source)?;
    let is_free = |address: A, port: U16| {
        let inbound = inbound_key(key, (address, port));
        !is_service(services, &inbound) && table.find(table.hash(&inbound), &inbound).is_none()
    };
    // Of the host alone: it appears with one address wherever it speaks to.
    let host = FlowKey { source: key.source, ..FlowKey::default() };
    let addresses = rule.addresses();
    let first = steering.spread(&host, addresses.len());
    let others = port_choice.next(addresses.len());
    let others = (others..).take(OTHER_ADDRESSES).map(|place| place % addresses.len());
    let places = std::iter::once(first).chain(others.filter(|place| *place != first));
    let mut candidates = places.filter_map(|place| addresses.get(place).copied());
    // What the search is about: this outside endpoint, and this address for a beginning.
    let goal = table.hash(&inbound_key(key, (*addresses.get(first)?, U16::new(0))));
    let may_search = !port_choice.is_exhausted(goal, now);
    let found = candidates.find_map(|address| {
        if key.source_port != U16::new(0) && is_free(address, key.source_port) {
            return Some((address, key.source_port));
        }
        let is_free = |port| is_free(address, U16::new(port));
        let port = may_search.then(|| port_choice.find(rule.ports(), goal, is_free))??;
        Some((address, U16::new(port)))
    });
    if found.is_none() && may_search {
        port_choice.note_exhausted(goal, now);
    }
    found
}

/// The 5-tuple of the outside's packets.
fn inbound_key<A: Family>(key: &FlowKey<A>, external: (A, U16)) -> FlowKey<A> {
    FlowKey {
        source: key.destination,
        destination: external.0,
        source_port: key.destination_port,
        destination_port: external.1,
        protocol: key.protocol,
    }
}

/// Whether clients speak to a service there.
fn is_service<A: Family>(services: &FamilyServices<A>, inbound: &FlowKey<A>) -> bool {
    services.names(inbound.destination, inbound.destination_port, inbound.protocol)
}
