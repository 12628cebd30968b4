//! Frames, written so that a test reads as a story. Checksums are computed here, slowly and from
//! nothing, not by the code under test.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use pointsman::ids::InterfaceId;
pub use pointsman::wire::tcp::flags::{ACK, FIN, RST, SYN};

pub type Mac = [u8; 6];

/// The topology of tests/oracle/README.md.
pub const CLIENT_SIDE: Mac = [2, 0, 0, 0, 0, 1];
pub const OUTSIDE: Mac = [2, 0, 0, 0, 0, 0xfe];
pub const INSIDE: Mac = [2, 0, 0, 0, 1, 0xfe];
pub const SERVER_SIDE: Mac = [2, 0, 0, 0, 1, 1];

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// RFC 1071, octet pair by octet pair.
pub fn internet_checksum(octets: &[u8]) -> u16 {
    let mut total: u32 = 0;
    for pair in octets.chunks(2) {
        total += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        total = (total & 0xffff) + (total >> 16);
    }
    !(total as u16)
}

fn octets_of(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, segment: &[u8]) -> Vec<u8> {
    let mut octets = octets_of(source);
    octets.extend(octets_of(destination));
    octets.extend((segment.len() as u32).to_be_bytes());
    octets.extend([0, 0, 0, protocol]);
    octets.extend(segment);
    octets
}

/// Makes a TCP, UDP or SCTP packet over IPv4 or IPv6.
#[derive(Clone, Debug)]
pub struct PacketBuilder {
    from: SocketAddr,
    to: SocketAddr,
    protocol: u8,
    flags: u8,
    sequence: u32,
    acknowledgement: u32,
    window: u16,
    ttl: u8,
    payload: Vec<u8>,
    tcp_options: Vec<u8>,
    ip_options: Vec<u8>,
    extensions: Vec<(u8, Vec<u8>)>,
    macs: (Mac, Mac),
    no_checksum: bool,
    may_be_split: bool,
    pad_to: usize,
}

impl PacketBuilder {
    fn new(protocol: u8, from: &str, to: &str) -> Self {
        Self {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            protocol,
            flags: ACK,
            sequence: 1000,
            acknowledgement: 2000,
            window: 0x2000,
            ttl: 64,
            payload: Vec::new(),
            tcp_options: Vec::new(),
            ip_options: Vec::new(),
            extensions: Vec::new(),
            macs: (CLIENT_SIDE, OUTSIDE),
            no_checksum: false,
            may_be_split: false,
            pad_to: 0,
        }
    }

    /// A segment from the client side; an ACK unless [`PacketBuilder::flags`] says otherwise.
    pub fn tcp(from: &str, to: &str) -> Self {
        Self::new(TCP, from, to)
    }

    pub fn udp(from: &str, to: &str) -> Self {
        Self::new(UDP, from, to)
    }

    /// An SCTP packet with one chunk, of a type by [`PacketBuilder::flags`] (else DATA), whose
    /// value is the payload.
    pub fn sctp(from: &str, to: &str) -> Self {
        Self::new(SCTP, from, to).flags(0)
    }

    /// Comes from the servers' side.
    pub fn from_server(self) -> Self {
        self.macs(SERVER_SIDE, INSIDE)
    }

    pub fn macs(mut self, source: Mac, destination: Mac) -> Self {
        self.macs = (source, destination);
        self
    }

    pub fn flags(mut self, flags: u8) -> Self {
        self.flags = flags;
        self
    }

    pub fn sequence(mut self, sequence: u32) -> Self {
        self.sequence = sequence;
        self
    }

    pub fn acknowledgement(mut self, acknowledgement: u32) -> Self {
        self.acknowledgement = acknowledgement;
        self
    }

    pub fn window(mut self, window: u16) -> Self {
        self.window = window;
        self
    }

