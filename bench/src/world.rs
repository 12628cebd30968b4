//! A director's data plane with two interfaces, four services and static neighbours, as a worker
//! has it, fed from memory.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use pointsman::clock::Tick;
use pointsman::dataplane::frame::FrameBurst;
use pointsman::dataplane::helper::Expectations;
use pointsman::dataplane::interface::{Interface, Interfaces, Sides};
use pointsman::dataplane::mailbox::{Command, ControlMailbox, mailbox};
use pointsman::dataplane::next_hop::RouteSpec;
use pointsman::dataplane::pipeline::Origin;
use pointsman::dataplane::stats::WorkerStats;
use pointsman::dataplane::steering::Steering;
use pointsman::dataplane::{Pipeline, PipelineSettings};
use pointsman::dpdk::mbuf::Mbuf;
use pointsman::dpdk::memory::HugePages;
use pointsman::ids::{InterfaceId, PortId, TableVersion, VlanId, WorkerId};
use pointsman::service::{
    Listen, NonSyn, Protocol, RealServer, Rules, SchedulerKind, ServerLoads, ServiceTable,
    SlotRegistry, VirtualService,
};
use pointsman::wire::ethernet::Mac;
use pointsman::wire::flow_key::{Direction, HashSecret};

use crate::flows::{self, Family, Traffic, Transport};
use crate::sink::Sink;

/// The port and interface towards the clients.
pub(crate) const OUTSIDE: u8 = 0;
/// Those towards the real servers.
pub(crate) const INSIDE: u8 = 1;
/// Real servers that there is room for.
const SERVERS: usize = 64;
/// Rounds of a worker under load between two looks at mailbox and timers (`dataplane::worker`).
const HOUSEKEEPING_ROUNDS: u32 = 16;
/// Any numbers do: nobody attacks a benchmark, and every run is to be the same.
const SECRET: HashSecret =
    [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0, 0x082e_fa98_ec4e_6c89];

/// Which interface packets of a direction come in by.
pub(crate) const fn input(direction: Direction) -> u8 {
    match direction {
        Direction::Inbound => OUTSIDE,
        Direction::Reply => INSIDE,
    }
}

/// A worker's data plane without queues.
#[derive(Debug)]
pub(crate) struct World {
    pipeline: Pipeline<Mbuf>,
    stats: Arc<WorkerStats>,
    rounds: u32,
    /// Kept, or the worker's events would find no receiver.
    control: ControlMailbox,
}

impl World {
    /// A data plane with room for `connections`. Huge pages are taken where there are any.
    pub(crate) fn new(traffic: Traffic, connections: u32, sink: &mut Sink) -> Result<Self> {
        let stats = Arc::new(WorkerStats::new(SERVERS));
        let (inner, control) = mailbox();
        let mut slots = SlotRegistry::new(SERVERS);
        let services: Vec<_> =
            (0..flows::SERVICES).map(|number| service(traffic, number)).collect();
        let table = ServiceTable::compile(TableVersion(1), Rules::of(&services), &mut slots)?;
        let connections = match traffic.family {
            Family::V4 => (connections, 0),
            Family::V6 => (0, connections),
        };
        let settings = PipelineSettings {
            worker: WorkerId(0),
            interfaces: Arc::new(interfaces()),
            routes: routes(traffic.family),
            neighbors: 1024,
            fragment_timeout_ms: 30_000,
            errors_per_second: 1000,
            connections,
            huge_pages: HugePages::Try,
            table_secret: SECRET,
            steering: Steering::new(1, SECRET),
            services: Arc::new(table),
            loads: Arc::new(ServerLoads::new(SERVERS)),
            control_connections: 1,
            expectations: Arc::new(Expectations::for_workers(1, SECRET)),
            stats: Arc::clone(&stats),
            mailbox: inner,
        };
        let pipeline = Pipeline::new(settings, Tick(0)).context("the connection table")?;
        let mut world = Self { pipeline, stats, rounds: 0, control };
        world.set_neighbor(OUTSIDE, flows::gateway(traffic.family), flows::GATEWAY_MAC)?;
        for number in 0..flows::SERVICES {
            let server = flows::server(traffic.family, number).ip();
            world.set_neighbor(INSIDE, server, flows::server_mac(number))?;
        }
        world.housekeep(Tick(0), sink);
        Ok(world)
    }

