//! One director of a pair, as its links see it: whose frames it takes, with which Ethernet address
//! it speaks, which messages reach its failover thread.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking; frames are as long as they are written"
)]

mod support;

use std::net::IpAddr;

use arrayvec::ArrayVec;
use pointsman::dataplane::failover::{Errand, Message, Unheard};
use pointsman::dataplane::mailbox::{Command, Event};
use pointsman::dataplane::stats::DropReason;
use pointsman::ids::InterfaceId;
use pointsman::wire::vrrp::{Advertisement, Ends, Sending, Version};
use support::director::{IN, OUT, PAIR, Setup, TOPOLOGY, TestDirector, set_cycles};
use support::packet::{
    CLIENT_SIDE, INSIDE, Mac, OUTSIDE, PacketBuilder, SERVER_SIDE, SYN, arp, assert_checksums,
    echo, icmpv6, internet_checksum,
};

const VIRTUAL_V4: Mac = [0, 0, 0x5e, 0, 1, 51];
const VIRTUAL_V6: Mac = [0, 0, 0x5e, 0, 2, 51];
const ALL: Mac = [0xff; 6];

const SERVICES: &str = r#"
[[service]]
name = "web"
listen = "tcp://192.0.2.100:80"
scheduler = "rr"
servers = [{ address = "10.0.0.11:8080" }]

[[service]]
name = "web6"
listen = "tcp://[2001:db8:1::100]:80"
scheduler = "rr"
servers = [{ address = "[fd00::11]:8080" }]
"#;

fn services(more: &str) -> String {
    format!("{}{SERVICES}", PAIR.replace("# more", more))
}

fn pair(more: &str) -> TestDirector {
    Setup::with_services(&services(more)).start()
}

fn active(more: &str) -> TestDirector {
    let mut director = pair(more);
    director.stand(true);
    director
}

fn who_has(target: &str, link: (Mac, Mac)) -> Vec<u8> {
    let sender = if target.starts_with("10.") { "10.0.0.11" } else { "192.0.2.10" };
    arp(1, (link.0, sender), ([0; 6], target), link)
}

/// Ethernet source and the address that ARP tells.
fn told(frame: &[u8]) -> (Mac, Mac) {
    (frame[6..12].try_into().unwrap(), frame[22..28].try_into().unwrap())
}

fn solicitation(target: &str, destination: Mac) -> Vec<u8> {
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    let target_ip: std::net::Ipv6Addr = target.parse().unwrap();
    message.extend(target_ip.octets());
    message.extend([1, 1]);
    message.extend(CLIENT_SIDE);
    icmpv6("2001:db8:1::10", target, 255, &message, (CLIENT_SIDE, destination))
}

/// Ethernet source and the address that an advertisement tells.
fn advertised(frame: &[u8]) -> (Mac, Mac) {
    assert_eq!((frame[54], frame[78]), (136, 2), "a Neighbor Advertisement with its option");
    (frame[6..12].try_into().unwrap(), frame[80..86].try_into().unwrap())
}

fn syn(vip: &str, destination: Mac) -> Vec<u8> {
    let client = if vip.starts_with('[') { "[2001:db8:ffff::1]:4000" } else { "198.18.0.1:4000" };
    PacketBuilder::tcp(client, vip).flags(SYN).macs(CLIENT_SIDE, destination).build()
}

#[test]
fn what_moves_has_the_virtual_mac_and_what_stays_the_ports() {
    let mut director = active("virtual_mac = true");
    for (interface, link, own, moves) in [
        (OUT, (CLIENT_SIDE, ALL), ("192.0.2.1", OUTSIDE), "192.0.2.100"),
        (IN, (SERVER_SIDE, ALL), ("10.0.0.1", INSIDE), "10.0.0.254"),
    ] {
        director.receive(interface, &who_has(own.0, link));
        assert_eq!(told(&director.sent_one().octets), (own.1, own.1));
        director.receive(interface, &who_has(moves, link));
        assert_eq!(told(&director.sent_one().octets), (VIRTUAL_V4, VIRTUAL_V4));
        // A probe of the address that the host knows.
        director.receive(interface, &who_has(moves, (link.0, VIRTUAL_V4)));
        assert_eq!(told(&director.sent_one().octets), (VIRTUAL_V4, VIRTUAL_V4));
    }
    for (target, mac) in [("2001:db8:1::1", OUTSIDE), ("2001:db8:1::100", VIRTUAL_V6)] {
        for destination in [mac, OUTSIDE, VIRTUAL_V6] {
            director.receive(OUT, &solicitation(target, destination));
            assert_eq!(advertised(&director.sent_one().octets), (mac, mac), "{target}");
        }
    }
    // As do announcements, and advertisements of VRRP.
    let channel = director.failover.clone().unwrap();
    for address in ["192.0.2.100", "192.0.2.1"] {
        let address = address.parse().unwrap();
        assert!(channel.ask(Errand::Announce { interface: OUT, address }));
    }
    director.settle();
    let sent = director.take_sent();
    let macs: Vec<_> = sent.iter().map(|sent| told(&sent.octets)).collect();
    assert_eq!(macs, [(VIRTUAL_V4, VIRTUAL_V4), (OUTSIDE, OUTSIDE)]);
}

