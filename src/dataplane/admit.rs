//! The first packet of a connection: find its service, pick a real server, insert both
//! directions. What is for no service may be an inside host's connection to the outside
//! (`masquerade`), or routed.

use super::classify::Packet;
use super::conn::tcp_state::ConnectionState;
use super::conn::{Connection, ConnectionTable, Endpoints, Flags, Found, InsertError};
use super::family::Family;
use super::frame::Frame;
use super::helper;
use super::interface::Sides;
use super::masquerade;
use super::next_hop::AdjacencyId;
use super::own_error::Refusal;
use super::route::stays_on_link;
use super::shared::Shared;
use super::stats::DropReason;
use crate::clock::Tick;
use crate::ids::WorkerId;
use crate::service::{Masquerade, NonSyn, Server, Service, ServiceTable};
use crate::wire::U16;
use crate::wire::address::Address;
use crate::wire::flow_key::{Direction, FlowKey};
use crate::wire::ipv4::protocol;
use crate::wire::sctp;
use crate::wire::tcp::flags;

/// What becomes of a packet of no connection.
pub(super) enum Admitted<A> {
    /// It has one now.
    Connection(Found),
    /// It is rewritten as if it belonged to this one, which is not kept.
    OnePacket(Connection<A>, Direction),
    /// It goes on as it is.
    Routed(AdjacencyId),
}

/// The two ends of a new connection's way.
#[derive(Clone, Copy)]
pub(super) struct Hops {
    pub(super) to_server: AdjacencyId,
    pub(super) to_client: AdjacencyId,
}

/// Decides what becomes of a packet that belongs to no connection.
pub(super) fn admit<A: Family, F: Frame>(
    table: &mut ConnectionTable<A>,
    shared: &mut Shared<F>,
    packet: &Packet,
    key: &FlowKey<A>,
    now: Tick,
) -> Result<Admitted<A>, Refusal> {
    if shared.is_ours(key.source) {
        // Nobody but us may send from our addresses, nor be answered there
        // (RFC 1812 section 5.3.7).
        return Err(DropReason::Martian.into());
    }
    if shared.sides_towards(key.source).is_some_and(|sides| !sides.meet(packet.sides)) {
        return Err(DropReason::WrongSide.into());
    }
    let services = std::sync::Arc::clone(&shared.services);
    let family = A::services(&services);
    if let Some(service) = family.find(key.destination, key.destination_port, key.protocol) {
        return through_service(table, shared, service, (packet, key, now));
    }
    if let Some(opened) = helper::open_expected(table, shared, (packet, key, now)) {
        return Ok(Admitted::Connection(opened?));
    }
    if shared.is_ours(key.destination) {
        return Err(match key.protocol {
            protocol::TCP | protocol::UDP | protocol::SCTP => DropReason::NoService,
            _ if key.protocol == A::ICMP => DropReason::IcmpUnsupported,
            _ => DropReason::UnknownProtocol,
        }
        .into());
    }
    if let Some((service, server)) =
        family.one_packet_service(key.source, key.source_port, key.protocol)
    {
        let client = (key.destination, key.destination_port);
        let connection = one_packet(shared, packet, service, server, client)?;
        return Ok(Admitted::OnePacket(connection, Direction::Reply));
    }
    if stays_on_link(key.source, key.destination) {
        return Err(DropReason::NotOwned.into());
    }
    let leads_outside =
        shared.sides_towards(key.destination).is_some_and(|sides| sides.meet(Sides::OUTSIDE));
    if packet.sides.meet(Sides::INSIDE)
        && leads_outside
        && let Some(rule) = family.masquerade(&key.source)
    {
        let found = masquerade::open(table, shared, rule, (packet, key, now))?;
        return Ok(Admitted::Connection(found));
    }
    if services.policy().routing {
        return shared.route(packet, key.destination).map(Admitted::Routed);
    }
    Err(match key.protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => DropReason::NotOwned,
        _ if key.protocol == A::ICMP => DropReason::NotOwned,
        _ => DropReason::UnknownProtocol,
    }
    .into())
}

/// A packet to a service.
fn through_service<A: Family, F: Frame>(
    table: &mut ConnectionTable<A>,
    shared: &mut Shared<F>,
    service: &Service<A>,
    (packet, key, now): (&Packet, &FlowKey<A>, Tick),
) -> Result<Admitted<A>, Refusal> {
    if !may_open(service, packet, key) {
        let answer = service.non_syn == NonSyn::Reset && key.protocol == protocol::TCP;
        return Err(Refusal { reset: answer, ..DropReason::NoConnection.into() });
    }
    if packet.ttl <= 1 {
        // Only what would be forwarded expires.
        return Err(DropReason::TtlExpired.into());
    }
    let client = (key.source, key.source_port);
    if service.one_packet {
        let server = service.schedule(&shared.loads).ok_or(DropReason::NoServer)?;
        let connection = one_packet(shared, packet, service, server, client)?;
        if let Some(counters) = shared.stats.server(server.slot) {
            counters.connections.increment();
        }
        return Ok(Admitted::OnePacket(connection, Direction::Inbound));
    }
    let (server, local) = schedule(table, shared, service, client)?;
    let hops = shared.hops(server.address, client.0)?;
    let mut connection = Connection::new(Endpoints {
        client,
        service: (service.vip, service.port),
        local,
        server: (server.address, server.port),
        protocol: key.protocol,
    });
    connection.belongs_to(service.id, server.slot);
    if service.helper.is_some() {
        connection.flags = connection.flags.with(Flags::HELPED);
    }
    let id = insert(table, shared, connection, hops, (packet, now))?;
    Ok(Admitted::Connection(Found { id, direction: Direction::Inbound }))
}

