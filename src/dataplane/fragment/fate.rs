//! What becomes of a fragment: the first one, whose ports decide, and those after it, which share
//! its fate.

use zerocopy::FromBytes;

use super::Arrival;
use crate::clock::Tick;
use crate::dataplane::classify::{Class, Packet};
use crate::dataplane::conn::ConnectionTable;
use crate::dataplane::datagrams::{Fate, Fragment};
use crate::dataplane::echo;
use crate::dataplane::family::Family;
use crate::dataplane::flow::{Flow, next_hop};
use crate::dataplane::frame::{Frame, Outlet};
use crate::dataplane::icmp_error::ports;
use crate::dataplane::local;
use crate::dataplane::nat;
use crate::dataplane::next_hop::AdjacencyId;
use crate::dataplane::own_error::{self, Refusal};
use crate::dataplane::shared::Shared;
use crate::dataplane::stats::DropReason;
use crate::wire::U16;
use crate::wire::ethernet;
use crate::wire::flow_key::{Direction, FlowKey};
use crate::wire::icmpv4;
use crate::wire::ipv4::protocol;
use crate::wire::sctp;
use crate::wire::tcp::{self, TcpHeader};
use crate::wire::udp;

/// A first fragment: decides what becomes of its datagram.
pub(super) fn settle_first<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    table: &mut ConnectionTable<A>,
    arrival: Arrival<A, F>,
    now: Tick,
    outlet: &mut impl Outlet<F>,
) -> Fate<A> {
    let Arrival { fragment, packet, mut frame } = arrival;
    if fragment.key.protocol == A::ICMP && is_for_us(shared, &fragment, frame.octets()) {
        let reply = local::echo_fragment::<A, F>(shared, &fragment, &mut frame);
        return match reply {
            Ok(()) => {
                send_back(shared, frame, outlet);
                Fate::Echo
            }
            Err(reason) => {
                shared.drop(frame, reason, outlet);
                Fate::Drop(reason)
            }
        };
    }
    let (flow_key, control) = match transport(&fragment, frame.octets()) {
        Ok(found) => found,
        Err(reason) => {
            shared.drop(frame, reason, outlet);
            return Fate::Drop(reason);
        }
    };
    let owner = shared.owner(&flow_key);
    if owner != shared.worker {
        outlet.hand_over(owner, frame);
        return Fate::HandOver(owner);
    }
    let transport = u16::try_from(fragment.payload).unwrap_or(u16::MAX);
    let packet = Packet { class: Class::Drop(DropReason::Malformed), transport, control, ..packet };
    let hash = table.hash(&flow_key);
    let flow = Flow { packet: &packet, key: &flow_key, hash, now, turn: None, interface: None };
    match shared.translate_first(table, &flow, &mut frame) {
        Ok(hop) => {
            let fate = fate_of(table, &flow_key, hash, frame.octets());
            shared.send(hop, packet.ip_octets, frame, outlet);
            fate
        }
        Err(refusal) => {
            own_error::tell(shared, refusal, (&flow_key, &packet), &frame, now, outlet);
            shared.drop(frame, refusal.reason, outlet);
            Fate::Drop(refusal.reason)
        }
    }
}

/// Whether an ICMP datagram ends here: an echo request to us, and what may not pass.
fn is_for_us<A: Family, F: Frame>(
    shared: &Shared<F>,
    fragment: &Fragment<A>,
    octets: &[u8],
) -> bool {
    let may_pass = shared.services.has_masqueraded() || shared.services.policy().routing;
    let ports = octets.get(fragment.payload..).and_then(echo::ports::<A>);
    let is_reply = ports.is_some_and(|(from, to)| from == U16::new(0) && to != U16::new(0));
    !may_pass || shared.is_ours(fragment.key.destination) && !is_reply
}

/// What becomes of the later fragments of a datagram whose first one has been rewritten.
fn fate_of<A: Family>(
    table: &ConnectionTable<A>,
    key: &FlowKey<A>,
    hash: u64,
    octets: &[u8],
) -> Fate<A> {
    if table.find(hash, key).is_some() {
        return Fate::Flow(*key);
    }
    let (source, destination) = A::addresses(octets).unwrap_or_default();
    Fate::Passed { source, destination }
}

/// Ports and control bits of a first fragment. One without a whole transport header is an
/// attack (RFC 1858), not a packet.
fn transport<A: Family>(
    fragment: &Fragment<A>,
    octets: &[u8],
) -> Result<(FlowKey<A>, u8), DropReason> {
    let key = fragment.key;
    let segment = octets.get(fragment.payload..).ok_or(DropReason::Truncated)?;
    let least = match key.protocol {
        protocol::TCP => tcp::HEADER,
        protocol::UDP => udp::HEADER,
        protocol::SCTP => sctp::HEADER + sctp::CHUNK_HEADER,
        _ => icmpv4::HEADER,
    };
    let length = usize::from(fragment.length);
    if length < least {
        return Err(DropReason::Malformed);
    }
    let control = match key.protocol {
        protocol::TCP => {
            let header = TcpHeader::ref_from_prefix(segment);
            header.map_err(|_| DropReason::Truncated)?.0.flags
        }
        protocol::SCTP => {
            let is_part = !fragment.is_atomic();
            let (_, signal) = sctp::inspect(segment, length, is_part)?;
            signal.control() | if is_part { sctp::FRAGMENT } else { 0 }
        }
        _ => 0,
    };
    let (source_port, destination_port) = match key.protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => {
            ports(segment).ok_or(DropReason::Truncated)?
        }
        _ if key.protocol == A::ICMP => {
            echo::ports::<A>(segment).ok_or(DropReason::IcmpUnsupported)?
        }
        _ => Default::default(),
    };
    let flow = FlowKey {
        source: key.source,
        destination: key.destination,
        source_port,
        destination_port,
        protocol: key.protocol,
    };
    Ok((flow, control))
}

