//! What must hold for every packet, right or wrong.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use pointsman::clock::Tick;
use pointsman::dataplane::classify::{Class, FlowHash, Packet, Station, classify, inspect_any};
use pointsman::dataplane::frame::{BufferFrame, Frame};
use pointsman::dataplane::interface::Sides;
use pointsman::ids::{InterfaceId, PortId, VlanId};
use proptest::prelude::*;
use proptest::sample::Index;
use support::director::{IN, OUT, Setup, TestDirector};
use support::packet::{
    ACK, CLIENT_SIDE, INSIDE, OUTSIDE, PacketBuilder, SERVER_SIDE, SYN, arp, assert_checksums,
    ends, error, fragments, icmpv6, payload, reassemble,
};

/// So many cases; what fails is made a test of its own, not a file.
fn quiet(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// A director with gateways everywhere and one service.
fn translator(vip: SocketAddr, server: SocketAddr, protocol: &str) -> TestDirector {
    translator_of(vip, server, protocol, 1)
}

fn translator_of(
    vip: SocketAddr,
    server: SocketAddr,
    protocol: &str,
    workers: u16,
) -> TestDirector {
    let text = format!(
        "[interface.outside]\nrole = \"outside\"\n\
         addresses = [\"192.0.2.1/24\", \"2001:db8:1::1/64\"]\n\
         gateways = [\"192.0.2.254\", \"2001:db8:1::254\"]\n\
         [interface.outside.neighbors]\n\"192.0.2.254\" = \"02:00:00:00:00:01\"\n\
         \"2001:db8:1::254\" = \"02:00:00:00:00:01\"\n\
         [interface.inside]\nrole = \"inside\"\naddresses = [\"10.0.0.1/24\", \"fd00::1/64\"]\n\
         routes = [{{ to = \"10.0.0.0/8\", via = \"10.0.0.254\" }}, \
         {{ to = \"fd00::/16\", via = \"fd00::254\" }}]\n\
         [interface.inside.neighbors]\n\"10.0.0.254\" = \"02:00:00:00:01:01\"\n\
         \"fd00::254\" = \"02:00:00:00:01:01\"\n\
         [[service]]\nname = \"s\"\nlisten = \"{protocol}://{vip}\"\n\
         servers = [{{ address = \"{server}\" }}]\n"
    );
    let mut director = Setup::new(&text).connections(16, 16).workers(workers).start();
    for (interface, address, mac) in [
        (OUT, "192.0.2.254", CLIENT_SIDE),
        (OUT, "2001:db8:1::254", CLIENT_SIDE),
        (IN, "10.0.0.254", SERVER_SIDE),
        (IN, "fd00::254", SERVER_SIDE),
    ] {
        director.set_neighbor(interface, address.parse().unwrap(), mac, true);
    }
    director.answering.insert(server.ip(), SERVER_SIDE);
    director
}

fn v4(first: u8) -> impl Strategy<Value = IpAddr> {
    any::<[u8; 3]>().prop_map(move |[b, c, d]| Ipv4Addr::new(first, b, c | 1, d).into())
}

fn v6(first: u16) -> impl Strategy<Value = IpAddr> {
    any::<[u16; 6]>()
        .prop_map(move |[b, c, d, e, f, g]| Ipv6Addr::new(first, 1, b, c | 1, d, e, f, g).into())
}

/// VIP, server and client of one family.
fn parties() -> impl Strategy<Value = [SocketAddr; 3]> {
    let addresses = prop_oneof![
        (v4(198), v4(10), v4(203)),
        // The family's bits are as far apart as they can be.
        (v6(0x2001), v6(0xfd00), v6(0x2a02)),
    ];
    let ports = any::<[u16; 3]>();
    (addresses, ports).prop_map(|((vip, server, client), ports)| {
        let [a, b, c] = ports.map(|port| port.max(1));
        [SocketAddr::new(vip, a), SocketAddr::new(server, b), SocketAddr::new(client, c)]
    })
}

proptest! {
    #![proptest_config(quiet(300))]

    #[test]
    fn translated_packets_have_the_checksums_of_a_full_recomputation(
        [vip, server, client] in parties(),
        protocol in prop::sample::select(vec!["tcp", "udp", "sctp"]),
        body in prop::collection::vec(any::<u8>(), 0..1400),
        back in prop::collection::vec(any::<u8>(), 0..1400),
        ttl in 2_u8..=255,
        sequence: u32,
        padding in 0_usize..80,
    ) {
        let mut director = translator(vip, server, protocol);
        let build = |from: SocketAddr, to: SocketAddr, body: &[u8]| {
            let (from, to) = (from.to_string(), to.to_string());
            let packet = match protocol {
                "tcp" => PacketBuilder::tcp(&from, &to),
                "udp" => PacketBuilder::udp(&from, &to),
                _ => PacketBuilder::sctp(&from, &to),
            };
            packet.ttl(ttl).sequence(sequence).payload(body)
        };
        let (opening, answer) = if protocol == "sctp" { (1, 2) } else { (SYN, SYN | ACK) };
        let request = build(client, vip, &body).flags(opening);
        let length = request.build().len();
        director.receive(OUT, &request.pad_to(length + padding).build());
        let sent = director.sent_one();
        prop_assert_eq!((sent.interface, sent.octets.len()), (IN, length));
        prop_assert_eq!(ends(&sent.octets), (client, server));
        prop_assert_eq!(payload(&sent.octets), &body[..]);
        assert_checksums(&sent.octets);

        director.receive(IN, &build(server, client, &back).flags(answer).from_server().build());
        let sent = director.sent_one();
        prop_assert_eq!(sent.interface, OUT);
        prop_assert_eq!(ends(&sent.octets), (vip, client));
        prop_assert_eq!(payload(&sent.octets), &back[..]);
        assert_checksums(&sent.octets);
    }
}

proptest! {
    #![proptest_config(quiet(300))]

    #[test]
    fn fragments_in_any_order_make_what_the_whole_packet_would_have_become(
        [vip, server, client] in parties(),
        body in prop::collection::vec(any::<u8>(), 20..6000),
        units in 3_usize..180,
        swaps in prop::collection::vec((any::<Index>(), any::<Index>()), 0..40),
        repeated in prop::option::of(any::<Index>()),
        identification: u16,
        workers in 1_u16..4,
    ) {
        let (vip_text, client_text) = (vip.to_string(), client.to_string());
        let server_text = server.to_string();
        let room = units * 8;
        // As many pieces as may be apart.
        let room = room.max(body.len().div_ceil(60).next_multiple_of(8));
        let mut director = translator_of(vip, server, "udp", workers);
        let request = PacketBuilder::udp(&client_text, &vip_text).payload(&body).may_be_split();
        let reply = PacketBuilder::udp(&server_text, &client_text).payload(&body).may_be_split();
        let wanted = [
            PacketBuilder::udp(&client_text, &server_text),
            PacketBuilder::udp(&vip_text, &client_text),
        ];
        for ((packet, wanted), (from, to)) in [request, reply.from_server()]
            .into_iter()
            .zip(wanted)
            .zip([(OUT, IN), (IN, OUT)])
        {
            let mut pieces = fragments(&packet.build(), identification, room);
            prop_assume!(pieces.len() > 1);
            for (a, b) in &swaps {
                let (a, b) = (a.index(pieces.len()), b.index(pieces.len()));
                pieces.swap(a, b);
            }
            let count = pieces.len();
            if let Some(again) = repeated {
                // Before the last one, so that the datagram is not done yet.
                let again = again.index(count - 1);
                pieces.insert(again, pieces[again].clone());
            }
            for piece in &pieces {
                director.receive(from, piece);
            }
            let sent = director.take_sent();
            prop_assert_eq!(sent.len(), count, "{:?}", director.drops());
            prop_assert!(sent.iter().all(|sent| sent.interface == to));
            let frames: Vec<_> = sent.into_iter().map(|sent| sent.octets).collect();
            let whole = reassemble(&frames);
            prop_assert!(whole.is_some(), "not what one datagram is made of");
            let whole = whole.unwrap();
            assert_checksums(&whole);
            let wanted = wanted.payload(&body).build();
            prop_assert_eq!(ends(&whole), ends(&wanted));
            prop_assert_eq!(payload(&whole), &body[..]);
            prop_assert_eq!(director.held(), 0);
        }
    }
}

/// A frame of which only the beginning lies in the first buffer.
#[derive(Debug)]
struct Chained {
    first: Vec<u8>,
    rest: usize,
}

impl Frame for Chained {
    fn octets(&self) -> &[u8] {
        &self.first
    }

    fn octets_mut(&mut self) -> &mut [u8] {
        &mut self.first
    }

    fn total_len(&self) -> usize {
        self.first.len() + self.rest
    }

    fn set_len(&mut self, _: usize) -> bool {
        false
    }

    fn pop_front(&mut self, _: usize) -> bool {
        false
    }

    fn push_front(&mut self, _: usize) -> bool {
        false
    }

    fn copy_octets(&self, _: usize, _: &mut [u8]) -> bool {
        false
    }

    fn input(&self) -> PortId {
        PortId(0)
    }

    fn vlan(&self) -> VlanId {
        VlanId::UNTAGGED
    }

    fn set_vlan(&mut self, _: VlanId) {}
}

/// Frames that a change makes wrong in an interesting way.
fn seeds() -> Vec<Vec<u8>> {
    let (client, client6) = ("198.18.7.7:20000", "[2001:db8:ffff::7]:20000");
    let (web, web6) = ("192.0.2.100:80", "[2001:db8:1::100]:80");
    let (dns, dns6) = ("192.0.2.100:53", "[2001:db8:1::100]:53");
    let mut solicitation = vec![135, 0, 0, 0, 0, 0, 0, 0];
    solicitation.extend("2001:db8:1::1".parse::<Ipv6Addr>().unwrap().octets());
    solicitation.extend([1, 1, 2, 0, 0, 0, 0, 1]);
    let mut advertisement = solicitation.clone();
    (advertisement[0], advertisement[4], advertisement[24]) = (136, 0x60, 2);
    let link = (CLIENT_SIDE, OUTSIDE);
    let ping = [128, 0, 0, 0, 1, 2, 3, 4, 5];
    let mut all = Vec::new();
    for (to, from) in [(web, "10.0.0.11:8080"), (web6, "[fd00::11]:8080")] {
        let client = if to == web { client } else { client6 };
        // An error from a router on either side, about a packet of a connection that the SYN
        // among these seeds opens.
        let (request, reply) = (PacketBuilder::tcp(client, from), PacketBuilder::tcp(to, client));
        let router = |v4, v6| if to == web { v4 } else { v6 };
        all.push(error(router("198.18.0.9", "2001:db8:ffff::9"), &reply.build(), OUT, 1400));
        all.push(error(router("10.0.0.9", "fd00::9"), &request.build(), IN, 1400));
    }
    let (sctp, sctp6) = ("192.0.2.100:2905", "[2001:db8:1::100]:2905");
    for (from, to) in [(client, sctp), (client6, sctp6)] {
        let packet = || PacketBuilder::sctp(from, to).payload(&[7; 100]);
        for chunk in [1, 10, 0, 14] {
            all.push(packet().flags(chunk).build());
        }
        all.extend(fragments(&packet().build(), 0x79, 56));
        let server = if to == sctp { "10.0.0.11:3905" } else { "[fd00::11]:3905" };
        let request = PacketBuilder::sctp(from, server).payload(&[7; 100]).build();
        let router = if to == sctp { "10.0.0.9" } else { "fd00::9" };
        all.push(error(router, &request, IN, 1400));
    }
    for (from, to) in [(client, dns), (client6, dns6)] {
        let whole = PacketBuilder::udp(from, to).payload(&[7; 100]).build();
        all.extend(fragments(&whole, 0x77, 56));
        all.extend(fragments(&whole, 0x78, 56).into_iter().rev());
    }
    all.extend(vec![
        PacketBuilder::tcp(client, web).flags(SYN).build(),
        PacketBuilder::tcp(client, web).flags(ACK).payload(b"data").pad_to(80).build(),
        PacketBuilder::tcp(client, web).ip_options(&[1; 12]).flags(SYN).build(),
        PacketBuilder::tcp(client6, web6).flags(SYN).build(),
        PacketBuilder::udp(client, dns).payload(b"question").build(),
        PacketBuilder::udp(client6, dns6).payload(b"question").build(),
        PacketBuilder::udp(client6, dns6).extension(0, &[1, 4, 0, 0, 0, 0]).build(),
        PacketBuilder::udp(client6, dns6).extension(60, &[0; 6]).extension(43, &[0; 14]).build(),
        PacketBuilder::tcp("10.0.0.11:8080", client).from_server().build(),
        PacketBuilder::tcp("[fd00::11]:8080", client6).from_server().build(),
        arp(1, (CLIENT_SIDE, "192.0.2.9"), ([0; 6], "192.0.2.1"), (CLIENT_SIDE, [0xff; 6])),
        arp(2, (SERVER_SIDE, "10.0.0.11"), (INSIDE, "10.0.0.1"), (SERVER_SIDE, INSIDE)),
        icmpv6("2001:db8:1::9", "2001:db8:1::1", 255, &solicitation, link),
        icmpv6("2001:db8:1::9", "2001:db8:1::1", 255, &advertisement, link),
        icmpv6("2001:db8:1::9", "2001:db8:1::1", 64, &ping, link),
    ]);
    all
}

/// A frame as an accident or an attacker would make it.
fn bad_frame() -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((any::<Index>(), any::<u8>()), 0..5);
    let mutated =
        (prop::sample::select(seeds()), changes, any::<bool>(), any::<Index>(), any::<bool>())
            .prop_map(|(mut frame, changes, is_cut, cut, mend)| {
                for (at, value) in changes {
                    let at = at.index(frame.len());
                    frame[at] = value;
                }
                if is_cut {
                    frame.truncate(cut.index(frame.len() + 1));
                }
                if mend && frame.len() >= 34 && frame[12..14] == [8, 0] {
                    mend_ipv4(&mut frame);
                }
                frame
            });
    prop_oneof![
        6 => mutated,
        1 => prop::collection::vec(any::<u8>(), 0..200),
        // Random after a right beginning.
        1 => (prop::sample::select(vec![[8, 0], [0x86, 0xdd], [8, 6]]),
              prop::collection::vec(any::<u8>(), 0..200))
            .prop_map(|(kind, rest)| [&OUTSIDE[..], &CLIENT_SIDE, &kind, &rest].concat()),
    ]
}

