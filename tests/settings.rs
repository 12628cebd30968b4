//! Idle times per service, removed servers and services, one-packet scheduling, rate limits.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::excessive_nesting,
    reason = "a test fails by panicking"
)]

mod support;

use std::collections::BTreeMap;

use pointsman::dataplane::conn::tcp_state::ConnectionState;
use pointsman::dataplane::mailbox::Command;
use pointsman::dataplane::stats::DropReason;
use support::director::{IN, OUT, Setup, TOPOLOGY, TestDirector};
use support::packet::{
    ACK, FIN, PacketBuilder, RST, SERVER_SIDE, SYN, assert_checksums, ends, fragments,
};

const CLIENT: &str = "198.18.7.7:20000";

fn request(director: &mut TestDirector, client: &str, service: &str, flags: u8) -> String {
    director.receive(OUT, &PacketBuilder::tcp(client, service).flags(flags).build());
    ends(&director.sent_one().octets).1.to_string()
}

fn reply(director: &mut TestDirector, server: &str, client: &str, flags: u8) {
    director.receive(IN, &PacketBuilder::tcp(server, client).flags(flags).from_server().build());
    director.sent_one();
}

fn ask(director: &mut TestDirector, client: &str, service: &str) -> String {
    director.receive(OUT, &PacketBuilder::udp(client, service).build());
    ends(&director.sent_one().octets).1.to_string()
}

const TIMES: &str = r#"
[timeouts]
established = "1h"
fin_wait = "45s"

[[service]]
name = "patient"
listen = "tcp://192.0.2.100:80"
servers = [{ address = "10.0.0.11:8080" }]
timeouts = { established = "2h", syn_recv = "7s", fin_wait = "8s", close_wait = "9s", time_wait = "11s", close = "12s" }

[[service]]
name = "usual"
listen = "tcp://192.0.2.101:80"
servers = [{ address = "10.0.0.12:8080" }]

[[service]]
name = "rfc"
listen = "tcp://192.0.2.102:80"
servers = [{ address = "10.0.0.13:8080" }]
timeouts = { preset = "rfc", close = "13s" }

[[service]]
name = "brief"
listen = "udp://192.0.2.100:53"
servers = [{ address = "10.0.0.11:53" }]
timeouts = { udp = "5s" }

[[service]]
name = "long"
listen = "udp://192.0.2.101:53"
servers = [{ address = "10.0.0.12:53" }]
"#;

/// The state of the one connection, and how long it lives from now on.
fn life(director: &mut TestDirector) -> (ConnectionState, u32) {
    let [row] = director.list()[..] else { panic!("one connection") };
    (row.state, row.expires_ms / 1000)
}

#[test]
fn each_service_has_its_own_idle_times_in_every_state() {
    use ConnectionState as S;
    // SYN_RECV, ESTABLISHED, FIN_WAIT, TIME_WAIT; CLOSE_WAIT; CLOSE.
    for (vip, times) in [
        ("192.0.2.100:80", [7, 7200, 8, 11, 9, 12]),
        ("192.0.2.101:80", [60, 3600, 45, 120, 60, 10]),
        ("192.0.2.102:80", [240, 7440, 240, 240, 240, 13]),
    ] {
        for way in 0..3 {
            let mut director = Setup::with_services(TIMES).start();
            let server = request(&mut director, CLIENT, vip, SYN);
            assert_eq!(life(&mut director), (S::SynRecv, times[0]), "{vip}");
            reply(&mut director, &server, CLIENT, SYN | ACK);
            request(&mut director, CLIENT, vip, ACK);
            assert_eq!(life(&mut director), (S::Established, times[1]), "{vip}");
            let last = match way {
                0 => {
                    reply(&mut director, &server, CLIENT, FIN | ACK);
                    assert_eq!(life(&mut director), (S::FinWait, times[2]), "{vip}");
                    request(&mut director, CLIENT, vip, FIN | ACK);
                    assert_eq!(life(&mut director), (S::TimeWait, times[3]), "{vip}");
                    times[3]
                }
                1 => {
                    request(&mut director, CLIENT, vip, FIN | ACK);
                    assert_eq!(life(&mut director), (S::CloseWait, times[4]), "{vip}");
                    times[4]
                }
                _ => {
                    reply(&mut director, &server, CLIENT, RST);
                    assert_eq!(life(&mut director), (S::Close, times[5]), "{vip}");
                    times[5]
                }
            };
            director.advance(last * 1000 - 200);
            assert_eq!(director.connections(), 1, "{vip}");
            director.advance(500);
            assert_eq!(director.connections(), 0, "{vip}");
        }
    }
}