/// Whatever waits for a worker that stands still, or for one that is deposed.
#[test]
fn what_was_to_be_said_in_a_term_that_is_over_is_not_said() {
    let mut director = active("");
    let channel = director.failover.clone().unwrap();
    let announce = || Errand::Announce { interface: OUT, address: [192, 0, 2, 100].into() };
    let lease = channel.standing.lease(u64::MAX);
    assert!(channel.ask(announce()) && channel.ask(Errand::Renew(lease)));
    channel.standing.begin_term();
    // Nor is anything announced without a lease.
    assert!(channel.ask(announce()));
    director.settle();
    assert!(director.take_sent().is_empty());
    assert!(!channel.standing.is_active(0) && !channel.is_asked());
    director.stand(true);
    assert!(channel.ask(announce()));
    director.settle();
    director.sent_one();
}

/// An advertisement leaves.
fn say_to(interface: InterfaceId, destination: [u8; 4]) -> Errand {
    say_until(u64::MAX, interface, destination)
}

fn say_until(until: u64, interface: InterfaceId, destination: [u8; 4]) -> Errand {
    let message = Message {
        interface,
        source_mac: None,
        source: [192, 0, 2, 1].into(),
        destination: destination.into(),
        protocol: 112,
        hop_limit: 255,
        payload: ArrayVec::new(),
    };
    Errand::Send(message, until)
}

fn say(interface: InterfaceId) -> Errand {
    say_to(interface, [224, 0, 0, 18])
}

/// A process that was stopped goes on where it was, in the same term.
#[test]
fn what_waited_while_a_lease_ended_is_not_said() {
    let mut director = pair("");
    let channel = director.failover.clone().unwrap();
    channel.standing.begin_term();
    assert!(channel.ask(say(OUT)) && channel.ask(Errand::Renew(channel.standing.lease(1 << 32))));
    director.settle();
    director.sent_one();
    assert!(channel.ask(say(OUT)));
    director.settle();
    director.sent_one();
    assert!(channel.ask(say(OUT)) && channel.ask(Errand::Renew(channel.standing.lease(1 << 34))));
    set_cycles(1 << 33);
    director.settle();
    assert!(director.take_sent().is_empty() && !channel.is_asked());
    assert!(!channel.standing.is_active(1 << 33));
    // The last word of one that has noticed.
    channel.standing.begin_term();
    assert!(channel.ask(say(OUT)));
    director.settle();
    director.sent_one();
    // The first word of a term, after which it stood still.
    channel.standing.begin_term();
    let first = |until| say_until(until, OUT, [224, 0, 0, 18]);
    let lease = channel.standing.lease(1 << 33);
    assert!(channel.ask(first(1 << 33)) && channel.ask(Errand::Renew(lease)));
    director.settle();
    assert!(director.take_sent().is_empty() && !channel.standing.is_active(1 << 33));
    channel.standing.begin_term();
    assert!(channel.ask(first((1 << 33) + 1)));
    director.settle();
    director.sent_one();
}

