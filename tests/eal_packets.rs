//! Packet buffers, pools and rings on a real EAL: nothing leaks, nothing is freed twice.
#![cfg(feature = "dpdk")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

/// Packets that go from thread to thread.
const PACKETS: u32 = 20_000;

#[path = "support/eal.rs"]
mod eal;

use eal::{in_child, numbered, numbers, pool, start};
use pointsman::dpdk::burst::{self, BURST, Burst};
use pointsman::dpdk::error::DpdkError;
use pointsman::dpdk::mempool::Mempool;
use pointsman::dpdk::ring::ring;
use pointsman::ids::{PortId, VlanId};

#[test]
fn a_pool_is_whole_after_every_way_to_free() {
    in_child("a_pool_is_whole_after_every_way_to_free", || {
        let eal = start([]);
        let pool = pool(&eal, "p");
        assert_eq!((pool.capacity(), pool.in_use()), (2047, 0));
        let one = pool.alloc().unwrap();
        assert_eq!(pool.in_use(), 1);
        drop(one);
        assert_eq!(pool.in_use(), 0);

        let mut burst = Burst::new();
        assert!(pool.alloc_bulk(&mut burst, 40));
        assert!(!pool.alloc_bulk(&mut burst, 25), "the burst has room for 24");
        assert_eq!((burst.len(), pool.in_use()), (40, 40));
        assert!(pool.alloc_bulk(&mut burst, 24));
        burst.remove(7);
        burst.truncate(50);
        assert_eq!(pool.in_use(), 50);
        burst::free_all(&mut burst);
        assert_eq!((burst.len(), pool.in_use()), (0, 0));
        burst::free_all(&mut burst);

        drop(numbered(&pool, 0..10));
        assert_eq!(pool.in_use(), 0);
    });
}

#[test]
fn an_exhausted_pool_gives_none_and_recovers() {
    in_child("an_exhausted_pool_gives_none_and_recovers", || {
        let eal = start([]);
        let pool = Mempool::create(&eal, "small", 100, 256, 0, None).unwrap();
        let all: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
        assert_eq!((all.len(), pool.in_use()), (100, 100));
        let mut burst = Burst::new();
        assert!(!pool.alloc_bulk(&mut burst, 1));
        assert!(burst.is_empty());
        drop(all);
        assert!(pool.alloc_bulk(&mut burst, 64));
        drop(burst);
        assert_eq!(pool.in_use(), 0);
    });
}

#[test]
fn a_packet_grows_and_shrinks_within_its_buffer() {
    in_child("a_packet_grows_and_shrinks_within_its_buffer", || {
        let eal = start([]);
        let pool = Mempool::create(&eal, "p", 64, 256, 0, None).unwrap();
        let mut packet = pool.alloc().unwrap();
        assert!(packet.is_empty() && packet.is_contiguous());
        assert_eq!((packet.headroom(), packet.tailroom(), packet.segments()), (128, 256, 1));
        packet.append(100).unwrap().fill(7);
        assert_eq!((packet.len(), packet.octets()), (100, &[7; 100][..]));

        assert!(packet.append(157).is_none(), "one octet too many");
        assert!(packet.append(usize::MAX).is_none());
        assert!(packet.set_len(120));
        assert_eq!(&packet.octets()[100..], &[0; 20], "new octets are zero");
        assert!(packet.set_len(60));
        assert!(!packet.set_len(257));
        assert!(!packet.set_len(1 << 40));
        assert_eq!(packet.len(), 60);
        packet.truncate(1000);
        assert_eq!(packet.len(), 60);
        packet.truncate(50);
        assert_eq!(packet.len(), 50);

        packet.prepend(14).unwrap().fill(1);
        assert_eq!((packet.len(), packet.headroom()), (64, 114));
        assert_eq!((packet.octets()[13], packet.octets()[14]), (1, 7));
        assert!(packet.prepend(115).is_none());
        assert!(packet.prepend(usize::MAX).is_none());
        assert!(packet.adj(14));
        assert!(!packet.adj(51) && !packet.adj(70_000));
        assert_eq!((packet.len(), packet.octets()[0]), (50, 7));
        assert!(packet.adj(50));
        assert!(packet.is_empty());

        packet.set_port(PortId(3));
        packet.set_vlan(VlanId(7));
        assert_eq!((packet.port(), packet.rss_hash()), (PortId(3), None));

        assert_eq!((packet.len(), packet.vlan()), (0, VlanId(7)));
        assert!(packet.set_len(60));
        drop(packet);
        assert_eq!(pool.in_use(), 0);
    });
}

