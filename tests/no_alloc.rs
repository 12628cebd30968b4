//! A warm worker allocates nothing, whatever comes: counted by the allocator itself.
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a counting allocator, and a test that fails by panicking"
)]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use pointsman::clock::Tick;
use pointsman::dataplane::frame::{BURST, BufferFrame, FrameBurst, Outlet};
use pointsman::dataplane::helper::Expectations;
use pointsman::dataplane::interface::{Interface, Interfaces, Sides};
use pointsman::dataplane::mailbox::{Command, ControlMailbox, mailbox};
use pointsman::dataplane::next_hop::RouteSpec;
use pointsman::dataplane::pipeline::{Origin, Pipeline, PipelineSettings};
use pointsman::dataplane::stats::{DropReason, WorkerStats};
use pointsman::dataplane::steering::Steering;
use pointsman::dpdk::memory::HugePages;
use pointsman::ids::{InterfaceId, PortId, TableVersion, VlanId, WorkerId};
use pointsman::service::{
    Helper, MarkRule, Masquerade, NonSyn, Persistence, Policy, PortRange, Protocol, RealServer,
    Removal, Rules, SchedulerFlags, SchedulerKind, ServerLoads, ServiceTable, SlotRegistry,
    VirtualService,
};
use support::packet::{
    ACK, CLIENT_SIDE, INSIDE, OUTSIDE, PacketBuilder, SERVER_SIDE, SYN, arp, echo, error,
    fragments, icmpv6,
};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // Absent while a thread ends.
    let _ = ALLOCATIONS.try_with(|allocations| allocations.set(allocations.get() + 1));
}

// SAFETY: every method hands on to the system's allocator and only counts beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // Giving back may take a lock as much as taking.
        count();
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps `realloc`'s contract.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Calls of the allocator by this thread during `work`.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.with(Cell::get);
    work();
    ALLOCATIONS.with(Cell::get) - before
}

/// Keeps every frame, in room that was made before.
struct Shelf {
    frames: Vec<BufferFrame>,
    transmitted: usize,
    handed: usize,
    discarded: usize,
    fresh: Vec<BufferFrame>,
}

impl Shelf {
    fn new() -> Self {
        let frame = || BufferFrame { octets: Vec::with_capacity(2048), ..BufferFrame::default() };
        Self {
            frames: Vec::with_capacity(100_000),
            transmitted: 0,
            handed: 0,
            discarded: 0,
            fresh: (0..100).map(|_| frame()).collect(),
        }
    }
}

impl Outlet<BufferFrame> for Shelf {
    fn allocate(&mut self) -> Option<BufferFrame> {
        self.fresh.pop()
    }

    fn transmit(&mut self, _: InterfaceId, frame: BufferFrame) {
        self.transmitted += 1;
        self.frames.push(frame);
    }

    fn hand_over(&mut self, _: WorkerId, frame: BufferFrame) {
        self.handed += 1;
        self.frames.push(frame);
    }

    fn discard(&mut self, frame: BufferFrame) {
        self.discarded += 1;
        self.frames.push(frame);
    }
}

fn service(listen: &str, server: &str) -> VirtualService {
    VirtualService {
        name: listen.into(),
        listen: listen.parse().unwrap(),
        scheduler: SchedulerKind::WeightedLeastConnections,
        scheduler_flags: SchedulerFlags::default(),
        removal: Removal::default(),
        servers: vec![RealServer::new(server.parse().unwrap(), 1)],
        non_syn: NonSyn::Drop,
        one_packet: false,
        helper: listen.ends_with(":21").then_some(Helper::Ftp),
        timeouts: None,
        persistence: None,
        connection_limit: None,
        is_synchronised: true,
    }
}

fn interface(id: u8, mac: [u8; 6], addresses: &[&str]) -> Interface {
    Interface {
        id: InterfaceId(id),
        port: PortId(id.into()),
        vlan: VlanId::UNTAGGED,
        mac,
        mtu: 1500,
        sides: if id == 0 { Sides::OUTSIDE } else { Sides::INSIDE },
        mss_clamp: None,
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        floating: Vec::new(),
        virtual_macs: None,
    }
}