#[test]
fn an_advertisement_to_one_that_is_not_there_does_not_wait_for_it() {
    let peers = "peers = [\"192.0.2.2\", \"2001:db8:1::2\", \"10.0.0.3\", \"fd00::3\"]";
    let mut director = active(peers);
    let channel = director.failover.clone().unwrap();
    assert!(channel.ask(say_to(OUT, [192, 0, 2, 2])));
    director.settle();
    assert_eq!((director.take_sent().len(), director.held()), (0, 0));
    assert_eq!(director.dropped(DropReason::NeighborUnreachable), 1);
    let [Event::Resolve { interface: OUT, address }] = director.events[..] else {
        panic!("{:?}", director.events)
    };
    assert_eq!(address, IpAddr::from([192, 0, 2, 2]));
    director.set_neighbor(OUT, [192, 0, 2, 2].into(), CLIENT_SIDE, false);
    assert!(director.take_sent().is_empty());
    assert!(channel.ask(say_to(OUT, [192, 0, 2, 2])));
    director.settle();
    assert_eq!(director.sent_one().octets[..6], CLIENT_SIDE);
    // It does not answer any more: where it was, it may be again before it is found anew.
    director.neighbor_unreachable(OUT, "192.0.2.2");
    director.events.clear();
    for _ in 0..2 {
        assert!(channel.ask(say_to(OUT, [192, 0, 2, 2])));
        director.settle();
        assert_eq!(director.sent_one().octets[..6], CLIENT_SIDE);
    }
    assert!(
        matches!(director.events[..], [Event::Resolve { interface: OUT, .. }]),
        "asked for once"
    );
    director.check_books();
}

/// As one does whose links are back: so the other one learns where it is.
#[test]
fn the_failover_side_has_its_peers_asked_for_by_a_standby_too() {
    let mut director = pair("");
    director.stand(false);
    let channel = director.failover.clone().unwrap();
    for (address, length) in [("192.0.2.2", 42), ("2001:db8:1::2", 86)] {
        let address = address.parse().unwrap();
        assert!(channel.ask(Errand::Solicit { interface: OUT, address }));
        director.settle();
        let frame = director.sent_one().octets;
        assert_eq!((&frame[6..12], frame.len()), (&OUTSIDE[..], length));
    }
    director.check_books();
}

/// Have a neighbour of the inside asked for.
fn who_is(address: &str) -> impl Fn() -> Command {
    let address = address.parse().unwrap();
    move || Command::Solicit { interface: IN, address, station: None, only_if_used: false }
}

/// What floats is all that the interfaces have.
fn owned(more: &str) -> String {
    [
        ("192.0.2.100", "192.0.2.1"),
        ("2001:db8:1::100", "2001:db8:1::1"),
        ("10.0.0.254", "10.0.0.1"),
        ("fd00::254", "fd00::1"),
    ]
    .iter()
    .fold(services(more), |text, (from, to)| text.replace(from, to))
}

/// An owner that floats all that it has on a link: whoever it asks must not learn that it has it.
#[test]
fn an_owner_that_stands_by_asks_from_no_address_that_floats() {
    let floats = owned("priority = 255");
    let mut director = Setup::with_services(&floats).start();
    let link_local = "fe80::ff:fe00:1fe";
    for (is_active, v4, v6) in [(true, "10.0.0.1", "fd00::1"), (false, "0.0.0.0", link_local)] {
        director.stand(is_active);
        director.command_all(who_is("10.0.0.50"));
        let expected = arp(1, (INSIDE, v4), ([0; 6], "10.0.0.50"), (INSIDE, ALL));
        assert_eq!(director.sent_one().octets, expected);
        director.command_all(who_is("fd00::50"));
        let frame = director.sent_one().octets;
        assert_eq!(frame[22..38], v6.parse::<std::net::Ipv6Addr>().unwrap().octets());
        // The answer is one, although it is to nobody.
        let asked = (INSIDE, v4);
        director.events.clear();
        director.receive(IN, &arp(2, (SERVER_SIDE, "10.0.0.50"), asked, (SERVER_SIDE, INSIDE)));
        let answered = matches!(
            director.events[..],
            [Event::NeighborSeen { interface: IN, mac: SERVER_SIDE, answer: true, .. }]
        );
        assert!(answered, "{:?}", director.events);
    }
    assert_eq!(director.drops(), std::collections::BTreeMap::new());
}

#[test]
fn the_active_owner_asks_with_the_virtual_mac() {
    let floats = owned("priority = 255\nvirtual_mac = true");
    let mut director = Setup::with_services(&floats).start();
    director.stand(true);
    director.command_all(who_is("10.0.0.50"));
    let expected = arp(1, (VIRTUAL_V4, "10.0.0.1"), ([0; 6], "10.0.0.50"), (VIRTUAL_V4, ALL));
    assert_eq!(director.sent_one().octets, expected);
}

