//! Ports on virtual devices: exact counts, and pools that are whole afterwards.
#![cfg(feature = "dpdk")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/eal.rs"]
mod eal;

use std::path::Path;
use std::time::Duration;

use eal::{in_child, numbered, numbers, pool, run_port, start};
use pcap_file::pcap::{PcapPacket, PcapReader, PcapWriter};
use pointsman::dpdk::burst::{BURST, Burst, free_all};
use pointsman::dpdk::error::DpdkError;
use pointsman::dpdk::lcore;
use pointsman::dpdk::mempool::Mempool;
use pointsman::dpdk::port::{Port, PortSettings};

fn write_pcap(path: &Path, frames: u32, octets: usize) {
    let mut writer = PcapWriter::new(std::fs::File::create(path).unwrap()).unwrap();
    for number in 0..frames {
        let mut frame = vec![0xa5; octets];
        frame[..4].copy_from_slice(&number.to_be_bytes());
        let length = u32::try_from(octets).unwrap();
        writer.write_packet(&PcapPacket::new(Duration::ZERO, length, &frame)).unwrap();
    }
}

fn read_pcap(path: &Path) -> Vec<Vec<u8>> {
    let mut reader = PcapReader::new(std::fs::File::open(path).unwrap()).unwrap();
    let mut frames = Vec::new();
    while let Some(packet) = reader.next_packet() {
        frames.push(packet.unwrap().data.into_owned());
    }
    frames
}

#[test]
fn net_null_gives_and_takes_whole_bursts() {
    in_child("net_null_gives_and_takes_whole_bursts", || {
        let eal = start(["--vdev=net_null0,size=64"]);
        let pool = pool(&eal, "p");
        let mut port = run_port(&eal, "net_null0", 2, &pool);
        assert_eq!((port.granted.rx_queues, port.granted.tx_queues), (2, 2));
        assert!(port.granted.rss_types != 0, "two queues, and the device says it can");
        let reader = port.port.stats_reader();
        let mut burst = Burst::new();
        for _ in 0..100 {
            assert_eq!(port.rx[1].rx_burst(&mut burst), BURST);
            assert_eq!((burst[0].len(), burst[63].octets().len()), (64, 64));
            assert_eq!(port.rx[1].rx_burst(&mut burst), 0, "no room");
            burst.truncate(30);
            assert_eq!(port.rx[0].rx_burst(&mut burst), BURST - 30);
            assert_eq!(port.tx[0].tx_burst(&mut burst), BURST);
            assert!(burst.is_empty());
        }
        let stats = reader.read().unwrap();
        assert_eq!((stats.ipackets, stats.opackets), (100 * (64 + 34), 6400));
        assert_eq!(pool.in_use(), 0);
        let caps = port.port.capabilities();
        assert_eq!((caps.driver.as_str(), caps.max_rx_queues), ("net_null", 1024));
        drop(port);
        assert!(reader.read().is_none());
    });
}

#[test]
fn net_ring_loops_packets_and_leaves_what_does_not_fit() {
    in_child("net_ring_loops_packets_and_leaves_what_does_not_fit", || {
        let eal = start(["--vdev=net_ring0"]);
        let pool = pool(&eal, "p");
        let mut port = run_port(&eal, "net_ring0", 1, &pool);
        let mut sent = 0;
        let rest = loop {
            let mut burst = numbered(&pool, sent..sent + 64);
            sent += u32::try_from(port.tx[0].tx_burst(&mut burst)).unwrap();
            if !burst.is_empty() {
                break burst;
            }
        };
        assert_eq!(numbers(&rest)[0], sent, "the first that did not fit comes first");
        assert_eq!(pool.in_use(), sent + u32::try_from(rest.len()).unwrap());
        drop(rest);
        let mut burst = Burst::new();
        let mut seen = 0;
        while seen < sent / 2 {
            port.rx[0].rx_burst(&mut burst);
            for number in numbers(&burst) {
                assert_eq!(number, seen);
                seen += 1;
            }
            free_all(&mut burst);
        }
        assert_eq!(pool.in_use(), sent - seen);
        let stats = port.port.stats();
        assert_eq!((stats.opackets, stats.ipackets), (sent.into(), seen.into()));
        drop(port);
        assert_eq!(pool.in_use(), 0, "what waited in the ring is back");
    });
}

