//! What kind of packet a frame is, with every length checked against the buffer: after this,
//! the headers that a [`Packet`] names are there.

mod plain;

pub use plain::Station;
pub(super) use plain::{Glance, glance};

use zerocopy::FromBytes;

use super::frame::Frame;
use super::interface::Sides;
use super::stats::DropReason;
use crate::ids::WorkerId;
use crate::wire::U16;
use crate::wire::address::{Address, V4, V6};
use crate::wire::arp::ArpPacket;
use crate::wire::checksum;
use crate::wire::ethernet::{self, EthernetHeader, ether_type};
use crate::wire::flow_key::{FlowKey, HashSecret};
use crate::wire::icmpv4::{self, IcmpHeader};
use crate::wire::icmpv6;
use crate::wire::ipv4::{self, Ipv4Header, protocol};
use crate::wire::ipv6::{self, Ipv6Header, extension};
use crate::wire::ipvs_sync;
use crate::wire::sctp;
use crate::wire::tcp::{self, TcpHeader, flags};
use crate::wire::udp::{self, UdpHeader};

/// What the pipeline does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// TCP, UDP or a protocol without ports over IPv4, with its 5-tuple.
    FlowV4(FlowKey<V4>),
    /// TCP, UDP or a protocol without ports over IPv6, with its 5-tuple.
    FlowV6(FlowKey<V6>),
    /// ARP for IPv4 over Ethernet.
    Arp,
    /// ICMP, but for errors.
    Icmp,
    /// ICMPv6, but for errors.
    Icmpv6,
    /// An ICMP error, which quotes a packet.
    ErrorV4,
    /// An ICMPv6 error.
    ErrorV6,
    /// An IPv4 fragment; `transport` is where the payload begins.
    FragmentV4,
    /// An IPv6 fragment; `transport` is where the fragment header begins.
    FragmentV6,
    /// A packet of another director of the pair: VRRP, whose addresses have not been looked at, or
    /// a datagram to the group of connection synchronisation.
    Vrrp,
    /// For another worker, which is to say what it is.
    Elsewhere(WorkerId),
    /// To be dropped.
    Drop(DropReason),
}

/// What the pipeline knows of a packet. Offsets are from the start of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// What it is.
    pub class: Class,
    /// Where the transport header begins.
    pub transport: u16,
    /// Octets of the IP packet.
    pub ip_octets: u16,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TCP control bits; of SCTP [`sctp::Signal::control`]; 0 for others.
    pub control: u8,
    /// Where the interface leads that the packet came in by.
    pub sides: Sides,
}

impl Packet {
    /// Whether this is the first segment of a TCP connection, or an SCTP INIT.
    #[inline]
    pub const fn is_syn(&self) -> bool {
        self.control & (flags::SYN | flags::ACK | flags::RST) == flags::SYN
    }

    /// A packet of which nothing but its class is known.
    pub const fn of(class: Class) -> Self {
        Self { class, transport: 0, ip_octets: 0, ttl: 0, control: 0, sides: Sides(0) }
    }
}

/// The hash of a packet's 5-tuple, by address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowHash {
    /// Over IPv4.
    V4(u64),
    /// Over IPv6.
    V6(u64),
}

/// Looks at a frame without a VLAN tag that came in by an interface of `station`, which leads to
/// `sides`, and writes what it is to `packet`; one with a tag is to be dropped as
/// `UnknownVlan`. Cuts off what follows the IP packet (Ethernet padding). Whether the packet is of a
/// flow; `expect` is told the hash of its 5-tuple then.
#[inline(always)]
#[expect(clippy::inline_always, reason = "the hit path, called from one place")]
pub fn classify<F: Frame>(
    frame: &mut F,
    station: &Station,
    sides: Sides,
    secret: &HashSecret,
    packet: &mut Packet,
    expect: &mut impl FnMut(FlowHash),
) -> bool {
    // Written in place: a copy of what was just written in pieces stalls.
    packet.sides = sides;
    if plain::inspect(frame, station, secret, packet, expect) {
        return true;
    }
    let Some(hash) = classify_any(frame, station, secret, packet) else { return false };
    expect(hash);
    true
}

