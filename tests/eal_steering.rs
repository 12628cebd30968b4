//! Steering on devices that every machine has: what is probed, set and refused, and what the
//! running director says of it.
#![cfg(feature = "dpdk")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and waits for another process"
)]

#[path = "support/eal.rs"]
mod eal;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use eal::{in_child, numbered, numbers, pool, start};
use pointsman::dataplane::endpoint_hash::EndpointHash;
use pointsman::dpdk::burst::Burst;
use pointsman::dpdk::error::DpdkError;
use pointsman::dpdk::flow_rule::RssRule;
use pointsman::dpdk::mempool::Mempool;
use pointsman::dpdk::port::{Granted, Port, PortSettings};
use pointsman::dpdk::rss::{HashedEnd, RssSettings, soft_hash};
use pointsman::ids::QueueId;
use pointsman::wire::toeplitz::{End, Key, KeyPair, RssInput, hash};
use pointsman::wire::{U16, address::Address};
use proptest::prelude::*;

fn any_key() -> impl Strategy<Value = Key> {
    (any::<[u8; 26]>(), any::<[u8; 26]>())
        .prop_map(|(start, end)| [start, end].concat().try_into().unwrap())
}

/// What a NIC hashes of one end when it takes the other for zeros.
fn zeroed<A: Address>(address: A, port: u16, end: End) -> Vec<u8> {
    let nobody = A::default();
    let (ends, ports) = match end {
        End::Source => ([address.octets(), nobody.octets()], [port, 0]),
        End::Destination => ([nobody.octets(), address.octets()], [0, port]),
    };
    [ends.concat(), ports.map(u16::to_be_bytes).concat()].concat()
}

proptest! {
    #[test]
    fn dpdk_hashes_any_input_as_we_do(
        key in any_key(), input in proptest::collection::vec(any::<[u8; 4]>(), 1..12),
    ) {
        let input = input.concat();
        prop_assert_eq!(soft_hash(&key, &input), hash(&key, &input));
    }

    #[test]
    fn dpdk_hashes_both_directions_of_a_flow_as_the_twin(
        outside in any_key(), rest in any_key(),
        v4 in any::<[u8; 4]>(), v6 in any::<[u8; 16]>(), port in any::<u16>(),
    ) {
        let keys = KeyPair::derive(outside, rest, RssInput::Zeroed);
        let key = keys.key(End::Source);
        let by_tables = EndpointHash::by_tables(key, RssInput::Zeroed, End::Source);
        let quickest = EndpointHash::new(key, RssInput::Zeroed, End::Source);
        let ends = [End::Source, End::Destination];
        for (twin, end) in [&by_tables, &quickest].into_iter().flat_map(|twin| ends.map(|end| (twin, end))) {
            let nic = soft_hash(&keys.key(end)[..40], &zeroed(v4, port, end));
            prop_assert_eq!(nic, twin.of(&v4, U16::new(port)));
            let nic = soft_hash(&keys.key(end)[..40], &zeroed(v6, port, end));
            prop_assert_eq!(nic, twin.of(&v6, U16::new(port)));
        }
    }
}

#[test]
fn dpdk_gives_the_published_hash() {
    // Microsoft, "Verifying the RSS Hash Calculation": the key's first 16 octets, and TCP from
    // 66.9.149.187:2794 to 161.142.100.80:1766.
    let key = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f,
        0xb0,
    ];
    let input = [66, 9, 149, 187, 161, 142, 100, 80, 0x0a, 0xea, 0x06, 0xe6];
    assert_eq!(soft_hash(&key, &input), 0x51cc_c178);
}

/// A port of two queues with a key for both, and the source alone asked for.
fn steered(port: &mut Port, pool: &Mempool) -> Granted {
    let key = vec![0x5a; usize::from(port.capabilities().hash_key_octets)];
    let settings = PortSettings {
        rx_queues: 2,
        tx_queues: 2,
        rss: RssSettings { key, only: Some(HashedEnd::Source), off: false },
        ..PortSettings::default()
    };
    let granted = port.configure(&settings, std::slice::from_ref(pool)).unwrap();
    port.start().unwrap();
    granted
}

fn rule(udp: bool) -> RssRule {
    RssRule {
        ipv6: false,
        udp,
        tagged: false,
        destination: Some([192, 0, 2, 100].into()),
        end: HashedEnd::Source,
        key: vec![1; 40],
        queues: vec![QueueId(0), QueueId(1)],
        priority: 0,
    }
}