fn services() -> Vec<VirtualService> {
    vec![
        service("tcp://192.0.2.100:80", "10.0.0.11:8080"),
        service("udp://192.0.2.100:53", "10.0.0.11:5353"),
        service("tcp://[2001:db8:1::100]:80", "[fd00::11]:8080"),
        service("udp://[2001:db8:1::100]:53", "[fd00::11]:5353"),
        service("udp://192.0.2.100:54", "10.0.0.77:5353"),
        VirtualService { one_packet: true, ..service("udp://192.0.2.100:55", "10.0.0.11:5355") },
        VirtualService {
            one_packet: true,
            ..service("udp://[2001:db8:1::100]:55", "[fd00::11]:5355")
        },
        service("tcp://192.0.2.100:21", "10.0.0.11:21"),
        service("sctp://192.0.2.100:2905", "10.0.0.11:3905"),
        service("sctp://[2001:db8:1::100]:2905", "[fd00::11]:3905"),
        persistent("tcp://192.0.2.100:8000-8099", "10.0.0.11:0"),
        persistent("udp://192.0.2.101:0", "10.0.0.11:0"),
        persistent("fwmark://7", "10.0.0.11:0"),
        persistent("fwmark6://7", "[fd00::11]:0"),
    ]
}

fn persistent(listen: &str, server: &str) -> VirtualService {
    let mut service = service(listen, server);
    service.persistence = Some(Persistence::of(Duration::from_secs(60), &service.listen));
    service.connection_limit = Some(1_000_000);
    service
}

fn marks() -> Vec<MarkRule> {
    let addresses = ["192.0.2.102/32", "2001:db8:1::102/128"].map(|net| net.parse().unwrap());
    vec![MarkRule {
        mark: 7.try_into().unwrap(),
        addresses: addresses.to_vec(),
        protocol: None,
        ports: vec![PortRange::one(80), PortRange::one(443)],
        sources: Vec::new(),
        interface: Some(InterfaceId(0)),
    }]
}

fn worker(workers: u16) -> (Pipeline<BufferFrame>, ControlMailbox, Arc<WorkerStats>) {
    worker_with(workers, &[], Policy::default())
}

fn worker_with(
    workers: u16,
    masquerades: &[Masquerade],
    policy: Policy,
) -> (Pipeline<BufferFrame>, ControlMailbox, Arc<WorkerStats>) {
    worker_in(workers, [VlanId::UNTAGGED; 2], masquerades, policy)
}

