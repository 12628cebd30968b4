//! Services of many ports and of firewall marks, through the whole director.
#![allow(
    clippy::excessive_nesting,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use pointsman::dataplane::stats::DropReason;
use pointsman::ids::{InterfaceId, TableVersion};
use pointsman::service::{
    CompileError, Persistence, Rules, ServiceTable, SlotRegistry, VirtualService,
};
use support::director::{IN, OUT, Setup, TOPOLOGY, TestDirector};
use support::packet::{
    ACK, CLIENT_SIDE, INSIDE, OUTSIDE, PacketBuilder, SERVER_SIDE, SYN, arp, assert_checksums,
    ends, error, fragments, internet_checksum, payload,
};

/// The type of an SCTP chunk.
const INIT: u8 = 1;
const CLIENT: &str = "198.18.0.7:20000";

fn service(name: &str, listen: &str, more: &str) -> String {
    format!("[[service]]\nname = \"{name}\"\nlisten = \"{listen}\"\nscheduler = \"rr\"\n{more}\n")
}

/// A service with one server.
fn to(name: &str, listen: &str, server: &str) -> String {
    service(name, listen, &format!("servers = [{{ address = \"{server}\" }}]"))
}

/// The same with persistence.
fn persistent(name: &str, listen: &str, server: &str) -> String {
    let more = format!("persistence = \"6m\"\nservers = [{{ address = \"{server}\" }}]");
    service(name, listen, &more)
}

fn mark(number: u32, conditions: &str) -> String {
    format!("[[mark]]\nmark = {number}\n{conditions}\n")
}

fn director(text: &str, workers: u16) -> TestDirector {
    Setup::with_services(text).workers(workers).start()
}

/// The frame that a frame becomes.
#[track_caller]
fn translated(director: &mut TestDirector, from: InterfaceId, frame: &[u8]) -> Vec<u8> {
    director.receive(from, frame);
    let sent = director.sent_one().octets;
    assert_checksums(&sent);
    sent
}

/// Where a SYN goes. `None`: it is not forwarded.
fn syn(director: &mut TestDirector, from: &str, to: &str) -> Option<String> {
    director.receive(OUT, &PacketBuilder::tcp(from, to).flags(SYN).build());
    let sent = director.take_sent();
    let forwarded = sent.iter().find(|sent| sent.interface == IN)?;
    assert_checksums(&forwarded.octets);
    Some(ends(&forwarded.octets).1.to_string())
}

/// A whole exchange: the client's packet reaches `server`, whose answer comes from `vip`.
#[track_caller]
fn exchange(director: &mut TestDirector, client: &str, vip: &str, server: &str, is_tcp: bool) {
    let packet = |from: &str, to: &str, flags: u8| {
        let packet = if is_tcp {
            PacketBuilder::tcp(from, to).flags(flags)
        } else {
            PacketBuilder::udp(from, to)
        };
        packet.payload(b"something to sum up")
    };
    let sent = translated(director, OUT, &packet(client, vip, SYN).build());
    let (source, destination) = ends(&sent);
    assert_eq!((source.to_string(), destination.to_string()), (client.into(), server.into()));
    let answer = packet(server, client, SYN | ACK).from_server().build();
    let sent = translated(director, IN, &answer);
    let (source, destination) = ends(&sent);
    assert_eq!((source.to_string(), destination.to_string()), (vip.into(), client.into()));
    let sent = translated(director, OUT, &packet(client, vip, ACK).build());
    assert_eq!(ends(&sent).1.to_string(), server);
    let row = director.list().into_iter().find(|row| row.client.to_string() == client).unwrap();
    assert_eq!((row.service.to_string(), row.server.to_string()), (vip.into(), server.into()));
}

