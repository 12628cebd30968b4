//! FTP through the director, frame by frame: control connections on one worker, their data
//! connections on any.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

mod support;

use pointsman::dataplane::stats::DropReason;
use support::director::{IN, OUT, Setup, TOPOLOGY, TestDirector};
use support::packet::{ACK, FIN, PacketBuilder, SYN, fragments};

const SERVICES: &str = r#"
[[service]]
name = "ftp"
listen = "tcp://192.0.2.100:21"
scheduler = "rr"
servers = [{ address = "10.0.0.11:21" }]

[[service]]
name = "other"
listen = "tcp://192.0.2.100:2121"
helper = "ftp"
servers = [{ address = "10.0.0.12:21" }]

[[service]]
name = "web"
listen = "tcp://192.0.2.100:8080"
servers = [{ address = "10.0.0.12:80" }]

[[service]]
name = "ftp6"
listen = "tcp://[2001:db8:1::100]:21"
servers = [{ address = "[fd00::11]:21" }]
"#;

const VIP: &str = "192.0.2.100:21";
const SERVER: &str = "10.0.0.11:21";

/// A control connection and the numbers of its ends.
struct Control {
    client: &'static str,
    vip: &'static str,
    server: &'static str,
    next: (u32, u32),
}

impl Control {
    fn open(
        director: &mut TestDirector,
        client: &'static str,
        vip: &'static str,
        server: &'static str,
    ) -> Self {
        let this = Self { client, vip, server, next: (1001, 5001) };
        director.receive(OUT, &PacketBuilder::tcp(client, vip).flags(SYN).sequence(1000).build());
        let answer = PacketBuilder::tcp(server, client).from_server().sequence(5000);
        director.receive(IN, &answer.acknowledgement(1001).flags(SYN | ACK).build());
        director.receive(OUT, &this.client_segment().build());
        director.take_sent();
        this
    }

    fn client_segment(&self) -> PacketBuilder {
        let segment = PacketBuilder::tcp(self.client, self.vip).sequence(self.next.0);
        segment.acknowledgement(self.next.1)
    }

    fn server_segment(&self) -> PacketBuilder {
        let segment = PacketBuilder::tcp(self.server, self.client).sequence(self.next.1);
        segment.acknowledgement(self.next.0).from_server()
    }

    /// The client says something; what the server hears.
    fn ask(&mut self, director: &mut TestDirector, text: &str) -> String {
        director.receive(OUT, &self.client_segment().payload(text.as_bytes()).build());
        self.next.0 += text.len() as u32;
        payload(director)
    }

    /// The server says something; what the client hears.
    fn say(&mut self, director: &mut TestDirector, text: &str) -> String {
        director.receive(IN, &self.server_segment().payload(text.as_bytes()).build());
        self.next.1 += text.len() as u32;
        payload(director)
    }

    /// The server says something that the client asked for.
    fn passive(&mut self, director: &mut TestDirector, text: &str) -> String {
        self.ask(director, "PASV\r\n");
        self.say(director, text)
    }
}

fn tcp_at(frame: &[u8]) -> usize {
    if frame[12] == 8 { 34 } else { 54 }
}

fn data_of(frame: &[u8]) -> &[u8] {
    let tcp = tcp_at(frame);
    &frame[tcp + usize::from(frame[tcp + 12] >> 4) * 4..]
}

fn payload(director: &mut TestDirector) -> String {
    let sent = director.take_sent();
    sent.iter().map(|sent| String::from_utf8_lossy(data_of(&sent.octets)).into_owned()).collect()
}

fn word(frame: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(frame[at..at + 4].try_into().unwrap())
}

fn start(workers: u16) -> TestDirector {
    Setup::with_services(SERVICES).workers(workers).start()
}

const PASSIVE: &str = "227 Entering Passive Mode (10,0,0,11,200,10).\r\n";
const TRANSLATED: &str = "227 Entering Passive Mode (192,0,2,100,200,10).\r\n";

