//! Packets in several buffers on a real EAL, with and without VLAN tags: what `net_pcap` received
//! in chains leaves as what the same pipeline makes of the same frames in one piece.
#![cfg(feature = "dpdk")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

mod support;
#[path = "support/eal.rs"]
mod eal;

use std::path::Path;
use std::sync::Arc;

use eal::{Running, in_child, pool, run_port, start};
use pointsman::clock::Tick;
use pointsman::dataplane::frame::{FrameBurst, Outlet};
use pointsman::dataplane::mailbox::{Command, ControlMailbox};
use pointsman::dataplane::pipeline::{Origin, Pipeline};
use pointsman::dataplane::stats::{DropReason, WorkerStats};
use pointsman::dpdk::burst::Burst;
use pointsman::dpdk::mbuf::Mbuf;
use pointsman::dpdk::mempool::Mempool;
use pointsman::ids::{InterfaceId, PortId, VlanId, WorkerId};
use support::director::{Common, IN, OUT, Setup, TOPOLOGY};
use support::packet::{OUTSIDE, PacketBuilder, SERVER_SIDE, SYN, error, fragments, icmpv6};
use support::pcap::{self, Stamped};

/// Data room of the buffers that frames are received into.
const ROOM: u16 = 256;

const SERVICES: &str = r#"
[[service]]
name = "web"
listen = "tcp://192.0.2.100:80"
servers = [{ address = "10.0.0.11:8080" }]
[[service]]
name = "web6"
listen = "tcp://[2001:db8:1::100]:80"
servers = [{ address = "[fd00::11]:8080" }]
[[service]]
name = "dns"
listen = "udp://192.0.2.100:53"
servers = [{ address = "10.0.0.11:5353" }]
"#;

/// Two VLANs of one NIC, or the outside without a tag; the MTU inside.
fn setup(outside: VlanId, mtu: u16) -> Setup {
    let same = "[interface.inside]\n# On the same port.\nvlan = 20";
    let text = format!("[dpdk]\nmbuf_octets = 9728\n{TOPOLOGY}{SERVICES}")
        .replace("[interface.inside]", same)
        .replace("[interface.outside]", "[interface.outside]\nmtu = 9000")
        .replace("# inside mtu", &format!("mtu = {mtu}"));
    let mut setup = Setup::new(&text);
    setup.config.interfaces[0].vlan = outside;
    setup
}

fn tag(mut frame: Vec<u8>, vlan: VlanId) -> Vec<u8> {
    if vlan != VlanId::UNTAGGED {
        let [high, low] = vlan.0.to_be_bytes();
        frame.splice(12..12, [0x81, 0, high, low]);
    }
    frame
}

/// Frames of every kind, longer than one buffer or more, with the interface that each comes by.
fn frames() -> Vec<(InterfaceId, Vec<u8>)> {
    let (client, client6) = ("198.18.7.7:20000", "[2001:db8:ffff::7]:20000");
    let (web, web6, dns) = ("192.0.2.100:80", "[2001:db8:1::100]:80", "192.0.2.100:53");
    let body: Vec<u8> = (0..3000_u32).map(|i| (i * 7 % 251) as u8).collect();
    let mut ping = vec![128, 0, 0, 0, 1, 2, 3, 4];
    ping.extend(&body[..1000]);
    let mut all = Vec::new();
    let inside = |packet: PacketBuilder| packet.macs(SERVER_SIDE, OUTSIDE).build();
    for (service, server, client) in
        [(web, "10.0.0.11:8080", client), (web6, "[fd00::11]:8080", client6)]
    {
        all.push((OUT, PacketBuilder::tcp(client, service).flags(SYN).build()));
        let closed = service.replace(":80", ":81");
        for length in [190, 250, 1000, 1400, 3000] {
            let request = PacketBuilder::tcp(client, service).payload(&body[..length]);
            all.push((OUT, request.clone().build()));
            all.push((OUT, request.clone().may_be_split().build()));
            all.push((OUT, request.ttl(1).build()));
            let reply = PacketBuilder::tcp(server, client).payload(&body[..length]);
            all.push((IN, inside(reply.clone())));
            all.push((IN, inside(reply.ttl(1))));
            let refused = PacketBuilder::tcp(client, &closed).payload(&body[..length]);
            all.push((OUT, refused.build()));
        }
    }
    let whole = PacketBuilder::udp(client, dns).payload(&body).build();
    all.extend(fragments(&whole, 0x77, 1400).into_iter().map(|fragment| (OUT, fragment)));
    let link = ([2, 0, 0, 0, 0, 1], OUTSIDE);
    all.push((OUT, icmpv6("2001:db8:1::9", "2001:db8:1::1", 64, &ping, link)));
    all
}

/// What left, and what has to be discarded.
#[derive(Debug)]
struct Way {
    own: Mempool,
    sent: Vec<Mbuf>,
    stats: Arc<WorkerStats>,
}

