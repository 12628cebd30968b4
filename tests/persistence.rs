//! Persistence through the whole director: which server a client's connections go to, over
//! workers, ports and time.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use pointsman::dataplane::stats::DropReason;
use pointsman::ids::ServerSlot;
use pointsman::service::TemplateRow;
use support::director::{IN, OUT, Setup, TOPOLOGY, TestDirector};
use support::packet::{ACK, PacketBuilder, RST, SYN, ends};

const VIP: &str = "192.0.2.100:80";

/// A TCP service with round robin over three servers, and more keys.
fn web(more: &str) -> String {
    web_with(more, [1, 1, 1])
}

fn web_with(more: &str, weights: [u32; 3]) -> String {
    let [a, b, c] = weights;
    format!(
        "{TOPOLOGY}[[service]]\nname = \"web\"\nlisten = \"tcp://{VIP}\"\nscheduler = \"rr\"\n\
         {more}\nservers = [{{ address = \"10.0.0.11\", weight = {a} }}, \
         {{ address = \"10.0.0.12\", weight = {b} }}, {{ address = \"10.0.0.13\", weight = {c} }}]\n"
    )
}

fn director(more: &str, workers: u16) -> TestDirector {
    Setup::new(&web(more)).workers(workers).start()
}

/// Sends a SYN; the server that it went to.
#[track_caller]
fn open(director: &mut TestDirector, client: &str, port: u16) -> IpAddr {
    director.receive(OUT, &PacketBuilder::tcp(&format!("{client}:{port}"), VIP).flags(SYN).build());
    ends(&director.sent_one().octets).1.ip()
}

/// Completes the handshake of a connection that was opened.
fn establish(director: &mut TestDirector, client: &str, port: u16, server: IpAddr) {
    let (client, server) = (format!("{client}:{port}"), SocketAddr::new(server, 80).to_string());
    let answer = PacketBuilder::tcp(&server, &client).from_server().flags(SYN | ACK);
    director.receive(IN, &answer.build());
    director.receive(OUT, &PacketBuilder::tcp(&client, VIP).flags(ACK).build());
    director.take_sent();
}

fn reset(director: &mut TestDirector, client: &str, port: u16) {
    let reset = PacketBuilder::tcp(&format!("{client}:{port}"), VIP).flags(RST | ACK);
    director.receive(OUT, &reset.build());
    director.take_sent();
}

fn templates(director: &TestDirector) -> Vec<TemplateRow> {
    director.loads.templates().listing().collect()
}

fn template_count(director: &TestDirector, listen: &str, server: &str) -> u32 {
    director.loads.of(director.slot(listen, server)).unwrap().templates()
}

#[test]
fn every_connection_of_a_client_goes_to_one_server_whichever_worker_has_it() {
    for workers in [1, 2, 3] {
        let mut director = director("persistence = \"6m\"", workers);
        let mut servers: BTreeMap<u8, BTreeSet<IpAddr>> = BTreeMap::new();
        for port in 2000..2020 {
            for client in 1..=6 {
                let server = open(&mut director, &format!("198.18.0.{client}"), port);
                servers.entry(client).or_default().insert(server);
            }
        }
        assert!(servers.values().all(|servers| servers.len() == 1), "{workers}: {servers:?}");
        let used: BTreeSet<_> = servers.values().flatten().collect();
        assert_eq!(used.len(), 3, "new clients take turns, and none are lost on the others");
        let by_worker = director.connections_by_worker();
        assert!(by_worker.iter().all(|connections| *connections > 0), "{by_worker:?}");
        for server in ["10.0.0.11:80", "10.0.0.12:80", "10.0.0.13:80"] {
            assert_eq!(template_count(&director, &format!("tcp://{VIP}"), server), 2);
        }
    }
}

#[test]
fn a_burst_of_one_clients_connections_goes_to_one_server() {
    for workers in [1, 2] {
        let mut director = director("persistence = \"6m\"", workers);
        let syn =
            |port: u16| PacketBuilder::tcp(&format!("198.18.0.1:{port}"), VIP).flags(SYN).build();
        let burst: Vec<_> = (2000..2040).map(syn).collect();
        director.receive_burst(0, OUT, &burst);
        let sent = director.take_sent();
        let servers: BTreeSet<_> = sent.iter().map(|sent| ends(&sent.octets).1).collect();
        assert_eq!((sent.len(), servers.len()), (40, 1), "{servers:?}");
    }
}

