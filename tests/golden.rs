//! The golden cases: frames that scapy made go in, and exactly the frames that scapy made must
//! come out. `tests/golden/generate.py` writes them.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::excessive_nesting,
    clippy::format_push_string,
    clippy::cast_possible_truncation,
    clippy::needless_for_each,
    reason = "a test fails by panicking"
)]

mod support;

use std::collections::BTreeMap;

use pointsman::clock::Tick;
use pointsman::control::config::PortConfig;
use pointsman::ids::{InterfaceId, VlanId};
use support::director::{Sent, Setup};
use support::golden::{Case, MACS, cases};
use support::packet::hex;
use support::pcap::Stamped;

/// The frames of one interface.
type Side = Vec<Stamped>;

/// What one director made of a case.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    /// By interface.
    sides: BTreeMap<String, Side>,
    consumed: u64,
    dropped: BTreeMap<String, u64>,
}

impl Outcome {
    fn expected(case: &Case, interfaces: &[String]) -> Self {
        let sides = interfaces.iter().map(|name| (name.clone(), case.frames(name, "out")));
        Self { sides: sides.collect(), consumed: case.consumed, dropped: case.dropped.clone() }
    }

    fn explain(&self, expected: &Self) -> String {
        let mut text = String::new();
        if (self.consumed, &self.dropped) != (expected.consumed, &expected.dropped) {
            text += &format!(
                "  consumed {}, dropped {:?}; expected {}, {:?}\n",
                self.consumed, self.dropped, expected.consumed, expected.dropped
            );
        }
        for (name, side) in &expected.sides {
            let found = &self.sides[name];
            for place in 0..side.len().max(found.len()) {
                let (found, side) = (found.get(place), side.get(place));
                if found == side {
                    continue;
                }
                let show = |frame: Option<&Stamped>| {
                    frame.map_or("nothing".into(), |f| format!("{} ms {}", f.at_ms, hex(&f.octets)))
                };
                let (found, side) = (show(found), show(side));
                text += &format!("  {name} {place}:\n    sent     {found}\n    expected {side}\n");
            }
        }
        text
    }
}

/// A director, and the name of each interface's port.
fn setup(case: &Case, workers: u16) -> (Setup, Vec<String>) {
    let mut setup = Setup::new(&case.director()).workers(workers);
    setup.macs = MACS.to_vec();
    setup.start = Tick(0);
    let ports = setup.config.ports();
    let name = |place: usize| {
        let on_port = |port: &&PortConfig<'_>| port.interfaces.iter().any(|(n, _)| *n == place);
        ports.iter().find(on_port).unwrap().name()
    };
    let names = (0..setup.config.interfaces.len()).map(name).collect();
    (setup, names)
}

/// The frames that go in, in the order of time; by any interface of their port.
fn inputs(case: &Case, interfaces: &[String]) -> Vec<(InterfaceId, Stamped)> {
    let mut all = Vec::new();
    for (number, name) in interfaces.iter().enumerate() {
        if interfaces[..number].contains(name) {
            continue;
        }
        let id = InterfaceId(number as u8);
        all.extend(case.frames(name, "in").into_iter().map(|frame| (id, frame)));
    }
    all.sort_by_key(|(_, frame)| frame.at_ms);
    all
}

/// One frame after the other, each received by whichever worker.
fn replay(case: &Case, workers: u16) -> (Outcome, Outcome) {
    let (setup, interfaces) = setup(case, workers);
    let expected = Outcome::expected(case, &interfaces);
    let inputs = inputs(case, &interfaces);
    replay_on(setup, &interfaces, inputs, expected)
}

/// As [`replay`], with the interfaces in VLANs: what goes in and what must come out has their tags.
fn replay_tagged(case: &Case, workers: u16) -> Option<(Outcome, Outcome)> {
    let (mut setup, interfaces) = setup(case, workers);
    if setup.config.interfaces.iter().any(|interface| interface.vlan != VlanId::UNTAGGED) {
        return None;
    }
    let vlan = |interface: usize| 100 + interface as u16;
    for (number, interface) in setup.config.interfaces.iter_mut().enumerate() {
        interface.vlan = VlanId(vlan(number));
    }
    let mut inputs = inputs(case, &interfaces);
    if inputs.iter().any(|(_, frame)| has_tag(&frame.octets)) {
        return None;
    }
    for (number, (interface, frame)) in (0_u16..).zip(&mut inputs) {
        // Any priority.
        tag(&mut frame.octets, vlan(interface.index()) | number << 12);
    }
    let mut expected = Outcome::expected(case, &interfaces);
    for (number, name) in interfaces.iter().enumerate() {
        let side = expected.sides.get_mut(name).unwrap();
        side.iter_mut().for_each(|frame| tag(&mut frame.octets, vlan(number)));
    }
    Some(replay_on(setup, &interfaces, inputs, expected))
}

