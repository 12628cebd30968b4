//! Workers: their queues, rings, tables, and their start on the lcores.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, mpsc};

use super::eal_args::lcore_of;
use super::{DirectorError, devices};
use crate::clock::Tick;
use crate::control::WorkerHandle;
use crate::control::config::{Config, Idle, InterfaceConfig, RING, Role};
use crate::dataplane::failover::FailoverChannel;
use crate::dataplane::handover::{Handover, Moved};
use crate::dataplane::helper::{self, Expectations};
use crate::dataplane::interface::{Interface, Interfaces, Sides};
use crate::dataplane::mailbox::{WorkerMailbox, mailbox};
use crate::dataplane::next_hop::RouteSpec;
use crate::dataplane::stats::WorkerStats;
use crate::dataplane::steering::Steering;
use crate::dataplane::sync::{self, SyncConnection};
use crate::dataplane::worker::{Egress, IdlePolicy, Leftovers, Peer, Worker, WorkerParts};
use crate::dataplane::{Pipeline, PipelineSettings};
use crate::dpdk::eal::Eal;
use crate::dpdk::lcore::{LcoreHandle, LcoreId};
use crate::dpdk::memory::{HugePages, MemoryError};
use crate::dpdk::mempool::Mempool;
use crate::dpdk::port::Port;
use crate::dpdk::queue::{RxQueue, TxQueue};
use crate::dpdk::ring::ring;
use crate::dpdk::tsc;
use crate::ids::{InterfaceId, OwnersOf, WorkerId};
use crate::service::{ServerLoads, ServiceTable};
use crate::wire::flow_key::HashSecret;

/// Neighbours that a worker's table takes.
const NEIGHBORS: usize = 16_384;

/// What workers are made from.
pub(super) struct Shop<'d> {
    pub(super) eal: &'d Arc<Eal>,
    pub(super) config: &'d Config,
    pub(super) pool: &'d Mempool,
    pub(super) table: &'d Arc<ServiceTable>,
    pub(super) loads: &'d Arc<ServerLoads>,
    pub(super) stop: &'d Arc<AtomicBool>,
    pub(super) steering: &'d Steering,
    /// What workers share with the failover thread.
    pub(super) failover: Option<&'d Arc<FailoverChannel>>,
    /// The data connections that helpers expect.
    pub(super) expectations: &'d Arc<Expectations>,
    /// Where connections of the director before come from.
    pub(super) handover: Option<&'d Arc<Handover>>,
}

/// What is the same for all workers.
struct Common {
    interfaces: Arc<Interfaces>,
    steering: Steering,
    expectations: Arc<Expectations>,
    table_secret: HashSecret,
}

/// The workers that run.
pub(super) struct Crew {
    /// For the control thread.
    pub(super) handles: Vec<WorkerHandle>,
    /// To wait for them.
    pub(super) lcores: Lcores,
}

/// The lcores of the workers.
pub(super) struct Lcores {
    running: Vec<LcoreHandle<Result<Leftovers, MemoryError>>>,
    stats: Vec<Arc<WorkerStats>>,
}

impl Lcores {
    /// Waits until all have ended, then clears what they left in the rings between them.
    pub(super) fn join(self) -> Result<Vec<Arc<WorkerStats>>, DirectorError> {
        let mut leftovers = Vec::with_capacity(self.running.len());
        for (worker, lcore) in (0..).zip(self.running) {
            let ended = lcore.join()?;
            leftovers.push(ended.map_err(|cause| DirectorError::Tables { worker, cause })?);
        }
        for mut left in leftovers {
            left.clear();
        }
        Ok(self.stats)
    }
}

/// Stops the workers that run already when the others cannot be started.
struct StopUnlessComplete<'d>(Option<&'d AtomicBool>);

impl StopUnlessComplete<'_> {
    fn complete(mut self) {
        self.0 = None;
    }
}