#[test]
fn net_pcap_receives_and_transmits_every_frame_once() {
    in_child("net_pcap_receives_and_transmits_every_frame_once", || {
        let folder = tempfile::tempdir().unwrap();
        let (input, output) = (folder.path().join("in.pcap"), folder.path().join("out.pcap"));
        write_pcap(&input, 1000, 98);
        let vdev =
            format!("--vdev=net_pcap0,rx_pcap={},tx_pcap={}", input.display(), output.display());
        let eal = start([vdev.as_str()]);
        let pool = pool(&eal, "p");
        let mut port = run_port(&eal, "net_pcap0", 4, &pool);
        assert_eq!((port.granted.rx_queues, port.granted.tx_queues), (1, 1), "fewer are granted");
        let mut burst = Burst::new();
        let mut seen = 0;
        while port.rx[0].rx_burst(&mut burst) > 0 {
            for packet in &mut burst {
                assert_eq!((packet.len(), packet.port()), (98, port.port.id()));
                packet.octets_mut()[97] = 0x5a;
            }
            seen += burst.len();
            while port.tx[0].tx_burst(&mut burst) > 0 {}
            assert!(burst.is_empty());
        }
        assert_eq!(seen, 1000);
        let stats = port.port.stats();
        assert_eq!((stats.ipackets, stats.opackets, stats.ibytes), (1000, 1000, 98_000));
        drop(port);
        assert_eq!(pool.in_use(), 0);
        let frames = read_pcap(&output);
        assert_eq!(frames.len(), 1000);
        for (number, frame) in (0u32..).zip(&frames) {
            assert_eq!(
                (&frame[..4], frame[96], frame[97]),
                (&number.to_be_bytes()[..], 0xa5, 0x5a)
            );
        }
    });
}

#[test]
fn a_frame_larger_than_a_buffer_comes_in_segments() {
    in_child("a_frame_larger_than_a_buffer_comes_in_segments", || {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("in.pcap");
        write_pcap(&input, 1, 1000);
        let eal = start([format!("--vdev=net_pcap0,rx_pcap={}", input.display()).as_str()]);
        let small = Mempool::create(&eal, "small", 255, 256, 0, None).unwrap();
        let mut port = run_port(&eal, "net_pcap0", 1, &small);
        let mut burst = Burst::new();
        assert_eq!(port.rx[0].rx_burst(&mut burst), 1);
        let packet = &mut burst[0];
        assert_eq!((packet.len(), packet.octets().len(), packet.segments()), (1000, 256, 3));
        assert!(!packet.is_contiguous());
        assert!(packet.append(1).is_none() && !packet.set_len(10));
        packet.truncate(10);
        assert_eq!((packet.len(), packet.tailroom()), (1000, 0));
        assert!(packet.adj(14) && packet.prepend(14).is_some());
        assert_eq!((packet.len(), small.in_use()), (1000, 3));
        drop(burst);
        assert_eq!(small.in_use(), 0, "all segments are back");
    });
}

#[test]
fn a_missing_device_is_named_with_those_that_exist() {
    in_child("a_missing_device_is_named_with_those_that_exist", || {
        let eal = start(["--vdev=net_null0", "--vdev=net_pcap0,rx_pcap=/no/such/file"]);
        let error = Port::open(&eal, "net_pcap0").unwrap_err().to_string();
        assert!(error.contains("net_pcap0") && error.contains("net_null0"), "{error}");
        let error = Port::open(&eal, "0000:99:00.0").unwrap_err().to_string();
        assert!(error.contains("0000:99:00.0"), "{error}");
        let error = eal.attach("net_pcap1,rx_pcap=/no/such/file").unwrap_err().to_string();
        assert!(error.contains("/no/such/file"), "{error}");
        assert!(eal.attach("no_such_driver0").is_err());
    });
}

