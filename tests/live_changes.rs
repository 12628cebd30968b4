//! Thousands of random changes of the services while connections live that none of them names.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

mod support;

use std::collections::HashSet;
use std::fmt::Write as _;
use std::net::SocketAddr;

use pointsman::dataplane::stats::DropReason;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use support::director::{IN, OUT, Sent, Setup, TOPOLOGY, TestDirector};
use support::packet::{ACK, PacketBuilder, SYN, ends};

/// What nobody changes.
const KEPT: &str = "[[service]]\nname = \"kept\"\nlisten = \"tcp://192.0.2.100:80\"\n\
    scheduler = \"rr\"\nservers = [{ address = \"10.0.0.11:8080\" }, { address = \"10.0.0.12:8080\" }]\n\
    [[service]]\nname = \"dns\"\nlisten = \"udp://192.0.2.100:53\"\nscheduler = \"sh\"\n\
    servers = [{ address = \"10.0.0.11:5353\" }, { address = \"10.0.0.12:5353\" }]\n";

/// Connections of each kind that live throughout.
const LIVE: u32 = 24;

/// A change of one of a few services: where it listens, how it schedules, what becomes of its
/// servers' connections, and its servers with their weights.
#[derive(Clone, Debug)]
struct Other {
    place: u16,
    scheduler: &'static str,
    removal: &'static str,
    persistent: bool,
    servers: Vec<(u8, u32)>,
}

fn any_other() -> impl Strategy<Value = Other> {
    let schedulers = [
        "rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh",
        "twos",
    ];
    let servers = prop::collection::btree_map(11_u8..19, 0_u32..5, 0..5);
    (
        0_u16..4,
        prop::sample::select(schedulers.to_vec()),
        prop::sample::select(vec!["finish", "reset", "forget"]),
        any::<bool>(),
        servers,
    )
        .prop_map(|(place, scheduler, removal, persistent, servers)| Other {
            place,
            scheduler,
            removal,
            persistent,
            servers: servers.into_iter().collect(),
        })
}

fn text(others: &[Option<Other>]) -> String {
    let mut text = KEPT.to_owned();
    for other in others.iter().flatten() {
        let Other { place, scheduler, removal, persistent, servers } = other;
        let servers: Vec<_> = servers
            .iter()
            .map(|(host, weight)| {
                format!("{{ address = \"10.0.0.{host}:8080\", weight = {weight} }}")
            })
            .collect();
        let persistence = if *persistent { "persistence = \"1m\"\n" } else { "" };
        write!(
            text,
            "[[service]]\nname = \"other{place}\"\nlisten = \"tcp://192.0.2.100:{}\"\n\
             scheduler = \"{scheduler}\"\non_removal = \"{removal}\"\n{persistence}servers = [{}]\n",
            9000 + place,
            servers.join(", ")
        )
        .unwrap();
    }
    text
}

/// The one frame that was sent, but for resets of connections that changes name.
#[track_caller]
fn the_one(director: &mut TestDirector) -> Sent {
    let is_other = |sent: &Sent| (9000..9004).contains(&ends(&sent.octets).0.port());
    let mut sent: Vec<_> =
        director.take_sent().into_iter().filter(|sent| !is_other(sent)).collect();
    assert_eq!(sent.len(), 1, "{:?}", director.drops());
    sent.remove(0)
}

/// The connections that live throughout: TCP and UDP, with the server that each has.
struct Lives(Vec<(bool, String, SocketAddr)>);

