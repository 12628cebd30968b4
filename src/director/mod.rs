//! The composition root: knows every part, starts them in order and stops them in the reverse.
//!
//! Listeners first (an occupied address is found while there is nothing to undo), then EAL,
//! packet buffers, ports, workers on their lcores, and the control thread. The control thread
//! ends on SIGTERM or SIGINT and raises the stop flag; workers return their queues, ports stop,
//! and the books are checked: every packet accounted for, every buffer back in its pool.

mod devices;
mod eal_args;
mod error;
mod ports;
mod steering;
mod workers;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::control::config::{Config, ConfigSource, MAX_SERVERS};
use crate::control::{self, BuildInfo, FailoverPlant, Listeners, Plant, failover};
use crate::dataplane::failover::{FailoverChannel, REFRESH};
use crate::dataplane::stats::WorkerStats;
use crate::dpdk::eal::Eal;
use crate::dpdk::mempool::Mempool;
use crate::dpdk::port::Port;
use crate::dpdk::tsc;
use crate::ids::TableVersion;
use crate::service::{Rules, ServerLoads, ServiceTable, SlotRegistry, Templates};
use crate::wire::ethernet::Mac;

pub use error::DirectorError;

/// Runs a director until it is told to stop.
///
/// # Errors
/// When it cannot start, or when something is left behind at the end.
pub fn run(config: Config, source: ConfigSource) -> Result<(), DirectorError> {
    let mut reins = control::Reins::take()?;
    let listeners = Listeners::bind(&config)?;
    let mut slots = SlotRegistry::new(MAX_SERVERS);
    let services = control::at_start(&config);
    let rules = Rules { services: &services, ..config.rules() };
    let table = ServiceTable::compile(TableVersion(1), rules, &mut slots)?;
    let table = Arc::new(table);
    let capacity = config.director.persistence_templates as usize;
    let templates = Templates::new(capacity, workers::secret()?);
    let loads = Arc::new(ServerLoads::with_templates(MAX_SERVERS, templates));
    table.set_thresholds(&loads);

    let eal = Eal::init(&eal_args::of(&config))?;
    let pool = ports::packet_pool(&eal, &config)?;
    let (ports, steered) = ports::start(&eal, &config, &pool, &mut || reins.were_pulled())?;
    let stop = Arc::new(AtomicBool::new(false));
    let macs = devices::macs(&config, &ports);
    let channel = channel_of(&config, &macs);
    let shop = workers::Shop {
        eal: &eal,
        config: &config,
        pool: &pool,
        table: &table,
        loads: &loads,
        stop: &stop,
        steering: &steered.steering,
        failover: channel.as_ref(),
    };
    let devices = devices::Devices::new(&config, &ports, steered.ports, &pool);
    let (ports, crew) = shop.launch(ports)?;
    let failover = channel.map(|channel| FailoverPlant {
        channel,
        macs,
        links: Box::new(devices::Links::new(&config, &ports)),
        owner: workers::owner_by(steered.steering.clone()),
        clock: tsc::now,
        hz: tsc::hz(),
    });
    let plant = Plant {
        workers: crew.handles,
        loads,
        slots,
        table,
        devices: Box::new(devices),
        listeners,
        stop: Arc::clone(&stop),
        tsc_hz: tsc::hz(),
        build: build_info(&eal),
        config,
        source,
        failover,
    };
    // Workers run until the control thread raises the stop flag; without one they stop at once.
    let control = control::spawn(reins, plant).inspect_err(|_| stop.store(true, Relaxed));
    let stats = crew.lcores.join()?;
    control?.finish()?;
    let forgotten = ports.iter().map(Port::buffers_forgotten).sum();
    ports::stop(ports)?;
    settle(&stats, &pool, forgotten)
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
    let channel = FailoverChannel::new(config.director.workers.len(), hearing);
    Some(Arc::new(channel.telling_again(refresh)))
}
