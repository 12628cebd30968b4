//! Connections of one director that another takes over, whose workers are others: full NAT, whose
//! port leads the server's packets to a worker that the first director chose by its own rule.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

mod support;

use pointsman::dataplane::stats::DropReason;
use pointsman::dataplane::steering::Steering;
use pointsman::dataplane::sync::{self, SyncConnection, SyncKind};
use support::director::{IN, OUT, PAIR, Setup, TestDirector};
use support::packet::{ACK, FIN, PacketBuilder, SYN, assert_checksums, ends};

const SERVICES: &str = r#"
[[service]]
name = "web"
listen = "tcp://192.0.2.100:80"
servers = [{ address = "10.0.0.12:8080" }]

[[service]]
name = "dns6"
listen = "udp://[2001:db8:1::100]:53"
servers = [{ address = "[fd00::12]:5353" }]
"#;

/// Each director has a secret of its own.
const SECRETS: [[u64; 4]; 2] = [
    [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0, 0x082e_fa98_ec4e_6c89],
    [0x4528_21e6_38d0_1377, 0xbe54_66cf_34e9_0c6c, 0xc0ac_29b7_c97c_50dd, 0x3f84_d5b5_b547_0917],
];
const CONNECTIONS: u16 = 60;
const WEB: (&str, &str) = ("tcp://192.0.2.100:80", "10.0.0.12:8080");
const VIP: &str = "192.0.2.100:80";

fn director(workers: u16, secret: [u64; 4]) -> (TestDirector, Steering) {
    let steering = Steering::new(workers, secret);
    let mut setup = Setup::with_services(&format!("{PAIR}{SERVICES}")).workers(workers);
    setup.steering = Some(steering.clone());
    (setup.start(), steering)
}

/// A packet of an inside host or a server; where from and where to it goes on.
fn pass(director: &mut TestDirector, packet: PacketBuilder) -> (String, String) {
    director.receive(IN, &packet.from_server().build());
    let sent = director.sent_one();
    assert_eq!(sent.interface, IN);
    assert_checksums(&sent.octets);
    let (from, to) = ends(&sent.octets);
    (from.to_string(), to.to_string())
}

/// A host, what it speaks to, and whom its server sees.
struct Begun {
    host: String,
    vip: &'static str,
    local: String,
    server: String,
}

impl Begun {
    fn packet(&self, from: &str, to: &str) -> PacketBuilder {
        if self.vip.starts_with('[') {
            PacketBuilder::udp(from, to)
        } else {
            PacketBuilder::tcp(from, to)
        }
    }

    fn asks(&self, director: &mut TestDirector, flags: u8) {
        let packet = self.packet(&self.host, self.vip).flags(flags);
        assert_eq!(pass(director, packet), (self.local.clone(), self.server.clone()));
    }

    fn is_answered(&self, director: &mut TestDirector, flags: u8) {
        let packet = self.packet(&self.server, &self.local).flags(flags);
        assert_eq!(pass(director, packet), (self.vip.to_owned(), self.host.clone()));
    }
}

/// Connections of inside hosts through the director, established.
fn begin(director: &mut TestDirector) -> Vec<Begun> {
    let hosts = (0..CONNECTIONS).flat_map(|number| {
        let port = 20_000 + number;
        let v6 = (format!("[fd00::11]:{port}"), "[2001:db8:1::100]:53");
        [(format!("10.0.0.11:{port}"), VIP), v6]
    });
    let begun = hosts.map(|(host, vip)| {
        let mut begun = Begun { host, vip, local: String::new(), server: String::new() };
        let packet = begun.packet(&begun.host, vip).flags(SYN);
        (begun.local, begun.server) = pass(director, packet);
        begun.is_answered(director, SYN | ACK);
        begun.asks(director, ACK);
        begun
    });
    begun.collect()
}

