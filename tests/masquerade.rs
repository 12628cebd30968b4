//! Connections that inside hosts open to the outside: ports and identifiers, and who shares them.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::excessive_nesting,
    reason = "a test fails by panicking"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use pointsman::dataplane::conn::tcp_state::ConnectionState;
use pointsman::dataplane::stats::DropReason;
use proptest::prelude::*;
use proptest::sample::Index;
use support::director::{IN, OUT, Setup, TestDirector};
use support::packet::{
    ACK, FIN, PacketBuilder, RST, SERVER_SIDE, SYN, assert_checksums, echo, echo_ends, ends,
};

/// Outside everything but two inside networks, behind a router each.
fn topology(rule: &str) -> String {
    format!(
        r#"
[interface.outside]
role = "outside"
addresses = ["192.0.2.1/24", "2001:db8:1::1/64"]
gateways = ["192.0.2.254", "2001:db8:1::254"]
[interface.outside.neighbors]
"192.0.2.254" = "02:00:00:00:00:01"
"2001:db8:1::254" = "02:00:00:00:00:01"

[interface.inside]
role = "inside"
addresses = ["10.0.0.1/24", "fd00::1/64"]
routes = [{{ to = "10.0.0.0/8", via = "10.0.0.254" }}, {{ to = "fd00::/16", via = "fd00::254" }}]
[interface.inside.neighbors]
"10.0.0.254" = "02:00:00:00:01:01"
"fd00::254" = "02:00:00:00:01:01"
"10.0.0.11" = "02:00:00:00:01:01"

[[service]]
name = "web"
listen = "tcp://192.0.2.100:5001"
servers = [{{ address = "10.0.0.11:8080" }}]

{rule}
"#
    )
}

const NARROW: &str = r#"
[[masquerade]]
sources = ["10.0.0.0/8", "fd00::/16"]
addresses = ["192.0.2.100", "192.0.2.101", "2001:db8:1::100", "2001:db8:1::101"]
ports = "5000-5003"
"#;

const WIDE: &str = r#"
[[masquerade]]
sources = ["10.0.0.0/8", "fd00::/16"]
addresses = ["192.0.2.100", "192.0.2.101", "192.0.2.102", "192.0.2.1", "2001:db8:1::100"]
"#;

const ONE_ADDRESS: &str = r#"
[[masquerade]]
sources = ["10.0.0.0/8"]
addresses = ["192.0.2.100"]
"#;