/// So that a change is not caught by the header checksum already.
fn mend_ipv4(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let end = (14 + usize::from(frame[14] & 15) * 4).min(frame.len());
    let checksum = support::packet::internet_checksum(&frame[14..end]);
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
}

/// Any: only equal hashes are asked for.
const SECRET: [u64; 4] = [3, 5, 7, 11];

/// What classification promises: the headers that it names are there.
fn assert_headers_are_there(frame: &impl Frame, class: &Class, transport: u16) {
    let header = match class {
        Class::FlowV4(key) if key.protocol == 6 => 20,
        Class::FlowV6(key) if key.protocol == 6 => 20,
        Class::FlowV4(key) if key.protocol == 132 => 16,
        Class::FlowV6(key) if key.protocol == 132 => 16,
        // What has no ports is not looked into.
        Class::FlowV4(key) if key.protocol != 17 => 0,
        Class::FlowV6(key) if key.protocol != 17 => 0,
        Class::FlowV4(_)
        | Class::FlowV6(_)
        | Class::Icmp
        | Class::Icmpv6
        | Class::ErrorV4
        | Class::ErrorV6 => 8,
        // What comes first in the fragment may be missing; its own header is looked at later.
        Class::FragmentV4 | Class::FragmentV6 | Class::Arp | Class::Vrrp | Class::Elsewhere(_) => 0,
        Class::Drop(_) => return,
    };
    assert!(usize::from(transport) + header <= frame.octets().len());
}

