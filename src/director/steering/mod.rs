//! Steering in hardware where NICs can: each port gets the best mode that its device takes, and the
//! workers' rule of ownership is what the NICs do, as soon as one of them steers.
//!
//! Workers compute the owner of every packet by themselves, so a port in a lesser mode, or a NIC
//! that hashes otherwise, costs hand-overs and nothing else.

mod hash_check;
mod plan;
mod rules;

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;

use super::DirectorError;
use crate::control::config::{Config, PortConfig, Role};
use crate::control::{HashCheck, SteeringMode};
use crate::dataplane::endpoint_hash::EndpointHash;
use crate::dataplane::steering::Steering;
use crate::dpdk::error::DpdkError;
use crate::dpdk::port::{Granted, Port};
use crate::dpdk::rss::{HashedEnd, RssSettings};
use crate::ids::{QueueId, VlanId};
use crate::wire::flow_key::HashSecret;
use crate::wire::toeplitz::{End, KEY_OCTETS, Key, KeyPair};

pub(super) use hash_check::PortCheck;
use plan::{Plan, RuleStyle, Side, plan};

/// What is meant to be, before ports are set up.
#[derive(Debug)]
pub(super) struct Design {
    ports: Vec<(Side, Plan)>,
    keys: KeyPair,
    /// The rule where no NIC steers.
    keyed: Steering,
    /// The rule where one does.
    as_the_nic: Steering,
    /// Entries of the smallest table.
    entries: usize,
    externals: Vec<IpAddr>,
    ipv6: bool,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Steered {
    /// The workers' rule.
    pub(super) steering: Steering,
    /// By port.
    pub(super) ports: Vec<(SteeringMode, Option<PortCheck>)>,
}

impl Design {
    /// For ports that are open and not yet configured, in the order of [`Config::ports`].
    pub(super) fn of(
        config: &Config,
        ports: &[Port],
        secret: HashSecret,
    ) -> Result<Self, DirectorError> {
        let workers = u16::try_from(config.director.workers.len()).unwrap_or(u16::MAX);
        let of_port = |(wanted, port): (PortConfig<'_>, &Port)| {
            let queues = wanted.queues().unwrap_or(workers).min(workers);
            let side = side(&wanted);
            (side, plan(port.capabilities(), side, queues, workers))
        };
        let ports: Vec<_> = config.ports().into_iter().zip(ports).map(of_port).collect();
        let smallest = ports.iter().filter(|(_, plan)| plan.is_hardware());
        let smallest = smallest.map(|(_, plan)| plan.entries).min();
        let entries = smallest.unwrap_or_default().clamp(1, Steering::MAX_ENTRIES);
        let keys = keys(config)?;
        let hash = EndpointHash::new(keys.key(End::Source), keys.input(), End::Source);
        let keyed = Steering::new(workers, secret);
        let externals = externals(config);
        Ok(Self {
            as_the_nic: keyed.clone().as_the_nic(Arc::new(hash), entries),
            ports,
            keys,
            keyed,
            entries,
            ipv6: uses_ipv6(config, &externals),
            externals,
        })
    }

    fn port(&self, place: usize) -> Option<(Side, &Plan)> {
        self.ports.get(place).map(|(side, plan)| (*side, plan))
    }

    /// The modes that a port is tried with.
    pub(super) fn modes(&self, place: usize) -> &[SteeringMode] {
        self.port(place).map_or(&[], |(_, plan)| &plan.modes)
    }

    /// What a port is asked for in a mode.
    pub(super) fn rss(&self, place: usize, mode: SteeringMode) -> RssSettings {
        let Some((side, plan)) = self.port(place) else { return RssSettings::default() };
        let only = side.outside_end().filter(|_| mode == SteeringMode::HashedEnd);
        let end = match side.outside_end() {
            Some(HashedEnd::Destination) => End::Destination,
            Some(HashedEnd::Source) | None => End::Source,
        };
        let key = self.keys.key(end).get(..plan.key_octets).unwrap_or_default();
        RssSettings { key: key.to_vec(), only, off: mode == SteeringMode::Software }
    }

    /// Makes a port that runs steer: the mode that it is in, or why it does not take this one.
    pub(super) fn apply(
        &self,
        wanted: &PortConfig<'_>,
        place: usize,
        mode: SteeringMode,
        port: &mut Port,
    ) -> Result<SteeringMode, DpdkError> {
        let (Some(granted), Some((side, plan))) = (port.granted().cloned(), self.port(place))
        else {
            return Ok(SteeringMode::Software);
        };
        match mode {
            SteeringMode::WholeFlow if granted.rss_types == 0 => {
                return Ok(SteeringMode::Software);
            }
            SteeringMode::OneWorker | SteeringMode::WholeFlow | SteeringMode::Software => {}
            SteeringMode::HashedEnd => {
                if !side.outside_end().is_some_and(|end| granted.hashes_only(end)) {
                    return Err(port.refuses("hashing of one end of a flow"));
                }
                port.set_rss_table(&self.table(plan.entries, &granted))?;
            }
            SteeringMode::FlowRules => self.add_rules(wanted, side, plan, port, &granted)?,
        }
        Ok(mode)
    }