fn director(rule: &str, workers: u16) -> TestDirector {
    Setup::new(&topology(rule)).workers(workers).start()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Kind {
    Tcp,
    Udp,
    Echo,
}

/// What an inside host sends; the port of an echo's outside end is 0.
fn opening(kind: Kind, host: SocketAddr, outside: SocketAddr) -> Vec<u8> {
    let (from, to) = (host.to_string(), outside.to_string());
    match kind {
        Kind::Tcp => PacketBuilder::tcp(&from, &to).flags(SYN).from_server().build(),
        Kind::Udp => PacketBuilder::udp(&from, &to).payload(b"q").from_server().build(),
        Kind::Echo => {
            echo(true, &host.ip().to_string(), &outside.ip().to_string(), host.port(), b"ping")
        }
    }
}

/// What the outside sends back.
fn answer(kind: Kind, outside: SocketAddr, external: SocketAddr) -> Vec<u8> {
    let (from, to) = (outside.to_string(), external.to_string());
    match kind {
        Kind::Tcp => PacketBuilder::tcp(&from, &to).flags(SYN | ACK).build(),
        Kind::Udp => PacketBuilder::udp(&from, &to).payload(b"a!").build(),
        Kind::Echo => {
            let (from, to) = (outside.ip().to_string(), external.ip().to_string());
            echo(false, &from, &to, external.port(), b"ping")
        }
    }
}

/// Source and destination of a frame, its checksums right.
fn way(kind: Kind, frame: &[u8]) -> (SocketAddr, SocketAddr) {
    if kind == Kind::Echo {
        let (source, destination, identifier) = echo_ends(frame);
        // As the flow has it: the identifier is at the end that asks.
        let asks = matches!((frame[12], frame[34], frame[54.min(frame.len() - 1)]), (8, 8, _))
            || frame[12] == 0x86 && frame[54] == 128;
        return if asks {
            (SocketAddr::new(source, identifier), SocketAddr::new(destination, 0))
        } else {
            (SocketAddr::new(source, 0), SocketAddr::new(destination, identifier))
        };
    }
    assert_checksums(frame);
    ends(frame)
}

/// An inside host's packet goes out: the external endpoint; `None`: it was refused.
fn open(
    director: &mut TestDirector,
    kind: Kind,
    host: SocketAddr,
    outside: SocketAddr,
) -> Option<SocketAddr> {
    director.receive(IN, &opening(kind, host, outside));
    let sent = director.sent_one();
    if sent.interface == IN {
        // Administratively prohibited.
        let (at, expected) = if host.is_ipv4() { (34, [3, 13]) } else { (54, [1, 1]) };
        assert_eq!(sent.octets[at..at + 2], expected);
        return None;
    }
    let (external, to) = way(kind, &sent.octets);
    assert_eq!(to, outside);
    Some(external)
}

/// The answer comes to the external endpoint: whom it reaches.
fn reach(
    director: &mut TestDirector,
    kind: Kind,
    outside: SocketAddr,
    external: SocketAddr,
) -> SocketAddr {
    director.receive(OUT, &answer(kind, outside, external));
    let sent = director.sent_one();
    assert_eq!(sent.interface, IN);
    let (from, to) = way(kind, &sent.octets);
    assert_eq!(from, outside);
    to
}

type Flow = (Kind, SocketAddr, SocketAddr);

/// What NAT is: a one-to-one relation, while it lasts.
#[derive(Default)]
struct Model {
    flows: HashMap<Flow, SocketAddr>,
    taken: HashMap<(Kind, SocketAddr, SocketAddr), SocketAddr>,
    refused: u64,
}

impl Model {
    fn may_be_taken(&self, kind: Kind, outside: SocketAddr, external: SocketAddr) -> bool {
        let is_service = kind == Kind::Tcp && external == "192.0.2.100:5001".parse().unwrap();
        !is_service && !self.taken.contains_key(&(kind, outside, external))
    }

    /// The endpoints that a host may be given for a new flow.
    fn free(&self, kind: Kind, host: SocketAddr, outside: SocketAddr) -> Vec<SocketAddr> {
        let addresses: [&str; 2] = if host.is_ipv4() {
            ["192.0.2.100", "192.0.2.101"]
        } else {
            ["2001:db8:1::100", "2001:db8:1::101"]
        };
        let ports = (5000..=5003).chain([host.port()]);
        let all = addresses.iter().flat_map(|ip| {
            ports.clone().map(|port| SocketAddr::new(ip.parse::<IpAddr>().unwrap(), port))
        });
        all.filter(|external| self.may_be_taken(kind, outside, *external)).collect()
    }

    fn open(&mut self, director: &mut TestDirector, (kind, host, outside): Flow) {
        let found = open(director, kind, host, outside);
        let Some(known) = self.flows.get(&(kind, host, outside)) else {
            let free = self.free(kind, host, outside);
            let Some(external) = found else {
                self.refused += 1;
                assert_eq!(free, [], "{kind:?} {host} {outside} was refused");
                return;
            };
            assert!(free.contains(&external), "{kind:?} {host} {outside} got {external}: {free:?}");
            let kept = SocketAddr::new(external.ip(), host.port());
            assert!(external == kept || !free.contains(&kept), "{host} got {external}");
            self.flows.insert((kind, host, outside), external);
            self.taken.insert((kind, outside, external), host);
            return;
        };
        assert_eq!(found, Some(*known), "a flow keeps its endpoint");
    }
}

fn endpoints() -> impl Strategy<Value = Flow> {
    let kind = prop_oneof![Just(Kind::Tcp), Just(Kind::Udp), Just(Kind::Echo)];
    (kind, any::<bool>(), 2..7_u16, 4999..5003_u16, 0..2_u16, 0..2_u16).prop_map(
        |(kind, is_v6, host, port, outside, outside_port)| {
            let outside_port = if kind == Kind::Echo { 0 } else { 7000 + outside_port };
            let (host, outside): (IpAddr, IpAddr) = if is_v6 {
                let outside = format!("2001:db8:ffff::{outside}");
                (format!("fd00:1::{host}").parse().unwrap(), outside.parse().unwrap())
            } else {
                let outside = format!("198.18.0.{}", outside + 1);
                (format!("10.1.0.{host}").parse().unwrap(), outside.parse().unwrap())
            };
            (kind, SocketAddr::new(host, port), SocketAddr::new(outside, outside_port))
        },
    )
}

#[derive(Clone, Debug)]
enum Step {
    Open(Flow),
    Answer(Index),
    /// All idle times pass.
    Forget,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        20 => endpoints().prop_map(Step::Open),
        10 => any::<Index>().prop_map(Step::Answer),
        1 => Just(Step::Forget),
    ];
    proptest::collection::vec(step, 1..150)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64, failure_persistence: None, ..ProptestConfig::default()
    })]

    /// An external endpoint is one host's at a time for each outside endpoint, is free when it is
    /// given, is refused only when none is, and leads back to whom it was given.
    #[test]
    fn no_external_endpoint_is_used_twice(steps in steps(), workers in 1..5_u16) {
        let mut director = director(NARROW, workers);
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Open(flow) => model.open(&mut director, flow),
                Step::Answer(index) => {
                    let mut live: Vec<_> = model.taken.iter().collect();
                    live.sort();
                    if !live.is_empty() {
                        let ((kind, outside, external), host) = *index.get(&live);
                        assert_eq!(reach(&mut director, *kind, *outside, *external), *host);
                    }
                }
                Step::Forget => {
                    director.advance(301_000);
                    assert_eq!(director.connections(), 0);
                    (model.flows, model.taken) = Default::default();
                }
            }
        }
        assert_eq!(director.connections() as usize, model.taken.len());
        assert_eq!(director.dropped(DropReason::PortsExhausted), model.refused);
    }
}

