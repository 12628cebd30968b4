//! Packets that arrive at another worker than their flow's: what becomes of them is what becomes of
//! them where there is one worker alone.
#![allow(
    clippy::excessive_nesting,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use pointsman::dataplane::mailbox::ConnectionRow;
use pointsman::ids::{InterfaceId, ServerSlot, VlanId};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use support::director::{IN, OUT, Sent, Setup, TOPOLOGY, TestDirector};
use support::packet::{
    ACK, FIN, INSIDE, PacketBuilder, RST, SERVER_SIDE, SYN, ends, error, fragments,
};

/// So many cases; what fails is made a test of its own, not a file.
fn quiet(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Name, listen, options, server.
const SERVICES: [(&str, &str, &str, &str); 6] = [
    ("web", "tcp://192.0.2.100:80", "non_syn = \"schedule\"\n", "10.0.0.11:8080"),
    ("strict", "tcp://192.0.2.101:80", "non_syn = \"reset\"\n", "10.0.0.12:8080"),
    ("dns", "udp://192.0.2.100:53", "", "10.0.0.12:53"),
    ("signal", "sctp://192.0.2.100:2905", "", "10.0.0.13:3905"),
    ("web6", "tcp://[2001:db8:1::100]:80", "", "[fd00::11]:8080"),
    ("dns6", "udp://[2001:db8:1::100]:53", "", "[fd00::12]:53"),
];

/// A director with so many workers; its interfaces have VLANs, or none.
fn start(workers: u16, vlans: [u16; 2]) -> TestDirector {
    let service = |(name, listen, options, server): &(&str, &str, &str, &str)| {
        format!(
            "[[service]]\nname = \"{name}\"\nlisten = \"{listen}\"\n{options}\
             servers = [{{ address = \"{server}\" }}]\n"
        )
    };
    let services: String = SERVICES.iter().map(service).collect();
    start_with(&services, workers, vlans)
}

fn start_with(services: &str, workers: u16, vlans: [u16; 2]) -> TestDirector {
    let mut setup = Setup::new(&format!("{TOPOLOGY}{services}")).workers(workers);
    // The limit is each worker's.
    setup.config.director.errors_per_second = 1_000_000;
    for (interface, vlan) in setup.config.interfaces.iter_mut().zip(vlans) {
        interface.vlan = VlanId(vlan);
    }
    setup.start()
}

/// What surrounds a packet of a flow.
#[derive(Clone, Debug)]
enum Form {
    Plain,
    /// Longer than it says.
    Padded,
    /// IPv4 options, or an extension header.
    Options,
    /// In pieces of so many times eight octets, in order or turned round.
    Pieces(usize, bool),
    /// An error about it that a router sends to where it came from.
    Error,
    /// With an octet that is another one.
    Changed(Index, u8),
    Cut(Index),
}

/// A packet between one of few clients and one of the services, by either side.
#[derive(Clone, Debug)]
struct Step {
    is_reply: bool,
    service: usize,
    client: u16,
    control: u8,
    chunk: u8,
    ttl: u8,
    octets: usize,
    form: Form,
    /// It comes with this VLAN instead of its interface's.
    vlan: Option<u16>,
}

impl Step {
    /// The first packet of a flow.
    fn opening(service: usize, client: u16) -> Self {
        let (is_reply, form, vlan) = (false, Form::Plain, None);
        let (control, chunk, ttl, octets) = (SYN, 1, 64, 0);
        Self { is_reply, service, client, control, chunk, ttl, octets, form, vlan }
    }

    fn interface(&self) -> InterfaceId {
        let is_inside = self.is_reply != matches!(self.form, Form::Error);
        if is_inside { IN } else { OUT }
    }

    fn packet(&self) -> PacketBuilder {
        let (_, listen, _, server) = SERVICES[self.service];
        let (protocol, vip) = listen.split_once("://").unwrap();
        let is_v6 = vip.starts_with('[');
        let host = if is_v6 { "[2001:db8:ffff::7]" } else { "198.18.0.7" };
        let client = format!("{host}:{}", 2000 + self.client);
        let is_error = matches!(self.form, Form::Error);
        // An error is about what the director has sent.
        let (from, to) = match (self.is_reply, is_error) {
            (false, false) => (client.as_str(), vip),
            (true, false) => (server, client.as_str()),
            (false, true) => (client.as_str(), server),
            (true, true) => (vip, client.as_str()),
        };
        // Datagrams in pieces come to their flow's owner by way of several workers, and may overtake
        // each other: what becomes of them does not depend on that.
        let (control, chunk, ttl) = if matches!(self.form, Form::Pieces(..)) {
            (ACK, 0, 64)
        } else {
            (self.control, self.chunk, self.ttl)
        };
        let packet = match protocol {
            "tcp" => PacketBuilder::tcp(from, to).flags(control),
            "udp" => PacketBuilder::udp(from, to),
            _ => PacketBuilder::sctp(from, to).flags(chunk),
        };
        let packet = packet.ttl(ttl).payload(&vec![self.client as u8; self.octets]);
        let packet = if self.is_reply && !is_error { packet.from_server() } else { packet };
        match self.form {
            Form::Padded => packet.pad_to(200),
            Form::Options if is_v6 => packet.extension(60, &[0; 6]),
            Form::Options => packet.ip_options(&[1; 8]),
            Form::Plain | Form::Pieces(..) | Form::Error | Form::Changed(..) | Form::Cut(_) => {
                packet
            }
        }
    }

    /// The frames of the packet, without tags. `number` tells datagrams apart.
    fn frames(&self, number: u16) -> Vec<Vec<u8>> {
        let mut frame = self.packet().build();
        match &self.form {
            Form::Plain | Form::Padded | Form::Options => {}
            Form::Pieces(eights, is_turned) => {
                let mut pieces = fragments(&frame, number, eights * 8);
                if *is_turned {
                    pieces.reverse();
                }
                return pieces;
            }
            Form::Error => {
                let router = match (frame[12] == 8, self.interface() == IN) {
                    (true, true) => "10.0.0.9",
                    (true, false) => "198.18.0.9",
                    (false, true) => "fd00::9",
                    (false, false) => "2001:db8:ffff::9",
                };
                return vec![error(router, &frame, self.interface(), 1400)];
            }
            Form::Changed(place, octet) => {
                let place = place.index(frame.len());
                frame[place] = *octet;
            }
            Form::Cut(end) => {
                let end = end.index(frame.len());
                frame.truncate(end);
            }
        }
        vec![frame]
    }
}

fn step() -> impl Strategy<Value = Step> {
    let form = prop_oneof![
        12 => Just(Form::Plain),
        2 => Just(Form::Padded),
        2 => Just(Form::Options),
        3 => (4_usize..8, any::<bool>()).prop_map(|(eights, turned)| Form::Pieces(eights, turned)),
        3 => Just(Form::Error),
        3 => (any::<Index>(), any::<u8>()).prop_map(|(place, octet)| Form::Changed(place, octet)),
        1 => any::<Index>().prop_map(Form::Cut),
    ];
    let control = select(vec![SYN, SYN, SYN | ACK, ACK, ACK, ACK, FIN | ACK, RST]);
    let chunk = select(vec![1_u8, 2, 10, 11, 0, 7, 8, 14]);
    let ttl = prop_oneof![15 => Just(64_u8), 1 => Just(1_u8)];
    let vlan = prop::option::weighted(0.05, select(vec![0_u16, 10, 20, 77]));
    let flow = (any::<bool>(), 0..SERVICES.len(), 0_u16..8, control, chunk);
    (flow, ttl, 0_usize..120, form, vlan).prop_map(|(flow, ttl, octets, form, vlan)| {
        let (is_reply, service, client, control, chunk) = flow;
        Step { is_reply, service, client, control, chunk, ttl, octets, form, vlan }
    })
}

fn tag(frame: &mut Vec<u8>, vlan: u16) {
    if vlan != 0 && frame.len() >= 12 {
        let [high, low] = vlan.to_be_bytes();
        frame.splice(12..12, [0x81, 0, high, low]);
    }
}

/// What can be seen of a director at rest.
#[derive(Debug, PartialEq)]
struct Seen {
    sent: Vec<(InterfaceId, Vec<u8>)>,
    drops: BTreeMap<String, u64>,
    consumed: u64,
    held: u64,
    connections: Vec<(u8, SocketAddr, SocketAddr, SocketAddr, &'static str, u32)>,
    loads: Vec<(u32, u32)>,
    counters: Vec<[u64; 5]>,
}

/// Packets of one flow stay in their order; all else is told apart by its octets.
fn flow_of(sent: &Sent) -> (u8, Vec<u8>, Option<(SocketAddr, SocketAddr)>) {
    let mut octets = sent.octets.clone();
    if octets[12..14] == [0x81, 0] {
        octets.drain(12..16);
    }
    let protocol = octets[if octets[12..14] == [8, 0] { 23 } else { 20 }];
    let is_fragment = octets[12..14] == [8, 0] && (octets[20] & 0x3f, octets[21]) != (0, 0);
    if [6, 17, 132].contains(&protocol) && !is_fragment {
        (sent.interface.0, vec![protocol], Some(ends(&octets)))
    } else {
        (sent.interface.0, octets, None)
    }
}

impl Seen {
    fn of(director: &mut TestDirector, workers: u16) -> Self {
        let mut sent = director.take_sent();
        sent.sort_by_cached_key(flow_of);
        let row = |row: ConnectionRow| {
            let ConnectionRow { protocol, state, client, service, server, expires_ms } = row;
            (protocol, client, service, server, state.name(), expires_ms)
        };
        let mut connections: Vec<_> = director.list().into_iter().map(row).collect();
        connections.sort_unstable();
        let counters = |slot| {
            let mut sum = [0; 5];
            for worker in 0..usize::from(workers) {
                let of = director.stats(worker).server(ServerSlot(slot)).unwrap();
                let all = [
                    &of.connections,
                    &of.in_packets,
                    &of.in_octets,
                    &of.out_packets,
                    &of.out_octets,
                ];
                sum.iter_mut().zip(all).for_each(|(sum, counter)| *sum += counter.get());
            }
            sum
        };
        let loads = |slot| director.loads.of(ServerSlot(slot)).unwrap().connections();
        Self {
            sent: sent.into_iter().map(|sent| (sent.interface, sent.octets)).collect(),
            drops: director.drops(),
            consumed: director.consumed(),
            held: director.held(),
            loads: (0..8).map(loads).collect(),
            counters: (0..8).map(counters).collect(),
            connections,
        }
    }
}

/// Two directors with two workers receive everything at the first and at the second one: each
/// packet of a flow is handed over by one of the two, and its flow's owner receives it in the
/// other. A third has one worker. `is_trusting`: nothing of another worker's has come for long,
/// so that connections are looked for before the owner is asked for.
fn are_treated_alike(vlans: [u16; 2], bursts: &[(Vec<Step>, u32)], is_trusting: bool) {
    let [mut alone, mut at_first, mut at_second] = [1, 2, 2].map(|count| start(count, vlans));
    if is_trusting {
        let nobodys = vec![vec![0; 60]; 64];
        for turn in 0..16 {
            alone.receive_burst(0, OUT, &nobodys);
            at_first.receive_burst(turn % 2, OUT, &nobodys);
            at_second.receive_burst(turn % 2, OUT, &nobodys);
        }
    }
    let mut number = 0;
    for (steps, wait) in bursts {
        for (interface, in_pieces) in [(OUT, false), (OUT, true), (IN, false), (IN, true)] {
            let is_meant = |step: &&Step| {
                step.interface() == interface && matches!(step.form, Form::Pieces(..)) == in_pieces
            };
            let mut burst = Vec::new();
            for step in steps.iter().filter(is_meant) {
                number += 1;
                let vlan = step.vlan.unwrap_or(vlans[interface.index()]);
                let mut frames = step.frames(number);
                for frame in &mut frames {
                    tag(frame, vlan);
                }
                burst.extend(frames);
            }
            burst.truncate(64);
            alone.receive_burst(0, interface, &burst);
            at_first.receive_burst(0, interface, &burst);
            at_second.receive_burst(1, interface, &burst);
            let seen = Seen::of(&mut alone, 1);
            assert_eq!(&Seen::of(&mut at_first, 2), &seen);
            assert_eq!(&Seen::of(&mut at_second, 2), &seen);
        }
        for director in [&mut alone, &mut at_first, &mut at_second] {
            director.advance(*wait);
        }
    }
}

proptest! {
    #![proptest_config(quiet(400))]

    #[test]
    fn a_packet_that_was_handed_over_is_treated_as_one_that_arrived_right(
        vlans in select(vec![[0, 0], [10, 20], [0, 20]]),
        bursts in prop::collection::vec((prop::collection::vec(step(), 1..12), 0_u32..2000), 1..8),
        is_trusting in any::<bool>(),
    ) {
        are_treated_alike(vlans, &bursts, is_trusting);
    }
}

#[test]
fn what_follows_a_packet_of_another_workers_does_not_overtake_the_first_packet_of_its_flow() {
    for (others, own) in (0..4).flat_map(|others| (0..4).map(move |own| (others, own))) {
        // The first burst has a worker ask for owners before it looks for connections.
        let first = vec![Step::opening(0, others)];
        let error = Step { is_reply: true, form: Form::Error, ..Step::opening(2, own) };
        let second = vec![Step::opening(2, own), Step::opening(0, others), error];
        are_treated_alike([0, 0], &[(first, 0), (second, 0)], false);
    }
}

#[test]
fn every_packet_of_a_flow_arrives_right_at_one_of_two_workers_and_is_handed_over_by_the_other() {
    let mut directors = [start(2, [0, 0]), start(2, [0, 0])];
    for client in 0..100 {
        for service in 0..SERVICES.len() {
            let step = Step::opening(service, client);
            let mut handed_over = 0;
            for (worker, director) in directors.iter_mut().enumerate() {
                let before = director.stats(worker).handed_out.get();
                director.receive_burst(worker, OUT, &step.frames(0));
                handed_over += director.stats(worker).handed_out.get() - before;
            }
            assert_eq!(handed_over, 1, "{step:?}");
        }
    }
}

#[test]
fn the_owner_knows_by_which_interface_a_packet_came() {
    let marked = |mark: u8, interface: &str, server: &str| {
        format!(
            "[[mark]]\nmark = {mark}\naddresses = [\"192.0.2.120\"]\ninterface = \"{interface}\"\n\
             [[service]]\nname = \"{interface}\"\nlisten = \"fwmark://{mark}\"\n\
             servers = [{{ address = \"{server}\" }}]\n"
        )
    };
    let services = marked(1, "outside", "10.0.0.11:8080") + &marked(2, "inside", "10.0.0.12:8080");
    for vlans in [[0, 0], [10, 20]] {
        let mut director = start_with(&services, 3, vlans);
        for (interface, client, server) in
            [(OUT, "198.18.0.7", "10.0.0.11:8080"), (IN, "10.0.0.13", "10.0.0.12:8080")]
        {
            let syn = |port: usize| {
                let syn = PacketBuilder::tcp(&format!("{client}:{port}"), "192.0.2.120:80");
                let syn = if interface == IN { syn.macs(SERVER_SIDE, INSIDE) } else { syn };
                // Some have options, and are no plain packets.
                let syn = if port.is_multiple_of(4) { syn.ip_options(&[1; 8]) } else { syn };
                let mut frame = syn.flags(SYN).build();
                tag(&mut frame, vlans[interface.index()]);
                frame
            };
            for worker in 0..3 {
                let first = 2000 + worker * 16;
                let frames: Vec<_> = (first..first + 16).map(syn).collect();
                director.receive_burst(worker, interface, &frames);
            }
            let sent = director.take_sent();
            assert_eq!(sent.len(), 48, "{:?}", director.drops());
            for Sent { mut octets, .. } in sent {
                if octets[12..14] == [0x81, 0] {
                    octets.drain(12..16);
                }
                assert_eq!(ends(&octets).1.to_string(), server);
            }
        }
        assert!(director.connections_by_worker().iter().all(|count| *count > 16));
    }
}
