//! Whether a director can do its work: its links, its workers and its control side.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::announcer::Announcement;
use crate::dataplane::stats::WorkerStats;
use crate::ids::InterfaceId;

/// Without a turn for so long the control side counts as broken.
const CONTROL_PATIENCE: Duration = Duration::from_secs(5);
/// Without a poll for so long a worker does, and whoever looks at the links without a look.
const WORKER_PATIENCE: Duration = Duration::from_secs(1);
/// Who was not looked at for so long has not been seen to stand still: all of the process did.
const LOOKED_AWAY: Duration = Duration::from_millis(100);

/// Tells about the links of ports; the director asks DPDK.
pub trait LinkSource: std::fmt::Debug + Send {
    /// Whether an interface has a link. Asked some hundred times a second: it must not block.
    fn is_up(&self, interface: InterfaceId) -> bool;

    /// Counts up whenever they are looked at, many times a second.
    fn looks(&self) -> u64;
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
    /// It may have gone on at this time.
    fn forgive(&mut self, now: Duration) {
        self.since = now;
    }

    /// How long it has stood still.
    fn stands_still(&mut self, now: Duration, count: u64) -> Duration {
        if count != self.count {
            (self.count, self.since) = (count, now);
        }
        now.saturating_sub(self.since)
    }
}

/// Interfaces of which one at least must have a link: those by which the world reaches some address.
pub(super) type Ways = Vec<InterfaceId>;

/// By which interfaces the addresses that move are reached.
pub(super) fn ways(addresses: &[Announcement]) -> Vec<Ways> {
    let mut by_address = BTreeMap::<_, Ways>::new();
    for &(interface, address) in addresses {
        // Each link has its own of these.
        let link = is_of_link(address).then_some(interface);
        by_address.entry((address, link)).or_default().push(interface);
    }
    let each: BTreeSet<Ways> = by_address.into_values().collect();
    each.into_iter().collect()
}

