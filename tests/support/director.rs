//! A director without ports: its workers' pipelines on frames in memory, a clock that stands
//! still, and a stand-in for the control thread. After every step the books are checked.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use pointsman::clock::Tick;
use pointsman::control::config::{Config, FailoverConfig, Role};
use pointsman::control::failover;
use pointsman::dataplane::conn::tcp_state::ConnectionState;
use pointsman::dataplane::failover::{Errand, FailoverChannel};
use pointsman::dataplane::frame::{BufferFrame, FrameBurst, Outlet};
use pointsman::dataplane::helper::Expectations;
use pointsman::dataplane::interface::{Interface, Interfaces, Sides};
use pointsman::dataplane::mailbox::{
    Command, ConnectionPage, ConnectionRow, ControlMailbox, Event, mailbox,
};
use pointsman::dataplane::next_hop::RouteSpec;
use pointsman::dataplane::pipeline::{Origin, Pipeline, PipelineSettings};
use pointsman::dataplane::stats::{DropReason, WorkerStats};
use pointsman::dataplane::steering::Steering;
use pointsman::dpdk::memory::HugePages;
use pointsman::ids::{InterfaceId, PortId, TableVersion, WorkerId};
use pointsman::service::{ServerLoads, ServiceTable, SlotRegistry};

use super::packet::{INSIDE, Mac, OUTSIDE};
pub use super::topology::{IN, OUT, PAIR, TOPOLOGY, configuration, with_devices};

const SECRET: [u64; 4] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210, 0x55aa_33cc_0ff0_9669, 7];

/// Whether a frame without tags is an IP fragment.
fn is_fragment(octets: &[u8]) -> bool {
    match octets[12..14] {
        [8, 0] => octets[20] & 0x3f != 0 || octets[21] != 0,
        [0x86, 0xdd] => octets[20] == 44,
        _ => false,
    }
}

/// How a director is set up; changed before [`TestDirector::start`].
#[derive(Clone, Debug)]
pub struct Setup {
    pub config: Config,
    pub workers: u16,
    /// Connections of each worker, IPv4 and IPv6.
    pub connections: (u32, u32),
    /// Neighbours of each worker.
    pub neighbors: usize,
    /// Control connections of each worker.
    pub control_connections: u32,
    /// Data connections that are expected at once.
    pub expectations: usize,
    /// Ethernet addresses of the ports that the configuration does not give one.
    pub macs: Vec<Mac>,
    pub start: Tick,
    /// Another rule of ownership than the keyed hash.
    pub steering: Option<Steering>,
}

impl Setup {
    pub fn new(text: &str) -> Self {
        Self {
            config: configuration(text),
            workers: 1,
            connections: (4096, 4096),
            neighbors: 256,
            control_connections: 64,
            expectations: 256,
            macs: vec![OUTSIDE, INSIDE],
            start: Tick(1000),
            steering: None,
        }
    }

    /// [`TOPOLOGY`] with services.
    pub fn with_services(services: &str) -> Self {
        Self::new(&format!("{TOPOLOGY}{services}"))
    }

    pub fn workers(mut self, workers: u16) -> Self {
        self.workers = workers;
        self
    }

    pub fn connections(mut self, v4: u32, v6: u32) -> Self {
        self.connections = (v4, v6);
        self
    }

    pub fn neighbors(mut self, neighbors: usize) -> Self {
        self.neighbors = neighbors;
        self
    }

    pub fn start(self) -> TestDirector {
        TestDirector::new(self)
    }
}

/// A frame that left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub interface: InterfaceId,
    pub octets: Vec<u8>,
}

/// The way out of one worker: writes down what goes where.
#[derive(Debug)]
pub struct RecordingOutlet {
    stats: Arc<WorkerStats>,
    transmitted: Vec<(InterfaceId, BufferFrame)>,
    handed: Vec<(WorkerId, BufferFrame)>,
    discarded: u64,
    allocated: u64,
    came: u64,
    left: u64,
    /// Whether there are buffers.
    pub has_buffers: bool,
}

