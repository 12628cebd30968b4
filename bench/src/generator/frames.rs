//! Frames of the generator: made from templates, read back, turned round.
//!
//! Data carries a [`Tag`] in its payload. TCP segments that open and close connections carry the
//! flow's number as their sequence number, of both ends.

use std::net::{IpAddr, SocketAddr};

use pointsman::wire::checksum::{self, fold};
use pointsman::wire::ethernet::{self, EthernetHeader, Mac, ether_type};
use pointsman::wire::flow_key::Direction;
use pointsman::wire::ipv4::{self, Ipv4Header, protocol};
use pointsman::wire::ipv6::{self, Ipv6Header};
use pointsman::wire::tcp::{self, TcpHeader};
use pointsman::wire::udp::{self, UdpHeader};
use pointsman::wire::{U16, U32};
use zerocopy::network_endian::U64;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::clients::Client;
use pointsman_bench::flows::{Family, Traffic, Transport};

/// Octets of the frame check sequence, which is in every frame's size but not in memory.
pub(crate) const FCS: usize = 4;
/// The shortest frame in memory.
const SHORTEST: usize = 60;

/// What every data packet carries.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub(crate) struct Tag {
    /// The trial that it belongs to.
    pub(crate) trial: U32,
    /// Its number within the trial.
    pub(crate) number: U32,
    /// When it was made, by the time-stamp counter.
    pub(crate) stamp: U64,
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Data: a frame of so many octets with its FCS.
    Data(usize),
    /// No data, and these TCP control bits.
    Control(u8),
}

/// What all frames of a template share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    /// The next station.
    pub(crate) to: Mac,
    /// The sending port.
    pub(crate) from: Mac,
    /// The end that is not the client: the virtual service, or a real server.
    pub(crate) service: SocketAddr,
    /// The clients' address without its last four octets.
    pub(crate) clients: IpAddr,
}

/// What differs between the frames of a template.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variable {
    /// The flow's client.
    pub(crate) client: Client,
    /// TCP: sequence and acknowledgement number.
    pub(crate) numbers: [u32; 2],
    /// Data: the tag.
    pub(crate) tag: Tag,
}

/// The least size of a data frame, with its FCS.
pub(crate) fn least_size(traffic: Traffic) -> usize {
    let least = ethernet::HEADER + ip_octets(traffic.family) + transport_octets(traffic.transport);
    (least + size_of::<Tag>() + FCS).max(SHORTEST + FCS)
}

fn ip_octets(family: Family) -> usize {
    match family {
        Family::V4 => ipv4::HEADER,
        Family::V6 => ipv6::HEADER,
    }
}

fn transport_octets(transport: Transport) -> usize {
    match transport {
        Transport::Udp => udp::HEADER,
        Transport::Tcp => tcp::HEADER,
    }
}

fn protocol_of(transport: Transport) -> u8 {
    match transport {
        Transport::Udp => protocol::UDP,
        Transport::Tcp => protocol::TCP,
    }
}

/// A frame that lacks what differs.
#[derive(Debug)]
pub(crate) struct Template {
    octets: Vec<u8>,
    ip_sum: u16,
    transport_sum: u16,
    transport: usize,
    client: usize,
    client_port: usize,
    ip_checksum: Option<usize>,
    transport_checksum: usize,
    is_tcp: bool,
    tag: Option<usize>,
}

impl Template {
    /// Frames from the clients (inbound) or to them (reply).
    pub(crate) fn new(
        traffic: Traffic,
        direction: Direction,
        addresses: &Addresses,
        content: Content,
    ) -> Self {
        let ip_octets = ip_octets(traffic.family);
        let transport = ethernet::HEADER + ip_octets;
        let (from, to, ports) = ends(direction, addresses);
        let segment = segment(traffic, ports, content);
        let protocol = protocol_of(traffic.transport);
        let length = u32::try_from(segment.len()).unwrap_or(u32::MAX);
        let pseudo = checksum::pseudo_header(&from, &to, protocol, length);
        let (ip, kind) = match traffic.family {
            Family::V4 => (ipv4_header(&from, &to, protocol, segment.len()), ether_type::IPV4),
            Family::V6 => (ipv6_header(&from, &to, protocol, segment.len()), ether_type::IPV6),
        };
        let link = EthernetHeader {
            destination: addresses.to,
            source: addresses.from,
            ether_type: U16::new(kind),
        };
        let mut octets = [link.as_bytes(), &ip, &segment].concat();
        octets.resize(octets.len().max(SHORTEST), 0);
        // Both headers end with source and destination address.
        let address = from.len();
        let (client, client_port) = match direction {
            Direction::Inbound => (transport - address - 4, 0),
            Direction::Reply => (transport - 4, 2),
        };
        let is_tcp = traffic.transport == Transport::Tcp;
        Self {
            ip_sum: checksum::sum(&ip),
            transport_sum: fold(u64::from(pseudo) + u64::from(checksum::sum(&segment))),
            transport,
            client,
            client_port: transport + client_port,
            ip_checksum: (traffic.family == Family::V4).then_some(ethernet::HEADER + 10),
            transport_checksum: transport + if is_tcp { 16 } else { 6 },
            is_tcp,
            tag: matches!(content, Content::Data(_))
                .then_some(transport + transport_octets(traffic.transport)),
            octets,
        }
    }

