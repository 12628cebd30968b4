//! Packets of numbered flows, as frames that are as short as the wire allows.

use std::net::{IpAddr, Ipv6Addr};

use pointsman::ids::VlanId;
use pointsman::wire::checksum::{self, fold};
use pointsman::wire::ethernet::{self, EthernetHeader, Mac, ether_type};
use pointsman::wire::flow_key::Direction;
use pointsman::wire::ipv4::{self, Ipv4Header, protocol};
use pointsman::wire::ipv6::{self, Ipv6Header};
use pointsman::wire::tcp::TcpHeader;
use pointsman::wire::udp::{self, UdpHeader};
use pointsman::wire::{U16, U32};
use zerocopy::{FromZeros, IntoBytes};

use crate::flows::{
    Family, GATEWAY_MAC, INSIDE_MAC, OUTSIDE_MAC, SERVICES, Traffic, Transport, client, server,
    server_mac, service,
};

/// Octets of the shortest Ethernet frame, less its FCS: 64 on the wire.
const SHORTEST_FRAME: usize = 60;
/// Octets of a VLAN tag.
const TAG: usize = 4;

/// Makes the packets of one direction and kind.
#[derive(Debug)]
pub struct Template {
    family: Family,
    direction: Direction,
    /// By service.
    forms: Vec<Form>,
}

/// A frame that lacks its client.
#[derive(Debug)]
struct Form {
    octets: Vec<u8>,
    /// Sums over what the checksums cover, the client left out.
    ip_sum: u16,
    transport_sum: u16,
    /// Offsets.
    client: usize,
    client_port: usize,
    ip_checksum: Option<usize>,
    transport_checksum: usize,
}

impl Template {
    /// Packets of `traffic` from clients or from servers; `control` are TCP's control bits.
    pub fn new(traffic: Traffic, direction: Direction, control: u8) -> Self {
        let forms =
            (0..SERVICES).map(|number| Form::new(traffic, direction, control, number)).collect();
        Self { family: traffic.family, direction, forms }
    }

    /// The same packets with the tag of a VLAN, each four octets longer.
    #[must_use]
    pub fn in_vlan(mut self, vlan: VlanId) -> Self {
        for form in &mut self.forms {
            form.tag(vlan);
        }
        self
    }

    /// Which way the packets go.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// Octets of every frame, without FCS.
    #[inline]
    pub fn octets(&self) -> usize {
        self.forms.first().map_or(0, |form| form.octets.len())
    }

    /// Writes the packet of a flow into a frame of [`Template::octets`] octets.
    #[inline]
    pub fn write(&self, flow: u32, frame: &mut [u8]) {
        let form = &self.forms[(flow % SERVICES) as usize];
        frame.copy_from_slice(&form.octets);
        let (address, port) = client(self.family, flow);
        let [a, b, c, d] = address;
        let address_sum =
            u64::from(u16::from_ne_bytes([a, b])) + u64::from(u16::from_ne_bytes([c, d]));
        let flow_sum = address_sum + u64::from(u16::from_ne_bytes(port));
        put(frame, form.client, &address);
        put(frame, form.client_port, &port);
        if let Some(at) = form.ip_checksum {
            let sum = !fold(u64::from(form.ip_sum) + address_sum);
            put(frame, at, &sum.to_ne_bytes());
        }
        let sum = !fold(u64::from(form.transport_sum) + flow_sum);
        // UDP has no zero (RFC 768); TCP takes either form.
        let sum = if sum == 0 { u16::MAX } else { sum };
        put(frame, form.transport_checksum, &sum.to_ne_bytes());
    }

    /// The packet of a flow.
    pub fn frame(&self, flow: u32) -> Vec<u8> {
        let mut frame = vec![0; self.octets()];
        self.write(flow, &mut frame);
        frame
    }
}

#[inline]
fn put<const N: usize>(frame: &mut [u8], at: usize, octets: &[u8; N]) {
    frame[at..at + N].copy_from_slice(octets);
}

