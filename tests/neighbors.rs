//! Packets to neighbours whose Ethernet address is not known yet.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use pointsman::dataplane::mailbox::{Command, Event};
use pointsman::dataplane::stats::DropReason;
use support::director::{IN, OUT, Setup, TOPOLOGY, TestDirector};
use support::packet::{
    CLIENT_SIDE, INSIDE, OUTSIDE, PacketBuilder, SERVER_SIDE, SYN, arp, ends, icmpv6, payload,
};

const FLOW_SERVICE: &str = r#"
[[service]]
name = "dns"
listen = "udp://192.0.2.100:53"
scheduler = "rr"
servers = [{ address = "10.0.0.50:5353" }]
"#;

/// As [`FLOW_SERVICE`] with so many servers, none of which is a static neighbour.
fn many_servers(count: usize) -> String {
    let servers: Vec<_> =
        (0..count).map(|i| format!("{{ address = \"10.0.0.{}:5353\" }}", 50 + i)).collect();
    FLOW_SERVICE.replace("{ address = \"10.0.0.50:5353\" }", &servers.join(", "))
}

fn question(number: usize) -> Vec<u8> {
    let client = format!("198.18.7.7:{}", 10_000 + number);
    PacketBuilder::udp(&client, "192.0.2.100:53").payload(&number.to_be_bytes()).build()
}

fn resolves(director: &TestDirector) -> usize {
    director.events.iter().filter(|event| matches!(event, Event::Resolve { .. })).count()
}

#[test]
fn packets_wait_and_follow_in_order_when_the_neighbor_is_known() {
    let mut director = Setup::with_services(FLOW_SERVICE).start();
    for number in 0..10 {
        director.receive(OUT, &question(number));
    }
    assert_eq!((director.take_sent().len(), director.held()), (0, 10));
    assert_eq!(resolves(&director), 1, "asked for once");
    assert!(matches!(
        director.events[0],
        Event::Resolve { interface: IN, address } if address.to_string() == "10.0.0.50"
    ));
    director.set_neighbor(IN, "10.0.0.50".parse().unwrap(), SERVER_SIDE, false);
    let sent = director.take_sent();
    assert_eq!((sent.len(), director.held()), (10, 0));
    for (number, sent) in sent.iter().enumerate() {
        assert_eq!(payload(&sent.octets), number.to_be_bytes());
        assert_eq!((sent.interface, &sent.octets[..6]), (IN, &SERVER_SIDE[..]));
        assert_eq!(sent.octets[6..12], INSIDE);
        assert_eq!(ends(&sent.octets).1.to_string(), "10.0.0.50:5353");
    }
    // From now on nothing waits.
    director.receive(OUT, &question(3));
    assert_eq!(director.take_sent().len(), 1);
}

#[test]
fn the_control_threads_answer_lets_the_first_packet_through() {
    let mut director = Setup::with_services(FLOW_SERVICE).workers(4).start();
    director.answering.insert("10.0.0.50".parse().unwrap(), SERVER_SIDE);
    for number in 0..50 {
        director.receive(OUT, &question(number));
        assert_eq!(director.take_sent().len(), 1);
    }
    assert_eq!(resolves(&director), 1, "what one worker asked for, all were told");
}

#[test]
fn at_most_64_packets_wait_for_one_neighbor() {
    let mut director = Setup::with_services(FLOW_SERVICE).start();
    for number in 0..100 {
        director.receive(OUT, &question(number));
    }
    assert_eq!(director.held(), 64);
    assert_eq!(director.dropped(DropReason::NeighborQueueFull), 36);
    director.set_neighbor(IN, "10.0.0.50".parse().unwrap(), SERVER_SIDE, false);
    assert_eq!(director.take_sent().len(), 64);
}

