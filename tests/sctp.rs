//! SCTP associations through the director: states, timeouts, who may open one, and checksums.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

mod support;

use std::collections::BTreeMap;

use pointsman::dataplane::conn::sctp_state::{self, STATES};
use pointsman::dataplane::conn::tcp_state::ConnectionState;
use pointsman::dataplane::stats::DropReason;
use pointsman::service::Protocol;
use pointsman::wire::flow_key::Direction;
use pointsman::wire::sctp::Signal;
use proptest::prelude::*;
use support::director::{IN, OUT, Setup, TOPOLOGY, TestDirector};
use support::packet::{
    PacketBuilder, assert_checksums, ends, error, fragments, payload, reassemble,
};

const SERVICES: &str = r#"
[[service]]
name = "sigtran"
listen = "sctp://192.0.2.100:2905"
scheduler = "rr"
servers = [{ address = "10.0.0.11:3905" }, { address = "10.0.0.12:3905" }]

[[service]]
name = "same-port"
listen = "sctp://192.0.2.101:2905"
scheduler = "rr"
servers = [{ address = "10.0.0.11:2905" }]

[[service]]
name = "sloppy"
listen = "sctp://192.0.2.102:2905"
scheduler = "rr"
non_syn = "schedule"
servers = [{ address = "10.0.0.12:2905" }]
"#;

const CLIENT: &str = "198.18.7.7:20000";
const VIP: &str = "192.0.2.100:2905";

/// Chunk types of RFC 9260 section 3.2, by the names of the data.
const CHUNKS: [(&str, u8, Signal); 10] = [
    ("DATA", 0, Signal::Data),
    ("INIT", 1, Signal::Init),
    ("INIT_ACK", 2, Signal::InitAck),
    ("ABORT", 6, Signal::Abort),
    ("SHUTDOWN", 7, Signal::Shutdown),
    ("SHUTDOWN_ACK", 8, Signal::ShutdownAck),
    ("ERROR", 9, Signal::Error),
    ("COOKIE_ECHO", 10, Signal::CookieEcho),
    ("COOKIE_ACK", 11, Signal::CookieAck),
    ("SHUTDOWN_COMPLETE", 14, Signal::ShutdownComplete),
];
const INIT: u8 = 1;
const ABORT: u8 = 6;

fn lines(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().filter(|line| !line.starts_with('#')).map(|line| line.split('\t').collect())
}

/// (from the client, state, chunk type) and the next state, as Linux IPVS has it.
fn facts() -> BTreeMap<(bool, &'static str, u8), &'static str> {
    let facts = lines(include_str!("sctp/states.tsv")).map(|fields| {
        let [who, state, chunk, next] = fields[..] else { panic!("{fields:?}") };
        let (_, kind, _) = CHUNKS.iter().find(|(name, ..)| *name == chunk).unwrap();
        ((who == "client", state, *kind), next)
    });
    facts.collect()
}

fn timeouts() -> BTreeMap<&'static str, u32> {
    let timeouts = lines(include_str!("sctp/timeouts.tsv"));
    timeouts.map(|fields| (fields[0], fields[1].parse().unwrap())).collect()
}

#[test]
fn every_state_direction_and_chunk_leads_where_ipvs_goes() {
    let facts = facts();
    assert_eq!(facts.len(), 2 * 14 * 10);
    for state in STATES {
        for (name, kind, signal) in CHUNKS {
            for (from, is_client) in [(Direction::Inbound, true), (Direction::Reply, false)] {
                let next = sctp_state::next(state, from, signal);
                let fact = facts[&(is_client, state.name(), kind)];
                assert_eq!(next.name(), fact, "{name} from {from:?} in {state}");
                assert!(STATES.contains(&next));
            }
        }
    }
}

#[test]
fn only_an_established_association_is_active() {
    for state in STATES {
        assert_eq!(state.is_active(), state == ConnectionState::SctpEstablished, "{state}");
    }
}

