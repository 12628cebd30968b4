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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::control::config::{self, Machine, Preempt};
    use crate::control::failover::{Action, Election, Role, Rules};
    use crate::wire::vrrp::Version;

    const PAIR: &str = r#"
[director]
workers = [0, 1]

[interface.outside]
role = "outside"
device = "0000:3b:00.0"
addresses = ["192.0.2.2/24"]

[interface.inside]
role = "inside"
device = "0000:3b:00.1"
addresses = ["10.0.0.2/24"]

[[failover]]
name = "pair"
router_id = 51
floating = [
  { interface = "outside", address = "192.0.2.100" },
  { interface = "inside", address = "10.0.0.1" },
]

[[service]]
name = "web"
listen = "tcp://192.0.2.100:80"
servers = [{ address = "10.0.0.11:8080" }]
"#;

    /// The ports of both interfaces.
    #[derive(Debug, Default, Clone)]
    struct Ports(Arc<[AtomicBool; 2]>);

    impl LinkSource for Ports {
        fn is_up(&self, interface: InterfaceId) -> bool {
            !self.0[usize::from(interface.0)].load(Relaxed)
        }
    }

    /// What is looked at, while all of it works but what is left out.
    struct Bench {
        health: Health,
        links: Vec<Link>,
        ports: Ports,
        workers: [Arc<WorkerStats>; 2],
        pulse: Pulse,
        now: Duration,
    }

    impl Bench {
        fn new() -> Self {
            let loaded = config::parse(PAIR, "pair.toml", &Machine::with_cpus(2)).unwrap();
            let group = loaded.config.failover.as_ref().unwrap();
            let links = Link::all(&loaded.config, group, &[[2; 6]; 2]);
            assert_eq!(links.len(), 2);
            let (ports, pulse) = (Ports::default(), Pulse::default());
            let workers = [(); 2].map(|()| Arc::<WorkerStats>::default());
            let health = Health::new(Box::new(ports.clone()), workers.to_vec(), pulse.clone());
            Self { health, links, ports, workers, pulse, now: Duration::ZERO }
        }

        /// What is broken after some hundredths of a second in which all but this has worked.
        fn after(&mut self, hundredths: u32, stands_still: Option<&str>) -> Option<String> {
            (0..hundredths).find_map(|_| self.turn(stands_still))
        }

        fn turn(&mut self, stands_still: Option<&str>) -> Option<String> {
            self.now += Duration::from_millis(10);
            for (worker, stats) in self.workers.iter().enumerate() {
                let is_still = stands_still == Some(&*format!("worker {worker}"));
                stats.polls.add(u64::from(!is_still));
            }
            let control_turns = stands_still != Some("the control side");
            control_turns.then(|| self.pulse.beat());
            self.health.fault(self.now, &self.links)
        }
    }

    #[test]
    fn a_worker_is_broken_after_a_second_and_the_control_side_after_five() {
        for (what, patience) in [("worker 0", 100), ("worker 1", 100), ("the control side", 500)] {
            let mut bench = Bench::new();
            assert_eq!(bench.after(1000, None), None);
            assert_eq!(bench.after(patience, Some(what)), None, "{what}");
            assert_eq!(bench.after(1, Some(what)), Some(format!("{what} stands still")));
            assert_eq!(bench.after(1, None), None, "{what} works again");
        }
    }

    #[test]
    fn how_long_the_slowest_worker_is_blind_is_known() {
        let mut bench = Bench::new();
        bench.after(10, None);
        assert_eq!(bench.health.blind_for(bench.now), Duration::ZERO);
        bench.after(7, Some("worker 1"));
        assert_eq!(bench.health.blind_for(bench.now), Duration::from_millis(70));
    }

    #[test]
    fn whatever_is_broken_gives_up_both_sides() {
        for what in ["worker 1", "the control side", "outside", "inside"] {
            let mut bench = Bench::new();
            let (mut actions, interval) = (Vec::new(), Duration::from_millis(100));
            let links: Vec<_> = bench.links.iter().map(|link| link.own).collect();
            let (version, preempt) = (Version::V3, Preempt::Never);
            let rules = Rules { version, priority: 255, interval, preempt, learns: false, links };
            let mut election = Election::new(rules, Duration::ZERO, &mut actions);
            assert_eq!(election.state().0, Role::Master);
            actions.clear();
            if let Some(place) = bench.links.iter().position(|link| link.name == what) {
                bench.ports.0[place].store(true, Relaxed);
            }
            let fault = bench.after(600, Some(what)).unwrap();
            assert!(fault.contains(what), "{fault}");
            election.set_fault(bench.now, Some(&fault), &mut actions);
            let silent = [0, 1].map(|link| Action::Advertise { link, priority: 0 });
            assert_eq!(actions[..2], silent, "{what}");
            assert_eq!(election.state().0, Role::Fault);
        }
    }
}