#[test]
fn a_data_connection_at_any_worker_reaches_the_server_of_its_control_connection() {
    for workers in [1, 2, 4] {
        let mut director = start(workers);
        for port in 0..16 {
            let client = "198.18.9.9:20001";
            let mut control = Control::open(&mut director, client, VIP, SERVER);
            assert_eq!(control.ask(&mut director, "PASV\r\n"), "PASV\r\n");
            assert_eq!(control.say(&mut director, PASSIVE), TRANSLATED);
            let data = format!("198.18.9.9:{}", 30_000 + port);
            let syn = PacketBuilder::tcp(&data, "192.0.2.100:51210").flags(SYN);
            director.receive(OUT, &syn.build());
            let sent = director.sent_one();
            let expected = PacketBuilder::tcp(&data, "10.0.0.11:51210").flags(SYN).ttl(63);
            let expected = expected.macs(support::packet::INSIDE, support::packet::SERVER_SIDE);
            assert_eq!((sent.interface, sent.octets), (IN, expected.build()));
            // Nobody else gets in by it.
            let again = PacketBuilder::tcp("198.18.9.9:9", "192.0.2.100:51210").flags(SYN);
            director.receive(OUT, &again.build());
            assert_eq!(director.dropped(DropReason::NoService), 1);
            assert_eq!(director.load("tcp://192.0.2.100:21", SERVER), (2, 0));
            director.advance(16 * 60_000);
            director.advance(16 * 60_000);
            assert_eq!((director.connections(), director.expectations.len()), (0, 0));
            director.take_sent();
            director = start(workers);
        }
    }
}

/// The handshake's answer was lost: what was expected has come, and would not be opened again.
#[test]
fn a_data_connections_syn_that_comes_again_keeps_it_though_its_server_takes_nothing_new() {
    for workers in [1, 4] {
        let mut director = start(workers);
        let mut control = Control::open(&mut director, "198.18.9.9:20001", VIP, SERVER);
        let server = "{ address = \"10.0.0.11:21\" }";
        let quiet = SERVICES.replace(server, "{ address = \"10.0.0.11:21\", weight = 0 }");
        assert_ne!(quiet, SERVICES);
        director.install(&format!("{TOPOLOGY}{quiet}"));
        control.passive(&mut director, PASSIVE);
        let syn = PacketBuilder::tcp("198.18.9.9:30001", "192.0.2.100:51210").flags(SYN).build();
        for _ in 0..2 {
            director.receive(OUT, &syn);
            assert_eq!(director.sent_one().interface, IN);
            assert_eq!(director.connections(), 2);
        }
    }
}

#[test]
fn a_control_connection_lives_as_long_as_its_data_connections() {
    for workers in [1, 4] {
        let mut director = start(workers);
        let mut control = Control::open(&mut director, "198.18.9.9:20001", VIP, SERVER);
        control.passive(&mut director, PASSIVE);
        let data = |control| {
            PacketBuilder::tcp("198.18.9.9:30001", "192.0.2.100:51210").flags(control).build()
        };
        director.receive(OUT, &data(SYN)).receive(OUT, &data(ACK));
        for _ in 0..30 {
            director.advance(60_000);
            director.receive(OUT, &data(ACK));
        }
        assert_eq!(director.connections(), 2, "an idle control connection is needed");
        director.receive(OUT, &data(FIN | ACK));
        let fin = PacketBuilder::tcp("10.0.0.11:51210", "198.18.9.9:30001").from_server();
        director.receive(IN, &fin.flags(FIN | ACK).build());
        director.advance(121_000);
        director.advance(61_000);
        assert_eq!(director.connections(), 0, "it ends after the last one");
    }
}

#[test]
fn active_data_connections_come_from_the_vip_whatever_the_servers_port() {
    for (workers, server_port) in [(1, 20), (4, 20), (2, 41_000)] {
        let mut director = start(workers);
        let mut control =
            Control::open(&mut director, "198.18.9.9:20001", "192.0.2.100:2121", "10.0.0.12:21");
        let line = "PORT 198,18,9,9,100,1\r\n";
        assert_eq!(control.ask(&mut director, line), line);
        let server = format!("10.0.0.12:{server_port}");
        let syn = PacketBuilder::tcp(&server, "198.18.9.9:25601").from_server().flags(SYN);
        director.receive(IN, &syn.build());
        let sent = director.sent_one();
        let expected = PacketBuilder::tcp("192.0.2.100:2120", "198.18.9.9:25601").flags(SYN);
        let expected =
            expected.ttl(63).macs(support::packet::OUTSIDE, support::packet::CLIENT_SIDE);
        assert_eq!((sent.interface, sent.octets), (OUT, expected.build()));
        let back = PacketBuilder::tcp("198.18.9.9:25601", "192.0.2.100:2120").flags(SYN | ACK);
        director.receive(OUT, &back.build());
        assert_eq!(director.sent_one().interface, IN);
        assert_eq!(director.load("tcp://192.0.2.100:2121", "10.0.0.12:21"), (2, 0));
    }
}