/// Classifies a frame from outside: the hash of its 5-tuple, if it has one.
fn look_at<F: Frame>(frame: &mut F, station: &Station, packet: &mut Packet) -> Option<FlowHash> {
    let mut hash = None;
    let is_flow = classify(frame, station, Sides::OUTSIDE, &SECRET, packet, &mut |of_flow| {
        hash = Some(of_flow);
    });
    assert_eq!(is_flow, hash.is_some());
    hash
}

proptest! {
    #![proptest_config(quiet(4000))]

    #[test]
    fn classification_never_panics_and_keeps_its_promise(
        octets in bad_frame(),
        first in any::<Index>(),
    ) {
        let mut frame = BufferFrame { octets: octets.clone(), ..BufferFrame::default() };
        let mut packet = Packet::of(Class::Arp);
        look_at(&mut frame, &Station::of(&OUTSIDE), &mut packet);
        assert_headers_are_there(&frame, &packet.class, packet.transport);
        if packet.ip_octets > 0 {
            prop_assert_eq!(frame.octets.len(), 14 + usize::from(packet.ip_octets));
        }
        let first = first.index(octets.len() + 1);
        let rest = octets.len() - first;
        let mut chained = Chained { first: octets[..first].to_vec(), rest };
        let mut packet = Packet::of(Class::Arp);
        look_at(&mut chained, &Station::of(&OUTSIDE), &mut packet);
        assert_headers_are_there(&chained, &packet.class, packet.transport);
    }
}