    /// TCP options, a multiple of four octets.
    pub fn tcp_options(mut self, options: &[u8]) -> Self {
        assert_eq!(options.len() % 4, 0);
        self.tcp_options = options.to_vec();
        self
    }

    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// IPv4 options, a multiple of four octets.
    pub fn ip_options(mut self, options: &[u8]) -> Self {
        assert_eq!(options.len() % 4, 0);
        self.ip_options = options.to_vec();
        self
    }

    /// An IPv6 extension header: its number, and its octets from the third on.
    pub fn extension(mut self, number: u8, rest: &[u8]) -> Self {
        assert_eq!((rest.len() + 2) % 8, 0);
        self.extensions.push((number, rest.to_vec()));
        self
    }

    pub fn no_checksum(mut self) -> Self {
        self.no_checksum = true;
        self
    }

    /// IPv4 without the DF bit.
    pub fn may_be_split(mut self) -> Self {
        self.may_be_split = true;
        self
    }

    pub fn pad_to(mut self, octets: usize) -> Self {
        self.pad_to = octets;
        self
    }

    fn sctp_segment(&self) -> Vec<u8> {
        let mut segment = Vec::new();
        segment.extend(self.from.port().to_be_bytes());
        segment.extend(self.to.port().to_be_bytes());
        segment.extend(self.sequence.to_be_bytes());
        segment.extend([0, 0, 0, 0, self.flags, 0]);
        segment.extend((4 + self.payload.len() as u16).to_be_bytes());
        segment.extend(&self.payload);
        segment.resize(segment.len().next_multiple_of(4), 0);
        let checksum = crc32c::crc32c(&segment);
        segment[8..12].copy_from_slice(&checksum.to_le_bytes());
        segment
    }

    fn segment(&self) -> Vec<u8> {
        if self.protocol == SCTP {
            return self.sctp_segment();
        }
        let mut segment = Vec::new();
        segment.extend(self.from.port().to_be_bytes());
        segment.extend(self.to.port().to_be_bytes());
        let checksum_at = if self.protocol == TCP {
            segment.extend(self.sequence.to_be_bytes());
            segment.extend(self.acknowledgement.to_be_bytes());
            segment.extend([((5 + self.tcp_options.len() / 4) << 4) as u8, self.flags]);
            segment.extend(self.window.to_be_bytes());
            segment.extend([0; 4]);
            segment.extend(&self.tcp_options);
            16
        } else {
            segment.extend((8 + self.payload.len() as u16).to_be_bytes());
            segment.extend([0, 0]);
            6
        };
        segment.extend(&self.payload);
        if !self.no_checksum {
            let pseudo = pseudo_header(self.from.ip(), self.to.ip(), self.protocol, &segment);
            let mut checksum = internet_checksum(&pseudo);
            if checksum == 0 && self.protocol == UDP {
                checksum = 0xffff;
            }
            segment[checksum_at..checksum_at + 2].copy_from_slice(&checksum.to_be_bytes());
        }
        segment
    }

    pub fn build(&self) -> Vec<u8> {
        let segment = self.segment();
        let mut frame = self.macs.1.to_vec();
        frame.extend(self.macs.0);
        if self.from.is_ipv4() {
            frame.extend([8, 0]);
            frame.extend(self.ipv4_header(segment.len()));
        } else {
            frame.extend([0x86, 0xdd]);
            frame.extend(self.ipv6_headers(segment.len()));
        }
        frame.extend(segment);
        frame.resize(frame.len().max(self.pad_to), 0x5a);
        frame
    }

    fn ipv4_header(&self, segment: usize) -> Vec<u8> {
        let length = 20 + self.ip_options.len();
        let mut ip = vec![0x40 | (length / 4) as u8, 0];
        ip.extend(((length + segment) as u16).to_be_bytes());
        let flags = if self.may_be_split { 0 } else { 0x40 };
        ip.extend([0x12, 0x34, flags, 0, self.ttl, self.protocol, 0, 0]);
        ip.extend(octets_of(self.from.ip()));
        ip.extend(octets_of(self.to.ip()));
        ip.extend(&self.ip_options);
        let checksum = internet_checksum(&ip);
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        ip
    }