#[test]
fn at_most_1024_packets_wait_for_all_neighbors() {
    let mut director = Setup::with_services(&many_servers(40)).start();
    for number in 0..40 * 40 {
        director.receive(OUT, &question(number));
    }
    assert_eq!(director.held(), 1024);
    assert_eq!(director.dropped(DropReason::NeighborQueueFull), 1600 - 1024);
    assert_eq!(resolves(&director), 40);
    for server in 0..40 {
        let address = format!("10.0.0.{}", 50 + server);
        director.set_neighbor(IN, address.parse().unwrap(), SERVER_SIDE, false);
    }
    assert_eq!((director.take_sent().len(), director.held()), (1024, 0));
}

#[test]
fn what_waits_for_an_unreachable_neighbor_is_dropped_and_the_next_packet_asks_again() {
    let mut director = Setup::with_services(FLOW_SERVICE).start();
    for number in 0..5 {
        director.receive(OUT, &question(number));
    }
    director.neighbor_unreachable(IN, "10.0.0.50");
    assert_eq!((director.held(), director.dropped(DropReason::NeighborUnreachable)), (0, 5));
    director.receive(OUT, &question(0));
    assert_eq!((director.held(), resolves(&director)), (1, 2));
    director.set_neighbor(IN, "10.0.0.50".parse().unwrap(), SERVER_SIDE, false);
    assert_eq!(director.take_sent().len(), 1);
}

#[test]
fn a_neighbor_that_falls_silent_makes_established_flows_wait() {
    let mut director = Setup::with_services(FLOW_SERVICE).start();
    director.set_neighbor(IN, "10.0.0.50".parse().unwrap(), SERVER_SIDE, false);
    director.receive(OUT, &question(1)).receive(OUT, &question(1));
    assert_eq!(director.take_sent().len(), 2);
    director.neighbor_unreachable(IN, "10.0.0.50");
    director.receive(OUT, &question(1));
    assert_eq!((director.take_sent().len(), director.held()), (0, 1));
    let elsewhere = [2, 0, 0, 0, 9, 9];
    director.set_neighbor(IN, "10.0.0.50".parse().unwrap(), elsewhere, false);
    assert_eq!(director.sent_one().octets[..6], elsewhere);
}

#[test]
fn what_still_waits_is_dropped_when_the_director_stops() {
    let mut director = Setup::with_services(FLOW_SERVICE).workers(2).start();
    for number in 0..20 {
        director.receive(OUT, &question(number));
    }
    assert_eq!(director.held(), 20);
    director.shut_down();
    assert_eq!((director.held(), director.dropped(DropReason::Shutdown)), (0, 20));
}

#[test]
fn a_packet_larger_than_the_mtu_does_not_wait() {
    let text = format!("{TOPOLOGY}{FLOW_SERVICE}")
        .replace("role = \"inside\"", "role = \"inside\"\nmtu = 1400");
    let mut director = Setup::new(&text).start();
    let large = |payload: usize| {
        PacketBuilder::udp("198.18.7.7:1", "192.0.2.100:53").payload(&vec![7; payload]).build()
    };
    director.receive(OUT, &large(1400 - 28)).receive(OUT, &large(1401 - 28));
    assert_eq!((director.held(), director.dropped(DropReason::MtuExceeded)), (1, 1));
}

/// Room for six: five static neighbours of the topology's IPv4 side would not leave any, so that
/// the topology has none here.
fn small(neighbors: usize, servers: usize) -> TestDirector {
    let text = format!("{TOPOLOGY}{}", many_servers(servers));
    let text: Vec<_> = text.lines().filter(|line| !line.starts_with('"')).collect();
    let text = text.join("\n").replace("[interface.inside.neighbors]", "");
    let text = text.replace("[interface.outside.neighbors]", "");
    Setup::new(&text).neighbors(neighbors).start()
}