impl Drop for StopUnlessComplete<'_> {
    fn drop(&mut self) {
        if let Some(stop) = self.0 {
            stop.store(true, Relaxed);
        }
    }
}

/// A worker's queues and rings.
struct Hands {
    rx: Vec<RxQueue>,
    egress: Vec<Egress>,
    peers: Vec<Option<Peer>>,
}

impl Shop<'_> {
    fn count(&self) -> usize {
        self.config.director.workers.len()
    }

    /// Gives every worker its queues and starts it. The ports come back to be stopped later.
    pub(super) fn launch(&self, ports: Vec<Port>) -> Result<(Vec<Port>, Crew), DirectorError> {
        let mut ports = ports;
        let interfaces = Arc::new(self.interfaces(&ports));
        let steering = self.steering.clone();
        let expectations = Arc::clone(self.expectations);
        let common = Common { interfaces, steering, expectations, table_secret: secret()? };
        let hands = self.hands(&mut ports)?;
        let epoch = tsc::now();
        let mut crew =
            Crew { handles: Vec::new(), lcores: Lcores { running: Vec::new(), stats: Vec::new() } };
        let mut starts = Vec::new();
        // Dropped before the crew, whose drop waits for the workers.
        let unless_complete = StopUnlessComplete(Some(self.stop));
        for (number, (hands, cpu)) in
            hands.into_iter().zip(&self.config.director.workers).enumerate()
        {
            let id = WorkerId(self.worker_number(number));
            let stats = Arc::new(WorkerStats::new(self.loads.capacity()));
            let (inner, outer) = mailbox();
            let settings = self.settings(id, &common, Arc::clone(&stats), inner)?;
            let (started, start) = mpsc::sync_channel(1);
            let job = self.job(settings, hands, epoch, started);
            crew.lcores.running.push(self.eal.launch(LcoreId(lcore_of(number)), job)?);
            crew.lcores.stats.push(Arc::clone(&stats));
            crew.handles.push(WorkerHandle { id, cpu: *cpu, mailbox: outer, stats });
            starts.push(start);
        }
        for (worker, start) in (0..).zip(starts) {
            if start.recv().is_err() {
                drop(unless_complete);
                crew.lcores.join()?;
                return Err(DirectorError::WorkerSilent(worker));
            }
        }
        unless_complete.complete();
        Ok((ports, crew))
    }

    #[allow(clippy::cast_possible_truncation, reason = "the configuration limits workers to 127")]
    fn worker_number(&self, number: usize) -> u16 {
        number.min(self.count()) as u16
    }

    /// What a worker does on its lcore: allocates its tables there, so that they lie on its NUMA
    /// node, says that it is ready, and runs.
    fn job(
        &self,
        settings: PipelineSettings,
        hands: Hands,
        epoch: u64,
        started: mpsc::SyncSender<()>,
    ) -> impl FnOnce() -> Result<Leftovers, MemoryError> + Send + 'static {
        let pool = self.pool.clone();
        let stop = Arc::clone(self.stop);
        let ports = self.places();
        let failover = self.failover.cloned();
        let idle = match self.config.director.idle {
            Idle::Busy => IdlePolicy::Busy,
            Idle::Adaptive(pause) => {
                IdlePolicy::Sleep(u32::try_from(pause.as_micros()).unwrap_or(u32::MAX))
            }
        };
        move || {
            let id = settings.worker;
            let stats = Arc::clone(&settings.stats);
            let pipeline = Pipeline::new(settings, Tick(0))?;
            let Hands { rx, egress, peers } = hands;
            let worker = Worker::new(WorkerParts {
                id,
                pipeline,
                rx,
                egress,
                ports,
                peers,
                pool,
                stats,
                idle,
                failover,
                stop,
                epoch,
            });
            // The director waits for this, or has given up on all workers.
            started.send(()).ok();
            Ok(worker.run())
        }
    }

    fn settings(
        &self,
        worker: WorkerId,
        common: &Common,
        stats: Arc<WorkerStats>,
        mailbox: WorkerMailbox,
    ) -> Result<PipelineSettings, DirectorError> {
        let config = self.config;
        let workers = u32::try_from(self.count()).unwrap_or(u32::MAX);
        let each = config.director.connections.div_ceil(workers);
        let v6 = u64::from(each) * u64::from(config.director.ipv6_share) / 100;
        let v6 = u32::try_from(v6).unwrap_or(each);
        let [port_seed, ..] = secret()?;
        Ok(PipelineSettings {
            worker,
            interfaces: Arc::clone(&common.interfaces),
            routes: routes(config),
            neighbors: NEIGHBORS,
            fragment_timeout_ms: u32::try_from(config.director.fragment_timeout.as_millis())
                .unwrap_or(u32::MAX),
            errors_per_second: config.director.errors_per_second,
            connections: (each - v6, v6),
            huge_pages: if config.dpdk.hugepages { HugePages::Try } else { HugePages::Never },
            table_secret: common.table_secret,
            port_seed,
            steering: common.steering.clone(),
            services: Arc::clone(self.table),
            loads: Arc::clone(self.loads),
            control_connections: helper::CONTROL_CONNECTIONS,
            expectations: Arc::clone(&common.expectations),
            stats,
            mailbox,
            failover: self.failover.cloned(),
            handover: self.handover.cloned(),
        })
    }

    fn interfaces(&self, ports: &[Port]) -> Interfaces {
        let one = |(id, config): (InterfaceId, &InterfaceConfig), port: &Port| Interface {
            id,
            port: port.id(),
            vlan: config.vlan,
            mac: config.mac.map_or_else(|| port.mac(), |mac| mac.0),
            mtu: devices::mtu(config, port),
            sides: match config.role {
                Role::Outside => Sides::OUTSIDE,
                Role::Inside => Sides::INSIDE,
                Role::Both => Sides::BOTH,
            },
            mss_clamp: config.mss_clamp,
            addresses: config.addresses.clone(),
            floating: self.config.failover.iter().flat_map(|group| group.floating_of(id)).collect(),
            virtual_macs: self.config.failover.as_ref().and_then(|group| group.virtual_macs(id)),
        };
        let places = self.places();
        let configured = (0..).map(InterfaceId).zip(&self.config.interfaces).zip(places);
        let all = configured.filter_map(|(numbered, place)| Some(one(numbered, ports.get(place)?)));
        Interfaces::new(all.collect())
    }

    /// The port of every interface, as its place among the ports.
    fn places(&self) -> Vec<usize> {
        let ports = self.config.ports();
        let of = |interface: &InterfaceConfig| {
            ports.iter().position(|port| *port.device == interface.device).unwrap_or(0)
        };
        self.config.interfaces.iter().map(of).collect()
    }

    /// Deals out queues: queue i of a port to worker i; where a port has fewer queues than there
    /// are workers, the rest receives nothing from it and sends by another worker's queue.
    fn hands(&self, ports: &mut [Port]) -> Result<Vec<Hands>, DirectorError> {
        let mut hands: Vec<Hands> = Vec::with_capacity(self.count());
        for _ in 0..self.count() {
            let peers = (0..self.count()).map(|_| None).collect();
            hands.push(Hands { rx: Vec::new(), egress: Vec::new(), peers });
        }
        for port in ports.iter_mut() {
            let (rx, tx) = port.take_queues();
            for (hand, queue) in hands.iter_mut().zip(rx) {
                hand.rx.push(queue);
            }
            deal_egress(&mut hands, tx);
        }
        self.connect(&mut hands)?;
        Ok(hands)
    }

    /// The rings between every two workers.
    fn connect(&self, hands: &mut [Hands]) -> Result<(), DirectorError> {
        for from in 0..hands.len() {
            for to in (0..hands.len()).filter(|to| *to != from) {
                self.connect_pair(hands, from, to)?;
            }
        }
        Ok(())
    }

    /// The rings from one worker to another: for flows, and for each port that the one reaches by
    /// the other's queue.
    fn connect_pair(
        &self,
        hands: &mut [Hands],
        from: usize,
        to: usize,
    ) -> Result<(), DirectorError> {
        let (to_owner, from_owner) =
            ring(self.eal, &format!("flow{from}-{to}"), RING as usize, None)?;
        let (mut to_proxy, mut from_proxy) = (Vec::new(), Vec::new());
        let egress = hands.get(from).map(|hand| &hand.egress[..]).unwrap_or_default();
        for (port, egress) in egress.iter().enumerate() {
            let is_proxied = matches!(egress, Egress::Proxy(worker) if worker.index() == to);
            let name = format!("tx{from}-{to}-{port}");
            let ends =
                if is_proxied { Some(ring(self.eal, &name, RING as usize, None)?) } else { None };
            let (producer, consumer) = ends.unzip();
            to_proxy.push(producer);
            from_proxy.push(consumer);
        }
        let half = half_of(hands, from, to);
        half.to_owner = Some(to_owner);
        half.to_proxy = to_proxy;
        let half = half_of(hands, to, from);
        half.from_owner = Some(from_owner);
        half.from_proxy = from_proxy;
        Ok(())
    }
}