    fn ipv6_headers(&self, segment: usize) -> Vec<u8> {
        let chain: usize = self.extensions.iter().map(|(_, rest)| rest.len() + 2).sum();
        let first = self.extensions.first().map_or(self.protocol, |(number, _)| *number);
        let mut ip = vec![0x60, 0, 0, 0];
        ip.extend(((chain + segment) as u16).to_be_bytes());
        ip.extend([first, self.ttl]);
        ip.extend(octets_of(self.from.ip()));
        ip.extend(octets_of(self.to.ip()));
        for (place, (_, rest)) in self.extensions.iter().enumerate() {
            let next = self.extensions.get(place + 1).map_or(self.protocol, |(number, _)| *number);
            ip.extend([next, ((rest.len() + 2) / 8 - 1) as u8]);
            ip.extend(rest);
        }
        ip
    }
}

/// An ARP packet for IPv4 over Ethernet.
pub fn arp(operation: u16, sender: (Mac, &str), target: (Mac, &str), link: (Mac, Mac)) -> Vec<u8> {
    let mut frame = link.1.to_vec();
    frame.extend(link.0);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4]);
    frame.extend(operation.to_be_bytes());
    for (mac, address) in [sender, target] {
        frame.extend(mac);
        frame.extend(octets_of(address.parse().unwrap()));
    }
    frame
}

/// An ICMPv6 packet with a correct checksum.
pub fn icmpv6(from: &str, to: &str, hop_limit: u8, message: &[u8], link: (Mac, Mac)) -> Vec<u8> {
    let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let mut message = message.to_vec();
    message[2..4].fill(0);
    let checksum = internet_checksum(&pseudo_header(from, to, 58, &message));
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let mut frame = link.1.to_vec();
    frame.extend(link.0);
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend((message.len() as u16).to_be_bytes());
    frame.extend([58, hop_limit]);
    frame.extend(octets_of(from));
    frame.extend(octets_of(to));
    frame.extend(message);
    frame
}