fn director(workers: u16) -> TestDirector {
    Setup::with_services(SERVICES).workers(workers).start()
}

fn from_client(service: &str, kind: u8) -> PacketBuilder {
    PacketBuilder::sctp(CLIENT, service).flags(kind).payload(b"a chunk's value")
}

fn from_server(server: &str, kind: u8) -> PacketBuilder {
    PacketBuilder::sctp(server, CLIENT).flags(kind).payload(b"a chunk's value").from_server()
}

/// A client's packet passes: the server that it went to.
#[track_caller]
fn request(director: &mut TestDirector, service: &str, kind: u8) -> String {
    director.receive(OUT, &from_client(service, kind).build());
    let sent = director.sent_one();
    assert_eq!((sent.interface, payload(&sent.octets)), (IN, &b"a chunk's value"[..]));
    assert_checksums(&sent.octets);
    ends(&sent.octets).1.to_string()
}

#[track_caller]
fn reply(director: &mut TestDirector, server: &str, kind: u8) {
    director.receive(IN, &from_server(server, kind).build());
    let sent = director.sent_one();
    assert_eq!((sent.interface, payload(&sent.octets)), (OUT, &b"a chunk's value"[..]));
    assert_checksums(&sent.octets);
}

fn state(director: &mut TestDirector) -> (&'static str, u32) {
    let [row] = director.list()[..] else { panic!("one connection") };
    assert_eq!(row.protocol, Protocol::Sctp as u8);
    (row.state.name(), row.expires_ms)
}

