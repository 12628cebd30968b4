//! Whether a director can do its work: its links, its workers and its control side.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::link::Link;
use crate::dataplane::stats::WorkerStats;
use crate::ids::InterfaceId;

/// Without a turn for so long the control side counts as broken.
const CONTROL_PATIENCE: Duration = Duration::from_secs(5);
/// Without a poll for so long a worker does.
const WORKER_PATIENCE: Duration = Duration::from_secs(1);

/// Tells about the links of ports; the director asks DPDK.
pub trait LinkSource: std::fmt::Debug + Send {
    /// Whether an interface has a link. Asked some hundred times a second: it must not block.
    fn is_up(&self, interface: InterfaceId) -> bool;
}

/// Says that the control side turns, and when it did.
#[derive(Clone, Debug, Default)]
pub(in crate::control) struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// The control side has turned.
    pub(in crate::control) fn beat(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}

/// Something that counts up while it works.
#[derive(Debug, Default)]
struct Progress {
    count: u64,
    since: Duration,
}

impl Progress {
    /// How long it has stood still.
    fn stands_still(&mut self, now: Duration, count: u64) -> Duration {
        if count != self.count {
            (self.count, self.since) = (count, now);
        }
        now.saturating_sub(self.since)
    }
}

/// What is looked at.
#[derive(Debug)]
pub(super) struct Health {
    links: Box<dyn LinkSource>,
    workers: Vec<(Arc<WorkerStats>, Progress)>,
    control: (Pulse, Progress),
}

impl Health {
    pub(super) fn new(
        links: Box<dyn LinkSource>,
        workers: Vec<Arc<WorkerStats>>,
        pulse: Pulse,
    ) -> Self {
        let workers = workers.into_iter().map(|stats| (stats, Progress::default())).collect();
        Self { links, workers, control: (pulse, Progress::default()) }
    }

    pub(super) fn is_up(&self, interface: InterfaceId) -> bool {
        self.links.is_up(interface)
    }

    /// How long the slowest worker has not looked at its queues.
    pub(super) fn blind_for(&mut self, now: Duration) -> Duration {
        let blind = |(stats, progress): &mut (Arc<WorkerStats>, Progress)| {
            progress.stands_still(now, stats.polls.get())
        };
        self.workers.iter_mut().map(blind).max().unwrap_or_default()
    }

    /// What is broken.
    pub(super) fn fault(&mut self, now: Duration, links: &[Link]) -> Option<String> {
        if let Some(link) = links.iter().find(|link| !self.links.is_up(link.interface)) {
            return Some(format!("interface {} has no link", link.name));
        }
        let stuck = self.workers.iter_mut().position(|(stats, progress)| {
            progress.stands_still(now, stats.polls.get()) > WORKER_PATIENCE
        });
        if let Some(worker) = stuck {
            return Some(format!("worker {worker} stands still"));
        }
        let (Pulse(beats), progress) = &mut self.control;
        let is_stuck = progress.stands_still(now, beats.load(Relaxed)) > CONTROL_PATIENCE;
        is_stuck.then(|| "the control side stands still".to_owned())
    }
}