#[test]
fn only_the_ends_own_addresses_are_expected() {
    let mut director = start(1);
    let mut control = Control::open(&mut director, "198.18.9.9:20001", VIP, SERVER);
    // RFC 2577: neither elsewhere nor to another server.
    for line in ["PORT 198,18,9,8,100,1\r\n", "EPRT |1|10.0.0.12|80|\r\n"] {
        assert_eq!(control.ask(&mut director, line), line);
    }
    let elsewhere = "227 Entering Passive Mode (10,0,0,12,200,10).\r\n";
    assert_eq!(control.passive(&mut director, elsewhere), elsewhere);
    assert!(director.expectations.is_empty());
    // A server that already knows the VIP.
    assert_eq!(control.passive(&mut director, TRANSLATED), TRANSLATED);
    assert_eq!(director.expectations.len(), 1);
    // Another client does not get in.
    let other = PacketBuilder::tcp("198.18.9.8:1", "192.0.2.100:51210").flags(SYN);
    director.receive(OUT, &other.build());
    assert_eq!(director.dropped(DropReason::NoService), 1);
}

#[test]
fn a_port_that_is_taken_is_written_as_another_one() {
    for workers in [1, 4] {
        let mut director = start(workers);
        let mut one = Control::open(&mut director, "198.18.9.9:20001", VIP, SERVER);
        let mut two =
            Control::open(&mut director, "198.18.9.9:20002", "192.0.2.100:2121", "10.0.0.12:21");
        assert_eq!(one.passive(&mut director, PASSIVE), TRANSLATED);
        let told = two.passive(&mut director, "229 Extended (|||51210|)\r\n");
        let port: u16 = told.split('|').nth(3).unwrap().parse().unwrap();
        assert!(port >= 49_152 && port != 51_210, "{told}");
        let syn = PacketBuilder::tcp("198.18.9.9:5", &format!("192.0.2.100:{port}")).flags(SYN);
        director.receive(OUT, &syn.build());
        let inside = PacketBuilder::tcp("198.18.9.9:5", "10.0.0.12:51210").flags(SYN).ttl(63);
        let inside = inside.macs(support::packet::INSIDE, support::packet::SERVER_SIDE);
        assert_eq!(director.sent_one().octets, inside.build());
        // The port of a service is never given away.
        let told = one.passive(&mut director, "229 Extended (|||8080|)\r\n");
        assert!(!told.contains("|8080|") && told.starts_with("229 "), "{told}");
    }
}

#[test]
fn ipv6_has_the_extended_commands() {
    let mut director = start(2);
    let client = "[2001:db8:ffff::9]:20001";
    let mut control = Control::open(&mut director, client, "[2001:db8:1::100]:21", "[fd00::11]:21");
    let line = "229 Entering Extended Passive Mode (|||51210|)\r\n";
    assert_eq!(control.passive(&mut director, line), line);
    let syn = PacketBuilder::tcp("[2001:db8:ffff::9]:7", "[2001:db8:1::100]:51210").flags(SYN);
    director.receive(OUT, &syn.build());
    let inside = PacketBuilder::tcp("[2001:db8:ffff::9]:7", "[fd00::11]:51210").flags(SYN);
    let inside = inside.ttl(63).macs(support::packet::INSIDE, support::packet::SERVER_SIDE);
    assert_eq!(director.sent_one().octets, inside.build());
    control.ask(&mut director, "EPRT |2|2001:db8:ffff::9|6275|\r\n");
    let syn = PacketBuilder::tcp("[fd00::11]:20", "[2001:db8:ffff::9]:6275").from_server();
    director.receive(IN, &syn.flags(SYN).build());
    let outside = PacketBuilder::tcp("[2001:db8:1::100]:20", "[2001:db8:ffff::9]:6275");
    let outside = outside.macs(support::packet::OUTSIDE, support::packet::CLIENT_SIDE);
    assert_eq!(director.sent_one().octets, outside.flags(SYN).ttl(63).build());
}

