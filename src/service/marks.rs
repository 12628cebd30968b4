//! Firewall marks, ready to be asked on a packet's way.

use ipnet::IpNet;

use super::{MarkRule, PortRange};
use crate::ids::InterfaceId;
use crate::wire::address::Address;
use crate::wire::flow_key::FlowKey;
use crate::wire::ipv4::protocol;
use crate::wire::prefix::Prefix;

/// A rule of one address family, and the service of its mark.
#[derive(Debug)]
struct Rule<A: Address> {
    addresses: Vec<Prefix<A>>,
    sources: Vec<Prefix<A>>,
    protocol: Option<u8>,
    ports: Vec<PortRange>,
    interface: Option<InterfaceId>,
    /// The place of the mark's service in the list of all; `None`: it has none.
    place: Option<u32>,
}

fn of_family<A: Address>(networks: &[IpNet]) -> Vec<Prefix<A>> {
    networks.iter().copied().filter_map(Prefix::of).collect()
}

impl<A: Address> Rule<A> {
    /// The part of a rule that is of this family; `None`: there is none.
    fn compile(rule: &MarkRule, place: Option<u32>) -> Option<Self> {
        let addresses = of_family(&rule.addresses);
        let sources = of_family(&rule.sources);
        let matches = !addresses.is_empty() && (rule.sources.is_empty() || !sources.is_empty());
        matches.then(|| Self {
            addresses,
            sources,
            protocol: rule.protocol.map(|protocol| protocol as u8),
            ports: rule.ports.clone(),
            interface: rule.interface,
            place,
        })
    }

    fn marks(&self, key: &FlowKey<A>, interface: Option<InterfaceId>) -> bool {
        let has_ports = matches!(key.protocol, protocol::TCP | protocol::UDP | protocol::SCTP);
        let port = key.destination_port.get();
        self.protocol.map_or(has_ports, |protocol| protocol == key.protocol)
            && (self.ports.is_empty() || self.ports.iter().any(|range| range.contains(port)))
            && self.addresses.iter().any(|network| network.contains(key.destination))
            && (self.sources.is_empty()
                || self.sources.iter().any(|network| network.contains(key.source)))
            && self.interface.is_none_or(|known| Some(known) == interface)
    }
}

/// The rules of one family, in their order.
#[derive(Debug)]
pub(super) struct Marks<A: Address>(Vec<Rule<A>>);

impl<A: Address> Default for Marks<A> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<A: Address> Marks<A> {
    /// Whether there are none.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds what is of this family of a rule.
    pub(super) fn add(&mut self, rule: &MarkRule, place: Option<u32>) {
        self.0.extend(Rule::compile(rule, place));
    }

    /// The service of the mark that a packet has.
    #[cold]
    pub(super) fn find(&self, key: &FlowKey<A>, interface: Option<InterfaceId>) -> Option<u32> {
        self.0.iter().find(|rule| rule.marks(key, interface))?.place
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Protocol;
    use crate::wire::U16;

    fn rule() -> MarkRule {
        MarkRule {
            mark: 7.try_into().unwrap(),
            addresses: vec!["192.0.2.100/32".parse().unwrap(), "2001:db8::/64".parse().unwrap()],
            protocol: None,
            ports: Vec::new(),
            sources: Vec::new(),
            interface: None,
        }
    }

    fn key(last: u8, port: u16, protocol: u8) -> FlowKey<[u8; 4]> {
        FlowKey {
            source: [198, 18, 0, 7],
            destination: [192, 0, 2, last],
            source_port: U16::new(20_000),
            destination_port: U16::new(port),
            protocol,
        }
    }

    fn found(rules: &[MarkRule], key: FlowKey<[u8; 4]>, interface: u8) -> Option<u32> {
        let mut marks = Marks::default();
        for (place, rule) in (0..).zip(rules) {
            marks.add(rule, Some(place));
        }
        marks.find(&key, Some(InterfaceId(interface)))
    }

    #[test]
    fn every_condition_of_a_rule_must_hold() {
        let web = MarkRule {
            protocol: Some(Protocol::Tcp),
            ports: vec![PortRange::one(80), PortRange::new(440, 450).unwrap()],
            sources: vec!["198.18.0.0/16".parse().unwrap()],
            interface: Some(InterfaceId(1)),
            ..rule()
        };
        let is_marked =
            |key, interface| found(std::slice::from_ref(&web), key, interface).is_some();
        assert!(is_marked(key(100, 80, 6), 1));
        assert!(is_marked(key(100, 443, 6), 1));
        assert!(!is_marked(key(101, 80, 6), 1), "address");
        assert!(!is_marked(key(100, 81, 6), 1), "port");
        assert!(!is_marked(key(100, 80, 17), 1), "protocol");
        assert!(!is_marked(key(100, 80, 6), 0), "interface");
        let stranger = FlowKey { source: [198, 19, 0, 7], ..key(100, 80, 6) };
        assert!(!is_marked(stranger, 1), "source");
    }

    #[test]
    fn what_is_not_stated_matches_all_that_a_service_can_have() {
        for protocol in [6, 17, 132] {
            assert_eq!(found(&[rule()], key(100, 9, protocol), 0), Some(0));
        }
        assert_eq!(found(&[rule()], key(100, 0, 1), 0), None, "ICMP has no service");
    }

    #[test]
    fn the_first_rule_that_matches_gives_the_mark() {
        let narrow = MarkRule { ports: vec![PortRange::one(80)], ..rule() };
        assert_eq!(found(&[narrow.clone(), rule()], key(100, 80, 6), 0), Some(0));
        assert_eq!(found(&[narrow.clone(), rule()], key(100, 81, 6), 0), Some(1));
        assert_eq!(found(&[rule(), narrow], key(100, 80, 6), 0), Some(0));
    }

    #[test]
    fn sources_of_the_other_family_alone_match_nothing() {
        let v6_only = MarkRule { sources: vec!["2001:db8:1::/48".parse().unwrap()], ..rule() };
        assert_eq!(found(&[v6_only], key(100, 80, 6), 0), None);
    }
}