impl RecordingOutlet {
    fn new(stats: Arc<WorkerStats>) -> Self {
        Self {
            stats,
            transmitted: Vec::new(),
            handed: Vec::new(),
            discarded: 0,
            allocated: 0,
            came: 0,
            left: 0,
            has_buffers: true,
        }
    }
}

impl Outlet<BufferFrame> for RecordingOutlet {
    fn allocate(&mut self) -> Option<BufferFrame> {
        self.has_buffers.then(|| {
            self.allocated += 1;
            BufferFrame::default()
        })
    }

    fn transmit(&mut self, interface: InterfaceId, frame: BufferFrame) {
        self.stats.transmitted.increment();
        self.left += 1;
        self.transmitted.push((interface, frame));
    }

    fn hand_over(&mut self, worker: WorkerId, frame: BufferFrame) {
        self.stats.handed_out.increment();
        self.left += 1;
        self.handed.push((worker, frame));
    }

    fn discard(&mut self, _: BufferFrame) {
        self.discarded += 1;
    }
}

struct TestWorker {
    pipeline: Pipeline<BufferFrame>,
    mailbox: ControlMailbox,
    stats: Arc<WorkerStats>,
    outlet: RecordingOutlet,
    ring: VecDeque<BufferFrame>,
}

/// The whole director; see the module.
pub struct TestDirector {
    pub now: Tick,
    pub loads: Arc<ServerLoads>,
    pub expectations: Arc<Expectations>,
    /// Of one of a pair, which begins as a standby.
    pub failover: Option<Arc<FailoverChannel>>,
    /// Neighbours that answer when they are asked.
    pub answering: HashMap<IpAddr, Mac>,
    /// Whether those are asked on the wire that do not answer of themselves, and what the wire
    /// tells is believed.
    pub solicits: bool,
    /// Every event but retired tables and pages.
    pub events: Vec<Event>,
    pub config: Config,
    /// By interface.
    ports: Vec<PortId>,
    slots: SlotRegistry,
    version: u64,
    workers: Vec<TestWorker>,
    sent: Vec<Sent>,
    rows: Vec<ConnectionRow>,
    next_receiver: usize,
}

fn routes(config: &Config) -> Vec<RouteSpec> {
    let mut all = Vec::new();
    for (place, interface) in config.interfaces.iter().enumerate() {
        let interface_id = InterfaceId(place as u8);
        let route = |to: IpNet, via| RouteSpec { to, interface: interface_id, via };
        all.extend(interface.addresses.iter().map(|network| route(network.trunc(), None)));
        all.extend(interface.routes.iter().map(|r| route(r.to, Some(r.via))));
        all.extend(interface.gateways.iter().map(|gateway| {
            let all = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            route(all.parse().unwrap(), Some(*gateway))
        }));
    }
    all
}

/// The port of every interface.
fn ports(config: &Config) -> Vec<PortId> {
    let ports = config.ports();
    let of = |device| ports.iter().position(|port| port.device == device).unwrap();
    config.interfaces.iter().map(|interface| PortId(of(&interface.device) as u16)).collect()
}

/// The pair, if it is one.
fn group(setup: &Setup) -> impl Iterator<Item = &FailoverConfig> {
    setup.config.failover.iter()
}

thread_local! {
    static CYCLES: Cell<u64> = const { Cell::new(0) };
}

/// What the time stamp counter says to the failover side from now on.
pub fn set_cycles(cycles: u64) {
    CYCLES.set(cycles);
}

/// What workers and the failover thread share.
fn channel(setup: &Setup) -> Option<Arc<FailoverChannel>> {
    let macs = ports(&setup.config).into_iter().map(|port| setup.macs[port.index()]);
    let macs: Vec<_> = macs.collect();
    let hearing =
        group(setup).map(|group| failover::hearing(&setup.config, group, &macs)).next()?;
    Some(Arc::new(FailoverChannel::new(setup.workers.into(), hearing, || CYCLES.get())))
}

