//! The first packet of a connection: find its service, pick a real server, insert both
//! directions. What is for no service may be an inside host's connection to the outside
//! (`masquerade`), or routed.

use super::classify::Packet;
use super::conn::tcp_state::ConnectionState;
use super::conn::{Connection, ConnectionTable, Endpoints, Flags, Found, Full, InsertError};
use super::family::Family;
use super::flow::Flow;
use super::frame::Frame;
use super::helper;
use super::interface::Sides;
use super::local_endpoint::Locals;
use super::masquerade;
use super::next_hop::{AdjacencyId, Way};
use super::own_error::Refusal;
use super::route::stays_on_link;
use super::shared::Shared;
use super::stats::DropReason;
use crate::clock::Tick;
use crate::ids::{ServerSlot, ServiceId};
use crate::service::{Asking, Bound, NonSyn, Server, ServerLoads, Service, ServiceTable};
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
    flow: &Flow<'_, A>,
) -> Result<Admitted<A>, Refusal> {
    let (packet, key, now) = (flow.packet, flow.key, flow.now);
    let back = way_back(shared, packet, key)?;
    let service = A::services(&shared.services).service_of(key, flow.interface);
    let is_wide = service.is_some_and(|service| service.is_wide);
    // A data connection may be to one of many ports; those of one service each it avoids.
    if is_wide && let Some(opened) = helper::open_expected(table, shared, (packet, key, now)) {
        return Ok(Admitted::Connection(opened?));
    }
    if let Some(chosen) = choose(table, shared, flow)? {
        return through_service(table, shared, &chosen, (flow, back));
    }
    if !is_wide && let Some(opened) = helper::open_expected(table, shared, (packet, key, now)) {
        return Ok(Admitted::Connection(opened?));
    }
    if shared.is_ours(key.destination) {
        if !shared.accepts(key.destination.to_ip()) {
            return Err(DropReason::NotAccepted.into());
        }
        return Err(match key.protocol {
            protocol::TCP | protocol::UDP | protocol::SCTP => DropReason::NoService,
            _ if key.protocol == A::ICMP => DropReason::IcmpUnsupported,
            _ => DropReason::UnknownProtocol,
        }
        .into());
    }
    if let Some(chosen) = reply_of_one_packet(shared, key) {
        let client = (key.destination, key.destination_port);
        let way = shared.next_hops.route(key.destination);
        let connection = one_packet(shared, packet, &chosen, (client, way), now)?;
        return Ok(Admitted::OnePacket(connection, Direction::Reply));
    }
    if stays_on_link(key.source, key.destination) {
        return Err(DropReason::NotOwned.into());
    }
    let leads_outside =
        shared.sides_towards(key.destination).is_some_and(|sides| sides.meet(Sides::OUTSIDE));
    if packet.sides.meet(Sides::INSIDE)
        && leads_outside
        && A::services(&shared.services).masquerade(&key.source).is_some()
    {
        let found = masquerade::open(table, shared, (packet, key, now))?;
        return Ok(Admitted::Connection(found));
    }
    if shared.services.policy().routing {
        return shared.route(packet, key.destination, now).map(Admitted::Routed);
    }
    Err(match key.protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => DropReason::NotOwned,
        _ if key.protocol == A::ICMP => DropReason::NotOwned,
        _ => DropReason::UnknownProtocol,
    }
    .into())
}

/// What was decided for the first packet to a service; copied, so that the table of services is
/// not held.
#[derive(Clone, Copy)]
struct Chosen<A> {
    service: (A, U16),
    id: ServiceId,
    protocol: u8,
    one_packet: bool,
    helped: bool,
    by_template: bool,
    server: Server<A>,
    /// Whom the server is to see.
    local: (A, U16),
    /// The hash of the server's packets; of no meaning where no connection is kept.
    reply_hash: u64,
}

impl<A: Address> Chosen<A> {
    /// For what is sent to an address and port, by the client itself as its server sees it.
    #[inline]
    fn new(service: &Service<A>, server: &Server<A>, key: &FlowKey<A>) -> Self {
        let (to, protocol) = ((key.destination, key.destination_port), key.protocol);
        Self {
            service: to,
            id: service.id,
            protocol,
            one_packet: service.is_one_packet(protocol),
            helped: service.is_helped(to.1, protocol),
            by_template: false,
            server: if service.is_wide { server.of_many(to) } else { *server },
            local: (key.source, key.source_port),
            reply_hash: 0,
        }
    }
}

