//! A director's data plane with two interfaces, some services and static neighbours, as a worker
//! has it, fed from memory.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use pointsman::clock::Tick;
use pointsman::dataplane::frame::{Frame, FrameBurst, Outlet};
use pointsman::dataplane::helper::Expectations;
use pointsman::dataplane::interface::{Interface, Interfaces, Sides};
use pointsman::dataplane::mailbox::{Command, ControlMailbox, Event, mailbox};
use pointsman::dataplane::next_hop::RouteSpec;
use pointsman::dataplane::pipeline::Origin;
use pointsman::dataplane::stats::{Stage, WorkerStats};
use pointsman::dataplane::steering::Steering;
use pointsman::dataplane::stopwatch;
use pointsman::dataplane::{Pipeline, PipelineSettings};
use pointsman::dpdk::memory::HugePages;
use pointsman::ids::{InterfaceId, PortId, TableVersion, VlanId, WorkerId};
use pointsman::service::{
    Listen, NonSyn, Protocol, RealServer, Removal, Rules, SchedulerFlags, SchedulerKind,
    ServerLoads, ServiceTable, SlotRegistry, VirtualService,
};
use pointsman::wire::U16;
use pointsman::wire::address::V4;
use pointsman::wire::ethernet::Mac;
use pointsman::wire::flow_key::{Direction, FlowKey, HashSecret};

use crate::flows::{self, Family, Traffic, Transport};
use crate::template::Template;

/// The port and interface towards the clients.
pub const OUTSIDE: u8 = 0;
/// Those towards the real servers.
pub const INSIDE: u8 = 1;
/// The VLANs of the two where frames are tagged.
const VLANS: [VlanId; 2] = [VlanId(100), VlanId(200)];
/// Services of a table that is to be large, and real servers of each.
pub const LARGE: (u32, u32) = (1000, 10);
/// Rounds of a worker under load between two looks at mailbox and timers (`dataplane::worker`).
const HOUSEKEEPING_ROUNDS: u32 = 16;
/// Any numbers do: nobody attacks a benchmark, and every run is to be the same.
const SECRET: HashSecret =
    [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0, 0x082e_fa98_ec4e_6c89];

/// Which interface packets of a direction come in by.
pub const fn input(direction: Direction) -> u8 {
    match direction {
        Direction::Inbound => OUTSIDE,
        Direction::Reply => INSIDE,
    }
}

/// What a data plane is to be like.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The services' family and protocol.
    pub traffic: Traffic,
    /// Both interfaces are in VLANs of their ports.
    pub is_tagged: bool,
    /// Room for so many connections.
    pub connections: u32,
    /// Which worker it is, of how many.
    pub worker: (u16, u16),
    /// How many services there are, and real servers of each. The first [`flows::SERVICES`] get
    /// the packets.
    pub services: (u32, u32),
    /// Huge pages are taken where there are any, or never.
    pub huge_pages: HugePages,
}

impl Plan {
    /// The only worker, with a real server for each service that gets packets.
    pub const fn new(traffic: Traffic, connections: u32) -> Self {
        Self {
            traffic,
            is_tagged: false,
            connections,
            worker: (0, 1),
            services: (flows::SERVICES, 1),
            huge_pages: HugePages::Try,
        }
    }

    /// Packets as its interfaces take them; `control` are TCP's control bits.
    pub fn packet(&self, direction: Direction, control: u8) -> Template {
        self.tag(Template::new(self.traffic, direction, control))
    }

    /// Every packet that a flow is established with, in order.
    pub fn opening(&self) -> Vec<Template> {
        self.traffic.life().into_iter().take(3).map(|packet| self.tag(packet)).collect()
    }

    fn tag(&self, packet: Template) -> Template {
        let vlan = self.vlan(input(packet.direction()));
        if vlan == VlanId::UNTAGGED { packet } else { packet.in_vlan(vlan) }
    }

    fn vlan(&self, interface: u8) -> VlanId {
        let vlan = VLANS.get(usize::from(interface)).filter(|_| self.is_tagged);
        vlan.copied().unwrap_or(VlanId::UNTAGGED)
    }

    fn interfaces(&self) -> Interfaces {
        let [outside, inside] = networks();
        let one = |number: u8, mac, addresses: [IpNet; 2]| Interface {
            id: InterfaceId(number),
            port: PortId(u16::from(number)),
            vlan: self.vlan(number),
            mac,
            mtu: 1500,
            sides: if number == OUTSIDE { Sides::OUTSIDE } else { Sides::INSIDE },
            mss_clamp: None,
            addresses: addresses.to_vec(),
            floating: Vec::new(),
            virtual_macs: None,
        };
        Interfaces::new(vec![
            one(OUTSIDE, flows::OUTSIDE_MAC, outside),
            one(INSIDE, flows::INSIDE_MAC, inside),
        ])
    }