fn interfaces(setup: &Setup) -> Interfaces {
    let configured = setup.config.interfaces.iter().zip(ports(&setup.config)).enumerate();
    Interfaces::new(
        configured
            .map(|(place, (interface, port))| Interface {
                id: InterfaceId(place as u8),
                port,
                vlan: interface.vlan,
                mac: interface.mac.map_or(setup.macs[port.index()], |mac| mac.0),
                mtu: interface.mtu,
                sides: match interface.role {
                    Role::Outside => Sides::OUTSIDE,
                    Role::Inside => Sides::INSIDE,
                    Role::Both => Sides::BOTH,
                },
                mss_clamp: interface.mss_clamp,
                addresses: interface.addresses.clone(),
                floating: group(setup)
                    .flat_map(|group| group.floating_of(InterfaceId(place as u8)))
                    .collect(),
                virtual_macs: group(setup)
                    .find_map(|group| group.virtual_macs(InterfaceId(place as u8))),
            })
            .collect(),
    )
}

/// What all workers of a director are made of.
pub struct Common {
    interfaces: Arc<Interfaces>,
    services: Arc<ServiceTable>,
    loads: Arc<ServerLoads>,
    expectations: Arc<Expectations>,
    failover: Option<Arc<FailoverChannel>>,
    slots: SlotRegistry,
}

impl Common {
    pub fn new(setup: &Setup) -> Self {
        let mut slots = SlotRegistry::new(256);
        let controls = usize::from(setup.workers) * setup.control_connections as usize;
        let table = ServiceTable::compile(TableVersion(1), setup.config.rules(), &mut slots);
        let (table, loads) = (table.unwrap(), ServerLoads::new(256));
        table.set_thresholds(&loads);
        Self {
            interfaces: Arc::new(interfaces(setup)),
            services: Arc::new(table),
            loads: Arc::new(loads),
            expectations: Arc::new(Expectations::new(setup.expectations, controls, SECRET)),
            failover: channel(setup),
            slots,
        }
    }

