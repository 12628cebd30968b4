//! What becomes of connections whose server is removed.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

mod support;

use std::net::SocketAddr;

use pointsman::dataplane::stats::DropReason;
use support::director::{IN, OUT, Setup, TOPOLOGY, TestDirector};
use support::packet::{ACK, FIN, PacketBuilder, RST, SYN, assert_checksums, ends};

const VIP: &str = "192.0.2.100:80";
const VIP6: &str = "[2001:db8:1::100]:80";

fn text(on_removal: &str, servers: &[u8]) -> String {
    let list = |network: &str, end: &str| {
        let servers = servers.iter();
        let one = |last| format!("{{ address = \"{network}{last}{end}:8080\" }}");
        servers.map(one).collect::<Vec<_>>().join(", ")
    };
    let (v4, v6) = (list("10.0.0.", ""), list("[fd00::", "]"));
    let service = |name: &str, listen: &str, servers: &str| {
        format!(
            "[[service]]\nname = \"{name}\"\nlisten = \"{listen}\"\nscheduler = \"rr\"\n\
             on_removal = \"{on_removal}\"\nservers = [{servers}]\n"
        )
    };
    format!(
        "{TOPOLOGY}{}{}{}",
        service("web", &format!("tcp://{VIP}"), &v4),
        service("web6", &format!("tcp://{VIP6}"), &v6),
        service("dns", "udp://192.0.2.100:53", &v4),
    )
}

fn start(on_removal: &str, servers: &[u8], workers: u16) -> TestDirector {
    Setup::new(&text(on_removal, servers)).workers(workers).start()
}

fn client(vip: &str, number: u16) -> String {
    let host = number % 200 + 1;
    if vip == VIP6 {
        format!("[2001:db8:ffff::{host}]:{}", 2000 + number)
    } else {
        format!("198.18.0.{host}:{}", 2000 + number)
    }
}

fn from_client(vip: &str, number: u16, flags: u8) -> PacketBuilder {
    PacketBuilder::tcp(&client(vip, number), vip).flags(flags)
}

/// A connection is established; its server.
fn establish(director: &mut TestDirector, vip: &str, number: u16) -> SocketAddr {
    director.receive(OUT, &from_client(vip, number, SYN).build());
    let server = ends(&director.sent_one().octets).1;
    let answer = PacketBuilder::tcp(&server.to_string(), &client(vip, number)).from_server();
    director.receive(IN, &answer.flags(SYN | ACK).build());
    director.receive(OUT, &from_client(vip, number, ACK).build());
    director.take_sent();
    server
}

struct Tcp {
    ends: (SocketAddr, SocketAddr),
    sequence: u32,
    acknowledgement: u32,
    flags: u8,
}

fn tcp(frame: &[u8]) -> Tcp {
    assert_checksums(frame);
    let transport = if frame[12..14] == [0x86, 0xdd] { 54 } else { 34 };
    let word = |at: usize| {
        u32::from_be_bytes(frame[transport + at..transport + at + 4].try_into().unwrap())
    };
    Tcp {
        ends: ends(frame),
        sequence: word(4),
        acknowledgement: word(8),
        flags: frame[transport + 13],
    }
}

/// Removes all servers but 12, and lets the workers look at their connections.
fn remove_11(director: &mut TestDirector, on_removal: &str) {
    director.install(&text(on_removal, &[12]));
    director.advance(1);
}