impl Form {
    fn new(traffic: Traffic, direction: Direction, control: u8, number: u32) -> Self {
        let family = traffic.family;
        // Where the client's address ends within the IP header, less its four last octets.
        let (ip_octets, source, destination) = match family {
            Family::V4 => (ipv4::HEADER, 12, 16),
            Family::V6 => (ipv6::HEADER, 8 + 12, 24 + 12),
        };
        let (client, client_port) = match direction {
            Direction::Inbound => (source, 0),
            Direction::Reply => (destination, 2),
        };
        let transport = ethernet::HEADER + ip_octets;
        let checksum = match traffic.transport {
            Transport::Udp => 6,
            Transport::Tcp => 16,
        };
        let ends = Ends::new(family, direction, number);
        let segment = segment(traffic, &ends, control, SHORTEST_FRAME.saturating_sub(transport));
        let protocol = match traffic.transport {
            Transport::Udp => protocol::UDP,
            Transport::Tcp => protocol::TCP,
        };
        let octets = u32::from(length(segment.len()));
        let pseudo = checksum::pseudo_header(&ends.from, &ends.to, protocol, octets);
        let (ip, ether_type) = match family {
            Family::V4 => (ipv4_header(&ends, protocol, segment.len()), ether_type::IPV4),
            Family::V6 => (ipv6_header(&ends, protocol, segment.len()), ether_type::IPV6),
        };
        let link = EthernetHeader {
            destination: ends.destination,
            source: ends.source,
            ether_type: U16::new(ether_type),
        };
        Self {
            ip_sum: checksum::sum(&ip),
            transport_sum: fold(u64::from(pseudo) + u64::from(checksum::sum(&segment))),
            client: ethernet::HEADER + client,
            client_port: transport + client_port,
            ip_checksum: (family == Family::V4).then_some(ethernet::HEADER + 10),
            transport_checksum: transport + checksum,
            octets: [link.as_bytes(), &ip, &segment].concat(),
        }
    }

    fn tag(&mut self, vlan: VlanId) {
        let [type_high, type_low] = ether_type::VLAN.to_be_bytes();
        let [high, low] = vlan.0.to_be_bytes();
        let addresses = ethernet::HEADER - size_of::<U16>();
        self.octets.splice(addresses..addresses, [type_high, type_low, high, low]);
        self.client += TAG;
        self.client_port += TAG;
        self.ip_checksum = self.ip_checksum.map(|at| at + TAG);
        self.transport_checksum += TAG;
    }
}

/// Both ends of a form; the client's address is that of flow 0 without its last four octets, its
/// port is 0.
#[derive(Debug)]
struct Ends {
    destination: Mac,
    source: Mac,
    from: Vec<u8>,
    to: Vec<u8>,
    source_port: U16,
    destination_port: U16,
}

impl Ends {
    fn new(family: Family, direction: Direction, number: u32) -> Self {
        let client = match family {
            Family::V4 => vec![0; 4],
            Family::V6 => Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0).octets().to_vec(),
        };
        match direction {
            Direction::Inbound => {
                let service = service(family, number);
                Self {
                    destination: OUTSIDE_MAC,
                    source: GATEWAY_MAC,
                    from: client,
                    to: octets_of(service.ip()),
                    source_port: U16::ZERO,
                    destination_port: U16::new(service.port()),
                }
            }
            Direction::Reply => {
                let server = server(family, number);
                Self {
                    destination: INSIDE_MAC,
                    source: server_mac(number),
                    from: octets_of(server.ip()),
                    to: client,
                    source_port: U16::new(server.port()),
                    destination_port: U16::ZERO,
                }
            }
        }
    }
}

