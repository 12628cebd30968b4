//! Scheduling, several workers, full tables, changes of the services under traffic.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::excessive_nesting,
    clippy::format_push_string,
    clippy::cast_possible_truncation,
    clippy::needless_for_each,
    reason = "a test fails by panicking"
)]

mod support;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use pointsman::dataplane::stats::DropReason;
use pointsman::ids::InterfaceId;
use support::director::{IN, OUT, Sent, Setup, TOPOLOGY, TestDirector};
use support::packet::{ACK, FIN, PacketBuilder, RST, SYN, ends, payload};

const VIP: &str = "192.0.2.100:80";

fn service(scheduler: &str, servers: &[(u8, u32)]) -> String {
    let servers: Vec<_> = servers
        .iter()
        .map(|(host, weight)| format!("{{ address = \"10.0.0.{host}:8080\", weight = {weight} }}"))
        .collect();
    let servers = servers.join(", ");
    format!(
        "[[service]]\nname = \"web\"\nlisten = \"tcp://{VIP}\"\nscheduler = \"{scheduler}\"\n\
         servers = [{servers}]\n"
    )
}

fn client(number: u32) -> String {
    format!("198.18.{}.{}:{}", number / 250, number % 250 + 1, 2000 + number)
}

fn from_client(number: u32, flags: u8) -> Vec<u8> {
    PacketBuilder::tcp(&client(number), VIP).flags(flags).build()
}

/// Sends a SYN; the server that it went to.
#[track_caller]
fn open(director: &mut TestDirector, number: u32) -> SocketAddr {
    director.receive(OUT, &from_client(number, SYN));
    ends(&director.sent_one().octets).1
}

fn answer(director: &mut TestDirector, server: SocketAddr, number: u32, flags: u8) {
    let frame = PacketBuilder::tcp(&server.to_string(), &client(number)).from_server();
    director.receive(IN, &frame.flags(flags).build());
}

fn establish(director: &mut TestDirector, number: u32) -> SocketAddr {
    let server = open(director, number);
    answer(director, server, number, SYN | ACK);
    director.receive(OUT, &from_client(number, ACK));
    director.take_sent();
    server
}

#[test]
fn round_robin_is_the_services_over_all_workers() {
    for workers in [1, 2, 4] {
        let text = service("rr", &[(11, 1), (12, 1), (13, 1)]);
        let mut director = Setup::with_services(&text).workers(workers).start();
        let hosts: Vec<_> =
            (0..30).map(|number| open(&mut director, number).ip().to_string()).collect();
        let expected = ["10.0.0.13", "10.0.0.12", "10.0.0.11"];
        for (host, expected) in hosts.iter().zip(expected.iter().cycle()) {
            assert_eq!(host, expected, "{workers} workers: {hosts:?}");
        }
        let by_worker = director.connections_by_worker();
        assert!(by_worker.iter().all(|connections| *connections > 0), "{by_worker:?}");
    }
}

#[test]
fn least_connections_counts_those_of_all_workers() {
    let text = service("lc", &[(11, 1), (12, 1), (13, 1)]);
    let mut director = Setup::with_services(&text).workers(4).start();
    let mut count: HashMap<SocketAddr, u32> = HashMap::new();
    for number in 0..90 {
        *count.entry(establish(&mut director, number)).or_default() += 1;
    }
    assert_eq!(count.values().copied().collect::<Vec<_>>(), [30; 3]);
    // One server's connections close: the next ten go there.
    let victim: SocketAddr = "10.0.0.12:8080".parse().unwrap();
    let listed = director.list();
    let closing: Vec<_> = listed.iter().filter(|row| row.server == victim).take(10).collect();
    for row in &closing {
        let reset = PacketBuilder::tcp(&victim.to_string(), &row.client.to_string());
        director.receive(IN, &reset.from_server().flags(RST | ACK).build());
    }
    director.take_sent();
    assert_eq!(director.load(&format!("tcp://{VIP}"), "10.0.0.12:8080"), (20, 10));
    for number in 100..109 {
        assert_eq!(establish(&mut director, number), victim);
    }
}

