//! ICMP errors about connections: the packet that an error quotes went through the director, so
//! the error goes back the same way, with the addresses of the other side outside and inside
//! (RFC 5508 section 4).
//!
//! Eight octets of the quoted transport header are enough. An error changes no state, refreshes
//! nothing and ends nothing (RFC 5508 REQ-6).

use zerocopy::FromBytes;

use super::classify::Packet;
use super::conn::{Connection, ConnectionTable, Flags};
use super::family::Family;
use super::flow::next_hop;
use super::frame::{Frame, Outlet};
use super::interface::Sides;
use super::nat;
use super::pipeline::Origin;
use super::shared::Shared;
use super::stats::DropReason;
use crate::wire::checksum::{self, Delta};
use crate::wire::ethernet;
use crate::wire::flow_key::{Direction, FlowKey};
use crate::wire::icmpv4::{self, IcmpHeader};
use crate::wire::ipv4::protocol;

/// The packet that an error quotes.
#[derive(Clone, Copy)]
pub(super) struct Quoted<A> {
    /// Its 5-tuple, as quoted.
    pub(super) key: FlowKey<A>,
    /// Where its IP header begins, from the start of the frame.
    pub(super) ip: usize,
    /// Where its transport header begins.
    pub(super) transport: usize,
    /// Octets of its transport packet, however many are quoted; `None` of a fragment.
    pub(super) segment_octets: Option<usize>,
}

/// Ports, which TCP, UDP and SCTP have at the same place.
pub(super) fn ports(segment: &[u8]) -> Option<(crate::wire::U16, crate::wire::U16)> {
    let [a, b, c, d, ..] = *segment else { return None };
    Some((u16::from_be_bytes([a, b]).into(), u16::from_be_bytes([c, d]).into()))
}

/// Passes an error on to the party that the quoted packet came from, or drops it.
pub(super) fn receive<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    table: &ConnectionTable<A>,
    packet: &Packet,
    origin: Origin,
    mut frame: F,
    outlet: &mut impl Outlet<F>,
) {
    let quoted = match inspect::<A, F>(packet, &frame) {
        Ok(quoted) => quoted,
        Err(reason) => return shared.drop(frame, reason, outlet),
    };
    // It goes to whom the quoted packet came from; what does not was not made by a router.
    if A::addresses(frame.octets()).is_none_or(|(_, to)| to != quoted.key.source) {
        return shared.drop(frame, DropReason::IcmpUnrelated, outlet);
    }
    // The flow's own packets in the other direction look like this.
    let key = quoted.key.reversed();
    if let Some(owner) = shared.other_owner(&key, origin) {
        return outlet.hand_over(owner, frame);
    }
    let found = table.find(table.hash(&key), &key);
    let Some((found, connection)) = found.and_then(|found| Some((found, table.get(found.id)?)))
    else {
        return route_on::<A, F>(shared, packet, frame, outlet);
    };
    if !connection.flags.admit(found.direction, packet.sides)
        || comes_round::<A, F>(shared, packet, &frame)
    {
        return shared.drop(frame, DropReason::WrongSide, outlet);
    }
    if packet.ttl <= 1 {
        return shared.drop(frame, DropReason::TtlExpired, outlet);
    }
    let hop = next_hop(connection, found.direction);
    match rewrite(frame.octets_mut(), packet, &quoted, connection, found.direction) {
        Some(()) => shared.send(hop, packet.ip_octets, frame, outlet),
        None => shared.drop(frame, DropReason::Truncated, outlet),
    }
}

/// Whether an error comes from outside with a source that lies inside. (An inside router may have
/// an address that the routing table looks for outside; the outside never sees it.)
fn comes_round<A: Family, F: Frame>(shared: &Shared<F>, packet: &Packet, frame: &F) -> bool {
    let source = A::addresses(frame.octets()).map(|(source, _)| source);
    !packet.sides.meet(Sides::INSIDE)
        && source.and_then(|source| shared.sides_towards(source)) == Some(Sides::INSIDE)
}

/// An error about nothing known: routed if that is allowed, else dropped.
fn route_on<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    packet: &Packet,
    mut frame: F,
    outlet: &mut impl Outlet<F>,
) {
    let addresses = A::addresses(frame.octets());
    let routed = addresses.filter(|ends| shared.may_route(packet, *ends));
    let Some((_, destination)) = routed else {
        return shared.drop(frame, DropReason::IcmpUnrelated, outlet);
    };
    if packet.ttl <= 1 {
        return shared.drop(frame, DropReason::TtlExpired, outlet);
    }
    match shared.adjacency(destination) {
        Ok(hop) if A::decrement_ttl(frame.octets_mut()).is_some() => {
            shared.send(hop, packet.ip_octets, frame, outlet);
        }
        Ok(_) => shared.drop(frame, DropReason::Truncated, outlet),
        Err(reason) => shared.drop(frame, reason, outlet),
    }
}