#[test]
fn numbers_blocks_and_timestamps_fit_after_a_text_has_grown() {
    let mut director = start(1);
    let mut control = Control::open(&mut director, "198.18.9.9:20001", VIP, SERVER);
    control.passive(&mut director, PASSIVE);
    // The client has more than the server sent: two octets.
    let there = control.next.1 + 2;
    let options = [
        vec![1, 1, 5, 10],
        (there + 10).to_be_bytes().to_vec(),
        (there + 20).to_be_bytes().to_vec(),
    ];
    let ack = control.client_segment().acknowledgement(there).tcp_options(&options.concat());
    director.receive(OUT, &ack.build());
    let sent = director.sent_one().octets;
    assert_eq!(word(&sent, 34 + 8), control.next.1);
    assert_eq!(word(&sent, 34 + 24), control.next.1 + 10);
    assert_eq!(word(&sent, 34 + 28), control.next.1 + 20);
    let expected = control.client_segment().tcp_options(
        &[
            vec![1, 1, 5, 10],
            (control.next.1 + 10).to_be_bytes().to_vec(),
            (control.next.1 + 20).to_be_bytes().to_vec(),
        ]
        .concat(),
    );
    let expected = expected.build();
    assert_eq!(word(&sent, 34 + 8), word(&expected, 34 + 8));
    director.receive(IN, &control.server_segment().payload(b"220 more\r\n").build());
    let sent = director.sent_one().octets;
    assert_eq!(word(&sent, 34 + 4), there);
    // A part of a line: it is held, and acknowledged with both clocks.
    let clock = |value: [u8; 4]| [&[1, 1, 8, 10][..], &value, &[9; 4]].concat();
    director.receive(OUT, &control.client_segment().tcp_options(&clock([1, 2, 3, 4])).build());
    director.take_sent();
    control.next.1 += 10;
    let all =
        control.client_segment().acknowledgement(there + 10).tcp_options(&clock([1, 2, 3, 4]));
    director.receive(OUT, &all.build());
    director.take_sent();
    let part = control.server_segment().tcp_options(&clock([5, 6, 7, 8])).payload(b"22");
    director.receive(IN, &part.build());
    let [on, back] = &director.take_sent()[..] else { panic!("two packets") };
    assert_eq!((on.interface, data_of(&on.octets).len()), (OUT, 0));
    assert_eq!(back.interface, IN);
    assert_eq!(word(&back.octets, 34 + 8), control.next.1 + 2, "acknowledged");
    assert_eq!(back.octets[34 + 22..34 + 32], [8, 10, 1, 2, 3, 4, 5, 6, 7, 8]);
    director.check_books();
}

#[test]
fn what_is_full_or_unreadable_is_dropped_by_name_and_comes_again() {
    let mut setup = Setup::with_services(SERVICES);
    setup.expectations = 16;
    setup.control_connections = 18;
    let mut director = setup.start();
    let client = |number: u16| -> &'static str { format!("198.18.{number}.9:20001").leak() };
    let mut controls: Vec<_> =
        (1..=17).map(|number| Control::open(&mut director, client(number), VIP, SERVER)).collect();
    for control in &mut controls[..16] {
        assert_eq!(control.passive(&mut director, PASSIVE), TRANSLATED);
    }
    let last = &mut controls[16];
    assert_eq!(last.passive(&mut director, PASSIVE), "");
    assert_eq!(director.dropped(DropReason::ExpectationTableFull), 1);
    // A segment beyond what was dropped waits for it, too.
    assert_eq!(last.say(&mut director, "226 done\r\n"), "");
    assert_eq!(director.dropped(DropReason::HelperOutOfOrder), 1);
    director.advance(60_000);
    last.next.1 = 5001;
    assert_eq!(last.passive(&mut director, PASSIVE), TRANSLATED);
    // One more control connection fits.
    let mut more = Control::open(&mut director, client(100), VIP, SERVER);
    assert_eq!(more.say(&mut director, "220 hello\r\n"), "220 hello\r\n");
    // Beyond that they pass unread.
    let mut beyond = Control::open(&mut director, client(101), VIP, SERVER);
    assert_eq!(beyond.say(&mut director, "220 hello\r\n"), "220 hello\r\n");
    assert_eq!(beyond.passive(&mut director, PASSIVE), PASSIVE);
    assert_eq!((director.stats(0).helped.get(), director.stats(0).unhelped.get()), (18, 1));
    // What the receiver would discard is not read, and fragments cannot be.
    let mut broken = more.server_segment().payload(PASSIVE.as_bytes()).build();
    broken[60] ^= 1;
    director.receive(IN, &broken);
    assert_eq!(director.dropped(DropReason::BadChecksum), 1);
    let whole = more.server_segment().may_be_split().payload(PASSIVE.as_bytes()).build();
    for piece in fragments(&whole, 7, 32) {
        director.receive(IN, &piece);
    }
    assert!(director.dropped(DropReason::HelperUnreadable) >= 1, "{:?}", director.drops());
    assert!(director.take_sent().is_empty());
    assert_eq!(more.passive(&mut director, PASSIVE), TRANSLATED);
    director.advance(16 * 60_000);
    director.advance(60_000);
    assert_eq!((director.connections(), director.expectations.len()), (0, 0));
}