    fn virtual_services(&self) -> Vec<VirtualService> {
        let (services, servers) = self.services;
        (0..services).map(|number| service(self.traffic, number, servers)).collect()
    }
}

/// Makes service tables, one version after the other, on a thread of its own.
#[derive(Debug)]
pub struct Compiler {
    services: Vec<VirtualService>,
    slots: SlotRegistry,
    version: u64,
    control: Arc<ControlMailbox>,
}

impl Compiler {
    /// The next version of the same services.
    fn compile(&mut self) -> Result<Arc<ServiceTable>> {
        self.version += 1;
        let rules = Rules::of(&self.services);
        let table = ServiceTable::compile(TableVersion(self.version), rules, &mut self.slots)?;
        Ok(Arc::new(table))
    }

    /// Compiles the next version and sends it to the worker. Frees those that came back.
    ///
    /// # Errors
    /// When the services do not fit, or the worker takes no commands.
    pub fn install(&mut self) -> Result<()> {
        let table = self.compile()?;
        let sent = self.control.send(Command::InstallServices(table));
        ensure!(sent.is_ok(), "the mailbox is full");
        Ok(())
    }

    /// Frees the tables that came back from the worker; how many those were.
    pub fn collect(&mut self) -> u32 {
        let mut retired = 0;
        while let Some(event) = self.control.event() {
            retired += u32::from(matches!(event, Event::Installed { .. }));
        }
        retired
    }
}

/// A way out that is emptied after each burst.
pub trait Exit<F>: Outlet<F> {
    /// Sends what is in the buffers.
    fn flush(&mut self);
}

/// A worker's data plane without queues.
#[derive(Debug)]
pub struct World<F> {
    pipeline: Pipeline<F>,
    stats: Arc<WorkerStats>,
    rounds: u32,
    is_watched: bool,
    /// Kept, or the worker's events would find no receiver.
    control: Arc<ControlMailbox>,
}

impl<F: Frame> World<F> {
    /// A data plane, and what makes new service tables for it.
    ///
    /// # Errors
    /// When memory is short.
    pub fn new(plan: &Plan, exit: &mut impl Exit<F>) -> Result<(Self, Compiler)> {
        let family = plan.traffic.family;
        let (services, servers) = plan.services;
        let servers = usize::try_from(services * servers)?;
        let stats = Arc::new(WorkerStats::new(servers));
        let (inner, control) = mailbox();
        let control = Arc::new(control);
        let mut compiler = Compiler {
            services: plan.virtual_services(),
            slots: SlotRegistry::new(servers),
            version: 0,
            control: Arc::clone(&control),
        };
        let connections = match family {
            Family::V4 => (plan.connections, 0),
            Family::V6 => (0, plan.connections),
        };
        let (worker, workers) = plan.worker;
        let settings = PipelineSettings {
            worker: WorkerId(worker),
            interfaces: Arc::new(plan.interfaces()),
            routes: routes(family),
            neighbors: 1024,
            fragment_timeout_ms: 30_000,
            errors_per_second: 1000,
            connections,
            huge_pages: plan.huge_pages,
            table_secret: SECRET,
            port_seed: worker.into(),
            steering: Steering::new(workers, SECRET),
            services: compiler.compile()?,
            loads: Arc::new(ServerLoads::new(servers)),
            control_connections: 1,
            expectations: Arc::new(Expectations::for_workers(workers, SECRET)),
            stats: Arc::clone(&stats),
            mailbox: inner,
            failover: None,
            handover: None,
        };
        let pipeline = Pipeline::new(settings, Tick(0)).context("the connection table")?;
        let mut world = Self { pipeline, stats, rounds: 0, is_watched: true, control };
        world.set_neighbor(OUTSIDE, flows::gateway(family), flows::GATEWAY_MAC)?;
        for number in 0..flows::SERVICES * plan.services.1 {
            let server = flows::server(family, number).ip();
            world.set_neighbor(INSIDE, server, flows::server_mac(number))?;
        }
        world.housekeep(Tick(0), exit);
        world.housekeep(Tick(0), exit);
        Ok((world, compiler))
    }

    fn set_neighbor(&self, interface: u8, address: IpAddr, mac: Mac) -> Result<()> {
        let interface = InterfaceId(interface);
        let command = Command::SetNeighbor { interface, address, mac, permanent: true };
        ensure!(self.control.send(command).is_ok(), "the mailbox is full");
        Ok(())
    }