/// A worker whose interfaces are these VLANs.
fn worker_in(
    workers: u16,
    vlans: [VlanId; 2],
    masquerades: &[Masquerade],
    policy: Policy,
) -> (Pipeline<BufferFrame>, ControlMailbox, Arc<WorkerStats>) {
    let mut outside = interface(0, OUTSIDE, &["192.0.2.1/24", "2001:db8:1::1/64"]);
    let mut inside = interface(1, INSIDE, &["10.0.0.1/24", "fd00::1/64"]);
    [outside.vlan, inside.vlan] = vlans;
    let route = |to: &str, interface, via: Option<&str>| RouteSpec {
        to: to.parse().unwrap(),
        interface: InterfaceId(interface),
        via: via.map(|via| via.parse().unwrap()),
    };
    let services = services();
    assert_eq!(services[0].listen.protocol(), Some(Protocol::Tcp));
    let mut slots = SlotRegistry::new(16);
    let marks = marks();
    let rules = Rules { masquerades, marks: &marks, policy, ..Rules::of(&services) };
    let table = ServiceTable::compile(TableVersion(1), rules, &mut slots).unwrap();
    let stats = Arc::new(WorkerStats::new(16));
    let (inner, control) = mailbox();
    let settings = PipelineSettings {
        worker: WorkerId(0),
        interfaces: Arc::new(Interfaces::new(vec![outside, inside])),
        routes: vec![
            route("192.0.2.0/24", 0, None),
            route("10.0.0.0/24", 1, None),
            route("fd00::/64", 1, None),
            route("0.0.0.0/0", 0, Some("192.0.2.254")),
            route("::/0", 0, Some("2001:db8:1::254")),
        ],
        neighbors: 64,
        fragment_timeout_ms: 30_000,
        errors_per_second: 1000,
        connections: (10_000, 10_000),
        huge_pages: HugePages::Never,
        table_secret: [1, 2, 3, 4].map(|s: u64| s.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        port_seed: 0x9e37_79b9_7f4a_7c15,
        steering: Steering::new(workers, [5, 6, 7, 8].map(|s: u64| s.wrapping_mul(0x1234_5677))),
        services: Arc::new(table),
        loads: Arc::new(ServerLoads::new(16)),
        control_connections: 64,
        expectations: Arc::new(Expectations::for_workers(workers, [3; 4])),
        stats: Arc::clone(&stats),
        mailbox: inner,
        failover: None,
        handover: None,
    };
    let mut pipeline = Pipeline::new(settings, Tick(0)).unwrap();
    for (interface, address, mac) in [
        (0, "192.0.2.254", CLIENT_SIDE),
        (0, "2001:db8:1::254", CLIENT_SIDE),
        (1, "10.0.0.11", SERVER_SIDE),
        (1, "fd00::11", SERVER_SIDE),
    ] {
        let (interface, address) = (InterfaceId(interface), address.parse().unwrap());
        control.send(Command::SetNeighbor { interface, address, mac, permanent: true }).unwrap();
    }
    pipeline.housekeep(Tick(0), &mut Shelf::new());
    (pipeline, control, stats)
}

fn burst(input: u16, frames: impl Iterator<Item = Vec<u8>>) -> FrameBurst<BufferFrame> {
    frames
        .take(BURST)
        .map(|octets| BufferFrame { octets, input: PortId(input), ..BufferFrame::default() })
        .collect()
}

/// 64 packets of four kinds of flow, from clients beginning at `first`.
fn requests(first: u16, flags: u8) -> FrameBurst<BufferFrame> {
    let frame = move |number: u16| {
        let (v4, v6) = (format!("198.18.7.7:{number}"), format!("[2001:db8:ffff::7]:{number}"));
        let packet = match number % 4 {
            0 => PacketBuilder::tcp(&v4, "192.0.2.100:80").flags(flags),
            1 => PacketBuilder::udp(&v4, "192.0.2.100:53"),
            2 => PacketBuilder::tcp(&v6, "[2001:db8:1::100]:80").flags(flags),
            _ => PacketBuilder::udp(&v6, "[2001:db8:1::100]:53"),
        };
        packet.payload(b"some data").pad_to(100).build()
    };
    burst(0, (first..).map(frame))
}

fn replies(first: u16) -> FrameBurst<BufferFrame> {
    let frame = move |number: u16| {
        let (v4, v6) = (format!("198.18.7.7:{number}"), format!("[2001:db8:ffff::7]:{number}"));
        let packet = match number % 4 {
            0 => PacketBuilder::tcp("10.0.0.11:8080", &v4).flags(SYN | ACK),
            1 => PacketBuilder::udp("10.0.0.11:5353", &v4),
            2 => PacketBuilder::tcp("[fd00::11]:8080", &v6).flags(SYN | ACK),
            _ => PacketBuilder::udp("[fd00::11]:5353", &v6),
        };
        packet.from_server().build()
    };
    burst(1, (first..).map(frame))
}

/// Runs one burst: nothing may be allocated.
fn warm(
    pipeline: &mut Pipeline<BufferFrame>,
    mut frames: FrameBurst<BufferFrame>,
    (origin, now): (Origin, u32),
    shelf: &mut Shelf,
    what: &str,
) {
    assert_eq!(frames.len(), BURST);
    let count = allocations(|| pipeline.process_burst(&mut frames, origin, Tick(now), shelf));
    assert_eq!(count, 0, "{what}");
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(vec![1_u8; 100]))), 2);
}

#[test]
fn connections_begin_live_and_end_without_an_allocation() {
    let (mut pipeline, _control, stats) = worker(1);
    let mut shelf = Shelf::new();
    let port = |now| (Origin::Port, now);
    warm(&mut pipeline, requests(1000, SYN), port(10), &mut shelf, "new connections");
    assert_eq!((shelf.transmitted, pipeline.connections()), (64, (32, 32)));
    warm(&mut pipeline, replies(1000), port(20), &mut shelf, "replies");
    warm(&mut pipeline, requests(1000, ACK), port(30), &mut shelf, "hits");
    assert_eq!(shelf.transmitted, 192);
    warm(&mut pipeline, requests(3000, ACK), port(40), &mut shelf, "half of them dropped");
    assert_eq!(stats.dropped.get(DropReason::NoConnection), 32);
    for round in 0..200_u16 {
        let first = 10_000 + round * 64;
        warm(&mut pipeline, requests(first, SYN), port(50), &mut shelf, "many connections");
    }
    let mut now = 50;
    let mut expired = 0;
    let count = allocations(|| {
        while pipeline.connections() != (0, 0) && now < 2_000_000 {
            now += 100;
            pipeline.housekeep(Tick(now), &mut shelf);
            expired += 1;
        }
    });
    assert_eq!((count, pipeline.connections()), (0, (0, 0)), "expiry in {expired} rounds");
}