fn is_of_link(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// What is looked at.
#[derive(Debug)]
pub(super) struct Health {
    links: Box<dyn LinkSource>,
    /// The interfaces' names.
    names: Vec<String>,
    ways: Vec<Ways>,
    looks: Progress,
    workers: Vec<(Arc<WorkerStats>, Progress)>,
    control: (Pulse, Progress),
    looked: Duration,
}

impl Health {
    pub(super) fn new(
        links: Box<dyn LinkSource>,
        (names, ways): (Vec<String>, Vec<Ways>),
        workers: Vec<Arc<WorkerStats>>,
        pulse: Pulse,
    ) -> Self {
        let workers = workers.into_iter().map(|stats| (stats, Progress::default())).collect();
        let looks = Progress::default();
        Self {
            links,
            names,
            ways,
            looks,
            workers,
            control: (pulse, Progress::default()),
            looked: Duration::ZERO,
        }
    }

    /// The addresses that move are reached by these from now on.
    pub(super) fn watch(&mut self, ways: Vec<Ways>) {
        self.ways = ways;
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
    pub(super) fn fault(&mut self, now: Duration) -> Option<String> {
        let looked = std::mem::replace(&mut self.looked, now);
        if now.saturating_sub(looked) > LOOKED_AWAY {
            self.workers.iter_mut().for_each(|(_, progress)| progress.forgive(now));
            self.control.1.forgive(now);
            self.looks.forgive(now);
        }
        let is_cut = |ways: &&Ways| !ways.iter().any(|interface| self.links.is_up(*interface));
        if let Some(ways) = self.ways.iter().find(is_cut) {
            return Some(self.no_link(ways));
        }
        if self.looks.stands_still(now, self.links.looks()) > WORKER_PATIENCE {
            return Some("no port tells of its link".to_owned());
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

    fn no_link(&self, ways: &[InterfaceId]) -> String {
        let names = ways.iter().filter_map(|interface| self.names.get(interface.index()));
        let names: Vec<&str> = names.map(String::as_str).collect();
        match names[..] {
            [name] => format!("interface {name} has no link"),
            _ => format!("none of the interfaces {} has a link", names.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::control::config::{self, Machine, Preempt};
    use crate::control::failover::link::Link;
    use crate::control::failover::{Action, Election, Role, Rules};
    use crate::control::ownership;
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
    struct Ports(Arc<[AtomicBool; 2]>, Arc<AtomicU64>);

    impl LinkSource for Ports {
        fn is_up(&self, interface: InterfaceId) -> bool {
            !self.0[usize::from(interface.0)].load(Relaxed)
        }

        fn looks(&self) -> u64 {
            self.1.load(Relaxed)
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
            let names = links.iter().map(|link| link.name.clone()).collect();
            let watched = (names, ways(&ownership::moving_addresses(&loaded.config)));
            let source = Box::new(ports.clone());
            let health = Health::new(source, watched, workers.to_vec(), pulse.clone());
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
            let is_looked_at = stands_still != Some("the port");
            self.ports.1.fetch_add(u64::from(is_looked_at), Relaxed);
            let control_turns = stands_still != Some("the control side");
            control_turns.then(|| self.pulse.beat());
            self.health.fault(self.now)
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
    fn a_port_that_tells_nothing_of_its_link_is_broken_after_a_second() {
        let mut bench = Bench::new();
        assert_eq!(bench.after(100, None), None);
        assert_eq!(bench.after(100, Some("the port")), None);
        let fault = bench.after(1, Some("the port"));
        assert_eq!(fault.as_deref(), Some("no port tells of its link"));
        assert_eq!(bench.after(1, None), None);
    }

    #[test]
    fn a_process_that_has_slept_has_no_part_that_stands_still() {
        let mut bench = Bench::new();
        assert_eq!(bench.after(100, None), None);
        bench.now += Duration::from_secs(3600);
        // The failover thread is the first one that goes on.
        assert_eq!(bench.turn(Some("worker 1")), None);
        assert_eq!(bench.after(99, Some("worker 1")), None);
        assert_eq!(bench.after(2, Some("worker 1")), Some("worker 1 stands still".into()));
    }

    /// A VIP on a link of its own, and one that both outside interfaces lead to.
    #[test]
    fn an_address_that_nothing_leads_to_is_a_fault_though_none_floats_on_its_links() {
        let third = "[interface.second]\nrole = \"outside\"\ndevice = \"0000:3b:00.2\"\n\
                     addresses = [\"198.51.100.2/24\"]\n\n[[failover]]";
        let floating = "  { interface = \"outside\", address = \"192.0.2.100\" },\n";
        let of = |vip: &str| {
            let text = PAIR.replace("[[failover]]", third).replace(floating, "");
            let text = text.replace("192.0.2.100", vip);
            let loaded = config::parse(&text, "pair.toml", &Machine::with_cpus(2)).unwrap();
            ways(&ownership::moving_addresses(&loaded.config))
        };
        let [outside, inside, second] = [0, 1, 2].map(InterfaceId);
        assert_eq!(of("192.0.2.100"), [vec![outside], vec![inside]]);
        assert_eq!(of("198.51.100.100"), [vec![inside], vec![second]]);
        assert_eq!(of("203.0.113.1"), [vec![outside, second], vec![inside]]);
        let mut bench = Bench::new();
        let both = vec![InterfaceId(0), InterfaceId(1)];
        bench.health.watch(vec![both]);
        bench.ports.0[1].store(true, Relaxed);
        assert_eq!(bench.turn(None), None, "one of them leads there");
        bench.ports.0[0].store(true, Relaxed);
        let fault = bench.turn(None).unwrap();
        assert_eq!(fault, "none of the interfaces outside, inside has a link");
        bench.health.watch(vec![vec![InterfaceId(1)]]);
        assert_eq!(bench.turn(None).unwrap(), "interface inside has no link");
        bench.health.watch(Vec::new());
        assert_eq!(bench.turn(None), None, "no address moves");
    }

    /// A link-local address may be the same one on every link.
    #[test]
    fn each_link_must_be_there_for_its_own_link_local_address() {
        let gateway: IpAddr = "fe80::1".parse().unwrap();
        let [one, other] = [0, 1].map(InterfaceId);
        assert_eq!(ways(&[(one, gateway), (other, gateway)]), [vec![one], vec![other]]);
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
            let mut election = Election::new(rules, None, Duration::ZERO, &mut actions);
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
