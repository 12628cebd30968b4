//! Real servers that speak to a VIP whose service schedules a neighbour of theirs, or themselves:
//! full NAT, so that the replies come back through the director.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::excessive_nesting,
    reason = "a test fails by panicking"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use pointsman::dataplane::conn::tcp_state::ConnectionState;
use pointsman::dataplane::stats::DropReason;
use support::director::{IN, OUT, Setup, TOPOLOGY, TestDirector};
use support::packet::{
    ACK, FIN, INSIDE, PacketBuilder, SERVER_SIDE, SYN, assert_checksums, ends, error, fragments,
    internet_checksum, payload, reassemble,
};

const SERVICES: &str = r#"
[[service]]
name = "web"
listen = "tcp://192.0.2.100:80"
scheduler = "rr"
servers = [{ address = "10.0.0.11:8080" }, { address = "10.0.0.12:8080" }]

[[service]]
name = "dns"
listen = "udp://192.0.2.100:53"
scheduler = "rr"
servers = [{ address = "10.0.0.11:5353" }, { address = "10.0.0.12:5353" }]

[[service]]
name = "web6"
listen = "tcp://[2001:db8:1::100]:80"
scheduler = "rr"
servers = [{ address = "[fd00::11]:8080" }, { address = "[fd00::12]:8080" }]

[[service]]
name = "dns6"
listen = "udp://[2001:db8:1::100]:53"
scheduler = "rr"
servers = [{ address = "[fd00::11]:5353" }, { address = "[fd00::12]:5353" }]
"#;

fn director(workers: u16) -> TestDirector {
    Setup::with_services(SERVICES).workers(workers).start()
}

/// A host, the VIP of its family and a service there, and the director's address beside it.
struct Case {
    host: &'static str,
    tcp: &'static str,
    udp: &'static str,
    own: IpAddr,
}

fn families() -> [Case; 2] {
    [
        Case {
            host: "10.0.0.11",
            tcp: "192.0.2.100:80",
            udp: "192.0.2.100:53",
            own: "10.0.0.1".parse().unwrap(),
        },
        Case {
            host: "[fd00::11]",
            tcp: "[2001:db8:1::100]:80",
            udp: "[2001:db8:1::100]:53",
            own: "fd00::1".parse().unwrap(),
        },
    ]
}

fn from_inside(packet: PacketBuilder) -> Vec<u8> {
    packet.from_server().build()
}

/// A packet of an inside host to a VIP: what the server sees.
fn there(director: &mut TestDirector, frame: &[u8], own: IpAddr) -> (SocketAddr, SocketAddr) {
    director.receive(IN, frame);
    let sent = director.sent_one();
    assert_eq!(sent.interface, IN);
    assert_checksums(&sent.octets);
    let (from, to) = ends(&sent.octets);
    assert_eq!(from.ip(), own, "the director speaks for the host");
    assert!(from.port() >= 1024);
    (from, to)
}

/// And back.
fn back(director: &mut TestDirector, frame: &[u8], vip: &str, host: &str) {
    director.receive(IN, frame);
    let sent = director.sent_one();
    assert_eq!(sent.interface, IN);
    assert_checksums(&sent.octets);
    let (from, to) = ends(&sent.octets);
    assert_eq!((from.to_string().as_str(), to.to_string().as_str()), (vip, host));
}

#[test]
fn a_server_reaches_its_neighbour_and_itself_through_the_vip() {
    for workers in [1, 2, 3, 4] {
        let mut director = director(workers);
        for case in families() {
            let mut servers = BTreeMap::new();
            let mut reply_tuples = BTreeSet::new();
            for number in 0..100_u16 {
                let host = format!("{}:{}", case.host, 20_000 + number);
                let syn = from_inside(PacketBuilder::tcp(&host, case.tcp).flags(SYN));
                let (local, server) = there(&mut director, &syn, case.own);
                *servers.entry(server.ip()).or_insert(0) += 1;
                assert!(reply_tuples.insert((local, server)), "{local} {server} twice");
                let (local, server) = (local.to_string(), server.to_string());
                let answer = PacketBuilder::tcp(&server, &local).flags(SYN | ACK).payload(b"odd");
                back(&mut director, &from_inside(answer), case.tcp, &host);
                let ack = from_inside(PacketBuilder::tcp(&host, case.tcp).payload(b"GET"));
                let again = there(&mut director, &ack, case.own);
                assert_eq!((again.0.to_string(), again.1.to_string()), (local, server));
            }
            assert_eq!(servers.len(), 2, "the neighbour and itself: {servers:?}");
            assert!(servers.values().all(|share| *share == 50));

            for number in 0..50_u16 {
                let host = format!("{}:{}", case.host, 30_000 + number);
                let ask = from_inside(PacketBuilder::udp(&host, case.udp).payload(b"question"));
                let (local, server) = there(&mut director, &ask, case.own);
                let answer = PacketBuilder::udp(&server.to_string(), &local.to_string());
                back(&mut director, &from_inside(answer.payload(b"yes")), case.udp, &host);
            }
        }
        assert_eq!(director.drops().len(), 0, "{workers} workers");
        assert_eq!(director.connections(), 300);
        let rows = director.list();
        assert_eq!(
            rows.iter().filter(|row| row.state == ConnectionState::Established).count(),
            200
        );
        let shares = director.connections_by_worker();
        assert!(shares.iter().all(|share| *share > 10), "{shares:?}");
        director.advance(901_000);
        assert_eq!(director.connections(), 0, "loads are checked beside it");
    }
}