#[test]
fn a_port_has_one_owner_and_each_queue_is_taken_once() {
    in_child("a_port_has_one_owner_and_each_queue_is_taken_once", || {
        let eal = start(["--vdev=net_null0"]);
        let pool = pool(&eal, "p");
        let mut port = Port::open(&eal, "net_null0").unwrap();
        assert!(matches!(Port::open(&eal, "net_null0"), Err(DpdkError::PortInUse(_))));
        assert!(matches!(port.start(), Err(DpdkError::NotConfigured(_))));
        let settings = PortSettings { mac: Some([2, 0, 0, 0, 0, 1]), ..PortSettings::default() };
        assert!(matches!(port.configure(&settings, &[]), Err(DpdkError::NoMempool(_))));
        port.configure(&settings, std::slice::from_ref(&pool)).unwrap();
        assert_eq!(port.take_queues().0.len(), 0, "it does not run yet");
        port.start().unwrap();
        let (rx, tx) = port.take_queues();
        assert_eq!((rx.len(), tx.len()), (1, 1));
        assert_eq!(port.take_queues().0.len(), 0, "they were taken");
        assert!(matches!(port.stop(), Err(DpdkError::QueuesInUse(_))));
        assert!(matches!(
            port.configure(&settings, std::slice::from_ref(&pool)),
            Err(DpdkError::QueuesInUse(_))
        ));
        drop((rx, tx));
        assert!(matches!(
            port.configure(&settings, std::slice::from_ref(&pool)),
            Err(DpdkError::Running(_))
        ));
        port.stop().unwrap();
        port.configure(&settings, std::slice::from_ref(&pool)).unwrap();
        port.start().unwrap();
        assert_eq!(port.mac(), [2, 0, 0, 0, 0, 1]);
        assert!(port.link().up);
        let (rx, tx) = port.take_queues();
        drop(port);
        assert!(matches!(Port::open(&eal, "net_null0"), Err(DpdkError::PortInUse(_))));
        drop((rx, tx));
        assert!(eal.port_by_name("net_null0").is_none(), "closed with its last queue");
    });
}

/// Set for the process that plays the memif server: the socket's path.
const MEMIF_SERVER: &str = "POINTSMAN_TEST_MEMIF_SERVER";

#[test]
fn memif_waits_for_its_peer_and_then_carries_packets() {
    let test = "memif_waits_for_its_peer_and_then_carries_packets";
    in_child(test, || match std::env::var(MEMIF_SERVER) {
        Ok(socket) => memif_server(&socket),
        Err(_) => memif_client(test),
    });
}

fn memif_device(name: &str, role: &str, socket: &str) -> String {
    format!("{name},role={role},id=0,socket={socket},socket-abstract=no")
}

fn memif_client(test: &str) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("memif.sock").display().to_string();
    let eal = start([]);
    let pool = pool(&eal, "p");
    eal.attach(&memif_device("net_memif0", "client", &socket)).unwrap();
    let mut client = Port::open(&eal, "net_memif0").unwrap();
    client.configure(&PortSettings::default(), std::slice::from_ref(&pool)).unwrap();
    let error = client.start().unwrap_err();
    assert!(matches!(error, DpdkError::NotReady { .. }) && error.is_temporary(), "{error}");

    let mut server = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(MEMIF_SERVER, &socket)
        .spawn()
        .unwrap();
    assert!(until(|| memif_connects(&mut client)), "the link comes up");
    let (mut rx, mut tx) = client.take_queues();
    let mut burst = numbered(&pool, 0..50);
    assert!(until(|| {
        tx[0].tx_burst(&mut burst);
        burst.is_empty()
    }));
    assert!(until(|| {
        rx[0].rx_burst(&mut burst);
        burst.len() == 50
    }));
    assert_eq!(numbers(&burst), (0..50).collect::<Vec<_>>());
    let ended = server.wait().unwrap();
    assert!(ended.success(), "the server ended with {ended}");
    drop((burst, rx, tx, client));
    assert_eq!(pool.in_use(), 0);
}

/// A client that finds the server's socket before the server has started is turned away for good:
/// it has to start again.
fn memif_connects(client: &mut Port) -> bool {
    if client.start().is_err() {
        return false;
    }
    let up = (0..20).any(|_| {
        lcore::delay_us_sleep(10_000);
        client.link().up
    });
    if !up {
        client.stop().unwrap();
    }
    up
}

/// Sends 50 packets back.
fn memif_server(socket: &str) {
    let eal = start([]);
    let pool = pool(&eal, "p");
    eal.attach(&memif_device("net_memif0", "server", socket)).unwrap();
    let mut port = run_port(&eal, "net_memif0", 1, &pool);
    let (mut burst, mut sent) = (Burst::new(), 0);
    assert!(until(|| {
        port.rx[0].rx_burst(&mut burst);
        sent += port.tx[0].tx_burst(&mut burst);
        sent == 50
    }));
    // The client takes them from this process's memory.
    lcore::delay_us_sleep(2_000_000);
    drop((port, burst));
    assert_eq!(pool.in_use(), 0);
}

/// Whether `done` comes true within ten seconds.
fn until(mut done: impl FnMut() -> bool) -> bool {
    (0..1000).any(|_| {
        done() || {
            lcore::delay_us_sleep(10_000);
            false
        }
    })
}