#[test]
fn a_full_ring_leaves_the_rest_in_order() {
    in_child("a_full_ring_leaves_the_rest_in_order", || {
        let eal = start([]);
        let pool = pool(&eal, "p");
        let (mut producer, mut consumer) = ring(&eal, "r", 100, None).unwrap();
        let mut burst = numbered(&pool, 0..64);
        assert_eq!(producer.push_burst(&mut burst), 64);
        assert!(burst.is_empty());
        let mut burst = numbered(&pool, 64..128);
        assert_eq!(producer.push_burst(&mut burst), 36);
        assert_eq!(numbers(&burst), (100..128).collect::<Vec<_>>());
        assert_eq!(producer.push_burst(&mut burst), 0);
        assert_eq!((burst.len(), producer.len(), consumer.len()), (28, 100, 100));

        let mut out = numbered(&pool, 900..910);
        assert_eq!(consumer.pop_burst(&mut out), BURST - 10);
        assert_eq!(numbers(&out)[10..], (0..54).collect::<Vec<_>>());
        assert_eq!(consumer.pop_burst(&mut out), 0, "the burst is full");
        drop((out, burst));
        assert_eq!(pool.in_use(), 46);
        drop(producer);
        assert_eq!(pool.in_use(), 46, "the consumer can still take them");
        drop(consumer);
        assert_eq!(pool.in_use(), 0, "the last end frees what is inside");
    });
}

#[test]
fn rings_hand_packets_between_threads_in_order() {
    in_child("rings_hand_packets_between_threads_in_order", || {
        let eal = start([]);
        let pool = Mempool::create(&eal, "p", 2047, 2048, 64, None).unwrap();
        let (mut producer, mut consumer) = ring(&eal, "r", 256, None).unwrap();
        let workers = eal.worker_lcores();
        let source = pool.clone();
        let push = eal.launch(workers[0], move || {
            let (mut next, mut burst) = (0, Burst::new());
            while next < PACKETS || !burst.is_empty() {
                // Only a burst that went in whole is followed by the next one.
                let fresh = u32::from(burst.is_empty()) * 32;
                burst.extend(numbered(&source, next..next + fresh));
                next += fresh;
                producer.push_burst(&mut burst);
                std::thread::yield_now();
            }
        });
        let pop = eal.launch(workers[1], move || {
            let mut seen = Vec::new();
            while seen.len() < PACKETS as usize {
                let mut burst = Burst::new();
                consumer.pop_burst(&mut burst);
                seen.extend(numbers(&burst));
                std::thread::yield_now();
            }
            seen
        });
        push.unwrap().join().unwrap();
        assert_eq!(pop.unwrap().join().unwrap(), (0..PACKETS).collect::<Vec<_>>());
        assert_eq!(pool.in_use(), 0);
    });
}

#[test]
fn wrong_sizes_and_names_are_refused_with_words() {
    in_child("wrong_sizes_and_names_are_refused_with_words", || {
        let eal = start([]);
        let long = "x".repeat(40);
        assert!(matches!(ring(&eal, &long, 8, None), Err(DpdkError::BadName(_))));
        assert!(matches!(ring(&eal, "a\0b", 8, None), Err(DpdkError::BadName(_))));
        assert!(matches!(ring(&eal, "r", 0, None), Err(DpdkError::OutOfRange { .. })));
        assert!(matches!(
            Mempool::create(&eal, "p", 64, 65_500, 0, None),
            Err(DpdkError::OutOfRange { max: 65_407, .. })
        ));
        let first = pool(&eal, "twice");
        let error = Mempool::create(&eal, "twice", 64, 256, 0, None).unwrap_err().to_string();
        assert!(error.contains("twice") && error.contains("exists"), "{error}");
        let error = Mempool::create(&eal, "huge", 10_000_000, 2048, 0, None).unwrap_err();
        assert!(error.to_string().contains("huge of 10000000 mbufs"), "{error}");
        assert_eq!(first.in_use(), 0);
    });
}