#[test]
fn one_address_carries_more_flows_than_it_has_ports() {
    for workers in [1, 3] {
        let setup = Setup::new(&topology(ONE_ADDRESS)).workers(workers);
        let mut director = setup.connections(110_000, 16).start();
        let outside: [SocketAddr; 3] =
            ["198.18.0.1:443", "198.18.0.2:443", "198.18.0.1:80"].map(|end| end.parse().unwrap());
        let mut given = HashSet::new();
        for number in 0..30_000_u32 {
            // A thousand hosts that all begin with the same ports.
            let host =
                format!("10.1.{}.{}:{}", number / 250 % 4, number % 250, 2000 + number / 1000);
            let host: SocketAddr = host.parse().unwrap();
            for outside in outside {
                director.receive(IN, &opening(Kind::Udp, host, outside));
                let sent = director.sent_one();
                let (external, to) = ends(&sent.octets);
                assert_eq!(external.ip(), "192.0.2.100".parse::<IpAddr>().unwrap());
                assert!(given.insert((external.port(), to)), "{external} to {to} twice");
            }
        }
        assert_eq!(director.connections(), 90_000);
        assert_eq!(director.drops().len(), 0);
    }
}

#[test]
fn chosen_ports_are_spread_and_unguessable() {
    let mut director = director(ONE_ADDRESS, 1);
    let outside = "198.18.0.1:443".parse().unwrap();
    let mut ports = Vec::new();
    for host in 1..1000_u16 {
        let host = format!("10.1.{}.{}:2000", host / 250, host % 250 + 1).parse().unwrap();
        ports.push(open(&mut director, Kind::Tcp, host, outside).unwrap().port());
    }
    assert_eq!(ports[0], 2000);
    assert!(ports[1..].iter().all(|port| *port >= 1024));
    let follow = ports.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) < 64).count();
    assert!(follow < 20, "{follow} of 999 are near their predecessor");
    let unique: BTreeSet<_> = ports.iter().collect();
    assert_eq!(unique.len(), ports.len());
    // The numbers of every quarter of the range.
    for quarter in 0..4_u16 {
        let in_it = ports.iter().filter(|port| **port / 16_384 == quarter).count();
        assert!((150..400).contains(&in_it), "{in_it} ports in quarter {quarter}");
    }
}

#[test]
fn a_host_appears_with_one_address_wherever_it_speaks_to() {
    for workers in [1, 3] {
        let mut director = director(WIDE, workers);
        let mut homes: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for host in 1..60 {
            let mut seen = BTreeSet::new();
            for number in 0..20_u16 {
                let from: SocketAddr = format!("10.1.0.{host}:{}", 3000 + number).parse().unwrap();
                let to: SocketAddr = format!("198.18.0.{number}:{}", 80 + number).parse().unwrap();
                let kind = [Kind::Tcp, Kind::Udp][usize::from(number % 2)];
                seen.insert(open(&mut director, kind, from, to).unwrap().ip());
                let to = SocketAddr::new(to.ip(), 0);
                seen.insert(open(&mut director, Kind::Echo, from, to).unwrap().ip());
            }
            assert_eq!(seen.len(), 1, "host {host}: {seen:?}");
            *homes.entry(seen.pop_first().unwrap()).or_default() += 1;
        }
        assert_eq!(homes.len(), 4, "{homes:?}");
        assert!(homes.values().all(|hosts| *hosts >= 5), "{homes:?}");
    }
}

