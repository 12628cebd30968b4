//! The state machine, enumerated: every state, both directions, all 64 combinations of the control
//! bits, against what is known of IPVS (`net/netfilter/ipvs/ip_vs_proto_tcp.c`, and the recordings
//! in tests/oracle).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::excessive_nesting,
    reason = "a test fails by panicking; loops over all there is"
)]

mod support;

use pointsman::dataplane::conn::tcp_state::ConnectionState as S;
use pointsman::wire::flow_key::Direction;
use serde_json::Value;
use support::director::{IN, OUT, Setup, TestDirector};
use support::packet::{ACK, FIN, PacketBuilder, RST, SYN};

const CLIENT: &str = "198.18.7.7:20000";
const VIP: &str = "192.0.2.100:80";
const SERVER: &str = "10.0.0.11:80";

const TCP_STATES: [S; 11] = [
    S::None,
    S::Established,
    S::SynSent,
    S::SynRecv,
    S::FinWait,
    S::TimeWait,
    S::Close,
    S::CloseWait,
    S::LastAck,
    S::Listen,
    S::SynAck,
];

/// What a segment is for the state machine: the bit that outweighs the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Reset,
    Opens,
    Finishes,
    Acknowledges,
    Nothing,
}

fn kind(control: u8) -> Kind {
    let ranked =
        [(RST, Kind::Reset), (SYN, Kind::Opens), (FIN, Kind::Finishes), (ACK, Kind::Acknowledges)];
    let first = ranked.into_iter().find(|(bit, _)| control & bit != 0);
    first.map_or(Kind::Nothing, |(_, kind)| kind)
}

/// The states that a kind of segment of a direction leads out of, and where to. All others stay.
fn moves(from: Direction, kind: Kind) -> &'static [(&'static [S], S)] {
    match (from, kind) {
        (Direction::Inbound, Kind::Opens) => &[
            (&[S::SynSent], S::Established),
            (
                &[
                    S::None,
                    S::FinWait,
                    S::TimeWait,
                    S::Close,
                    S::CloseWait,
                    S::LastAck,
                    S::Listen,
                    S::SynAck,
                ],
                S::SynRecv,
            ),
        ],
        (Direction::Inbound, Kind::Finishes) => &[
            (&[S::None], S::Close),
            (&[S::Established], S::CloseWait),
            (&[S::SynRecv, S::FinWait, S::SynAck], S::TimeWait),
        ],
        (Direction::Inbound, Kind::Acknowledges) => &[
            // As IPVS opens a connection in the middle with sloppy_tcp.
            (&[S::None, S::SynRecv, S::SynAck], S::Established),
            (&[S::LastAck], S::Close),
        ],
        (Direction::Inbound, Kind::Reset) => &[
            (
                &[S::None, S::Established, S::SynSent, S::FinWait, S::TimeWait, S::CloseWait],
                S::Close,
            ),
            (&[S::SynAck], S::SynRecv),
        ],
        (Direction::Reply, Kind::Opens) => &[
            (&[S::None, S::FinWait, S::TimeWait, S::Close, S::CloseWait, S::LastAck], S::SynSent),
            (&[S::SynAck], S::SynRecv),
        ],
        (Direction::Reply, Kind::Finishes) => &[
            (&[S::Established], S::FinWait),
            (&[S::None, S::SynRecv, S::CloseWait, S::SynAck], S::TimeWait),
        ],
        (Direction::Reply, Kind::Acknowledges) => {
            &[(&[S::None, S::SynRecv, S::Listen, S::SynAck], S::Established)]
        }
        (Direction::Reply, Kind::Reset) => &[(
            &[
                S::None,
                S::Established,
                S::SynRecv,
                S::FinWait,
                S::CloseWait,
                S::LastAck,
                S::Listen,
                S::SynAck,
            ],
            S::Close,
        )],
        // Different from IPVS on purpose, which closes: a segment that says nothing, and that no
        // TCP sends, ends nothing.
        (_, Kind::Nothing) => &[],
    }
}

fn expected(state: S, from: Direction, control: u8) -> S {
    let mut moves = moves(from, kind(control)).iter();
    moves.find(|(states, _)| states.contains(&state)).map_or(state, |(_, next)| *next)
}

