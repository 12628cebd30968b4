//! What differs between IPv4 and IPv6 on a packet's way.

use zerocopy::{FromBytes, IntoBytes};

use super::classify::Packet;
use super::datagrams::{Fragment, FragmentKey};
use super::echo;
use super::frame::Frame;
use super::icmp_error::{Quoted, ports};
use super::stats::DropReason;
use crate::service::{FamilyServices, ServiceTable};
use crate::wire::U16;
use crate::wire::address::{Address, V4, V6};
use crate::wire::checksum::{self, Delta};
use crate::wire::ethernet;
use crate::wire::flow_key::{Direction, FlowKey};
use crate::wire::icmpv4;
use crate::wire::icmpv6;
use crate::wire::ipv4::{self, Ipv4Header, protocol};
use crate::wire::ipv6::{self, FragmentHeader, Ipv6Header, extension};

/// TTL and hop limit of what the director sends itself.
pub(super) const OWN_TTL: u8 = 64;
/// Type of service of ICMP errors: internetwork control (RFC 1812 section 4.3.2.5).
const CONTROL_TOS: u8 = 0xc0;

/// An address family that the pipeline forwards.
pub(super) trait Family: Address {
    /// Octets of an IP header without options.
    const HEADER: usize;
    /// EtherType.
    const ETHER_TYPE: u16;
    /// The protocol number of this family's ICMP.
    const ICMP: u8;
    /// The types of echo request and reply.
    const ECHO: (u8, u8);
    /// Octets that an ICMP error may have in all (RFC 1812 section 4.3.2.3, RFC 4443
    /// section 2.4(c)).
    const ERROR_LIMIT: usize;

    /// The services of this family.
    fn services(table: &ServiceTable) -> &FamilyServices<Self>;

    /// Source and destination of a frame's IP packet.
    fn addresses(frame: &[u8]) -> Option<(Self, Self)>;

    /// Writes a new destination (on the way in) or source (of a reply) into the IP header of a
    /// frame, takes one from its TTL and updates its checksum. `None`: the frame is too short.
    fn rewrite(
        frame: &mut [u8],
        direction: Direction,
        address: Self,
        address_delta: Delta,
    ) -> Option<()>;

    /// Writes a destination (as on the way in) or source (as of a reply) into the IP header at the
    /// front of `packet`, and nothing else.
    fn write_address(packet: &mut [u8], direction: Direction, address: Self) -> Option<()>;

    /// Takes one from the TTL of a frame's IP packet and updates its checksum.
    fn decrement_ttl(frame: &mut [u8]) -> Option<()>;

    /// What writing `address` changes in the header checksum, whatever stands there now.
    fn outer_delta(frame: &[u8], direction: Direction, address: Self) -> Option<Delta>;

    /// As [`Family::rewrite`] for the packet that an ICMP error quotes, whose TTL stays.
    fn rewrite_quoted(
        packet: &mut [u8],
        direction: Direction,
        address: Self,
        address_delta: Delta,
    ) -> Option<()>;

    /// What goes into an ICMP checksum beside the message: nothing, or the pseudo header.
    fn icmp_pseudo_header(frame: &[u8], length: usize) -> Option<u16>;

    /// What a fragment says of itself.
    fn fragment(frame: &[u8], packet: &Packet) -> Result<Fragment<Self>, DropReason>;

    /// Swaps source and destination of a frame's IP packet and gives it a fresh TTL: the reply
    /// to it.
    fn turn<F: Frame>(frame: &mut F) -> Option<()>;

    /// Whether a router may fragment the packet.
    fn may_be_split(frame: &[u8]) -> bool;

    /// Looks into the packet that an ICMP error quotes, which begins at `at` of the frame.
    fn inspect_quoted(quote: &[u8], at: usize) -> Result<Quoted<Self>, DropReason>;

    /// Writes the octets of the IP packet into its header.
    fn set_length(frame: &mut [u8], octets: u16) -> Option<()>;

    /// Writes the IP header of a packet of our own.
    fn write_header(
        header: &mut [u8],
        from: Self,
        to: Self,
        protocol: u8,
        payload: usize,
    ) -> Option<()>;
}

/// The 5-tuple of a quoted packet: of TCP and UDP, and of an echo request or reply, whose
/// identifier stands for the port of the end that is not outside.
fn quoted_key<A: Family>(
    segment: &[u8],
    protocol: u8,
    (source, destination): (A, A),
) -> Result<FlowKey<A>, DropReason> {
    let (source_port, destination_port) = match protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => {
            ports(segment).ok_or(DropReason::Truncated)?
        }
        _ if protocol == A::ICMP => echo::ports::<A>(segment).ok_or(DropReason::IcmpUnrelated)?,
        _ => return Err(DropReason::IcmpUnrelated),
    };
    Ok(FlowKey { source, destination, source_port, destination_port, protocol })
}

