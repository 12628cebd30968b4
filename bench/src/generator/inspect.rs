//! Frames that come: what they are, and the answers to them, written in place.

use std::net::{IpAddr, SocketAddr};

use pointsman::wire::checksum::{self, Delta, fold};
use pointsman::wire::ethernet::{self, EthernetHeader, ether_type};
use pointsman::wire::ipv4::{self, Ipv4Header, protocol};
use pointsman::wire::ipv6::{self, Ipv6Header};
use pointsman::wire::tcp::{self, TcpHeader, flags};
use pointsman::wire::udp::{self, UdpHeader};
use pointsman::wire::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::clients::Client;
use super::frames::Tag;
use pointsman_bench::flows::{Family, Traffic, Transport};

/// A frame that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Of the measured family and protocol, every checksum right.
    Ours(Segment),
    /// Of the measured family and protocol, but broken: a checksum or a length.
    Corrupt,
    /// Something else.
    Other,
}

/// A UDP datagram or TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Where it comes from.
    pub(crate) source: SocketAddr,
    /// Where it goes.
    pub(crate) destination: SocketAddr,
    /// TCP's control bits; 0 for UDP.
    pub(crate) flags: u8,
    /// TCP's sequence number; 0 for UDP.
    pub(crate) sequence: u32,
    /// Of data.
    pub(crate) tag: Option<Tag>,
}

/// The part of an endpoint that differs between clients.
pub(crate) fn client_of(endpoint: &SocketAddr) -> Client {
    let low = match endpoint.ip() {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(v6) => {
            let [.., a, b, c, d] = v6.octets();
            [a, b, c, d]
        }
    };
    Client { low, port: endpoint.port() }
}

/// Reads a frame.
#[inline]
pub(crate) fn inspect(traffic: Traffic, frame: &[u8]) -> Arrival {
    let Ok((link, rest)) = EthernetHeader::ref_from_prefix(frame) else { return Arrival::Other };
    let wanted = match traffic.transport {
        Transport::Udp => protocol::UDP,
        Transport::Tcp => protocol::TCP,
    };
    let (source, destination, payload, is_whole) = match (traffic.family, link.ether_type.get()) {
        (Family::V4, ether_type::IPV4) => {
            let Ok((ip, _)) = Ipv4Header::ref_from_prefix(rest) else { return Arrival::Other };
            if ip.protocol != wanted || ip.is_fragment() || ip.header_length() != ipv4::HEADER {
                return Arrival::Other;
            }
            let payload = rest.get(ipv4::HEADER..usize::from(ip.total_length.get()));
            let is_whole = checksum::sum(ip.as_bytes()) == u16::MAX;
            (IpAddr::from(ip.source), IpAddr::from(ip.destination), payload, is_whole)
        }
        (Family::V6, ether_type::IPV6) => {
            let Ok((ip, _)) = Ipv6Header::ref_from_prefix(rest) else { return Arrival::Other };
            if ip.next_header != wanted {
                return Arrival::Other;
            }
            let end = ipv6::HEADER + usize::from(ip.payload_length.get());
            let payload = rest.get(ipv6::HEADER..end);
            (IpAddr::from(ip.source), IpAddr::from(ip.destination), payload, true)
        }
        _ => return Arrival::Other,
    };
    let Some(payload) = payload.filter(|_| is_whole) else { return Arrival::Corrupt };
    if !sum_is_right(&source, &destination, wanted, payload) {
        return Arrival::Corrupt;
    }
    match traffic.transport {
        Transport::Udp => datagram(source, destination, payload),
        Transport::Tcp => segment(source, destination, payload),
    }
    .map_or(Arrival::Corrupt, Arrival::Ours)
}