/// As [`classify`], of a frame that is not plain.
#[cold]
#[inline(never)]
fn classify_any<F: Frame>(
    frame: &mut F,
    station: &Station,
    secret: &HashSecret,
    packet: &mut Packet,
) -> Option<FlowHash> {
    let hash = inspect_any(frame.octets(), frame.total_len(), station, secret, packet);
    if packet.ip_octets != 0 {
        cut_padding(frame, packet);
    }
    hash
}

/// Cuts off what follows the IP packet. A frame over several buffers keeps it.
#[inline(always)]
#[expect(clippy::inline_always, reason = "the hit path; the length is still in a register")]
fn cut_padding<F: Frame>(frame: &mut F, packet: &Packet) {
    let end = ethernet::HEADER + usize::from(packet.ip_octets);
    if end < frame.total_len() {
        frame.set_len(end);
    }
}

/// As [`classify`], of octets that may be anything and are not cut. `sides` are those of `packet`.
pub fn inspect_any(
    octets: &[u8],
    total_len: usize,
    station: &Station,
    secret: &HashSecret,
    packet: &mut Packet,
) -> Option<FlowHash> {
    if let Err(reason) = inspect_frame(octets, total_len, station, packet) {
        *packet = Packet::of(Class::Drop(reason));
    }
    match &packet.class {
        Class::FlowV4(key) => Some(FlowHash::V4(key.hash(secret))),
        Class::FlowV6(key) => Some(FlowHash::V6(key.hash(secret))),
        Class::Arp
        | Class::Icmp
        | Class::Icmpv6
        | Class::ErrorV4
        | Class::ErrorV6
        | Class::FragmentV4
        | Class::FragmentV6
        | Class::Vrrp
        | Class::Elsewhere(_)
        | Class::Drop(_) => None,
    }
}

fn inspect_frame(
    octets: &[u8],
    total_len: usize,
    station: &Station,
    packet: &mut Packet,
) -> Result<(), DropReason> {
    let (header, rest) =
        EthernetHeader::ref_from_prefix(octets).map_err(|_| DropReason::Truncated)?;
    let kind = header.ether_type.get();
    if !ethernet::is_group(&header.destination) && !station.takes(header.destination, kind) {
        return Err(DropReason::NotForUs);
    }
    if ethernet::is_group(&header.source) {
        // IEEE 802.3 section 3.2.3: a source is one station. An answer would go to a group.
        return Err(DropReason::Malformed);
    }
    let payload_len = total_len.saturating_sub(ethernet::HEADER);
    match kind {
        ether_type::IPV4 => inspect_v4(rest, payload_len, header, packet),
        ether_type::IPV6 => inspect_v6(rest, payload_len, header, packet),
        ether_type::ARP => match ArpPacket::ref_from_prefix(rest) {
            Ok((arp, _)) if arp.is_ipv4_over_ethernet() => {
                *packet = Packet { sides: packet.sides, ..Packet::of(Class::Arp) };
                Ok(())
            }
            Ok(_) => Err(DropReason::BadNeighborMessage),
            Err(_) => Err(DropReason::Truncated),
        },
        ether_type::VLAN | ether_type::SERVICE_VLAN => Err(DropReason::UnknownVlan),
        _ => Err(DropReason::UnknownEtherType),
    }
}

