//! What the API and the metrics read: the plant as the control thread sees it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::api::message::{Traffic, UpgradeStatus};
use super::config::Config;
use super::desired::{Inventory, InventoryService};
use super::failover::Failover;
use super::ledger::Ledger;
use super::neighbor::Neighbors;
use super::rates::{Rates, Sample};
use super::{BuildInfo, DeviceSource, PoolReport, PortReport, WorkerHandle};
use crate::dataplane::stats::WorkerStats;
use crate::ids::{CpuId, ServerSlot, WorkerId};
use crate::service::ServerLoads;

/// Time without a poll after which a worker counts as stuck, and without a turn after which the
/// control loop does.
const STUCK_AFTER: Duration = Duration::from_secs(3);

/// A worker without its mailbox.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) id: WorkerId,
    pub(super) cpu: CpuId,
    pub(super) stats: Arc<WorkerStats>,
}

impl Worker {
    pub(super) fn of(handle: &WorkerHandle) -> Self {
        Self { id: handle.id, cpu: handle.cpu, stats: Arc::clone(&handle.stats) }
    }
}

/// A value that readers and the control loop share. Both live on one thread, so nobody waits.
#[derive(Debug, Default)]
pub(super) struct Shared<T: ?Sized>(Mutex<T>);

impl<T> From<T> for Shared<T> {
    fn from(value: T) -> Self {
        Self(Mutex::new(value))
    }
}

impl<T> Shared<T> {
    fn get(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When the director started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    instant: Instant,
    unix: Duration,
}

impl Clock {
    pub(super) fn start() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { instant: Instant::now(), unix }
    }

    /// Time since the start.
    pub(super) fn uptime(&self) -> Duration {
        self.instant.elapsed()
    }

    /// The start, since 1970.
    pub(super) fn started(&self) -> Duration {
        self.unix
    }
}

/// Seconds since 1970.
pub(super) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// What the loop last said about itself and the workers.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// The last turn of the loop.
    beat: Duration,
    /// Each worker's polls, and when they last changed.
    polls: Vec<(u64, Duration)>,
    /// Essential neighbours of which nothing is known yet.
    unsettled: Vec<String>,
    stopping: bool,
}

/// The plant as readers see it.
#[derive(Debug)]
pub(super) struct Observed {
    pub(super) config: Config,
    pub(super) workers: Vec<Worker>,
    pub(super) loads: Arc<ServerLoads>,
    pub(super) devices: Shared<Box<dyn DeviceSource + Send>>,
    pub(super) inventory: Shared<Arc<Inventory>>,
    pub(super) tsc_hz: u64,
    pub(super) build: BuildInfo,
    pub(super) clock: Clock,
    pub(super) rates: Shared<(Option<Sample>, Arc<Rates>)>,
    pub(super) health: Shared<Health>,
    pub(super) changes: Shared<ChangeCounts>,
    /// What belongs to whom of what the workers count.
    pub(super) ledger: Shared<Ledger>,
    /// The failover thread; `None`: the director is alone.
    pub(super) failover: Option<Failover>,
    /// What has become of connections at the start, and of the last upgrade.
    pub(super) upgrade: Shared<UpgradeStatus>,
}

/// What has become of changes since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ChangeCounts {
    pub(super) applied: u64,
    pub(super) without_effect: u64,
    pub(super) refused: u64,
    pub(super) acknowledged: u64,
    /// From the change to the last worker's acknowledgement.
    pub(super) seconds: Duration,
    pub(super) last: Duration,
}

impl Observed {
    pub(super) fn ports(&self) -> Vec<PortReport> {
        self.devices.get().ports()
    }

    pub(super) fn pools(&self) -> Vec<PoolReport> {
        self.devices.get().pools()
    }

    pub(super) fn inventory(&self) -> Arc<Inventory> {
        Arc::clone(&self.inventory.get())
    }

    /// These services are in force now.
    pub(super) fn set_inventory(&self, inventory: &Arc<Inventory>) {
        let old = std::mem::replace(&mut *self.inventory.get(), Arc::clone(inventory));
        self.ledger.get().adopt(&old, inventory);
    }

    /// How the last upgrade is.
    pub(super) fn upgrade(&self) -> UpgradeStatus {
        self.upgrade.get().clone()
    }

    /// The same, from now on; what was taken over at the start stays.
    pub(super) fn set_upgrade(&self, status: UpgradeStatus) {
        let mut kept = self.upgrade.get();
        let taken_over = kept.taken_over.take();
        *kept = UpgradeStatus { taken_over, ..status };
    }

    /// What has become of changes.
    pub(super) fn changes(&self) -> ChangeCounts {
        *self.changes.get()
    }

    /// Counts a change that the last worker has taken over.
    pub(super) fn count_acknowledged(&self, took: Duration) {
        self.count_change(|counts| {
            counts.acknowledged += 1;
            counts.seconds += took;
            counts.last = took;
        });
    }

    /// Counts what has become of a change.
    pub(super) fn count_change(&self, count: impl FnOnce(&mut ChangeCounts)) {
        count(&mut self.changes.get());
    }

    /// The rates over the last second or so.
    pub(super) fn rates(&self) -> Arc<Rates> {
        Arc::clone(&self.rates.get().1)
    }

