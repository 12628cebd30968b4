//! IPv6 on a packet's way.

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
use crate::wire::address::V6;
use crate::wire::checksum::{self, Delta};
use crate::wire::ethernet;
use crate::wire::flow_key::{Direction, FlowKey};
use crate::wire::icmpv6;
use crate::wire::ipv4::protocol;
use crate::wire::ipv6::{self, FragmentHeader, Ipv6Header, extension};

impl Family for V6 {
    const HEADER: usize = ipv6::HEADER;
    const ETHER_TYPE: u16 = ethernet::ether_type::IPV6;
    const ICMP: u8 = protocol::ICMPV6;
    const ECHO: (u8, u8) = (icmpv6::ECHO_REQUEST, icmpv6::ECHO_REPLY);
    const ERROR_LIMIT: usize = 1280;

    #[inline]
    fn key_of(class: &Class) -> Option<&FlowKey<Self>> {
        if let Class::FlowV6(key) = class { Some(key) } else { None }
    }

    #[inline]
    fn services(table: &ServiceTable) -> &FamilyServices<Self> {
        table.v6()
    }

    #[inline]
    fn networks(interfaces: &Interfaces) -> &[Network<Self>] {
        interfaces.v6()
    }

    #[inline]
    fn routes(next_hops: &NextHops) -> &[Route<Self>] {
        next_hops.v6()
    }

    fn addresses(frame: &[u8]) -> Option<(Self, Self)> {
        let (ip, _) = Ipv6Header::ref_from_prefix(frame.get(ethernet::HEADER..)?).ok()?;
        Some((ip.source, ip.destination))
    }

    #[inline]
    fn forward(packet: &mut [u8], leaving: &FlowKey<Self>, _address_delta: Delta) -> Option<()> {
        let (ip, _) = Ipv6Header::mut_from_prefix(packet).ok()?;
        ip.source = leaving.source;
        ip.destination = leaving.destination;
        ip.hop_limit = ip.hop_limit.wrapping_sub(1);
        Some(())
    }

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