#[test]
fn a_neighbor_in_use_is_never_replaced() {
    // The gateway to the clients and two servers fill the table.
    let mut director = small(3, 2);
    for address in ["10.0.0.50", "10.0.0.51"] {
        director.answering.insert(address.parse().unwrap(), SERVER_SIDE);
    }
    director.receive(OUT, &question(0)).receive(OUT, &question(1));
    assert_eq!(director.take_sent().len(), 2);
    // Strangers on the link ask for us, by hundreds: no room for them.
    for host in 0..200 {
        let address = format!("192.0.2.{host}").parse().unwrap();
        director.set_neighbor(OUT, address, CLIENT_SIDE, false);
    }
    director.receive(OUT, &question(0)).receive(OUT, &question(1));
    let sent = director.take_sent();
    assert_eq!(sent.len(), 2);
    assert!(sent.iter().all(|sent| sent.octets[..6] == SERVER_SIDE));
}

#[test]
fn the_servers_neighbor_is_not_replaced_by_the_clients_within_one_admission() {
    // One place is free: the server's neighbour takes it, and the gateway finds none.
    let mut director = small(3, 2);
    director.answering.insert("10.0.0.51".parse().unwrap(), SERVER_SIDE);
    director.set_neighbor(OUT, "192.0.2.7".parse().unwrap(), CLIENT_SIDE, true);
    director.set_neighbor(OUT, "192.0.2.8".parse().unwrap(), CLIENT_SIDE, true);
    director.receive(OUT, &question(0));
    assert_eq!(director.dropped(DropReason::NeighborTableFull), 1);
    assert_eq!((director.take_sent().len(), director.connections()), (0, 0));
}

#[test]
fn a_neighbor_is_replaced_when_its_connections_are_gone() {
    let mut director = small(2, 1);
    director.answering.insert("10.0.0.50".parse().unwrap(), SERVER_SIDE);
    director.receive(OUT, &question(0));
    assert_eq!(director.take_sent().len(), 1);
    director.advance(301_000);
    assert_eq!(director.connections(), 0);
    for host in 10..12 {
        let address = format!("192.0.2.{host}").parse().unwrap();
        director.set_neighbor(OUT, address, CLIENT_SIDE, false);
    }
    assert_eq!(director.stats(0).neighbors.get(), 2);
    director.receive(OUT, &question(0));
    assert_eq!(director.take_sent().len(), 1, "both were found room again");
}

#[test]
fn an_answer_on_the_wire_is_reported_once_it_is_news() {
    let mut director = Setup::with_services(FLOW_SERVICE).start();
    let server = SERVER_SIDE;
    let tell = arp(2, (server, "10.0.0.50"), (INSIDE, "10.0.0.1"), (server, INSIDE));
    director.receive(IN, &tell);
    let [Event::NeighborSeen { interface: IN, address, mac, answer: true }] = director.events[..]
    else {
        panic!("{:?}", director.events)
    };
    assert_eq!((address.to_string().as_str(), mac), ("10.0.0.50", server));
    // A stranger's broadcast to another stranger is none of our business.
    director.events.clear();
    let other = arp(1, (CLIENT_SIDE, "192.0.2.9"), ([0; 6], "192.0.2.8"), (CLIENT_SIDE, [0xff; 6]));
    director.receive(OUT, &other);
    assert!(director.events.is_empty(), "{:?}", director.events);
}

#[test]
fn a_claim_to_an_address_of_ours_teaches_nothing() {
    let mut director = Setup::with_services(FLOW_SERVICE).start();
    for address in ["192.0.2.1", "192.0.2.100", "10.0.0.1"] {
        let claim = arp(1, (CLIENT_SIDE, address), ([0; 6], "192.0.2.1"), (CLIENT_SIDE, [0xff; 6]));
        director.receive(OUT, &claim);
    }
    assert_eq!(director.dropped(DropReason::BadNeighborMessage), 3);
    assert!(director.events.is_empty(), "{:?}", director.events);
}