#[test]
fn a_udp_flow_lives_as_long_as_its_service_says() {
    let mut director = Setup::with_services(TIMES).start();
    ask(&mut director, CLIENT, "192.0.2.100:53");
    ask(&mut director, CLIENT, "192.0.2.101:53");
    director.advance(4_900);
    assert_eq!(director.connections(), 2);
    director.advance(400);
    assert_eq!(director.list()[0].service.to_string(), "192.0.2.101:53");
    director.advance(295_000);
    assert_eq!(director.connections(), 0);
}

#[test]
fn new_idle_times_hold_from_a_connections_next_state_on() {
    for workers in [1, 3] {
        let mut director = Setup::with_services(TIMES).workers(workers).start();
        let server = request(&mut director, CLIENT, "192.0.2.100:80", SYN);
        reply(&mut director, &server, CLIENT, SYN | ACK);
        request(&mut director, CLIENT, "192.0.2.100:80", ACK);
        let text = TIMES.replace("close_wait = \"9s\"", "close_wait = \"99s\"");
        director.install(&format!("{TOPOLOGY}{text}"));
        assert_eq!(life(&mut director), (ConnectionState::Established, 7200));
        request(&mut director, CLIENT, "192.0.2.100:80", FIN | ACK);
        assert_eq!(life(&mut director), (ConnectionState::CloseWait, 99));
    }
}

const PAIR: &str = r#"
[[service]]
name = "web"
listen = "tcp://192.0.2.100:80"
scheduler = "rr"
servers = [{ address = "10.0.0.11:8080" }, { address = "10.0.0.12:8080" }]

[[service]]
name = "dns"
listen = "udp://192.0.2.100:53"
scheduler = "rr"
servers = [{ address = "10.0.0.11:53" }, { address = "10.0.0.12:53" }]

[[service]]
name = "dns6"
listen = "udp://[2001:db8:1::100]:53"
scheduler = "rr"
servers = [{ address = "[fd00::11]:53" }, { address = "[fd00::12]:53" }]
"#;

#[test]
fn udp_flows_of_a_removed_server_end_and_tcp_connections_go_on() {
    for workers in [1, 3] {
        let mut director = Setup::with_services(PAIR).workers(workers).start();
        let client = |number: u16| format!("198.18.7.{}:{}", number % 250, 2000 + number);
        let client6 = |number: u16| format!("[2001:db8:ffff::7]:{}", 2000 + number);
        let mut servers = BTreeMap::new();
        for number in 0..2500 {
            ask(&mut director, &client(number), "192.0.2.100:53");
            ask(&mut director, &client6(number), "[2001:db8:1::100]:53");
            if number < 100 {
                let server = request(&mut director, &client(number), "192.0.2.100:80", SYN);
                servers.insert(number, server);
            }
        }
        assert_eq!(director.connections(), 5100);
        let fewer = PAIR
            .replace("{ address = \"10.0.0.11:8080\" }, ", "")
            .replace("{ address = \"10.0.0.11:53\" }, ", "")
            .replace("{ address = \"[fd00::11]:53\" }, ", "");
        director.install(&format!("{TOPOLOGY}{fewer}"));
        director.advance(1000);
        let rows = director.list();
        assert_eq!(rows.len(), 2600, "half of the flows, and all TCP connections");
        let orphans = rows.iter().filter(|row| row.server.port() == 53);
        assert!(orphans.clone().all(|row| row.server.ip().to_string().ends_with("12")));
        for (number, server) in servers {
            let before = request(&mut director, &client(number), "192.0.2.100:80", ACK);
            assert_eq!(before, server);
        }
        for number in 0..100 {
            assert_eq!(ask(&mut director, &client(number), "192.0.2.100:53"), "10.0.0.12:53");
            let server = ask(&mut director, &client6(number), "[2001:db8:1::100]:53");
            assert_eq!(server, "[fd00::12]:53");
        }
        assert_eq!(director.load("udp://192.0.2.100:53", "10.0.0.11:53"), (0, 0));
        assert_eq!(director.drops().len(), 0);
    }
}

