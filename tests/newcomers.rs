//! Packets of no connection that come in one burst: what becomes of them is what would become of
//! them if they came one by one.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::format_push_string,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use pointsman::dataplane::mailbox::ConnectionRow;
use pointsman::dataplane::stats::DropReason;
use pointsman::ids::{InterfaceId, ServerSlot};
use pointsman::service::MssClamp;
use proptest::prelude::*;
use support::director::{IN, OUT, Sent, Setup, TOPOLOGY, TestDirector};
use support::packet::{ACK, FIN, PacketBuilder, RST, SERVER_SIDE, SYN, ends};

/// So many cases; what fails is made a test of its own, not a file.
fn quiet(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn service(listen: &str, options: &str, servers: &[(&str, u32)]) -> String {
    let servers: Vec<_> = servers
        .iter()
        .map(|(address, weight)| format!("{{ address = \"{address}\", weight = {weight} }}"))
        .collect();
    let name: String = listen.chars().filter(char::is_ascii_alphanumeric).collect();
    let servers = servers.join(", ");
    format!(
        "[[service]]\nname = \"{name}\"\nlisten = \"{listen}\"\n{options}servers = [{servers}]\n"
    )
}

const VIP: &str = "192.0.2.100:80";
const THREE: [(&str, u32); 3] = [("10.0.0.11:80", 1), ("10.0.0.12:80", 1), ("10.0.0.13:80", 1)];

/// A director with a service of three servers.
fn three(protocol: &str, scheduler: &str) -> TestDirector {
    let scheduler = format!("scheduler = \"{scheduler}\"\n");
    Setup::with_services(&service(&format!("{protocol}://{VIP}"), &scheduler, &THREE)).start()
}

fn client(number: usize) -> String {
    format!("198.18.0.7:{}", 2000 + number)
}

fn syn(number: usize) -> Vec<u8> {
    PacketBuilder::tcp(&client(number), VIP).flags(SYN).build()
}

fn datagram(number: usize, payload: &[u8]) -> Vec<u8> {
    PacketBuilder::udp(&client(number), VIP).payload(payload).build()
}

/// The servers that packets were sent to, in order.
fn servers(sent: &[Sent]) -> Vec<String> {
    sent.iter().map(|sent| ends(&sent.octets).1.to_string()).collect()
}

/// Connections of each server, as the schedulers count them: active or not.
fn loads(director: &TestDirector) -> Vec<(u32, u32)> {
    (0..16).map(|slot| director.loads.of(ServerSlot(slot)).unwrap().connections()).collect()
}

#[test]
fn two_syns_of_one_client_in_a_burst_begin_one_connection_and_take_one_turn() {
    for scheduler in ["rr", "wrr", "lc", "wlc"] {
        let mut director = three("tcp", scheduler);
        director.receive_burst(0, OUT, &[syn(1), syn(1), syn(2), syn(3), syn(1)]);
        let sent = servers(&director.take_sent());
        let [first, second, third] = ["10.0.0.13:80", "10.0.0.12:80", "10.0.0.11:80"];
        let mut expected = [first, first, second, first, third];
        let mut got: Vec<_> = sent.iter().map(String::as_str).collect();
        got.sort_unstable();
        expected.sort_unstable();
        assert_eq!(got, expected, "{scheduler}");
        assert_eq!(director.connections(), 3);
        assert_eq!(&loads(&director)[..3], [(1, 0); 3], "{scheduler}");
    }
}

#[test]
fn datagrams_of_one_flow_in_a_burst_take_one_turn_and_keep_their_order() {
    let mut director = three("udp", "rr");
    for burst in 0..3 {
        let flows = [burst * 2, burst * 2 + 1];
        let frames: Vec<_> = flows
            .into_iter()
            .flat_map(|flow| [datagram(flow, b"1"), datagram(flow, b"22")])
            .collect();
        director.receive_burst(0, OUT, &frames);
        let sent = director.take_sent();
        for flow in flows {
            let of_flow = |sent: &&Sent| ends(&sent.octets).0.to_string() == client(flow);
            let mine: Vec<_> = sent.iter().filter(of_flow).cloned().collect();
            assert_eq!(mine.len(), 2, "{:?}", director.drops());
            assert!(mine[0].octets.len() < mine[1].octets.len(), "the first one first");
            let turn = THREE[2 - flow % 3].0;
            assert_eq!(servers(&mine), [turn, turn], "flow {flow}");
        }
    }
    assert_eq!((director.connections(), &loads(&director)[..3]), (6, &[(0, 2); 3][..]));
}

#[test]
fn a_table_that_fills_up_within_a_burst_counts_what_it_took() {
    for (scheduler, protocol) in [("rr", "tcp"), ("lc", "tcp"), ("wlc", "udp")] {
        let scheduler = format!("scheduler = \"{scheduler}\"\n");
        let text = service(&format!("{protocol}://{VIP}"), &scheduler, &THREE);
        let mut director = Setup::with_services(&text).connections(6, 0).start();
        let frame = |n| if protocol == "tcp" { syn(n) } else { datagram(n, b"") };
        director.receive_burst(0, OUT, &(0..64).map(frame).collect::<Vec<_>>());
        assert_eq!((director.take_sent().len(), director.connections()), (6, 6));
        assert_eq!(director.dropped(DropReason::TableFull), 58);
        let counts: Vec<_> = loads(&director).iter().take(3).map(|(a, b)| a + b).collect();
        assert_eq!(counts, [2; 3]);
        director.advance(1_000_000);
        assert_eq!((director.connections(), loads(&director)), (0, vec![(0, 0); 16]));
    }
}

#[test]
fn a_reply_tuple_that_is_taken_in_the_same_burst_leads_to_another_server() {
    let other = "192.0.2.101:80";
    for servers_of_other in [&THREE[..1], &THREE[..2]] {
        let text = service(&format!("tcp://{VIP}"), "", &THREE[..1])
            + &service(&format!("tcp://{other}"), "scheduler = \"lc\"\n", servers_of_other);
        let mut director = Setup::with_services(&text).start();
        // So that the scheduler's choice is the first server.
        let wanted = director.slot(&format!("tcp://{other}"), "10.0.0.11:80");
        let also = (servers_of_other.len() > 1)
            .then(|| director.slot(&format!("tcp://{other}"), "10.0.0.12:80"));
        if let Some(slot) = also {
            director.loads.of(slot).unwrap().add(true);
        }
        let second = PacketBuilder::tcp(&client(1), other).flags(SYN).build();
        // The books would miss the connection that is only in the loads.
        director.poll(0, OUT, &[syn(1), second]);
        if let Some(slot) = also {
            director.loads.of(slot).unwrap().remove(true);
        }
        director.settle();
        let sent = servers(&director.take_sent());
        let taken = director.dropped(DropReason::ReplyTupleTaken);
        if also.is_some() {
            assert_eq!((sent, taken), (vec!["10.0.0.11:80".into(), "10.0.0.12:80".into()], 0));
        } else {
            assert_eq!((sent, taken), (vec!["10.0.0.11:80".to_owned()], 1));
        }
        assert_eq!(director.loads.of(wanted).unwrap().connections(), (0, 0));
    }
}

#[test]
fn a_reply_tuple_that_is_taken_costs_one_turn() {
    let other = "192.0.2.101:80";
    let text = service(&format!("tcp://{VIP}"), "", &THREE[..1])
        + &service(&format!("tcp://{other}"), "scheduler = \"rr\"\n", &THREE);
    let mut director = Setup::with_services(&text).start();
    director.receive(OUT, &syn(3));
    director.take_sent();
    for burst in [vec![1, 2, 3, 4], vec![5]] {
        let syn = |n| PacketBuilder::tcp(&client(n), other).flags(SYN).build();
        director.receive_burst(0, OUT, &burst.into_iter().map(syn).collect::<Vec<_>>());
    }
    let turns = ["10.0.0.13:80", "10.0.0.12:80", "10.0.0.13:80", "10.0.0.13:80", "10.0.0.12:80"];
    assert_eq!(servers(&director.take_sent()), turns, "the third one goes to the first other");
}

#[test]
fn two_syns_that_use_a_port_again_in_a_burst_begin_one_connection() {
    let mut director = three("tcp", "rr");
    director.receive(OUT, &syn(1));
    let server = servers(&director.take_sent()).remove(0);
    let back = PacketBuilder::tcp(&server, &client(1)).from_server();
    director.receive(IN, &back.clone().flags(SYN | ACK).build());
    director.receive(IN, &back.flags(RST | ACK).build());
    director.take_sent();
    director.receive_burst(0, OUT, &[syn(2), syn(1), syn(1), syn(3)]);
    let sent = director.take_sent();
    assert_eq!((sent.len(), director.connections()), (4, 3));
    let of = |number: usize| {
        let of = |sent: &&Sent| ends(&sent.octets).0.to_string() == client(number);
        servers(&sent.iter().filter(of).cloned().collect::<Vec<_>>())
    };
    assert_eq!(of(1)[0], of(1)[1]);
    assert_eq!(&loads(&director)[..3], [(1, 0); 3], "each took one turn");
}

/// The neighbours of a full table are those of connections that have not begun yet, too.
#[test]
fn a_neighbor_that_a_burst_has_chosen_is_not_replaced_before_its_connection_begins() {
    let text = service("tcp://192.0.2.100:80", "", &[("10.0.0.11:80", 1)])
        + &service("tcp://192.0.2.100:81", "", &[("10.0.0.99:80", 1)]);
    let permanent = TOPOLOGY.matches("\" = \"02:").count();
    let mut director = Setup::with_services(&text).neighbors(permanent + 1).start();
    let near = "192.0.2.9".parse().unwrap();
    director.answering.insert("10.0.0.99".parse().unwrap(), SERVER_SIDE);
    director.answering.insert(near, [2, 0, 0, 0, 0, 9]);
    // One client is on a link of the director, so that its own neighbour entry is needed.
    let close = PacketBuilder::tcp("192.0.2.9:2000", VIP).flags(SYN).build();
    let far = PacketBuilder::tcp(&client(1), "192.0.2.100:81").flags(SYN).build();
    director.receive_burst(0, OUT, &[close, far]);
    let sent = director.take_sent();
    assert!(sent.iter().all(|sent| sent.interface == IN), "{sent:?}");
    assert_eq!(servers(&sent).len() as u64 + director.dropped(DropReason::NeighborTableFull), 2);
    // Whoever has a connection is answered by its own neighbour.
    for row in director.list() {
        let (server, client) = (row.server.to_string(), row.client.to_string());
        let answer = PacketBuilder::tcp(&server, &client).from_server().flags(SYN | ACK);
        director.receive(IN, &answer.build());
        assert_eq!(director.sent_one().interface, OUT, "to {client}");
        director.receive(OUT, &PacketBuilder::tcp(&client, &row.service.to_string()).build());
        assert_eq!(director.sent_one().interface, IN, "from {client}");
    }
}

/// What can be seen of a director at rest.
#[derive(Debug, PartialEq)]
struct Seen {
    sent: Vec<(InterfaceId, Vec<u8>)>,
    drops: BTreeMap<String, u64>,
    connections: Vec<(u8, SocketAddr, SocketAddr, SocketAddr, &'static str, u32)>,
    loads: Vec<(u32, u32)>,
    counters: Vec<[u64; 5]>,
}

impl Seen {
    fn of(director: &mut TestDirector, workers: usize) -> Self {
        let sent = director.take_sent().into_iter();
        let mut sent: Vec<_> = sent.map(|sent| (sent.interface, sent.octets)).collect();
        // Packets of one flow stay in their order.
        let protocol = |octets: &[u8]| octets[if octets[12..14] == [8, 0] { 23 } else { 20 }];
        let is_error = |octets: &[u8]| [1, 58].contains(&protocol(octets));
        sent.sort_by_key(|(interface, octets)| {
            let error = is_error(octets).then(|| octets.clone());
            (*interface, protocol(octets), error, ends(octets))
        });
        let row = |row: ConnectionRow| {
            let ConnectionRow { protocol, state, client, service, server, expires_ms } = row;
            (protocol, client, service, server, state.name(), expires_ms)
        };
        let mut connections: Vec<_> = director.list().into_iter().map(row).collect();
        connections.sort_unstable();
        let counters = |slot: u16| {
            let mut sum = [0; 5];
            for worker in 0..workers {
                let of = director.stats(worker).server(ServerSlot(slot)).unwrap();
                let all = [
                    &of.connections,
                    &of.in_packets,
                    &of.in_octets,
                    &of.out_packets,
                    &of.out_octets,
                ];
                sum.iter_mut().zip(all).for_each(|(sum, counter)| *sum += counter.get());
            }
            sum
        };
        let counters = (0..16).map(counters).collect();
        Self { sent, drops: director.drops(), connections, loads: loads(director), counters }
    }
}

/// The same frames in one burst here, and in a burst each there.
fn receive(
    [together, apart]: [&mut TestDirector; 2],
    worker: usize,
    interface: InterfaceId,
    frames: &[Vec<u8>],
) {
    together.receive_burst(worker, interface, frames);
    for frame in frames {
        apart.receive_burst(worker, interface, std::slice::from_ref(frame));
    }
}

/// Services with weights and a scheduler, of both families.
fn weighted(scheduler: &str, weights: [u32; 4]) -> String {
    let options = format!("scheduler = \"{scheduler}\"\n");
    let v4 = ["10.0.0.11:80", "10.0.0.12:80", "10.0.0.13:80", "10.0.0.14:80"];
    let v6 = ["[fd00::11]:80", "[fd00::11]:81", "[fd00::12]:80", "[fd00::12]:81"];
    let with =
        |servers: [&'static str; 4]| -> Vec<_> { servers.into_iter().zip(weights).collect() };
    ["tcp", "udp"]
        .into_iter()
        .flat_map(|protocol| [(protocol, VIP, v4), (protocol, "[2001:db8:1::100]:80", v6)])
        .map(|(protocol, vip, servers)| {
            service(&format!("{protocol}://{vip}"), &options, &with(servers))
        })
        .collect()
}

proptest! {
    #![proptest_config(quiet(300))]

    #[test]
    fn the_connections_of_a_burst_are_spread_as_if_they_came_one_by_one(
        scheduler in prop::sample::select(vec!["rr", "wrr", "lc", "wlc"]),
        weights in [0_u32..5, 0_u32..5, 0_u32..5, 0_u32..5],
        capacity in prop_oneof![4096_u32..4097, 1_u32..60],
        bursts in prop::collection::vec(
            prop::collection::vec((any::<bool>(), any::<bool>(), 0_usize..100), 1..65),
            1..5,
        ),
    ) {
        let text = weighted(scheduler, weights);
        let start = || Setup::with_services(&text).connections(capacity, capacity).start();
        let (mut together, mut apart) = (start(), start());
        let frame = |(is_udp, is_v6, number): &(bool, bool, usize)| {
            let (client, vip) = if *is_v6 {
                (format!("[2001:db8:ffff::7]:{}", 2000 + number), "[2001:db8:1::100]:80")
            } else {
                (client(*number), VIP)
            };
            let packet = if *is_udp { PacketBuilder::udp } else { PacketBuilder::tcp };
            packet(&client, vip).flags(SYN).build()
        };
        for burst in &bursts {
            let frames: Vec<_> = burst.iter().map(frame).collect();
            receive([&mut together, &mut apart], 0, OUT, &frames);
            prop_assert_eq!(Seen::of(&mut together, 1), Seen::of(&mut apart, 1));
        }
    }
}

/// Listen, options, server.
const ONE_EACH: [(&str, &str, &str); 9] = [
    ("tcp://192.0.2.100:80", "non_syn = \"schedule\"\n", "10.0.0.11:8080"),
    ("tcp://192.0.2.101:80", "non_syn = \"reset\"\n", "10.0.0.11:8080"),
    ("tcp://192.0.2.100:81", "", "10.0.0.99:80"),
    ("udp://192.0.2.100:53", "", "10.0.0.12:53"),
    ("udp://192.0.2.100:514", "one_packet = true\n", "10.0.0.12:514"),
    ("sctp://192.0.2.100:2905", "", "10.0.0.13:3905"),
    ("tcp://192.0.2.100:21", "helper = \"ftp\"\n", "10.0.0.14:21"),
    ("tcp://[2001:db8:1::100]:80", "", "[fd00::11]:8080"),
    ("udp://[2001:db8:1::100]:53", "", "[fd00::12]:53"),
];

/// These services; `quiesced` ones take no new connections.
fn one_each(quiesced: u16) -> String {
    let text = |(place, (listen, options, server)): (usize, &(&str, &str, &str))| {
        service(listen, options, &[(server, u32::from(quiesced >> place & 1 == 0))])
    };
    format!("{TOPOLOGY}{}", ONE_EACH.iter().enumerate().map(text).collect::<String>())
}

/// A packet between one of few clients and one of the services, by either side.
#[derive(Clone, Debug)]
struct Step {
    service: usize,
    client: u8,
    flags: u8,
    chunk: u8,
    ttl: u8,
    octets: usize,
}

impl Step {
    fn frame(&self, is_reply: bool) -> Vec<u8> {
        let (listen, _, server) = ONE_EACH[self.service];
        let (protocol, vip) = listen.split_once("://").unwrap();
        let client = if vip.starts_with('[') {
            format!("[2001:db8:ffff::7]:{}", 2000 + u32::from(self.client))
        } else {
            format!("198.18.0.7:{}", 2000 + u32::from(self.client))
        };
        let (from, to) = if is_reply { (server, client.as_str()) } else { (client.as_str(), vip) };
        let packet = match protocol {
            "tcp" => PacketBuilder::tcp(from, to).flags(self.flags),
            "udp" => PacketBuilder::udp(from, to),
            _ => PacketBuilder::sctp(from, to).flags(self.chunk),
        };
        let is_syn = protocol == "tcp" && self.flags & SYN != 0;
        let packet = packet.tcp_options(if is_syn { &[2, 4, 5, 180] } else { &[] });
        let packet = packet.ttl(self.ttl).payload(&vec![self.client; self.octets]);
        if is_reply { packet.from_server().build() } else { packet.build() }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let flags = prop::sample::select(vec![SYN, SYN, SYN, SYN | ACK, ACK, ACK, FIN | ACK, RST]);
    let chunk = prop::sample::select(vec![1_u8, 1, 2, 10, 11, 0, 6, 7, 8, 14]);
    let ttl = prop_oneof![15 => Just(64_u8), 1 => Just(1_u8)];
    let octets = prop_oneof![7 => 0_usize..40, 1 => 1380_usize..1480];
    (0..ONE_EACH.len(), 0_u8..6, flags, chunk, ttl, octets).prop_map(
        |(service, client, flags, chunk, ttl, octets)| Step {
            service,
            client,
            flags,
            chunk,
            ttl,
            octets,
        },
    )
}

proptest! {
    #![proptest_config(quiet(400))]

    #[test]
    fn a_burst_is_treated_as_its_packets_one_by_one(
        workers in 1_u16..4,
        capacity in prop_oneof![4096_u32..4097, 1_u32..12],
        clamps: bool,
        is_narrow: bool,
        bursts in prop::collection::vec(
            (
                prop::bool::weighted(0.3),
                prop::collection::vec(step(), 1..65),
                prop_oneof![3 => 0_u32..200, 1 => 0_u32..130_000],
                prop::option::weighted(0.2, any::<u16>()),
            ),
            1..8,
        ),
    ) {
        let start = || {
            let mut setup =
                Setup::new(&one_each(0)).workers(workers).connections(capacity, capacity);
            // Which packets are answered is not to depend on the order.
            setup.config.director.errors_per_second = 1_000_000;
            for interface in setup.config.interfaces.iter_mut().filter(|_| clamps) {
                interface.mss_clamp = Some(MssClamp::Octets(1200));
            }
            if is_narrow {
                setup.config.interfaces[IN.index()].mtu = 1400;
            }
            let mut director = setup.start();
            director.answering.insert("10.0.0.99".parse().unwrap(), SERVER_SIDE);
            director
        };
        let (mut together, mut apart) = (start(), start());
        let count = usize::from(workers);
        for (place, (is_reply, steps, wait, quiesced)) in bursts.iter().enumerate() {
            let frames: Vec<_> = steps.iter().map(|step| step.frame(*is_reply)).collect();
            let interface = if *is_reply { IN } else { OUT };
            receive([&mut together, &mut apart], place % count, interface, &frames);
            prop_assert_eq!(Seen::of(&mut together, count), Seen::of(&mut apart, count));
            for director in [&mut together, &mut apart] {
                // Where a connection ends in the middle of a burst because its server takes none,
                // newcomers that came before find its place free, too: in the table, and among
                // those of the two services with one server.
                if let Some(quiesced) = quiesced.filter(|_| capacity == 4096) {
                    director.install(&one_each(quiesced & !3));
                }
                director.advance(*wait);
            }
            prop_assert_eq!(Seen::of(&mut together, count), Seen::of(&mut apart, count));
        }
        for director in [&mut together, &mut apart] {
            director.advance(1_000_000);
            prop_assert_eq!(director.connections(), 0);
        }
    }
}