    /// What the worker counts.
    pub fn stats(&self) -> &WorkerStats {
        &self.stats
    }

    /// Whether the stop watch looks at a round now and then, as a director's does.
    pub fn watch(&mut self, is_watched: bool) {
        self.is_watched = is_watched;
    }

    /// A round of `Worker::run` that found a burst: the burst, then expiry, now and then the
    /// mailbox.
    #[inline]
    pub fn round(
        &mut self,
        burst: &mut FrameBurst<F>,
        origin: Origin,
        now: Tick,
        exit: &mut impl Exit<F>,
    ) {
        let packets = burst.len();
        if self.is_watched && self.rounds.is_multiple_of(stopwatch::ROUNDS) {
            self.pipeline.stopwatch.start();
        }
        match origin {
            Origin::Port => {
                self.stats.received.add(packets as u64);
                let octets: usize = burst.iter().map(Frame::total_len).sum();
                self.stats.received_octets.add(octets as u64);
            }
            Origin::Worker => self.stats.handed_in.add(packets as u64),
        }
        self.pipeline.process_burst(burst, origin, now, exit);
        exit.flush();
        self.pipeline.stopwatch.lap(Stage::Transmit);
        self.pipeline.expire(now, u32::try_from(packets).unwrap_or(u32::MAX));
        self.rounds = self.rounds.wrapping_add(1);
        if self.rounds.is_multiple_of(HOUSEKEEPING_ROUNDS) {
            self.housekeep(now, exit);
        }
        self.pipeline.stopwatch.lap(Stage::Housekeep);
        self.pipeline.stopwatch.stop(packets, &self.stats.stages);
    }

    /// One look at mailbox and timers.
    #[inline]
    pub fn housekeep(&mut self, now: Tick, exit: &mut impl Exit<F>) {
        self.pipeline.housekeep(now, exit);
        exit.flush();
    }

    /// Connections that have ended.
    pub fn expired(&self) -> u64 {
        self.stats.table_v4.expired.get() + self.stats.table_v6.expired.get()
    }

    /// Live connections.
    pub fn connections(&self) -> u32 {
        let (v4, v6) = self.pipeline.connections();
        v4 + v6
    }

    /// An error if a packet was dropped.
    ///
    /// # Errors
    /// How many were.
    pub fn lost_nothing(&self) -> Result<()> {
        let dropped = self.stats.dropped.total();
        ensure!(dropped == 0, "{dropped} packets were dropped");
        Ok(())
    }
}

/// Which worker owns a flow over IPv4.
fn owner(steering: &Steering, flow: u32) -> WorkerId {
    let (source, port) = flows::client_v4(flow);
    let source_port = U16::new(port);
    let key = FlowKey::<V4> { source, source_port, ..FlowKey::default() };
    steering.owner(&key, true)
}

/// The first `count` flows over IPv4 that belong to a worker, which is one of `workers`.
pub fn flows_of(worker: u16, workers: u16, count: u32) -> Vec<u32> {
    let steering = Steering::new(workers, SECRET);
    let owned = (0..).filter(|flow| owner(&steering, *flow) == WorkerId(worker));
    owned.take(count as usize).collect()
}

fn service(traffic: Traffic, number: u32, servers: u32) -> VirtualService {
    let protocol = match traffic.transport {
        Transport::Udp => Protocol::Udp,
        Transport::Tcp => Protocol::Tcp,
    };
    // Services share the servers' addresses, each by another port.
    let (group, place) = (number / flows::SERVICES, number % flows::SERVICES);
    let server = |nth| {
        let mut address = flows::server(traffic.family, place + nth * flows::SERVICES);
        let port = u32::from(address.port()) + group;
        address.set_port(u16::try_from(port).unwrap_or(u16::MAX));
        RealServer::new(address, 1)
    };
    VirtualService {
        name: format!("service-{number}"),
        listen: Listen::at(protocol, flows::service(traffic.family, number)),
        scheduler: SchedulerKind::WeightedLeastConnections,
        scheduler_flags: SchedulerFlags::default(),
        removal: Removal::default(),
        servers: (0..servers).map(server).collect(),
        non_syn: NonSyn::Drop,
        one_packet: false,
        helper: None,
        timeouts: None,
        persistence: None,
        connection_limit: None,
        is_synchronised: true,
    }
}

fn networks() -> [[IpNet; 2]; 2] {
    let v4 = |a, b, c| IpNet::from(ipnet::Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, 1), 24));
    let v6 = |a, b, c| {
        IpNet::from(ipnet::Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 1), 64))
    };
    [[v4(192, 0, 2), v6(0x2001, 0xdb8, 1)], [v4(10, 0, 0), v6(0xfd00, 0xa, 0)]]
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
