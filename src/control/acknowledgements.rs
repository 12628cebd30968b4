//! Which version of the services each worker has, and who waits for them to have one.

use std::time::Duration;

use tokio::sync::oneshot;

use super::api::message::Changed;
use crate::ids::{TableVersion, WorkerId};

/// Time after which the silent workers are named instead of waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// Versions that a worker may be behind before no more changes are taken.
const BEHIND: u64 = 64;

/// Someone who waits for all workers to have a version.
#[derive(Debug)]
struct Waiting {
    version: TableVersion,
    since: Duration,
    answer: Changed,
    reply: oneshot::Sender<Changed>,
}

/// The versions that the workers have.
#[derive(Debug)]
pub(super) struct Acknowledgements {
    installed: Vec<(WorkerId, TableVersion)>,
    /// In the order of their versions.
    waiting: Vec<Waiting>,
}

impl Acknowledgements {
    /// All workers have `version`.
    pub(super) fn new(workers: impl Iterator<Item = WorkerId>, version: TableVersion) -> Self {
        Self { installed: workers.map(|worker| (worker, version)).collect(), waiting: Vec::new() }
    }

    /// The version that every worker has, or a later one.
    pub(super) fn everywhere(&self) -> TableVersion {
        let versions = self.installed.iter().map(|(_, version)| *version);
        versions.min_by_key(|version| version.0).unwrap_or_default()
    }

    /// A worker that is so far behind `version` that it had better be left alone.
    pub(super) fn straggler(&self, version: TableVersion) -> Option<WorkerId> {
        let behind = |have: TableVersion| version.0.saturating_sub(have.0) >= BEHIND;
        self.installed.iter().find(|(_, have)| behind(*have)).map(|(worker, _)| *worker)
    }

    /// `reply` is sent when all workers have `version`, or when that takes too long.
    pub(super) fn wait(
        &mut self,
        now: Duration,
        version: TableVersion,
        answer: Changed,
        reply: oneshot::Sender<Changed>,
    ) {
        self.waiting.push(Waiting { version, since: now, answer, reply });
    }

    /// A worker has a version; `acknowledged` is told the time of each change that it was the last for.
    pub(super) fn installed(
        &mut self,
        now: Duration,
        worker: WorkerId,
        version: TableVersion,
        mut acknowledged: impl FnMut(Duration),
    ) {
        if let Some((_, have)) = self.installed.iter_mut().find(|(known, _)| *known == worker) {
            *have = version;
        }
        let everywhere = self.everywhere();
        let done = self.waiting.iter().take_while(|waiting| waiting.version.0 <= everywhere.0);
        let done = done.count();
        for Waiting { since, mut answer, reply, .. } in self.waiting.drain(..done) {
            let took = now.saturating_sub(since);
            acknowledged(took);
            answer.acknowledged_seconds = Some(took.as_secs_f64());
            // Who asked may have given up.
            reply.send(answer).ok();
        }
    }

    /// Names the silent workers to those who have waited long enough.
    pub(super) fn give_up(&mut self, now: Duration) {
        let overdue = self.waiting.iter().take_while(|waiting| now >= waiting.since + PATIENCE);
        let overdue = overdue.count();
        for Waiting { version, mut answer, reply, .. } in self.waiting.drain(..overdue) {
            let silent = self.installed.iter().filter(|(_, have)| have.0 < version.0);
            answer.silent_workers = silent.map(|(worker, _)| worker.0).collect();
            let workers = &answer.silent_workers;
            tracing::warn!(%version, ?workers, "workers have not taken the services over");
            reply.send(answer).ok();
        }
    }

    /// Whether somebody waits.
    pub(super) fn is_awaited(&self) -> bool {
        !self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> Changed {
        Changed {
            version: 2,
            plan: Vec::new(),
            warnings: Vec::new(),
            acknowledged_seconds: None,
            silent_workers: Vec::new(),
        }
    }

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_change_is_acknowledged_when_the_last_worker_has_it() {
        let workers = [WorkerId(0), WorkerId(1)];
        let mut desk = Acknowledgements::new(workers.into_iter(), TableVersion(1));
        let (reply, mut answered) = oneshot::channel();
        desk.wait(at(10), TableVersion(2), answer(), reply);
        desk.installed(at(12), WorkerId(1), TableVersion(2), |_| panic!("one is missing"));
        assert!(answered.try_recv().is_err());
        assert_eq!(desk.everywhere(), TableVersion(1));
        let mut times = Vec::new();
        desk.installed(at(15), WorkerId(0), TableVersion(3), |took| times.push(took));
        assert_eq!(answered.try_recv().unwrap().acknowledged_seconds, Some(0.005));
        assert_eq!(times, [at(5)]);
    }

    #[test]
    fn a_silent_worker_is_named() {
        let workers = [WorkerId(0), WorkerId(7)];
        let mut desk = Acknowledgements::new(workers.into_iter(), TableVersion(1));
        let (reply, mut answered) = oneshot::channel();
        desk.wait(at(0), TableVersion(2), answer(), reply);
        desk.installed(at(1), WorkerId(0), TableVersion(2), |_| panic!("one is silent"));
        desk.give_up(at(999));
        assert!(answered.try_recv().is_err());
        desk.give_up(at(1000));
        assert_eq!(answered.try_recv().unwrap().silent_workers, [7]);
        assert_eq!(desk.straggler(TableVersion(65)), Some(WorkerId(7)));
        assert_eq!(desk.straggler(TableVersion(64)), None);
    }
}