#[test]
fn clients_of_one_network_are_one_where_the_prefix_says_so() {
    let mut director = director("persistence = { timeout = \"6m\", prefix = 24 }", 2);
    let first = open(&mut director, "198.18.0.1", 2000);
    for host in 2..200 {
        assert_eq!(open(&mut director, &format!("198.18.0.{host}"), 2000), first);
    }
    assert_ne!(open(&mut director, "198.18.1.1", 2000), first);
    let mut rows: Vec<_> = templates(&director).iter().map(|row| row.client.to_string()).collect();
    rows.sort();
    assert_eq!(rows, ["198.18.0.0", "198.18.1.0"]);
}

#[test]
fn ipv6_clients_are_told_apart_by_their_prefix() {
    let text = "[[service]]\nname = \"web6\"\nlisten = \"tcp://[2001:db8:1::100]:80\"\n\
                scheduler = \"rr\"\npersistence = { prefix = 64 }\n\
                servers = [{ address = \"[fd00::11]\" }, { address = \"[fd00::12]\" }]\n";
    let mut director = Setup::with_services(text).workers(3).start();
    let mut server = |client: &str| {
        let syn = PacketBuilder::tcp(client, "[2001:db8:1::100]:80").flags(SYN);
        director.receive(OUT, &syn.build());
        ends(&director.sent_one().octets).1
    };
    let first = server("[2001:db8:ffff:1::1]:2000");
    for host in 2..30 {
        assert_eq!(server(&format!("[2001:db8:ffff:1:{host}::{host}]:2000")), first);
    }
    assert_ne!(server("[2001:db8:ffff:2::1]:2000"), first);
}

#[test]
fn a_client_is_forgotten_so_long_after_its_last_new_connection() {
    let more = "persistence = \"90s\"\ntimeouts = { syn_recv = \"5s\" }";
    let mut director = director(more, 2);
    let first = open(&mut director, "198.18.0.1", 2000);
    director.advance(89_000);
    assert_eq!(open(&mut director, "198.18.0.1", 2001), first);
    director.advance(89_000);
    assert_eq!(open(&mut director, "198.18.0.1", 2002), first, "its time began anew");
    director.advance(90_000);
    assert_eq!(templates(&director), []);
    assert_ne!(open(&mut director, "198.18.0.1", 2003), first);
    director.advance(100_000);
    assert_eq!(director.loads.templates().len(), 0, "it was cleared");
    assert_eq!(template_count(&director, &format!("tcp://{VIP}"), &format!("{first}:80")), 0);
}

#[test]
fn a_client_is_remembered_while_it_has_connections() {
    let mut director = director("persistence = \"10s\"", 3);
    let first = open(&mut director, "198.18.0.1", 2000);
    establish(&mut director, "198.18.0.1", 2000, first);
    for _ in 0..6 {
        // Longer than the persistence, shorter than an established connection may idle.
        director.advance(600_000);
        let ack = PacketBuilder::tcp("198.18.0.1:2000", VIP).flags(ACK).build();
        director.receive(OUT, &ack);
        director.take_sent();
        assert_eq!(templates(&director).len(), 1);
    }
    assert_eq!(open(&mut director, "198.18.0.1", 2001), first);
    let row = templates(&director)[0];
    assert_eq!((row.client.to_string(), row.expires_ms), ("198.18.0.1".into(), 10_000));
    reset(&mut director, "198.18.0.1", 2000);
    reset(&mut director, "198.18.0.1", 2001);
    director.advance(1_000_000);
    assert_eq!((director.connections(), director.loads.templates().len()), (0, 0));
    assert_ne!(open(&mut director, "198.18.0.1", 2002), first);
}