#[test]
fn what_is_encrypted_is_not_held() {
    let mut director = start(1);
    let mut control = Control::open(&mut director, "198.18.9.9:20001", VIP, SERVER);
    assert_eq!(control.ask(&mut director, "AUTH TLS\r\n"), "AUTH TLS\r\n");
    assert_eq!(control.say(&mut director, "234 go on\r\n"), "234 go on\r\n");
    assert_eq!(control.say(&mut director, "..\n2"), "..\n2");
    assert_eq!(control.ask(&mut director, "..\nPORT"), "..\nPORT");
    assert_eq!(control.passive(&mut director, PASSIVE), PASSIVE);
}

#[test]
fn a_service_without_the_helper_is_left_alone() {
    let services = SERVICES.replacen("servers", "helper = \"none\"\nservers", 1);
    let mut director = Setup::with_services(&services).start();
    let mut control = Control::open(&mut director, "198.18.9.9:20001", VIP, SERVER);
    assert_eq!(control.passive(&mut director, PASSIVE), PASSIVE);
    assert!(director.expectations.is_empty());
}

#[test]
fn a_text_that_grows_beyond_the_mtu_is_cut_and_the_rest_comes_again() {
    let services = format!("{TOPOLOGY}{SERVICES}");
    let mut director =
        Setup::new(&services.replace("role = \"outside\"", "role = \"outside\"\nmtu = 1280"))
            .start();
    let mut control = Control::open(&mut director, "198.18.9.9:20001", VIP, SERVER);
    let long = format!("{PASSIVE}{}\r\n", "x".repeat(1280 - 40 - PASSIVE.len() - 2));
    let heard = control.passive(&mut director, &long);
    assert_eq!(heard.len(), 1240);
    assert!(heard.starts_with(TRANSLATED));
    // The client acknowledges what it got; the server sends the rest.
    let ack = control.client_segment().acknowledgement(5001 + 1240);
    director.receive(OUT, &ack.build());
    let told = word(&director.sent_one().octets, 34 + 8) - 5001;
    control.next.1 = 5001 + told;
    let rest = control.say(&mut director, &long[told as usize..]);
    assert_eq!(format!("{heard}{rest}"), long.replace(PASSIVE, TRANSLATED));
}