#[test]
fn flows_of_many_hosts_begin_live_and_end_and_leave_nothing_behind() {
    for workers in [1, 2, 3, 4] {
        let mut director = director(WIDE, workers);
        let mut flows = Vec::new();
        for number in 0..300_u16 {
            let kind = [Kind::Tcp, Kind::Udp, Kind::Echo][usize::from(number % 3)];
            let (host, outside) = if number % 2 == 0 {
                (format!("10.2.0.{}:{}", number % 50, 1 + number % 7), "198.18.9.9:53")
            } else {
                (format!("[fd00:2::{number:x}]:{}", 1 + number % 7), "[2001:db8:ffff::9]:53")
            };
            let mut outside: SocketAddr = outside.parse().unwrap();
            outside.set_port(if kind == Kind::Echo { 0 } else { 53 + number });
            let host: SocketAddr = host.parse().unwrap();
            let external = open(&mut director, kind, host, outside).unwrap();
            flows.push((kind, host, outside, external));
        }
        for (kind, host, outside, external) in &flows {
            assert_eq!(reach(&mut director, *kind, *outside, *external), *host);
            assert_eq!(open(&mut director, *kind, *host, *outside), Some(*external));
        }
        assert_eq!(director.drops().len(), 0);
        assert_eq!(director.connections(), 300);
        let shares = director.connections_by_worker();
        assert!(shares.iter().all(|share| *share > 0), "{shares:?}");
        let sum = |of: &dyn Fn(usize) -> u64| (0..usize::from(workers)).map(of).sum::<u64>();
        assert_eq!(sum(&|worker| director.stats(worker).masqueraded.get()), 300);
        assert_eq!(sum(&|worker| director.stats(worker).masquerade.connections.get()), 300);
        assert_eq!(sum(&|worker| director.stats(worker).masquerade.in_packets.get()), 300);
        assert_eq!(sum(&|worker| director.stats(worker).masquerade.out_packets.get()), 600);
        // Echoes go first, then the SYNs, then the datagrams.
        director.advance(61_000);
        assert_eq!(director.connections(), 100);
        assert!(director.list().iter().all(|row| row.state == ConnectionState::Udp));
        director.advance(240_000);
        assert_eq!((director.connections(), director.list().len()), (0, 0));
        let left = (0..usize::from(workers)).map(|w| director.stats(w).masqueraded.get());
        assert_eq!(left.sum::<u64>(), 0);
    }
}

#[test]
fn a_tcp_connection_goes_through_the_states_of_whoever_opened_it() {
    use ConnectionState as S;
    let mut director = director(WIDE, 1);
    let (host, outside) = ("10.1.0.9:4000", "198.18.0.1:443");
    let external = open(&mut director, Kind::Tcp, host.parse().unwrap(), outside.parse().unwrap());
    let external = external.unwrap().to_string();
    let state = |director: &mut TestDirector| {
        let [row] = director.list()[..] else { panic!("one connection") };
        row.state
    };
    assert_eq!(state(&mut director), S::SynRecv);
    for (from_inside, flags, expected) in [
        (false, SYN | ACK, S::SynRecv),
        (true, ACK, S::Established),
        (false, ACK, S::Established),
        // The side that opened closes: as a client that closes first.
        (true, FIN | ACK, S::CloseWait),
        (false, ACK, S::CloseWait),
        (false, FIN | ACK, S::TimeWait),
        (true, ACK, S::TimeWait),
        // Its port is used again.
        (true, SYN, S::SynRecv),
        (false, SYN | ACK, S::SynRecv),
        (true, ACK, S::Established),
        (false, FIN | ACK, S::FinWait),
        (true, FIN | ACK, S::TimeWait),
        (true, SYN, S::SynRecv),
        (false, SYN | ACK, S::SynRecv),
        (true, ACK, S::Established),
        (false, RST, S::Close),
        // A blind reset ends nothing.
        (true, ACK, S::Close),
        (true, SYN, S::SynRecv),
    ] {
        if from_inside {
            let frame = PacketBuilder::tcp(host, outside).flags(flags).from_server().build();
            director.receive(IN, &frame);
        } else {
            director.receive(OUT, &PacketBuilder::tcp(outside, &external).flags(flags).build());
        }
        let sent = director.sent_one();
        assert_eq!(sent.interface, if from_inside { OUT } else { IN });
        assert_eq!(ends(&sent.octets).0.to_string(), if from_inside { &external } else { outside });
        assert_eq!(state(&mut director), expected, "{from_inside} {flags:#x}");
        assert_eq!(director.connections(), 1);
    }
}