#[test]
fn associations_need_no_allocation() {
    let (mut pipeline, _control, stats) = worker(1);
    let mut shelf = Shelf::new();
    let packet = |number: u16, chunk: u8, is_reply: bool| {
        let (client, vip, server) = if number.is_multiple_of(2) {
            (format!("198.18.7.7:{number}"), "192.0.2.100:2905", "10.0.0.11:3905")
        } else {
            (format!("[2001:db8:ffff::7]:{number}"), "[2001:db8:1::100]:2905", "[fd00::11]:3905")
        };
        let packet = if is_reply {
            PacketBuilder::sctp(server, &client).from_server()
        } else {
            PacketBuilder::sctp(&client, vip)
        };
        packet.flags(chunk).payload(b"some data")
    };
    // INIT, INIT ACK, COOKIE ECHO, COOKIE ACK, DATA, SHUTDOWN, SHUTDOWN ACK, SHUTDOWN COMPLETE.
    for (chunk, is_reply) in [
        (1, false),
        (2, true),
        (10, false),
        (11, true),
        (0, true),
        (7, true),
        (8, false),
        (14, true),
    ] {
        let all = (1000..).map(|number| packet(number, chunk, is_reply).build());
        let frames = burst(u16::from(is_reply), all);
        warm(&mut pipeline, frames, (Origin::Port, 10), &mut shelf, &format!("chunk {chunk}"));
    }
    assert_eq!((shelf.transmitted, pipeline.connections()), (512, (32, 32)));
    let whole = packet(1000, 0, false).payload(&[1; 200]).build();
    let all = (0..).flat_map(|number| fragments(&whole, number, 64));
    warm(&mut pipeline, burst(0, all), (Origin::Port, 20), &mut shelf, "fragments");
    assert_eq!(stats.dropped.get(DropReason::SctpFragment), 64);
    let all = (1000..).map(|number| {
        let client = if number % 2 == 0 { "198.18.7.7" } else { "[2001:db8:ffff::7]" };
        let server = if number % 2 == 0 { "10.0.0.11:3905" } else { "[fd00::11]:3905" };
        let about = PacketBuilder::sctp(&format!("{client}:{number}"), server).build();
        error(if number % 2 == 0 { "10.0.0.9" } else { "fd00::9" }, &about, InterfaceId(1), 1400)
    });
    warm(&mut pipeline, burst(1, all), (Origin::Port, 30), &mut shelf, "errors passed on");
    assert_eq!(shelf.transmitted, 576);
}