#[inline]
fn sum_is_right(source: &IpAddr, destination: &IpAddr, protocol: u8, payload: &[u8]) -> bool {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let pseudo = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            checksum::pseudo_header(&source.octets(), &destination.octets(), protocol, length)
        }
        (source, destination) => checksum::pseudo_header(
            &wide(source).octets(),
            &wide(destination).octets(),
            protocol,
            length,
        ),
    };
    fold(u64::from(pseudo) + u64::from(checksum::sum(payload))) == u16::MAX
}

fn wide(address: &IpAddr) -> std::net::Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => *v6,
    }
}

fn datagram(source: IpAddr, destination: IpAddr, payload: &[u8]) -> Option<Segment> {
    let (header, data) = UdpHeader::ref_from_prefix(payload).ok()?;
    Some(Segment {
        source: SocketAddr::new(source, header.source_port.get()),
        destination: SocketAddr::new(destination, header.destination_port.get()),
        flags: 0,
        sequence: 0,
        tag: Tag::read_from_prefix(data).ok().map(|(tag, _)| tag),
    })
}

fn segment(source: IpAddr, destination: IpAddr, payload: &[u8]) -> Option<Segment> {
    let (header, _) = TcpHeader::ref_from_prefix(payload).ok()?;
    let data = payload.get(header.header_length().max(tcp::HEADER)..)?;
    Some(Segment {
        source: SocketAddr::new(source, header.source_port.get()),
        destination: SocketAddr::new(destination, header.destination_port.get()),
        flags: header.flags,
        sequence: header.sequence.get(),
        tag: Tag::read_from_prefix(data).ok().map(|(tag, _)| tag),
    })
}

/// Sends a frame back where it came from: both ends change places, which no checksum notices.
#[inline]
pub(crate) fn turn_round(traffic: Traffic, frame: &mut [u8]) {
    let Ok((link, rest)) = EthernetHeader::mut_from_prefix(frame) else { return };
    std::mem::swap(&mut link.destination, &mut link.source);
    let rest = match traffic.family {
        Family::V4 => {
            let Ok((ip, rest)) = Ipv4Header::mut_from_prefix(rest) else { return };
            std::mem::swap(&mut ip.destination, &mut ip.source);
            rest
        }
        Family::V6 => {
            let Ok((ip, rest)) = Ipv6Header::mut_from_prefix(rest) else { return };
            std::mem::swap(&mut ip.destination, &mut ip.source);
            rest
        }
    };
    let Ok((ports, _)) = Ports::mut_from_prefix(rest) else { return };
    std::mem::swap(&mut ports.source, &mut ports.destination);
}

/// What UDP and TCP begin with.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Ports {
    source: U16,
    destination: U16,
}

/// Answers a TCP segment without data by one with these control bits that acknowledges it.
#[inline]
pub(crate) fn answer(family: Family, control: u8, frame: &mut [u8]) {
    turn_round(Traffic { family, transport: Transport::Tcp }, frame);
    let headers = ethernet::HEADER
        + match family {
            Family::V4 => ipv4::HEADER,
            Family::V6 => ipv6::HEADER,
        };
    let Some(rest) = frame.get_mut(headers..) else { return };
    let Ok((header, _)) = TcpHeader::mut_from_prefix(rest) else { return };
    let before = *header;
    // A first segment is answered from the number that it has itself.
    let own = if before.flags & flags::ACK == 0 { before.sequence } else { before.acknowledgement };
    header.sequence = own;
    header.acknowledgement = U32::new(before.sequence.get().wrapping_add(1));
    header.flags = control;
    let (old, new) = (summed(&before), summed(header));
    header.checksum = Delta::between(&old, &new).apply(header.checksum);
}

/// Numbers and control bits, as they lie in the header.
fn summed(header: &TcpHeader) -> [u8; 10] {
    let mut octets = [0; 10];
    for (to, from) in octets.iter_mut().zip(header.as_bytes().get(4..14).unwrap_or_default()) {
        *to = *from;
    }
    octets
}

const _: () = assert!(udp::HEADER == 8 && tcp::HEADER == 20);