/// Transport header and payload, `least` octets at least, without checksum.
fn segment(traffic: Traffic, ends: &Ends, control: u8, least: usize) -> Vec<u8> {
    let mut segment = match traffic.transport {
        Transport::Udp => {
            let octets = least.max(udp::HEADER);
            let header = UdpHeader {
                source_port: ends.source_port,
                destination_port: ends.destination_port,
                length: U16::new(length(octets)),
                checksum: [0; 2],
            };
            header.as_bytes().to_vec()
        }
        Transport::Tcp => {
            let header = TcpHeader {
                source_port: ends.source_port,
                destination_port: ends.destination_port,
                sequence: U32::new(1),
                acknowledgement: U32::new(1),
                data_offset: 5 << 4,
                flags: control,
                window: U16::new(65_535),
                checksum: [0; 2],
                urgent: U16::ZERO,
            };
            header.as_bytes().to_vec()
        }
    };
    segment.resize(segment.len().max(least), 0);
    segment
}

fn ipv4_header(ends: &Ends, protocol: u8, payload: usize) -> Vec<u8> {
    let mut header = Ipv4Header::new_zeroed();
    header.version_ihl = 0x45;
    header.total_length = U16::new(length(ipv4::HEADER + payload));
    header.fragment = U16::new(0x4000);
    header.ttl = 64;
    header.protocol = protocol;
    header.source.copy_from_slice(&ends.from);
    header.destination.copy_from_slice(&ends.to);
    header.as_bytes().to_vec()
}

fn ipv6_header(ends: &Ends, protocol: u8, payload: usize) -> Vec<u8> {
    let mut header = Ipv6Header::new_zeroed();
    header.version_class_flow = [0x60, 0, 0, 0];
    header.payload_length = U16::new(length(payload));
    header.next_header = protocol;
    header.hop_limit = 64;
    header.source.copy_from_slice(&ends.from);
    header.destination.copy_from_slice(&ends.to);
    header.as_bytes().to_vec()
}

fn octets_of(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// Lengths here are those of the shortest frames.
fn length(octets: usize) -> u16 {
    u16::try_from(octets).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_right_in_every_packet() {
        for traffic in Traffic::ALL {
            for direction in [Direction::Inbound, Direction::Reply] {
                let template = Template::new(traffic, direction, 0x10);
                check_all(traffic, &template);
            }
        }
    }

    fn check_all(traffic: Traffic, template: &Template) {
        for flow in [0, 1, 2, 3, 77, 131_071, 131_072, 10_000_000] {
            check(traffic, &template.frame(flow));
        }
    }

    fn check(traffic: Traffic, frame: &[u8]) {
        let protocol = match traffic.transport {
            Transport::Udp => protocol::UDP,
            Transport::Tcp => protocol::TCP,
        };
        let ip = &frame[14..];
        let (addresses, segment) = match traffic.family {
            Family::V4 => {
                assert_eq!(checksum::sum(&ip[..20]), 0xffff);
                (&ip[12..20], &ip[20..])
            }
            Family::V6 => (&ip[8..40], &ip[40..]),
        };
        let (source, destination) = addresses.split_at(addresses.len() / 2);
        let octets = u32::try_from(segment.len()).unwrap();
        let pseudo = checksum::pseudo_header(source, destination, protocol, octets);
        assert_eq!(
            fold(u64::from(pseudo) + u64::from(checksum::sum(segment))),
            0xffff,
            "{traffic}"
        );
    }

    #[test]
    fn a_tag_leaves_the_rest_of_the_packet_as_it_is() {
        for traffic in Traffic::ALL {
            let plain = Template::new(traffic, Direction::Reply, 0).frame(77);
            let tagged =
                Template::new(traffic, Direction::Reply, 0).in_vlan(VlanId(0x123)).frame(77);
            let (addresses, rest) = plain.split_at(12);
            assert_eq!(tagged, [addresses, &[0x81, 0, 0x01, 0x23], rest].concat());
        }
    }

    #[test]
    fn flows_differ_in_address_or_port() {
        let template = Template::new(Traffic::ALL[0], Direction::Inbound, 0);
        assert_eq!(template.frame(5)[26..30], [198, 18, 0, 5]);
        assert_eq!(template.frame(131_071)[26..30], [198, 19, 255, 255]);
        assert_eq!(template.frame(131_072 + 5)[26..30], [198, 18, 0, 5]);
        assert_ne!(template.frame(131_072 + 5)[34..36], template.frame(5)[34..36]);
    }
}