/// An echo request (`asks`) or reply over IPv4 or IPv6, by the wire of the party that sends it.
pub fn echo(asks: bool, from: &str, to: &str, identifier: u16, payload: &[u8]) -> Vec<u8> {
    let (from_ip, to_ip): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let link = if asks { (SERVER_SIDE, INSIDE) } else { (CLIENT_SIDE, OUTSIDE) };
    let kind = match (from_ip.is_ipv4(), asks) {
        (true, true) => 8,
        (true, false) => 0,
        (false, true) => 128,
        (false, false) => 129,
    };
    let mut message = vec![kind, 0, 0, 0];
    message.extend(identifier.to_be_bytes());
    message.extend([0, 1]);
    message.extend(payload);
    if from_ip.is_ipv6() {
        return icmpv6(from, to, 64, &message, link);
    }
    let checksum = internet_checksum(&message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let mut frame = link.1.to_vec();
    frame.extend(link.0);
    frame.extend([8, 0, 0x45, 0]);
    frame.extend((20 + message.len() as u16).to_be_bytes());
    frame.extend([0, 9, 0, 0, 64, 1, 0, 0]);
    frame.extend(octets_of(from_ip));
    frame.extend(octets_of(to_ip));
    let checksum = internet_checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame.extend(message);
    frame
}

/// Source, destination and identifier of an echo request or reply, whose checksums are right.
pub fn echo_ends(frame: &[u8]) -> (IpAddr, IpAddr, u16) {
    let (source, destination) = addresses(frame);
    let at = if frame[12..14] == [8, 0] { 34 } else { 54 };
    let sum = if at == 34 {
        assert_eq!(internet_checksum(&frame[14..34]), 0, "{}", hex(frame));
        internet_checksum(&frame[at..])
    } else {
        internet_checksum(&pseudo_header(source, destination, 58, &frame[at..]))
    };
    assert_eq!(sum, 0, "{}", hex(frame));
    (source, destination, u16::from_be_bytes([frame[at + 4], frame[at + 5]]))
}

/// The fragments of an unfragmented IPv4 or IPv6 frame without options or extension headers, each
/// with at most `room` octets (a multiple of 8) of its payload.
pub fn fragments(frame: &[u8], identification: u16, room: usize) -> Vec<Vec<u8>> {
    let is_v4 = frame[12..14] == [8, 0];
    let (header, payload) = frame.split_at(if is_v4 { 34 } else { 54 });
    let count = payload.len().div_ceil(room);
    let piece = |(number, part): (usize, &[u8])| {
        let more = number + 1 < count;
        let offset = (number * room) as u16;
        let mut piece = header.to_vec();
        if is_v4 {
            piece[16..18].copy_from_slice(&(20 + part.len() as u16).to_be_bytes());
            piece[18..20].copy_from_slice(&identification.to_be_bytes());
            let field = (offset / 8) | (u16::from(more) << 13);
            piece[20..22].copy_from_slice(&field.to_be_bytes());
            piece[24..26].fill(0);
            let checksum = internet_checksum(&piece[14..34]);
            piece[24..26].copy_from_slice(&checksum.to_be_bytes());
        } else {
            piece[18..20].copy_from_slice(&(8 + part.len() as u16).to_be_bytes());
            let next = std::mem::replace(&mut piece[20], 44);
            piece.extend([next, 0]);
            piece.extend((offset | u16::from(more)).to_be_bytes());
            piece.extend(u32::from(identification).to_be_bytes());
        }
        piece.extend(part);
        piece
    };
    payload.chunks(room).enumerate().map(piece).collect()
}

/// Puts a datagram together from its fragments, in whatever order they are; `None` unless they
/// are all there, exactly once. Written for the tests: it shares nothing with the director.
pub fn reassemble(fragments: &[Vec<u8>]) -> Option<Vec<u8>> {
    let mut parts: Vec<(usize, bool, &[u8], &[u8])> = Vec::new();
    for frame in fragments {
        let word = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
        parts.push(if frame[12..14] == [8, 0] {
            let (field, end) = (word(20), 14 + word(16));
            ((field & 0x1fff) * 8, field & 0x2000 != 0, &frame[..34], &frame[34..end])
        } else {
            let (field, end) = (word(56), 54 + word(18));
            (field & !7, field & 1 == 1, &frame[..54], &frame[62..end])
        });
    }
    parts.sort_by_key(|(offset, ..)| *offset);
    let (_, _, header, _) = *parts.first()?;
    let mut whole = header.to_vec();
    let mut more = true;
    for (offset, has_more, other, part) in &parts {
        // Nothing but lengths and offsets may differ.
        let same = other[..16] == header[..16] && other[26..] == header[26..];
        if *offset != whole.len() - header.len() || !more || !same {
            return None;
        }
        whole.extend(*part);
        more = *has_more;
    }
    if more {
        return None;
    }
    let octets = whole.len();
    if header[12..14] == [8, 0] {
        whole[16..18].copy_from_slice(&((octets - 14) as u16).to_be_bytes());
        whole[20..22].fill(0);
        whole[24..26].fill(0);
        let checksum = internet_checksum(&whole[14..34]);
        whole[24..26].copy_from_slice(&checksum.to_be_bytes());
    } else {
        whole[18..20].copy_from_slice(&((octets - 54) as u16).to_be_bytes());
        whole[20] = fragments[0][54];
    }
    Some(whole)
}

/// Frag Needed or Packet Too Big that a router on the wire of an interface sends to the source
/// of a frame.
pub fn error(router: &str, about: &[u8], interface: InterfaceId, mtu: u16) -> Vec<u8> {
    let link = if interface.0 == 0 { (CLIENT_SIDE, OUTSIDE) } else { (SERVER_SIDE, INSIDE) };
    let is_v4 = about[12..14] == [8, 0];
    let mut message = if is_v4 { vec![3, 4, 0, 0, 0, 0] } else { vec![2, 0, 0, 0, 0, 0] };
    message.extend(mtu.to_be_bytes());
    message.extend(&about[14..]);
    let (to, _) = addresses(about);
    if !is_v4 {
        return icmpv6(router, &to.to_string(), 60, &message, link);
    }
    let checksum = internet_checksum(&message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let mut frame = link.1.to_vec();
    frame.extend(link.0);
    frame.extend([8, 0, 0x45, 0xc0]);
    frame.extend((20 + message.len() as u16).to_be_bytes());
    frame.extend([0, 9, 0, 0, 60, 1, 0, 0]);
    frame.extend(octets_of(router.parse().unwrap()));
    frame.extend(octets_of(to));
    let checksum = internet_checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame.extend(message);
    frame
}

/// Where the transport header of an IPv4 or IPv6 frame begins, and its protocol.
fn transport(frame: &[u8]) -> (usize, u8, usize) {
    if frame[12..14] == [8, 0] {
        let end = 14 + usize::from(u16::from_be_bytes([frame[16], frame[17]]));
        return (14 + usize::from(frame[14] & 15) * 4, frame[23], end);
    }
    let end = 54 + usize::from(u16::from_be_bytes([frame[18], frame[19]]));
    let (mut at, mut next) = (54, frame[20]);
    while [0, 43, 44, 60].contains(&next) {
        // A fragment header has no length; the second octet is reserved.
        let more = if next == 44 { 0 } else { usize::from(frame[at + 1]) * 8 };
        (next, at) = (frame[at], at + 8 + more);
    }
    (at, next, end)
}

fn addresses(frame: &[u8]) -> (IpAddr, IpAddr) {
    let address = |range: std::ops::Range<usize>| match range.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(&frame[range]).unwrap()),
        _ => IpAddr::from(<[u8; 16]>::try_from(&frame[range]).unwrap()),
    };
    if frame[12..14] == [8, 0] {
        (address(26..30), address(30..34))
    } else {
        (address(22..38), address(38..54))
    }
}

