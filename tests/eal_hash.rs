//! DPDK's hash table on a real EAL, as the benchmark uses it.
#![cfg(feature = "dpdk")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "not every test needs all of the support")]

#[path = "support/eal.rs"]
mod eal;

use eal::{in_child, start};
use pointsman::dpdk::burst::BURST;
use pointsman::dpdk::hash::{HashTable, Key};

fn key(number: usize) -> Key {
    u128::try_from(number).unwrap().to_be_bytes()
}

#[test]
fn a_burst_finds_the_numbers_of_the_keys_that_are_there() {
    in_child("a_burst_finds_the_numbers_of_the_keys_that_are_there", || {
        let eal = start([]);
        let mut table = HashTable::create(&eal, "numbers", 1024).unwrap();
        for (number, place) in (0..).zip(0..BURST) {
            if place % 3 != 0 {
                table.insert(&key(place), 7 * number).unwrap();
            }
        }
        let keys = std::array::from_fn(key);
        let mut numbers = [0; BURST];
        let hits = table.find_burst(&keys, &mut numbers);
        for (place, number) in numbers.into_iter().enumerate() {
            let is_there = hits >> place & 1 == 1;
            assert_eq!(is_there, place % 3 != 0, "key {place}");
            assert!(!is_there || number as usize == 7 * place, "key {place}: {number}");
        }
    });
}

#[test]
fn a_table_that_is_full_says_so_and_gives_its_name_back() {
    in_child("a_table_that_is_full_says_so_and_gives_its_name_back", || {
        let eal = start([]);
        let mut table = HashTable::create(&eal, "small", 8).unwrap();
        let refused = (0..1000).find(|number| table.insert(&key(*number), 1).is_err()).unwrap();
        assert!((4..=64).contains(&refused), "{refused} fitted");
        drop(table);
        HashTable::create(&eal, "small", 8).unwrap();
    });
}