#[test]
fn a_range_takes_its_ports_and_keeps_them() {
    for workers in [1, 3] {
        let text = to("kept", "tcp://192.0.2.100:8000-8099", "10.0.0.11")
            + &to("joined", "udp://192.0.2.100:8000-8099", "10.0.0.12:53")
            + &to("v6", "tcp://[2001:db8:1::100]:8000-8099", "[fd00::11]");
        let mut director = director(&text, workers);
        for port in [8000, 8042, 8099] {
            let client = format!("198.18.0.7:{}", 20_000 + port);
            let (vip, server) = (format!("192.0.2.100:{port}"), format!("10.0.0.11:{port}"));
            exchange(&mut director, &client, &vip, &server, true);
            let client = format!("198.18.0.7:{}", 30_000 + port);
            exchange(&mut director, &client, &vip, "10.0.0.12:53", false);
            let client = format!("[2001:db8:ffff::7]:{}", 20_000 + port);
            let (vip, server) = (format!("[2001:db8:1::100]:{port}"), format!("[fd00::11]:{port}"));
            exchange(&mut director, &client, &vip, &server, true);
        }
        for port in [7999, 8100] {
            assert_eq!(syn(&mut director, CLIENT, &format!("192.0.2.100:{port}")), None);
        }
        assert_eq!(director.dropped(DropReason::NoService), 2);
    }
}

#[test]
fn a_servers_missing_port_is_the_services() {
    let mut director = director(&to("web", "tcp://192.0.2.100:80", "10.0.0.11"), 1);
    exchange(&mut director, CLIENT, "192.0.2.100:80", "10.0.0.11:80", true);
}

#[test]
fn the_service_of_every_port_has_what_no_other_one_has() {
    let text = persistent("rest", "tcp://192.0.2.100:0", "10.0.0.11:9")
        + &to("web", "tcp://192.0.2.100:80", "10.0.0.12:8080")
        + &to("range", "tcp://192.0.2.100:1000-1999", "10.0.0.13");
    let mut director = director(&text, 2);
    for (number, (port, server)) in (20_000..).zip([
        (1, "10.0.0.11:1"),
        (79, "10.0.0.11:79"),
        (80, "10.0.0.12:8080"),
        (999, "10.0.0.11:999"),
        (1000, "10.0.0.13:1000"),
        (1999, "10.0.0.13:1999"),
        (2000, "10.0.0.11:2000"),
        (65_535, "10.0.0.11:65535"),
    ]) {
        let client = format!("198.18.0.7:{number}");
        exchange(&mut director, &client, &format!("192.0.2.100:{port}"), server, true);
    }
    director.receive(OUT, &PacketBuilder::udp(CLIENT, "192.0.2.100:5000").build());
    assert_eq!(director.dropped(DropReason::NoService), 1, "another protocol");
}

const SHOP: &str = r#"
[[service]]
name = "shop"
listen = "fwmark://7"
scheduler = "rr"
persistence = "30m"
servers = [{ address = "10.0.0.11" }, { address = "10.0.0.12" }, { address = "10.0.0.13" }]

[[service]]
name = "web"
listen = "tcp://192.0.2.100:80"
servers = [{ address = "10.0.0.14:8080" }]

[[mark]]
mark = 7
addresses = ["192.0.2.100", "192.0.2.101", "203.0.113.128/28"]
protocol = "tcp"
ports = [80, 443, "8443-8449"]
"#;

#[test]
fn http_and_https_share_a_firewall_mark_and_its_persistence() {
    for workers in [1, 2, 3] {
        let mut director = director(SHOP, workers);
        let mut used = BTreeSet::new();
        for client in 1..=6 {
            let mut servers = BTreeSet::new();
            for (place, vip) in ["192.0.2.100", "192.0.2.101", "203.0.113.130"].iter().enumerate() {
                for port in [80, 443, 8443, 8449] {
                    let from = format!("198.18.0.{client}:{}", 2000 + place * 10_000 + port % 1000);
                    let to = syn(&mut director, &from, &format!("{vip}:{port}")).unwrap();
                    let (server, kept) = to.rsplit_once(':').unwrap();
                    assert_eq!(kept, port.to_string());
                    servers.insert(server.to_owned());
                    let answer = PacketBuilder::tcp(&to, &from).from_server().flags(SYN | ACK);
                    let sent = translated(&mut director, IN, &answer.build());
                    assert_eq!(ends(&sent).0.to_string(), format!("{vip}:{port}"));
                }
            }
            assert_eq!(servers.len(), 1, "{workers} workers: {servers:?}");
            used.extend(servers);
        }
        assert_eq!(used.len(), 3);
    }
}

