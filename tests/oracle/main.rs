//! What the Linux kernel's IPVS did (the recordings beside this file), and what pointsman does.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::excessive_nesting,
    clippy::format_push_string,
    clippy::cast_possible_truncation,
    clippy::needless_for_each,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod differences;
mod ftp;
mod nat;
mod tcp;

use serde_json::Value;
use support::director::{IN, OUT, Sent, TestDirector};
use support::packet::{hex, unhex};

/// A test of its own for each case of a recording, and one that fails when a case has none.
macro_rules! one_test_for_each_case {
    ($file:literal, $run:path, [$($case:ident),* $(,)?]) => {
        $(
            #[test]
            fn $case() {
                $run(stringify!($case));
            }
        )*

        #[test]
        fn every_recorded_case_has_a_test() {
            let cases = crate::recorded($file);
            let recorded: Vec<_> = cases.iter().map(|case| crate::text(case, "case")).collect();
            assert_eq!(recorded, [$(stringify!($case)),*]);
        }
    };
}
pub(crate) use one_test_for_each_case;

fn recorded(file: &str) -> Vec<Value> {
    let path = format!("{}/tests/oracle/{file}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn array<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value[key].as_array().unwrap()
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap()
}

/// A frame as it is compared. The kernel counts the identification of packets that it makes
/// itself; what pointsman writes there is its own affair.
fn comparable(at: &str, octets: &[u8]) -> (String, String) {
    let mut octets = octets.to_vec();
    let from_vip = octets[26..30] == [192, 0, 2, 100];
    if octets[12..14] == [8, 0] && octets[23] == 1 && (from_vip || octets[15] == 0xc0) {
        octets[18..20].fill(0);
        octets[24..26].fill(0);
    }
    if octets[12..14] == [0x86, 0xdd] && octets[20] == 58 && octets[21] == 64 {
        // The kernel gives its own packets a flow label.
        octets[15..18].fill(0);
    }
    (at.into(), hex(&octets))
}

fn brief(frames: &[(String, String)]) -> String {
    let one = |(at, frame): &(String, String)| format!("{at} {frame:.160}");
    frames.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// What leaves in each step of a case: where, and what in hexadecimal digits.
type Leaving = Vec<Vec<(String, String)>>;

/// What a case sends in each step, as the recording says or as a difference made of it.
fn expected(case: &Value) -> Leaving {
    let frame = |out: &Value| comparable(text(out, "at"), &unhex(text(out, "frame")));
    let step = |step: &Value| array(step, "out").iter().map(frame).collect();
    array(case, "steps").iter().map(step).collect()
}

/// Runs a case: what left in each step.
fn run(director: &mut TestDirector, case: &Value) -> Leaving {
    let side = |sent: &Sent| if sent.interface == OUT { "outside" } else { "inside" };
    let step = |step: &Value| {
        let interface = if text(&step["in"], "at") == "outside" { OUT } else { IN };
        director.receive(interface, &unhex(text(&step["in"], "frame")));
        let sent = director.take_sent();
        sent.iter().map(|sent| comparable(side(sent), &sent.octets)).collect()
    };
    array(case, "steps").iter().map(step).collect()
}

/// Where two outcomes of a case differ.
fn explain(sent: &Leaving, expected: &Leaving) -> String {
    let mut text = String::new();
    for (number, (sent, expected)) in sent.iter().zip(expected).enumerate() {
        if sent != expected {
            let (sent, expected) = (brief(sent), brief(expected));
            text += &format!("  step {number}\n    sent     {sent}\n    expected {expected}\n");
        }
    }
    text
}