impl Family for V4 {
    const HEADER: usize = ipv4::HEADER;
    const ETHER_TYPE: u16 = ethernet::ether_type::IPV4;
    const ICMP: u8 = protocol::ICMP;
    const ECHO: (u8, u8) = (icmpv4::ECHO_REQUEST, icmpv4::ECHO_REPLY);
    const ERROR_LIMIT: usize = 576;

    #[inline]
    fn services(table: &ServiceTable) -> &FamilyServices<Self> {
        table.v4()
    }

    fn addresses(frame: &[u8]) -> Option<(Self, Self)> {
        let (ip, _) = Ipv4Header::ref_from_prefix(frame.get(ethernet::HEADER..)?).ok()?;
        Some((ip.source, ip.destination))
    }

    #[inline]
    fn rewrite(
        frame: &mut [u8],
        direction: Direction,
        address: Self,
        address_delta: Delta,
    ) -> Option<()> {
        let (ip, _) = Ipv4Header::mut_from_prefix(frame.get_mut(ethernet::HEADER..)?).ok()?;
        match direction {
            Direction::Inbound => ip.destination = address,
            Direction::Reply => ip.source = address,
        }
        ip.ttl = ip.ttl.saturating_sub(1);
        ip.checksum = address_delta.and(Delta::TTL_DECREMENT).apply(ip.checksum);
        Some(())
    }

    fn write_address(packet: &mut [u8], direction: Direction, address: Self) -> Option<()> {
        let (ip, _) = Ipv4Header::mut_from_prefix(packet).ok()?;
        match direction {
            Direction::Inbound => ip.destination = address,
            Direction::Reply => ip.source = address,
        }
        Some(())
    }

    fn decrement_ttl(frame: &mut [u8]) -> Option<()> {
        let (ip, _) = Ipv4Header::mut_from_prefix(frame.get_mut(ethernet::HEADER..)?).ok()?;
        ip.ttl = ip.ttl.saturating_sub(1);
        ip.checksum = Delta::TTL_DECREMENT.apply(ip.checksum);
        Some(())
    }

    fn outer_delta(frame: &[u8], direction: Direction, address: Self) -> Option<Delta> {
        let (source, destination) = Self::addresses(frame)?;
        Some(match direction {
            Direction::Inbound => Delta::between(&destination, &address),
            Direction::Reply => Delta::between(&source, &address),
        })
    }

    fn rewrite_quoted(
        packet: &mut [u8],
        direction: Direction,
        address: Self,
        address_delta: Delta,
    ) -> Option<()> {
        Self::write_address(packet, direction, address)?;
        let (ip, _) = Ipv4Header::mut_from_prefix(packet).ok()?;
        ip.checksum = address_delta.apply(ip.checksum);
        Some(())
    }

    fn icmp_pseudo_header(_frame: &[u8], _length: usize) -> Option<u16> {
        Some(0)
    }

    fn fragment(frame: &[u8], packet: &Packet) -> Result<Fragment<Self>, DropReason> {
        let ip =
            frame.get(ethernet::HEADER..).and_then(|rest| Ipv4Header::ref_from_prefix(rest).ok());
        let (ip, _) = ip.ok_or(DropReason::Truncated)?;
        let end = ethernet::HEADER + usize::from(packet.ip_octets);
        let payload = usize::from(packet.transport);
        let fragment = Fragment {
            key: FragmentKey {
                source: ip.source,
                destination: ip.destination,
                identification: u32::from(ip.identification.get()),
                protocol: ip.protocol,
            },
            offset: ip.fragment.get() << 3,
            length: u16::try_from(end.saturating_sub(payload)).unwrap_or(0),
            more: ip.fragment.get() & 0x2000 != 0,
            payload,
        };
        fragment.checked()
    }

    fn turn<F: Frame>(frame: &mut F) -> Option<()> {
        let rest = frame.octets_mut().get_mut(ethernet::HEADER..)?;
        let (ip, _) = Ipv4Header::mut_from_prefix(rest).ok()?;
        std::mem::swap(&mut ip.source, &mut ip.destination);
        ip.ttl = OWN_TTL;
        ip.checksum = [0; 2];
        let length = ip.header_length();
        let sum = checksum::finish(rest.get(..length)?, 0);
        let (ip, _) = Ipv4Header::mut_from_prefix(rest).ok()?;
        ip.checksum = sum;
        Some(())
    }