#[test]
fn a_client_is_asked_for_its_numbers_and_reset_with_the_one_that_it_awaits() {
    for (vip, workers) in [(VIP, 1), (VIP, 3), (VIP6, 1), (VIP6, 3)] {
        let mut director = start("reset", &[11], workers);
        establish(&mut director, vip, 7);
        remove_11(&mut director, "reset");

        let probe = director.sent_one();
        assert_eq!(probe.interface, OUT);
        let probe = tcp(&probe.octets);
        let (from, to) = (vip.parse().unwrap(), client(vip, 7).parse().unwrap());
        assert_eq!((probe.ends, probe.flags), ((from, to), SYN));

        // What every TCP answers (RFC 5961 section 4.2).
        let challenge = from_client(vip, 7, ACK).sequence(1111).acknowledgement(98_765);
        director.receive(OUT, &challenge.build());
        let reset = director.sent_one();
        assert_eq!(reset.interface, OUT);
        let reset = tcp(&reset.octets);
        assert_eq!((reset.ends, reset.flags), ((from, to), RST));
        assert_eq!((reset.sequence, reset.acknowledgement), (98_765, 0));
        assert_eq!(director.dropped(DropReason::ServerRemoved), 1);

        let sums = (0..usize::from(workers)).map(|worker| {
            let stats = director.stats(worker);
            (stats.removal_probes.get(), stats.removal_resets.get())
        });
        let sums = sums.fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
        assert_eq!(sums, (1, 1));
        director.check_books();
    }
}

#[test]
fn a_client_that_sends_first_is_reset_too_and_one_whose_reset_was_lost_again() {
    let mut director = start("reset", &[11], 2);
    establish(&mut director, VIP, 7);
    remove_11(&mut director, "reset");
    director.take_sent();
    for acknowledgement in [500, 900] {
        let data = from_client(VIP, 7, ACK).acknowledgement(acknowledgement).payload(b"more");
        director.receive(OUT, &data.build());
        let reset = tcp(&director.sent_one().octets);
        assert_eq!((reset.flags, reset.sequence), (RST, acknowledgement));
    }
    // After ten seconds nothing is left.
    assert_eq!(director.connections(), 1);
    director.advance(10_500);
    assert_eq!(director.connections(), 0);
    director.check_books();
}

#[test]
fn the_server_that_was_removed_is_heard_no_more_and_nobody_resets_from_inside() {
    let mut director = start("reset", &[11], 2);
    let server = establish(&mut director, VIP, 7);
    remove_11(&mut director, "reset");
    director.take_sent();
    let data = PacketBuilder::tcp(&server.to_string(), &client(VIP, 7)).from_server();
    director.receive(IN, &data.flags(ACK).payload(b"late").build());
    assert!(director.take_sent().is_empty());
    assert_eq!(director.dropped(DropReason::ServerRemoved), 1);
    // With the client's addresses, but not from where it is.
    let forged = from_client(VIP, 7, ACK).from_server();
    director.receive(IN, &forged.build());
    assert!(director.take_sent().is_empty());
    assert_eq!(director.dropped(DropReason::WrongSide), 1);
    director.check_books();
}

#[test]
fn a_client_that_uses_its_port_again_gets_another_server() {
    let mut director = start("reset", &[11], 2);
    establish(&mut director, VIP, 7);
    remove_11(&mut director, "reset");
    director.take_sent();
    director.receive(OUT, &from_client(VIP, 7, SYN).build());
    assert_eq!(ends(&director.sent_one().octets).1.to_string(), "10.0.0.12:8080");
    assert_eq!(director.connections(), 1);
    director.check_books();
}

#[test]
fn a_client_that_has_reset_the_connection_itself_gets_nothing() {
    let mut director = start("reset", &[11], 2);
    establish(&mut director, VIP, 7);
    remove_11(&mut director, "reset");
    director.take_sent();
    director.receive(OUT, &from_client(VIP, 7, RST).build());
    assert!(director.take_sent().is_empty());
    assert_eq!(director.connections(), 0);
    director.check_books();
}

#[test]
fn connections_that_are_not_established_or_over_are_forgotten_without_a_word() {
    let mut director = start("reset", &[11], 2);
    director.receive(OUT, &from_client(VIP, 1, SYN).build()).take_sent();
    let server = establish(&mut director, VIP, 2);
    director.receive(OUT, &from_client(VIP, 2, FIN | ACK).build());
    let last = PacketBuilder::tcp(&server.to_string(), &client(VIP, 2)).from_server();
    director.receive(IN, &last.flags(FIN | ACK).build());
    director.take_sent();
    assert_eq!(director.connections(), 2);
    remove_11(&mut director, "reset");
    assert!(director.take_sent().is_empty());
    assert_eq!(director.connections(), 0);
    director.check_books();
}