#[test]
fn a_connection_closes_and_its_port_is_used_again() {
    let mut director = director(3);
    let (host, vip) = ("10.0.0.11:20000", "192.0.2.100:80");
    let own = "10.0.0.1".parse().unwrap();
    for _ in 0..4 {
        let send = |flags| from_inside(PacketBuilder::tcp(host, vip).flags(flags));
        let (local, server) = there(&mut director, &send(SYN), own);
        let answer = |flags| {
            from_inside(PacketBuilder::tcp(&server.to_string(), &local.to_string()).flags(flags))
        };
        back(&mut director, &answer(SYN | ACK), vip, host);
        there(&mut director, &send(ACK), own);
        there(&mut director, &send(FIN | ACK), own);
        back(&mut director, &answer(FIN | ACK), vip, host);
        there(&mut director, &send(ACK), own);
        assert_eq!(director.list()[0].state, ConnectionState::TimeWait);
        assert_eq!(director.connections(), 1);
    }
}

/// As a router sends it on: another link, one TTL less.
fn passed_on(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[..6].copy_from_slice(&SERVER_SIDE);
    frame[6..12].copy_from_slice(&INSIDE);
    if frame[12] == 8 {
        frame[22] -= 1;
        frame[24..26].fill(0);
        let sum = internet_checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        frame[21] -= 1;
    }
    frame
}

#[test]
fn icmp_errors_are_translated_at_both_ends() {
    for workers in [1, 3] {
        let mut director = director(workers);
        for case in families() {
            for is_tcp in [true, false] {
                let vip = if is_tcp { case.tcp } else { case.udp };
                let host = format!("{}:20000", case.host);
                let packet = |from: &str, to: &str| {
                    if is_tcp { PacketBuilder::tcp(from, to) } else { PacketBuilder::udp(from, to) }
                };
                let bare = |end: &str| end.parse::<SocketAddr>().unwrap().ip().to_string();
                let syn = from_inside(packet(&host, vip).flags(SYN));
                let (local, server) = there(&mut director, &syn, case.own);
                let (local, server) = (local.to_string(), server.to_string());
                back(&mut director, &from_inside(packet(&server, &local)), vip, &host);

                // The server, or a router before it, about what it was sent.
                for router in [bare(&server), "10.0.0.9".into()] {
                    let router = if vip.starts_with('[') {
                        router.replace("10.0.0.9", "fd00::9")
                    } else {
                        router
                    };
                    let about = packet(&local, &server).payload(b"some data").ttl(60).build();
                    director.receive(IN, &error(&router, &about, IN, 1400));
                    let about = packet(&host, vip).payload(b"some data").ttl(60).build();
                    let expected = passed_on(&error(&bare(vip), &about, IN, 1400));
                    let sent = director.sent_one();
                    assert_eq!((sent.interface, sent.octets), (IN, expected), "{router} to {host}");
                }
                // The host about what it was answered: it reports as itself.
                let about = packet(vip, &host).payload(b"an answer").ttl(60).build();
                director.receive(IN, &error(&bare(&host), &about, IN, 1400));
                let about = packet(&server, &local).payload(b"an answer").ttl(60).build();
                let mut expected = error(&bare(&local), &about, IN, 1400);
                // To the server, as which `about` speaks.
                expected = passed_on(&expected);
                let sent = director.sent_one();
                assert_eq!((sent.interface, sent.octets), (IN, expected), "{host} to {server}");
            }
        }
        assert_eq!(director.drops().len(), 0);
    }
}

