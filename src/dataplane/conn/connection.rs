//! One connection's record. What a packet of either direction needs is in its first cache line:
//! for IPv4 that is all of it, for IPv6 half.

use std::mem::offset_of;

use zerocopy::FromZeros;

use super::path::{Path, PathId};
use super::tcp_state::{self, ConnectionState};
use super::timer_wheel::Links;
use crate::clock::Tick;
use crate::dataplane::interface::Sides;
use crate::ids::{ServerSlot, ServiceId};
use crate::wire::U16;
use crate::wire::address::Address;
use crate::wire::checksum::Delta;
use crate::wire::flow_key::{Direction, FlowKey};
use crate::wire::ipv4::protocol;

/// A connection through the director.
///
/// Packets of the outside party come in as `client -> vip` and leave as `local -> server`; those
/// of the real server come as `server -> local` and leave as `vip -> client`. `local` is the
/// client itself, except where the server would answer past the director (full NAT). A
/// connection that an inside host opens (masquerade) has that host as `server`, the outside
/// endpoint as `client`, and as `vip` the external address and port that it appears with. An
/// ICMP identifier stands for the ports of the inside's and the external end; the outside's is 0.
#[derive(Clone, Copy, Debug, FromZeros)]
#[repr(C, align(64))]
pub struct Connection<A> {
    /// The real server, the client and the VIP: neighbours are source and destination of a packet,
    /// the first two of a reply, the last two of one on the way in.
    addresses: [A; 3],
    /// Their ports.
    ports: [U16; 3],
    /// IP protocol.
    pub protocol: u8,
    /// [`ConnectionState`] by number: all-zero memory must be a valid record.
    state: u8,
    /// When the last packet came.
    pub last_seen: u32,
    /// The number of its path, where other connections have the same; given by the table.
    pub(super) common_path: PathId,
    /// What is special about it.
    pub flags: Flags,
    /// Whom the server sees, where that is not the client.
    local_port: U16,
    /// As `local_port`.
    local: A,
    /// The way of its packets. It stays as it is when the table has the connection.
    pub path: Path,
    /// What the way in changes in the IPv4 header checksum, TTL aside; the reply reverses it.
    pub address_delta: Delta,
    /// Idle time after which the connection is forgotten, milliseconds.
    pub timeout_ms: u32,
    /// The service, whose idle times apply; [`Connection::NO_SERVICE`]: the director's do.
    service: u16,
    /// In its slot of the timer wheel, or in the list of free records.
    pub(super) links: Links,
    /// With [`Flags::HELPED`] where the helper keeps what it knows of it, else the control
    /// connection of a data connection, both plus one; 0: nothing yet, or neither.
    pub helper: u32,
}

/// What is special about a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromZeros)]
#[repr(transparent)]
pub struct Flags(u8);

impl Flags {
    /// The inside opened it: the state machine sees the directions swapped.
    pub const OUTBOUND: Self = Self(1);
    /// `local` differs from `client`: both ends of a packet are rewritten.
    pub const FULL_NAT: Self = Self(2);
    /// A helper reads the connection's text.
    pub const HELPED: Self = Self(4);
    /// A template led to its server, and lives as long as it does. Without sides: its server was
    /// removed, no packet is translated, and the client is to be told when it sends the next one.
    const BY_TEMPLATE_OR_RETIRED: Self = Self(8);
    /// First of the bits that say on which sides packets arrive: two for the way in, two for
    /// replies.
    const SIDES_SHIFT: u8 = 4;

    /// These and those.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Without these flags.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Of a connection whose server a template led to.
    #[must_use]
    pub const fn by_template(self) -> Self {
        self.with(Self::BY_TEMPLATE_OR_RETIRED)
    }

    /// Whether a template led to its server.
    #[inline]
    pub const fn is_by_template(self) -> bool {
        self.has(Self::BY_TEMPLATE_OR_RETIRED) && self.0 >> Self::SIDES_SHIFT != 0
    }

    /// Of a connection whose server was removed: with no sides that packets may arrive on.
    #[must_use]
    pub const fn retired(self) -> Self {
        Self(self.0 & ((1 << Self::SIDES_SHIFT) - 1)).with(Self::BY_TEMPLATE_OR_RETIRED)
    }

