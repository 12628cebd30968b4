//! The composition root: knows every part, starts them in order and stops them in the reverse.
//!
//! Listeners first (an occupied address is found while there is nothing to undo), then EAL,
//! packet buffers, ports, workers on their lcores, and the control thread. The control thread
//! ends on SIGTERM or SIGINT and raises the stop flag; workers return their queues, ports stop,
//! and the books are checked: every packet accounted for, every buffer back in its pool.

mod devices;
mod eal_args;
mod error;
mod links;
mod ports;
mod predecessor;
mod steering;
mod workers;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::control::config::{Config, ConfigSource, MAX_SERVERS};
use crate::control::handover::file::Claim;
use crate::control::handover::{Import, Successor, Taken};
use crate::control::{
    self, BuildInfo, FailoverPlant, HandoverPlant, Listeners, Plant, StartError, failover,
};
use crate::dataplane::failover::{FailoverChannel, REFRESH};
use crate::dataplane::handover::{Expectations, Handover};
use crate::dataplane::stats::WorkerStats;
use crate::dataplane::steering::Steering;
use crate::dpdk::descriptors::keep_from_children;
use crate::dpdk::eal::Eal;
use crate::dpdk::mempool::Mempool;
use crate::dpdk::port::Port;
use crate::dpdk::tsc;
use crate::ids::TableVersion;
use crate::service::{Rules, ServerLoads, ServiceTable, SlotRegistry, Templates};
use crate::wire::ethernet::Mac;
use crate::wire::flow_key::HashSecret;

pub use error::DirectorError;
use predecessor::Predecessor;

/// Runs a director until it is told to stop. `running`: the one whose place it is to take.
///
/// # Errors
/// When it cannot start, or when something is left behind at the end.
pub fn run(
    config: Config,
    source: ConfigSource,
    running: Option<Successor>,
) -> Result<(), DirectorError> {
    let (mut predecessor, claim) = Predecessor::of(&config, running);
    let prepared = match prepare(&config, &mut predecessor) {
        Ok(prepared) => prepared,
        Err(why) => {
            predecessor.fail(&why);
            return Err(why);
        }
    };
    direct((config, source), prepared, (predecessor, claim))
}

/// What a director is made of, up to the workers, which wait for their packets.
struct Prepared {
    reins: control::Reins,
    listeners: Listeners,
    slots: SlotRegistry,
    table: Arc<ServiceTable>,
    loads: Arc<ServerLoads>,
    eal: Arc<Eal>,
    pool: Mempool,
    ports: Vec<Port>,
    steering: Steering,
    secret: HashSecret,
    devices: devices::Devices,
    stop: Arc<AtomicBool>,
    channel: Option<Arc<FailoverChannel>>,
    expectations: Arc<Expectations>,
    handover: Option<Arc<Handover>>,
    crew: workers::Crew,
}

fn prepare(config: &Config, predecessor: &mut Predecessor) -> Result<Prepared, DirectorError> {
    let mut reins = control::Reins::take()?;
    let listeners = predecessor.listeners(config)?;
    let mut slots = SlotRegistry::new(MAX_SERVERS);
    let services = control::at_start(config);
    let rules = Rules { services: &services, ..config.rules() };
    let table = Arc::new(ServiceTable::compile(TableVersion(1), rules, &mut slots)?);
    let capacity = config.director.persistence_templates as usize;
    let templates = Templates::new(capacity, workers::secret()?);
    let loads = Arc::new(ServerLoads::with_templates(MAX_SERVERS, templates));
    table.set_thresholds(&loads);

    let eal = Eal::init(&eal_args::of(config))?;
    let pool = ports::packet_pool(&eal, config)?;
    let secret = predecessor.secret()?;
    let (ports, steered) = ports::start(&eal, config, &pool, secret, &mut || reins.were_pulled())?;
    let stop = Arc::new(AtomicBool::new(false));
    let workers = config.director.workers.len();
    let macs = devices::macs(config, &ports);
    let channel = channel_of(config, &macs);
    let expectations = Arc::new(workers::expectations(workers)?);
    let handover = predecessor.handover(workers, &expectations);
    let shop = workers::Shop {
        eal: &eal,
        config,
        pool: &pool,
        table: &table,
        loads: &loads,
        stop: &stop,
        steering: &steered.steering,
        failover: channel.as_ref(),
        expectations: &expectations,
        handover: handover.as_ref(),
    };
    let devices = devices::Devices::new(config, &ports, steered.ports, &pool);
    let (ports, crew) = shop.launch(ports)?;
    let steering = steered.steering.clone();
    Ok(Prepared {
        reins,
        listeners,
        slots,
        table,
        loads,
        eal,
        pool,
        ports,
        steering,
        secret,
        devices,
        stop,
        channel,
        expectations,
        handover,
        crew,
    })
}