#[test]
fn a_quiesced_server_gets_nothing_new_from_clients_that_it_had() {
    let persistent = "persistence = \"6m\"";
    let mut director = director(persistent, 2);
    let clients: Vec<_> = (1..=9).map(|host| format!("198.18.0.{host}")).collect();
    let before: Vec<_> = clients.iter().map(|client| open(&mut director, client, 2000)).collect();
    director.install(&web_with(persistent, [1, 0, 1]));
    let quiesced: IpAddr = "10.0.0.12".parse().unwrap();
    for (client, before) in clients.iter().zip(&before) {
        let server = open(&mut director, client, 2001);
        assert_ne!(server, quiesced);
        assert!(*before == quiesced || server == *before, "the others stay");
        let again = PacketBuilder::tcp(&format!("{client}:2000"), VIP).flags(ACK).build();
        director.receive(OUT, &again);
        assert_eq!(ends(&director.sent_one().octets).1.ip(), *before, "what it has it keeps");
    }
    let now: Vec<_> = clients.iter().map(|client| open(&mut director, client, 2002)).collect();
    director.install(&web(persistent));
    for (client, now) in clients.iter().zip(now) {
        assert_eq!(open(&mut director, client, 2003), now, "nor do they come back");
    }
    assert_eq!(template_count(&director, &format!("tcp://{VIP}"), "10.0.0.12:80"), 0);
}

#[test]
fn templates_end_with_their_server_and_their_service() {
    let persistent = "persistence = \"6m\"";
    let mut director = director(persistent, 2);
    for host in 1..=9 {
        open(&mut director, &format!("198.18.0.{host}"), 2000);
    }
    let two = web(persistent).replace(", { address = \"10.0.0.13\", weight = 1 }", "");
    director.install(&two);
    director.advance(10_000);
    assert_eq!(templates(&director).len(), 6);
    for host in 1..=9 {
        assert_ne!(open(&mut director, &format!("198.18.0.{host}"), 2001).to_string(), "10.0.0.13");
    }
    director.install(TOPOLOGY);
    director.advance(10_000);
    assert_eq!(director.loads.templates().len(), 0);
    let counts = (0..9).map(|slot| director.loads.of(ServerSlot(slot)).unwrap().templates());
    assert_eq!(counts.sum::<u32>(), 0);
}

#[test]
fn what_is_forgotten_before_a_number_is_given_again_is_no_strangers() {
    let mut director = director("persistence = \"6m\"", 1);
    open(&mut director, "198.18.0.1", 2000);
    open(&mut director, "198.18.0.2", 2000);
    let slot = director.slot(&format!("tcp://{VIP}"), "10.0.0.13:80");
    director.loads.forget_templates(|_, server| server == slot);
    assert_eq!(templates(&director).len(), 1);
    assert_eq!(template_count(&director, &format!("tcp://{VIP}"), "10.0.0.13:80"), 0);
}

#[test]
fn datagrams_that_are_scheduled_one_by_one_follow_their_clients_template() {
    let text = "[[service]]\nname = \"dns\"\nlisten = \"udp://192.0.2.100:53\"\n\
                scheduler = \"rr\"\none_packet = true\npersistence = \"1m\"\n\
                servers = [{ address = \"10.0.0.11\" }, { address = \"10.0.0.12\" }]\n";
    let mut director = Setup::with_services(text).workers(2).start();
    let mut server = |client: &str| {
        director.receive(OUT, &PacketBuilder::udp(client, "192.0.2.100:53").build());
        ends(&director.sent_one().octets).1
    };
    let [one, two] = ["198.18.0.1:2000", "198.18.0.2:2000"].map(&mut server);
    assert_ne!(one, two);
    for port in 2001..2030 {
        assert_eq!(server(&format!("198.18.0.1:{port}")), one);
        assert_eq!(server(&format!("198.18.0.2:{port}")), two);
    }
    assert_eq!((director.connections(), templates(&director).len()), (0, 2));
}

#[test]
fn without_room_for_templates_clients_are_served_and_counted() {
    let mut director = director("persistence = \"6m\"", 2);
    let client = |number: u32| format!("198.18.{}.{}", number / 250, number % 250 + 1);
    for number in 0..1500 {
        open(&mut director, &client(number), 2000);
    }
    let lost: u64 = (0..2).map(|worker| director.stats(worker).templates_lost.get()).sum();
    let kept = director.loads.templates().len();
    assert!(kept > 900, "{kept}");
    assert_eq!(lost + u64::from(kept), 1500);
    director.advance(1);
    assert_eq!(director.stats(0).templates.get(), u64::from(kept));
}

