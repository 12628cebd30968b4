//! dh, sh, mh and maglev: who moves when servers go, and whether weights are honoured.

use super::*;
use crate::service::scheduler::client_hash::{added, folded, multiplicative, siphash};

const CLIENTS: u32 = 200_000;

fn client(number: u32) -> V4 {
    let [_, b, c, d] = number.wrapping_mul(0x9e37_79b1).to_be_bytes();
    [100, b, c, d]
}

fn table_of(kind: SchedulerKind, servers: &[(u8, u32)]) -> ServiceTable {
    let servers = servers.iter().map(|(last, weight)| server(*last, *weight)).collect();
    let port = SchedulerFlags { port: true, fallback: false };
    compile(&service(kind, port, servers), &mut SlotRegistry::new(256))
}

/// Clients of the servers that stay which move when one of `servers` goes, in parts of all
/// clients; in the mean over some servers that go.
fn disruption(kind: SchedulerKind, servers: u8) -> f64 {
    let all: Vec<_> = (1..=servers).map(|last| (last, 1)).collect();
    let loads = ServerLoads::new(256);
    let before = table_of(kind, &all);
    let who = |table: &ServiceTable, number| {
        choice(found(table), &loads, client(number), u16::try_from(number % 60_000).unwrap())
            .unwrap()
    };
    let gone = [1, servers / 2, servers];
    let moved = gone.map(|gone| {
        let left: Vec<_> = all.iter().copied().filter(|(last, _)| *last != gone).collect();
        let after = table_of(kind, &left);
        let moves = |number: &u32| {
            let old = who(&before, *number);
            old != gone && old != who(&after, *number)
        };
        f64::from(u32::try_from((0..CLIENTS).filter(moves).count()).unwrap())
    });
    moved.iter().sum::<f64>() / f64::from(CLIENTS) / 3.0
}

/// The ideal is that nobody moves but the clients of the server that goes. docs/schedulers.md has
/// these figures.
#[test]
fn few_clients_of_the_servers_that_stay_move_when_one_of_them_goes() {
    for (kind, servers, at_most) in [
        (SchedulerKind::MaglevHashing, 10, 0.02),
        (SchedulerKind::MaglevHashing, 100, 0.04),
        (SchedulerKind::Maglev, 10, 0.005),
        (SchedulerKind::Maglev, 100, 0.01),
    ] {
        let moved = disruption(kind, servers);
        assert!(moved < at_most && moved > at_most / 4.0, "{kind}, one of {servers}: {moved}");
    }
    // What source hashing does, for comparison: nearly everybody moves.
    assert!(disruption(SchedulerKind::SourceHashing, 10) > 0.5);
}

#[test]
fn the_places_of_maglev_are_shared_by_weight() {
    let servers = [(1, 1), (2, 2), (3, 1000), (4, 0), (5, 2_147_483_647), (6, 1_073_741_823)];
    let weights = servers.map(|(_, weight)| weight);
    let table = table_of(SchedulerKind::Maglev, &servers);
    let mut expected = weights;
    expected.reverse();
    let mut got = [0_u32; 6];
    for place in maglev::places(found(&table).servers(), &expected) {
        got[usize::from(place)] += 1;
    }
    assert_eq!(got.iter().sum::<u32>(), 65_537);
    let total: f64 = expected.iter().map(|weight| f64::from(*weight)).sum();
    for (got, weight) in got.into_iter().zip(expected) {
        let share = f64::from(weight) / total * 65_537.0;
        assert!((f64::from(got) - share).abs() < 3.0, "{got} places, share {share}");
        assert_eq!(got > 0, weight > 0);
    }
}

#[test]
fn the_places_of_maglev_do_not_depend_on_the_order_of_the_servers() {
    let servers = [(1, 5), (2, 1), (3, 3), (4, 1)];
    let mut reversed = servers;
    reversed.reverse();
    let loads = ServerLoads::new(8);
    let [one, other] = [servers, reversed].map(|servers| table_of(SchedulerKind::Maglev, &servers));
    for number in 0..5000 {
        let [a, b] = [&one, &other].map(|table| choice(found(table), &loads, client(number), 1));
        assert_eq!(a, b);
    }
}

#[test]
fn a_quiesced_server_of_mh_keeps_its_places_and_with_fallback_its_clients_go_elsewhere() {
    let loads = ServerLoads::new(8);
    for fallback in [false, true] {
        let flags = SchedulerFlags { fallback, port: false };
        let mut slots = SlotRegistry::new(8);
        let mut web = service(
            SchedulerKind::MaglevHashing,
            flags,
            vec![server(11, 2), server(12, 2), server(13, 1)],
        );
        let before = compile(&web, &mut slots);
        web.servers[1].weight = 0;
        let after = compile(&web, &mut slots);
        for number in 0..2000 {
            let [old, new] =
                [&before, &after].map(|table| choice(found(table), &loads, client(number), 1));
            match (old, fallback) {
                (Some(12), false) => assert_eq!(new, None),
                (Some(12), true) => assert!(matches!(new, Some(11 | 13))),
                _ => assert_eq!(new, old),
            }
        }
    }
}

#[test]
fn addresses_of_ipv6_are_folded_as_ipvs_does() {
    let address: std::net::Ipv6Addr = "2001:db8:1::c612:105".parse().unwrap();
    let octets = address.octets();
    assert_eq!(folded(&octets), 0x2001_0db8 ^ 0x0001_0000 ^ 0xc612_0105);
    assert_eq!(folded(&[198, 18, 1, 5]), 0xc612_0105);
    assert_eq!(added(&[198, 18, 1, 5], U16::new(10)), 0xc612_010f);
}

#[test]
fn hashes_are_those_of_the_kernel() {
    // (value * 0x61c88647) mod 2^32 >> 24, by hand.
    assert_eq!(multiplicative(1), 0x61);
    assert_eq!(multiplicative(2), 0xc3);
    // The standard library's hasher is SipHash-1-3, with a key of 0.
    let standard = |value: u32| {
        let mut hasher = std::hash::DefaultHasher::new();
        std::hash::Hasher::write(&mut hasher, &value.to_le_bytes());
        u32::try_from(std::hash::Hasher::finish(&hasher) & u64::from(u32::MAX)).unwrap()
    };
    for value in [0, 1, 0xc612_0105, u32::MAX] {
        assert_eq!(siphash(value, 0), standard(value));
    }
}
