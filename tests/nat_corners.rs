//! Ports used again, reply tuples that are taken, resets, and what errors must not do.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking"
)]

mod support;

use pointsman::dataplane::conn::tcp_state::ConnectionState;
use pointsman::dataplane::stats::DropReason;
use support::director::{IN, OUT, Setup, TOPOLOGY, TestDirector};
use support::packet::{
    ACK, FIN, PacketBuilder, RST, SYN, assert_checksums, ends, error, fragments,
};

const SERVICES: &str = r#"
[[service]]
name = "web"
listen = "tcp://192.0.2.100:80"
scheduler = "rr"
servers = [{ address = "10.0.0.11:8080" }, { address = "10.0.0.12:8080" }]

[[service]]
name = "also"
listen = "tcp://192.0.2.101:80"
scheduler = "rr"
servers = [{ address = "10.0.0.11:8080" }, { address = "10.0.0.12:8080" }]

[[service]]
name = "third"
listen = "tcp://192.0.2.102:80"
scheduler = "rr"
servers = [{ address = "10.0.0.11:8080" }, { address = "10.0.0.12:8080" }]

[[service]]
name = "dns"
listen = "udp://192.0.2.100:53"
servers = [{ address = "10.0.0.12:5353" }]

[[service]]
name = "web6"
listen = "tcp://[2001:db8:1::100]:80"
scheduler = "rr"
servers = [{ address = "[fd00::11]:8080" }, { address = "[fd00::12]:8080" }]

[[service]]
name = "also6"
listen = "tcp://[2001:db8:1::101]:80"
scheduler = "rr"
servers = [{ address = "[fd00::11]:8080" }, { address = "[fd00::12]:8080" }]

[[service]]
name = "third6"
listen = "tcp://[2001:db8:1::102]:80"
scheduler = "rr"
servers = [{ address = "[fd00::11]:8080" }, { address = "[fd00::12]:8080" }]

[[service]]
name = "dns6"
listen = "udp://[2001:db8:1::100]:53"
servers = [{ address = "[fd00::12]:5353" }]
"#;

const CLIENT: &str = "198.18.7.7:20000";
const CLIENT6: &str = "[2001:db8:ffff::7]:20000";
const VIP: &str = "192.0.2.100:80";

/// Three services that share their servers, and one of UDP, in both families.
const FAMILIES: [([&str; 3], &str, &str); 2] = [
    ([VIP, "192.0.2.101:80", "192.0.2.102:80"], "192.0.2.100:53", "10.0.0.12:5353"),
    (
        ["[2001:db8:1::100]:80", "[2001:db8:1::101]:80", "[2001:db8:1::102]:80"],
        "[2001:db8:1::100]:53",
        "[fd00::12]:5353",
    ),
];