/// Completes a new connection and inserts it.
pub(super) fn insert<A: Family, F: Frame>(
    table: &mut ConnectionTable<A>,
    shared: &mut Shared<F>,
    mut connection: Connection<A>,
    hops: Hops,
    (packet, now): (&Packet, Tick),
) -> Result<super::conn::ConnectionId, DropReason> {
    connection.to_server = hops.to_server;
    connection.to_client = hops.to_client;
    let sides = |hop| shared.sides_of(hop).unwrap_or_default();
    connection.flags = connection.flags.between(sides(hops.to_client), sides(hops.to_server));
    connection.last_seen = now.0;
    let state = first_state(packet, connection.protocol);
    connection.set_state(state);
    connection.timeout_ms = state.idle_ms(shared.services.timeouts(connection.service()));
    let id = table.insert(connection).map_err(|error| match error {
        InsertError::Full => DropReason::TableFull,
        InsertError::Exists => DropReason::ReplyTupleTaken,
    })?;
    shared.connection_begins(&connection);
    Ok(id)
}

/// A connection that serves one datagram only.
fn one_packet<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    packet: &Packet,
    service: &Service<A>,
    server: &Server<A>,
    client: (A, U16),
) -> Result<Connection<A>, DropReason> {
    if packet.ttl <= 1 {
        return Err(DropReason::TtlExpired);
    }
    let hops = shared.hops(server.address, client.0)?;
    let mut connection = Connection::new(Endpoints {
        client,
        service: (service.vip, service.port),
        local: client,
        server: (server.address, server.port),
        protocol: service.protocol as u8,
    });
    connection.to_server = hops.to_server;
    connection.to_client = hops.to_client;
    connection.belongs_to(service.id, server.slot);
    Ok(connection)
}

/// The scheduler's choice, and whom the server is to see; or, where that server already has a
/// connection with this client address and port through another service, another one. Two
/// connections with one reply tuple could not be told apart.
fn schedule<'s, A: Family, F: Frame>(
    table: &ConnectionTable<A>,
    shared: &mut Shared<F>,
    service: &'s Service<A>,
    client: (A, U16),
) -> Result<(&'s Server<A>, (A, U16)), DropReason> {
    let chosen = service.schedule(&shared.loads).ok_or(DropReason::NoServer)?;
    if let Some(local) = local_endpoint(table, shared, chosen, client, service.protocol as u8) {
        return Ok((chosen, local));
    }
    let mut others = service.servers().iter().filter(|server| server.weight > 0);
    others
        .find_map(|server| {
            local_endpoint(table, shared, server, client, service.protocol as u8)
                .map(|local| (server, local))
        })
        .ok_or(DropReason::ReplyTupleTaken)
}

/// Whom a server is to see: the client; or, where it reaches the client without us, an own
/// address and port, so that its replies come back (full NAT). `None`: the reply tuple is taken.
pub(super) fn local_endpoint<A: Family, F: Frame>(
    table: &ConnectionTable<A>,
    shared: &mut Shared<F>,
    server: &Server<A>,
    client: (A, U16),
    protocol: u8,
) -> Option<(A, U16)> {
    let reply = |local: (A, U16)| FlowKey {
        source: server.address,
        destination: local.0,
        source_port: server.port,
        destination_port: local.1,
        protocol,
    };
    let is_free = |key: &FlowKey<A>| table.find(table.hash(key), key).is_none();
    let Some(own) = shared.address_between(client.0, server.address) else {
        return is_free(&reply(client)).then_some(client);
    };
    let worker: WorkerId = shared.worker;
    let (steering, choice) = (&shared.steering, &mut shared.port_choice);
    let hash = table.hash(&reply((own, U16::new(0))));
    let workers = steering.workers();
    let port = choice.find_own(&Masquerade::DEFAULT_PORTS, workers, hash, |port| {
        let key = reply((own, U16::new(port)));
        // The server's packets must lead to this worker.
        steering.owner(&key, false) == worker && is_free(&key)
    })?;
    Some((own, U16::new(port)))
}