    fn add_rules(
        &self,
        wanted: &PortConfig<'_>,
        side: Side,
        plan: &Plan,
        port: &mut Port,
        granted: &Granted,
    ) -> Result<(), DpdkError> {
        let Some(style) = plan.rule_style else { return Err(port.refuses("flow rules")) };
        let entries = match style {
            RuleStyle::OwnKey => self.entries,
            RuleStyle::PortKey => plan.entries,
        };
        let table = self.table(entries, granted);
        if style == RuleStyle::PortKey {
            if !granted.rss_key {
                return Err(port.refuses("a hash key"));
            }
            port.set_rss_table(&table)?;
        }
        let key = |end| self.keys.key(end).get(..plan.key_octets).unwrap_or_default();
        port.add_rules(&rules::rules(&rules::Wishes {
            side,
            style,
            tags: &tags(wanted),
            ipv6: self.ipv6,
            externals: &self.externals,
            keys: [key(End::Source), key(End::Destination)],
            table: &table,
        }))
    }

    /// From hash to queue: queue i is worker i's.
    fn table(&self, entries: usize, granted: &Granted) -> Vec<QueueId> {
        let hashes = (0..u32::MAX).take(entries);
        let queues = granted.rx_queues.max(1);
        hashes.map(|hash| QueueId(self.as_the_nic.worker_of_hash(hash).0 % queues)).collect()
    }

    /// What came of it, for ports in these modes. Their queues have not been taken yet.
    pub(super) fn conclude(
        &self,
        config: &Config,
        ports: &mut [Port],
        modes: Vec<SteeringMode>,
    ) -> Steered {
        let in_hardware = modes.iter().any(|mode| mode.is_hardware());
        let mut steered = Vec::with_capacity(modes.len());
        for (place, ((wanted, port), mode)) in
            config.ports().iter().zip(ports).zip(modes).enumerate()
        {
            tracing::info!(interface = wanted.name(), mode = mode.name(), "steering");
            let check = mode.is_hardware().then(|| self.check(wanted, place, port)).flatten();
            steered.push((mode, check));
        }
        let steering = if in_hardware { &self.as_the_nic } else { &self.keyed };
        Steered { steering: steering.clone(), ports: steered }
    }