    fn set_neighbor(&self, interface: u8, address: IpAddr, mac: Mac) -> Result<()> {
        let interface = InterfaceId(interface);
        let command = Command::SetNeighbor { interface, address, mac, permanent: true };
        ensure!(self.control.send(command).is_ok(), "the mailbox is full");
        Ok(())
    }

    /// What the worker counts.
    pub(crate) fn stats(&self) -> &WorkerStats {
        &self.stats
    }

    /// A round of `Worker::run` that found a burst: the burst, then expiry, now and then the
    /// mailbox.
    #[inline]
    pub(crate) fn round(&mut self, burst: &mut FrameBurst<Mbuf>, now: Tick, sink: &mut Sink) {
        let packets = burst.len();
        self.stats.received.add(packets as u64);
        let octets: usize = burst.iter().map(Mbuf::len).sum();
        self.stats.received_octets.add(octets as u64);
        self.pipeline.process_burst(burst, Origin::Port, now, sink);
        sink.flush();
        self.pipeline.expire(now, u32::try_from(packets).unwrap_or(u32::MAX));
        self.rounds = self.rounds.wrapping_add(1);
        if self.rounds.is_multiple_of(HOUSEKEEPING_ROUNDS) {
            self.housekeep(now, sink);
        }
    }

    /// One look at mailbox and timers.
    #[inline]
    fn housekeep(&mut self, now: Tick, sink: &mut Sink) {
        self.pipeline.housekeep(now, sink);
        sink.flush();
    }

    /// Connections that have ended.
    pub(crate) fn expired(&self) -> u64 {
        self.stats.table_v4.expired.get() + self.stats.table_v6.expired.get()
    }

    /// Live connections.
    pub(crate) fn connections(&self) -> u32 {
        let (v4, v6) = self.pipeline.connections();
        v4 + v6
    }
}

fn service(traffic: Traffic, number: u32) -> VirtualService {
    let protocol = match traffic.transport {
        Transport::Udp => Protocol::Udp,
        Transport::Tcp => Protocol::Tcp,
    };
    let server = flows::server(traffic.family, number);
    VirtualService {
        name: format!("service-{number}"),
        listen: Listen { protocol, address: flows::service(traffic.family, number) },
        scheduler: SchedulerKind::WeightedLeastConnections,
        servers: vec![RealServer { address: server, weight: 1 }],
        non_syn: NonSyn::Drop,
        one_packet: false,
        helper: None,
        timeouts: None,
    }
}

fn networks() -> [[IpNet; 2]; 2] {
    let v4 = |a, b, c| IpNet::from(ipnet::Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, 1), 24));
    let v6 = |a, b, c| {
        IpNet::from(ipnet::Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 1), 64))
    };
    [[v4(192, 0, 2), v6(0x2001, 0xdb8, 1)], [v4(10, 0, 0), v6(0xfd00, 0xa, 0)]]
}

fn interfaces() -> Interfaces {
    let [outside, inside] = networks();
    let one = |number: u8, mac, addresses: [IpNet; 2]| Interface {
        id: InterfaceId(number),
        port: PortId(u16::from(number)),
        vlan: VlanId::UNTAGGED,
        mac,
        mtu: 1500,
        sides: if number == OUTSIDE { Sides::OUTSIDE } else { Sides::INSIDE },
        mss_clamp: None,
        addresses: addresses.to_vec(),
    };
    Interfaces::new(vec![
        one(OUTSIDE, flows::OUTSIDE_MAC, outside),
        one(INSIDE, flows::INSIDE_MAC, inside),
    ])
}

fn routes(family: Family) -> Vec<RouteSpec> {
    let mut routes = Vec::new();
    for (interface, networks) in (0..).map(InterfaceId).zip(networks()) {
        let connected = |network: IpNet| RouteSpec { to: network.trunc(), interface, via: None };
        routes.extend(networks.map(connected));
    }
    let everything = match family {
        Family::V4 => IpNet::from(ipnet::Ipv4Net::default()),
        Family::V6 => IpNet::from(ipnet::Ipv6Net::default()),
    };
    let gateway = Some(flows::gateway(family));
    routes.push(RouteSpec { to: everything, interface: InterfaceId(OUTSIDE), via: gateway });
    routes
}