#[test]
fn both_ends_may_open_at_once() {
    let mut director = director(WIDE, 1);
    let (host, outside) = ("10.1.0.9:4000", "198.18.0.1:443");
    let external =
        open(&mut director, Kind::Tcp, host.parse().unwrap(), outside.parse().unwrap()).unwrap();
    let external = external.to_string();
    for (from_inside, flags) in
        [(false, SYN), (true, SYN | ACK), (false, SYN | ACK), (true, ACK), (false, ACK)]
    {
        if from_inside {
            let frame = PacketBuilder::tcp(host, outside).flags(flags).from_server().build();
            director.receive(IN, &frame);
        } else {
            director.receive(OUT, &PacketBuilder::tcp(outside, &external).flags(flags).build());
        }
        director.sent_one();
    }
    assert_eq!(director.connections(), 1);
}

#[test]
fn connections_outlive_their_rule_and_their_external_address() {
    for workers in [1, 3] {
        let mut director = director(WIDE, workers);
        let mut flows = Vec::new();
        for number in 0..40_u16 {
            let kind = [Kind::Tcp, Kind::Udp][usize::from(number % 2)];
            let host = format!("10.2.0.{number}:{}", 4000 + number).parse().unwrap();
            let outside = format!("198.18.0.9:{}", 100 + number).parse().unwrap();
            flows.push((kind, host, outside, open(&mut director, kind, host, outside).unwrap()));
        }
        director.install(&topology(""));
        for (kind, host, outside, external) in flows {
            assert_eq!(reach(&mut director, kind, outside, external), host, "{workers} workers");
            assert_eq!(open(&mut director, kind, host, outside), Some(external));
        }
        let host = "10.2.0.99:4000";
        let frame = PacketBuilder::udp(host, "198.18.0.9:53").from_server().build();
        director.receive(IN, &frame);
        assert_eq!(director.take_sent().len(), 0);
        assert_eq!(director.drops(), BTreeMap::from([("not_owned".into(), 1)]));
    }
}

#[test]
fn the_first_rule_that_has_a_host_applies_to_it() {
    let rules = r#"
[[masquerade]]
sources = ["10.1.0.9/32"]
addresses = ["192.0.2.109"]
[[masquerade]]
sources = ["10.1.0.0/16"]
addresses = ["192.0.2.110"]
"#;
    let mut director = director(rules, 1);
    let outside = "198.18.0.1:443".parse().unwrap();
    for (host, expected) in [("10.1.0.9:1", "192.0.2.109:1"), ("10.1.0.10:1", "192.0.2.110:1")] {
        let external = open(&mut director, Kind::Tcp, host.parse().unwrap(), outside).unwrap();
        assert_eq!(external.to_string(), expected);
    }
}

#[test]
fn a_table_that_is_almost_full_refuses_and_counts() {
    let setup = Setup::new(&topology(WIDE)).connections(10, 10);
    let mut director = setup.start();
    let outside = "198.18.0.1:443".parse().unwrap();
    for port in 1..=9 {
        let host = SocketAddr::new("10.1.0.9".parse().unwrap(), port);
        open(&mut director, Kind::Udp, host, outside).unwrap();
    }
    // The last eighth is for services.
    let refused = open(&mut director, Kind::Udp, "10.1.0.9:11".parse().unwrap(), outside);
    assert_eq!(refused, None);
    assert_eq!(director.dropped(DropReason::TableFull), 1);
    let client = PacketBuilder::tcp("198.18.7.7:2000", "192.0.2.100:5001");
    director.receive(OUT, &client.flags(SYN).build());
    assert_eq!(director.connections(), 10);
}

#[test]
fn a_host_whose_neighbour_is_unknown_is_asked_for_when_the_answer_comes() {
    let mut director = director(WIDE, 3);
    director.answering.insert("10.0.0.77".parse().unwrap(), SERVER_SIDE);
    let (host, outside) = ("10.0.0.77:5".parse().unwrap(), "198.18.0.1:443".parse().unwrap());
    let external = open(&mut director, Kind::Udp, host, outside).unwrap();
    assert_eq!(reach(&mut director, Kind::Udp, outside, external), host);
    assert_eq!(director.held(), 0);
}