#[test]
fn guessed_segments_do_not_harm_a_control_connection() {
    let mut director = start(1);
    let mut control = Control::open(&mut director, "198.18.9.9:20001", VIP, SERVER);
    assert_eq!(control.say(&mut director, "220 hello\r\n"), "220 hello\r\n");
    assert_eq!(control.ask(&mut director, "USER x\r\n"), "USER x\r\n");
    let clock = |value: [u8; 4]| [&[1, 1, 8, 10][..], &value, &[9; 4]].concat();
    let timed = |segment: PacketBuilder| segment.tcp_options(&clock([1, 2, 3, 4]));
    director.receive(OUT, &timed(control.client_segment()).build());
    for step in 1..=64_u32 {
        let away = step.wrapping_mul(0x0400_0001);
        for (interface, guess, numbers) in [
            (OUT, control.client_segment(), control.next),
            (IN, control.server_segment(), (control.next.1, control.next.0)),
        ] {
            let guess = guess.acknowledgement(numbers.1.wrapping_add(away)).window(0);
            let guess = guess.sequence(numbers.0.wrapping_add(step.wrapping_mul(0x1234_5677)));
            director.receive(interface, &guess.tcp_options(&clock([0xee; 4])).build());
        }
    }
    director.take_sent();
    assert_eq!(control.passive(&mut director, PASSIVE), TRANSLATED);
    control.next.1 += 2;
    director.receive(OUT, &control.client_segment().build());
    control.next.1 -= 2;
    assert_eq!(word(&director.sent_one().octets, 34 + 8), control.next.1, "the true one");
    // What is acknowledged in the client's place bears the client's clock and window.
    control.next.1 += 2;
    director.receive(OUT, &timed(control.client_segment().window(777)).build());
    control.next.1 -= 2;
    let guess = control.client_segment().sequence(77).window(0).tcp_options(&clock([0xee; 4]));
    director.receive(OUT, &guess.build());
    director.take_sent();
    let part = control.server_segment().tcp_options(&clock([5, 6, 7, 8])).payload(b"22");
    director.receive(IN, &part.build());
    let [_, back] = &director.take_sent()[..] else { panic!("two packets") };
    assert_eq!(back.octets[34 + 14..34 + 16], 777_u16.to_be_bytes());
    assert_eq!(back.octets[34 + 24..34 + 28], [1, 2, 3, 4]);
    director.check_books();
}

#[test]
fn an_acknowledgement_with_a_wrong_checksum_is_not_believed() {
    let mut director = start(1);
    let mut control = Control::open(&mut director, "198.18.9.9:20001", VIP, SERVER);
    // It says that the client has a first line that never passed here.
    let mut broken = control.client_segment().acknowledgement(5001 + 40).build();
    broken[34 + 16] ^= 1;
    director.receive(OUT, &broken);
    assert_eq!(director.dropped(DropReason::BadChecksum), 1);
    assert!(director.take_sent().is_empty());
    assert_eq!(control.passive(&mut director, PASSIVE), TRANSLATED);
}

#[test]
fn twenty_servers_with_the_same_passive_port_get_ports_of_their_own() {
    let servers: Vec<_> =
        (11..31).map(|host| format!("{{ address = \"10.0.0.{host}:21\" }}")).collect();
    let services = format!(
        "[[service]]\nname = \"ftp\"\nlisten = \"tcp://{VIP}\"\nscheduler = \"rr\"\nservers = [{}]\n",
        servers.join(", ")
    );
    let mut director = Setup::with_services(&services).start();
    for host in 11..31 {
        let address = std::net::Ipv4Addr::new(10, 0, 0, host).into();
        director.set_neighbor(IN, address, support::packet::SERVER_SIDE, true);
    }
    let mut ports = std::collections::BTreeSet::new();
    for number in 0..20 {
        let client: &str = format!("198.18.9.9:{}", 20_001 + number).leak();
        director.receive(OUT, &PacketBuilder::tcp(client, VIP).flags(SYN).sequence(1000).build());
        // Round robin: its destination says which server.
        let host = director.sent_one().octets[33];
        let server = format!("10.0.0.{host}:21").leak();
        let answer = PacketBuilder::tcp(server, client).from_server().sequence(5000);
        director.receive(IN, &answer.acknowledgement(1001).flags(SYN | ACK).build());
        let mut control = Control { client, vip: VIP, server, next: (1001, 5001) };
        director.receive(OUT, &control.client_segment().build());
        director.take_sent();
        let told = control.passive(&mut director, "229 Extended (|||51210|)\r\n");
        assert!(ports.insert(told.split('|').nth(3).map(str::to_owned)), "{told}");
    }
    assert_eq!(director.expectations.len(), 20);
}