#[test]
fn an_advertisement_is_reported() {
    let mut director = Setup::with_services(FLOW_SERVICE).start();
    let mut message = vec![136, 0, 0, 0, 0x60, 0, 0, 0];
    message.extend("fd00::50".parse::<std::net::Ipv6Addr>().unwrap().octets());
    message.extend([2, 1]);
    message.extend(SERVER_SIDE);
    let frame = icmpv6("fd00::50", "fd00::1", 255, &message, (SERVER_SIDE, INSIDE));
    director.receive(IN, &frame);
    let [Event::NeighborSeen { interface: IN, address, mac, .. }] = director.events[..] else {
        panic!("{:?}", director.events)
    };
    assert_eq!((address.to_string().as_str(), mac), ("fd00::50", SERVER_SIDE));
}

#[test]
fn solicitations_and_announcements_are_packets_of_our_own() {
    let mut director = Setup::with_services(FLOW_SERVICE).start();
    let solicit = |address: &'static str, only_if_used| {
        move || Command::Solicit {
            interface: IN,
            address: address.parse().unwrap(),
            station: None,
            only_if_used,
        }
    };
    director.command_all(solicit("10.0.0.50", true));
    assert!(director.take_sent().is_empty(), "nothing uses it");
    director.command_all(solicit("10.0.0.50", false));
    let broadcast = (INSIDE, [0xff; 6]);
    let expected = arp(1, (INSIDE, "10.0.0.1"), ([0; 6], "10.0.0.50"), broadcast);
    assert_eq!(director.sent_one().octets, expected);

    director.command_all(|| Command::Announce {
        interface: OUT,
        address: "192.0.2.100".parse().unwrap(),
    });
    let vip = "192.0.2.100";
    let expected = arp(1, (OUTSIDE, vip), ([0; 6], vip), (OUTSIDE, [0xff; 6]));
    assert_eq!(director.sent_one().octets, expected);

    // Without a buffer there is no packet, and that is counted.
    director.outlet(0).has_buffers = false;
    director.command_all(solicit("fd00::50", false));
    assert!(director.take_sent().is_empty());
    assert_eq!(director.stats(0).no_buffer.get(), 1);
    director.outlet(0).has_buffers = true;
    director.command_all(solicit("fd00::50", false));
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend("fd00::50".parse::<std::net::Ipv6Addr>().unwrap().octets());
    message.extend([1, 1]);
    message.extend(INSIDE);
    let group = [0x33, 0x33, 0xff, 0, 0, 0x50];
    let expected = icmpv6("fd00::1", "ff02::1:ff00:50", 255, &message, (INSIDE, group));
    assert_eq!(director.sent_one().octets, expected);
}

#[test]
fn a_probe_is_only_sent_for_a_neighbor_that_a_connection_uses() {
    let mut director = Setup::with_services(FLOW_SERVICE).start();
    director.answering.insert("10.0.0.50".parse().unwrap(), SERVER_SIDE);
    director.receive(OUT, &question(0));
    director.take_sent();
    let probe = || Command::Solicit {
        interface: IN,
        address: "10.0.0.50".parse().unwrap(),
        station: Some(SERVER_SIDE),
        only_if_used: true,
    };
    director.command_all(probe);
    let link = (INSIDE, SERVER_SIDE);
    let expected = arp(1, (INSIDE, "10.0.0.1"), ([0; 6], "10.0.0.50"), link);
    assert_eq!(director.sent_one().octets, expected);
    director.advance(301_000);
    director.command_all(probe);
    assert!(director.take_sent().is_empty());
}

#[test]
fn a_syn_for_a_server_without_route_is_dropped() {
    let mut director = Setup::with_services(
        "[[service]]\nname = \"web\"\nlisten = \"tcp://192.0.2.100:80\"\n\
         servers = [{ address = \"10.0.0.11:80\" }]\n",
    )
    .start();
    let from_nowhere = PacketBuilder::tcp("100.64.0.1:1", "192.0.2.100:80").flags(SYN).build();
    director.receive(OUT, &from_nowhere);
    assert_eq!((director.dropped(DropReason::NoRoute), director.connections()), (1, 0));
}