/// Worker `of`'s rings to and from worker `other`.
fn half_of(hands: &mut [Hands], of: usize, other: usize) -> &mut Peer {
    hands[of].peers[other].get_or_insert_default()
}

/// Transmit queue i to worker i; the others send by the queues that there are, in turn.
fn deal_egress(hands: &mut [Hands], tx: Vec<TxQueue>) {
    let queues = tx.len().max(1);
    let mut tx = tx.into_iter();
    for (number, hand) in hands.iter_mut().enumerate() {
        let proxy = WorkerId(u16::try_from(number % queues).unwrap_or(0));
        hand.egress.push(tx.next().map_or(Egress::Proxy(proxy), Egress::Queue));
    }
}

/// Connected networks, static routes, gateways.
fn routes(config: &Config) -> Vec<RouteSpec> {
    let mut routes = Vec::new();
    for (id, interface) in (0..).map(InterfaceId).zip(&config.interfaces) {
        let connected =
            |network: &ipnet::IpNet| RouteSpec { to: network.trunc(), interface: id, via: None };
        routes.extend(interface.addresses.iter().map(connected));
        routes.extend(interface.routes.iter().map(|route| RouteSpec {
            to: route.to,
            interface: id,
            via: Some(route.via),
        }));
        routes.extend(interface.gateways.iter().map(|gateway| RouteSpec {
            to: match gateway {
                std::net::IpAddr::V4(_) => ipnet::Ipv4Net::default().into(),
                std::net::IpAddr::V6(_) => ipnet::Ipv6Net::default().into(),
            },
            interface: id,
            via: Some(*gateway),
        }));
    }
    routes
}

/// The data connections that helpers of so many workers expect.
pub(super) fn expectations(workers: usize) -> Result<Expectations, DirectorError> {
    Ok(Expectations::for_workers(u16::try_from(workers).unwrap_or(u16::MAX), secret()?))
}

/// Random numbers for a keyed hash.
pub(super) fn secret() -> Result<HashSecret, DirectorError> {
    let mut words = [0; 4];
    for word in &mut words {
        *word = getrandom::u64().map_err(DirectorError::Random)?;
    }
    Ok(words)
}

/// Which workers a connection of the director before is of.
pub(super) fn owners_of_moved(steering: Steering) -> OwnersOf<Moved> {
    Box::new(move |moved| steering.owners_of(moved.keys(), || moved.keys()))
}

/// Which workers a connection of another director is of.
pub(super) fn owners_of_told(steering: Steering) -> OwnersOf<SyncConnection> {
    Box::new(move |told| steering.owners_of(sync::keys(told), || sync::keys(told)))
}
