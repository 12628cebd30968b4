//! The rewrite: addresses, ports, TTL and checksums, in place, both directions by one rule.

use zerocopy::FromBytes;

use super::conn::{Connection, Flags};
use super::family::Family;
use crate::wire::U16;
use crate::wire::address::Address;
use crate::wire::checksum::Delta;
use crate::wire::ethernet;
use crate::wire::flow_key::Direction;
use crate::wire::icmpv4::IcmpHeader;
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
/// on the way back its source becomes the virtual service; with full NAT the other end changes,
/// too. `transport` is the offset of the transport header. `None`: the frame is shorter than its headers, which classification excludes.
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
    match connection.protocol {
        protocol::TCP => {
            let (tcp, _) = TcpHeader::mut_from_prefix(segment).ok()?;
            match direction {
                Direction::Inbound => tcp.destination_port = port,
                Direction::Reply => tcp.source_port = port,
            }
            tcp.checksum = delta.apply(tcp.checksum);
        }
        protocol::UDP => {
            let (udp, _) = UdpHeader::mut_from_prefix(segment).ok()?;
            match direction {
                Direction::Inbound => udp.destination_port = port,
                Direction::Reply => udp.source_port = port,
            }
            udp.checksum = delta.apply_udp(udp.checksum);
        }
        _ => translate_echo(segment, port, delta)?,
    }
    if connection.flags.has(Flags::FULL_NAT) {
        translate_far_end(frame, transport, connection, direction)?;
    }
    Some(())
}

/// Writes the identifier of an echo request or reply.
#[cold]
fn translate_echo(message: &mut [u8], identifier: U16, delta: Delta) -> Option<()> {
    let (echo, _) = IcmpHeader::mut_from_prefix(message).ok()?;
    let [high, low] = identifier.to_bytes();
    let [_, _, sequence @ ..] = echo.rest;
    let [third, fourth] = sequence;
    echo.rest = [high, low, third, fourth];
    echo.checksum = delta.apply(echo.checksum);
    Some(())
}

/// Full NAT: the other end, too. The checksums are right already.
#[cold]
fn translate_far_end<A: Family>(
    frame: &mut [u8],
    transport: usize,
    connection: &Connection<A>,
    direction: Direction,
) -> Option<()> {
    let (address, port) = far_end(connection, direction);
    A::write_address(frame.get_mut(ethernet::HEADER..)?, direction.reversed(), address)?;
    write_port(frame.get_mut(transport..)?, direction.reversed(), port)
}

/// What full NAT writes besides: the source on the way in, the destination of a reply.
pub(super) const fn far_end<A: Address>(
    connection: &Connection<A>,
    direction: Direction,
) -> (A, U16) {
    match direction {
        Direction::Inbound => (connection.local, connection.local_port),
        Direction::Reply => (connection.client, connection.client_port),
    }
}

/// Writes a destination port (as on the way in) or a source port (as of a reply).
pub(super) fn write_port(segment: &mut [u8], direction: Direction, port: U16) -> Option<()> {
    let field = match direction {
        Direction::Inbound => segment.get_mut(2..4)?,
        Direction::Reply => segment.get_mut(0..2)?,
    };
    field.copy_from_slice(&port.to_bytes());
    Some(())
}