/// What the active director has told, the last of each.
fn told(director: &TestDirector) -> Vec<SyncConnection> {
    let channel = director.failover.as_ref().unwrap();
    let all = (0..channel.sync.workers()).flat_map(|worker| {
        std::iter::from_fn(move || channel.sync.leaving(worker)).collect::<Vec<_>>()
    });
    let last: std::collections::BTreeMap<_, _> = all.map(|told| (told.client, told)).collect();
    last.into_values().collect()
}

/// The director that takes over, and how many connections have a record at two workers.
fn take_over(told: &[SyncConnection], workers: u16) -> (TestDirector, u64) {
    let (mut director, steering) = director(workers, SECRETS[1]);
    director.stand(false);
    let channel = director.failover.clone().unwrap();
    for told in told {
        let [first, second] = steering.owners_of(sync::keys(told), || sync::keys(told));
        assert!(channel.sync.bring(first, *told));
        assert!(second == first || channel.sync.bring(second, *told));
    }
    while !channel.sync.is_taken() {
        director.settle();
    }
    director.stand(true);
    let all = 0..usize::from(workers);
    let halves = all.map(|worker| director.stats(worker).halves.get()).sum();
    (director, halves)
}

#[test]
fn full_nat_goes_on_whatever_worker_the_port_leads_to() {
    for (before, after) in [(1, 1), (1, 3), (2, 2), (3, 1), (4, 3)] {
        let (mut director, _) = director(before, SECRETS[0]);
        director.stand(true);
        let begun = begin(&mut director);
        let told = told(&director);
        assert_eq!(told.len(), begun.len());

        let (mut director, halves) = take_over(&told, after);
        assert_eq!(halves > 0, after > 1, "{halves} of {}", begun.len());
        let count = begun.len();
        let adopted = (0..usize::from(after)).map(|w| director.stats(w).adopted.get());
        assert_eq!(adopted.sum::<u64>(), count as u64);
        assert_eq!(u64::from(director.connections()), count as u64 + halves);
        assert_eq!(director.list().len(), count);
        assert_eq!(director.load(WEB.0, WEB.1), (CONNECTIONS.into(), 0));
        for begun in &begun {
            begun.is_answered(&mut director, ACK);
            begun.asks(&mut director, ACK);
        }
        // No other connection gets one of their ports.
        let port = |local: &str| local.rsplit_once(':').unwrap().1.to_owned();
        let web = begun.iter().filter(|begun| begun.vip == VIP);
        let taken: Vec<_> = web.map(|begun| port(&begun.local)).collect();
        for number in 0..100 {
            let host = format!("10.0.0.11:{}", 30_000 + number);
            let syn = PacketBuilder::tcp(&host, VIP).flags(SYN);
            let (local, _) = pass(&mut director, syn);
            assert!(!taken.contains(&port(&local)), "{local}");
        }
        // They end at both workers, and leave nothing behind.
        for begun in &begun {
            begun.asks(&mut director, FIN | ACK);
            begun.is_answered(&mut director, FIN | ACK);
            begun.asks(&mut director, ACK);
        }
        assert_eq!(director.drops().len(), 0, "{:?}", director.drops());
        director.advance(400_000);
        assert_eq!(director.connections(), 0);
        assert_eq!(director.load(WEB.0, WEB.1), (0, 0));
        let late = begun[0].packet(&begun[0].server, &begun[0].local).flags(ACK);
        director.receive(IN, &late.from_server().build());
        assert_eq!(director.dropped(DropReason::NoService), 1);
    }
}