/// A later fragment, once its datagram's fate is known.
pub(super) fn settle_later<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    table: &ConnectionTable<A>,
    fate: Fate<A>,
    (packet, now): (&Packet, Tick),
    mut frame: F,
    outlet: &mut impl Outlet<F>,
) {
    match fate {
        Fate::Waiting => shared.drop(frame, DropReason::FragmentQueueFull, outlet),
        Fate::HandOver(worker) => outlet.hand_over(worker, frame),
        Fate::Drop(reason) => shared.drop(frame, reason, outlet),
        Fate::Echo => {
            if A::turn(&mut frame).is_some() {
                send_back(shared, frame, outlet);
            } else {
                shared.drop(frame, DropReason::Truncated, outlet);
            }
        }
        Fate::Flow(key) => match translate_later(shared, table, &key, packet, &mut frame) {
            Ok(hop) => shared.send(hop, packet.ip_octets, frame, outlet),
            Err(refusal) => {
                if A::IS_V6 && refusal.mtu != 0 {
                    // The first one fitted. (IPv4 has no errors about later fragments, RFC 1812
                    // section 4.3.2.7.)
                    own_error::tell(shared, refusal, (&key, packet), &frame, now, outlet);
                }
                shared.drop(frame, refusal.reason, outlet);
            }
        },
        Fate::Passed { source, destination } => {
            match pass_later(shared, (source, destination), packet, &mut frame) {
                Ok(hop) => shared.send(hop, packet.ip_octets, frame, outlet),
                Err(refusal) => shared.drop(frame, refusal.reason, outlet),
            }
        }
    }
}

/// Rewrites the addresses of a later fragment, which has no ports.
fn translate_later<A: Family, F: Frame>(
    shared: &Shared<F>,
    table: &ConnectionTable<A>,
    key: &FlowKey<A>,
    packet: &Packet,
    frame: &mut F,
) -> Result<AdjacencyId, Refusal> {
    if packet.ttl <= 1 {
        return Err(DropReason::TtlExpired.into());
    }
    let found = table.find(table.hash(key), key).ok_or(DropReason::NoConnection)?;
    let connection = table.get(found.id).ok_or(DropReason::NoConnection)?;
    let direction = found.direction;
    if !connection.flags.admit(direction, packet.sides) {
        return Err(DropReason::WrongSide.into());
    }
    let hop = next_hop(connection, direction);
    check_later::<A, F>(shared, hop, packet, frame)?;
    let (address_delta, _) = nat::deltas(connection, connection.path, direction);
    let leaving = connection.leaving(direction);
    shared.count(connection.slot(), direction, packet.ip_octets);
    let octets = frame.octets_mut().get_mut(ethernet::HEADER..).ok_or(DropReason::Truncated)?;
    A::forward(octets, &leaving, address_delta).ok_or(DropReason::Truncated)?;
    Ok(hop)
}

/// Whether a later fragment fits its link or may be split.
fn check_later<A: Family, F: Frame>(
    shared: &Shared<F>,
    hop: AdjacencyId,
    packet: &Packet,
    frame: &F,
) -> Result<(), Refusal> {
    let mtu = shared.next_hops.get(hop).map_or(0, |link| link.mtu);
    if packet.ip_octets > mtu && !A::may_be_split(frame.octets()) {
        return Err(Refusal::too_big(mtu));
    }
    Ok(())
}

/// A later fragment of a datagram that belongs to no connection: leaves with the addresses that
/// its first one left with.
fn pass_later<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    (source, destination): (A, A),
    packet: &Packet,
    frame: &mut F,
) -> Result<AdjacencyId, Refusal> {
    if packet.ttl <= 1 {
        return Err(DropReason::TtlExpired.into());
    }
    // No connection keeps a neighbour in the table: it is looked up each time.
    let hop = shared.adjacency(destination)?;
    check_later::<A, F>(shared, hop, packet, frame)?;
    let write = |frame: &mut F, direction, address| {
        let octets = frame.octets_mut();
        let delta = A::outer_delta(octets, direction, address)?;
        A::rewrite_quoted(octets.get_mut(ethernet::HEADER..)?, direction, address, delta)
    };
    write(frame, Direction::Inbound, destination)
        .and_then(|()| write(frame, Direction::Reply, source))
        .and_then(|()| A::decrement_ttl(frame.octets_mut()))
        .map(|()| hop)
        .ok_or_else(|| DropReason::Truncated.into())
}

/// Sends a frame back to the station that it came from.
fn send_back<F: Frame>(shared: &Shared<F>, mut frame: F, outlet: &mut impl Outlet<F>) {
    let Some(interface) = shared.interfaces.of_frame(&frame) else {
        return shared.drop(frame, DropReason::NotForUs, outlet);
    };
    if let Ok((link, _)) = ethernet::EthernetHeader::mut_from_prefix(frame.octets_mut()) {
        link.destination = link.source;
        link.source = interface.mac;
    }
    shared.stats.consumed.increment();
    shared.stats.originated.increment();
    shared.transmit(interface.id, interface.vlan, frame, outlet);
}
