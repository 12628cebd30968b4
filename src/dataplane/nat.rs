//! The rewrite: addresses, ports, TTL and checksums, in place, both directions by one rule.

use zerocopy::FromBytes;

use super::classify::Packet;
use super::conn::{Connection, Flags, Path};
use super::family::Family;
use super::stats::DropReason;
use crate::wire::U16;
use crate::wire::address::Address;
use crate::wire::checksum::Delta;
use crate::wire::crc32c;
use crate::wire::ethernet;
use crate::wire::flow_key::{Direction, FlowKey};
use crate::wire::icmpv4::IcmpHeader;
use crate::wire::ipv4::protocol;
use crate::wire::sctp::{self, SctpHeader};
use crate::wire::tcp::{self, TcpHeader};
use crate::wire::udp::{self, UdpHeader};

/// What decides how a packet is rewritten; where the compiler knows it, nothing asks for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// IP protocol.
    pub(super) protocol: u8,
    /// Where the transport header begins in the frame.
    pub(super) transport: usize,
}

impl Layout {
    /// Of any packet.
    #[inline]
    pub(super) fn of(packet: &Packet, protocol: u8) -> Self {
        Self { protocol, transport: usize::from(packet.transport) }
    }

    /// Of one whose transport header follows an IP header without options or extensions.
    #[inline]
    pub(super) const fn plain<A: Family>(protocol: u8) -> Self {
        Self { protocol, transport: A::PLAIN_TRANSPORT }
    }

    /// Octets of a frame that are looked at, at least.
    #[inline]
    pub(super) const fn head(self) -> usize {
        self.transport
            + match self.protocol {
                protocol::TCP => tcp::HEADER,
                protocol::UDP => udp::HEADER,
                _ => 0,
            }
    }
}

/// What the way `direction` changes in the IPv4 header checksum, TTL aside, and in the transport
/// checksum.
#[inline]
pub(super) const fn deltas<A>(
    connection: &Connection<A>,
    path: Path,
    direction: Direction,
) -> (Delta, Delta) {
    match direction {
        Direction::Inbound => (connection.address_delta, path.transport_delta),
        Direction::Reply => (connection.address_delta.reversed(), path.transport_delta.reversed()),
    }
}

/// Translates a frame of a connection: it leaves with the ends of the other direction, turned. On
/// the way in that changes its destination to the real server, on the way back its source to the
/// virtual service; with full NAT both.
///
/// # Errors
/// The frame is shorter than its headers, which classification excludes; or it is an SCTP fragment
/// whose checksum cannot be updated.
#[inline(always)]
#[expect(clippy::inline_always, reason = "the hit path")]
pub(super) fn translate<A: Family>(
    frame: &mut [u8],
    (packet, layout): (&Packet, Layout),
    connection: &Connection<A>,
    path: &Path,
    direction: Direction,
) -> Result<(), DropReason> {
    let deltas = deltas(connection, *path, direction);
    if connection.flags.has(Flags::FULL_NAT) {
        return rewrite_both_ends(frame, packet, connection, deltas, direction);
    }
    rewrite(frame, (packet, layout), &connection.leaving_as_usual(direction), deltas, direction)
}

/// Full NAT.
#[cold]
#[inline(never)]
fn rewrite_both_ends<A: Family>(
    frame: &mut [u8],
    packet: &Packet,
    connection: &Connection<A>,
    deltas: (Delta, Delta),
    direction: Direction,
) -> Result<(), DropReason> {
    let layout = Layout::of(packet, connection.protocol);
    rewrite(frame, (packet, layout), &connection.leaving(direction), deltas, direction)
}