/// With several workers the owner of a packet to what is a VIP no more must stay the same.
#[test]
fn connections_of_a_removed_service_go_on() {
    for workers in [1, 2, 3, 4] {
        let mut director = Setup::with_services(PAIR).workers(workers).start();
        let client = |number: u16| format!("198.18.7.7:{}", 2000 + number);
        let mut servers = Vec::new();
        for number in 0..50 {
            servers.push(request(&mut director, &client(number), "192.0.2.100:80", SYN));
            ask(&mut director, &client(number), "192.0.2.100:53");
        }
        director.install(TOPOLOGY);
        director.advance(1000);
        assert_eq!(director.connections(), 50, "UDP flows end");
        for (number, server) in (0..).zip(servers) {
            let client = client(number);
            reply(&mut director, &server, &client, SYN | ACK);
            assert_eq!(request(&mut director, &client, "192.0.2.100:80", ACK), server);
        }
        // Nobody else is served.
        director.receive(OUT, &PacketBuilder::tcp(CLIENT, "192.0.2.100:80").flags(SYN).build());
        assert_eq!(director.drops(), BTreeMap::from([("not_owned".into(), 1)]), "{workers}");
        director.advance(901_000);
        assert_eq!(director.connections(), 0);
    }
}

const ONE_PACKET: &str = r#"
[[service]]
name = "dns"
listen = "udp://192.0.2.100:53"
scheduler = "wrr"
one_packet = true
servers = [{ address = "10.0.0.11:53", weight = 2 }, { address = "10.0.0.12:53" }]
"#;

#[test]
fn one_packet_services_keep_nothing_and_count_everything() {
    for workers in [1, 3] {
        let mut director = Setup::with_services(ONE_PACKET).workers(workers).start();
        let mut servers = BTreeMap::new();
        for number in 0..300_u16 {
            let client = format!("198.18.7.7:{}", 2000 + number % 5);
            let server = ask(&mut director, &client, "192.0.2.100:53");
            let answer = PacketBuilder::udp(&server, &client).payload(b"odd").from_server().build();
            director.receive(IN, &answer);
            let sent = director.sent_one();
            assert_checksums(&sent.octets);
            let (from, to) = ends(&sent.octets);
            assert_eq!((from.to_string(), to.to_string()), ("192.0.2.100:53".into(), client));
            *servers.entry(server).or_insert(0) += 1;
        }
        assert_eq!(
            servers,
            BTreeMap::from([("10.0.0.11:53".into(), 200), ("10.0.0.12:53".into(), 100)])
        );
        assert_eq!(director.connections(), 0);
        for (server, packets) in [("10.0.0.11:53", 200), ("10.0.0.12:53", 100)] {
            assert_eq!(director.load("udp://192.0.2.100:53", server), (0, 0));
            let slot = director.slot("udp://192.0.2.100:53", server);
            let counters = (0..usize::from(workers)).map(|worker| {
                let counters = director.stats(worker).server(slot).unwrap();
                (counters.in_packets.get(), counters.out_packets.get())
            });
            let sum = counters.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
            assert_eq!(sum, (packets, packets));
        }
        // A server that takes no more still answers.
        let quiet = ONE_PACKET.replace("weight = 2", "weight = 0");
        director.install(&format!("{TOPOLOGY}{quiet}"));
        assert_eq!(ask(&mut director, CLIENT, "192.0.2.100:53"), "10.0.0.12:53");
        let late = PacketBuilder::udp("10.0.0.11:53", CLIENT).from_server().build();
        director.receive(IN, &late);
        assert_eq!(ends(&director.sent_one().octets).0.to_string(), "192.0.2.100:53");
    }
}

