//! The first packet of a connection: find its service, pick a real server, insert both
//! directions.

use super::classify::Packet;
use super::conn::tcp_state::ConnectionState;
use super::conn::{Connection, ConnectionTable, Endpoints, Found, InsertError};
use super::family::Family;
use super::frame::Frame;
use super::interface::Interfaces;
use super::next_hop::{AdjacencyId, NextHops};
use super::shared::Shared;
use super::stats::DropReason;
use crate::clock::Tick;
use crate::service::{FamilyServices, Server, ServerLoads, Service};
use crate::wire::U16;
use crate::wire::address::Address;
use crate::wire::flow_key::{Direction, FlowKey};
use crate::wire::ipv4::protocol;
use crate::wire::tcp::flags;

/// Opens a connection for a packet that belongs to none.
pub(super) fn admit<A: Family, F: Frame>(
    table: &mut ConnectionTable<A>,
    shared: &mut Shared<F>,
    packet: &Packet,
    key: &FlowKey<A>,
    now: Tick,
) -> Result<Found, DropReason> {
    if shared.is_ours(key.source) {
        // Nobody but us may send from our addresses, nor be answered there
        // (RFC 1812 section 5.3.7).
        return Err(DropReason::Martian);
    }
    let services = A::services(&shared.services);
    let Some(service) = services.find(key.destination, key.destination_port, key.protocol) else {
        let ours = shared.is_ours(key.destination);
        return Err(if ours { DropReason::NoService } else { DropReason::NotOwned });
    };
    if !may_open(service, packet, key) {
        return Err(DropReason::NoConnection);
    }
    if packet.ttl <= 1 {
        // Only what would be forwarded expires.
        return Err(DropReason::TtlExpired);
    }
    let client = (key.source, key.source_port);
    let server = schedule(table, service, &shared.loads, client)?;
    let hops = &mut shared.next_hops;
    let to_server = adjacency(hops, &shared.interfaces, server.address)?;
    // In use already: the client's neighbour must not take its place in a full table.
    hops.acquire(to_server);
    let to_client = adjacency(hops, &shared.interfaces, key.source);
    hops.release(to_server);
    let to_client = to_client?;
    let mut connection = Connection::new(Endpoints {
        client,
        service: (service.vip, service.port),
        server: (server.address, server.port),
        protocol: key.protocol,
    });
    connection.to_server = to_server;
    connection.to_client = to_client;
    connection.slot = server.slot.into();
    connection.last_seen = now.0;
    connection.udp_timeout_ms =
        service.udp_timeout_ms.unwrap_or(shared.timeouts.of(ConnectionState::Udp));
    let state = first_state(packet, key);
    connection.set_state(state);
    connection.timeout_ms = shared.timeout(&connection, state);
    let id = table.insert(connection).map_err(|error| match error {
        InsertError::Full => DropReason::TableFull,
        InsertError::Exists => DropReason::ReplyTupleTaken,
    })?;
    shared.connection_begins(&connection);
    Ok(Found { id, direction: Direction::Inbound })
}

/// The scheduler's choice; or, where that server already has a connection with this client
/// address and port through another service, another one. Two connections with one reply tuple
/// could not be told apart.
fn schedule<'s, A: Address>(
    table: &ConnectionTable<A>,
    service: &'s Service<A>,
    loads: &ServerLoads,
    client: (A, U16),
) -> Result<&'s Server<A>, DropReason> {
    let is_free = |server: &Server<A>| {
        let reply = FlowKey {
            source: server.address,
            destination: client.0,
            source_port: server.port,
            destination_port: client.1,
            protocol: service.protocol as u8,
        };
        table.find(table.hash(&reply), &reply).is_none()
    };
    let chosen = service.schedule(loads).ok_or(DropReason::NoServer)?;
    if is_free(chosen) {
        return Ok(chosen);
    }
    let mut others = service.servers().iter().filter(|server| server.weight > 0);
    others.find(|server| is_free(server)).ok_or(DropReason::ReplyTupleTaken)
}