/// By an interface that there is not nothing leaves.
#[test]
fn what_does_not_leave_costs_the_lease_of_its_own_term_alone() {
    let mut director = pair("");
    let channel = director.failover.clone().unwrap();
    let mut is_renewed = |interface| {
        assert!(channel.ask(say(interface)));
        assert!(channel.ask(Errand::Renew(channel.standing.lease(u64::MAX))));
        director.settle();
        director.take_sent();
        channel.standing.is_active(0)
    };
    channel.standing.begin_term();
    assert!(!is_renewed(InterfaceId(9)) && channel.unsent() == 1);
    assert!(is_renewed(OUT));
    // The last word of a term.
    assert!(channel.ask(say(InterfaceId(9))));
    director.settle();
    channel.standing.begin_term();
    assert!(channel.ask(say(OUT)));
    assert!(channel.ask(Errand::Renew(channel.standing.lease(u64::MAX))));
    director.settle();
    assert!(channel.standing.is_active(0) && channel.unsent() == 2);
}

#[test]
fn the_active_director_takes_frames_to_the_virtual_mac_of_their_family() {
    let mut director = active("virtual_mac = true");
    for (vip, mac) in [("192.0.2.100:80", VIRTUAL_V4), ("[2001:db8:1::100]:80", VIRTUAL_V6)] {
        for destination in [mac, OUTSIDE] {
            director.receive(OUT, &syn(vip, destination));
            let sent = director.sent_one();
            assert_checksums(&sent.octets);
            // Forwarded packets come from the port: no switch sees the virtual MAC move by them.
            assert_eq!((&sent.octets[..6], &sent.octets[6..12]), (&SERVER_SIDE[..], &INSIDE[..]));
        }
    }
    for frame in [syn("192.0.2.100:80", VIRTUAL_V6), syn("[2001:db8:1::100]:80", VIRTUAL_V4)] {
        director.receive(OUT, &frame);
    }
    assert_eq!(director.dropped(DropReason::NotForUs), 2);
    // So are those that a switch has marked with a priority.
    let mut frame = syn("192.0.2.100:80", VIRTUAL_V4);
    frame.splice(12..12, [0x81, 0, 0xe0, 0]);
    director.receive(OUT, &frame);
    director.sent_one();
}

#[test]
fn a_standby_leaves_the_virtual_mac_alone() {
    let mut director = pair("virtual_mac = true");
    director.stand(false);
    for frame in [
        syn("192.0.2.100:80", VIRTUAL_V4),
        syn("[2001:db8:1::100]:80", VIRTUAL_V6),
        who_has("192.0.2.1", (CLIENT_SIDE, VIRTUAL_V4)),
        solicitation("2001:db8:1::1", VIRTUAL_V6),
    ] {
        director.receive(OUT, &frame);
    }
    assert_eq!((director.take_sent().len(), director.dropped(DropReason::Standby)), (0, 4));
    director.receive(OUT, &who_has("192.0.2.1", (CLIENT_SIDE, ALL)));
    assert_eq!(told(&director.sent_one().octets), (OUTSIDE, OUTSIDE));
    // One that does not know of a virtual MAC does not either.
    let mut director = active("");
    director.receive(OUT, &syn("192.0.2.100:80", VIRTUAL_V4));
    assert_eq!((director.take_sent().len(), director.dropped(DropReason::NotForUs)), (0, 1));
    director.receive(OUT, &who_has("192.0.2.100", (CLIENT_SIDE, ALL)));
    assert_eq!(told(&director.sent_one().octets), (OUTSIDE, OUTSIDE));
}

#[test]
fn nobody_is_reached_by_the_virtual_mac() {
    let mut director = active("virtual_mac = true");
    director.receive(
        OUT,
        &arp(1, (VIRTUAL_V4, "192.0.2.2"), ([0; 6], "192.0.2.100"), (VIRTUAL_V4, ALL)),
    );
    director.sent_one();
    assert!(director.events.is_empty(), "{:?}", director.events);
}

fn ping(to: &str) -> Vec<u8> {
    let from = if to.contains(':') { "2001:db8:1::10" } else { "192.0.2.10" };
    let mut frame = echo(true, from, to, 7, b"ping");
    frame[..6].copy_from_slice(&OUTSIDE);
    frame[6..12].copy_from_slice(&CLIENT_SIDE);
    frame
}