#[test]
fn without_errors_per_second_nobody_is_told() {
    let text = format!("[director]\nerrors_per_second = 0\n{TOPOLOGY}{PAIR}");
    let mut director = Setup::new(&text).start();
    for _ in 0..10 {
        director.receive(OUT, &PacketBuilder::udp(CLIENT, "192.0.2.100:81").build());
        director.receive(OUT, &PacketBuilder::tcp(CLIENT, "192.0.2.100:81").flags(SYN).build());
        director.advance(10_000);
    }
    assert_eq!(director.take_sent().len(), 0);
    let stats = director.stats(0);
    assert_eq!((stats.errors_sent.get(), stats.errors_suppressed.get()), (0, 20));
    assert_eq!(director.dropped(DropReason::NoService), 20);
}

#[test]
fn few_errors_per_second_are_few() {
    let text = format!("[director]\nerrors_per_second = 3\n{TOPOLOGY}{PAIR}");
    let mut director = Setup::new(&text).start();
    for (wait, expected) in [(0, 3), (0, 0), (1000, 3), (334, 1), (100_000, 3)] {
        director.advance(wait);
        for _ in 0..10 {
            director.receive(OUT, &PacketBuilder::udp(CLIENT, "192.0.2.100:81").build());
        }
        assert_eq!(director.take_sent().len(), expected, "after {wait} ms");
    }
}

#[test]
fn fragments_wait_as_long_as_is_said() {
    for (setting, ms) in [("1s", 1000), ("2min", 120_000)] {
        let text = format!("[director]\nfragment_timeout = \"{setting}\"\n{TOPOLOGY}{PAIR}");
        let mut director = Setup::new(&text).workers(3).start();
        let whole = PacketBuilder::udp(CLIENT, "192.0.2.100:53").payload(&[7; 100]).build();
        let [first, second] = &fragments(&whole, 7, 64)[..] else { panic!("two") };
        director.receive(OUT, second);
        director.advance(ms - 100);
        assert_eq!(director.held(), 1);
        director.receive(OUT, first);
        assert_eq!(director.take_sent().len(), 2);
        director.receive(OUT, second);
        director.advance(ms + 1200);
        assert_eq!((director.held(), director.dropped(DropReason::FragmentTimeout)), (0, 1));
        director.receive(OUT, first);
        assert_eq!(director.take_sent().len(), 1, "and are forgotten then");
    }
}

#[test]
fn a_neighbour_that_routed_packets_go_to_is_asked_as_long_as_they_do() {
    let text = format!("{TOPOLOGY}\n[director]\nrouting = true\n");
    let mut director = Setup::new(&text).start();
    let neighbor = "10.0.0.77".parse().unwrap();
    director.answering.insert(neighbor, SERVER_SIDE);
    let probe = |director: &mut TestDirector| {
        director.take_sent();
        let station = Some(SERVER_SIDE);
        director.command_all(|| Command::Solicit {
            interface: IN,
            address: neighbor,
            station,
            only_if_used: true,
        });
        director.take_sent().len()
    };
    director.receive(OUT, &PacketBuilder::udp("198.18.7.7:2000", "10.0.0.77:53").build());
    director.advance(20_000);
    assert_eq!(probe(&mut director), 1);
    director.advance(20_000);
    assert_eq!(probe(&mut director), 0, "nobody has needed it for 40 s");
}