fn has_tag(frame: &[u8]) -> bool {
    matches!(frame.get(12..14), Some([0x81, 0] | [0x88, 0xa8]))
}

fn tag(frame: &mut Vec<u8>, control: u16) {
    if frame.len() >= 12 {
        let [high, low] = control.to_be_bytes();
        frame.splice(12..12, [0x81, 0, high, low]);
    }
}

fn replay_on(
    setup: Setup,
    interfaces: &[String],
    inputs: Vec<(InterfaceId, Stamped)>,
    expected: Outcome,
) -> (Outcome, Outcome) {
    let mut sides: BTreeMap<String, Side> =
        interfaces.iter().map(|name| (name.clone(), Vec::new())).collect();
    let mut director = setup.start();
    director.solicits = true;
    director.take_sent();
    for (interface, frame) in inputs {
        director.advance(frame.at_ms - director.now.0);
        director.receive(interface, &frame.octets);
        for Sent { interface, octets } in director.take_sent() {
            let side = sides.get_mut(&interfaces[interface.index()]).unwrap();
            side.push(Stamped { at_ms: frame.at_ms, octets });
        }
    }
    let found = Outcome { sides, consumed: director.consumed(), dropped: director.drops() };
    director.shut_down();
    (found, expected)
}

/// All frames in bursts of 64, as far as they come in by the same interface.
fn replay_in_bursts(case: &Case) -> (Outcome, Outcome) {
    let (setup, interfaces) = setup(case, 1);
    let mut expected = Outcome::expected(case, &interfaces);
    let mut sides: BTreeMap<String, Side> =
        interfaces.iter().map(|name| (name.clone(), Vec::new())).collect();
    let mut director = setup.start();
    let inputs = inputs(case, &interfaces);
    for burst in inputs.chunk_by(|(a, _), (b, _)| a == b) {
        for burst in burst.chunks(64) {
            let frames: Vec<_> = burst.iter().map(|(_, frame)| frame.octets.clone()).collect();
            director.receive_burst(0, burst[0].0, &frames);
        }
    }
    for Sent { interface, octets } in director.take_sent() {
        let side = sides.get_mut(&interfaces[interface.index()]).unwrap();
        side.push(Stamped { at_ms: 0, octets });
    }
    for side in expected.sides.values_mut() {
        side.iter_mut().for_each(|frame| frame.at_ms = 0);
    }
    (Outcome { sides, consumed: director.consumed(), dropped: director.drops() }, expected)
}

fn check(what: &str, run: impl Fn(&Case) -> Option<(Outcome, Outcome)>) {
    let mut failures = Vec::new();
    let mut run_count = 0;
    for case in cases() {
        let Some((found, expected)) = run(&case) else { continue };
        run_count += 1;
        if found != expected {
            failures.push(format!("{}\n{}", case.name(), found.explain(&expected)));
        }
    }
    assert!(run_count > 25, "{run_count} cases");
    let text = failures.join("\n");
    assert!(failures.is_empty(), "{what}: {} of {run_count} cases\n{text}", failures.len());
}

#[test]
fn every_case_on_one_worker() {
    check("one worker", |case| Some(replay(case, 1)));
}

#[test]
fn every_case_on_two_workers() {
    check("two workers", |case| Some(replay(case, 2)));
}

#[test]
fn every_case_on_four_workers() {
    check("four workers", |case| Some(replay(case, 4)));
}

/// Nothing but the tags is different when every interface is a VLAN.
#[test]
fn every_case_with_tags() {
    check("tags, one worker", |case| replay_tagged(case, 1));
    check("tags, three workers", |case| replay_tagged(case, 3));
}

/// Only cases that no time passes in.
#[test]
fn every_case_in_bursts() {
    check("bursts", |case| case.eal.then(|| replay_in_bursts(case)));
}