    fn check(&self, wanted: &PortConfig<'_>, place: usize, port: &mut Port) -> Option<PortCheck> {
        let (side, _) = self.port(place)?;
        let rx_queues = port.granted().filter(|granted| granted.tells_hashes())?.rx_queues;
        Some(PortCheck {
            interface: wanted.name(),
            samples: port.sample_hashes(),
            side,
            externals: self.externals.clone(),
            keys: self.keys.clone(),
            steering: self.as_the_nic.clone(),
            rx_queues,
            verdict: Cell::new(HashCheck::Waiting),
        })
    }
}

/// The sides that the interfaces of a port are on.
fn side(wanted: &PortConfig<'_>) -> Side {
    let mut roles = wanted.interfaces.iter().map(|(_, interface)| interface.role);
    let first = roles.next().unwrap_or(Role::Both);
    match first {
        Role::Outside if roles.all(|role| role == first) => Side::Outside,
        Role::Inside if roles.all(|role| role == first) => Side::Inside,
        Role::Outside | Role::Inside | Role::Both => Side::Both,
    }
}

/// Whether there are interfaces without and with a tag on a port.
fn tags(wanted: &PortConfig<'_>) -> Vec<bool> {
    let has = |tagged: bool| {
        let mut vlans = wanted.interfaces.iter().map(|(_, interface)| interface.vlan);
        vlans.any(|vlan| (vlan != VlanId::UNTAGGED) == tagged)
    };
    [false, true].into_iter().filter(|tagged| has(*tagged)).collect()
}

/// The addresses that packets are steered by their source for, each once. Those of networks that
/// firewall marks name are not among them: a NIC with rules sends them to some worker, which passes
/// them on.
fn externals(config: &Config) -> Vec<IpAddr> {
    config.external_addresses().into_iter().collect()
}

fn uses_ipv6(config: &Config, externals: &[IpAddr]) -> bool {
    let mut own = config.interfaces.iter().flat_map(|interface| &interface.addresses);
    own.any(|network| network.addr().is_ipv6()) || externals.iter().any(IpAddr::is_ipv6)
}

/// Random keys, or the configured one as far as it goes.
fn keys(config: &Config) -> Result<KeyPair, DirectorError> {
    let (mut outside, mut rest): (Key, Key) = ([0; KEY_OCTETS], [0; KEY_OCTETS]);
    for key in [&mut outside, &mut rest] {
        getrandom::fill(key).map_err(DirectorError::Random)?;
    }
    for (octet, configured) in outside.iter_mut().zip(config.dpdk.rss_key.iter().flatten()) {
        *octet = *configured;
    }
    Ok(KeyPair::derive(outside, rest, config.dpdk.rss_input))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::config::{Machine, parse};
    use crate::wire::toeplitz::RssInput;

    const KEY: &str =
        "85ac1a18a72ca94a03d74e79e3a1a0e9c2c04ac0b2f2ac0f7f1e0f4b1d6f3c5577c1a2b3d4e5f607";

    fn config(interfaces: &str) -> Config {
        let text = format!(
            "{interfaces}\n[dpdk]\nrss_key = \"{KEY}\"\n\
             [[service]]\nname = \"a\"\nlisten = \"tcp://192.0.2.100:80\"\n\
             servers = [{{ address = \"10.0.0.11:80\" }}]\n\
             [[service]]\nname = \"b\"\nlisten = \"udp://192.0.2.100:53\"\n\
             servers = [{{ address = \"10.0.0.11:53\" }}]\n\
             [[masquerade]]\nsources = [\"10.0.0.0/24\"]\naddresses = [\"192.0.2.9\"]\n"
        );
        match parse(&text, "test", &Machine::with_cpus(4)) {
            Ok(loaded) => loaded.config,
            Err(errors) => panic!("{errors:?}"),
        }
    }

    fn interface(name: &str, role: &str, device: &str, network: u8) -> String {
        format!(
            "[interface.{name}]\nrole = \"{role}\"\ndevice = \"{device}\"\n\
             addresses = [\"10.0.{network}.1/24\"]\n"
        )
    }

    #[test]
    fn a_port_is_on_the_sides_of_all_its_vlans_and_has_their_tags() {
        let nic = "0000:3b:00.0";
        let vlan = |text: String, vlan: u8| format!("{text}vlan = {vlan}\n");
        let outside = config(
            &(interface("o", "outside", nic, 1) + &interface("i", "inside", "0000:3b:00.1", 0)),
        );
        let [first, second] = &outside.ports()[..] else { panic!("two ports") };
        assert_eq!((side(first), side(second)), (Side::Outside, Side::Inside));
        assert_eq!(tags(first), [false]);
        let mixed = config(
            &(interface("o", "outside", nic, 1) + &vlan(interface("i", "inside", nic, 0), 7)),
        );
        let [only] = &mixed.ports()[..] else { panic!("one port") };
        assert_eq!((side(only), tags(only)), (Side::Both, vec![false, true]));
        let alike = config(
            &(vlan(interface("o", "inside", nic, 1), 6)
                + &vlan(interface("i", "inside", nic, 0), 7)
                + &interface("x", "outside", "0000:3b:00.1", 2)),
        );
        let ports = alike.ports();
        assert_eq!((side(&ports[0]), tags(&ports[0])), (Side::Inside, vec![true]));
        let both = config(&interface("x", "both", nic, 0));
        assert_eq!(side(&both.ports()[0]), Side::Both);
    }

    #[test]
    fn vips_and_masquerades_are_external_each_once() {
        let config = config(&interface("x", "both", "0000:3b:00.0", 0));
        let externals = externals(&config);
        assert_eq!(externals, [IpAddr::from([192, 0, 2, 9]), IpAddr::from([192, 0, 2, 100])]);
        assert!(!uses_ipv6(&config, &externals));
        assert!(uses_ipv6(&config, &[IpAddr::from([0; 16])]));
    }

    #[test]
    fn a_configured_key_is_used_and_the_rest_is_new_every_time() {
        let config = config(&interface("x", "both", "0000:3b:00.0", 0));
        let (first, second) = (keys(&config).unwrap(), keys(&config).unwrap());
        assert_eq!(first.input(), RssInput::Zeroed);
        let configured = config.dpdk.rss_key.clone().unwrap();
        // Bits 64 to 78 and 256 to 270 repeat others.
        let outside = first.key(End::Source);
        assert_eq!((&outside[..8], &outside[10..32]), (&configured[..8], &configured[10..32]));
        assert_eq!(outside[34..40], configured[34..]);
        assert_ne!(outside[40..], second.key(End::Source)[40..]);
        assert_ne!(first.key(End::Destination), second.key(End::Destination));
        assert_ne!(first.key(End::Destination), outside);
    }
}
