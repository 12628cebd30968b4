//! IPv4 on a packet's way.

use zerocopy::{FromBytes, IntoBytes};

use super::{Family, OWN_TTL, quoted_key};
use crate::dataplane::classify::{Class, Packet};
use crate::dataplane::datagrams::{Fragment, FragmentKey};
use crate::dataplane::frame::Frame;
use crate::dataplane::icmp_error::Quoted;
use crate::dataplane::interface::{Interfaces, Network};
use crate::dataplane::next_hop::{NextHops, Route};
use crate::dataplane::stats::DropReason;
use crate::service::{FamilyServices, ServiceTable};
use crate::wire::U16;
use crate::wire::address::V4;
use crate::wire::checksum::{self, Delta};
use crate::wire::ethernet;
use crate::wire::flow_key::{Direction, FlowKey};
use crate::wire::icmpv4;
use crate::wire::ipv4::{self, Ipv4Header, protocol};

/// Type of service of ICMP errors: internetwork control (RFC 1812 section 4.3.2.5).
const CONTROL_TOS: u8 = 0xc0;

impl Family for V4 {
    const HEADER: usize = ipv4::HEADER;
    const ETHER_TYPE: u16 = ethernet::ether_type::IPV4;
    const ICMP: u8 = protocol::ICMP;
    const ECHO: (u8, u8) = (icmpv4::ECHO_REQUEST, icmpv4::ECHO_REPLY);
    const ERROR_LIMIT: usize = 576;

    #[inline]
    fn key_of(class: &Class) -> Option<&FlowKey<Self>> {
        if let Class::FlowV4(key) = class { Some(key) } else { None }
    }

    #[inline]
    fn services(table: &ServiceTable) -> &FamilyServices<Self> {
        table.v4()
    }

    #[inline]
    fn networks(interfaces: &Interfaces) -> &[Network<Self>] {
        interfaces.v4()
    }

    #[inline]
    fn routes(next_hops: &NextHops) -> &[Route<Self>] {
        next_hops.v4()
    }

    fn addresses(frame: &[u8]) -> Option<(Self, Self)> {
        let (ip, _) = Ipv4Header::ref_from_prefix(frame.get(ethernet::HEADER..)?).ok()?;
        Some((ip.source, ip.destination))
    }

    #[inline]
    fn forward(packet: &mut [u8], leaving: &FlowKey<Self>, address_delta: Delta) -> Option<()> {
        let (ip, _) = Ipv4Header::mut_from_prefix(packet).ok()?;
        ip.source = leaving.source;
        ip.destination = leaving.destination;
        ip.ttl = ip.ttl.wrapping_sub(1);
        ip.checksum = address_delta.apply_and_decrement_ttl(ip.checksum);
        Some(())
    }

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