#[cfg(test)]
mod tests {
    use pointsman::wire::flow_key::Direction;
    use zerocopy::network_endian::U64;

    use super::super::frames::{Addresses, Content, Template, Variable, least_size};
    use super::*;

    const ALL: [Traffic; 4] = [
        Traffic { family: Family::V4, transport: Transport::Udp },
        Traffic { family: Family::V4, transport: Transport::Tcp },
        Traffic { family: Family::V6, transport: Transport::Udp },
        Traffic { family: Family::V6, transport: Transport::Tcp },
    ];

    fn addresses(family: Family) -> Addresses {
        let (service, clients) = match family {
            Family::V4 => ("192.0.2.100:80", "0.0.0.0"),
            Family::V6 => ("[2001:db8::100]:80", "2001:2::"),
        };
        Addresses {
            to: [2, 0, 0, 0, 0, 1],
            from: [2, 0, 0, 0, 0, 2],
            service: service.parse().unwrap(),
            clients: clients.parse().unwrap(),
        }
    }

    fn variable(number: u32) -> Variable {
        let tag = Tag { trial: U32::new(7), number: U32::new(number), stamp: U64::new(99) };
        let client = Client { low: [198, 18, 1, 2], port: 40_000 };
        Variable { client, numbers: [number, 0], tag }
    }

    fn frame(traffic: Traffic, content: Content) -> Vec<u8> {
        let template =
            Template::new(traffic, Direction::Inbound, &addresses(traffic.family), content);
        let mut frame = vec![0; template.len()];
        template.write(&variable(5), &mut frame);
        frame
    }

    #[test]
    fn data_is_read_back_with_its_tag() {
        for (traffic, size) in ALL.into_iter().flat_map(|t| [64, 128, 1518].map(|size| (t, size))) {
            let frame = frame(traffic, Content::Data(size));
            assert_eq!(frame.len() + 4, size.max(least_size(traffic)));
            let Arrival::Ours(segment) = inspect(traffic, &frame) else {
                panic!("{traffic}: {frame:02x?}");
            };
            assert_eq!(segment.tag, Some(variable(5).tag));
            assert_eq!(client_of(&segment.source), variable(5).client);
            assert_eq!(segment.destination, addresses(traffic.family).service);
        }
    }

    #[test]
    fn a_wrong_octet_anywhere_in_the_packet_is_noticed() {
        for traffic in ALL {
            let whole = frame(traffic, Content::Data(128));
            for at in (14..whole.len()).filter(|at| !(6..10).contains(&(at - 14)) && *at != 14) {
                let mut broken = whole.clone();
                broken[at] ^= 0x40;
                let arrival = inspect(traffic, &broken);
                let hop_limit_or_class = traffic.family == Family::V6 && at < 22;
                assert!(
                    hop_limit_or_class || !matches!(arrival, Arrival::Ours(_)),
                    "{traffic}, octet {at}: {arrival:?}"
                );
            }
        }
    }

    #[test]
    fn a_handshake_and_a_close_carry_the_flows_number() {
        for traffic in ALL.into_iter().filter(|traffic| traffic.transport == Transport::Tcp) {
            let mut frame = frame(traffic, Content::Control(flags::SYN));
            let seen = |frame: &[u8]| match inspect(traffic, frame) {
                Arrival::Ours(segment) => (segment.flags, segment.sequence, segment.tag),
                Arrival::Corrupt | Arrival::Other => panic!("{frame:02x?}"),
            };
            assert_eq!(seen(&frame), (flags::SYN, 5, None));
            answer(traffic.family, flags::SYN | flags::ACK, &mut frame);
            assert_eq!(seen(&frame), (flags::SYN | flags::ACK, 5, None));
            answer(traffic.family, flags::ACK, &mut frame);
            assert_eq!(seen(&frame), (flags::ACK, 6, None));
        }
    }
}