impl Outlet<Mbuf> for Way {
    fn allocate(&mut self) -> Option<Mbuf> {
        self.own.alloc()
    }

    fn transmit(&mut self, _: InterfaceId, frame: Mbuf) {
        self.stats.transmitted.increment();
        self.sent.push(frame);
    }

    fn hand_over(&mut self, _: WorkerId, _: Mbuf) {
        panic!("there is one worker");
    }

    fn discard(&mut self, frame: Mbuf) {
        drop(frame);
    }
}

/// A worker on real packet buffers.
struct Director {
    pipeline: Pipeline<Mbuf>,
    way: Way,
    _mailbox: ControlMailbox,
}

impl Director {
    fn new(setup: &Setup, own: Mempool) -> Self {
        let (settings, mailbox) = Common::new(setup).settings(setup, 0);
        let mut way = Way { own, sent: Vec::new(), stats: Arc::clone(&settings.stats) };
        let mut pipeline = Pipeline::new(settings, setup.start).unwrap();
        for (place, interface) in (0..).zip(&setup.config.interfaces) {
            for (address, mac) in interface.neighbors.clone() {
                let interface = InterfaceId(place);
                let known =
                    Command::SetNeighbor { interface, address, mac: mac.0, permanent: true };
                mailbox.send(known).unwrap();
                pipeline.housekeep(setup.start, &mut way);
            }
        }
        Self { pipeline, way, _mailbox: mailbox }
    }

    fn receive(&mut self, frames: &mut FrameBurst<Mbuf>, now: Tick) {
        self.way.stats.received.add(frames.len() as u64);
        self.pipeline.process_burst(frames, Origin::Port, now, &mut self.way);
        assert_eq!(self.way.stats.imbalance(), 0);
    }

    fn drops(&self) -> Vec<(&'static str, u64)> {
        let counted = DropReason::ALL.iter().map(|r| (r.name(), self.way.stats.dropped.get(*r)));
        counted.filter(|(_, count)| *count > 0).collect()
    }
}

/// Receives all, processes it, sends what came of it; gives the segments that came.
fn replay(director: &mut Director, port: &mut Running, now: Tick) -> usize {
    let mut segments = 0;
    let mut frames = Burst::new();
    while port.rx[0].rx_burst(&mut frames) > 0 {
        segments += frames.iter().map(|frame| usize::from(frame.segments())).sum::<usize>();
        // As a driver may leave it.
        frames.iter_mut().for_each(|frame| frame.set_vlan(VlanId(20)));
        director.receive(&mut frames, now);
        for frame in director.way.sent.drain(..) {
            let mut one = Burst::new();
            one.push(frame);
            assert_eq!(port.tx[0].tx_burst(&mut one), 1);
        }
    }
    segments
}

/// The same frames through a director whose frames are in one piece, and through one with chains.
fn compare(outside: VlanId, mtu: u16, folder: &Path) {
    let setup = setup(outside, mtu);
    let tagged: Vec<_> = frames()
        .into_iter()
        .map(|(from, frame)| tag(frame, if from == IN { VlanId(20) } else { outside }))
        .collect();
    let mut model = setup.clone().start();
    for frame in &tagged {
        model.receive(OUT, frame);
    }
    let expected: Vec<_> = model.take_sent().into_iter().map(|sent| sent.octets).collect();
    assert!(expected.len() > tagged.len() * 2 / 3, "{:?}", model.drops());

    let (input, output) = (folder.join("in.pcap"), folder.join("out.pcap"));
    let stamped: Vec<_> = tagged.into_iter().map(|octets| Stamped { at_ms: 0, octets }).collect();
    pcap::write(&input, &stamped);
    let vdev = format!("--vdev=net_pcap0,rx_pcap={},tx_pcap={}", input.display(), output.display());
    let eal = start([vdev.as_str()]);
    let small = Mempool::create(&eal, "small", 2047, ROOM, 0, None).unwrap();
    let own = pool(&eal, "own");
    let mut port = run_port(&eal, "net_pcap0", 1, &small);
    assert_eq!(port.port.id(), PortId(0));
    let mut director = Director::new(&setup, own.clone());
    let segments = replay(&mut director, &mut port, setup.start);
    assert!(segments > 3 * stamped.len(), "{segments} segments");
    let drops: Vec<_> = model.drops().into_iter().collect();
    let found: Vec<_> = director.drops().into_iter().map(|(n, c)| (n.to_owned(), c)).collect();
    let sorted = |mut drops: Vec<(String, u64)>| {
        drops.sort();
        drops
    };
    assert_eq!(sorted(found), sorted(drops));
    drop((director, port));
    assert_eq!((small.in_use(), own.in_use()), (0, 0));
    let sent: Vec<_> = pcap::read(&output).into_iter().map(|frame| frame.octets).collect();
    assert_eq!(sent.len(), expected.len());
    for (number, (sent, expected)) in sent.iter().zip(&expected).enumerate() {
        assert_eq!(sent, expected, "frame {number}");
    }
}