#[test]
fn idle_control_connections_do_not_close_the_service_to_others() {
    let mut setup = Setup::with_services(SERVICES);
    setup.control_connections = 4;
    let mut director = setup.start();
    for number in 0..4 {
        let client = format!("198.18.1.1:{}", 1000 + number).leak();
        Control::open(&mut director, client, VIP, SERVER);
    }
    let client = "198.18.9.9:20001";
    director.receive(OUT, &PacketBuilder::tcp(client, VIP).flags(SYN).sequence(1000).build());
    let answer = PacketBuilder::tcp(SERVER, client).from_server().sequence(5000);
    director.receive(IN, &answer.acknowledgement(1001).flags(SYN | ACK).build());
    assert_eq!(director.take_sent().len(), 2);
    let mut control = Control { client, vip: VIP, server: SERVER, next: (1001, 5001) };
    director.receive(OUT, &control.client_segment().build());
    director.sent_one();
    assert_eq!(control.say(&mut director, "220 hello\r\n"), "220 hello\r\n");
    assert_eq!(control.ask(&mut director, "PORT 198,18,9,9,100,1\r\n").len(), 23);
    assert!(director.expectations.is_empty());
    assert_eq!(director.stats(0).unhelped.get(), 1);
    // What has ended makes room for others; this one stays unread.
    director.advance(16 * 60_000);
    director.advance(60_000);
    assert_eq!((director.connections(), director.stats(0).helped.get()), (0, 0));
    let mut other = Control::open(&mut director, client, VIP, SERVER);
    assert_eq!(other.passive(&mut director, PASSIVE), TRANSLATED);
    director.check_books();
}

#[test]
fn more_replies_than_fit_in_one_segment_pass_one_after_the_other() {
    let mut director = start(1);
    let mut control = Control::open(&mut director, "198.18.9.9:20001", VIP, SERVER);
    control.ask(&mut director, &"PASV\r\n".repeat(9));
    let said = PASSIVE.repeat(9);
    let (mut heard, mut from) = (String::new(), 0);
    for _ in 0..9 {
        control.next.1 = 5001 + from as u32;
        heard += &control.say(&mut director, &said[from..]);
        let got = control.client_segment().acknowledgement(5001 + heard.len() as u32);
        director.receive(OUT, &got.build());
        from = word(&director.sent_one().octets, 34 + 8) as usize - 5001;
        if from == said.len() {
            break;
        }
    }
    assert_eq!(heard, TRANSLATED.repeat(9));
    assert_eq!(director.dropped(DropReason::HelperBusy), 0);
    director.check_books();
}

#[test]
fn a_server_opens_nothing_that_its_client_did_not_ask_for() {
    let mut director = start(1);
    let mut control = Control::open(&mut director, "198.18.9.9:20001", VIP, SERVER);
    let extended = "229 Extended (|||51210|)\r\n";
    for line in [PASSIVE, extended] {
        assert_eq!(control.say(&mut director, line), line);
    }
    // RFC 2428: nothing is listened for after this one.
    control.ask(&mut director, "EPSV ALL\r\n");
    assert_eq!(control.say(&mut director, PASSIVE), PASSIVE);
    assert!(director.expectations.is_empty());
    // Two at once, one of them octet by octet and each octet twice: two answers.
    control.ask(&mut director, "PASV\r\n");
    for octet in "EPSV\r\n".chars() {
        control.ask(&mut director, &octet.to_string());
        control.next.0 -= 1;
        control.ask(&mut director, &octet.to_string());
    }
    assert_eq!(control.say(&mut director, PASSIVE), TRANSLATED);
    control.say(&mut director, extended);
    let opened = director.expectations.len();
    assert_eq!(opened, 1, "both are for the same port");
    let other = "227 Entering Passive Mode (10,0,0,11,200,11).\r\n";
    assert_eq!(control.say(&mut director, other), other);
    assert_eq!(director.expectations.len(), opened);
}

#[test]
fn no_well_known_port_of_a_server_is_opened() {
    let mut director = start(1);
    let mut control = Control::open(&mut director, "198.18.9.9:20001", VIP, SERVER);
    for line in ["229 (|||22|)\r\n", "227 (10,0,0,11,3,255)\r\n"] {
        assert_eq!(control.passive(&mut director, line), line);
        // That was the answer: there is no second one.
        assert_eq!(control.say(&mut director, PASSIVE), PASSIVE);
    }
    assert!(director.expectations.is_empty());
    let lowest = "229 (|||1024|)\r\n";
    assert_eq!(control.passive(&mut director, lowest), lowest);
    assert_eq!(director.expectations.len(), 1);
}