    /// Octets of every frame, without FCS.
    pub(crate) fn len(&self) -> usize {
        self.octets.len()
    }

    /// Writes a frame of [`Template::len`] octets.
    #[inline]
    pub(crate) fn write(&self, variable: &Variable, frame: &mut [u8]) {
        frame.copy_from_slice(&self.octets);
        let Client { low, port } = variable.client;
        put(frame, self.client, &low);
        put(frame, self.client_port, &port.to_be_bytes());
        let low = u64::from(checksum::sum(&low));
        let mut sum = u64::from(self.transport_sum) + low;
        sum += u64::from(checksum::sum(&port.to_be_bytes()));
        if self.is_tcp {
            let [sequence, acknowledgement] = variable.numbers.map(U32::new);
            let numbers = [sequence, acknowledgement];
            put(frame, self.transport + 4, numbers.as_bytes());
            sum += u64::from(checksum::sum(numbers.as_bytes()));
        }
        if let Some(at) = self.tag {
            put(frame, at, variable.tag.as_bytes());
            sum += u64::from(checksum::sum(variable.tag.as_bytes()));
        }
        if let Some(at) = self.ip_checksum {
            put(frame, at, &(!fold(u64::from(self.ip_sum) + low)).to_ne_bytes());
        }
        let sum = !fold(sum);
        // UDP has no zero (RFC 768); TCP takes either form.
        let sum = if sum == 0 { u16::MAX } else { sum };
        put(frame, self.transport_checksum, &sum.to_ne_bytes());
    }
}

#[inline]
fn put(frame: &mut [u8], at: usize, octets: &[u8]) {
    if let Some(place) = frame.get_mut(at..at + octets.len()) {
        place.copy_from_slice(octets);
    }
}

/// Source, destination and ports, the client's part of them zero.
fn ends(direction: Direction, addresses: &Addresses) -> (Vec<u8>, Vec<u8>, [u16; 2]) {
    let client = octets_of(addresses.clients);
    let service = octets_of(addresses.service.ip());
    match direction {
        Direction::Inbound => (client, service, [0, addresses.service.port()]),
        Direction::Reply => (service, client, [addresses.service.port(), 0]),
    }
}

fn segment(traffic: Traffic, ports: [u16; 2], content: Content) -> Vec<u8> {
    let headers = ethernet::HEADER + ip_octets(traffic.family);
    let octets = match content {
        Content::Data(size) => size.max(least_size(traffic)) - FCS - headers,
        Content::Control(_) => transport_octets(traffic.transport),
    };
    let [source_port, destination_port] = ports.map(U16::new);
    let mut segment = match traffic.transport {
        Transport::Udp => {
            let length = U16::new(length(octets));
            UdpHeader { source_port, destination_port, length, checksum: [0; 2] }
                .as_bytes()
                .to_vec()
        }
        Transport::Tcp => {
            let mut header = TcpHeader::new_zeroed();
            header.source_port = source_port;
            header.destination_port = destination_port;
            header.data_offset = 5 << 4;
            header.flags = match content {
                Content::Control(flags) => flags,
                Content::Data(_) => tcp::flags::ACK,
            };
            header.window = U16::MAX_VALUE;
            header.as_bytes().to_vec()
        }
    };
    segment.resize(octets, 0);
    segment
}

fn ipv4_header(from: &[u8], to: &[u8], protocol: u8, payload: usize) -> Vec<u8> {
    let mut header = Ipv4Header::new_zeroed();
    header.version_ihl = 0x45;
    header.total_length = U16::new(length(ipv4::HEADER + payload));
    header.fragment = U16::new(0x4000);
    header.ttl = 64;
    header.protocol = protocol;
    header.source.copy_from_slice(from);
    header.destination.copy_from_slice(to);
    header.as_bytes().to_vec()
}

fn ipv6_header(from: &[u8], to: &[u8], protocol: u8, payload: usize) -> Vec<u8> {
    let mut header = Ipv6Header::new_zeroed();
    header.version_class_flow = [0x60, 0, 0, 0];
    header.payload_length = U16::new(length(payload));
    header.next_header = protocol;
    header.hop_limit = 64;
    header.source.copy_from_slice(from);
    header.destination.copy_from_slice(to);
    header.as_bytes().to_vec()
}

fn octets_of(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn length(octets: usize) -> u16 {
    u16::try_from(octets).unwrap_or(u16::MAX)
}