    fn may_be_split(frame: &[u8]) -> bool {
        frame
            .get(ethernet::HEADER..)
            .and_then(|rest| Ipv4Header::ref_from_prefix(rest).ok())
            .is_some_and(|(ip, _)| !ip.dont_fragment())
    }

    fn inspect_quoted(quote: &[u8], at: usize) -> Result<Quoted<Self>, DropReason> {
        let (ip, _) = Ipv4Header::ref_from_prefix(quote).map_err(|_| DropReason::Truncated)?;
        let length = ip.header_length();
        if ip.version_ihl >> 4 != 4 || length < ipv4::HEADER {
            return Err(DropReason::Malformed);
        }
        let header = quote.get(..length).ok_or(DropReason::Truncated)?;
        if checksum::sum(header) != 0xffff {
            return Err(DropReason::BadChecksum);
        }
        if ip.fragment.get() & 0x1fff != 0 {
            // A later fragment quotes no ports.
            return Err(DropReason::IcmpUnrelated);
        }
        let segment = quote.get(length..).unwrap_or_default();
        let key = quoted_key(segment, ip.protocol, (ip.source, ip.destination))?;
        let whole = usize::from(ip.total_length.get()).checked_sub(length);
        let segment_octets = whole.filter(|_| !ip.is_fragment());
        Ok(Quoted { key, ip: at, transport: at + length, segment_octets })
    }

    fn set_length(frame: &mut [u8], octets: u16) -> Option<()> {
        let (ip, _) = Ipv4Header::mut_from_prefix(frame.get_mut(ethernet::HEADER..)?).ok()?;
        let new = U16::new(octets);
        let delta = Delta::between(ip.total_length.as_bytes(), new.as_bytes());
        ip.checksum = delta.apply(ip.checksum);
        ip.total_length = new;
        Some(())
    }

    fn write_header(
        header: &mut [u8],
        from: Self,
        to: Self,
        protocol: u8,
        payload: usize,
    ) -> Option<()> {
        let is_icmp = protocol == protocol::ICMP;
        let mut ip = Ipv4Header {
            version_ihl: 0x45,
            tos: if is_icmp { CONTROL_TOS } else { 0 },
            total_length: U16::new(u16::try_from(ipv4::HEADER + payload).ok()?),
            // An atomic datagram needs no identification (RFC 6864).
            identification: U16::new(0),
            fragment: U16::new(if is_icmp { 0 } else { 0x4000 }),
            ttl: OWN_TTL,
            protocol,
            checksum: [0; 2],
            source: from,
            destination: to,
        };
        ip.checksum = checksum::finish(ip.as_bytes(), 0);
        ip.write_to_prefix(header).ok()
    }
}

impl Family for V6 {
    const HEADER: usize = ipv6::HEADER;
    const ETHER_TYPE: u16 = ethernet::ether_type::IPV6;
    const ICMP: u8 = protocol::ICMPV6;
    const ECHO: (u8, u8) = (icmpv6::ECHO_REQUEST, icmpv6::ECHO_REPLY);
    const ERROR_LIMIT: usize = 1280;

    #[inline]
    fn services(table: &ServiceTable) -> &FamilyServices<Self> {
        table.v6()
    }

    fn addresses(frame: &[u8]) -> Option<(Self, Self)> {
        let (ip, _) = Ipv6Header::ref_from_prefix(frame.get(ethernet::HEADER..)?).ok()?;
        Some((ip.source, ip.destination))
    }

    #[inline]
    fn rewrite(
        frame: &mut [u8],
        direction: Direction,
        address: Self,
        _address_delta: Delta,
    ) -> Option<()> {
        let (ip, _) = Ipv6Header::mut_from_prefix(frame.get_mut(ethernet::HEADER..)?).ok()?;
        match direction {
            Direction::Inbound => ip.destination = address,
            Direction::Reply => ip.source = address,
        }
        ip.hop_limit = ip.hop_limit.saturating_sub(1);
        Some(())
    }

    fn write_address(packet: &mut [u8], direction: Direction, address: Self) -> Option<()> {
        let (ip, _) = Ipv6Header::mut_from_prefix(packet).ok()?;
        match direction {
            Direction::Inbound => ip.destination = address,
            Direction::Reply => ip.source = address,
        }
        Some(())
    }

    fn decrement_ttl(frame: &mut [u8]) -> Option<()> {
        let (ip, _) = Ipv6Header::mut_from_prefix(frame.get_mut(ethernet::HEADER..)?).ok()?;
        ip.hop_limit = ip.hop_limit.saturating_sub(1);
        Some(())
    }