/// The service that a packet is for, and the real server for it. `None`: it is for no service.
fn choose<A: Family, F: Frame>(
    table: &ConnectionTable<A>,
    shared: &mut Shared<F>,
    flow: &Flow<'_, A>,
) -> Result<Option<Chosen<A>>, Refusal> {
    let key = flow.key;
    let (services, loads, stats, mut locals) = shared.locals();
    let Some(service) = service_of(services, flow)? else { return Ok(None) };
    let asking = Asking { key, now: flow.now };
    if service.is_one_packet(key.protocol) {
        let bound = service.server_for(&asking, loads, || 0);
        let bound = bound.ok_or(DropReason::NoServer)?;
        return Ok(Some(Chosen::new(service, bound.server, key)));
    }
    if service.is_full(loads) {
        return Err(DropReason::ConnectionLimit.into());
    }
    let of_turn = |turn: Turn| {
        let mut servers = service.servers().iter();
        let server = servers.find(|server| server.slot == turn.server)?;
        Some(Bound { server, by_template: turn.by_template, is_lost: false })
    };
    let hold_ms = || first_idle_ms(services, service.id, flow.packet, key.protocol);
    let bound = flow.turn.and_then(of_turn);
    let bound = bound.or_else(|| service.server_for(&asking, loads, hold_ms));
    let bound = bound.ok_or(DropReason::NoServer)?;
    if bound.is_lost {
        stats.templates_lost.increment();
    }
    schedule((table, loads), &mut locals, (service, bound), key).map(Some)
}

/// The service that a packet is for, if it may open a connection there.
fn service_of<'s, A: Family>(
    services: &'s ServiceTable,
    flow: &Flow<'_, A>,
) -> Result<Option<&'s Service<A>>, Refusal> {
    let (packet, key) = (flow.packet, flow.key);
    let service = A::services(services).service_of(key, flow.interface);
    let Some(service) = service else { return Ok(None) };
    if !may_open(service, packet, key) {
        let answer = service.non_syn == NonSyn::Reset && key.protocol == protocol::TCP;
        return Err(Refusal { reset: answer, ..DropReason::NoConnection.into() });
    }
    if packet.ttl <= 1 {
        // Only what would be forwarded expires.
        return Err(DropReason::TtlExpired.into());
    }
    Ok(Some(service))
}

/// The way back to the source of a packet, if it may come from there.
fn way_back<A: Family, F: Frame>(
    shared: &Shared<F>,
    packet: &Packet,
    key: &FlowKey<A>,
) -> Result<Option<Way<A>>, DropReason> {
    if shared.is_ours(key.source) {
        // Nobody but us may send from our addresses, nor be answered there
        // (RFC 1812 section 5.3.7).
        return Err(DropReason::Martian);
    }
    let back = shared.next_hops.route(key.source);
    let sides = back.and_then(|way| shared.sides_of_way(&way));
    if sides.is_some_and(|sides| !sides.meet(packet.sides)) {
        return Err(DropReason::WrongSide);
    }
    Ok(back)
}

/// The server whose turn it was when a connection was first decided on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    server: ServerSlot,
    /// A template led to it.
    by_template: bool,
}

/// A connection that is decided on and claimed, but not inserted yet.
#[derive(Debug)]
pub(super) struct Prepared<A> {
    connection: Connection<A>,
    reply_hash: u64,
}

impl<A: Address> Prepared<A> {
    /// Whose turn it was.
    pub(super) const fn turn(&self) -> Turn {
        let by_template = self.connection.flags.is_by_template();
        Turn { server: self.connection.slot(), by_template }
    }
}