/// Whether a SYN from the client begins a new connection in the place of one that its address
/// and port had before: that one is over, or its server takes no new connections any more. (A
/// half-closed connection lives on, whatever a SYN says.)
pub(super) fn begins_anew<A: Address>(
    services: &FamilyServices<A>,
    connection: &Connection<A>,
) -> bool {
    use ConnectionState as S;
    match connection.state() {
        S::TimeWait | S::Close | S::LastAck => true,
        S::None | S::SynRecv | S::FinWait | S::CloseWait | S::SynSent | S::SynAck | S::Listen => {
            let service = services.find(connection.vip, connection.vip_port, connection.protocol);
            let server = service.and_then(|service| {
                let slot = connection.slot.into();
                service.servers().iter().find(|server| server.slot == slot)
            });
            server.is_none_or(|server| server.weight == 0)
        }
        S::Established | S::Udp => false,
    }
}

/// Whether a packet may begin a connection: any UDP datagram; of TCP a SYN, or with `sloppy_tcp`
/// whatever is not a reset.
fn may_open<A: Address>(service: &Service<A>, packet: &Packet, key: &FlowKey<A>) -> bool {
    if key.protocol != protocol::TCP {
        return true;
    }
    packet.is_syn() || service.sloppy_tcp && packet.control & flags::RST == 0
}

fn first_state<A>(packet: &Packet, key: &FlowKey<A>) -> ConnectionState {
    if key.protocol == protocol::TCP {
        ConnectionState::None.next(Direction::Inbound, packet.control)
    } else {
        ConnectionState::Udp
    }
}

fn adjacency<A: Address>(
    hops: &mut NextHops,
    interfaces: &Interfaces,
    destination: A,
) -> Result<AdjacencyId, DropReason> {
    let (interface, neighbor) = hops.route(destination.to_ip()).ok_or(DropReason::NoRoute)?;
    hops.find_or_add(interfaces, interface, neighbor).ok_or(DropReason::NeighborTableFull)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::ids::{ServerSlot, TableVersion};
    use crate::service::{RealServer, SchedulerKind, ServiceTable, SlotRegistry, VirtualService};

    /// One service with one server of this weight, and its slot.
    fn services(weight: u32) -> (ServiceTable, ServerSlot) {
        let listen = "tcp://192.0.2.100:80".parse().unwrap();
        let address = "10.0.0.11:8080".parse().unwrap();
        let service = VirtualService {
            name: "web".into(),
            listen,
            scheduler: SchedulerKind::default(),
            servers: vec![RealServer { address, weight }],
            udp_timeout: None,
            sloppy_tcp: false,
        };
        let mut slots = SlotRegistry::new(8);
        let table = ServiceTable::compile(TableVersion(1), &[service], &mut slots).unwrap();
        (table, slots.server(listen, address).unwrap())
    }

    /// Those in which a SYN begins another connection.
    fn states_that_give_way(weight: u32, service_port: u16) -> BTreeSet<&'static str> {
        let (table, slot) = services(weight);
        let mut connection = Connection::new(Endpoints {
            client: ([198, 18, 7, 7], U16::new(20_000)),
            service: ([192, 0, 2, 100], U16::new(service_port)),
            server: ([10, 0, 0, 11], U16::new(8080)),
            protocol: protocol::TCP,
        });
        connection.slot = slot.into();
        let mut gives_way = |state: &ConnectionState| {
            connection.set_state(*state);
            begins_anew(<[u8; 4]>::services(&table), &connection)
        };
        let all = ConnectionState::ALL.into_iter();
        all.filter(|state| gives_way(state)).map(ConnectionState::name).collect()
    }

    #[test]
    fn a_port_is_used_again_in_time_wait_close_and_last_ack() {
        assert_eq!(states_that_give_way(1, 80), BTreeSet::from(["TIME_WAIT", "CLOSE", "LAST_ACK"]));
    }

    #[test]
    fn a_port_is_used_again_unless_established_when_the_server_takes_nothing_new() {
        let names = ConnectionState::ALL.map(ConnectionState::name);
        let mut wanted = BTreeSet::from(names);
        wanted.retain(|name| !["ESTABLISHED", "UDP"].contains(name));
        assert_eq!(states_that_give_way(0, 80), wanted, "quiesced");
        assert_eq!(states_that_give_way(1, 81), wanted, "the service is gone");
    }
}