/// A plain packet with some of its headers' octets changed, most to small numbers.
fn nearly_plain_frame() -> impl Strategy<Value = Vec<u8>> {
    let (client, client6) = ("198.18.0.7:20000", "[2001:db8:ffff::7]:20000");
    let plain = vec![
        PacketBuilder::tcp(client, "192.0.2.100:80").flags(ACK).payload(b"data").build(),
        PacketBuilder::udp(client, "192.0.2.100:53").payload(b"question").build(),
        PacketBuilder::tcp(client6, "[2001:db8:1::100]:80").flags(ACK).payload(b"data").build(),
        PacketBuilder::udp(client6, "[2001:db8:1::100]:53").payload(b"question").build(),
    ];
    let value = prop_oneof![0..64_u8, any::<u8>()];
    let changes = prop::collection::vec((12..74_usize, value), 0..3);
    (prop::sample::select(plain), changes, any::<bool>(), 0..8_usize).prop_map(
        |(mut frame, changes, mend, cut)| {
            for (at, value) in changes {
                if let Some(octet) = frame.get_mut(at) {
                    *octet = value;
                }
            }
            if mend && frame[12..14] == [8, 0] {
                mend_ipv4(&mut frame);
            }
            frame.truncate(frame.len() - cut);
            frame
        },
    )
}