/// Who says what (the chunk type), and the state after it.
type Step = (bool, u8, &'static str);

const OPENING: [Step; 4] =
    [(true, 1, "INIT1"), (false, 2, "C-SENT"), (true, 10, "C-REPLIED"), (false, 11, "ESTABLISHED")];

fn walk(director: &mut TestDirector, service: &str, steps: &[Step]) -> String {
    let timeouts = timeouts();
    let mut server = String::new();
    for (is_client, kind, after) in steps {
        if *is_client {
            server = request(director, service, *kind);
        } else {
            reply(director, &server, *kind);
        }
        assert_eq!(state(director), (*after, timeouts[after] * 1000), "after {kind}");
        director.advance(20);
    }
    server
}

#[test]
fn an_association_lives_from_init_to_shutdown_complete() {
    let by_client = [
        (true, 0, "ESTABLISHED"),
        (false, 3, "ESTABLISHED"),
        (true, 4, "ESTABLISHED"),
        (false, 5, "ESTABLISHED"),
        (true, 7, "S-RECEIVED"),
        (false, 8, "S-ACK-SENT"),
        (true, 14, "CLOSED"),
    ];
    let by_server = [(false, 7, "S-SENT"), (true, 8, "CLOSED"), (false, 14, "CLOSED")];
    let aborted = [(true, 6, "CLOSED")];
    for workers in [1, 2, 4] {
        for rest in [&by_client[..], &by_server, &aborted] {
            let mut director = director(workers);
            let server = walk(&mut director, VIP, &[&OPENING, rest].concat());
            let left = state(&mut director).1;
            director.advance(left - 1);
            assert_eq!(director.connections(), 1, "not before its time");
            director.advance(257);
            assert_eq!(director.connections(), 0, "a quarter of a second after");
            director.receive(IN, &from_server(&server, 0).build());
            assert_eq!(director.dropped(DropReason::NotOwned), 1);
        }
    }
}

#[test]
fn loads_count_established_associations_as_active() {
    let mut director = director(1);
    let server = request(&mut director, VIP, INIT);
    let load = |director: &TestDirector| director.load("sctp://192.0.2.100:2905", &server);
    assert_eq!(load(&director), (0, 1));
    reply(&mut director, &server, 2);
    request(&mut director, VIP, 10);
    assert_eq!(load(&director), (0, 1));
    reply(&mut director, &server, 11);
    assert_eq!(load(&director), (1, 0));
    request(&mut director, VIP, 7);
    assert_eq!(load(&director), (0, 1));
}

#[test]
fn only_an_init_opens_an_association() {
    let mut director = director(1);
    let mut dropped = 0;
    for kind in (0..=255).filter(|kind| *kind != INIT) {
        director.receive(OUT, &from_client(VIP, kind).build());
        dropped += 1;
        assert_eq!(director.dropped(DropReason::NoConnection), dropped, "chunk type {kind}");
    }
    assert_eq!((director.connections(), director.take_sent().len()), (0, 0));
    request(&mut director, VIP, INIT);
}

#[test]
fn a_sloppy_service_opens_on_anything_as_ipvs_does() {
    let facts = facts();
    for (name, kind, _) in CHUNKS {
        let mut director = director(1);
        request(&mut director, "192.0.2.102:2905", kind);
        assert_eq!(state(&mut director).0, facts[&(true, "NONE", kind)], "{name}");
    }
}

#[test]
fn an_init_on_a_closed_association_goes_to_a_newly_scheduled_server() {
    let mut director = director(1);
    let before = walk(&mut director, VIP, &OPENING);
    assert_eq!(request(&mut director, VIP, INIT), before, "a restart keeps its server");
    request(&mut director, VIP, ABORT);
    let after = request(&mut director, VIP, INIT);
    assert_ne!(before, after, "round robin: the other one");
    assert_eq!(state(&mut director).0, "INIT1");
    assert_eq!(director.connections(), 1);
}

#[test]
fn an_init_to_a_quiesced_server_is_scheduled_anew_in_every_state() {
    let quiesced = |server: &str| {
        let of = format!("{{ address = \"{server}\"");
        format!("{TOPOLOGY}{}", SERVICES.replacen(&of, &format!("{of}, weight = 0"), 1))
    };
    let mut director = director(1);
    let before = request(&mut director, VIP, INIT);
    director.install(&quiesced(&before));
    assert_ne!(request(&mut director, VIP, INIT), before);
    let mut director = self::director(1);
    let before = walk(&mut director, VIP, &OPENING);
    director.install(&quiesced(&before));
    assert_ne!(request(&mut director, VIP, INIT), before);
}

#[test]
fn a_rejected_init_is_forgotten_soon() {
    let mut director = director(1);
    walk(&mut director, VIP, &[(true, INIT, "INIT1"), (false, ABORT, "REJECTED")]);
    director.advance(4_300);
    assert_eq!(director.connections(), 0);
}

/// What becomes of a packet that comes in three fragments, the first one last.
fn in_fragments(
    director: &mut TestDirector,
    packet: &PacketBuilder,
    is_client: bool,
) -> Vec<Vec<u8>> {
    let whole = packet.clone().payload(&[7; 900]).may_be_split().build();
    let mut pieces = fragments(&whole, 77, 400);
    pieces.rotate_left(1);
    for piece in &pieces {
        director.receive(if is_client { OUT } else { IN }, piece);
    }
    assert_eq!((pieces.len(), director.held()), (3, 0));
    director.take_sent().into_iter().map(|sent| sent.octets).collect()
}

#[test]
fn fragments_pass_where_no_port_changes() {
    for workers in [1, 3] {
        let service = "192.0.2.101:2905";
        let mut director = director(workers);
        let server = request(&mut director, service, INIT);
        let sent = in_fragments(&mut director, &from_client(service, 0), true);
        assert_checksums(&reassemble(&sent).expect("all of it"));
        let sent = in_fragments(&mut director, &from_server(&server, 0), false);
        assert_checksums(&reassemble(&sent).expect("all of it"));
    }
}

#[test]
fn fragments_are_dropped_where_a_port_changes() {
    for workers in [1, 3] {
        let mut director = director(workers);
        let server = request(&mut director, VIP, INIT);
        assert!(in_fragments(&mut director, &from_client(VIP, 0), true).is_empty());
        assert!(in_fragments(&mut director, &from_server(&server, 0), false).is_empty());
        assert_eq!(director.dropped(DropReason::SctpFragment), 6);
    }
}

#[test]
fn a_fragment_opens_nothing() {
    let mut director = director(1);
    for service in [VIP, "192.0.2.101:2905", "192.0.2.102:2905"] {
        let whole = from_client(service, INIT).payload(&[0; 900]).may_be_split().build();
        for piece in fragments(&whole, 9, 400) {
            director.receive(OUT, &piece);
        }
    }
    assert_eq!(director.dropped(DropReason::NoConnection), 9);
    assert_eq!(director.connections(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// A random life against the kernel's table as the model.
    #[test]
    fn any_packets_lead_through_the_states_of_ipvs(
        steps in prop::collection::vec((any::<bool>(), 0_usize..10, 0_usize..1300), 1..60),
        workers in 1_u16..4,
    ) {
        let (facts, timeouts) = (facts(), timeouts());
        let mut director = director(workers);
        let mut server = request(&mut director, VIP, INIT);
        let mut expected = "INIT1";
        for (is_client, chunk, length) in steps {
            let (_, kind, _) = CHUNKS[chunk];
            let body = vec![chunk as u8; length];
            let packet = if is_client { from_client(VIP, kind) } else { from_server(&server, kind) };
            director.receive(if is_client { OUT } else { IN }, &packet.payload(&body).build());
            let sent = director.sent_one();
            assert_checksums(&sent.octets);
            prop_assert_eq!(payload(&sent.octets), &body[..]);
            if is_client && kind == INIT && expected == "CLOSED" {
                expected = "NONE";
            }
            if is_client {
                let to = ends(&sent.octets).1.to_string();
                prop_assert!(expected == "NONE" || to == server);
                server = to;
            }
            expected = facts[&(is_client, expected, kind)];
            prop_assert_eq!(state(&mut director), (expected, timeouts[expected] * 1000));
        }
    }
}

/// A client and a server in one network: the server sees an address and a port of the director's,
/// so both ports of a packet change, and of what an error quotes.
#[test]
fn full_nat_keeps_the_checksum_right() {
    let services = "[[service]]\nname = \"near\"\nlisten = \"sctp://192.0.2.100:2905\"\n\
                    servers = [{ address = \"10.0.0.11:3905\" }]\n";
    for workers in [1, 3] {
        let mut director = Setup::with_services(services).workers(workers).start();
        let client = "10.0.0.12:20000";
        let request = PacketBuilder::sctp(client, VIP).flags(INIT).payload(&[3; 77]).from_server();
        director.receive(IN, &request.build());
        let sent = director.sent_one();
        assert_checksums(&sent.octets);
        let (local, server) = ends(&sent.octets);
        assert_eq!(
            (local.ip().to_string(), server.to_string()),
            ("10.0.0.1".into(), "10.0.0.11:3905".into())
        );
        let reply =
            PacketBuilder::sctp("10.0.0.11:3905", &local.to_string()).flags(2).from_server();
        director.receive(IN, &reply.payload(&[4; 501]).build());
        let sent = director.sent_one();
        assert_checksums(&sent.octets);
        let (from, to) = ends(&sent.octets);
        assert_eq!((from.to_string(), to.to_string()), (VIP.into(), client.into()));
        // The server complains: the quoted packet is the client's again.
        let about = PacketBuilder::sctp(&local.to_string(), "10.0.0.11:3905").payload(&[5; 33]);
        director.receive(IN, &error("10.0.0.11", &about.build(), IN, 1400));
        let sent = director.sent_one();
        let quoted = [&[0; 12][..], &[8, 0], &sent.octets[42..]].concat();
        assert_checksums(&quoted);
        let (from, to) = ends(&quoted);
        assert_eq!((from.to_string(), to.to_string()), (client.into(), VIP.into()));
    }
}
