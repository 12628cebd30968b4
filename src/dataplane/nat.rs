//! The rewrite: addresses, ports, TTL and checksums, in place, both directions by one rule.

use zerocopy::FromBytes;

use super::classify::Packet;
use super::conn::Connection;
use super::family::Family;
use super::stats::DropReason;
use crate::wire::U16;
use crate::wire::checksum::Delta;
use crate::wire::crc32c;
use crate::wire::ethernet;
use crate::wire::flow_key::Direction;
use crate::wire::ipv4::protocol;
use crate::wire::sctp::{self, SctpHeader};
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
/// on the way back its source becomes the virtual service.
///
/// # Errors
/// The frame is shorter than its headers, which classification excludes; or it is an SCTP fragment
/// whose checksum cannot be updated.
#[inline]
pub(super) fn translate<A: Family>(
    frame: &mut [u8],
    packet: &Packet,
    connection: &Connection<A>,
    direction: Direction,
) -> Result<(), DropReason> {
    let (address, port) = match direction {
        Direction::Inbound => (connection.server, connection.server_port),
        Direction::Reply => (connection.vip, connection.vip_port),
    };
    let (address_delta, delta) = deltas(connection, direction);
    A::rewrite(frame, direction, address, address_delta).ok_or(DropReason::Truncated)?;
    let transport = usize::from(packet.transport);
    let segment = frame.get_mut(transport..).ok_or(DropReason::Truncated)?;
    match connection.protocol {
        protocol::TCP => {
            let (tcp, _) =
                TcpHeader::mut_from_prefix(segment).map_err(|_| DropReason::Truncated)?;
            match direction {
                Direction::Inbound => tcp.destination_port = port,
                Direction::Reply => tcp.source_port = port,
            }
            tcp.checksum = delta.apply(tcp.checksum);
        }
        protocol::UDP => {
            let (udp, _) =
                UdpHeader::mut_from_prefix(segment).map_err(|_| DropReason::Truncated)?;
            match direction {
                Direction::Inbound => udp.destination_port = port,
                Direction::Reply => udp.source_port = port,
            }
            udp.checksum = delta.apply_udp(udp.checksum);
        }
        _ => return rewrite_sctp(segment, packet, direction, port),
    }
    Ok(())
}

/// Writes the new port into an SCTP packet. Its CRC32c covers no address, and all that follows the
/// ports: the length of the packet must be known, which a fragment does not tell.
#[cold]
fn rewrite_sctp(
    segment: &mut [u8],
    packet: &Packet,
    direction: Direction,
    port: U16,
) -> Result<(), DropReason> {
    let exchanged = exchange_sctp_port(segment, direction, port).ok_or(DropReason::Truncated)?;
    if exchanged.is_nothing() {
        return Ok(());
    }
    if packet.control & sctp::FRAGMENT != 0 {
        return Err(DropReason::SctpFragment);
    }
    let end = ethernet::HEADER + usize::from(packet.ip_octets);
    let length = end.checked_sub(usize::from(packet.transport));
    let (header, _) = SctpHeader::mut_from_prefix(segment).map_err(|_| DropReason::Truncated)?;
    exchanged.update(header, length.ok_or(DropReason::Truncated)?).ok_or(DropReason::Malformed)
}

/// Writes the new port into an SCTP packet that an ICMP error quotes. Its CRC32c is made right as
/// far as it is quoted, however much of the packet is: `length` is what its IP header says, `None`
/// of a fragment.
#[cold]
pub(super) fn rewrite_quoted_sctp(
    segment: &mut [u8],
    direction: Direction,
    port: U16,
    length: Option<usize>,
) -> Option<()> {
    let exchanged = exchange_sctp_port(segment, direction, port)?;
    if let Ok((header, _)) = SctpHeader::mut_from_prefix(segment)
        && let Some(length) = length
        // Rather the padding of RFC 4884 behind eight octets than the one CRC32c in 2^32.
        && header.checksum != [0; 4]
    {
        exchanged.update(header, length)?;
    }
    Some(())
}

/// The ports of an SCTP packet before and after.
struct Exchanged {
    old: [u8; 4],
    new: [u8; 4],
}

impl Exchanged {
    fn is_nothing(&self) -> bool {
        self.old == self.new
    }

    /// Updates the CRC32c of a packet of `length` octets.
    fn update(&self, header: &mut SctpHeader, length: usize) -> Option<()> {
        let length = u16::try_from(length).ok()?;
        let change = crc32c::change(self.old, self.new, length);
        header.checksum = (u32::from_le_bytes(header.checksum) ^ change).to_le_bytes();
        Some(())
    }
}

fn exchange_sctp_port(segment: &mut [u8], direction: Direction, port: U16) -> Option<Exchanged> {
    let ports: &mut [u8; 4] = segment.first_chunk_mut()?;
    let old = *ports;
    let [a, b] = port.to_bytes();
    let [s0, s1, d0, d1] = old;
    *ports = match direction {
        Direction::Inbound => [s0, s1, a, b],
        Direction::Reply => [a, b, d0, d1],
    };
    Some(Exchanged { old, new: *ports })
}