    /// Whether its server was removed.
    #[inline]
    pub const fn is_retired(self) -> bool {
        self.has(Self::BY_TEMPLATE_OR_RETIRED) && self.0 >> Self::SIDES_SHIFT == 0
    }

    /// Whether a flag is set.
    #[inline]
    pub const fn has(self, flag: Self) -> bool {
        self.0 & flag.0 != 0
    }

    /// With the sides that the client's and the server's packets may arrive on.
    #[must_use]
    pub const fn between(self, client: Sides, server: Sides) -> Self {
        Self(self.0 | (client.0 | server.0 << 2) << Self::SIDES_SHIFT)
    }

    /// Whether a packet of this direction may arrive on these sides.
    #[inline]
    pub const fn admit(self, direction: Direction, arrival: Sides) -> bool {
        self.0 >> (Self::SIDES_SHIFT + 2 * direction as u8) & arrival.0 != 0
    }
}

const _: () = assert!(size_of::<Connection<[u8; 4]>>() == 64, "an IPv4 connection is one line");
const _: () = assert!(size_of::<Connection<[u8; 16]>>() == 128, "an IPv6 connection is two");
const _: () = assert!(
    offset_of!(Connection<[u8; 16]>, flags) < 64,
    "what its packets need, the flags last, is in the first"
);

/// What a new connection is made of.
#[derive(Clone, Copy, Debug)]
pub struct Endpoints<A> {
    /// The client and its port.
    pub client: (A, U16),
    /// What the client speaks to.
    pub service: (A, U16),
    /// Whom the server sees; usually the client.
    pub local: (A, U16),
    /// The real server.
    pub server: (A, U16),
    /// IP protocol.
    pub protocol: u8,
}

impl<A: Address> Connection<A> {
    /// A record with its checksum deltas, in no state yet.
    pub fn new(ends: Endpoints<A>) -> Self {
        let Endpoints { client, service, local, server, .. } = ends;
        let address_delta = Delta::between(service.0.octets(), server.0.octets())
            .and(Delta::between(client.0.octets(), local.0.octets()));
        let port_delta = Delta::between(&service.1.to_bytes(), &server.1.to_bytes())
            .and(Delta::between(&client.1.to_bytes(), &local.1.to_bytes()));
        Self::with_deltas(ends, address_delta, port_delta)
    }

    /// As [`Connection::new`], where it is known what the way in changes in a checksum over the
    /// addresses and in one over the ports.
    #[inline]
    pub fn with_deltas(ends: Endpoints<A>, address_delta: Delta, port_delta: Delta) -> Self {
        let Endpoints { client, service, local, server, protocol } = ends;
        let is_full_nat = client != local;
        Self {
            addresses: [server.0, client.0, service.0],
            ports: [server.1, client.1, service.1],
            local: local.0,
            local_port: local.1,
            protocol,
            flags: if is_full_nat { Flags::FULL_NAT } else { Flags::default() },
            address_delta,
            path: Path {
                slot: Path::NO_SLOT,
                // ICMP alone has no pseudo header.
                transport_delta: if protocol == protocol::ICMP {
                    port_delta
                } else {
                    address_delta.and(port_delta)
                },
                ..Path::new_zeroed()
            },
            service: Self::NO_SERVICE,
            common_path: PathId::NONE,
            ..Self::new_zeroed()
        }
    }

    /// The service of a connection through none.
    pub const NO_SERVICE: u16 = u16::MAX;

    /// Through a service, to this real server of it.
    pub const fn belongs_to(&mut self, service: ServiceId, server: ServerSlot) {
        self.service = service.0;
        self.path.slot = server.0;
    }

    /// The real server's slot in loads and counters.
    #[inline]
    pub const fn slot(&self) -> ServerSlot {
        self.path.slot()
    }

    /// The real server and its port.
    #[inline]
    pub const fn server(&self) -> (A, U16) {
        let ([server, ..], [port, ..]) = (self.addresses, self.ports);
        (server, port)
    }

    /// The outside party and its port.
    #[inline]
    pub const fn client(&self) -> (A, U16) {
        let ([_, client, _], [_, port, _]) = (self.addresses, self.ports);
        (client, port)
    }