/// The ICMP message within a frame.
fn message_of(octets: &[u8], packet: &Packet) -> Option<std::ops::Range<usize>> {
    let range = usize::from(packet.transport)..ethernet::HEADER + usize::from(packet.ip_octets);
    octets.get(range.clone()).map(|_| range)
}

/// Checks the error (RFC 5508 REQ-3) and finds what it quotes.
fn inspect<A: Family, F: Frame>(packet: &Packet, frame: &F) -> Result<Quoted<A>, DropReason> {
    let octets = frame.octets();
    let range = message_of(octets, packet).ok_or(DropReason::Truncated)?;
    let message = octets.get(range.clone()).ok_or(DropReason::Truncated)?;
    let pseudo = A::icmp_pseudo_header(octets, message.len()).ok_or(DropReason::Truncated)?;
    if checksum::finish(message, pseudo) != [0, 0] {
        return Err(DropReason::BadChecksum);
    }
    let ip = range.start + icmpv4::HEADER;
    let quote = octets.get(ip..range.end).ok_or(DropReason::Truncated)?;
    A::inspect_quoted(quote, ip)
}

/// Rewrites outer and quoted headers. On the way in the error reports about a reply, whose
/// source is the service here and the real server there; on the way back about a request, whose
/// destination is the real server there and the service here.
fn rewrite<A: Family>(
    frame: &mut [u8],
    packet: &Packet,
    quoted: &Quoted<A>,
    connection: &Connection<A>,
    direction: Direction,
) -> Option<()> {
    let (address, port) = match direction {
        Direction::Inbound => connection.server(),
        Direction::Reply => connection.vip(),
    };
    let (address_delta, transport_delta) = nat::deltas(connection, connection.path, direction);
    let (far_address, far_port) = nat::far_end(connection, direction);
    let is_full_nat = connection.flags.has(Flags::FULL_NAT);
    let message = message_of(frame, packet)?;
    let end = message.end;
    // The outer address is not always that of the connection: a router may report.
    if is_full_nat {
        let (source, destination) = A::addresses(frame)?;
        let ends_match = match direction {
            Direction::Inbound => source == connection.client().0,
            Direction::Reply => destination == connection.local().0,
        };
        if ends_match {
            rewrite_outer_far_end(frame, direction.reversed(), far_address)?;
        }
    }
    let outer = A::outer_delta(frame, direction, address)?;
    A::rewrite(frame, direction, address, outer)?;
    // In the quoted packet the ends are swapped, and no router has passed it on.
    let swapped = direction.reversed();
    let quote = frame.get_mut(quoted.ip..end)?;
    A::rewrite_quoted(quote, swapped, address, address_delta)?;
    if is_full_nat {
        A::write_address(quote, direction, far_address)?;
    }
    let segment = frame.get_mut(quoted.transport..end)?;
    match quoted.key.protocol {
        protocol::TCP | protocol::UDP => {
            nat::write_port(segment, swapped, port)?;
            if is_full_nat {
                nat::write_port(segment, direction, far_port)?;
            }
        }
        protocol::SCTP => {
            nat::rewrite_quoted_sctp(segment, connection, direction, quoted.segment_octets)?;
        }
        _ => segment.get_mut(4..6)?.copy_from_slice(&port.to_bytes()),
    }
    update_quoted_checksum(segment, quoted.key.protocol, transport_delta);
    let pseudo = A::icmp_pseudo_header(frame, message.len())?;
    let octets = frame.get_mut(message)?;
    let (icmp, _) = IcmpHeader::mut_from_prefix(octets).ok()?;
    icmp.checksum = [0; 2];
    let sum = checksum::finish(octets, pseudo);
    let (icmp, _) = IcmpHeader::mut_from_prefix(octets).ok()?;
    icmp.checksum = sum;
    Some(())
}

/// Full NAT: the other outer address.
fn rewrite_outer_far_end<A: Family>(
    frame: &mut [u8],
    direction: Direction,
    address: A,
) -> Option<()> {
    let delta = A::outer_delta(frame, direction, address)?;
    A::rewrite_quoted(frame.get_mut(ethernet::HEADER..)?, direction, address, delta)
}

/// Makes the quoted transport checksum right, where the quote reaches that far. What follows
/// eight octets of TCP may be the padding of RFC 4884, which is no header.
fn update_quoted_checksum(segment: &mut [u8], protocol: u8, delta: Delta) {
    if protocol == protocol::TCP {
        let has_header = segment.get(12).is_some_and(|octet| octet >> 4 >= 5);
        if let Some(field) = segment.get_mut(16..).and_then(<[u8]>::first_chunk_mut)
            && has_header
        {
            *field = delta.apply(*field);
        }
    } else if protocol == protocol::SCTP {
        // Done with the ports.
    } else if protocol == protocol::UDP {
        if let Some(field) = segment.get_mut(6..).and_then(<[u8]>::first_chunk_mut) {
            *field = delta.apply_udp(*field);
        }
    } else if let Some(field) = segment.get_mut(2..).and_then(<[u8]>::first_chunk_mut) {
        *field = delta.apply(*field);
    }
}