/// Writes the ends that a frame leaves with.
#[inline(always)]
#[expect(clippy::inline_always, reason = "the hit path")]
fn rewrite<A: Family>(
    frame: &mut [u8],
    (packet, layout): (&Packet, Layout),
    leaving: &FlowKey<A>,
    (address_delta, delta): (Delta, Delta),
    direction: Direction,
) -> Result<(), DropReason> {
    let ip = frame.get_mut(ethernet::HEADER..).ok_or(DropReason::Truncated)?;
    A::forward(ip, leaving, address_delta).ok_or(DropReason::Truncated)?;
    let segment = frame.get_mut(layout.transport..).ok_or(DropReason::Truncated)?;
    match layout.protocol {
        protocol::TCP => {
            let (tcp, _) =
                TcpHeader::mut_from_prefix(segment).map_err(|_| DropReason::Truncated)?;
            tcp.source_port = leaving.source_port;
            tcp.destination_port = leaving.destination_port;
            tcp.checksum = delta.apply(tcp.checksum);
        }
        protocol::UDP => {
            let (udp, _) =
                UdpHeader::mut_from_prefix(segment).map_err(|_| DropReason::Truncated)?;
            udp.source_port = leaving.source_port;
            udp.destination_port = leaving.destination_port;
            udp.checksum = delta.apply_udp(udp.checksum);
        }
        protocol::SCTP => rewrite_sctp(segment, packet, leaving)?,
        _ => {
            let identifier = match direction {
                Direction::Inbound => leaving.destination_port,
                Direction::Reply => leaving.source_port,
            };
            translate_echo(segment, identifier, delta).ok_or(DropReason::Truncated)?;
        }
    }
    Ok(())
}

/// Writes the ports of an SCTP packet. Its CRC32c covers no address, and all that follows the
/// ports: where one changes, the length of the packet must be known, which a fragment does not
/// tell.
#[cold]
fn rewrite_sctp<A: Address>(
    segment: &mut [u8],
    packet: &Packet,
    leaving: &FlowKey<A>,
) -> Result<(), DropReason> {
    let ports = [leaving.source_port, leaving.destination_port];
    let exchanged = Exchanged::write(segment, ports).ok_or(DropReason::Truncated)?;
    if exchanged.is_nothing() {
        return Ok(());
    }
    if packet.control & sctp::FRAGMENT != 0 {
        return Err(DropReason::SctpFragment);
    }
    let end = ethernet::HEADER + usize::from(packet.ip_octets);
    let length = end.checked_sub(usize::from(packet.transport)).ok_or(DropReason::Truncated)?;
    let (header, _) = SctpHeader::mut_from_prefix(segment).map_err(|_| DropReason::Truncated)?;
    exchanged.update(header, length).ok_or(DropReason::Malformed)
}

/// Writes the ports of an SCTP packet that an ICMP error of this direction quotes. Its CRC32c is
/// made right as far as it is quoted, however much of the packet is: `length` is what its IP
/// header says, `None` of a fragment.
#[cold]
pub(super) fn rewrite_quoted_sctp<A: Address>(
    segment: &mut [u8],
    connection: &Connection<A>,
    direction: Direction,
    length: Option<usize>,
) -> Option<()> {
    let ports = match direction {
        Direction::Inbound => [connection.server().1, connection.local().1],
        Direction::Reply => [connection.client().1, connection.vip().1],
    };
    let exchanged = Exchanged::write(segment, ports)?;
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
    /// Writes source and destination port.
    fn write(segment: &mut [u8], [source, destination]: [U16; 2]) -> Option<Self> {
        let ports: &mut [u8; 4] = segment.first_chunk_mut()?;
        let old = *ports;
        let ([a, b], [c, d]) = (source.to_bytes(), destination.to_bytes());
        *ports = [a, b, c, d];
        Some(Self { old, new: *ports })
    }

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

/// What full NAT writes besides: the source on the way in, the destination of a reply.
pub(super) const fn far_end<A: Address>(
    connection: &Connection<A>,
    direction: Direction,
) -> (A, U16) {
    match direction {
        Direction::Inbound => connection.local(),
        Direction::Reply => connection.client(),
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