/// Of a pair's virtual router.
const VIRTUAL_MACS: [[u8; 6]; 2] = [[0, 0, 0x5e, 0, 1, 51], [0, 0, 0x5e, 0, 2, 51]];

proptest! {
    #![proptest_config(quiet(20_000))]

    #[test]
    fn the_short_way_of_plain_packets_says_what_the_general_one_says(
        octets in prop_oneof![3 => nearly_plain_frame(), 1 => bad_frame()],
        to_virtual in prop::option::of(prop::sample::select(&VIRTUAL_MACS[..])),
    ) {
        let mut octets = octets;
        if let (Some(mac), Some(destination)) = (to_virtual, octets.first_chunk_mut()) {
            *destination = mac;
        }
        let station = &Station::of(&OUTSIDE).with_virtual(VIRTUAL_MACS);
        let mut packet = Packet::of(Class::Arp);
        let mut frame = BufferFrame { octets: octets.clone(), ..BufferFrame::default() };
        let hash = look_at(&mut frame, station, &mut packet);
        let mut general = Packet { sides: Sides::OUTSIDE, ..Packet::of(Class::Arp) };
        let general_hash =
            inspect_any(&octets, octets.len(), station, &SECRET, &mut general);
        prop_assert_eq!(packet, general);
        prop_assert_eq!(hash, general_hash);
    }
}

#[test]
fn every_prefix_of_a_right_frame_is_dropped_or_whole() {
    for seed in seeds() {
        for length in 0..seed.len() {
            let mut frame =
                BufferFrame { octets: seed[..length].to_vec(), ..BufferFrame::default() };
            let mac: [u8; 6] = seed[..6].try_into().unwrap();
            let mac = if mac[0] & 1 == 1 { OUTSIDE } else { mac };
            let mut packet = Packet::of(Class::Arp);
            look_at(&mut frame, &Station::of(&mac), &mut packet);
            // Only what was padding may be missing.
            let is_whole = packet.ip_octets > 0 && 14 + usize::from(packet.ip_octets) <= length;
            assert!(matches!(packet.class, Class::Drop(_)) || is_whole, "{length} of {seed:02x?}");
        }
    }
}