#[test]
fn a_director_that_does_not_accept_serves_what_moves_and_is_no_host_for_it() {
    let moves = ["192.0.2.100", "2001:db8:1::100"];
    let mut director = active("accept = false");
    for vip in moves {
        director.receive(OUT, &ping(vip));
    }
    // Nor does it refuse what no service has.
    let closed = ["192.0.2.100:81", "[2001:db8:1::100]:81"];
    for vip in closed {
        director.receive(OUT, &syn(vip, OUTSIDE));
    }
    assert_eq!((director.take_sent().len(), director.dropped(DropReason::NotAccepted)), (0, 4));
    // Services, ARP and Neighbor Discovery are as ever, and its own addresses.
    director.receive(OUT, &syn("192.0.2.100:80", OUTSIDE));
    assert_eq!(director.sent_one().interface, IN);
    director.receive(OUT, &who_has("192.0.2.100", (CLIENT_SIDE, ALL)));
    director.sent_one();
    director.receive(OUT, &solicitation("2001:db8:1::100", OUTSIDE));
    director.sent_one();
    for own in ["192.0.2.1", "2001:db8:1::1"] {
        director.receive(OUT, &ping(own));
        director.sent_one();
    }
    // The default.
    let mut director = active("");
    for vip in moves {
        director.receive(OUT, &ping(vip));
        director.sent_one();
    }
    for vip in closed {
        director.receive(OUT, &syn(vip, OUTSIDE));
        director.sent_one();
    }
    assert_eq!(director.dropped(DropReason::NotAccepted), 0);
}

#[test]
fn the_owner_accepts_in_any_case() {
    let own = [("192.0.2.100", "192.0.2.1"), ("2001:db8:1::100", "2001:db8:1::1")];
    let inside = [("10.0.0.254", "10.0.0.1"), ("fd00::254", "fd00::1")];
    let services = services("accept = false\npriority = 255\nvirtual_mac = true");
    let services = own.iter().chain(&inside).fold(services, |text, (floating, own)| {
        text.replace(&format!("\"{floating}\""), &format!("\"{own}\""))
    });
    let mut director = Setup::with_services(&services).start();
    director.stand(true);
    director.receive(OUT, &ping("192.0.2.1"));
    director.sent_one();
    director.receive(OUT, &who_has("192.0.2.1", (CLIENT_SIDE, ALL)));
    assert_eq!(told(&director.sent_one().octets), (VIRTUAL_V4, VIRTUAL_V4));
}

/// A packet over IPv4 to a group.
fn to_group(from: &str, group: [u8; 4], ttl: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let [_, b, c, d] = group;
    let mut frame = vec![1, 0, 0x5e, b & 0x7f, c, d];
    frame.extend(CLIENT_SIDE);
    frame.extend([8, 0, 0x45, 0xc0]);
    frame.extend((20 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 0, 0, 0, ttl, protocol, 0, 0]);
    let IpAddr::V4(from) = from.parse().unwrap() else { panic!("IPv4") };
    frame.extend(from.octets());
    frame.extend(group);
    let checksum = internet_checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame.extend(payload);
    frame
}

/// An advertisement of the other director.
#[derive(Clone, Copy)]
struct Said {
    from: &'static str,
    version: Version,
    router_id: u8,
    priority: u8,
    ttl: u8,
}

const SAID: Said =
    Said { from: "192.0.2.2", version: Version::V3, router_id: 51, priority: 100, ttl: 255 };

impl Said {
    fn frame(self) -> Vec<u8> {
        let head = Advertisement {
            version: self.version,
            router_id: self.router_id,
            priority: self.priority,
            count: 1,
            interval: if self.version == Version::V2 { 100 } else { 10 },
            password: None,
        };
        let ends = Ends { source: self.from.parse().unwrap(), destination: [224, 0, 0, 18].into() };
        let addresses = ["192.0.2.100".parse().unwrap()];
        let sending = Sending { head, addresses: &addresses, ends, pseudo_header: false };
        let payload: ArrayVec<u8, 1460> = sending.write().unwrap();
        to_group(self.from, [224, 0, 0, 18], self.ttl, 112, &payload)
    }
}