fn inspect_v4(
    octets: &[u8],
    available: usize,
    link: &EthernetHeader,
    packet: &mut Packet,
) -> Result<(), DropReason> {
    let (ip, _) = Ipv4Header::ref_from_prefix(octets).map_err(|_| DropReason::Truncated)?;
    let header_length = ip.header_length();
    let total_length = usize::from(ip.total_length.get());
    if ip.version_ihl >> 4 != 4 || header_length < ipv4::HEADER || total_length < header_length {
        return Err(DropReason::Malformed);
    }
    if total_length > available {
        return Err(DropReason::Truncated);
    }
    let header = octets.get(..header_length).ok_or(DropReason::Truncated)?;
    if checksum::sum(header) != 0xffff {
        return Err(DropReason::BadChecksum);
    }
    if is_martian_v4(ip) {
        return Err(DropReason::Martian);
    }
    let payload = Payload {
        octets: octets.get(header_length..).unwrap_or_default(),
        length: total_length - header_length,
        protocol: ip.protocol,
        offset: ethernet::HEADER + header_length,
    };
    let common = Common { ip_octets: ip.total_length.get(), ttl: ip.ttl };
    let is_sync = ip.protocol == protocol::UDP && ip.destination == ipvs_sync::GROUP;
    if (ip.protocol == protocol::VRRP || is_sync) && !ip.is_fragment() {
        return payload.packet(Class::Vrrp, common, 0, packet);
    }
    if ethernet::is_group(&link.destination) {
        // Unicast in a group frame is what RFC 1122 section 3.3.6 has dropped.
        return Err(DropReason::NotForUs);
    }
    if ip.is_fragment() {
        return payload.packet(Class::FragmentV4, common, 0, packet);
    }
    match ip.protocol {
        protocol::ICMP => {
            let class = |kind| if icmpv4::is_error(kind) { Class::ErrorV4 } else { Class::Icmp };
            payload.icmp(common, class, packet)
        }
        _ => payload.flow((ip.source, ip.destination), common, Class::FlowV4, packet),
    }
}

/// Addresses that RFC 1122 section 3.2.1.3 and RFC 1812 section 5.3.7 keep off the wire.
const fn is_martian_v4(ip: &Ipv4Header) -> bool {
    let ([source, ..], [destination, ..]) = (ip.source, ip.destination);
    is_martian_source(source) || is_martian_destination(destination)
}

/// Whether no packet may come from addresses that begin with this octet.
const fn is_martian_source(first: u8) -> bool {
    matches!(first, 0 | 127 | 224..)
}

/// Whether no packet may go to addresses that begin with this octet.
const fn is_martian_destination(first: u8) -> bool {
    matches!(first, 0 | 127 | 240..)
}

fn inspect_v6(
    octets: &[u8],
    available: usize,
    link: &EthernetHeader,
    packet: &mut Packet,
) -> Result<(), DropReason> {
    let (ip, rest) = Ipv6Header::ref_from_prefix(octets).map_err(|_| DropReason::Truncated)?;
    // Read once, and early: what a driver has just written comes slowly.
    let addresses = (ip.source, ip.destination);
    let [version, ..] = ip.version_class_flow;
    if version >> 4 != 6 {
        return Err(DropReason::Malformed);
    }
    let payload_length = usize::from(ip.payload_length.get());
    if payload_length + ipv6::HEADER > available {
        return Err(DropReason::Truncated);
    }
    let Ok(ip_octets) = u16::try_from(payload_length + ipv6::HEADER) else {
        return Err(DropReason::Malformed);
    };
    let mut payload = Payload {
        octets: rest,
        length: payload_length,
        protocol: ip.next_header,
        offset: ethernet::HEADER + ipv6::HEADER,
    };
    if is_stepped_over(payload.protocol) {
        walk_extensions(&mut payload)?;
    }
    let [source, ..] = addresses.0;
    let [destination, ..] = addresses.1;
    let unspecified = V6::default();
    if source == 0xff
        || addresses.1 == unspecified
        || is_loopback(&addresses.0)
        || is_loopback(&addresses.1)
    {
        return Err(DropReason::Martian);
    }
    let common = Common { ip_octets, ttl: ip.hop_limit };
    if payload.protocol == protocol::ICMPV6 {
        let class = |kind| if icmpv6::is_error(kind) { Class::ErrorV6 } else { Class::Icmpv6 };
        payload.icmp(common, class, packet)?;
        if packet.class == Class::Icmpv6 {
            // Neighbor Discovery speaks to groups, and from no address.
            return Ok(());
        }
    }
    if addresses.0 == unspecified {
        return Err(DropReason::Martian);
    }
    if payload.protocol == protocol::VRRP {
        return payload.packet(Class::Vrrp, common, 0, packet);
    }
    if destination == 0xff || ethernet::is_group(&link.destination) {
        return Err(DropReason::NotForUs);
    }
    match payload.protocol {
        extension::FRAGMENT => payload.packet(Class::FragmentV6, common, 0, packet),
        protocol::ICMPV6 => payload.packet(Class::ErrorV6, common, 0, packet),
        _ => payload.flow(addresses, common, Class::FlowV6, packet),
    }
}