/// Takes over what the director before had, forwards, and stops at the end.
fn direct(
    (config, source): (Config, ConfigSource),
    prepared: Prepared,
    (predecessor, claim): (Predecessor, Option<Claim>),
) -> Result<(), DirectorError> {
    // Workers run until the control thread raises the stop flag; without one they stop at once.
    let stop = StopUnlessControlled(Arc::clone(&prepared.stop));
    let taken = take_over(&config, &prepared, predecessor);
    let Prepared { reins, mut listeners, slots, table, loads, .. } = prepared;
    let Prepared { eal, pool, ports, steering, secret, devices, channel, .. } = prepared;
    let Prepared { expectations, crew, .. } = prepared;
    let watched = taken.and_then(|taken| {
        let watch = links::LinkWatch::begin(&config, &ports).map_err(StartError::Thread)?;
        Ok((taken, watch))
    });
    let (taken, watch) = match watched {
        Ok(both) => both,
        Err(why) => {
            drop(stop);
            crew.lcores.join()?;
            ports::stop(ports)?;
            return Err(why);
        }
    };
    listeners.own();
    let macs = devices::macs(&config, &ports);
    let pair = channel.map(|channel| pair((&config, &ports), channel, steering, &watch));
    let plant = Plant {
        workers: crew.handles,
        loads,
        slots,
        table,
        macs,
        devices: Box::new(devices),
        listeners,
        stop: Arc::clone(&stop.0),
        tsc_hz: tsc::hz(),
        build: build_info(&eal),
        config,
        source,
        failover: pair,
        handover: HandoverPlant {
            expectations,
            secret,
            clock: tsc::now,
            keep_descriptors: keep_from_children,
            taken,
        },
    };
    let control = control::spawn(reins, plant).inspect_err(|_| stop.0.store(true, Relaxed));
    if let Some(claim) = claim.filter(|_| control.is_ok()) {
        claim.end();
    }
    let stats = crew.lcores.join()?;
    control?.finish()?;
    drop(watch);
    let forgotten = ports.iter().map(Port::buffers_forgotten).sum();
    ports::stop(ports)?;
    settle(&stats, &pool, forgotten)
}

/// What the failover side of one of a pair is given.
fn pair(
    (config, ports): (&Config, &[Port]),
    channel: Arc<FailoverChannel>,
    steering: Steering,
    watch: &links::LinkWatch,
) -> FailoverPlant {
    FailoverPlant {
        channel,
        macs: devices::macs(config, ports),
        mtus: devices::mtus(config, ports),
        links: Box::new(watch.links()),
        owners: workers::owners_of_told(steering),
        clock: tsc::now,
        hz: tsc::hz(),
    }
}

/// Has the workers stop when nobody else does.
struct StopUnlessControlled(Arc<AtomicBool>);

impl Drop for StopUnlessControlled {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

fn take_over(
    config: &Config,
    prepared: &Prepared,
    predecessor: Predecessor,
) -> Result<Option<Taken>, DirectorError> {
    let Some(handover) = &prepared.handover else { return Ok(None) };
    predecessor.take_over(Import {
        workers: &prepared.crew.handles,
        handover,
        loads: &prepared.loads,
        slots: &prepared.slots,
        interfaces: config.interfaces.iter().map(|interface| interface.name.as_str()).collect(),
        owners: workers::owners_of_moved(prepared.steering.clone()),
    })
}

/// What was built.
fn build_info(eal: &Eal) -> BuildInfo {
    BuildInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: env!("POINTSMAN_COMMIT").to_owned(),
        dpdk: eal.version(),
    }
}

/// Checks that nothing is left behind, and says what there was; drivers may have forgotten buffers.
fn settle(stats: &[Arc<WorkerStats>], pool: &Mempool, forgotten: u32) -> Result<(), DirectorError> {
    let sum =
        |count: fn(&WorkerStats) -> u64| stats.iter().map(|worker| count(worker)).sum::<u64>();
    let imbalance: i128 = stats.iter().map(|worker| worker.imbalance()).sum();
    let in_use = pool.in_use();
    tracing::info!(
        received = sum(|worker| worker.received.get()),
        originated = sum(|worker| worker.originated.get()),
        transmitted = sum(|worker| worker.transmitted.get()),
        consumed = sum(|worker| worker.consumed.get()),
        dropped = sum(|worker| worker.dropped.total()),
        imbalance,
        buffers_in_use = in_use,
        "stopped"
    );
    if imbalance != 0 {
        return Err(DirectorError::Imbalance(imbalance));
    }
    if in_use > forgotten {
        return Err(DirectorError::BuffersInUse(in_use));
    }
    Ok(())
}

/// What workers and the failover side of one of a pair share. `macs`: of the interfaces.
fn channel_of(config: &Config, macs: &[Mac]) -> Option<Arc<FailoverChannel>> {
    let group = config.failover.as_ref()?;
    let refresh = group.sync.as_ref().map_or(REFRESH, |sync| sync.refresh);
    let hearing = failover::hearing(config, group, macs);
    let channel = FailoverChannel::new(config.director.workers.len(), hearing, tsc::now);
    Some(Arc::new(channel.telling_again(refresh)))
}