fn synchronisation(port: u16) -> Vec<u8> {
    let mut payload = vec![0x22, 0x90];
    payload.extend(port.to_be_bytes());
    payload.extend([0, 16, 0, 0]);
    payload.extend([0, 51, 0, 8, 0, 1, 0, 0]);
    to_group("10.0.0.3", [224, 0, 0, 81], 1, 17, &payload)
}

#[test]
fn a_flood_of_what_is_of_no_use_keeps_nothing_from_being_heard() {
    const ROUNDS: u64 = 500;
    let mut director = pair("");
    director.stand(false);
    let channel = director.failover.clone().unwrap();
    let mut malformed = SAID.frame();
    *malformed.last_mut().unwrap() ^= 1;
    let wrong: [(InterfaceId, Vec<u8>, Unheard); 7] = [
        (OUT, Said { ttl: 254, ..SAID }.frame(), Unheard::HopLimit),
        (OUT, Said { router_id: 52, ..SAID }.frame(), Unheard::RouterId),
        (OUT, Said { version: Version::V2, ..SAID }.frame(), Unheard::Version),
        (OUT, malformed, Unheard::Malformed),
        (OUT, to_group("192.0.2.2", [224, 0, 0, 18], 255, 112, &[0x31]), Unheard::Malformed),
        (OUT, to_group("192.0.2.2", [224, 0, 0, 18], 255, 112, &[0x32; 12]), Unheard::Malformed),
        // Our own, which somebody has sent back.
        (OUT, Said { from: "192.0.2.1", ..SAID }.frame(), Unheard::Sender),
    ];
    let wrong_sync = [(OUT, synchronisation(8848)), (IN, synchronisation(8849))];
    // Nobody takes anything out of the queues, but what is right.
    let mut heard = 0;
    for round in 0..ROUNDS {
        for (interface, frame, _) in &wrong {
            director.receive(*interface, frame);
        }
        for (interface, frame) in &wrong_sync {
            director.receive(*interface, frame);
        }
        let priority = u8::try_from(round % 254).unwrap() + 1;
        director.receive(OUT, &Said { priority, ..SAID }.frame());
        director.receive(IN, &synchronisation(8848));
        if round % 200 == 199 {
            heard += std::iter::from_fn(|| channel.heard()).count() as u64;
            while let Some(message) = channel.sync.heard() {
                assert_eq!(message.interface, IN);
            }
        }
    }
    heard += std::iter::from_fn(|| channel.heard()).count() as u64;
    assert_eq!(heard, ROUNDS);
    assert_eq!((director.stats(0).events_lost.get(), channel.sync.lost()), (0, 0));
    for why in Unheard::ALL {
        let expected = wrong.iter().filter(|wrong| wrong.2 == why).count() as u64 * ROUNDS;
        assert_eq!(channel.refused(why), expected, "{}", why.name());
    }
    assert_eq!(channel.refused_synchronisation(), 2 * ROUNDS);
    assert_eq!(director.consumed(), director.received());
}

#[test]
fn with_peers_nobody_else_is_heard() {
    let peers = "peers = [\"192.0.2.2\", \"2001:db8:1::2\", \"10.0.0.3\", \"fd00::3\"]";
    let mut director = pair(peers);
    director.stand(false);
    let channel = director.failover.clone().unwrap();
    let by_unicast = |from: &'static str, port: Mac| {
        let ends = Ends { source: from.parse().unwrap(), destination: [192, 0, 2, 1].into() };
        let head = Advertisement {
            version: Version::V3,
            router_id: 51,
            priority: 100,
            count: 0,
            interval: 10,
            password: None,
        };
        let sending = Sending { head, addresses: &[], ends, pseudo_header: false };
        let payload: ArrayVec<u8, 1460> = sending.write().unwrap();
        let mut frame = to_group(from, [192, 0, 2, 1], 255, 112, &payload);
        frame[..6].copy_from_slice(&port);
        frame
    };
    director.receive(OUT, &by_unicast("192.0.2.2", OUTSIDE));
    assert_eq!(channel.heard().unwrap().source, IpAddr::from([192, 0, 2, 2]));
    for (interface, frame) in [
        (OUT, by_unicast("192.0.2.3", OUTSIDE)),
        (OUT, SAID.frame()),
        // From a peer of another link.
        (IN, by_unicast("192.0.2.2", INSIDE)),
    ] {
        director.receive(interface, &frame);
    }
    assert!(channel.heard().is_none());
    assert_eq!(channel.refused(Unheard::Sender), 3);
}

