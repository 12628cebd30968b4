//! Two directors whose services point at each other: each sends to the other what it gets from it.
//! Nothing can tell such a packet from one of a client; its TTL ends it, and nothing multiplies.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::excessive_nesting,
    clippy::format_push_string,
    reason = "a test fails by panicking"
)]

mod support;

use pointsman::dataplane::stats::DropReason;
use support::director::{IN, OUT, Sent, Setup, TestDirector};
use support::packet::{ACK, CLIENT_SIDE, INSIDE, Mac, OUTSIDE, PacketBuilder, RST, SYN};

const OTHER_OUTSIDE: Mac = [2, 0, 0, 0, 2, 0xfe];
const OTHER_INSIDE: Mac = [2, 0, 0, 0, 3, 0xfe];

/// The one's outside is the other's inside, and the other way round.
const ONE: &str = r#"
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
[interface.inside.neighbors]
"10.0.0.100" = "02:00:00:00:02:fe"
"fd00::100" = "02:00:00:00:02:fe"
"#;

const OTHER: &str = r#"
[interface.outside]
role = "outside"
addresses = ["10.0.0.2/24", "fd00::2/64"]
gateways = ["10.0.0.254", "fd00::254"]
[interface.outside.neighbors]
"10.0.0.254" = "02:00:00:00:00:01"
"fd00::254" = "02:00:00:00:00:01"
[interface.inside]
role = "inside"
addresses = ["192.0.2.2/24", "2001:db8:1::2/64"]
[interface.inside.neighbors]
"192.0.2.100" = "02:00:00:00:00:fe"
"2001:db8:1::100" = "02:00:00:00:00:fe"
"#;

const VIPS: [(&str, &str); 2] =
    [("192.0.2.100:80", "10.0.0.100:80"), ("[2001:db8:1::100]:80", "[fd00::100]:80")];

struct Loop {
    directors: [TestDirector; 2],
    /// Frames for the client, with the director that sent them.
    to_client: Vec<(usize, Sent)>,
    /// Frames that went from one director to the other.
    passes: usize,
}

impl Loop {
    fn new(workers: u16) -> Self {
        let start = |interfaces: &str, turned: bool, macs: [Mac; 2]| {
            let mut text = interfaces.to_owned();
            for (number, protocol) in ["tcp", "udp", "tcp", "udp"].into_iter().enumerate() {
                let (one, other) = VIPS[number / 2];
                let (vip, server) = if turned { (other, one) } else { (one, other) };
                text += &format!(
                    "[[service]]\nname = \"s{number}\"\nlisten = \"{protocol}://{vip}\"\n\
                     servers = [{{ address = \"{server}\" }}]\n"
                );
            }
            let mut setup = Setup::new(&text).workers(workers);
            setup.macs = macs.to_vec();
            setup.start()
        };
        let directors = [
            start(ONE, false, [OUTSIDE, INSIDE]),
            start(OTHER, true, [OTHER_OUTSIDE, OTHER_INSIDE]),
        ];
        Self { directors, to_client: Vec::new(), passes: 0 }
    }

    /// A frame of the client reaches a director; all that follows has happened at the end.
    fn run(&mut self, director: usize, frame: &[u8]) {
        let mut on_the_wire = vec![(director, OUT, frame.to_vec())];
        while let Some((to, interface, frame)) = on_the_wire.pop() {
            assert!(on_the_wire.is_empty(), "one packet never becomes two");
            self.directors[to].receive(interface, &frame);
            for sent in self.directors[to].take_sent() {
                let (outside, inside) = [(OTHER_OUTSIDE, OTHER_INSIDE), (OUTSIDE, INSIDE)][to];
                let station = sent.octets.first_chunk().copied().unwrap();
                if station == outside {
                    self.passes += 1;
                    on_the_wire.push((1 - to, OUT, sent.octets));
                } else if station == inside {
                    assert!(time_exceeded(&sent.octets), "errors alone go back");
                    on_the_wire.push((1 - to, IN, sent.octets));
                } else {
                    assert_eq!(station, CLIENT_SIDE, "nobody else is there");
                    self.to_client.push((to, sent));
                }
            }
            assert!(self.passes < 100_000, "a storm");
        }
    }

