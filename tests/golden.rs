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
use pointsman::ids::InterfaceId;
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

fn setup(case: &Case, workers: u16) -> (Setup, Vec<String>) {
    let mut setup = Setup::new(&case.director()).workers(workers);
    setup.macs = MACS.to_vec();
    setup.start = Tick(0);
    let names = setup.config.interfaces.iter().map(|interface| interface.name.clone()).collect();
    (setup, names)
}

/// The frames that go in, in the order of time.
fn inputs(case: &Case, interfaces: &[String]) -> Vec<(InterfaceId, Stamped)> {
    let mut all = Vec::new();
    for (number, name) in (0..).zip(interfaces) {
        all.extend(case.frames(name, "in").into_iter().map(|frame| (InterfaceId(number), frame)));
    }
    all.sort_by_key(|(_, frame)| frame.at_ms);
    all
}

/// One frame after the other, each received by whichever worker.
fn replay(case: &Case, workers: u16) -> (Outcome, Outcome) {
    let (setup, interfaces) = setup(case, workers);
    let expected = Outcome::expected(case, &interfaces);
    let mut sides: BTreeMap<String, Side> =
        interfaces.iter().map(|name| (name.clone(), Vec::new())).collect();
    let mut director = setup.start();
    director.solicits = true;
    director.take_sent();
    for (interface, frame) in inputs(case, &interfaces) {
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

/// Only cases that no time passes in.
#[test]
fn every_case_in_bursts() {
    check("bursts", |case| case.eal.then(|| replay_in_bursts(case)));
}