#[test]
fn answers_and_drops_need_no_allocation() {
    let (mut pipeline, _control, stats) = worker(1);
    let mut shelf = Shelf::new();
    let who_has =
        arp(1, (CLIENT_SIDE, "192.0.2.9"), ([0; 6], "192.0.2.1"), (CLIENT_SIDE, [0xff; 6]));
    let mut solicitation = vec![135, 0, 0, 0, 0, 0, 0, 0];
    solicitation.extend("2001:db8:1::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
    solicitation.extend([1, 1, 2, 0, 0, 0, 0, 1]);
    let link = (CLIENT_SIDE, OUTSIDE);
    let local = [
        who_has.clone(),
        // As it is answered, it grows: the buffer has the room, like an mbuf.
        icmpv6("2001:db8:1::9", "2001:db8:1::1", 255, &solicitation, link),
        icmpv6("2001:db8:1::9", "2001:db8:1::1", 64, &[128, 0, 0, 0, 1, 2, 3, 4], link),
        who_has[..30].to_vec(),
        vec![0; 5],
        PacketBuilder::tcp("198.18.7.7:1", "192.0.2.100:81").flags(SYN).build(),
        PacketBuilder::tcp("198.18.7.7:1", "192.0.2.100:80").ttl(1).flags(SYN).build(),
        PacketBuilder::tcp("198.18.7.7:1", "192.0.2.66:80").flags(SYN).build(),
    ];
    let frames = |_: u32| burst(0, local.iter().cycle().cloned());
    warm(&mut pipeline, frames(0), (Origin::Port, 5), &mut shelf, "answers and drops");
    // A reset for the closed port and a Time Exceeded are among them.
    assert_eq!((shelf.transmitted, shelf.discarded), (40, 40));
    assert_eq!(stats.dropped.total(), 40);
}

#[test]
fn packets_wait_for_a_neighbor_without_an_allocation() {
    let (mut pipeline, control, stats) = worker(1);
    let mut shelf = Shelf::new();
    let frame =
        |port: u16| PacketBuilder::udp(&format!("198.18.7.7:{port}"), "192.0.2.100:54").build();
    let frames = burst(0, (1..).map(frame));
    warm(&mut pipeline, frames, (Origin::Port, 5), &mut shelf, "held");
    assert_eq!((stats.held.get(), shelf.transmitted), (64, 0));
    let (interface, address) = (InterfaceId(1), "10.0.0.77".parse().unwrap());
    let known = Command::SetNeighbor { interface, address, mac: SERVER_SIDE, permanent: false };
    let ask = Command::Solicit { interface, address, station: None, only_if_used: true };
    control.send(ask).unwrap();
    control.send(known).unwrap();
    let count = allocations(|| pipeline.housekeep(Tick(10), &mut shelf));
    assert_eq!((count, stats.held.get(), shelf.transmitted), (0, 0, 65));
}

#[test]
fn packets_change_hands_without_an_allocation() {
    let (mut pipeline, _control, _stats) = worker(4);
    let mut shelf = Shelf::new();
    warm(&mut pipeline, requests(1000, SYN), (Origin::Port, 5), &mut shelf, "handed over");
    assert!(shelf.handed > 30, "{}", shelf.handed);
    warm(&mut pipeline, requests(2000, SYN), (Origin::Worker, 6), &mut shelf, "taken over");
    assert!(shelf.transmitted >= 64);
}

#[test]
fn tags_are_taken_off_and_put_on_without_an_allocation() {
    let (mut pipeline, _control, stats) =
        worker_in(1, [VlanId(10), VlanId(20)], &[], Policy::default());
    let mut shelf = Shelf::new();
    let tagged = |mut frames: FrameBurst<BufferFrame>, vlan: u8| {
        for frame in &mut frames {
            frame.octets.splice(12..12, [0x81, 0, 0, vlan]);
        }
        frames
    };
    let port = |now| (Origin::Port, now);
    warm(&mut pipeline, tagged(requests(1000, SYN), 10), port(10), &mut shelf, "new connections");
    warm(&mut pipeline, tagged(replies(1000), 20), port(20), &mut shelf, "replies");
    warm(&mut pipeline, tagged(requests(1000, ACK), 10), port(30), &mut shelf, "hits");
    assert_eq!((shelf.transmitted, stats.transmitted.get()), (192, 0));
    assert!(shelf.frames.iter().all(|frame| frame.octets[12..14] == [0x81, 0]));
    warm(&mut pipeline, tagged(requests(1000, ACK), 20), port(40), &mut shelf, "others' tags");
    assert_eq!(stats.dropped.get(DropReason::UnknownVlan), 64);
    let refused = (2000..).map(|number: u16| {
        PacketBuilder::tcp(&format!("198.18.7.7:{number}"), "192.0.2.100:81").flags(SYN).build()
    });
    warm(&mut pipeline, tagged(burst(0, refused), 10), port(50), &mut shelf, "resets");
    assert_eq!((shelf.transmitted, stats.errors_sent.get()), (256, 64));
}

/// Two fragments each of datagrams from `first` on, the later one first.
fn reversed_fragments(first: u16) -> FrameBurst<BufferFrame> {
    let frames = move |number: u16| {
        let packet = match number % 2 {
            0 => PacketBuilder::udp("198.18.7.7:9", "192.0.2.100:53"),
            _ => PacketBuilder::udp("[2001:db8:ffff::7]:9", "[2001:db8:1::100]:53"),
        };
        let mut both = fragments(&packet.payload(&[3; 100]).build(), number, 64);
        both.reverse();
        both
    };
    burst(0, (first..first + 32).flat_map(frames))
}

#[test]
fn fragments_need_no_allocation() {
    let (mut pipeline, _control, stats) = worker(1);
    let mut shelf = Shelf::new();
    for round in 0..100 {
        let frames = reversed_fragments(round * 32);
        warm(&mut pipeline, frames, (Origin::Port, 10), &mut shelf, "whole datagrams");
    }
    assert_eq!((shelf.transmitted, stats.held.get()), (6400, 0));
    let without_first = |from: u16| {
        let all = (from..).step_by(32).flat_map(reversed_fragments);
        burst(0, all.map(|frame| frame.octets).step_by(2))
    };
    for round in 0..300 {
        let frames = without_first(round * 64);
        warm(&mut pipeline, frames, (Origin::Port, 20), &mut shelf, "a flood without first ones");
    }
    assert_eq!(stats.held.get(), 2048, "1024 of each family");
    let count = allocations(|| {
        for now in 0..400 {
            pipeline.housekeep(Tick(31_000 + now), &mut shelf);
        }
    });
    assert_eq!((count, stats.held.get()), (0, 0), "timeouts");
}

#[test]
fn icmp_errors_need_no_allocation() {
    let (mut pipeline, _control, _stats) = worker(1);
    let mut shelf = Shelf::new();
    warm(&mut pipeline, requests(1000, SYN), (Origin::Port, 10), &mut shelf, "new connections");
    let all = (1000..1064_u16).map(|number| {
        if number % 4 < 2 {
            let port = if number % 4 == 0 { 8080 } else { 5353 };
            let (client, server) = (format!("198.18.7.7:{number}"), format!("10.0.0.11:{port}"));
            let about = if number % 4 == 0 {
                PacketBuilder::tcp(&client, &server)
            } else {
                PacketBuilder::udp(&client, &server)
            };
            error("10.0.0.9", &about.build(), InterfaceId(1), 1400)
        } else {
            let client = format!("[2001:db8:ffff::7]:{number}");
            let about = if number % 4 == 2 {
                PacketBuilder::tcp(&client, "[fd00::11]:8080")
            } else {
                PacketBuilder::udp(&client, "[fd00::11]:5353")
            };
            error("fd00::9", &about.build(), InterfaceId(1), 1400)
        }
    });
    let frames = burst(1, all);
    warm(&mut pipeline, frames, (Origin::Port, 20), &mut shelf, "errors passed on");
    assert_eq!(shelf.transmitted, 128);
}

#[test]
fn packets_are_split_and_refused_without_an_allocation() {
    let (mut pipeline, _control, stats) = worker(1);
    let mut shelf = Shelf::new();
    let packet = |number: u16| {
        let client = format!("198.18.7.7:{number}");
        let packet = PacketBuilder::udp(&client, "192.0.2.100:53").payload(&[1; 1800]);
        if number.is_multiple_of(2) { packet.may_be_split().build() } else { packet.build() }
    };
    let frames = burst(
        0,
        (1000..1040).map(packet).chain((2000..2024_u16).map(|number| {
            PacketBuilder::tcp(&format!("198.18.7.7:{number}"), "192.0.2.100:81").flags(SYN).build()
        })),
    );
    warm(&mut pipeline, frames, (Origin::Port, 10), &mut shelf, "split and refused");
    assert_eq!((stats.consumed.get(), stats.errors_sent.get()), (20, 44));
    assert_eq!(shelf.transmitted, 84, "20 in two pieces each, 20 too big, 24 resets");
}

fn masquerades() -> [Masquerade; 1] {
    [Masquerade {
        sources: vec!["10.0.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()],
        addresses: vec!["192.0.2.100".parse().unwrap(), "2001:db8:1::100".parse().unwrap()],
        ports: 61_000..=61_001,
    }]
}

#[test]
fn inside_hosts_open_connections_without_an_allocation() {
    let (mut pipeline, _control, stats) = worker_with(1, &masquerades(), Policy::default());
    let mut shelf = Shelf::new();
    // TCP, UDP and echo, IPv4 and IPv6, the second and third time with another port, then none.
    for (host, what) in [(11, "kept ports"), (12, "others"), (13, "others"), (14, "exhausted")] {
        let frame = |number: u16| {
            let is_v6 = number % 2 == 1;
            let (from, to) = if is_v6 {
                (format!("fd00::{host}"), format!("2001:db8:ffff::{number:x}"))
            } else {
                (format!("10.0.0.{host}"), format!("198.18.7.{}", number - 999))
            };
            let ends = if is_v6 {
                (format!("[{from}]:40000"), format!("[{to}]:443"))
            } else {
                (format!("{from}:40000"), format!("{to}:443"))
            };
            match number % 6 {
                0 | 1 => PacketBuilder::tcp(&ends.0, &ends.1).flags(SYN).from_server().build(),
                2 | 3 => PacketBuilder::udp(&ends.0, &ends.1).from_server().build(),
                _ => echo(true, &from, &to, 40_000 + number, b"ping"),
            }
        };
        let frames = burst(1, (1000..).map(frame));
        warm(&mut pipeline, frames, (Origin::Port, 10), &mut shelf, what);
        if host == 11 {
            assert_eq!((shelf.transmitted, stats.masqueraded.get()), (64, 64));
            let answers = (1000..).map(|number: u16| {
                PacketBuilder::udp(&format!("198.18.7.{}:443", number - 999), "192.0.2.100:40000")
                    .build()
            });
            let answers = burst(0, answers);
            warm(&mut pipeline, answers, (Origin::Port, 10), &mut shelf, "answers");
        }
    }
    assert_eq!(stats.dropped.get(DropReason::PortsExhausted), 64);
    let mut now = 50;
    let count = allocations(|| {
        while pipeline.connections() != (0, 0) && now < 2_000_000 {
            now += 100;
            pipeline.housekeep(Tick(now), &mut shelf);
        }
    });
    assert_eq!((count, stats.masqueraded.get()), (0, 0));
}

#[test]
fn hairpin_and_one_packet_services_need_no_allocation() {
    let (mut pipeline, _control, _stats) = worker(1);
    let mut shelf = Shelf::new();
    let frame = |number: u16| {
        let (v4, v6) = (format!("10.0.0.11:{number}"), format!("[fd00::11]:{number}"));
        let packet = match number % 4 {
            0 => PacketBuilder::tcp(&v4, "192.0.2.100:80").flags(SYN),
            1 => PacketBuilder::udp(&v4, "192.0.2.100:53"),
            2 => PacketBuilder::tcp(&v6, "[2001:db8:1::100]:80").flags(SYN),
            _ => PacketBuilder::udp(&v6, "[2001:db8:1::100]:53"),
        };
        packet.from_server().build()
    };
    for what in ["new connections", "hits"] {
        let frames = burst(1, (1000..).map(frame));
        warm(&mut pipeline, frames, (Origin::Port, 10), &mut shelf, what);
    }
    assert_eq!((shelf.transmitted, pipeline.connections()), (128, (32, 32)));

    let datagram = |number: u16| {
        let (v4, v6) = (format!("198.18.7.7:{number}"), format!("[2001:db8:ffff::7]:{number}"));
        let packet = if number.is_multiple_of(2) {
            PacketBuilder::udp(&v4, "192.0.2.100:55")
        } else {
            PacketBuilder::udp(&v6, "[2001:db8:1::100]:55")
        };
        packet.payload(b"question").build()
    };
    let frames = burst(0, (1000..).map(datagram));
    warm(&mut pipeline, frames, (Origin::Port, 20), &mut shelf, "one packet");
    let answer = |number: u16| {
        let (v4, v6) = (format!("198.18.7.7:{number}"), format!("[2001:db8:ffff::7]:{number}"));
        let packet = if number.is_multiple_of(2) {
            PacketBuilder::udp("10.0.0.11:5355", &v4)
        } else {
            PacketBuilder::udp("[fd00::11]:5355", &v6)
        };
        packet.from_server().build()
    };
    let frames = burst(1, (1000..).map(answer));
    warm(&mut pipeline, frames, (Origin::Port, 20), &mut shelf, "its replies");
    assert_eq!((shelf.transmitted, pipeline.connections()), (256, (32, 32)));
}

#[test]
fn persistence_ranges_and_marks_need_no_allocation() {
    let (mut pipeline, _control, stats) = worker(1);
    let mut shelf = Shelf::new();
    let frame = |number: u16| {
        // Clients with several connections each.
        let (v4, v6) = (
            format!("198.18.7.{}:{number}", number % 16),
            format!("[2001:db8:ffff::{}]:{number}", number % 16),
        );
        let packet = match number / 16 % 4 {
            0 => PacketBuilder::tcp(&v4, "192.0.2.100:8042").flags(SYN),
            1 => PacketBuilder::udp(&v4, "192.0.2.101:4242"),
            2 => PacketBuilder::tcp(&v4, "192.0.2.102:443").flags(SYN),
            _ => PacketBuilder::tcp(&v6, "[2001:db8:1::102]:80").flags(SYN),
        };
        packet.build()
    };
    for (what, first) in [("new clients", 1024), ("hits", 1024), ("known clients", 2048)] {
        let frames = burst(0, (first..).map(frame));
        warm(&mut pipeline, frames, (Origin::Port, 10), &mut shelf, what);
    }
    assert_eq!((shelf.transmitted, pipeline.connections()), (192, (96, 32)));
    let mut now = 50;
    let count = allocations(|| {
        pipeline.housekeep(Tick(now), &mut shelf);
        assert_eq!(stats.templates.get(), 64);
        while stats.templates.get() > 0 && now < 2_000_000 {
            now += 1;
            pipeline.housekeep(Tick(now), &mut shelf);
        }
    });
    assert_eq!((count, pipeline.connections(), stats.templates.get()), (0, (0, 0), 0));
}

#[test]
fn routing_needs_no_allocation() {
    let policy = Policy { routing: true, ..Policy::default() };
    let (mut pipeline, _control, _stats) = worker_with(1, &[], policy);
    let mut shelf = Shelf::new();
    let frame = |number: u16| {
        let packet = match number % 4 {
            0 => PacketBuilder::tcp(&format!("198.18.7.7:{number}"), "10.0.0.11:22").flags(SYN),
            1 => PacketBuilder::udp(&format!("[2001:db8:ffff::7]:{number}"), "[fd00::11]:22"),
            2 => PacketBuilder::udp(&format!("198.18.7.7:{number}"), "10.0.0.11:22").ttl(1),
            _ => {
                let whole = PacketBuilder::udp("198.18.7.7:1", "10.0.0.11:22").payload(&[1; 100]);
                return fragments(&whole.build(), number / 8, 64)
                    .swap_remove(number as usize / 4 % 2);
            }
        };
        packet.build()
    };
    let frames = burst(0, (1000..).map(frame));
    warm(&mut pipeline, frames, (Origin::Port, 10), &mut shelf, "routed");
    assert_eq!((shelf.transmitted, shelf.discarded), (64, 16), "16 told that their TTL is over");
    assert_eq!(pipeline.connections(), (0, 0));
}

#[test]
fn ftp_is_read_held_translated_and_opened_without_an_allocation() {
    let (mut pipeline, _control, stats) = worker(1);
    let mut shelf = Shelf::new();
    let client = |number: u16| format!("198.18.7.7:{number}");
    let ftp = |number: u16| PacketBuilder::tcp(&client(number), "192.0.2.100:21");
    let back = |number: u16| {
        let segment = PacketBuilder::tcp("10.0.0.11:21", &client(number)).from_server();
        segment.sequence(5001).acknowledgement(1007)
    };
    let numbers = 1000..1032_u16;
    let frames = burst(0, (1000..1064_u16).map(|number| ftp(number).flags(SYN).build()));
    warm(&mut pipeline, frames, (Origin::Port, 10), &mut shelf, "control connections");
    let answers = (1000..1064_u16)
        .map(|number| back(number).sequence(5000).acknowledgement(1001).flags(SYN | ACK).build());
    warm(&mut pipeline, burst(1, answers), (Origin::Port, 12), &mut shelf, "handshakes");
    let asked = (1000..1064_u16).map(|number| {
        ftp(number).sequence(1001).acknowledgement(5001).payload(b"PASV\r\n").build()
    });
    warm(&mut pipeline, burst(0, asked), (Origin::Port, 15), &mut shelf, "questions");
    assert_eq!((stats.helped.get(), stats.unhelped.get()), (64, 0));
    let long = b"227 Entering Passive Mode (10,0,0,11,";
    assert_eq!(long.len(), 37);
    let said = numbers.clone().flat_map(|number| {
        let rest = format!("{},10).\r\n", 100 + number % 100);
        let after = back(number).sequence(5001 + 37);
        [back(number).payload(long).build(), after.payload(rest.as_bytes()).build()]
    });
    let mut frames = burst(1, said);
    for frame in &mut frames {
        // A packet buffer has room behind the packet.
        frame.octets.reserve(256);
    }
    warm(&mut pipeline, frames, (Origin::Port, 20), &mut shelf, "passive replies, in two parts");
    // Each part goes on, and the first is acknowledged in the client's place.
    assert_eq!(stats.originated.get(), 32);
    let data = numbers.clone().map(|number| {
        let port = u32::from(100 + number % 100) * 256 + 10;
        PacketBuilder::tcp("198.18.7.7:7", &format!("192.0.2.100:{port}")).flags(SYN).build()
    });
    let asked = numbers.map(|number| {
        ftp(number).sequence(1007).acknowledgement(5001).payload(b"PORT 198,18,7,7,1,1\r\n").build()
    });
    let frames = burst(0, data.chain(asked));
    warm(&mut pipeline, frames, (Origin::Port, 30), &mut shelf, "data connections, and PORT");
    assert_eq!(shelf.transmitted, 3 * 64 + 96 + 64);
}