/// Each family on one worker and on three.
fn variants() -> impl Iterator<Item = (u16, ([&'static str; 3], &'static str, &'static str))> {
    FAMILIES.into_iter().flat_map(|family| [(1, family), (3, family)])
}

/// The client of an endpoint's family.
fn client_of(end: &str) -> &'static str {
    if end.starts_with('[') { CLIENT6 } else { CLIENT }
}

fn director(workers: u16) -> TestDirector {
    Setup::with_services(SERVICES).workers(workers).start()
}

/// What the client's segment became: the server that it went to.
fn request(director: &mut TestDirector, service: &str, flags: u8) -> String {
    director.receive(OUT, &PacketBuilder::tcp(client_of(service), service).flags(flags).build());
    let sent = director.sent_one();
    assert_eq!(sent.interface, IN);
    assert_checksums(&sent.octets);
    ends(&sent.octets).1.to_string()
}

fn reply(director: &mut TestDirector, server: &str, flags: u8) {
    let packet = PacketBuilder::tcp(server, client_of(server)).flags(flags).from_server();
    director.receive(IN, &packet.build());
    let sent = director.sent_one();
    assert_eq!(sent.interface, OUT);
    assert_checksums(&sent.octets);
}

fn state(director: &mut TestDirector) -> ConnectionState {
    let [row] = director.list()[..] else { panic!("one connection") };
    row.state
}

/// Brings a connection from its SYN into a state; its server.
fn in_state(director: &mut TestDirector, wanted: ConnectionState) -> String {
    in_state_of(director, VIP, wanted)
}

/// As [`in_state`], of a connection to this service.
fn in_state_of(director: &mut TestDirector, vip: &str, wanted: ConnectionState) -> String {
    use ConnectionState as S;
    let server = request(director, vip, SYN);
    let from_client = |director: &mut TestDirector, flags| {
        assert_eq!(request(director, vip, flags), server);
    };
    if wanted != S::SynRecv {
        reply(director, &server, SYN | ACK);
        from_client(director, ACK);
    }
    match wanted {
        S::FinWait => reply(director, &server, FIN | ACK),
        S::CloseWait => from_client(director, FIN | ACK),
        S::TimeWait => {
            from_client(director, FIN | ACK);
            reply(director, &server, FIN | ACK);
        }
        S::Close => from_client(director, RST),
        _ => {}
    }
    assert_eq!(state(director), wanted);
    server
}

#[test]
fn a_syn_on_a_connection_that_is_over_goes_to_a_newly_scheduled_server() {
    for workers in [1, 3] {
        for over in [ConnectionState::TimeWait, ConnectionState::Close] {
            let mut director = director(workers);
            let before = in_state(&mut director, over);
            let after = request(&mut director, VIP, SYN);
            assert_ne!(before, after, "round robin: the other one, from {over}");
            assert_eq!(state(&mut director), ConnectionState::SynRecv);
            reply(&mut director, &after, SYN | ACK);
            assert_eq!(director.connections(), 1);
            // What the old server still sends belongs to nothing.
            let old = PacketBuilder::tcp(&before, CLIENT).from_server();
            director.receive(IN, &old.flags(ACK).build());
            assert_eq!(director.take_sent().len(), 0);
            assert_eq!(director.dropped(DropReason::NotOwned), 1);
        }
    }
}

#[test]
fn a_syn_on_a_connection_that_lives_keeps_its_server() {
    use ConnectionState as S;
    for alive in [S::SynRecv, S::Established, S::FinWait, S::CloseWait] {
        let mut director = director(1);
        let before = in_state(&mut director, alive);
        assert_eq!(request(&mut director, VIP, SYN), before, "in {alive}");
        assert_eq!(director.connections(), 1);
    }
}

#[test]
fn a_syn_to_a_quiesced_server_is_scheduled_anew_in_every_state() {
    use ConnectionState as S;
    for alive in [S::SynRecv, S::FinWait, S::CloseWait, S::Established] {
        for is_removed in [false, true] {
            let mut director = director(1);
            let before = in_state(&mut director, alive);
            let entry = format!("{{ address = \"{before}\" }}");
            let quiet = format!("{{ address = \"{before}\", weight = 0 }}");
            let text = if is_removed {
                SERVICES.replace(&format!(", {entry}"), "").replace(&format!("{entry}, "), "")
            } else {
                SERVICES.replace(&entry, &quiet)
            };
            assert_ne!(text, SERVICES);
            director.install(&format!("{TOPOLOGY}{text}"));
            let after = request(&mut director, VIP, SYN);
            assert_ne!(after, before, "{alive}, removed: {is_removed}");
            assert_eq!(director.connections(), 1);
        }
    }
}

#[test]
fn a_syn_that_expires_here_ends_no_connection() {
    let mut director = director(1);
    let before = in_state(&mut director, ConnectionState::TimeWait);
    director.receive(OUT, &PacketBuilder::tcp(CLIENT, VIP).flags(SYN).ttl(1).build());
    assert_eq!(director.sent_one().interface, OUT, "Time Exceeded");
    assert_eq!(state(&mut director), ConnectionState::TimeWait);
    assert_eq!(request(&mut director, VIP, ACK), before);
}

#[test]
fn two_services_never_share_a_reply_tuple() {
    for (workers, ([one, two, three], ..)) in variants() {
        let mut director = director(workers);
        let first = request(&mut director, one, SYN);
        let second = request(&mut director, two, SYN);
        assert_ne!(first, second, "another server");
        let client = client_of(one);
        director.receive(OUT, &PacketBuilder::tcp(client, three).flags(SYN).build());
        assert_eq!(director.take_sent().len(), 0, "no server is left");
        assert_eq!(director.dropped(DropReason::ReplyTupleTaken), 1);
        assert_eq!(director.connections(), 2);
        for (server, vip) in [(&first, one), (&second, two)] {
            let packet = PacketBuilder::tcp(server, client).flags(SYN | ACK).from_server();
            director.receive(IN, &packet.build());
            let (source, _) = ends(&director.sent_one().octets);
            assert_eq!(source.to_string(), vip, "each answers as its service");
        }
    }
}

#[test]
fn data_after_a_reset_still_flows() {
    for from_client in [false, true] {
        let mut director = director(1);
        let server = in_state(&mut director, ConnectionState::Established);
        if from_client {
            request(&mut director, VIP, RST);
        } else {
            reply(&mut director, &server, RST | ACK);
        }
        assert_eq!(state(&mut director), ConnectionState::Close);
        assert_eq!(director.list()[0].expires_ms, 10_000);
        for _ in 0..5 {
            director.advance(6000);
            assert_eq!(request(&mut director, VIP, ACK), server);
            reply(&mut director, &server, ACK);
        }
        assert_eq!(director.connections(), 1, "a blind reset kills nothing that goes on");
        director.advance(10_300);
        assert_eq!(director.connections(), 0);
    }
}

#[test]
fn an_error_neither_refreshes_nor_moves_nor_ends_a_connection() {
    for (workers, ([vip, ..], ..)) in variants() {
        let mut director = director(workers);
        let server = in_state_of(&mut director, vip, ConnectionState::Established);
        director.advance(60_000);
        let before = director.list();
        let client = client_of(vip);
        let is_v4 = client == CLIENT;
        let (icmp, routers) = if is_v4 {
            (34, ["198.18.0.9", "10.0.0.9"])
        } else {
            (54, ["2001:db8:ffff::9", "fd00::9"])
        };
        let to_server = PacketBuilder::tcp(client, &server).build();
        let to_client = PacketBuilder::tcp(vip, client).build();
        for code in 0..16_u8 {
            for (router, about, interface) in
                [(routers[0], &to_client, OUT), (routers[1], &to_server, IN)]
            {
                let mut frame = error(router, about, interface, 1400);
                // The code is no more than a number here: the checksum follows it.
                let sum = u16::from_be_bytes([frame[icmp + 2], frame[icmp + 3]]);
                let sum = u32::from(sum) + u32::from(frame[icmp + 1]) + 0xffff - u32::from(code);
                frame[icmp + 1] = code;
                let sum = (sum & 0xffff) + (sum >> 16);
                frame[icmp + 2..icmp + 4].copy_from_slice(&(sum as u16).to_be_bytes());
                director.receive(interface, &frame);
                director.sent_one();
            }
        }
        assert_eq!(format!("{:?}", director.list()), format!("{before:?}"));
        assert_eq!(before[0].expires_ms, 840_000);
    }
}

#[test]
fn errors_of_our_own_are_limited_and_what_is_held_back_is_counted() {
    let mut director = director(1);
    let closed = PacketBuilder::udp(CLIENT, "192.0.2.100:81").build();
    for _ in 0..1500 {
        director.receive(OUT, &closed);
    }
    let counts = |director: &TestDirector| {
        let stats = director.stats(0);
        (stats.errors_sent.get(), stats.errors_suppressed.get())
    };
    assert_eq!((director.take_sent().len(), counts(&director)), (1000, (1000, 500)));
    director.advance(100);
    for _ in 0..150 {
        director.receive(OUT, &closed);
    }
    assert_eq!((director.take_sent().len(), counts(&director)), (100, (1100, 550)));
    assert_eq!(director.dropped(DropReason::NoService), 1650);
}

#[test]
fn each_worker_has_a_limit_of_its_own() {
    for (client, closed) in
        [("198.18.7.7", "192.0.2.100:81"), ("[2001:db8:ffff::7]", "[2001:db8:1::100]:81")]
    {
        let mut director = director(3);
        let datagram = |port: u16| PacketBuilder::udp(&format!("{client}:{port}"), closed).build();
        let counts = |director: &TestDirector| {
            [0, 1, 2].map(|worker| {
                let stats = director.stats(worker);
                (stats.errors_sent.get(), stats.errors_suppressed.get())
            })
        };
        // A client port of each worker; each has sent one error then, or some.
        let mut ports = [0; 3];
        for port in 20_000..20_064 {
            let before = counts(&director);
            director.receive(OUT, &datagram(port));
            let now = counts(&director);
            ports[(0..3).find(|worker| before[*worker] != now[*worker]).unwrap()] = port;
        }
        assert!(!ports.contains(&0), "{ports:?}");
        director.advance(1000);
        director.take_sent();
        let mut expected = counts(&director);
        for (worker, port) in ports.into_iter().enumerate() {
            for _ in 0..1100 {
                director.receive(OUT, &datagram(port));
            }
            expected[worker].0 += 1000;
            expected[worker].1 += 100;
            assert_eq!(counts(&director), expected, "the others' are as they were");
        }
        assert_eq!(director.take_sent().len(), 3000);
    }
}

#[test]
fn without_a_buffer_no_error_is_sent_and_the_books_balance() {
    let mut director = director(1);
    director.outlet(0).has_buffers = false;
    director.receive(OUT, &PacketBuilder::udp(CLIENT, "192.0.2.100:81").build());
    assert_eq!(director.take_sent().len(), 0);
    assert_eq!(director.stats(0).no_buffer.get(), 1);
}

fn datagram(number: u16) -> Vec<Vec<u8>> {
    datagram_to("192.0.2.100:53", number)
}

fn datagram_to(service: &str, number: u16) -> Vec<Vec<u8>> {
    let packet = PacketBuilder::udp(client_of(service), service).payload(&[7; 100]).build();
    fragments(&packet, number, 64)
}

#[test]
fn many_datagrams_one_after_the_other_never_fill_the_table() {
    for workers in [1, 3] {
        let mut director = director(workers);
        for number in 0..10_000 {
            for fragment in datagram(number) {
                director.receive(OUT, &fragment);
            }
            assert_eq!(director.take_sent().len(), 2, "{number}: {:?}", director.drops());
        }
        assert_eq!(director.held(), 0);
    }
}

#[test]
fn a_flood_of_fragments_without_a_first_stays_bounded_and_lets_others_pass() {
    for (workers, (_, service, _)) in variants() {
        let mut director = director(workers);
        let most = 1024 * u64::from(workers);
        for number in 0..6000 {
            director.receive(OUT, &datagram_to(service, number)[1]);
            assert!(director.held() <= most);
        }
        assert_eq!(director.held(), most);
        assert_eq!(director.dropped(DropReason::FragmentQueueFull), 6000 - most);
        // The newest wait; an honest datagram in the wrong order passes in the middle of it.
        let honest = datagram_to(service, 7000);
        director.receive(OUT, &honest[1]).receive(OUT, &honest[0]);
        assert_eq!(director.take_sent().len(), 2);
        director.advance(33_000);
        assert_eq!(director.held(), 0);
        assert_eq!(director.dropped(DropReason::FragmentTimeout), most - 1);
    }
}

#[test]
fn datagrams_that_never_end_make_room_for_others() {
    let mut director = director(1);
    for number in 0..10_000 {
        director.receive(OUT, &datagram(number)[0]);
        director.sent_one();
    }
    assert_eq!(director.drops().len(), 0);
    director.receive(OUT, &datagram(9_999)[1]);
    director.sent_one();
}

#[test]
fn fragments_that_wait_are_dropped_when_the_worker_stops() {
    let mut director = director(3);
    for number in 0..50 {
        director.receive(OUT, &datagram(number)[1]);
    }
    assert_eq!(director.held(), 50);
    director.shut_down();
    assert_eq!((director.held(), director.dropped(DropReason::Shutdown)), (0, 50));
}

#[test]
fn a_udp_flow_lives_five_minutes_and_both_directions_refresh_it() {
    for (workers, (_, service, server)) in variants() {
        let mut director = director(workers);
        let client = client_of(service);
        let from_client = PacketBuilder::udp(client, service).build();
        let from_server = PacketBuilder::udp(server, client).from_server().build();
        director.receive(OUT, &from_client);
        assert_eq!(director.list()[0].expires_ms, 300_000);
        for (interface, frame) in [(IN, &from_server), (OUT, &from_client), (IN, &from_server)] {
            director.advance(299_000);
            director.receive(interface, frame);
            assert_eq!(director.list()[0].expires_ms, 300_000);
        }
        director.advance(300_300);
        assert_eq!(director.connections(), 0);
    }
}