    fn expired(&self) -> u64 {
        self.directors.iter().map(|d| d.dropped(DropReason::TtlExpired)).sum()
    }
}

fn time_exceeded(frame: &[u8]) -> bool {
    if frame[12..14] == [8, 0] { frame[34] == 11 } else { frame[20] == 58 && frame[54] == 3 }
}

#[test]
fn what_two_directors_send_to_each_other_dies_by_its_ttl() {
    for workers in [1, 3] {
        for (family, (vip, other)) in VIPS.into_iter().enumerate() {
            let client = ["198.18.7.7:20000", "[2001:db8:ffff::7]:20000"][family];
            let mut network = Loop::new(workers);
            let packets = [
                PacketBuilder::tcp(client, vip).flags(SYN),
                PacketBuilder::tcp(client, vip).flags(SYN),
                PacketBuilder::tcp(client, vip).flags(ACK).payload(b"GET /"),
                PacketBuilder::udp(client, vip).payload(b"hello"),
                PacketBuilder::tcp(client, vip).flags(RST),
            ];
            for (number, packet) in packets.iter().enumerate() {
                for ttl in [1, 2, 63, 64, 255] {
                    let before = (network.passes, network.expired(), network.to_client.len());
                    network.run(0, &packet.clone().ttl(ttl).build());
                    let passes = network.passes - before.0;
                    assert_eq!(passes, usize::from(ttl) - 1, "packet {number}: one hop, one less");
                    assert_eq!(network.expired(), before.1 + 1, "counted where it died");
                    // One error about each. It goes back one hop and through that
                    // director's connection to the client, and not around again.
                    let answers = network.to_client.split_off(before.2);
                    assert_eq!(answers.len(), 1, "packet {number}");
                    let by = if ttl == 1 { 0 } else { usize::from(ttl) % 2 };
                    assert!(
                        answers
                            .iter()
                            .all(|(from, sent)| { *from == by && time_exceeded(&sent.octets) })
                    );
                }
            }
            // One TCP and one UDP flow in each, whatever came back.
            for director in &mut network.directors {
                assert_eq!(director.connections(), 2);
                let drops: Vec<_> = director.drops().into_keys().collect();
                assert_eq!(drops, ["ttl_expired"]);
                for row in director.list() {
                    let ends = [row.service.to_string(), row.server.to_string()];
                    assert!(ends.contains(&vip.into()) && ends.contains(&other.into()));
                    assert_eq!(row.client.to_string(), client);
                }
                director.advance(1_000_000);
                assert_eq!(director.connections(), 0);
                director.shut_down();
            }
        }
    }
}

/// The client may also begin in the middle of the circle.
#[test]
fn a_flood_into_the_loop_costs_a_ttl_each_and_no_more() {
    let mut network = Loop::new(1);
    for number in 0..500_u16 {
        let client = format!("198.18.7.7:{}", 20_000 + number);
        let director = usize::from(number % 2);
        let vip = [VIPS[0].0, VIPS[0].1][director];
        let link = [OUTSIDE, OTHER_OUTSIDE][director];
        let packet = PacketBuilder::tcp(&client, vip).flags(SYN).macs(CLIENT_SIDE, link);
        network.run(director, &packet.build());
    }
    assert_eq!((network.passes, network.expired()), (500 * 63, 500));
    let errors = network.to_client.iter().filter(|(_, sent)| time_exceeded(&sent.octets));
    assert_eq!(errors.count(), network.to_client.len());
    assert_eq!(network.directors[0].connections() + network.directors[1].connections(), 1000);
}