#[test]
fn weight_zero_takes_nothing_new_and_keeps_its_connections() {
    let both = format!("{TOPOLOGY}{}", service("rr", &[(11, 1), (12, 1)]));
    let mut director = Setup::new(&both).workers(2).start();
    let servers: Vec<_> = (0..6).map(|number| establish(&mut director, number)).collect();
    director.install(&format!("{TOPOLOGY}{}", service("rr", &[(11, 1), (12, 0)])));
    for number in 10..20 {
        assert_eq!(establish(&mut director, number).to_string(), "10.0.0.11:8080");
    }
    for (number, server) in (0..).zip(servers) {
        director.receive(OUT, &from_client(number, ACK));
        assert_eq!(ends(&director.sent_one().octets).1, server);
        answer(&mut director, server, number, ACK);
        assert_eq!(ends(&director.sent_one().octets).0.to_string(), VIP);
    }
    director.install(&format!("{TOPOLOGY}{}", service("rr", &[(11, 0), (12, 0)])));
    director.receive(OUT, &from_client(30, SYN));
    assert_eq!(director.dropped(DropReason::NoServer), 1);
}

#[test]
fn connections_outlive_the_removal_of_their_service() {
    let mut director = Setup::with_services(&service("rr", &[(11, 1)])).start();
    let server = establish(&mut director, 1);
    director.install(TOPOLOGY);
    director.receive(OUT, &from_client(1, ACK));
    assert_eq!(ends(&director.sent_one().octets).1, server);
    answer(&mut director, server, 1, ACK);
    assert_eq!(ends(&director.sent_one().octets).0.to_string(), VIP);
    director.receive(OUT, &from_client(2, SYN));
    assert!(director.take_sent().is_empty());
}

#[test]
fn a_full_table_refuses_the_new_and_harms_no_established_connection() {
    let text = service("rr", &[(11, 1), (12, 1)]);
    let mut director = Setup::with_services(&text).connections(20, 0).start();
    let servers: Vec<_> = (0..20).map(|number| establish(&mut director, number)).collect();
    for number in 20..1000 {
        director.receive(OUT, &from_client(number, SYN));
    }
    assert!(director.take_sent().is_empty());
    assert_eq!(director.dropped(DropReason::TableFull), 980);
    for (number, server) in (0..).zip(&servers) {
        director.receive(OUT, &from_client(number, ACK));
        assert_eq!(ends(&director.sent_one().octets).1, *server);
    }
    // Room is used again.
    answer(&mut director, servers[7], 7, RST);
    director.advance(10_300);
    director.take_sent();
    open(&mut director, 2000);
    assert_eq!(director.connections(), 20);
}

#[test]
fn an_ipv6_table_is_full_by_itself() {
    let text = "[[service]]\nname = \"web6\"\nlisten = \"tcp://[2001:db8:1::100]:80\"\n\
                servers = [{ address = \"[fd00::11]:80\" }]\n";
    let mut director = Setup::with_services(text).connections(100, 2).start();
    for port in 0..5 {
        let client = format!("[2001:db8:ffff::7]:{}", 2000 + port);
        let syn = PacketBuilder::tcp(&client, "[2001:db8:1::100]:80").flags(SYN);
        director.receive(OUT, &syn.build());
    }
    assert_eq!((director.take_sent().len(), director.dropped(DropReason::TableFull)), (2, 3));
}

#[test]
fn two_services_cannot_share_a_servers_view_of_one_client() {
    let text = format!(
        "{}[[service]]\nname = \"also\"\nlisten = \"tcp://192.0.2.101:80\"\n\
         servers = [{{ address = \"10.0.0.11:8080\" }}]\n",
        service("rr", &[(11, 1)])
    );
    let mut director = Setup::with_services(&text).start();
    let server = establish(&mut director, 1);
    let other = PacketBuilder::tcp(&client(1), "192.0.2.101:80").flags(SYN).build();
    director.receive(OUT, &other);
    assert!(director.take_sent().is_empty());
    assert_eq!(director.dropped(DropReason::ReplyTupleTaken), 1);
    answer(&mut director, server, 1, ACK);
    assert_eq!(ends(&director.sent_one().octets).0.to_string(), VIP);
    assert_eq!(director.connections(), 1);
}

/// Which connection a sent packet belongs to: its client.
fn client_of(sent: &Sent) -> SocketAddr {
    let (source, destination) = ends(&sent.octets);
    if sent.interface == IN { source } else { destination }
}