const SERVICES: &str = r#"
[[service]]
name = "web"
listen = "tcp://192.0.2.100:80"
non_syn = "schedule"
servers = [{ address = "10.0.0.11:8080" }, { address = "10.0.0.99:8080" }]
[[service]]
name = "dns"
listen = "udp://192.0.2.100:53"
servers = [{ address = "10.0.0.12:5353" }]
[[service]]
name = "sctp"
listen = "sctp://192.0.2.100:2905"
servers = [{ address = "10.0.0.11:3905" }, { address = "10.0.0.99:2905" }]
[[service]]
name = "sctp6"
listen = "sctp://[2001:db8:1::100]:2905"
non_syn = "schedule"
servers = [{ address = "[fd00::11]:3905" }]
[[service]]
name = "web6"
listen = "tcp://[2001:db8:1::100]:80"
servers = [{ address = "[fd00::11]:8080" }]
[[service]]
name = "dns6"
listen = "udp://[2001:db8:1::100]:53"
servers = [{ address = "[fd00::12]:5353" }, { address = "[fd00::99]:5353" }]
"#;

fn owned() -> Vec<IpAddr> {
    let all =
        ["192.0.2.1", "192.0.2.100", "10.0.0.1", "2001:db8:1::1", "2001:db8:1::100", "fd00::1"];
    let link_local = ["fe80::fe", "fe80::ff:fe00:fe", "fe80::ff:fe00:1fe"];
    all.iter().chain(&link_local).map(|address| address.parse().unwrap()).collect()
}

/// What leaves says nothing of addresses that are not the director's.
fn assert_claims_only_own(frame: &[u8]) {
    let claimed: Option<IpAddr> = match &frame[12..14] {
        [8, 6] => Some(<[u8; 4]>::try_from(&frame[28..32]).unwrap().into()),
        [0x86, 0xdd] if frame[20] == 58 && frame[54] == 136 => {
            Some(<[u8; 16]>::try_from(&frame[62..78]).unwrap().into())
        }
        _ => None,
    };
    if let Some(claimed) = claimed {
        assert!(owned().contains(&claimed), "claims {claimed}: {frame:02x?}");
        let is_question = frame[12..14] == [8, 6] && frame[21] == 1;
        let to_all = is_question || frame[0] == 0x33;
        assert_eq!(frame[0] & 1, u8::from(to_all), "an answer to a station or all nodes");
    }
}

proptest! {
    #![proptest_config(quiet(400))]

    /// The books are checked after every step: see `TestDirector`.
    #[test]
    fn no_traffic_makes_the_director_panic_or_lose_count(
        workers in 1_u16..4,
        capacity in 1_u32..40,
        neighbors in 1_usize..40,
        start: u32,
        are_vlans: bool,
        steps in prop::collection::vec(
            (any::<bool>(), prop::collection::vec(bad_frame(), 1..64), 0_u32..200_000, 0_u8..8),
            1..8,
        ),
    ) {
        let mut setup = Setup::with_services(SERVICES)
            .workers(workers)
            .connections(capacity, capacity)
            .neighbors(neighbors);
        setup.start = Tick(start);
        let vlans = if are_vlans { [VlanId(10), VlanId(20)] } else { [VlanId::UNTAGGED; 2] };
        for (interface, vlan) in setup.config.interfaces.iter_mut().zip(vlans) {
            interface.vlan = vlan;
        }
        let mut director = setup.start();
        director.solicits = true;
        for (is_inside, mut frames, wait, what) in steps {
            let interface = if is_inside { IN } else { OUT };
            // One burst in eight has the tag of the other interface.
            let vlan = vlans[usize::from(is_inside != (what == 7))];
            for frame in frames.iter_mut().filter(|frame| are_vlans && frame.len() >= 12) {
                let [high, low] = vlan.0.to_be_bytes();
                frame.splice(12..12, [0x81, 0, high, low]);
            }
            let worker = usize::from(what) % usize::from(workers);
            director.receive_burst(worker, interface, &frames);
            match what {
                0 => { director.advance(wait % 3000); }
                1 => { director.advance(wait); }
                2 => director.neighbor_unreachable(IN, "10.0.0.11"),
                3 => director.outlet(0).has_buffers = wait % 2 == 0,
                4 => { director.list(); }
                _ => {}
            }
            for mut sent in director.take_sent() {
                if are_vlans {
                    let tag: Vec<_> = sent.octets.drain(12..16).collect();
                    let [high, low] = vlans[sent.interface.index()].0.to_be_bytes();
                    prop_assert_eq!(tag, [0x81, 0, high, low], "the tag of its interface");
                }
                assert_claims_only_own(&sent.octets);
                let mac = if sent.interface == OUT { OUTSIDE } else { INSIDE };
                prop_assert_eq!(&sent.octets[6..12], &mac[..], "sent from its interface");
            }
        }
        director.advance(1_000_000);
        prop_assert_eq!(director.connections(), 0, "everything is forgotten in the end");
        director.shut_down();
        prop_assert_eq!(director.held(), 0);
    }
}