#[test]
fn fragments_pass_in_any_order() {
    for workers in [1, 2, 4] {
        let mut director = director(workers);
        for case in families() {
            let host = format!("{}:20000", case.host);
            let body: Vec<u8> = (0..4000_u32).map(|i| (i % 251) as u8).collect();
            let mut identification = 0;
            let mut whole = |director: &mut TestDirector, packet: PacketBuilder, order: usize| {
                identification += 1;
                let packet = from_inside(packet.payload(&body).may_be_split());
                let mut pieces = fragments(&packet, identification, 1000);
                match order {
                    0 => {}
                    1 => pieces.reverse(),
                    _ => pieces.rotate_left(1),
                }
                for piece in &pieces {
                    director.receive(IN, piece);
                }
                let sent = director.take_sent();
                assert!(sent.iter().all(|sent| sent.interface == IN));
                let sent: Vec<_> = sent.into_iter().map(|sent| sent.octets).collect();
                let whole = reassemble(&sent).unwrap();
                assert_checksums(&whole);
                assert_eq!(payload(&whole), body);
                ends(&whole)
            };
            for order in 0..3 {
                let (local, server) =
                    whole(&mut director, PacketBuilder::udp(&host, case.udp), order);
                assert_eq!(local.ip(), case.own);
                let answer = PacketBuilder::udp(&server.to_string(), &local.to_string());
                let (from, to) = whole(&mut director, answer, order);
                assert_eq!((from.to_string(), to.to_string()), (case.udp.into(), host.clone()));
            }
        }
        assert_eq!(director.drops().len(), 0);
        assert_eq!(director.held(), 0);
    }
}

#[test]
fn clients_outside_and_of_other_inside_networks_are_seen_as_themselves() {
    let more = TOPOLOGY.replace(
        "addresses = [\"10.0.0.1/24\", \"fd00::1/64\"]",
        "addresses = [\"10.0.0.1/24\", \"fd00::1/64\", \"10.7.0.1/24\"]",
    );
    assert_ne!(more, TOPOLOGY);
    let mut director = Setup::new(&format!("{more}{SERVICES}")).workers(3).start();
    for (interface, client) in [(OUT, "198.18.7.7:20000"), (IN, "10.7.0.9:20000")] {
        let syn = PacketBuilder::tcp(client, "192.0.2.100:80").flags(SYN);
        let syn = if interface == IN { syn.from_server() } else { syn };
        director.answering.insert("10.7.0.9".parse().unwrap(), SERVER_SIDE);
        director.receive(interface, &syn.build());
        assert_eq!(ends(&director.sent_one().octets).0.to_string(), client);
    }
}

/// One network for everything: the servers would answer their neighbour past the director.
#[test]
fn a_client_in_the_servers_network_is_served_by_full_nat() {
    let text = format!(
        r#"
[interface.lan]
role = "both"
addresses = ["10.0.0.1/24", "fd00::1/64"]
{}
"#,
        SERVICES.replace("192.0.2.100", "10.0.0.100").replace("2001:db8:1::100", "fd00::100")
    );
    for workers in [1, 3] {
        let mut setup = Setup::new(&text).workers(workers);
        setup.macs = vec![INSIDE];
        let mut director = setup.start();
        for host in ["10.0.0.11", "10.0.0.12", "10.0.0.99", "fd00::11", "fd00::12", "fd00::99"] {
            director.answering.insert(host.parse().unwrap(), SERVER_SIDE);
        }
        for (client, vip, own) in [
            ("10.0.0.99:4000", "10.0.0.100:80", "10.0.0.1"),
            ("[fd00::99]:4000", "[fd00::100]:80", "fd00::1"),
        ] {
            let syn = PacketBuilder::tcp(client, vip).flags(SYN).from_server().build();
            director.receive(OUT, &syn);
            let (local, server) = ends(&director.sent_one().octets);
            assert_eq!(local.ip(), own.parse::<IpAddr>().unwrap());
            let answer = PacketBuilder::tcp(&server.to_string(), &local.to_string());
            director.receive(OUT, &from_inside(answer.flags(SYN | ACK)));
            let (from, to) = ends(&director.sent_one().octets);
            assert_eq!((from.to_string(), to.to_string()), (vip.into(), client.into()));
        }
    }
}

#[test]
fn what_comes_to_an_own_address_without_a_connection_is_refused() {
    for workers in [1, 3] {
        let mut director = director(workers);
        for port in 1000..1050 {
            let to = format!("10.0.0.1:{port}");
            director.receive(IN, &from_inside(PacketBuilder::tcp("10.0.0.12:8080", &to)));
            director.sent_one();
        }
        assert_eq!(director.dropped(DropReason::NoService), 50);
        assert_eq!(director.connections(), 0);
    }
}
