//! Whether a director can do its work: its links, its workers and its control side.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::announcer::Announcement;
use crate::control::config::FailoverConfig;
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ways {
    interfaces: Vec<InterfaceId>,
    /// An address floats there, as is stated: without these nothing works. The others are worth
    /// being left to another director alone.
    is_stated: bool,
}

/// By which interfaces the addresses that move are reached.
pub(super) fn ways(addresses: &[Announcement], group: &FailoverConfig) -> Vec<Ways> {
    let mut by_address = BTreeMap::<_, Vec<InterfaceId>>::new();
    let mut ways = BTreeMap::<Vec<InterfaceId>, bool>::new();
    for &(interface, address) in addresses {
        if group.floating_of(interface).any(|floating| floating == address) {
            ways.insert(vec![interface], true);
        }
        // Each link has its own of these.
        let link = is_of_link(address).then_some(interface);
        by_address.entry((address, link)).or_default().push(interface);
    }
    for interfaces in by_address.into_values() {
        ways.entry(interfaces).or_default();
    }
    ways.into_iter().map(|(interfaces, is_stated)| Ways { interfaces, is_stated }).collect()
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

    /// What is broken. `is_backed`: another director is known to work, so that one which cannot be
    /// reached by all addresses is no use; with nobody else it goes on with what it reaches.
    pub(super) fn fault(&mut self, now: Duration, is_backed: bool) -> Option<String> {
        let looked = std::mem::replace(&mut self.looked, now);
        if now.saturating_sub(looked) > LOOKED_AWAY {
            self.workers.iter_mut().for_each(|(_, progress)| progress.forgive(now));
            self.control.1.forgive(now);
            self.looks.forgive(now);
        }
        if let Some(ways) = self.cut(true) {
            return Some(ways);
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
        if is_stuck {
            return Some("the control side stands still".to_owned());
        }
        self.unreached().filter(|_| is_backed)
    }

    /// Which link is missing that some addresses need and none that is stated.
    pub(super) fn unreached(&self) -> Option<String> {
        self.cut(false)
    }

    fn cut(&self, is_stated: bool) -> Option<String> {
        let is_cut = |ways: &&Ways| {
            let mut interfaces = ways.interfaces.iter();
            ways.is_stated == is_stated && !interfaces.any(|it| self.links.is_up(*it))
        };
        self.ways.iter().find(is_cut).map(|ways| self.no_link(&ways.interfaces))
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
            let watched = (names, ways(&ownership::moving_addresses(&loaded.config), group));
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
            self.health.fault(self.now, true)
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

    /// A VIP on a link of its own, one that both outside interfaces lead to, and listed ones.
    #[test]
    fn an_address_that_nothing_leads_to_is_a_fault_where_another_director_works() {
        let third = "[interface.second]\nrole = \"outside\"\ndevice = \"0000:3b:00.2\"\n\
                     addresses = [\"198.51.100.2/24\"]\n\n[[failover]]";
        let floating = "  { interface = \"outside\", address = \"192.0.2.100\" },\n";
        let of = |vip: &str| {
            let text = PAIR.replace("[[failover]]", third).replace(floating, "");
            let text = text.replace("192.0.2.100", vip);
            let loaded = config::parse(&text, "pair.toml", &Machine::with_cpus(2)).unwrap();
            let group = loaded.config.failover.as_ref().unwrap();
            ways(&ownership::moving_addresses(&loaded.config), group)
        };
        let [outside, inside, second] = [0, 1, 2].map(InterfaceId);
        let stated = |interface| Ways { interfaces: vec![interface], is_stated: true };
        let other = |interfaces: &[_]| Ways { interfaces: interfaces.to_vec(), is_stated: false };
        assert_eq!(of("192.0.2.100"), [other(&[outside]), stated(inside)]);
        assert_eq!(of("198.51.100.100"), [stated(inside), other(&[second])]);
        assert_eq!(of("203.0.113.1"), [other(&[outside, second]), stated(inside)]);
        let mut bench = Bench::new();
        bench.health.watch(vec![other(&[outside, inside])]);
        bench.ports.0[1].store(true, Relaxed);
        assert_eq!(bench.turn(None), None, "one of them leads there");
        bench.ports.0[0].store(true, Relaxed);
        let none = "none of the interfaces outside, inside has a link";
        assert_eq!(bench.turn(None).unwrap(), none);
        assert_eq!(bench.health.fault(bench.now, false), None, "nobody else works");
        assert_eq!(bench.health.unreached().unwrap(), none);
        bench.health.watch(vec![other(&[outside]), stated(inside)]);
        assert_eq!(bench.turn(None).unwrap(), "interface inside has no link");
        let fault = bench.health.fault(bench.now, false);
        assert_eq!(fault.unwrap(), "interface inside has no link");
        bench.health.watch(Vec::new());
        assert_eq!(bench.turn(None), None, "no address moves");
    }

    /// A link-local address may be the same one on every link.
    #[test]
    fn each_link_must_be_there_for_its_own_link_local_address() {
        let gateway: IpAddr = "fe80::1".parse().unwrap();
        let [one, other] = [0, 1].map(InterfaceId);
        let loaded = config::parse(PAIR, "pair.toml", &Machine::with_cpus(2)).unwrap();
        let group = loaded.config.failover.as_ref().unwrap();
        let ways = ways(&[(one, gateway), (other, gateway)], group);
        let interfaces: Vec<_> = ways.into_iter().map(|ways| ways.interfaces).collect();
        assert_eq!(interfaces, [vec![one], vec![other]]);
    }

    /// As of networks on two interfaces of which one lies within the other.
    #[test]
    fn each_stated_interface_of_one_address_must_have_a_link() {
        let loaded = config::parse(PAIR, "pair.toml", &Machine::with_cpus(2)).unwrap();
        let group = loaded.config.failover.as_ref().unwrap();
        let vip: IpAddr = "192.0.2.100".parse().unwrap();
        let [outside, inside] = [0, 1].map(InterfaceId);
        let ways = ways(&[(outside, vip), (inside, vip)], group);
        let stated = Ways { interfaces: vec![outside], is_stated: true };
        let either = Ways { interfaces: vec![outside, inside], is_stated: false };
        assert_eq!(ways, [stated, either]);
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