/// The recording of five clients, one datagram each: the servers, the templates, their counts.
#[test]
fn clients_templates_and_counts_are_those_of_ipvs() {
    let text = "[[service]]\nname = \"dns\"\nlisten = \"udp://192.0.2.100:53\"\n\
                scheduler = \"rr\"\npersistence = \"300s\"\n\
                servers = [{ address = \"10.0.0.11:53\" }, { address = \"10.0.0.12:53\" }]\n";
    let recording: serde_json::Value =
        serde_json::from_str(include_str!("oracle/persistence.json")).unwrap();
    let output = |command: &str| {
        let entries = recording.as_array().unwrap().iter();
        let entry = { entries }.find(|entry| entry["command"] == command).unwrap();
        entry["stdout"].as_str().unwrap().to_owned()
    };
    let listing = output("ipvsadm -lnc --sort");
    let rows: Vec<Vec<&str>> =
        listing.lines().map(|line| line.split_whitespace().collect()).collect();
    let mut flows: Vec<_> =
        rows.iter().filter(|row| row[..1] == ["UDP"] && row[2] == "UDP").collect();
    flows.sort_by_key(|row| row[3].rsplit_once(':').unwrap().1.parse::<u16>().unwrap());
    for workers in [1, 2] {
        let mut director = Setup::with_services(text).workers(workers).start();
        for flow in &flows {
            director.receive(OUT, &PacketBuilder::udp(flow[3], flow[4]).build());
            assert_eq!(ends(&director.sent_one().octets).1.to_string(), flow[5]);
        }
        let wanted: BTreeSet<_> = rows
            .iter()
            .filter(|row| row.len() > 2 && row[2] == "NONE")
            .map(|row| (row[3].trim_end_matches(":0").to_owned(), row[5].to_owned()))
            .collect();
        let slots = ["10.0.0.11:53", "10.0.0.12:53"]
            .map(|server| (director.slot("udp://192.0.2.100:53", server), server.to_owned()));
        let slots = BTreeMap::from(slots.map(|(slot, server)| (slot.0, server)));
        let found: BTreeSet<_> = templates(&director)
            .iter()
            .map(|row| (row.client.to_string(), slots[&row.server.0].clone()))
            .collect();
        assert_eq!(found, wanted);
        assert!(templates(&director).iter().all(|row| row.expires_ms == 300_000));
        let counts = output("ipvsadm -ln --persistent-conn");
        for server in slots.values() {
            let line = counts.lines().find(|line| line.contains(&format!("-> {server}"))).unwrap();
            let count: u32 = line.split_whitespace().nth(3).unwrap().parse().unwrap();
            assert_eq!(template_count(&director, "udp://192.0.2.100:53", server), count);
        }
    }
}

#[test]
fn a_service_has_no_more_connections_than_it_may() {
    for workers in [1, 2] {
        let mut director = director("connection_limit = 5", workers);
        let server = open(&mut director, "198.18.0.1", 2000);
        establish(&mut director, "198.18.0.1", 2000, server);
        for port in 2001..2005 {
            open(&mut director, "198.18.0.1", port);
        }
        for port in 2005..2010 {
            let syn = PacketBuilder::tcp(&format!("198.18.0.1:{port}"), VIP).flags(SYN).build();
            director.receive(OUT, &syn);
        }
        assert_eq!(director.take_sent().len(), 0);
        assert_eq!(director.dropped(DropReason::ConnectionLimit), 5);
        reset(&mut director, "198.18.0.1", 2000);
        director.advance(10_500);
        open(&mut director, "198.18.0.1", 2010);
        let burst: Vec<_> = (3000..3010)
            .map(|port| PacketBuilder::tcp(&format!("198.18.0.2:{port}"), VIP).flags(SYN).build())
            .collect();
        director.receive_burst(0, OUT, &burst);
        assert_eq!(director.dropped(DropReason::ConnectionLimit), 15);
        assert_eq!(director.connections(), 5);
    }
}

#[test]
fn a_burst_does_not_exceed_the_limit() {
    let mut director = director("connection_limit = 7", 1);
    let burst: Vec<_> = (3000..3020)
        .map(|port| PacketBuilder::tcp(&format!("198.18.0.2:{port}"), VIP).flags(SYN).build())
        .collect();
    director.receive_burst(0, OUT, &burst);
    assert_eq!(director.take_sent().len(), 7);
    assert_eq!(director.dropped(DropReason::ConnectionLimit), 13);
}