/// An ARP packet whose fields are random, or right.
fn random_arp() -> impl Strategy<Value = Vec<u8>> {
    let address = prop::sample::select(vec![
        "192.0.2.1",
        "192.0.2.100",
        "192.0.2.9",
        "10.0.0.1",
        "0.0.0.0",
        "255.255.255.255",
    ]);
    let mac = prop::sample::select(vec![CLIENT_SIDE, OUTSIDE, INSIDE, [0; 6], [0xff; 6]]);
    (0_u16..5, (mac.clone(), address.clone()), (mac.clone(), address), (mac.clone(), mac))
        .prop_map(|(operation, sender, target, link)| arp(operation, sender, target, link))
}

/// A Neighbor Discovery message whose fields are random, or right; its checksum is right.
fn random_nd() -> impl Strategy<Value = Vec<u8>> {
    let address = prop::sample::select(vec![
        "2001:db8:1::1",
        "2001:db8:1::100",
        "2001:db8:1::9",
        "::",
        "ff02::1",
        "ff02::1:ff00:1",
        "fe80::ff:fe00:fe",
        "fe80::9",
    ]);
    let mac = prop::sample::select(vec![CLIENT_SIDE, OUTSIDE, [0x33, 0x33, 0xff, 0, 0, 1]]);
    let option = (0_u8..6, 0_u8..3, mac.clone());
    let options = prop::collection::vec(option, 0..3);
    let hops = prop::sample::select(vec![255_u8, 255, 255, 64]);
    let head = (prop::sample::select(vec![135_u8, 136, 128, 134]), 0_u8..2, any::<u8>());
    let ends = (address.clone(), address.clone(), address);
    (ends, head, options, hops, (mac.clone(), mac)).prop_map(
        |((from, to, target), head, options, hops, link)| {
            let mut message = vec![head.0, head.1, 0, 0, head.2, 0, 0, 0];
            message.extend(target.parse::<Ipv6Addr>().unwrap().octets());
            for (kind, length, mac) in options {
                message.extend([kind, length]);
                message.extend(mac);
            }
            icmpv6(from, to, hops, &message, link)
        },
    )
}

proptest! {
    #![proptest_config(quiet(1500))]

    #[test]
    fn no_neighbor_message_makes_the_director_claim_what_is_not_its_own(
        frames in prop::collection::vec(prop_oneof![random_arp(), random_nd()], 1..20),
    ) {
        let mut director = Setup::with_services(SERVICES).connections(4, 4).start();
        for frame in &frames {
            director.receive(OUT, frame);
            let sent = director.take_sent();
            prop_assert!(sent.len() <= 1, "at most one answer");
            for sent in sent {
                prop_assert_eq!(sent.interface, OUT);
                assert_claims_only_own(&sent.octets);
            }
        }
        // And it learns no address of a group, and none of its own.
        for event in &director.events {
            if let pointsman::dataplane::mailbox::Event::NeighborSeen { mac, address, .. } = event {
                prop_assert_eq!(mac[0] & 1, 0, "{:?}", event);
                prop_assert!(!address.is_multicast() && !address.is_unspecified(), "{:?}", event);
                prop_assert!(!owned().contains(address), "{:?}", event);
                prop_assert!(*address != IpAddr::from([255; 4]), "{:?}", event);
            }
        }
        let _: InterfaceId = OUT;
    }
}
