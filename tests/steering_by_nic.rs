//! Several workers behind NICs that hash the outside party alone: every packet arrives at the
//! worker that owns its flow, and where a NIC hashes otherwise, nothing but hand-overs comes of it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use pointsman::dataplane::endpoint_hash::EndpointHash;
use pointsman::dataplane::steering::Steering;
use pointsman::ids::InterfaceId;
use pointsman::wire::toeplitz::{End, KEY_OCTETS, Key, KeyPair, RssInput, hash};
use support::director::{IN, OUT, Setup, TestDirector};
use support::packet::{ACK, PacketBuilder, SYN, ends};

const SERVICES: &str = r#"
[[service]]
name = "web"
listen = "tcp://192.0.2.100:80"
servers = [{ address = "10.0.0.11:8080" }, { address = "10.0.0.12:8080" }]
[[service]]
name = "dns"
listen = "udp://192.0.2.100:53"
servers = [{ address = "10.0.0.13:5353" }]
[[service]]
name = "web6"
listen = "tcp://[2001:db8:1::100]:80"
servers = [{ address = "[fd00::11]:8080" }]
[[masquerade]]
sources = ["10.0.0.0/24"]
addresses = ["192.0.2.200"]
"#;

/// Entries of the NICs' tables: of different sizes.
const OUTSIDE_TABLE: usize = 128;
const INSIDE_TABLE: usize = 512;

/// What the two NICs hash.
#[derive(Clone, Copy, PartialEq)]
enum Nics {
    /// The end that they were told.
    AsTold,
    /// Both ends, with the same key.
    WholeFlows,
}

struct Laboratory {
    director: TestDirector,
    keys: KeyPair,
    workers: u16,
    nics: Nics,
}

fn key(salt: u64) -> Key {
    let mut state = salt;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        state.to_be_bytes()[0]
    };
    let mut key = [0; KEY_OCTETS];
    key.fill_with(&mut next);
    key
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn tuple(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let ports = [source.port(), destination.port()].map(u16::to_be_bytes).concat();
    [octets(source.ip()), octets(destination.ip()), ports].concat()
}

impl Laboratory {
    fn new(workers: u16, nics: Nics) -> Self {
        let keys = KeyPair::derive(key(1), key(2), RssInput::Zeroed);
        let twin = EndpointHash::new(keys.key(End::Source), RssInput::Zeroed, End::Source);
        let rule = Steering::new(workers, [5, 6, 7, 8]).as_the_nic(Arc::new(twin), OUTSIDE_TABLE);
        let mut setup = Setup::with_services(SERVICES).workers(workers);
        setup.steering = Some(rule);
        Self { director: setup.start(), keys, workers, nics }
    }

    /// The worker whose queue the NIC chooses: hash, then table.
    fn worker(&self, interface: InterfaceId, frame: &[u8]) -> usize {
        let (source, destination) = ends(frame);
        let nobody =
            SocketAddr::new(if source.is_ipv4() { [0; 4].into() } else { [0; 16].into() }, 0);
        let (end, entries) = if interface == OUT {
            (End::Source, OUTSIDE_TABLE)
        } else {
            (End::Destination, INSIDE_TABLE)
        };
        let input = match (self.nics, end) {
            (Nics::WholeFlows, _) => tuple(source, destination),
            (Nics::AsTold, End::Source) => tuple(source, nobody),
            (Nics::AsTold, End::Destination) => tuple(nobody, destination),
        };
        // The tables repeat the smaller one.
        let entry = hash(self.keys.key(end), &input) as usize % entries % OUTSIDE_TABLE;
        entry % usize::from(self.workers)
    }

    /// A packet comes in where the NIC puts it; what goes out.
    fn receive(&mut self, interface: InterfaceId, frame: &[u8]) -> Vec<u8> {
        let worker = self.worker(interface, frame);
        self.director.receive_burst(worker, interface, &[frame.to_vec()]);
        self.director.sent_one().octets
    }

    fn exchange(&mut self, request: &PacketBuilder, flags: u8) {
        let (client, vip) = ends(&request.build());
        let out = self.receive(OUT, &request.build());
        let server = ends(&out).1;
        let reply = match out[if client.is_ipv4() { 23 } else { 20 }] {
            6 => PacketBuilder::tcp(&server.to_string(), &client.to_string()).flags(flags),
            _ => PacketBuilder::udp(&server.to_string(), &client.to_string()),
        };
        let back = self.receive(IN, &reply.from_server().build());
        assert_eq!(ends(&back), (vip, client));
    }

    fn run(&mut self) {
        for client in 1..=60_u16 {
            let from = format!("198.18.3.{client}:{}", 2000 + client);
            self.exchange(&PacketBuilder::tcp(&from, "192.0.2.100:80").flags(SYN), SYN | ACK);
            self.exchange(&PacketBuilder::udp(&from, "192.0.2.100:53"), 0);
            let from = format!("[2001:db8:ffff::{client:x}]:{}", 2000 + client);
            self.exchange(&PacketBuilder::tcp(&from, "[2001:db8:1::100]:80").flags(SYN), SYN | ACK);
            // An inside host opens a connection: the outside endpoint is the destination first.
            let (host, outside) =
                (format!("10.0.0.14:{}", 3000 + client), format!("203.0.113.{client}:443"));
            let out = self.receive(IN, &PacketBuilder::udp(&host, &outside).from_server().build());
            let external = ends(&out).0.to_string();
            let back = self.receive(OUT, &PacketBuilder::udp(&outside, &external).build());
            assert_eq!(ends(&back).1.to_string(), host);
        }
        self.director.check_books();
        let by_worker = self.director.connections_by_worker();
        assert!(by_worker.iter().all(|connections| *connections > 20), "{by_worker:?}");
    }

    fn handed_over(&self) -> u64 {
        let workers = 0..usize::from(self.workers);
        workers.map(|worker| self.director.stats(worker).handed_out.get()).sum()
    }
}

#[test]
fn nothing_is_handed_over_when_the_nics_hash_the_outside_party() {
    for workers in [2, 3, 4] {
        let mut laboratory = Laboratory::new(workers, Nics::AsTold);
        laboratory.run();
        assert_eq!(laboratory.handed_over(), 0, "{workers} workers");
    }
}

#[test]
fn nics_that_hash_whole_flows_cost_hand_overs_and_nothing_else() {
    let mut laboratory = Laboratory::new(4, Nics::WholeFlows);
    laboratory.run();
    assert!(laboratory.handed_over() > 200, "{}", laboratory.handed_over());
}

#[test]
fn a_flow_that_begins_within_a_burst_is_one_connection_wherever_it_arrives() {
    for arrival in 0..4 {
        let mut director = Setup::with_services(SERVICES).workers(4).start();
        let packets: Vec<_> = (1..=20_u16)
            .flat_map(|client| {
                let from = format!("198.18.3.{client}:{}", 2000 + client);
                let datagram = PacketBuilder::udp(&from, "192.0.2.100:53").build();
                let segment = |flags| PacketBuilder::tcp(&from, "192.0.2.100:80").flags(flags);
                [datagram.clone(), segment(SYN).build(), datagram]
            })
            .collect();
        director.receive_burst(arrival, OUT, &packets);
        assert_eq!(director.take_sent().len(), packets.len());
        assert_eq!(director.connections(), 40);
        let handed_over = director.stats(arrival).handed_out.get();
        let stayed = u64::from(director.connections_by_worker()[arrival]) / 2 * 3;
        assert_eq!(handed_over + stayed, 60, "only what others own was handed over");
        director.check_books();
    }
}