/// Whether a SYN or INIT from the side that opened a connection begins a new one in its place: it is
/// over, or its server takes no new connections any more. (A half-closed connection lives on,
/// whatever a SYN says. Of SCTP only CLOSED is over, as in IPVS.)
pub(super) fn begins_anew<A: Address>(services: &ServiceTable, connection: &Connection<A>) -> bool {
    use ConnectionState as S;
    match connection.state() {
        S::TimeWait | S::Close | S::LastAck | S::SctpClosed => true,
        S::Established | S::Udp | S::Icmp | S::SctpEstablished => false,
        S::None
        | S::SynRecv
        | S::FinWait
        | S::CloseWait
        | S::SynSent
        | S::SynAck
        | S::Listen
        | S::SctpInit1
        | S::SctpInit
        | S::SctpCookieSent
        | S::SctpCookieReplied
        | S::SctpCookieWait
        | S::SctpCookie
        | S::SctpCookieEchoed
        | S::SctpShutdownSent
        | S::SctpShutdownReceived
        | S::SctpShutdownAckSent
        | S::SctpRejected => {
            let takes_no_more = services.weight(connection.slot()).unwrap_or(0) == 0;
            takes_no_more && !connection.flags.has(Flags::OUTBOUND)
        }
    }
}

/// Whether a packet may begin a connection: any UDP datagram; of TCP a SYN, or as the service
/// says whatever is not a reset; of SCTP an INIT, or as the service says whatever comes, but for
/// fragments, of which it is not known whether they could be translated.
fn may_open<A: Address>(service: &Service<A>, packet: &Packet, key: &FlowKey<A>) -> bool {
    let is_scheduled = service.non_syn == NonSyn::Schedule;
    match key.protocol {
        protocol::TCP => packet.is_syn() || is_scheduled && packet.control & flags::RST == 0,
        protocol::SCTP => {
            let is_whole = packet.control & sctp::FRAGMENT == 0;
            is_whole && (packet.is_syn() || is_scheduled)
        }
        _ => true,
    }
}

fn first_state(packet: &Packet, protocol: u8) -> ConnectionState {
    match protocol {
        protocol::TCP => ConnectionState::None.next(Direction::Inbound, packet.control),
        protocol::UDP => ConnectionState::Udp,
        // The packet goes on as a hit, which moves the state; a second INIT is not the first.
        protocol::SCTP => ConnectionState::None,
        _ => ConnectionState::Icmp,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::ids::{ServerSlot, ServiceId, TableVersion};
    use crate::service::{RealServer, Rules, SlotRegistry, VirtualService};

    /// One service with one server of this weight, and the server's slot.
    fn services(weight: u32) -> (ServiceTable, ServerSlot) {
        let listen = "tcp://192.0.2.100:80".parse().unwrap();
        let address = "10.0.0.11:8080".parse().unwrap();
        let mut service = VirtualService::new("web", listen);
        service.servers = vec![RealServer { address, weight }];
        let mut slots = SlotRegistry::new(8);
        let table =
            ServiceTable::compile(TableVersion(1), Rules::of(&[service]), &mut slots).unwrap();
        (table, slots.server(listen, address).unwrap())
    }

    fn tcp_states() -> impl Iterator<Item = ConnectionState> {
        ConnectionState::ALL.into_iter().filter(|state| *state as u8 <= ConnectionState::Icmp as u8)
    }

    /// The states in which a SYN begins another connection; with a server of this weight, or one
    /// that was removed.
    fn states_that_give_way(weight: u32, is_removed: bool, flags: Flags) -> BTreeSet<&'static str> {
        let (table, slot) = services(weight);
        let client = ([198, 18, 7, 7], U16::new(20_000));
        let mut connection = Connection::new(Endpoints {
            client,
            service: ([192, 0, 2, 100], U16::new(80)),
            local: client,
            server: ([10, 0, 0, 11], U16::new(8080)),
            protocol: protocol::TCP,
        });
        connection.belongs_to(ServiceId(0), if is_removed { ServerSlot(7) } else { slot });
        connection.flags = flags;
        let gives_way = |state: &ConnectionState| {
            connection.set_state(*state);
            begins_anew(&table, &connection)
        };
        tcp_states().filter(gives_way).map(ConnectionState::name).collect()
    }

    #[test]
    fn a_port_is_used_again_in_time_wait_close_and_last_ack() {
        let over = BTreeSet::from(["TIME_WAIT", "CLOSE", "LAST_ACK"]);
        assert_eq!(states_that_give_way(1, false, Flags::default()), over);
        for is_removed in [false, true] {
            assert_eq!(states_that_give_way(0, is_removed, Flags::OUTBOUND), over);
        }
    }

    #[test]
    fn a_port_is_used_again_unless_established_when_the_server_takes_nothing_new() {
        let mut wanted: BTreeSet<_> = tcp_states().map(ConnectionState::name).collect();
        wanted.retain(|name| !["ESTABLISHED", "UDP", "ICMP"].contains(name));
        assert_eq!(states_that_give_way(0, false, Flags::default()), wanted, "quiesced");
        assert_eq!(states_that_give_way(1, true, Flags::default()), wanted, "removed");
    }
}