    /// What the outside party speaks to.
    #[inline]
    pub const fn vip(&self) -> (A, U16) {
        let ([.., vip], [.., port]) = (self.addresses, self.ports);
        (vip, port)
    }

    /// Whom the server sees.
    #[inline]
    pub const fn local(&self) -> (A, U16) {
        if self.flags.has(Flags::FULL_NAT) { (self.local, self.local_port) } else { self.client() }
    }

    /// The service whose idle times apply.
    #[inline]
    pub const fn service(&self) -> ServiceId {
        ServiceId(self.service)
    }

    /// The direction as the state machine sees it: from whoever opened the connection, or back.
    #[inline]
    pub const fn opener_view(&self, direction: Direction) -> Direction {
        if self.flags.has(Flags::OUTBOUND) { direction.reversed() } else { direction }
    }

    /// The state.
    #[inline]
    pub fn state(&self) -> ConnectionState {
        ConnectionState::from_number(self.state)
    }

    /// Whether a TCP segment of this direction with these control bits leaves the state as it is,
    /// and does nothing else: it acknowledges, and neither opens nor closes.
    #[inline]
    pub const fn is_kept_by(&self, direction: Direction, control: u8) -> bool {
        tcp_state::is_acknowledgement(control)
            && tcp_state::is_kept(self.state, self.opener_view(direction))
    }

    /// Enters a state.
    #[inline]
    pub(in crate::dataplane) fn set_state(&mut self, state: ConnectionState) {
        self.state = state as u8;
    }

    /// The 5-tuple of packets of one direction, as they arrive.
    #[inline]
    pub fn key(&self, direction: Direction) -> FlowKey<A> {
        let (source, destination) = match direction {
            Direction::Inbound => (self.client(), self.vip()),
            Direction::Reply => (self.server(), self.local()),
        };
        FlowKey {
            source: source.0,
            destination: destination.0,
            source_port: source.1,
            destination_port: destination.1,
            protocol: self.protocol,
        }
    }

    /// Whether a packet of one direction with this 5-tuple belongs to it. To one that has ended
    /// belongs none: its record is one of full NAT with protocol 0.
    #[inline]
    pub fn is_of(&self, direction: Direction, key: &FlowKey<A>) -> bool {
        if self.flags.has(Flags::FULL_NAT) {
            return self.has_key(direction, key);
        }
        let ([source, destination], ports) = self.ends(direction);
        key.is((source, destination), *ports, self.protocol)
    }

    /// As [`Connection::is_of`], of full NAT.
    #[cold]
    fn has_key(&self, direction: Direction, key: &FlowKey<A>) -> bool {
        self.protocol != 0 && self.key(direction) == *key
    }

    /// Source and destination of packets of one direction as they arrive, without full NAT.
    #[inline]
    const fn ends(&self, direction: Direction) -> (&[A; 2], &[U16; 2]) {
        let ([reply @ .., _], [reply_ports @ .., _]) = (&self.addresses, &self.ports);
        let ([_, inbound @ ..], [_, inbound_ports @ ..]) = (&self.addresses, &self.ports);
        match direction {
            Direction::Inbound => (inbound, inbound_ports),
            Direction::Reply => (reply, reply_ports),
        }
    }

    /// The 5-tuple of packets of one direction, as they leave: that of the other direction, turned.
    #[inline]
    pub fn leaving(&self, direction: Direction) -> FlowKey<A> {
        self.key(direction.reversed()).reversed()
    }

    /// As [`Connection::leaving`], without full NAT.
    #[inline]
    pub const fn leaving_as_usual(&self, direction: Direction) -> FlowKey<A> {
        let ([destination, source], [destination_port, source_port]) =
            self.ends(direction.reversed());
        FlowKey {
            source: *source,
            destination: *destination,
            source_port: *source_port,
            destination_port: *destination_port,
            protocol: self.protocol,
        }
    }

    /// When it is forgotten unless a packet comes.
    #[inline]
    pub const fn deadline(&self) -> Tick {
        Tick(self.last_seen).after(self.timeout_ms)
    }
}