/// A message of the synchronisation with so many octets of UDP to an address of the director's own.
fn told_alone(hop_limit: u8, octets: usize) -> Vec<u8> {
    let mut payload = synchronisation(8848)[34..].to_vec();
    payload.resize(octets, 0);
    payload[4..6].copy_from_slice(&(octets as u16).to_be_bytes());
    let mut frame = to_group("10.0.0.3", [10, 0, 0, 1], hop_limit, 17, &payload);
    frame[..6].copy_from_slice(&INSIDE);
    frame
}

#[test]
fn synchronisation_comes_from_the_link_alone() {
    for (peers, hop_limit, is_heard) in [
        // To the group, or from a peer on the link.
        ("", 255, false),
        ("", 1, false),
        ("peers = [\"10.0.0.3\"]", 255, true),
        ("peers = [\"10.0.0.3\"]", 254, false),
        ("peers = [\"10.0.0.4\"]", 255, false),
    ] {
        let mut director = pair(&format!("sync = {{ {peers} }}"));
        director.stand(false);
        let channel = director.failover.clone().unwrap();
        director.receive(IN, &told_alone(hop_limit, 16));
        assert_eq!(channel.sync.heard().is_some(), is_heard, "{peers} {hop_limit}");
        assert_eq!(channel.refused_synchronisation(), u64::from(!is_heard));
        director.receive(IN, &synchronisation(8848));
        assert_eq!(channel.sync.heard().is_some(), !peers.contains("0.4"), "the group: {peers}");
    }
}

/// An IPVS fills packets of 1500 octets.
#[test]
fn a_message_that_fills_a_packet_is_heard() {
    let mut director = pair("sync = { peers = [\"10.0.0.3\"] }");
    director.stand(false);
    let channel = director.failover.clone().unwrap();
    director.receive(IN, &told_alone(255, 1480));
    assert_eq!(channel.sync.heard().unwrap().payload.len(), 1480);
}

#[test]
fn the_way_to_a_peer_of_the_synchronisation_is_always_known() {
    let setup = Setup::with_services(&services("sync = { peers = [\"10.0.0.3\"] }"));
    let essential = pointsman::control::essential_neighbors(&setup.config);
    assert!(essential.iter().any(|known| known.address == IpAddr::from([10, 0, 0, 3])));
}

/// An owner that has an address beside each one that floats speaks from those.
#[test]
fn an_owner_speaks_with_its_peers_from_addresses_that_stay() {
    let stay = [("192.0.2.1/24", "192.0.2.7/24"), ("2001:db8:1::1/64", "2001:db8:1::7/64")];
    let stay =
        stay.into_iter().chain([("10.0.0.1/24", "10.0.0.7/24"), ("fd00::1/64", "fd00::7/64")]);
    let peers = "peers = [\"192.0.2.2\", \"2001:db8:1::2\", \"10.0.0.3\", \"fd00::3\"]";
    let text = owned(&format!("priority = 255\n{peers}\nsync = {{ peers = [\"10.0.0.3\"] }}"));
    let text = stay.fold(format!("{TOPOLOGY}{text}"), |text, (floats, stays)| {
        assert!(text.contains(&format!("\"{floats}\"")), "{floats}");
        text.replace(&format!("\"{floats}\""), &format!("\"{floats}\", \"{stays}\""))
    });
    let mut director = Setup::new(&text).start();
    let hearing = &director.failover.as_ref().unwrap().hearing;
    let mut own: Vec<_> = hearing.links.iter().map(|link| link.own.to_string()).collect();
    own.sort();
    assert_eq!(own, ["10.0.0.7", "192.0.2.7", "2001:db8:1::7", "fd00::7"]);
    assert_eq!(hearing.sync.as_ref().unwrap().own, [IpAddr::from([10, 0, 0, 7])]);
    for is_active in [true, false] {
        director.stand(is_active);
        director.command_all(who_is("10.0.0.50"));
        let expected = arp(1, (INSIDE, "10.0.0.7"), ([0; 6], "10.0.0.50"), (INSIDE, ALL));
        assert_eq!(director.sent_one().octets, expected);
    }
}
