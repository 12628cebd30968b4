//! The table that all workers share.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::clock::Tick;
use crate::dataplane::helper::expectation::{
    ControlNumber, Expectations, Expected, LIFETIME_MS, Opener, Refused,
};
use crate::ids::{ServerSlot, ServiceId};

const SECRET: [u64; 4] = [3, 5, 7, 11];

fn passive(client: &str, vip: &str, server: &str, control: u32) -> Expected {
    Expected {
        opener: Opener::Client,
        source: client.parse().unwrap(),
        destination: vip.parse().unwrap(),
        other: server.parse().unwrap(),
        service: ServiceId(3),
        slot: ServerSlot(65_000),
        control: ControlNumber(control),
    }
}

fn endpoint(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn what_is_expected_comes_once() {
    for (client, vip, server) in [
        ("198.18.9.9", "192.0.2.100:51210", "10.0.0.11:51210"),
        ("2001:db8::9", "[2001:db8:1::100]:65535", "[fd00::11]:1"),
    ] {
        let table = Expectations::new(64, 8, SECRET);
        let expected = passive(client, vip, server, 5);
        table.expect(expected, Tick(0)).unwrap();
        let from = client.parse().unwrap();
        assert!(table.claim(endpoint("[::1]:1").ip(), endpoint(vip), Tick(1)).is_none());
        assert!(table.claim(from, endpoint("192.0.2.100:51211"), Tick(1)).is_none());
        let claim = table.claim(from, endpoint(vip), Tick(1)).unwrap();
        assert_eq!(claim.expected, expected);
        assert!(table.claim(from, endpoint(vip), Tick(1)).is_none(), "another worker holds it");
        table.settle(claim, false);
        let claim = table.claim(from, endpoint(vip), Tick(1)).unwrap();
        table.settle(claim, true);
        assert!(table.is_empty() && table.has_data(ControlNumber(5)));
        assert!(table.claim(from, endpoint(vip), Tick(1)).is_none());
        table.data_ends(ControlNumber(5));
        assert!(!table.has_data(ControlNumber(5)));
    }
}

#[test]
fn one_place_is_for_one_server_until_it_expires() {
    let table = Expectations::new(64, 8, SECRET);
    let one = passive("198.18.9.9", "192.0.2.100:5000", "10.0.0.11:5000", 1);
    let other = Expected { other: endpoint("10.0.0.12:5000"), ..one };
    table.expect(one, Tick(0)).unwrap();
    assert_eq!(table.expect(other, Tick(1)), Err(Refused::Taken));
    table.expect(one, Tick(10)).unwrap();
    assert_eq!(table.len(), 1, "the same twice is one");
    assert_eq!(table.expect(other, Tick(LIFETIME_MS + 9)), Err(Refused::Taken));
    table.expect(other, Tick(LIFETIME_MS + 10)).unwrap();
    let claim = table.claim(one.source, one.destination, Tick(LIFETIME_MS + 11)).unwrap();
    assert_eq!(claim.expected, other);
    table.settle(claim, true);
}

#[test]
fn what_is_revoked_does_not_come_and_old_tickets_revoke_nothing() {
    let table = Expectations::new(64, 8, SECRET);
    let expected = passive("198.18.9.9", "192.0.2.100:5000", "10.0.0.11:5000", 1);
    let old = table.expect(expected, Tick(0)).unwrap();
    let new = table.expect(expected, Tick(1)).unwrap();
    table.revoke(old);
    assert_eq!(table.len(), 1);
    table.revoke(new);
    table.revoke(new);
    assert!(table.is_empty());
    assert!(table.claim(expected.source, expected.destination, Tick(2)).is_none());
}

#[test]
fn a_full_table_refuses_and_what_has_expired_makes_room() {
    let table = Expectations::new(16, 8, SECRET);
    let nth =
        |port: u16| passive("198.18.9.9", &format!("192.0.2.100:{port}"), "10.0.0.11:5000", 1);
    for port in 1..=16 {
        table.expect(nth(port), Tick(0)).unwrap();
    }
    assert_eq!(table.expect(nth(17), Tick(1)), Err(Refused::Full));
    table.expect(nth(17), Tick(LIFETIME_MS)).unwrap();
    assert_eq!(table.len(), 16);
    let mut cursor = 0;
    for _ in 0..4 {
        cursor = table.sweep(cursor, Tick(LIFETIME_MS));
    }
    assert_eq!(table.len(), 1, "the others are cleared away");
}

#[test]
fn workers_that_race_for_an_expectation_get_it_once() {
    let table = Expectations::new(64, 4, SECRET);
    let won = AtomicU32::new(0);
    let rounds = 2000;
    std::thread::scope(|scope| {
        for control in 0..4 {
            let (table, won) = (&table, &won);
            scope.spawn(move || {
                for round in 0..rounds {
                    let vip = format!("192.0.2.100:{}", 1000 + round);
                    let server = format!("10.0.0.1{control}:{}", 1000 + round);
                    let expected = passive("198.18.9.9", &vip, &server, control);
                    let ticket = table.expect(expected, Tick(0));
                    if let Some(claim) = table.claim(expected.source, expected.destination, Tick(1))
                    {
                        let ours = claim.expected.other.port() == 1000 + round;
                        assert!(ours && claim.expected.destination == expected.destination);
                        won.fetch_add(1, Relaxed);
                        table.settle(claim, true);
                    }
                    if let Ok(ticket) = ticket {
                        table.revoke(ticket);
                    }
                }
            });
        }
    });
    assert!(won.load(Relaxed) >= u32::from(rounds));
    assert!(table.is_empty(), "{}", table.len());
}