/// The payloads that left, in order, of each connection and direction.
type Story = BTreeMap<(SocketAddr, u8), Vec<Vec<u8>>>;

fn story(sent: &[Sent]) -> Story {
    let mut story = Story::new();
    for sent in sent {
        let key = (client_of(sent), sent.interface.0);
        story.entry(key).or_default().push(payload(&sent.octets).to_vec());
    }
    story
}

/// Traffic of 40 connections, in bursts as a NIC without RSS would deal them out: each connection
/// by one queue a direction.
fn traffic(workers: usize) -> (TestDirector, Story) {
    let text = service("rr", &[(11, 1)]);
    let mut director = Setup::with_services(&text).workers(workers as u16).start();
    let server = "10.0.0.11:8080";
    let build = |interface: InterfaceId, number: u32, round: u32| {
        let flags = if round == 0 { SYN } else { ACK };
        let packet = if interface == OUT {
            PacketBuilder::tcp(&client(number), VIP).flags(flags)
        } else {
            PacketBuilder::tcp(server, &client(number)).from_server().flags(flags | ACK)
        };
        packet.payload(&[number.to_be_bytes(), round.to_be_bytes()].concat()).build()
    };
    for round in 0..12 {
        for interface in [OUT, IN] {
            for worker in 0..workers {
                let mine = (0..40).filter(|n| (*n as usize / 3) % workers == worker);
                let frames: Vec<_> = mine
                    .flat_map(|number| [(number, round * 2), (number, round * 2 + 1)])
                    .map(|(number, round)| build(interface, number, round))
                    .collect();
                for burst in frames.chunks(64) {
                    director.poll(worker, interface, burst);
                }
            }
            if round % 3 == 0 || interface == OUT && round == 1 {
                director.settle();
            }
        }
    }
    director.settle();
    let sent = director.take_sent();
    (director, story(&sent))
}

#[test]
fn any_number_of_workers_gives_every_connection_the_same_packets_in_the_same_order() {
    let (_, alone) = traffic(1);
    assert_eq!(alone.len(), 80);
    for workers in [2, 3, 4] {
        let (director, together) = traffic(workers);
        assert_eq!(together, alone, "{workers} workers");
        assert_eq!(director.connections(), 40, "no connection lives twice");
        assert_eq!(director.drops(), BTreeMap::new());
        let handed: u64 = (0..workers).map(|w| director.stats(w).handed_out.get()).sum();
        assert!(handed > 0, "some packets went to their owner by a ring");
    }
}

#[test]
fn counters_of_servers_are_packets_and_octets_from_the_ip_header_on() {
    let mut director = Setup::with_services(&service("rr", &[(11, 1)])).start();
    let server = establish(&mut director, 1);
    let data = PacketBuilder::tcp(&client(1), VIP).payload(&[1; 100]).pad_to(300).build();
    director.receive(OUT, &data);
    answer(&mut director, server, 1, FIN | ACK);
    let counters = director.stats(0).server(pointsman::ids::ServerSlot(0)).unwrap();
    let (packets, octets) = (&counters.in_packets, &counters.in_octets);
    assert_eq!((packets.get(), octets.get()), (3, 40 + 40 + 140));
    assert_eq!((counters.out_packets.get(), counters.out_octets.get()), (2, 80));
    assert_eq!(counters.connections.get(), 1);
}

#[test]
fn loads_follow_the_states_and_return_to_zero() {
    let mut director = Setup::with_services(&service("wlc", &[(11, 1)])).start();
    let of = |director: &TestDirector| director.load(&format!("tcp://{VIP}"), "10.0.0.11:8080");
    let server = open(&mut director, 1);
    assert_eq!(of(&director), (1, 0));
    answer(&mut director, server, 1, SYN | ACK);
    director.receive(OUT, &from_client(1, ACK));
    assert_eq!(of(&director), (1, 0));
    director.receive(OUT, &from_client(1, FIN | ACK));
    assert_eq!(of(&director), (0, 1));
    director.receive(OUT, &from_client(1, SYN));
    assert_eq!(of(&director), (1, 0), "the client opens it anew");
    director.advance(60_300);
    assert_eq!((of(&director), director.connections()), ((0, 0), 0));
}