/// Source and destination of a TCP, UDP or SCTP packet.
pub fn ends(frame: &[u8]) -> (SocketAddr, SocketAddr) {
    let (at, ..) = transport(frame);
    let (source, destination) = addresses(frame);
    let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    (SocketAddr::new(source, port(at)), SocketAddr::new(destination, port(at + 2)))
}

/// The payload of a TCP or UDP packet, or the value of an SCTP packet's first chunk.
pub fn payload(frame: &[u8]) -> &[u8] {
    let (at, protocol, end) = transport(frame);
    if protocol == SCTP {
        let length = usize::from(u16::from_be_bytes([frame[at + 14], frame[at + 15]]));
        return &frame[at + 16..at + 12 + length];
    }
    let header = if protocol == TCP { usize::from(frame[at + 12] >> 4) * 4 } else { 8 };
    &frame[at + header..end]
}

/// Recomputes every checksum of a TCP, UDP or SCTP packet from nothing and compares.
pub fn assert_checksums(frame: &[u8]) {
    let (at, protocol, end) = transport(frame);
    if frame[12..14] == [8, 0] {
        assert_eq!(internet_checksum(&frame[14..at]), 0, "IPv4 header of {}", hex(frame));
    }
    let segment = &frame[at..end];
    if protocol == SCTP {
        let mut segment = segment.to_vec();
        let field = u32::from_le_bytes(segment[8..12].try_into().unwrap());
        segment[8..12].fill(0);
        assert_eq!(crc32c::crc32c(&segment), field, "CRC32c of {}", hex(frame));
        return;
    }
    if protocol == UDP && segment[6..8] == [0, 0] {
        return;
    }
    let (source, destination) = addresses(frame);
    let sum = internet_checksum(&pseudo_header(source, destination, protocol, segment));
    assert_eq!(sum, 0, "transport of {}", hex(frame));
}

pub fn hex(octets: &[u8]) -> String {
    octets.iter().fold(String::new(), |mut text, octet| {
        let _ = write!(text, "{octet:02x}");
        text
    })
}

pub fn unhex(text: &str) -> Vec<u8> {
    let digits = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digits).collect()
}