#[test]
fn a_mark_goes_before_the_service_of_the_port() {
    let mut director = director(SHOP, 1);
    assert_ne!(syn(&mut director, CLIENT, "192.0.2.100:80").unwrap(), "10.0.0.14:8080");
    let unused = SHOP.replace("fwmark://7", "fwmark://8");
    director.install(&format!("{TOPOLOGY}{unused}"));
    let to = syn(&mut director, "198.18.0.8:2000", "192.0.2.100:80").unwrap();
    assert_eq!(to, "10.0.0.14:8080", "a mark without a service changes nothing");
    assert_eq!(syn(&mut director, "198.18.0.8:2000", "192.0.2.100:443"), None);
}

#[test]
fn sources_and_interfaces_decide_about_marks() {
    let text = to("near", "fwmark://1", "10.0.0.11")
        + &to("far", "fwmark://2", "10.0.0.12")
        + &to("inside", "fwmark://3", "10.0.0.13:80")
        + &mark(1, "addresses = [\"192.0.2.100\"]\nsources = [\"198.18.0.0/24\"]\nports = [80]")
        + &mark(3, "addresses = [\"192.0.2.100\"]\ninterface = \"inside\"")
        + &mark(2, "addresses = [\"192.0.2.100\"]\ninterface = \"outside\"");
    for workers in [1, 2] {
        let mut director = director(&text, workers);
        let mut to = |from: &str, to: &str| syn(&mut director, from, to).unwrap();
        assert_eq!(to("198.18.0.7:2000", "192.0.2.100:80"), "10.0.0.11:80");
        assert_eq!(to("198.18.1.7:2000", "192.0.2.100:80"), "10.0.0.12:80");
        assert_eq!(to("198.18.0.7:2000", "192.0.2.100:81"), "10.0.0.12:81");
        let from_inside = PacketBuilder::tcp("10.0.0.11:2000", "192.0.2.100:90").flags(SYN);
        let frame = from_inside.macs(SERVER_SIDE, INSIDE).build();
        let sent = translated(&mut director, IN, &frame);
        let (source, destination) = ends(&sent);
        assert_eq!(destination.to_string(), "10.0.0.13:80");
        assert_eq!(source.ip().to_string(), "10.0.0.1", "full NAT: they are neighbours");
        let answer = PacketBuilder::tcp(&destination.to_string(), &source.to_string());
        let answer = answer.from_server().flags(SYN | ACK).build();
        let sent = translated(&mut director, IN, &answer);
        let (source, destination) = ends(&sent);
        assert_eq!(source.to_string(), "192.0.2.100:90");
        assert_eq!(destination.to_string(), "10.0.0.11:2000");
    }
}

#[test]
fn a_mark_of_every_protocol_takes_them_all() {
    let text = to("all", "fwmark://1", "10.0.0.11")
        + &to("all6", "fwmark6://1", "[fd00::11]")
        + &mark(1, "addresses = [\"192.0.2.100\", \"2001:db8:1::100\"]");
    let mut director = director(&text, 2);
    exchange(&mut director, CLIENT, "192.0.2.100:80", "10.0.0.11:80", true);
    exchange(&mut director, "198.18.0.7:2001", "192.0.2.100:80", "10.0.0.11:80", false);
    let (client6, vip6) = ("[2001:db8:ffff::7]:2002", "[2001:db8:1::100]:443");
    exchange(&mut director, client6, vip6, "[fd00::11]:443", true);
    director.receive(
        OUT,
        &PacketBuilder::sctp("198.18.0.7:2003", "192.0.2.100:2905")
            .flags(INIT)
            .payload(&[1; 16])
            .build(),
    );
    assert_eq!(ends(&director.sent_one().octets).1.to_string(), "10.0.0.11:2905");
}