#[test]
fn net_null_keeps_the_table_and_refuses_what_it_cannot() {
    in_child("net_null_keeps_the_table_and_refuses_what_it_cannot", || {
        let eal = start(["--vdev=net_null0,size=64"]);
        let pool = pool(&eal, "p");
        let mut port = Port::open(&eal, "net_null0").unwrap();
        // As `director::steering::plan` has it on record.
        let can = port.capabilities();
        assert_eq!((can.rss_types, can.reta_size, can.hash_key_octets), (0x2_003f_fffc, 128, 0));
        let granted = steered(&mut port, &pool);
        assert!(granted.rss_types != 0, "it spreads, as it says");
        assert!(!granted.hashes_only(HashedEnd::Source), "but not by one end");

        let size = port.capabilities().reta_size;
        let table: Vec<_> = (0..size).map(|entry| QueueId(entry / 3 % 2)).collect();
        port.set_rss_table(&table).unwrap();
        assert_eq!(port.rss_table().unwrap(), table);
        assert!(port.set_rss_table(&[QueueId(7); 128]).is_err(), "there are two queues");
        assert_eq!(port.rss_table().unwrap(), table, "nothing has changed");

        let error = port.add_rules(&[rule(false), rule(true)]).unwrap_err();
        assert!(matches!(error, DpdkError::Call { call: "rte_flow_validate", .. }), "{error}");
        assert!(error.to_string().contains("net_null0"), "{error}");

        let samples = port.sample_hashes();
        let (mut rx, tx) = port.take_queues();
        let mut burst = Burst::new();
        assert!(rx[1].rx_burst(&mut burst) > 0, "the port works on");
        assert!(samples.is_empty(), "net_null hashes nothing");
        drop((burst, rx, tx, port));
        assert_eq!(pool.in_use(), 0);
    });
}

/// A bond passes rules on to its members; without any it takes them and does nothing, which shows
/// that a rule's parts and its handle find their way there and back.
#[test]
fn rules_that_a_device_takes_are_its_own_until_the_port_stops() {
    in_child("rules_that_a_device_takes_are_its_own_until_the_port_stops", || {
        let eal = start(["--vdev=net_bonding0,mode=2"]);
        let mut port = Port::open(&eal, "net_bonding0").unwrap();
        let any = RssRule { destination: None, key: Vec::new(), queues: Vec::new(), ..rule(true) };
        let six = RssRule {
            ipv6: true,
            tagged: true,
            destination: Some([0x20; 16].into()),
            end: HashedEnd::Destination,
            ..rule(false)
        };
        port.add_rules(&[rule(false), any, six]).unwrap();
        port.stop().unwrap();
        port.add_rules(&[rule(true)]).unwrap();
    });
}

#[test]
fn net_ring_has_nothing_to_steer_with_and_says_so() {
    in_child("net_ring_has_nothing_to_steer_with_and_says_so", || {
        let eal = start(["--vdev=net_ring0"]);
        let pool = pool(&eal, "p");
        let mut port = Port::open(&eal, "net_ring0").unwrap();
        let granted = steered(&mut port, &pool);
        assert_eq!((granted.rss_types, granted.rss_key), (0, false));
        assert!(port.set_rss_table(&[QueueId(0); 64]).is_err());
        assert!(port.add_rules(&[rule(false)]).is_err());
        assert!(port.add_rules(&[]).is_ok());
        port.stop().unwrap();
    });
}

