//! Starting and ending EAL, work on lcores, and every order of dropping things.
#![cfg(feature = "dpdk")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/eal.rs"]
mod eal;

use std::sync::{Arc, mpsc};

use eal::{in_child, numbered, plain_args, pool, run_port, start};
use pointsman::dpdk::eal::{Eal, EalArgs};
use pointsman::dpdk::eal_error::EalError;
use pointsman::dpdk::error::DpdkError;
use pointsman::dpdk::lcore::{self, LcoreId};
use pointsman::dpdk::ring::ring;
use pointsman::dpdk::tsc;

#[test]
fn a_bad_argument_is_refused_in_dpdks_words() {
    in_child("a_bad_argument_is_refused_in_dpdks_words", || {
        let error = Eal::init(&plain_args(["--no-such-flag"])).unwrap_err();
        assert!(matches!(error, EalError::BadArguments { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("unrecognized option '--no-such-flag'"), "{text}");
        assert!(!text.contains("Usage"), "{text}");
    });
}

#[test]
fn a_bad_value_is_refused_in_dpdks_words() {
    in_child("a_bad_value_is_refused_in_dpdks_words", || {
        let error = Eal::init(&EalArgs::new("x", ["--lcores=99999", "--no-huge"])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("lcores"), "{text}");
    });
}

#[test]
fn arguments_that_exclude_each_other_are_refused_in_dpdks_words() {
    in_child("arguments_that_exclude_each_other_are_refused_in_dpdks_words", || {
        let error = Eal::init(&plain_args(["--in-memory"])).unwrap_err();
        assert!(error.to_string().contains("not compatible with --in-memory"), "{error}");
    });
}

#[test]
fn a_vdev_without_a_driver_is_named() {
    in_child("a_vdev_without_a_driver_is_named", || {
        let error = Eal::init(&plain_args(["--vdev=net_nosuch0"])).unwrap_err();
        assert!(matches!(error, EalError::BadArguments { .. }), "{error:?}");
        assert!(error.to_string().contains("net_nosuch0"), "{error}");
    });
}

#[test]
fn missing_huge_pages_are_an_error_with_the_remedy() {
    in_child("missing_huge_pages_are_an_error_with_the_remedy", || {
        // More than any machine has, so it does not matter how many this one has reserved.
        let args = ["--in-memory", "--no-pci", "--no-telemetry", "-m", "200000000"];
        let error = Eal::init(&EalArgs::new("x", args)).unwrap_err();
        assert!(
            matches!(error, EalError::NoHugePages { .. } | EalError::NotEnoughMemory { .. }),
            "{error:?}"
        );
        let text = error.to_string();
        assert!(text.contains("huge pages") && text.contains("DPDK said"), "{text}");
    });
}

#[test]
fn too_much_memory_without_huge_pages_is_an_error_with_the_remedy() {
    in_child("too_much_memory_without_huge_pages_is_an_error_with_the_remedy", || {
        let args = ["--no-huge", "--no-shconf", "--no-pci", "--no-telemetry", "-m", "200000000"];
        let error = Eal::init(&EalArgs::new("x", args)).unwrap_err();
        assert!(matches!(error, EalError::NotEnoughMemory { .. }), "{error:?}");
        assert!(error.to_string().contains("lower `memory`"), "{error}");
    });
}

#[test]
fn a_second_eal_is_refused_even_after_the_first_ended() {
    in_child("a_second_eal_is_refused_even_after_the_first_ended", || {
        let eal = start([]);
        assert!(matches!(Eal::init(&plain_args([])), Err(EalError::AlreadyInitialised)));
        drop(eal);
        assert!(matches!(Eal::init(&plain_args([])), Err(EalError::AlreadyInitialised)));
    });
}

#[test]
fn a_zero_octet_is_refused_and_leaves_eal_startable() {
    in_child("a_zero_octet_is_refused_and_leaves_eal_startable", || {
        assert!(matches!(Eal::init(&plain_args(["a\0b"])), Err(EalError::ZeroOctet(_))));
        let eal = start([]);
        assert!(eal.version().starts_with("DPDK "));
        assert!(!eal.has_huge_pages());
        assert!(tsc::hz() > 1_000_000);
        let before = tsc::now();
        assert!(tsc::now() >= before);
    });
}

#[test]
fn the_caller_keeps_its_cpus() {
    in_child("the_caller_keeps_its_cpus", || {
        let before = core_affinity::get_core_ids().unwrap().len();
        let eal = start([]);
        assert_eq!(core_affinity::get_core_ids().unwrap().len(), before);
        assert_eq!(lcore::current(), None);
        assert_eq!(eal.main_lcore(), LcoreId(0));
        assert_eq!(eal.worker_lcores(), [LcoreId(1), LcoreId(2)]);
        let cpu = core_affinity::get_core_ids().unwrap()[0].id;
        assert_eq!(eal.lcore_cpu(LcoreId(1)).unwrap().index(), cpu);
        assert!(eal.lcore_cpu(LcoreId(1000)).is_none());
    });
}

#[test]
fn work_runs_on_its_lcore_and_gives_its_result() {
    in_child("work_runs_on_its_lcore_and_gives_its_result", || {
        let eal = start([]);
        for round in 0..20 {
            let handle = eal.launch(LcoreId(1), move || (lcore::current(), round)).unwrap();
            assert_eq!(handle.join().unwrap(), (Some(LcoreId(1)), round));
        }
        let (go, wait) = mpsc::channel::<()>();
        let busy = eal.launch(LcoreId(1), move || wait.recv()).unwrap();
        assert!(matches!(eal.launch(LcoreId(1), || ()), Err(DpdkError::LcoreBusy(1))));
        assert_eq!(eal.launch(LcoreId(2), || 5).unwrap().join().unwrap(), 5);
        go.send(()).unwrap();
        busy.join().unwrap().unwrap();
        for wrong in [0, 3, 5000] {
            let error = eal.launch(LcoreId(wrong), || ()).unwrap_err();
            assert!(matches!(error, DpdkError::NoSuchLcore { .. }), "{error}");
        }
    });
}

#[test]
fn a_panic_on_an_lcore_is_reported_and_the_lcore_goes_on() {
    in_child("a_panic_on_an_lcore_is_reported_and_the_lcore_goes_on", || {
        let eal = start([]);
        let pool = pool(&eal, "p");
        let packets = numbered(&pool, 0..8);
        let handle = eal.launch(LcoreId(1), move || {
            assert_eq!(packets.len(), 9, "nine were promised");
        });
        let error = handle.unwrap().join().unwrap_err();
        assert!(error.to_string().contains("nine were promised"), "{error}");
        assert_eq!(pool.in_use(), 0, "the packets were freed while unwinding");
        assert_eq!(eal.launch(LcoreId(1), || 1).unwrap().join().unwrap(), 1);
    });
}

#[test]
fn a_dropped_handle_waits_for_the_work() {
    in_child("a_dropped_handle_waits_for_the_work", || {
        let eal = start([]);
        let done = Arc::new(());
        let held = Arc::clone(&done);
        drop(eal.launch(LcoreId(1), move || {
            lcore::delay_us_sleep(50_000);
            drop(held);
        }));
        assert_eq!(Arc::strong_count(&done), 1);
    });
}

#[test]
fn packets_outlive_the_handles_of_pool_and_eal() {
    in_child("packets_outlive_the_handles_of_pool_and_eal", || {
        let eal = start([]);
        let pool = pool(&eal, "p");
        let mut packets = numbered(&pool, 0..10);
        drop(pool);
        drop(eal);
        packets[3].octets_mut().fill(9);
        assert_eq!(packets[3].octets(), [9; 60]);
        drop(packets);
    });
}

#[test]
fn a_pool_dropped_first_is_freed_when_its_packets_are_back() {
    in_child("a_pool_dropped_first_is_freed_when_its_packets_are_back", || {
        let eal = start([]);
        let first = pool(&eal, "p");
        let packets = numbered(&first, 0..10);
        drop(first);
        drop(packets);
        drop(eal);
    });
}

#[test]
fn every_order_of_dropping_ends_cleanly() {
    in_child("every_order_of_dropping_ends_cleanly", || {
        let eal = start([]);
        for order in 0..120 {
            let device = format!("net_ring_o{order}");
            eal.attach(&device).unwrap();
            let pool = pool(&eal, &format!("p{order}"));
            let watch = pool.clone();
            let mut running = run_port(&eal, &device, 1, &pool);
            let (mut producer, consumer) = ring(&eal, &format!("r{order}"), 64, None).unwrap();
            assert_eq!(producer.push_burst(&mut numbered(&pool, 0..30)), 30);
            assert_eq!(running.tx[0].tx_burst(&mut numbered(&pool, 0..20)), 20);
            assert_eq!(pool.in_use(), 50);
            let mut things: Vec<Box<dyn std::any::Any>> = vec![
                Box::new(running.port),
                Box::new((running.rx, running.tx)),
                Box::new(pool),
                Box::new(producer),
                Box::new(consumer),
            ];
            // The digits of `order` in the factorial number system choose one permutation each.
            let mut digits = order;
            while !things.is_empty() {
                let choices = things.len();
                drop(things.remove(digits % choices));
                digits /= choices;
            }
            assert_eq!(watch.in_use(), 0, "order {order}");
            assert!(eal.port_by_name(&device).is_none(), "the port is closed");
        }
        assert_eq!(Arc::strong_count(&eal), 1);
    });
}