#[test]
fn single_destinations_of_marks_are_answered_for_and_networks_are_not() {
    let text = to("all", "fwmark://1", "10.0.0.11")
        + &mark(1, "addresses = [\"192.0.2.100\", \"192.0.2.64/28\"]\nports = [80]");
    let mut director = director(&text, 1);
    let mut answers = |address: &str| {
        let asks = arp(1, (CLIENT_SIDE, "192.0.2.254"), ([0; 6], address), (CLIENT_SIDE, [255; 6]));
        director.receive(OUT, &asks);
        director.take_sent().len()
    };
    assert_eq!((answers("192.0.2.100"), answers("192.0.2.65")), (1, 0));
    exchange(&mut director, CLIENT, "192.0.2.65:80", "10.0.0.11:80", true);
    assert_eq!(syn(&mut director, "198.18.0.7:2002", "192.0.2.65:81"), None);
    assert_eq!(director.dropped(DropReason::NotOwned), 1, "they are not the director's");
    assert_eq!(syn(&mut director, "198.18.0.7:2003", "192.0.2.100:81"), None);
    assert_eq!(director.dropped(DropReason::NoService), 1);
}

#[test]
fn connections_of_a_mark_outlive_its_rule() {
    for workers in [1, 3] {
        let mut director = director(SHOP, workers);
        let clients: Vec<_> = (1..30).map(|host| format!("198.18.0.{host}:2000")).collect();
        let servers: Vec<_> = clients
            .iter()
            .map(|client| syn(&mut director, client, "203.0.113.130:443").unwrap())
            .collect();
        director.install(TOPOLOGY);
        for (client, server) in clients.iter().zip(servers) {
            let frame = PacketBuilder::tcp(client, "203.0.113.130:443").flags(ACK).build();
            assert_eq!(ends(&translated(&mut director, OUT, &frame)).1.to_string(), server);
        }
    }
}

#[test]
fn fragments_of_datagrams_to_many_ports_are_translated() {
    let text = to("media", "udp://192.0.2.100:16384-16483", "10.0.0.11");
    let mut director = director(&text, 2);
    let whole = PacketBuilder::udp(CLIENT, "192.0.2.100:16400").payload(&[7; 3000]).build();
    let pieces = fragments(&whole, 77, 1480);
    for piece in pieces.iter().rev() {
        director.receive(OUT, piece);
    }
    let sent = director.take_sent();
    assert_eq!(sent.len(), pieces.len());
    let sent: Vec<_> = sent.into_iter().map(|sent| sent.octets).collect();
    let datagram = support::packet::reassemble(&sent).unwrap();
    assert_checksums(&datagram);
    assert_eq!(ends(&datagram).1.to_string(), "10.0.0.11:16400");
    assert_eq!(payload(&datagram), [7; 3000]);
}

#[test]
fn icmp_errors_about_connections_of_a_mark_are_translated_both_ways() {
    let mut director = director(SHOP, 2);
    let server = syn(&mut director, CLIENT, "192.0.2.101:443").unwrap();
    // A router inside cannot send the packet on; the client learns it about its own packet.
    let leaving = PacketBuilder::tcp(CLIENT, &server).flags(SYN).macs(INSIDE, SERVER_SIDE).build();
    director.receive(IN, &error("10.0.0.254", &leaving, IN, 1400));
    let sent = director.sent_one().octets;
    assert_eq!(internet_checksum(&sent[34..]), 0);
    let quoted = &sent[14 + 20 + 8..];
    assert_eq!(quoted[16..20], [192, 0, 2, 101]);
    assert_eq!(quoted[22..24], 443_u16.to_be_bytes());
    // And one outside: the server learns it about its own.
    let leaving = PacketBuilder::tcp("192.0.2.101:443", CLIENT).flags(SYN | ACK);
    let leaving = leaving.macs(OUTSIDE, CLIENT_SIDE).build();
    director.receive(OUT, &error("192.0.2.254", &leaving, OUT, 1400));
    let sent = director.sent_one().octets;
    assert_eq!(internet_checksum(&sent[34..]), 0);
    let quoted = &sent[14 + 20 + 8..];
    assert_eq!(format!("{}.{}.{}.{}:443", quoted[12], quoted[13], quoted[14], quoted[15]), server);
    assert_eq!(quoted[20..22], 443_u16.to_be_bytes());
}