#[test]
fn chains_between_two_vlans_leave_as_whole_packets_would() {
    in_child("chains_between_two_vlans_leave_as_whole_packets_would", || {
        compare(VlanId(10), 9000, tempfile::tempdir().unwrap().path());
    });
}

#[test]
fn chains_that_do_not_fit_the_next_link_are_split_or_answered_as_whole_packets() {
    in_child("chains_that_do_not_fit_the_next_link_are_split_or_answered_as_whole_packets", || {
        compare(VlanId::UNTAGGED, 1280, tempfile::tempdir().unwrap().path());
    });
}

/// A chain cannot be cut in place, so what follows the IP packet stays behind it.
#[test]
fn padding_of_a_chain_is_left_alone() {
    in_child("padding_of_a_chain_is_left_alone", || {
        let folder = tempfile::tempdir().unwrap();
        let setup = setup(VlanId(10), 9000);
        let request = PacketBuilder::udp("198.18.7.7:20000", "192.0.2.100:53").payload(&[7; 500]);
        let frame = tag(request.build(), VlanId(10));
        let mut model = setup.clone().start();
        let mut expected = model.receive(OUT, &frame).sent_one().octets;
        expected.extend([0xa5; 30]);
        let octets = [&frame[..], &[0xa5; 30]].concat();
        let (input, output) = (folder.path().join("in.pcap"), folder.path().join("out.pcap"));
        pcap::write(&input, &[Stamped { at_ms: 0, octets }]);
        let vdev =
            format!("--vdev=net_pcap0,rx_pcap={},tx_pcap={}", input.display(), output.display());
        let eal = start([vdev.as_str()]);
        let small = Mempool::create(&eal, "small", 255, ROOM, 0, None).unwrap();
        let mut port = run_port(&eal, "net_pcap0", 1, &small);
        let mut director = Director::new(&setup, pool(&eal, "own"));
        assert!(replay(&mut director, &mut port, setup.start) > 1);
        drop((director, port));
        assert_eq!(pcap::read(&output)[0].octets, expected);
    });
}

/// A limit of what is there: the message of an error must lie in one buffer.
#[test]
fn an_icmp_error_in_several_buffers_is_dropped_with_a_reason() {
    in_child("an_icmp_error_in_several_buffers_is_dropped_with_a_reason", || {
        let folder = tempfile::tempdir().unwrap();
        let setup = setup(VlanId(10), 9000);
        let about = PacketBuilder::udp("192.0.2.100:53", "198.18.7.7:20000").payload(&[7; 400]);
        let octets = tag(error("198.18.0.9", &about.build(), OUT, 1400), VlanId(10));
        assert!(octets.len() > ROOM.into());
        let input = folder.path().join("in.pcap");
        pcap::write(&input, &[Stamped { at_ms: 0, octets }]);
        let eal = start([format!("--vdev=net_pcap0,rx_pcap={}", input.display()).as_str()]);
        let small = Mempool::create(&eal, "small", 255, ROOM, 0, None).unwrap();
        let mut port = run_port(&eal, "net_pcap0", 1, &small);
        let mut director = Director::new(&setup, pool(&eal, "own"));
        replay(&mut director, &mut port, setup.start);
        assert_eq!(director.drops(), [("truncated", 1)]);
    });
}

#[test]
fn a_packet_without_room_for_a_tag_is_dropped_with_a_reason() {
    in_child("a_packet_without_room_for_a_tag_is_dropped_with_a_reason", || {
        let eal = start([]);
        let own = pool(&eal, "own");
        let setup = setup(VlanId::UNTAGGED, 9000);
        let mut director = Director::new(&setup, own.clone());
        for (headroom, sent) in [(0, 0), (3, 0), (4, 1), (100, 2)] {
            let request = PacketBuilder::udp("198.18.7.7:20000", "192.0.2.100:53");
            let octets = request.payload(&[7; 200]).build();
            let mut packet = own.alloc().unwrap();
            let front = packet.headroom() - headroom;
            packet.prepend(front).unwrap();
            packet.append(octets.len() - front).unwrap();
            packet.octets_mut().copy_from_slice(&octets);
            assert_eq!((packet.headroom(), packet.len()), (headroom, octets.len()));
            packet.set_port(PortId(0));
            let mut frames = Burst::new();
            frames.push(packet);
            director.receive(&mut frames, setup.start);
            assert_eq!(director.way.sent.len(), sent, "{headroom} octets");
        }
        assert_eq!(director.drops(), [("no_headroom", 2)]);
        drop(director);
        assert_eq!(own.in_use(), 0);
    });
}
