//! Expiry: not before the deadline, and at most a quarter of a second after.

use proptest::prelude::*;

use super::{connection, expire, table_of};
use crate::clock::Tick;
use crate::wire::flow_key::Direction;

const DAY_MS: u32 = 24 * 3600 * 1000;
const LATEST_MS: u32 = 256;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_connection_expires_at_its_time(
        start in prop_oneof![any::<u32>(), (u32::MAX - 2000)..=u32::MAX],
        timeout_ms in prop_oneof![
            4 => 1000_u32..2_000_000,
            2 => 2_000_000_u32..DAY_MS,
            1 => DAY_MS..=24 * DAY_MS,
        ],
        quiet_ms in 0_u32..2_000_000,
    ) {
        let mut now = Tick(start);
        let mut table = table_of(4, now);
        let id = table.insert(&connection(1, now, timeout_ms)).unwrap();
        // A packet comes before the time is over.
        now = now.after(quiet_ms % timeout_ms);
        prop_assert!(expire(&mut table, now, u32::MAX).0.is_empty());
        table.get_mut(id).unwrap().last_seen = now.0;
        now = now.after(timeout_ms - 1);
        prop_assert!(expire(&mut table, now, u32::MAX).0.is_empty(), "before its time");
        now = now.after(1 + LATEST_MS);
        prop_assert!(expire(&mut table, now, u32::MAX).0.len() == 1, "{} ms late", LATEST_MS);
        prop_assert!(expire(&mut table, now, u32::MAX).0.is_empty());
        prop_assert_eq!(table.room().used, 0);
    }

    #[test]
    fn a_shortened_timeout_counts_from_then_on(
        start in any::<u32>(),
        long_ms in 100_000_u32..24 * DAY_MS,
        short_ms in 1_u32..100_000,
        quiet_ms in 0_u32..100_000,
    ) {
        let mut now = Tick(start);
        let mut table = table_of(4, now);
        let id = table.insert(&connection(1, now, long_ms)).unwrap();
        now = now.after(quiet_ms.min(long_ms - 1));
        prop_assert!(expire(&mut table, now, u32::MAX).0.is_empty());
        let record = table.get_mut(id).unwrap();
        record.last_seen = now.0;
        record.timeout_ms = short_ms;
        table.rearm(id);
        now = now.after(short_ms - 1);
        prop_assert!(expire(&mut table, now, u32::MAX).0.is_empty(), "before its time");
        now = now.after(1 + LATEST_MS);
        prop_assert!(expire(&mut table, now, u32::MAX).0.len() == 1, "late");
    }
}

#[test]
fn a_budget_bounds_what_one_round_looks_at_and_the_rest_follows() {
    let mut table = table_of(1000, Tick(0));
    for client in 0..1000 {
        table.insert(&connection(client, Tick(0), 1000)).unwrap();
    }
    let now = Tick(2000);
    for round in 0..10 {
        let (expired, left) = expire(&mut table, now, 100);
        assert_eq!((expired.len(), left), (100, 0), "round {round}");
    }
    assert_eq!(table.room().used, 0);
}

#[test]
fn a_budget_counts_connections_that_are_only_moved() {
    let mut table = table_of(100, Tick(0));
    for client in 0..100 {
        let id = table.insert(&connection(client, Tick(0), 1000)).unwrap();
        table.get_mut(id).unwrap().last_seen = 900;
    }
    for left in [0, 20] {
        let (expired, now_left) = expire(&mut table, Tick(1500), 60);
        assert_eq!((expired.len(), now_left), (0, left));
    }
    let (expired, _) = expire(&mut table, Tick(2200), 200);
    assert_eq!(expired.len(), 100);
}

#[test]
fn many_connections_expire_each_at_its_time_across_the_wrap_of_the_clock() {
    let start = Tick(u32::MAX - 40_000);
    let mut table = table_of(5000, start);
    for client in 0..5000_u32 {
        table.insert(&connection(client, start, 1000 + client * 17)).unwrap();
    }
    let mut gone = 0;
    for step in 1..=900 {
        let now = start.after(step * 100);
        for expired in expire(&mut table, now, u32::MAX).0 {
            let late = now.since(expired.deadline());
            assert!(late <= LATEST_MS + 100, "{late} ms after its time");
            let key = expired.key(Direction::Inbound);
            assert_eq!(table.find(table.hash(&key), &key), None);
            gone += 1;
        }
    }
    assert_eq!(gone, 5000);
}
