//! The rewrite: addresses, ports, TTL and checksums, in place, both directions by one rule.

use zerocopy::FromBytes;

use super::conn::Connection;
use super::family::Family;
use crate::wire::checksum::Delta;
use crate::wire::flow_key::Direction;
use crate::wire::ipv4::protocol;
use crate::wire::tcp::TcpHeader;
use crate::wire::udp::UdpHeader;

/// What the way `direction` changes in the IPv4 header checksum, TTL aside, and in the transport
/// checksum.
#[inline]
pub(super) const fn deltas<A>(connection: &Connection<A>, direction: Direction) -> (Delta, Delta) {
    match direction {
        Direction::Inbound => (connection.address_delta, connection.transport_delta),
        Direction::Reply => {
            (connection.address_delta.reversed(), connection.transport_delta.reversed())
        }
    }
}

/// Translates a frame of a connection: on the way in its destination becomes the real server,
/// on the way back its source becomes the virtual service. `transport` is the offset of the TCP
/// or UDP header. `None`: the frame is shorter than its headers, which classification excludes.
#[inline]
pub(super) fn translate<A: Family>(
    frame: &mut [u8],
    transport: usize,
    connection: &Connection<A>,
    direction: Direction,
) -> Option<()> {
    let (address, port) = match direction {
        Direction::Inbound => (connection.server, connection.server_port),
        Direction::Reply => (connection.vip, connection.vip_port),
    };
    let (address_delta, delta) = deltas(connection, direction);
    A::rewrite(frame, direction, address, address_delta)?;
    let segment = frame.get_mut(transport..)?;
    if connection.protocol == protocol::TCP {
        let (tcp, _) = TcpHeader::mut_from_prefix(segment).ok()?;
        match direction {
            Direction::Inbound => tcp.destination_port = port,
            Direction::Reply => tcp.source_port = port,
        }
        tcp.checksum = delta.apply(tcp.checksum);
    } else {
        let (udp, _) = UdpHeader::mut_from_prefix(segment).ok()?;
        match direction {
            Direction::Inbound => udp.destination_port = port,
            Direction::Reply => udp.source_port = port,
        }
        udp.checksum = delta.apply_udp(udp.checksum);
    }
    Some(())
}