/// Whichever worker a client's packets come to, and whatever has come there before: the connection is at
/// the one that they lead to, the other one has what the server's packets need and no more.
#[test]
fn a_clients_packets_keep_its_connection_wherever_they_arrive() {
    for (receiver, is_trusting) in [(0, false), (0, true), (1, false), (1, true)] {
        let (mut director, _) = director(2, SECRETS[0]);
        director.stand(true);
        let begun = begin(&mut director);
        let (mut director, halves) = take_over(&told(&director), 2);
        assert!(halves > 0);
        if is_trusting {
            let nobodys = vec![vec![0; 60]; 64];
            for _ in 0..16 {
                director.receive_burst(receiver, IN, &nobodys);
            }
        }
        // The server says nothing: its half ends, which nobody may take for the connection's end.
        for _ in 0..4 {
            for begun in &begun {
                let asked = begun.packet(&begun.host, begun.vip).flags(ACK).from_server();
                director.receive_burst(receiver, IN, &[asked.build()]);
                let (from, to) = ends(&director.sent_one().octets);
                assert_eq!(
                    (from.to_string(), to.to_string()),
                    (begun.local.clone(), begun.server.clone())
                );
            }
            director.advance(250_000);
        }
        let of_tcp = director.list().into_iter().filter(|row| row.protocol == 6).count();
        assert_eq!(of_tcp, usize::from(CONNECTIONS), "at {receiver}, {is_trusting}");
        assert_eq!(director.load(WEB.0, WEB.1), (CONNECTIONS.into(), 0));
    }
}

/// What a standby knows of one connection: its whole idle time, and how much of that is left.
fn expires(director: &mut TestDirector, host: &str) -> Option<u32> {
    let host = host.parse().unwrap();
    director.list().into_iter().find(|row| row.client == host).map(|row| row.expires_ms)
}

#[test]
fn a_connection_that_has_idled_for_long_may_idle_as_long_as_ever_after_a_takeover() {
    const TIMEOUT: u32 = 900_000;
    const IDLE: u32 = 840_000;
    let (mut director, _) = director(1, SECRETS[0]);
    director.stand(true);
    let begun = begin(&mut director);
    let web = begun.iter().find(|begun| begun.vip == VIP).unwrap();
    director.advance(IDLE - 30_000);
    told(&director);
    director.advance(30_000);
    let told: Vec<_> = told(&director).into_iter().filter(|told| told.protocol == 6).collect();
    assert_eq!(told.len(), usize::from(CONNECTIONS), "the walk has told of them again");
    let (mut director, _) = take_over(&told, 2);
    let left = expires(&mut director, &web.host).unwrap();
    assert!((TIMEOUT - IDLE..TIMEOUT - IDLE + 20_000).contains(&left), "{left} ms are left");
    web.asks(&mut director, ACK);
    assert_eq!(expires(&mut director, &web.host), Some(TIMEOUT));
    director.advance(IDLE);
    web.asks(&mut director, ACK);
    // Of the others nothing came any more.
    assert_eq!(director.list().len(), 1);
}

#[test]
fn what_was_told_last_before_a_takeover_is_taken_over_and_replaces_nothing_newer() {
    let (mut before, _) = director(1, SECRETS[0]);
    before.stand(true);
    let begun = begin(&mut before);
    let told = told(&before);
    let (mut director, _) = director(1, SECRETS[1]);
    director.stand(true);
    // A host has begun anew meanwhile, with another address of the director's.
    let again = &begun[0];
    let syn = again.packet(&again.host, again.vip).flags(SYN);
    let (local, _) = pass(&mut director, syn);
    let channel = director.failover.clone().unwrap();
    for told in &told {
        assert!(channel.sync.bring(pointsman::ids::WorkerId(0), *told));
    }
    director.settle();
    for begun in &begun[1..] {
        begun.is_answered(&mut director, ACK);
    }
    let ack = again.packet(&again.host, again.vip).flags(ACK);
    assert_eq!(pass(&mut director, ack).0, local);
    assert_eq!(director.list().len(), begun.len());
}

const SHORT: &str = r#"
[[service]]
name = "dns"
listen = "udp://192.0.2.100:53"
timeouts = { udp = "6s" }
servers = [{ address = "10.0.0.12:5353" }]
"#;