    /// Sets the counters of a service, or of all, back to 0; `None`: there is no such service.
    pub(super) fn zero(&self, service: Option<&str>) -> Option<()> {
        let inventory = self.inventory();
        self.ledger.get().set_back(&inventory, service, |slot| self.counted(slot))
    }

    /// What the workers have counted for a slot since they run.
    fn counted(&self, slot: ServerSlot) -> Traffic {
        let workers = self.workers.iter().filter_map(|worker| worker.stats.server(slot));
        workers.fold(Traffic::default(), |sum, counters| {
            sum.plus(Traffic {
                connections: counters.connections.get(),
                in_packets: counters.in_packets.get(),
                out_packets: counters.out_packets.get(),
                in_octets: counters.in_octets.get(),
                out_octets: counters.out_octets.get(),
            })
        })
    }

    /// What a server has counted.
    pub(super) fn server_traffic(&self, slot: ServerSlot) -> Traffic {
        self.ledger.get().server(slot, self.counted(slot))
    }

    /// The same since it was last set back.
    pub(super) fn server_since_zero(&self, slot: ServerSlot) -> Traffic {
        self.ledger.get().server_since_zero(slot, self.counted(slot))
    }

    /// What a service has counted, with servers that are gone.
    pub(super) fn service_traffic(&self, entry: &InventoryService) -> Traffic {
        self.ledger.get().service(entry, |slot| self.counted(slot))
    }

    /// The same since it was last set back.
    pub(super) fn service_since_zero(&self, entry: &InventoryService) -> Traffic {
        self.ledger.get().service_since_zero(entry, |slot| self.counted(slot))
    }

    /// Slots of servers that are gone, connections and all, are to be given to others.
    pub(super) fn slots_returned(&self, slots: &[ServerSlot]) {
        self.ledger.get().returned(slots, |slot| self.counted(slot));
    }

    /// Whether each interface has a link: as its port says and, in a pair, as failover sees it.
    pub(super) fn links(&self) -> Vec<bool> {
        let ports = self.ports();
        let seen = self.failover.as_ref().map(|failover| failover.status().links);
        let is_up = |name: &String| {
            let has_link = ports.iter().any(|port| port.link_up && port.interfaces.contains(name));
            let mut seen = seen.iter().flatten().filter(|link| link.interface == *name);
            has_link && seen.all(|link| link.up)
        };
        self.config.interfaces.iter().map(|interface| is_up(&interface.name)).collect()
    }

    /// Measures rates anew.
    pub(super) fn sample(&self, now: Duration) {
        let sample = Sample::take(self, now);
        let mut kept = self.rates.get();
        if let Some(before) = &kept.0 {
            kept.1 = Arc::new(Rates::between(before, &sample));
        }
        kept.0 = Some(sample);
        drop(kept);
        let mut health = self.health.get();
        health.polls.resize(self.workers.len(), (0, now));
        for (worker, (polls, since)) in self.workers.iter().zip(&mut health.polls) {
            let current = worker.stats.polls.get();
            if *polls != current {
                (*polls, *since) = (current, now);
            }
        }
    }

    /// The loop says that it turns.
    pub(super) fn beat(&self, now: Duration, neighbors: &Neighbors) {
        let mut health = self.health.get();
        health.beat = now;
        // They only ever become fewer.
        if health.unsettled.len() == neighbors.unsettled().len() {
            return;
        }
        let name = |neighbor: &super::Neighbor| {
            let interface = self.config.interfaces.get(neighbor.interface.index());
            let interface = interface.map_or("?", |section| section.name.as_str());
            format!("{} on {interface}", neighbor.address)
        };
        health.unsettled = neighbors.unsettled().iter().map(name).collect();
    }

    /// The director stops: no longer ready.
    pub(super) fn stop(&self) {
        self.health.get().stopping = true;
    }

    /// What keeps the director from being healthy: every worker and the control loop must make
    /// progress.
    pub(super) fn ailments(&self) -> Vec<String> {
        let now = self.clock.uptime();
        let health = self.health.get();
        let mut ailments = Vec::new();
        if now.saturating_sub(health.beat) > STUCK_AFTER {
            ailments.push("the control loop makes no progress".to_owned());
        }
        for (worker, (_, since)) in self.workers.iter().zip(&health.polls) {
            if now.saturating_sub(*since) > STUCK_AFTER {
                ailments
                    .push(format!("worker {} on CPU {} makes no progress", worker.id, worker.cpu));
            }
        }
        ailments
    }

    /// What keeps the director from being ready for traffic: it must be healthy, every worker
    /// must poll, every link must be up, and every gateway and way to a real server must have
    /// answered ARP or Neighbor Discovery, or have been given up.
    pub(super) fn obstacles(&self) -> Vec<String> {
        let mut obstacles = self.ailments();
        for worker in &self.workers {
            if worker.stats.polls.get() == 0 {
                obstacles.push(format!("worker {} has not begun to poll", worker.id));
            }
        }
        for port in self.ports() {
            if !port.link_up {
                obstacles.push(format!("the link of interface {} is down", port.name()));
            }
        }
        let health = self.health.get();
        let waits =
            health.unsettled.iter().map(|name| format!("neighbour {name} is being resolved"));
        obstacles.extend(waits);
        if health.stopping {
            obstacles.push("the director is stopping".to_owned());
        }
        obstacles
    }
}