#[test]
fn replies_of_single_datagrams_to_many_ports_have_the_port_that_was_asked() {
    let one_packet = "one_packet = true\nservers = [{ address = \"10.0.0.11\" }]";
    let marked = "one_packet = true\nservers = [{ address = \"10.0.0.12\" }]";
    let text = service("range", "udp://192.0.2.100:5000-5099", one_packet)
        + &service("marked", "fwmark://1", marked)
        + &mark(1, "addresses = [\"192.0.2.101\"]\nports = [53, 123]");
    for workers in [1, 2] {
        let mut director = director(&text, workers);
        for (vip, server) in [
            ("192.0.2.100:5000", "10.0.0.11:5000"),
            ("192.0.2.100:5099", "10.0.0.11:5099"),
            ("192.0.2.101:53", "10.0.0.12:53"),
            ("192.0.2.101:123", "10.0.0.12:123"),
        ] {
            let asked = PacketBuilder::udp(CLIENT, vip).payload(b"?").build();
            let sent = translated(&mut director, OUT, &asked);
            assert_eq!(ends(&sent).1.to_string(), server);
            let answer = PacketBuilder::udp(server, CLIENT).payload(b"!").from_server().build();
            let sent = translated(&mut director, IN, &answer);
            assert_eq!(ends(&sent).0.to_string(), vip);
        }
        let stray = PacketBuilder::udp("10.0.0.11:4999", CLIENT).from_server().build();
        director.receive(IN, &stray);
        assert_eq!((director.take_sent().len(), director.connections()), (0, 0));
        exchange(&mut director, "198.18.0.7:9", "192.0.2.101:53", "10.0.0.12:53", true);
    }
}

/// Opens a control connection and asks for a data connection to the server's port 40000, which
/// comes, once. Gives what the client was told and where it came to.
fn passive(director: &mut TestDirector, vip: &str) -> (String, String) {
    let control = format!("{vip}:21");
    let open = PacketBuilder::tcp(CLIENT, &control).flags(SYN).sequence(1000).build();
    let server = ends(&translated(director, OUT, &open)).1.to_string();
    let (host, _) = server.rsplit_once(':').unwrap();
    let answer = PacketBuilder::tcp(&server, CLIENT).from_server().acknowledgement(1001);
    translated(director, IN, &answer.flags(SYN | ACK).sequence(5000).build());
    let client = || {
        let segment = PacketBuilder::tcp(CLIENT, &control).flags(ACK);
        segment.sequence(1001).acknowledgement(5001)
    };
    translated(director, OUT, &client().build());
    translated(director, OUT, &client().payload(b"PASV\r\n").build());
    let told = format!("227 Entering Passive Mode ({},156,64)\r\n", host.replace('.', ","));
    let answer = PacketBuilder::tcp(&server, CLIENT).from_server().acknowledgement(1007);
    let answer = answer.flags(ACK).sequence(5001).payload(told.as_bytes()).build();
    let sent = translated(director, IN, &answer);
    let text = String::from_utf8(payload(&sent).to_vec()).unwrap();
    let numbers = text.split(['(', ')']).nth(1).unwrap();
    let numbers: Vec<u16> = numbers.split(',').map(|number| number.parse().unwrap()).collect();
    let address: Vec<_> = numbers[..4].iter().map(ToString::to_string).collect();
    assert_eq!(address.join("."), vip);
    let data = format!("{vip}:{}", numbers[4] * 256 + numbers[5]);
    let to = syn(director, "198.18.0.7:20001", &data).unwrap();
    assert_eq!(to, format!("{host}:40000"));
    (data, host.to_owned())
}