/// A flow that another director would forget between two rounds of the usual time.
#[test]
fn a_busy_connection_is_told_again_before_its_short_idle_time_is_over() {
    let mut director = Setup::with_services(&format!("{PAIR}{SHORT}")).start();
    director.stand(true);
    let ask = PacketBuilder::udp("192.0.2.10:4000", "192.0.2.100:53").build();
    let mut last = 0;
    for ms in (0..60_000).step_by(250) {
        director.receive(OUT, &ask);
        director.take_sent();
        director.advance(250);
        if !told(&director).is_empty() {
            last = ms;
        }
        assert!(ms - last <= 3000, "nothing was told from {last} to {ms} ms");
    }
}

/// Whether its own connections are told of or not.
#[test]
fn a_service_of_short_idle_times_does_not_have_all_others_told_again_as_often() {
    for off in ["", "sync = false\n", "one_packet = true\n"] {
        let short = SHORT.replace("timeouts", &format!("{off}timeouts"));
        let mut director = Setup::with_services(&format!("{PAIR}{STICKY}{short}")).start();
        director.stand(true);
        let web = |flags| PacketBuilder::tcp("198.18.0.1:4000", VIP).flags(flags).build();
        director.receive(OUT, &web(SYN));
        let (_, server) = ends(&director.sent_one().octets);
        let answer = PacketBuilder::tcp(&server.to_string(), "198.18.0.1:4000").flags(SYN | ACK);
        director.receive(IN, &answer.from_server().build());
        director.take_sent();
        director.receive(OUT, &web(ACK));
        told(&director);
        let ask = PacketBuilder::udp("192.0.2.10:4000", "192.0.2.100:53").build();
        let (mut of_web, mut of_short) = (0, 0);
        for _ in 0..240 {
            director.receive(OUT, &ask);
            director.take_sent();
            director.advance(250);
            let told = told(&director);
            let of = |protocol| {
                let connections = told.iter().filter(|told| told.kind == SyncKind::Connection);
                connections.filter(|told| told.protocol == protocol).count()
            };
            of_web += of(6);
            of_short += of(17);
        }
        assert!((3..=5).contains(&of_web), "{off}: in a minute it was told of {of_web} times");
        let expected = if off.is_empty() { 20..=60 } else { 0..=0 };
        assert!(expected.contains(&of_short), "{off}: {of_short}");
    }
}

const STICKY: &str = r#"
[[service]]
name = "sticky"
listen = "tcp://192.0.2.100:80"
scheduler = "rr"
persistence = "6m"
servers = [{ address = "10.0.0.11:8080" }, { address = "10.0.0.12:8080" }]
"#;

/// Opens a connection through the VIP; the server.
fn opens(director: &mut TestDirector, client: &str) -> String {
    director.receive(OUT, &PacketBuilder::tcp(client, VIP).flags(SYN).build());
    ends(&director.sent_one().octets).1.to_string()
}

#[test]
fn a_template_that_comes_late_does_not_move_a_client() {
    let start = || Setup::with_services(&format!("{PAIR}{STICKY}")).start();
    let (mut before, mut director) = (start(), start());
    before.stand(true);
    let first = opens(&mut before, "198.18.0.1:4000");
    before.advance(30_000);
    let templates: Vec<_> =
        told(&before).into_iter().filter(|told| told.kind == SyncKind::Template).collect();
    assert_eq!(templates.len(), 1);
    director.stand(true);
    // The other host has the turn of the first server.
    assert_eq!(opens(&mut director, "198.18.0.2:4000"), first);
    let second = opens(&mut director, "198.18.0.1:4001");
    assert_ne!(second, first);
    let channel = director.failover.clone().unwrap();
    assert!(channel.sync.bring(pointsman::ids::WorkerId(0), templates[0]));
    director.settle();
    assert_eq!(opens(&mut director, "198.18.0.1:4002"), second);
    // A standby takes it.
    let mut standby = start();
    standby.stand(false);
    let channel = standby.failover.clone().unwrap();
    assert!(channel.sync.bring(pointsman::ids::WorkerId(0), templates[0]));
    standby.settle();
    standby.stand(true);
    assert_eq!(opens(&mut standby, "198.18.0.2:4000"), first);
    assert_eq!(opens(&mut standby, "198.18.0.1:4001"), first);
}