impl Lives {
    fn begin(director: &mut TestDirector) -> Self {
        let mut lives = Vec::new();
        for number in 0..LIVE {
            let client = format!("198.18.7.{}:{}", number + 1, 4000 + number);
            director
                .receive(OUT, &PacketBuilder::tcp(&client, "192.0.2.100:80").flags(SYN).build());
            let server = ends(&director.sent_one().octets).1;
            let reply = PacketBuilder::tcp(&server.to_string(), &client).from_server();
            director.receive(IN, &reply.flags(SYN | ACK).build());
            director
                .receive(OUT, &PacketBuilder::tcp(&client, "192.0.2.100:80").flags(ACK).build());
            director.take_sent();
            lives.push((true, client.clone(), server));
            director.receive(OUT, &PacketBuilder::udp(&client, "192.0.2.100:53").build());
            let server = ends(&director.sent_one().octets).1;
            lives.push((false, client, server));
        }
        Self(lives)
    }

    /// A packet each way of one of them reaches its end.
    fn go_on(&self, director: &mut TestDirector, which: usize) {
        let (is_tcp, client, server) = &self.0[which % self.0.len()];
        let builder = |from: &str, to: &str| match is_tcp {
            true => PacketBuilder::tcp(from, to).flags(ACK),
            false => PacketBuilder::udp(from, to),
        };
        let vip = if *is_tcp { "192.0.2.100:80" } else { "192.0.2.100:53" };
        director.receive(OUT, &builder(client, vip).build());
        let sent = the_one(director);
        assert_eq!((sent.interface, ends(&sent.octets).1), (IN, *server), "{client} to {vip}");
        director.receive(IN, &builder(&server.to_string(), client).from_server().build());
        let sent = the_one(director);
        let source = ends(&sent.octets).0.to_string();
        assert_eq!((sent.interface, &*source), (OUT, vip), "the reply to {client}");
    }
}

/// 10,000 changes in all, over one to three workers. Connections of the services that change come
/// and go meanwhile, and packets of all the others go on: none is lost, and none goes elsewhere.
#[test]
fn no_packet_of_a_connection_is_lost_that_no_change_names() {
    let changes = (any_other(), any::<bool>(), any::<u16>());
    let strategy = prop::collection::vec(changes, 1000..=1000);
    let mut runner =
        TestRunner::new(Config { cases: 10, max_shrink_iters: 64, ..Config::default() });
    let result = runner.run(&(1_u16..4, strategy), |(workers, changes)| {
        let mut director = Setup::with_services(KEPT).workers(workers).start();
        let lives = Lives::begin(&mut director);
        let mut others: Vec<Option<Other>> = vec![None; 4];
        let (mut drawn, mut again) = (HashSet::new(), 0);
        for (turn, (other, stays, client)) in changes.into_iter().enumerate() {
            let place = usize::from(other.place);
            let port = 9000 + other.place;
            others[place] = stays.then_some(other);
            director.install(&format!("{TOPOLOGY}{}", text(&others)));
            let client = format!("203.0.113.{}:{}", client % 200 + 10, 1024 + client / 2);
            again += u64::from(!drawn.insert(client.clone()));
            let vip = format!("192.0.2.100:{port}");
            director.receive(OUT, &PacketBuilder::tcp(&client, &vip).flags(SYN).build());
            director.take_sent();
            lives.go_on(&mut director, turn * 7);
            lives.go_on(&mut director, turn * 7 + 3);
            if turn % 50 == 0 {
                director.advance(400);
                director.take_sent();
            }
        }
        (0..lives.0.len()).for_each(|which| lives.go_on(&mut director, which));
        director.check_books();
        // What is dropped are new connections for which there is nobody: no service, no server, or
        // one that the link does not know, or that has this client already by another service.
        let named = [
            DropReason::NoService,
            DropReason::NoServer,
            DropReason::ServerRemoved,
            DropReason::NeighborQueueFull,
            DropReason::ReplyTupleTaken,
        ];
        let all: u64 = director.drops().values().sum();
        let expected: u64 = named.iter().map(|reason| director.dropped(*reason)).sum();
        prop_assert_eq!(all, expected, "{:?}", director.drops());
        prop_assert!(director.dropped(DropReason::ReplyTupleTaken) <= again);
        Ok(())
    });
    result.unwrap();
}