#[test]
fn the_first_hashes_of_a_queue_are_kept_for_the_check_and_no_more() {
    in_child("the_first_hashes_of_a_queue_are_kept_for_the_check_and_no_more", || {
        let eal = start(["--vdev=net_ring0"]);
        let pool = pool(&eal, "p");
        let mut port = Port::open(&eal, "net_ring0").unwrap();
        port.configure(&PortSettings::default(), std::slice::from_ref(&pool)).unwrap();
        port.start().unwrap();
        let (rx, mut tx) = port.take_queues();
        tx[0].tx_burst(&mut hashed(&pool, 0..5));
        drop((rx, tx));
        let samples = port.sample_hashes();
        assert_eq!(pool.in_use(), 0, "what came before is dropped");

        let (mut rx, mut tx) = port.take_queues();
        let mut burst = Burst::new();
        for first in [0, 10, 20, 30, 40, 50, 60, 70, 80, 90] {
            let mut packets = hashed(&pool, first..first + 3);
            packets.insert(0, numbered(&pool, 0..1).pop().unwrap());
            tx[0].tx_burst(&mut packets);
            rx[0].rx_burst(&mut burst);
        }
        assert_eq!(numbers(&burst).len(), 40, "every packet arrives");
        let taken: Vec<_> = std::iter::from_fn(|| samples.pop()).collect();
        let hashes: Vec<_> = taken.iter().map(|sample| sample.hash).collect();
        assert_eq!(hashes, [0, 10, 20, 30, 40, 50, 60, 70], "the first with a hash of each burst");
        for sample in &taken {
            assert_eq!((sample.queue, sample.octets().len()), (QueueId(0), 60));
            assert_eq!(&sample.octets()[..4], sample.hash.to_be_bytes());
        }
        drop((burst, rx, tx, port));
        assert_eq!(pool.in_use(), 0);
    });
}

/// Packets whose hash is their number.
fn hashed(pool: &Mempool, numbers: std::ops::Range<u32>) -> Burst {
    let mut burst = numbered(pool, numbers.clone());
    for (packet, number) in burst.iter_mut().zip(numbers) {
        packet.set_rss_hash(number);
    }
    burst
}

/// A running director, ended with the test.
struct Director(Child);

impl Drop for Director {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The interfaces' driver, steering and hash check, as a director with so many workers on `net_null`
/// outside and `net_pcap` inside shows them.
fn shown_by_a_director(directory: &Path, workers: usize) -> Vec<[String; 3]> {
    let cpu = core_affinity::get_core_ids().unwrap().first().unwrap().id;
    let config = format!(
        "[director]\nworkers = {:?}\ncontrol_cpu = {cpu}\nidle = \"adaptive\"\n\
         connections = 4096\nmetrics = \"off\"\nsocket = \"pointsman.sock\"\n\
         [dpdk]\nhugepages = false\nmemory = \"128MiB\"\nmbufs = 4095\n\
         rx_descriptors = 256\ntx_descriptors = 256\n\
         [interface.outside]\nrole = \"outside\"\ndevice = \"net_null,no-rx=1\"\n\
         addresses = [\"203.0.113.2/24\"]\n\
         [interface.inside]\nrole = \"inside\"\n\
         device = \"net_pcap,rx_pcap=in.pcap,tx_pcap=out.pcap\"\naddresses = [\"10.0.0.2/24\"]\n",
        vec![cpu; workers]
    );
    std::fs::write(directory.join("pointsman.toml"), config).unwrap();
    let empty = std::fs::File::create(directory.join("in.pcap")).unwrap();
    pcap_file::pcap::PcapWriter::new(empty).unwrap();
    let log = std::fs::File::create(directory.join("log")).unwrap();
    let pointsman = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
        command.current_dir(directory).env("XDG_RUNTIME_DIR", directory);
        command
    };
    let mut running = pointsman();
    running.args(["run", "--config", "pointsman.toml"]).stdout(Stdio::null()).stderr(log);
    let mut director = Director(running.spawn().unwrap());
    let log = || std::fs::read_to_string(directory.join("log")).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        assert!(director.0.try_wait().unwrap().is_none(), "ended: {}", log());
        let asked = pointsman().args(["status", "--json", "--socket", "pointsman.sock"]).output();
        let status = serde_json::from_slice::<serde_json::Value>(&asked.unwrap().stdout);
        if let Ok(status) = status {
            let word = |interface: &serde_json::Value, key| interface[key].as_str().unwrap().into();
            let row = |interface: &serde_json::Value| {
                ["driver", "steering", "hash_check"].map(|key| word(interface, key))
            };
            return status["interfaces"].as_array().unwrap().iter().map(row).collect();
        }
        assert!(Instant::now() < deadline, "no status: {}", log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_director_shows_how_each_port_is_steered() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(
        shown_by_a_director(directory.path(), 2),
        [["net_null", "rss", "none"], ["net_pcap", "software", "none"]]
    );
    assert_eq!(
        shown_by_a_director(directory.path(), 1),
        [["net_null", "one-worker", "none"], ["net_pcap", "one-worker", "none"]]
    );
}