    fn outer_delta(_frame: &[u8], _direction: Direction, _address: Self) -> Option<Delta> {
        Some(Delta::default())
    }

    fn rewrite_quoted(
        packet: &mut [u8],
        direction: Direction,
        address: Self,
        _address_delta: Delta,
    ) -> Option<()> {
        Self::write_address(packet, direction, address)
    }

    fn icmp_pseudo_header(frame: &[u8], length: usize) -> Option<u16> {
        let (source, destination) = Self::addresses(frame)?;
        let length = u32::try_from(length).ok()?;
        Some(checksum::pseudo_header(&source, &destination, protocol::ICMPV6, length))
    }

    fn fragment(frame: &[u8], packet: &Packet) -> Result<Fragment<Self>, DropReason> {
        let (source, destination) = Self::addresses(frame).ok_or(DropReason::Truncated)?;
        let at = usize::from(packet.transport);
        let header = frame.get(at..).and_then(|rest| FragmentHeader::ref_from_prefix(rest).ok());
        let (header, _) = header.ok_or(DropReason::Truncated)?;
        let payload = at + size_of::<FragmentHeader>();
        let end = ethernet::HEADER + usize::from(packet.ip_octets);
        let length = u16::try_from(end.saturating_sub(payload)).unwrap_or(0);
        let fragment = Fragment {
            key: FragmentKey {
                source,
                destination,
                identification: header.identification.get(),
                protocol: header.next_header,
            },
            offset: header.offset.get() & 0xfff8,
            length,
            more: header.offset.get() & 1 != 0,
            payload,
        };
        fragment.checked()
    }

    fn turn<F: Frame>(frame: &mut F) -> Option<()> {
        let rest = frame.octets_mut().get_mut(ethernet::HEADER..)?;
        let (ip, _) = Ipv6Header::mut_from_prefix(rest).ok()?;
        std::mem::swap(&mut ip.source, &mut ip.destination);
        ip.hop_limit = OWN_TTL;
        Some(())
    }

    fn may_be_split(_frame: &[u8]) -> bool {
        false
    }

    fn inspect_quoted(quote: &[u8], at: usize) -> Result<Quoted<Self>, DropReason> {
        let (ip, mut rest) =
            Ipv6Header::ref_from_prefix(quote).map_err(|_| DropReason::Truncated)?;
        let [version, ..] = ip.version_class_flow;
        if version >> 4 != 6 {
            return Err(DropReason::Malformed);
        }
        let mut next = ip.next_header;
        let mut transport = at + ipv6::HEADER;
        let mut segment_octets = Some(usize::from(ip.payload_length.get()));
        for _ in 0..extension::MAX_WALKED {
            let [following, length, offset, low, ..] = *rest else { break };
            let octets = match next {
                extension::FRAGMENT if u16::from_be_bytes([offset, low]) & 0xfff8 != 0 => {
                    return Err(DropReason::IcmpUnrelated);
                }
                extension::FRAGMENT => {
                    // The last of its datagram, at offset 0, is all of it.
                    segment_octets = segment_octets.filter(|_| low & 1 == 0);
                    8
                }
                extension::HOP_BY_HOP | extension::ROUTING | extension::DESTINATION_OPTIONS => {
                    8 + usize::from(length) * 8
                }
                _ => break,
            };
            rest = rest.get(octets..).ok_or(DropReason::Truncated)?;
            next = following;
            transport += octets;
            segment_octets = segment_octets.and_then(|length| length.checked_sub(octets));
        }
        let key = quoted_key(rest, next, (ip.source, ip.destination))?;
        Ok(Quoted { key, ip: at, transport, segment_octets })
    }

    fn set_length(frame: &mut [u8], octets: u16) -> Option<()> {
        let (ip, _) = Ipv6Header::mut_from_prefix(frame.get_mut(ethernet::HEADER..)?).ok()?;
        ip.payload_length = U16::new(octets.checked_sub(u16::try_from(ipv6::HEADER).ok()?)?);
        Some(())
    }

    fn write_header(
        header: &mut [u8],
        from: Self,
        to: Self,
        protocol: u8,
        payload: usize,
    ) -> Option<()> {
        let ip = Ipv6Header {
            version_class_flow: [0x60, 0, 0, 0],
            payload_length: U16::new(u16::try_from(payload).ok()?),
            next_header: protocol,
            hop_limit: OWN_TTL,
            source: from,
            destination: to,
        };
        ip.write_to_prefix(header).ok()
    }
}