#[test]
fn ftp_through_a_mark_has_its_data_connections() {
    let servers = "servers = [{ address = \"10.0.0.11\" }, { address = \"10.0.0.12\" }]";
    let text = service("ftp", "fwmark://1", servers)
        + &mark(1, "addresses = [\"192.0.2.100\"]\nprotocol = \"tcp\"\nports = [21]");
    for workers in [1, 2, 3] {
        let mut director = director(&text, workers);
        let (data, _) = passive(&mut director, "192.0.2.100");
        assert_eq!(data, "192.0.2.100:40000");
        assert_eq!(syn(&mut director, "198.18.0.7:20002", &data), None, "one was announced");
    }
}

#[test]
fn an_announced_data_connection_goes_before_the_service_of_every_port() {
    // The server's port is another service's, so another one is announced; the service of every
    // port would keep that.
    let text = persistent("ftp", "tcp://192.0.2.100:0", "10.0.0.11")
        + &to("taken", "tcp://192.0.2.100:40000", "10.0.0.12");
    for workers in [1, 2, 3] {
        let mut director = director(&text, workers);
        let (data, host) = passive(&mut director, "192.0.2.100");
        let (_, port) = data.rsplit_once(':').unwrap();
        assert_ne!(port, "40000");
        let to = syn(&mut director, "198.18.0.7:20002", &data).unwrap();
        assert_eq!(to, format!("{host}:{port}"), "what was not announced");
    }
}

#[test]
fn a_helper_of_many_ports_reads_that_of_ftp_alone() {
    let text = persistent("all", "tcp://192.0.2.100:0", "10.0.0.11");
    let mut director = director(&text, 1);
    exchange(&mut director, "198.18.0.7:20022", "192.0.2.100:22", "10.0.0.11:22", true);
    director.receive(OUT, &PacketBuilder::tcp("198.18.0.7:20022", "192.0.2.100:22").build());
    director.take_sent();
    assert_eq!(director.stats(0).helped.get(), 0);
    passive(&mut director, "192.0.2.100");
    assert_eq!(director.stats(0).helped.get(), 1);
}

#[test]
fn what_cannot_be_told_apart_cannot_be_compiled() {
    let service = |listen: &str, persistence: bool| {
        let mut service =
            VirtualService::new(listen.replace([':', '/'], "-"), listen.parse().unwrap());
        service.persistence =
            persistence.then(|| Persistence::of(Duration::from_secs(60), &service.listen));
        service
    };
    let compile = |services: &[VirtualService]| {
        let mut slots = SlotRegistry::new(8);
        ServiceTable::compile(TableVersion(1), Rules::of(services), &mut slots).map(|_| ())
    };
    for (one, other) in [
        ("tcp://192.0.2.100:80", "tcp://192.0.2.100:80"),
        ("tcp://192.0.2.100:80", "tcp://192.0.2.100:80-90"),
        ("tcp://192.0.2.100:85-99", "tcp://192.0.2.100:80-85"),
        ("tcp://192.0.2.100:0", "tcp://192.0.2.100:0"),
        ("fwmark://7", "fwmark://7"),
    ] {
        for [first, second] in [[one, other], [other, one]] {
            let error = compile(&[service(first, true), service(second, true)]).unwrap_err();
            assert!(matches!(error, CompileError::Twice(_)), "{first}, {second}: {error}");
        }
    }
    let beside = [
        "tcp://192.0.2.100:80",
        "tcp://192.0.2.100:81-90",
        "tcp://192.0.2.100:0",
        "udp://192.0.2.100:80",
        "tcp://192.0.2.101:80",
        "fwmark://7",
        "fwmark6://7",
    ];
    compile(&beside.map(|listen| service(listen, true))).unwrap();
    let error = compile(&[service("tcp://192.0.2.100:0", false)]).unwrap_err();
    assert!(error.to_string().contains("needs persistence"), "{error}");
    compile(&[service("fwmark://7", false), service("tcp://192.0.2.100:1-9", false)]).unwrap();
}