    /// What a worker is made of, and the control thread's end of its mailbox.
    pub fn settings(&self, setup: &Setup, number: u16) -> (PipelineSettings, ControlMailbox) {
        let (inner, outer) = mailbox();
        let settings = PipelineSettings {
            worker: WorkerId(number),
            interfaces: Arc::clone(&self.interfaces),
            routes: routes(&setup.config),
            neighbors: setup.neighbors,
            fragment_timeout_ms: setup.config.director.fragment_timeout.as_millis() as u32,
            errors_per_second: setup.config.director.errors_per_second,
            connections: setup.connections,
            huge_pages: HugePages::Never,
            table_secret: [1, 2, 3, 4].map(|s: u64| s.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            port_seed: (1 + u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            steering: setup
                .steering
                .clone()
                .unwrap_or_else(|| Steering::new(setup.workers, SECRET)),
            services: Arc::clone(&self.services),
            loads: Arc::clone(&self.loads),
            control_connections: setup.control_connections,
            expectations: Arc::clone(&self.expectations),
            stats: Arc::new(WorkerStats::new(256)),
            mailbox: inner,
            failover: self.failover.clone(),
            handover: None,
        };
        (settings, outer)
    }
}

impl TestDirector {
    fn new(setup: Setup) -> Self {
        let common = Common::new(&setup);
        let worker = |number: u16| {
            let (settings, mailbox) = common.settings(&setup, number);
            let stats = Arc::clone(&settings.stats);
            TestWorker {
                pipeline: Pipeline::new(settings, setup.start).unwrap(),
                mailbox,
                outlet: RecordingOutlet::new(Arc::clone(&stats)),
                stats,
                ring: VecDeque::new(),
            }
        };
        let workers = (0..setup.workers).map(worker).collect();
        let Common { loads, expectations, failover, slots, .. } = common;
        let mut director = Self {
            now: setup.start,
            loads,
            expectations,
            failover,
            answering: HashMap::new(),
            solicits: false,
            events: Vec::new(),
            slots,
            version: 1,
            workers,
            sent: Vec::new(),
            rows: Vec::new(),
            next_receiver: 0,
            ports: ports(&setup.config),
            config: setup.config,
        };
        director.install_static_neighbors();
        director
    }

    fn install_static_neighbors(&mut self) {
        for place in 0..self.config.interfaces.len() {
            for (address, mac) in self.config.interfaces[place].neighbors.clone() {
                self.set_neighbor(InterfaceId(place as u8), address, mac.0, true);
            }
        }
    }

    /// Another term begins, in which the director is the active one, or is not.
    pub fn stand(&mut self, active: bool) {
        let channel = self.failover.clone().expect("it is one of a pair");
        channel.standing.begin_term();
        if active {
            assert!(channel.ask(Errand::Renew(channel.standing.lease(u64::MAX))));
        }
        self.settle();
        for worker in &mut self.workers {
            assert_eq!(worker.pipeline.look_at_standing(0), active);
        }
    }

    pub fn command_all(&mut self, command: impl Fn() -> Command) {
        for worker in &self.workers {
            worker.mailbox.send(command()).unwrap();
        }
        self.settle();
    }

    pub fn set_neighbor(
        &mut self,
        interface: InterfaceId,
        address: IpAddr,
        mac: Mac,
        permanent: bool,
    ) {
        self.command_all(|| Command::SetNeighbor { interface, address, mac, permanent });
    }

    pub fn neighbor_unreachable(&mut self, interface: InterfaceId, address: &str) {
        let address = address.parse().unwrap();
        self.command_all(|| Command::NeighborUnreachable { interface, address });
    }

    /// Puts other services in place.
    pub fn install(&mut self, text: &str) {
        self.config = configuration(text);
        self.version += 1;
        let version = TableVersion(self.version);
        let table = ServiceTable::compile(version, self.config.rules(), &mut self.slots);
        let table = Arc::new(table.unwrap());
        table.set_thresholds(&self.loads);
        self.command_all(|| Command::InstallServices(Arc::clone(&table)));
    }

    /// A frame comes in, at any worker; everything that follows is done before this returns.
    pub fn receive(&mut self, interface: InterfaceId, octets: &[u8]) -> &mut Self {
        // Neither by turns nor always the same.
        self.next_receiver = self.next_receiver.wrapping_mul(25_173).wrapping_add(13_849) & 0xffff;
        let worker = (self.next_receiver >> 5) % self.workers.len();
        self.receive_burst(worker, interface, &[octets.to_vec()])
    }

    /// A burst of at most 64 frames comes in at one worker.
    pub fn receive_burst(
        &mut self,
        worker: usize,
        interface: InterfaceId,
        frames: &[Vec<u8>],
    ) -> &mut Self {
        self.poll(worker, interface, frames);
        self.settle();
        self
    }

    /// As [`TestDirector::receive_burst`], without waiting for the other workers.
    pub fn poll(&mut self, worker: usize, interface: InterfaceId, frames: &[Vec<u8>]) {
        let mut burst = FrameBurst::new();
        for octets in frames {
            let input = self.ports[interface.index()];
            let octets = octets.clone();
            burst.push(BufferFrame { octets, input, ..BufferFrame::default() });
        }
        let this = &mut self.workers[worker];
        this.stats.received.add(burst.len() as u64);
        this.outlet.came += burst.len() as u64;
        this.pipeline.process_burst(&mut burst, Origin::Port, self.now, &mut this.outlet);
        assert!(burst.is_empty(), "a burst is empty after it was processed");
        self.distribute(worker);
    }

    /// Puts what a worker handed over into the rings, and collects what it sent.
    fn distribute(&mut self, worker: usize) {
        let this = &mut self.workers[worker];
        let sent = std::mem::take(&mut this.outlet.transmitted);
        self.sent.extend(
            sent.into_iter().map(|(interface, frame)| Sent { interface, octets: frame.octets }),
        );
        for (to, frame) in std::mem::take(&mut self.workers[worker].outlet.handed) {
            assert_ne!(to.index(), worker, "a worker hands nothing to itself");
            self.workers[to.index()].ring.push_back(frame);
        }
    }

    /// Lets all workers work until nothing is left to do, with the control thread's answers.
    pub fn settle(&mut self) {
        loop {
            let mut is_idle = true;
            for worker in 0..self.workers.len() {
                is_idle &= !self.empty_ring(worker);
                let this = &mut self.workers[worker];
                this.pipeline.housekeep(self.now, &mut this.outlet);
                self.distribute(worker);
            }
            if is_idle && !self.answer_events() {
                break;
            }
        }
        self.check_books();
    }

    fn empty_ring(&mut self, worker: usize) -> bool {
        let this = &mut self.workers[worker];
        if this.ring.is_empty() {
            return false;
        }
        let taken = this.ring.len().min(64);
        let mut burst: FrameBurst<BufferFrame> = this.ring.drain(..taken).collect();
        this.stats.handed_in.add(taken as u64);
        this.outlet.came += taken as u64;
        this.pipeline.process_burst(&mut burst, Origin::Worker, self.now, &mut this.outlet);
        // A fragment goes to the worker that puts datagrams in order, then to its flow's owner.
        let again = this.outlet.handed.iter().all(|(_, frame)| is_fragment(&frame.octets));
        assert!(again, "a packet is handed over once");
        self.distribute(worker);
        true
    }

    /// The control thread's part; whether there was something to do.
    fn answer_events(&mut self) -> bool {
        let mut events = Vec::new();
        for worker in &self.workers {
            events.extend(std::iter::from_fn(|| worker.mailbox.event()));
        }
        let was_busy = !events.is_empty();
        for event in events {
            match event {
                Event::Resolve { interface, address } => {
                    let mac = self.answering.get(&address).copied();
                    self.events.push(event);
                    if let Some(mac) = mac {
                        self.tell_all(interface, address, mac);
                    } else if self.solicits {
                        let station = None;
                        let command =
                            Command::Solicit { interface, address, station, only_if_used: false };
                        self.workers[0].mailbox.send(command).unwrap();
                    }
                }
                Event::NeighborSeen { interface, address, mac, .. } => {
                    self.events.push(event);
                    if self.solicits {
                        self.tell_all(interface, address, mac);
                    }
                }
                Event::Connections { worker, mut page } => {
                    self.rows.append(&mut page.rows);
                    if !page.done {
                        let command = Command::ListConnections(page);
                        self.workers[worker.index()].mailbox.send(command).unwrap();
                    }
                }
                Event::ListenersQueried { .. } => self.events.push(event),
                Event::Installed { .. } | Event::HandoverBegun { .. } => {}
            }
        }
        was_busy
    }

    fn tell_all(&self, interface: InterfaceId, address: IpAddr, mac: Mac) {
        for worker in &self.workers {
            let command = Command::SetNeighbor { interface, address, mac, permanent: false };
            worker.mailbox.send(command).unwrap();
        }
    }

    /// Time passes, in steps in which the workers keep house.
    pub fn advance(&mut self, ms: u32) -> &mut Self {
        let mut left = ms;
        while left > 0 {
            let step = left.min(100);
            self.now = self.now.after(step);
            left -= step;
            for this in &mut self.workers {
                this.pipeline.housekeep(self.now, &mut this.outlet);
            }
        }
        self.settle();
        self
    }

    /// The workers stop.
    pub fn shut_down(&mut self) {
        for this in &mut self.workers {
            this.pipeline.shut_down(&mut this.outlet);
        }
        self.check_books();
    }

    /// What was sent since the last call, in order.
    pub fn take_sent(&mut self) -> Vec<Sent> {
        std::mem::take(&mut self.sent)
    }

    /// The one frame that was sent since the last call.
    #[track_caller]
    pub fn sent_one(&mut self) -> Sent {
        let mut sent = self.take_sent();
        assert_eq!(sent.len(), 1, "one packet expected; dropped: {:?}", self.drops());
        sent.remove(0)
    }

    /// All connections.
    pub fn list(&mut self) -> Vec<ConnectionRow> {
        self.command_all(|| Command::ListConnections(ConnectionPage::new(7)));
        std::mem::take(&mut self.rows)
    }

    pub fn stats(&self, worker: usize) -> &WorkerStats {
        &self.workers[worker].stats
    }

    pub fn outlet(&mut self, worker: usize) -> &mut RecordingOutlet {
        &mut self.workers[worker].outlet
    }

    fn sum(&self, of: impl Fn(&WorkerStats) -> u64) -> u64 {
        self.workers.iter().map(|worker| of(&worker.stats)).sum()
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.sum(|stats| stats.dropped.get(reason))
    }

    pub fn consumed(&self) -> u64 {
        self.sum(|stats| stats.consumed.get())
    }

    pub fn held(&self) -> u64 {
        self.sum(|stats| stats.held.get())
    }

    pub fn received(&self) -> u64 {
        self.sum(|stats| stats.received.get())
    }

    /// Live connections over all workers.
    pub fn connections(&self) -> u32 {
        self.workers.iter().map(|w| w.pipeline.connections()).map(|(v4, v6)| v4 + v6).sum()
    }

    /// Live connections of each worker.
    pub fn connections_by_worker(&self) -> Vec<u32> {
        self.workers.iter().map(|w| w.pipeline.connections()).map(|(v4, v6)| v4 + v6).collect()
    }

    /// All drops that happened, by the reason's name.
    pub fn drops(&self) -> std::collections::BTreeMap<String, u64> {
        let all =
            DropReason::ALL.iter().map(|reason| (reason.name().into(), self.dropped(*reason)));
        all.filter(|(_, count)| *count > 0).collect()
    }

    /// What must hold whenever the workers are at rest.
    #[track_caller]
    pub fn check_books(&self) {
        for (number, worker) in self.workers.iter().enumerate() {
            let stats = &worker.stats;
            assert_eq!(stats.imbalance(), 0, "worker {number} lost or invented a packet");
            let frames = i128::from(worker.outlet.came) + i128::from(worker.outlet.allocated)
                - i128::from(worker.outlet.left)
                - i128::from(worker.outlet.discarded)
                - i128::from(stats.held.get());
            assert_eq!(frames, 0, "worker {number} lost or invented a frame");
            let used = worker.pipeline.connections();
            for (gauges, used) in [(&stats.table_v4, used.0), (&stats.table_v6, used.1)] {
                let states = ConnectionState::ALL.iter().map(|s| gauges.states.of(*s).get());
                assert_eq!(states.sum::<u64>(), gauges.used.get(), "worker {number}: states");
                assert_eq!(gauges.used.get(), u64::from(used), "worker {number}: used");
            }
        }
        assert_eq!(self.sum(|s| s.handed_out.get()), self.sum(|s| s.handed_in.get()));
        let come = self.sum(|s| s.received.get() + s.originated.get());
        let gone =
            self.sum(|s| s.transmitted.get() + s.consumed.get() + s.dropped.total() + s.held.get());
        assert_eq!(come, gone, "the director lost or invented a packet");
        let loads: u64 = (0..self.loads.capacity())
            .filter_map(|slot| self.loads.of(pointsman::ids::ServerSlot(slot as u16)))
            .map(pointsman::service::ServerLoad::connections)
            .map(|(active, inactive)| u64::from(active) + u64::from(inactive))
            .sum();
        let masqueraded = self.sum(|stats| stats.masqueraded.get());
        let halves = self.sum(|stats| stats.halves.get());
        let counted = loads + masqueraded + halves;
        assert_eq!(counted, u64::from(self.connections()), "the servers' loads");
    }

    /// The slot of a server of a service.
    pub fn slot(&self, listen: &str, server: &str) -> pointsman::ids::ServerSlot {
        self.slots.server(listen.parse().unwrap(), server.parse().unwrap()).unwrap()
    }

    /// The slot's load of a server of a service.
    pub fn load(&self, listen: &str, server: &str) -> (u32, u32) {
        let slot = self.slot(listen, server);
        self.loads.of(slot).unwrap().connections()
    }
}
