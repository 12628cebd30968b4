//! Masquerade, routing, hairpin, one-packet services and small MTUs at once, and whatever comes.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::excessive_nesting,
    reason = "a test fails by panicking"
)]

mod support;

use std::net::SocketAddr;

use pointsman::dataplane::mailbox::Event;
use proptest::prelude::*;
use proptest::sample::Index;
use support::director::{IN, OUT, Setup, TestDirector};
use support::packet::{PacketBuilder, SERVER_SIDE, echo, error, fragments};

const EVERYTHING: &str = r#"
[director]
routing = true
non_syn = "reset"

[interface.outside]
role = "outside"
addresses = ["192.0.2.1/24", "2001:db8:1::1/64"]
gateways = ["192.0.2.254", "2001:db8:1::254"]
[interface.outside.neighbors]
"192.0.2.254" = "02:00:00:00:00:01"
"2001:db8:1::254" = "02:00:00:00:00:01"

[interface.inside]
role = "inside"
mtu = 1280
mss_clamp = "mtu"
addresses = ["10.0.0.1/24", "fd00::1/64"]
[interface.inside.neighbors]
"10.0.0.11" = "02:00:00:00:01:01"

[[service]]
name = "web"
listen = "tcp://192.0.2.100:5001"
servers = [{ address = "10.0.0.11:8080" }, { address = "10.0.0.12:8080" }]

[[service]]
name = "dns"
listen = "udp://192.0.2.100:53"
one_packet = true
servers = [{ address = "10.0.0.11:53" }]

[[service]]
name = "web6"
listen = "tcp://[2001:db8:1::100]:80"
non_syn = "schedule"
servers = [{ address = "[fd00::11]:80" }]

[[masquerade]]
sources = ["10.0.0.0/8", "fd00::/16"]
addresses = ["192.0.2.100", "192.0.2.101", "2001:db8:1::100"]
ports = "5000-5003"
"#;

fn everything(workers: u16) -> TestDirector {
    let mut director = Setup::new(EVERYTHING).workers(workers).connections(64, 64).start();
    for host in ["10.0.0.12", "fd00::11", "fd00::12"] {
        director.answering.insert(host.parse().unwrap(), SERVER_SIDE);
    }
    director
}

/// A frame between some of these ends, of some kind, by either wire.
fn frames() -> impl Strategy<Value = (bool, Vec<Vec<u8>>)> {
    const ENDS: [&str; 7] = [
        "198.18.7.7",
        "203.0.113.9",
        "10.0.0.11",
        "10.0.0.12",
        "192.0.2.100",
        "192.0.2.101",
        "10.0.0.1",
    ];
    const ENDS6: [&str; 6] =
        ["2001:db8:ffff::7", "fd00::11", "fd00::12", "2001:db8:1::100", "fd00::1", "fe80::9"];
    const PORTS: [u16; 6] = [0, 53, 80, 5001, 8080, 7000];
    let end = || (any::<Index>(), any::<Index>());
    let kind = (0..6_u8, any::<bool>(), 0..64_u8, 0..3000_usize);
    (any::<bool>(), any::<bool>(), end(), end(), kind, any::<u16>()).prop_map(
        |(inside, is_v6, from, to, (kind, is_low, flags, size), number)| {
            let ends: &[&str] = if is_v6 { &ENDS6 } else { &ENDS };
            let ip = |index: Index| *index.get(ends);
            let end = |(address, port): (Index, Index)| {
                SocketAddr::new(ip(address).parse().unwrap(), *port.get(&PORTS)).to_string()
            };
            let ttl = if is_low { 1 } else { 64 };
            let dress = |packet: PacketBuilder| {
                let packet = packet.flags(flags).ttl(ttl).payload(&vec![7; size]);
                let packet = if inside { packet.from_server() } else { packet };
                if number % 2 == 0 { packet.may_be_split().build() } else { packet.build() }
            };
            let udp = || dress(PacketBuilder::udp(&end(from), &end(to)));
            let frames = match kind {
                0 | 1 => vec![dress(PacketBuilder::tcp(&end(from), &end(to)))],
                2 => vec![udp()],
                3 => vec![echo(inside, ip(from.0), ip(to.0), number % 4, &vec![1; size])],
                4 => {
                    let mut pieces = fragments(&udp(), number % 8, 1000);
                    if is_low {
                        pieces.reverse();
                    }
                    pieces
                }
                _ => {
                    let wire = if inside { IN } else { OUT };
                    vec![error(ip(from.0), &udp(), wire, 1300)]
                }
            };
            (inside, frames)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200, failure_persistence: None, ..ProptestConfig::default()
    })]

    /// Whatever comes, also with an octet changed or the end cut off: no packet is lost or
    /// invented (the director looks at its books after each one), and nothing is left at the end.
    #[test]
    fn no_traffic_unbalances_the_books(
        traffic in proptest::collection::vec((frames(), any::<Index>(), 0..6_u8), 1..80),
        workers in 1..5_u16,
    ) {
        let mut director = everything(workers);
        for ((inside, frames), place, change) in traffic {
            for mut frame in frames {
                match change {
                    0 => {
                        let place = place.index(frame.len());
                        frame[place] ^= 1 << (place % 8);
                    }
                    1 => frame.truncate(place.index(frame.len())),
                    _ => {}
                }
                director.receive(if inside { IN } else { OUT }, &frame);
            }
            director.advance(100);
        }
        // Those that were asked for and do not answer.
        for event in std::mem::take(&mut director.events) {
            if let Event::Resolve { interface, address } = event {
                director.neighbor_unreachable(interface, &address.to_string());
            }
        }
        director.advance(1_000_000);
        assert_eq!((director.connections(), director.held()), (0, 0));
    }
}
