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
use support::director::{IN, OUT, Setup, TestDirector};
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

#[test]
fn a_control_connection_lives_as_long_as_its_data_connections() {
    for workers in [1, 4] {
        let mut director = start(workers);
        let mut control = Control::open(&mut director, "198.18.9.9:20001", VIP, SERVER);
        control.say(&mut director, PASSIVE);
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
    assert_eq!(control.say(&mut director, elsewhere), elsewhere);
    assert!(director.expectations.is_empty());
    // A server that already knows the VIP.
    assert_eq!(control.say(&mut director, TRANSLATED), TRANSLATED);
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
        assert_eq!(one.say(&mut director, PASSIVE), TRANSLATED);
        let told = two.say(&mut director, "229 Extended (|||51210|)\r\n");
        let port: u16 = told.split('|').nth(3).unwrap().parse().unwrap();
        assert!(port >= 49_152 && port != 51_210, "{told}");
        let syn = PacketBuilder::tcp("198.18.9.9:5", &format!("192.0.2.100:{port}")).flags(SYN);
        director.receive(OUT, &syn.build());
        let inside = PacketBuilder::tcp("198.18.9.9:5", "10.0.0.12:51210").flags(SYN).ttl(63);
        let inside = inside.macs(support::packet::INSIDE, support::packet::SERVER_SIDE);
        assert_eq!(director.sent_one().octets, inside.build());
        // The port of a service is never given away.
        let told = one.say(&mut director, "229 Extended (|||8080|)\r\n");
        assert!(!told.contains("|8080|") && told.starts_with("229 "), "{told}");
    }
}

#[test]
fn ipv6_has_the_extended_commands() {
    let mut director = start(2);
    let client = "[2001:db8:ffff::9]:20001";
    let mut control = Control::open(&mut director, client, "[2001:db8:1::100]:21", "[fd00::11]:21");
    let line = "229 Entering Extended Passive Mode (|||51210|)\r\n";
    assert_eq!(control.say(&mut director, line), line);
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
    control.say(&mut director, PASSIVE);
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
        assert_eq!(control.say(&mut director, PASSIVE), TRANSLATED);
    }
    let last = &mut controls[16];
    assert_eq!(last.say(&mut director, PASSIVE), "");
    assert_eq!(director.dropped(DropReason::ExpectationTableFull), 1);
    // A segment beyond what was dropped waits for it, too.
    assert_eq!(last.say(&mut director, "226 done\r\n"), "");
    assert_eq!(director.dropped(DropReason::HelperOutOfOrder), 1);
    director.advance(60_000);
    last.next.1 = 5001;
    assert_eq!(last.say(&mut director, PASSIVE), TRANSLATED);
    // One more control connection fits, and no other one.
    let mut more = Control::open(&mut director, client(100), VIP, SERVER);
    assert_eq!(more.say(&mut director, "220 hello\r\n"), "220 hello\r\n");
    let mut beyond = Control::open(&mut director, client(101), VIP, SERVER);
    assert_eq!(beyond.say(&mut director, "220 hello\r\n"), "");
    // The acknowledgement that completes the handshake, and what the server says.
    assert_eq!(director.dropped(DropReason::HelperTableFull), 2);
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
    assert_eq!(more.say(&mut director, PASSIVE), TRANSLATED);
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
    assert_eq!(control.say(&mut director, PASSIVE), PASSIVE);
}

#[test]
fn a_service_without_the_helper_is_left_alone() {
    let services = SERVICES.replacen("servers", "helper = \"none\"\nservers", 1);
    let mut director = Setup::with_services(&services).start();
    let mut control = Control::open(&mut director, "198.18.9.9:20001", VIP, SERVER);
    assert_eq!(control.say(&mut director, PASSIVE), PASSIVE);
    assert!(director.expectations.is_empty());
}

#[test]
fn a_text_that_grows_beyond_the_mtu_is_cut_and_the_rest_comes_again() {
    let services = format!("{}{SERVICES}", support::director::TOPOLOGY);
    let mut director =
        Setup::new(&services.replace("role = \"outside\"", "role = \"outside\"\nmtu = 1280"))
            .start();
    let mut control = Control::open(&mut director, "198.18.9.9:20001", VIP, SERVER);
    let long = format!("{PASSIVE}{}\r\n", "x".repeat(1280 - 40 - PASSIVE.len() - 2));
    let heard = control.say(&mut director, &long);
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