#[test]
fn every_state_and_every_segment_lead_where_ipvs_goes() {
    let mut wrong = Vec::new();
    for state in TCP_STATES {
        for from in [Direction::Inbound, Direction::Reply] {
            for control in 0..64 {
                let (next, wanted) = (state.next(from, control), expected(state, from, control));
                if next != wanted {
                    wrong.push(format!("{state} {from:?} {control:#04x}: {next}, not {wanted}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of 1408:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn urgent_and_pushed_segments_and_congestion_marks_change_nothing_more() {
    for state in TCP_STATES {
        for from in [Direction::Inbound, Direction::Reply] {
            for control in 0..=255_u8 {
                let bare = control & (RST | SYN | FIN | ACK);
                assert_eq!(state.next(from, control), state.next(from, bare));
            }
        }
    }
}

/// The table above says what the kernel did, wherever it was recorded.
#[test]
fn the_expectations_are_those_that_were_recorded() {
    let path = format!("{}/tests/oracle/tcp_states.json", env!("CARGO_MANIFEST_DIR"));
    let paths: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut compared = 0;
    for path in paths.as_array().unwrap() {
        let mut state = S::None;
        for step in path["steps"].as_array().unwrap() {
            let packet = &step["packet"];
            let is_client = packet["from"] == "client";
            let from = if is_client { Direction::Inbound } else { Direction::Reply };
            let control = packet["flags"].as_str().unwrap().chars().fold(0, |bits, flag| {
                bits | match flag {
                    'S' => SYN,
                    'F' => FIN,
                    'R' => RST,
                    _ => ACK,
                }
            });
            let next = expected(state, from, control);
            assert_eq!(next.name(), step["state"].as_str().unwrap(), "{state} {packet}");
            (state, compared) = (next, compared + 1);
        }
    }
    assert!(compared > 200, "{compared}");
}

fn director(workers: u16) -> TestDirector {
    Setup::with_services(&format!(
        "[[service]]\nname = \"web\"\nlisten = \"tcp://{VIP}\"\n\
         servers = [{{ address = \"{SERVER}\" }}]\n"
    ))
    .connections(16, 0)
    .workers(workers)
    .start()
}

fn send(director: &mut TestDirector, from: Direction, control: u8) {
    let (at, frame) = match from {
        Direction::Inbound => (OUT, PacketBuilder::tcp(CLIENT, VIP)),
        Direction::Reply => (IN, PacketBuilder::tcp(SERVER, CLIENT).from_server()),
    };
    director.receive(at, &frame.flags(control).build());
    director.sent_one();
}

/// The segments that lead into each state that traffic can reach.
const WAYS: [(S, &[(Direction, u8)]); 8] = {
    use Direction::{Inbound as C, Reply as R};
    [
        (S::SynRecv, &[(C, SYN)]),
        (S::Established, &[(C, SYN), (C, ACK)]),
        (S::CloseWait, &[(C, SYN), (C, ACK), (C, FIN)]),
        (S::FinWait, &[(C, SYN), (C, ACK), (R, FIN)]),
        (S::TimeWait, &[(C, SYN), (C, ACK), (R, FIN), (C, FIN)]),
        (S::Close, &[(C, SYN), (R, RST)]),
        (S::SynSent, &[(C, SYN), (R, RST), (R, SYN)]),
        // Simultaneous open: two SYNs that cross.
        (S::SynRecv, &[(C, SYN), (R, SYN), (C, SYN | ACK), (R, SYN | ACK)]),
    ]
};

/// Whatever a segment says, it reaches the other end, and the connection is where IPVS has it.
#[test]
fn every_segment_of_a_connection_is_forwarded_in_every_state() {
    for workers in [1, 3] {
        for (state, way) in WAYS {
            for from in [Direction::Inbound, Direction::Reply] {
                for control in 0..64 {
                    let mut director = director(workers);
                    for (from, control) in way {
                        send(&mut director, *from, *control);
                    }
                    assert_eq!(director.list()[0].state, state);
                    send(&mut director, from, control);
                    let now = director.list()[0].state;
                    let wanted = expected(state, from, control);
                    assert_eq!(now, wanted, "{state} {from:?} {control:#04x}");
                    assert_eq!((director.connections(), director.drops().len()), (1, 0));
                }
            }
        }
    }
}