fn is_loopback(address: &V6) -> bool {
    *address == std::net::Ipv6Addr::LOCALHOST.octets()
}

/// Whether a router may step over this header of RFC 8200 section 4.
const fn is_stepped_over(header: u8) -> bool {
    matches!(header, extension::HOP_BY_HOP | extension::ROUTING | extension::DESTINATION_OPTIONS)
}

/// Goes over the extension headers that a router may step over.
#[cold]
fn walk_extensions(payload: &mut Payload<'_>) -> Result<(), DropReason> {
    for _ in 0..=extension::MAX_WALKED {
        if !is_stepped_over(payload.protocol) {
            return Ok(());
        }
        let [next, length, ..] = *payload.octets else {
            return Err(DropReason::Truncated);
        };
        let octets = 8 + usize::from(length) * 8;
        if octets > payload.length {
            return Err(DropReason::Malformed);
        }
        *payload = Payload {
            octets: payload.octets.get(octets..).ok_or(DropReason::Truncated)?,
            length: payload.length - octets,
            protocol: next,
            offset: payload.offset + octets,
        };
    }
    Err(DropReason::ExtensionHeader)
}

impl From<sctp::Wrong> for DropReason {
    fn from(wrong: sctp::Wrong) -> Self {
        match wrong {
            sctp::Wrong::Truncated => Self::Truncated,
            sctp::Wrong::Malformed => Self::Malformed,
        }
    }
}

/// What every IP packet has.
#[derive(Clone, Copy)]
struct Common {
    ip_octets: u16,
    ttl: u8,
}

/// What follows the IP headers.
struct Payload<'f> {
    /// In the first buffer; may hold more or less than the packet.
    octets: &'f [u8],
    /// Octets that belong to the packet.
    length: usize,
    protocol: u8,
    /// From the start of the frame.
    offset: usize,
}

impl Payload<'_> {
    fn packet(
        &self,
        class: Class,
        common: Common,
        control: u8,
        packet: &mut Packet,
    ) -> Result<(), DropReason> {
        packet.transport = u16::try_from(self.offset).map_err(|_| DropReason::Malformed)?;
        packet.class = class;
        packet.ip_octets = common.ip_octets;
        packet.ttl = common.ttl;
        packet.control = control;
        Ok(())
    }

    fn icmp(
        &self,
        common: Common,
        class: impl FnOnce(u8) -> Class,
        packet: &mut Packet,
    ) -> Result<(), DropReason> {
        if self.length < size_of::<IcmpHeader>() {
            return Err(DropReason::Malformed);
        }
        let (header, _) =
            IcmpHeader::ref_from_prefix(self.octets).map_err(|_| DropReason::Truncated)?;
        self.packet(class(header.kind), common, 0, packet)
    }

    fn flow<A: Address>(
        &self,
        (source, destination): (A, A),
        common: Common,
        class: impl FnOnce(FlowKey<A>) -> Class,
        packet: &mut Packet,
    ) -> Result<(), DropReason> {
        let (source_port, destination_port, control) = match self.protocol {
            protocol::TCP => {
                let (header, _) =
                    TcpHeader::ref_from_prefix(self.octets).map_err(|_| DropReason::Truncated)?;
                let header_length = header.header_length();
                if header_length < tcp::HEADER || header_length > self.length {
                    return Err(DropReason::Malformed);
                }
                (header.source_port, header.destination_port, header.flags)
            }
            protocol::UDP => {
                let (header, _) =
                    UdpHeader::ref_from_prefix(self.octets).map_err(|_| DropReason::Truncated)?;
                let length = usize::from(header.length.get());
                if length < udp::HEADER || length > self.length {
                    return Err(DropReason::Malformed);
                }
                (header.source_port, header.destination_port, 0)
            }
            protocol::SCTP => {
                let (header, signal) = sctp::inspect(self.octets, self.length, false)?;
                (header.source_port, header.destination_port, signal.control())
            }
            // No service has it; it may be routed.
            _ => (U16::new(0), U16::new(0), 0),
        };
        let key =
            FlowKey { source, destination, source_port, destination_port, protocol: self.protocol };
        self.packet(class(key), common, control, packet)
    }
}