/// Decides on the connection of a packet that is to have one through a service, and fetches the
/// index line of its replies.
///
/// # Errors
/// [`admit`] is to decide, and says why if it is to have none. The server whose turn it was, if one
/// has been taken.
pub(super) fn prepare<A: Family, F: Frame>(
    table: &ConnectionTable<A>,
    shared: &mut Shared<F>,
    flow: &Flow<'_, A>,
) -> Result<Prepared<A>, Option<Turn>> {
    let (packet, key, now) = (flow.packet, flow.key, flow.now);
    let service = service_of(&shared.services, flow).ok().flatten().ok_or(None)?;
    let back = way_back(shared, packet, key).map_err(|_| None)?;
    // What one of many ports is sent may be a data connection's.
    let may_be_expected = || !shared.helpers.controls.expectations.is_empty();
    if service.is_one_packet(key.protocol) || service.is_wide && may_be_expected() {
        return Err(None);
    }
    if service.is_full(&shared.loads) {
        return Err(None);
    }
    let client = (key.source, key.source_port);
    let hold_ms = || first_idle_ms(&shared.services, service.id, packet, key.protocol);
    let asking = Asking { key, now };
    let bound = service.server_for(&asking, &shared.loads, hold_ms).ok_or(None)?;
    if bound.is_lost {
        shared.stats.templates_lost.increment();
    }
    let turn = Turn { server: bound.server.slot, by_template: bound.by_template };
    let ends = [key.source, bound.server.address];
    if shared.interfaces.address_between(ends, &shared.services).is_some() {
        // It needs a port of the director's own.
        return Err(Some(turn));
    }
    let chosen =
        Chosen { by_template: turn.by_template, ..Chosen::new(service, bound.server, key) };
    let connection = build(shared, &chosen, client, (packet, back, now)).map_err(|_| Some(turn))?;
    let reply_hash = table.hash(&connection.key(Direction::Reply));
    table.prefetch_index(reply_hash);
    shared.claim(&connection);
    Ok(Prepared { connection, reply_hash })
}

impl<F: Frame> Shared<F> {
    /// Inserts a connection that was decided on, unless there is one with its 5-tuple now
    /// (`known`) or with that of its replies.
    pub(super) fn begin<A: Family>(
        &mut self,
        table: &mut ConnectionTable<A>,
        hash: u64,
        known: Option<Found>,
        prepared: &Prepared<A>,
    ) -> Option<Found> {
        let Prepared { connection, reply_hash } = prepared;
        let is_free = || table.find(*reply_hash, &connection.key(Direction::Reply)).is_none();
        if known.is_none()
            && is_free()
            && let Ok(id) = table.insert_new(connection, [hash, *reply_hash])
        {
            self.connection_begins(connection);
            return Some(Found { id, direction: Direction::Inbound });
        }
        self.give_up(connection);
        None
    }
}

/// The one-packet service that a packet of a real server answers for.
fn reply_of_one_packet<A: Family, F: Frame>(
    shared: &Shared<F>,
    key: &FlowKey<A>,
) -> Option<Chosen<A>> {
    let services = A::services(&shared.services);
    let (service, server) =
        services.one_packet_service(key.source, key.source_port, key.protocol)?;
    let port = if server.port.get() == 0 { key.source_port } else { service.port };
    let sent = FlowKey {
        source: key.destination,
        destination: service.vip,
        source_port: key.destination_port,
        destination_port: port,
        protocol: key.protocol,
    };
    Some(Chosen::new(service, server, &sent))
}

/// A packet to a service.
fn through_service<A: Family, F: Frame>(
    table: &mut ConnectionTable<A>,
    shared: &mut Shared<F>,
    chosen: &Chosen<A>,
    (flow, back): (&Flow<'_, A>, Option<Way<A>>),
) -> Result<Admitted<A>, Refusal> {
    let (packet, key, now) = (flow.packet, flow.key, flow.now);
    let client = (key.source, key.source_port);
    if chosen.one_packet {
        let connection = one_packet(shared, packet, chosen, (client, back), now)?;
        if let Some(counters) = shared.stats.server(chosen.server.slot) {
            counters.connections.increment();
        }
        return Ok(Admitted::OnePacket(connection, Direction::Inbound));
    }
    let connection = build(shared, chosen, client, (packet, back, now))?;
    // That its packets belong to no connection is why we are here, and its server's do not either.
    let hashes = [flow.hash, chosen.reply_hash];
    let id = table.insert_new(&connection, hashes).map_err(|Full| DropReason::TableFull)?;
    shared.claim(&connection);
    shared.connection_begins(&connection);
    Ok(Admitted::Connection(Found { id, direction: Direction::Inbound }))
}

/// A connection through a service, as it begins.
fn build<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    chosen: &Chosen<A>,
    client: (A, U16),
    (packet, back, now): (&Packet, Option<Way<A>>, Tick),
) -> Result<Connection<A>, DropReason> {
    let hops = shared.hops(chosen.server.address, back)?;
    let mut connection = between(chosen, client);
    if chosen.helped {
        connection.flags = connection.flags.with(Flags::HELPED);
    }
    if chosen.by_template {
        connection.flags = connection.flags.by_template();
    }
    complete(shared, &mut connection, hops, (packet, now));
    Ok(connection)
}