#[test]
fn with_finish_the_connections_go_on_and_udp_flows_end() {
    let mut director = start("finish", &[11], 3);
    let server = establish(&mut director, VIP, 7);
    let query = PacketBuilder::udp(&client(VIP, 8), "192.0.2.100:53").payload(b"?").build();
    director.receive(OUT, &query).take_sent();
    assert_eq!(director.connections(), 2);
    remove_11(&mut director, "finish");
    assert!(director.take_sent().is_empty());
    assert_eq!(director.connections(), 1);
    director.receive(OUT, &from_client(VIP, 7, ACK).payload(b"go on").build());
    assert_eq!(ends(&director.sent_one().octets).1, server);
    director.receive(OUT, &query);
    assert_eq!(ends(&director.sent_one().octets).1.ip().to_string(), "10.0.0.12");
    director.check_books();
}

#[test]
fn with_forget_the_record_is_gone_and_nothing_is_sent() {
    let mut director = start("forget", &[11], 3);
    establish(&mut director, VIP, 7);
    establish(&mut director, VIP6, 7);
    remove_11(&mut director, "forget");
    assert!(director.take_sent().is_empty());
    assert_eq!(director.connections(), 0);
    director.receive(OUT, &from_client(VIP, 7, ACK).build());
    assert!(director.take_sent().is_empty());
    assert_eq!(director.dropped(DropReason::NoConnection), 1);
    director.check_books();
}

#[test]
fn connections_of_the_servers_that_stay_are_left_alone() {
    for on_removal in ["finish", "reset", "forget"] {
        let mut director = start(on_removal, &[11, 12], 3);
        let servers: Vec<_> = (0..40).map(|number| establish(&mut director, VIP, number)).collect();
        remove_11(&mut director, on_removal);
        director.take_sent();
        for (number, server) in (0..).zip(servers) {
            if server.ip().to_string() == "10.0.0.12" {
                director.receive(OUT, &from_client(VIP, number, ACK).build());
                assert_eq!(ends(&director.sent_one().octets).1, server, "{on_removal}");
            }
        }
        director.check_books();
    }
}

#[test]
fn many_clients_are_asked_in_paces_and_each_of_them_once() {
    let mut director = start("reset", &[11], 1);
    for number in 0..200 {
        establish(&mut director, VIP, number);
    }
    director.install(&text("reset", &[12]));
    let at_once = director.take_sent();
    assert!((1..200).contains(&at_once.len()), "{} at once", at_once.len());
    let mut asked: Vec<_> = at_once.iter().map(|sent| ends(&sent.octets).1).collect();
    for _ in 0..20 {
        let sent = director.advance(1).take_sent();
        asked.extend(sent.iter().map(|sent| ends(&sent.octets).1));
    }
    asked.sort_unstable();
    asked.dedup();
    assert_eq!(asked.len(), 200);
    assert_eq!(director.stats(0).removal_probes.get(), 200);
    director.check_books();
}

#[test]
fn the_search_gets_round_although_servers_are_removed_without_end() {
    let mut director = Setup::new(&text("forget", &[11, 12])).connections(8000, 100).start();
    for number in 0..3000 {
        establish(&mut director, VIP, number);
    }
    let of_11 = director.load(&format!("tcp://{VIP}"), "10.0.0.11:8080").0;
    assert_eq!(of_11, 1500);
    director.install(&text("forget", &[12]));
    // Each change removes another server before the search is through.
    for last in 0..10 {
        director.install(&text("forget", &[12, 20 + last]));
        director.install(&text("forget", &[12]));
        director.advance(1);
    }
    assert_eq!(director.connections(), 1500);
    director.check_books();
}