/// A client's connection through a service.
fn between<A: Address>(chosen: &Chosen<A>, client: (A, U16)) -> Connection<A> {
    let server = &chosen.server;
    let ends = Endpoints {
        client,
        service: chosen.service,
        local: chosen.local,
        server: (server.address, server.port),
        protocol: chosen.protocol,
    };
    let mut connection = if chosen.local == client {
        Connection::with_deltas(ends, server.address_delta, server.port_delta)
    } else {
        Connection::new(ends)
    };
    connection.belongs_to(chosen.id, chosen.server.slot);
    connection
}

/// Completes a new connection and inserts it.
pub(super) fn insert<A: Family, F: Frame>(
    table: &mut ConnectionTable<A>,
    shared: &mut Shared<F>,
    mut connection: Connection<A>,
    hops: Hops,
    (packet, now): (&Packet, Tick),
) -> Result<super::conn::ConnectionId, DropReason> {
    complete(shared, &mut connection, hops, (packet, now));
    let id = table.insert(&connection).map_err(|error| match error {
        InsertError::Full => DropReason::TableFull,
        InsertError::Exists => DropReason::ReplyTupleTaken,
    })?;
    shared.claim(&connection);
    shared.connection_begins(&connection);
    Ok(id)
}

/// What a new connection needs besides its ends.
fn complete<A: Family, F: Frame>(
    shared: &Shared<F>,
    connection: &mut Connection<A>,
    hops: Hops,
    (packet, now): (&Packet, Tick),
) {
    take_ways(shared, connection, hops, now);
    let state = first_state(packet, connection.protocol);
    connection.set_state(state);
    connection.timeout_ms = state.idle_ms(shared.services.idle_times(connection.service()));
}

/// The ways of a connection's packets, from now on.
pub(super) fn take_ways<A: Family, F: Frame>(
    shared: &Shared<F>,
    connection: &mut Connection<A>,
    hops: Hops,
    now: Tick,
) {
    connection.path.to_server = hops.to_server;
    connection.path.to_client = hops.to_client;
    let [mut client, server] = [hops.to_client, hops.to_server].map(|hop| shared.sides_of(hop));
    if shared.is_half(connection) {
        // The client's packets are for the worker that has the other half.
        client = Sides::default();
    }
    connection.flags = connection.flags.between(client, server);
    connection.last_seen = now.0;
}

/// A connection that serves one datagram only.
fn one_packet<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    packet: &Packet,
    chosen: &Chosen<A>,
    (client, way): ((A, U16), Option<Way<A>>),
    now: Tick,
) -> Result<Connection<A>, DropReason> {
    if packet.ttl <= 1 {
        return Err(DropReason::TtlExpired);
    }
    let hops = shared.hops(chosen.server.address, way)?;
    shared.next_hops.touch(hops.to_server, now);
    shared.next_hops.touch(hops.to_client, now);
    let mut connection = between(chosen, client);
    connection.path.to_server = hops.to_server;
    connection.path.to_client = hops.to_client;
    Ok(connection)
}

/// Other servers that are looked at where the chosen one's reply tuple is taken.
const OTHER_SERVERS: usize = 8;

/// A connection with the server whose turn it is; or, where that server already has one with this
/// client address and port through another service, with another server. Two connections with one
/// reply tuple could not be told apart.
fn schedule<A: Family>(
    (table, loads): (&ConnectionTable<A>, &ServerLoads),
    locals: &mut Locals<'_>,
    (service, bound): (&Service<A>, Bound<'_, A>),
    key: &FlowKey<A>,
) -> Result<Chosen<A>, Refusal> {
    let client = (key.source, key.source_port);
    let turn = bound.server;
    let others = service.open_servers(loads).filter(|server| server.slot != turn.slot);
    let mut servers = std::iter::once(turn).chain(others.take(OTHER_SERVERS));
    let chosen = servers.find_map(|server| {
        let chosen = Chosen::new(service, server, key);
        let end = (server.address, chosen.server.port);
        let (local, reply_hash) = locals.endpoint(table, end, client, key.protocol)?;
        let by_template = bound.by_template && server.slot == turn.slot;
        Some(Chosen { by_template, local, reply_hash, ..chosen })
    });
    chosen.ok_or_else(|| DropReason::ReplyTupleTaken.into())
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

/// How long a new connection of a service may idle, milliseconds.
fn first_idle_ms(
    services: &ServiceTable,
    service: ServiceId,
    packet: &Packet,
    protocol: u8,
) -> u32 {
    first_state(packet, protocol).idle_ms(services.idle_times(service))
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
