//! The flow rules of a port: which packets are hashed by which end.

use std::net::IpAddr;

use super::plan::{RuleStyle, Side};
use crate::dpdk::flow_rule::RssRule;
use crate::dpdk::rss::HashedEnd;
use crate::ids::QueueId;

/// What rules of a port are made of.
#[derive(Debug)]
pub(super) struct Wishes<'a> {
    pub(super) side: Side,
    pub(super) style: RuleStyle,
    /// Whether there are packets without and with a VLAN tag.
    pub(super) tags: &'a [bool],
    /// Whether IPv6 is used.
    pub(super) ipv6: bool,
    /// VIPs and the addresses that masquerades appear with.
    pub(super) externals: &'a [IpAddr],
    /// The keys by source and by destination.
    pub(super) keys: [&'a [u8]; 2],
    /// From hash to queue.
    pub(super) table: &'a [QueueId],
}

/// The rules, those that go before others first.
pub(super) fn rules(wishes: &Wishes<'_>) -> Vec<RssRule> {
    let mut rules = Vec::new();
    let ends: &[HashedEnd] = match wishes.side {
        Side::Outside => &[HashedEnd::Source],
        Side::Inside => &[HashedEnd::Destination],
        Side::Both => &[HashedEnd::Source, HashedEnd::Destination],
    };
    for (priority, end) in (0..).zip(ends) {
        for ipv6 in [false, true] {
            if ipv6 && !wishes.ipv6 {
                continue;
            }
            for destination in wishes.destinations(*end, ipv6) {
                rules.extend(wishes.of(*end, ipv6, destination, priority));
            }
        }
    }
    rules
}

impl Wishes<'_> {
    /// On a port of both sides, what goes to an external address comes from outside; the rest does
    /// not.
    fn destinations(&self, end: HashedEnd, ipv6: bool) -> Vec<Option<IpAddr>> {
        if self.side == Side::Both && end == HashedEnd::Source {
            let family = self.externals.iter().filter(|address| address.is_ipv6() == ipv6);
            return family.copied().map(Some).collect();
        }
        vec![None]
    }

    /// One rule for each combination of tag and transport.
    fn of(
        &self,
        end: HashedEnd,
        ipv6: bool,
        destination: Option<IpAddr>,
        priority: u32,
    ) -> impl Iterator<Item = RssRule> {
        let [source_key, destination_key] = self.keys;
        let (key, queues) = match (self.style, end) {
            (RuleStyle::PortKey, _) => (&[][..], &[][..]),
            (RuleStyle::OwnKey, HashedEnd::Source) => (source_key, self.table),
            (RuleStyle::OwnKey, HashedEnd::Destination) => (destination_key, self.table),
        };
        let kinds = self.tags.iter().flat_map(|tagged| [(*tagged, false), (*tagged, true)]);
        kinds.map(move |(tagged, udp)| RssRule {
            ipv6,
            udp,
            tagged,
            destination,
            end,
            key: key.to_vec(),
            queues: queues.to_vec(),
            priority,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wishes(side: Side, style: RuleStyle) -> Wishes<'static> {
        const TABLE: [QueueId; 4] = [QueueId(0), QueueId(1), QueueId(0), QueueId(1)];
        const EXTERNALS: [IpAddr; 2] = [
            IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 100)),
            IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        ];
        Wishes {
            side,
            style,
            tags: &[false],
            ipv6: true,
            externals: &EXTERNALS,
            keys: [&[1; 40], &[2; 40]],
            table: &TABLE,
        }
    }

    #[test]
    fn a_port_of_one_side_hashes_the_outside_partys_end_of_tcp_and_udp_of_both_families() {
        for (side, end) in
            [(Side::Outside, HashedEnd::Source), (Side::Inside, HashedEnd::Destination)]
        {
            let rules = rules(&wishes(side, RuleStyle::PortKey));
            let kinds: Vec<_> = rules.iter().map(|rule| (rule.ipv6, rule.udp)).collect();
            assert_eq!(kinds, [(false, false), (false, true), (true, false), (true, true)]);
            for rule in rules {
                assert_eq!((rule.end, rule.destination), (end, None));
                assert!(rule.key.is_empty() && rule.queues.is_empty(), "the port's");
            }
        }
    }

    #[test]
    fn on_one_port_of_both_sides_what_goes_to_a_vip_is_hashed_by_source_before_the_rest() {
        let rules = rules(&wishes(Side::Both, RuleStyle::OwnKey));
        assert_eq!(rules.len(), 8);
        for rule in &rules {
            let by_source = rule.destination.is_some();
            assert_eq!(rule.end == HashedEnd::Source, by_source);
            assert_eq!(rule.priority, u32::from(!by_source));
            assert_eq!(rule.key, [if by_source { 1 } else { 2 }; 40]);
            assert_eq!(rule.queues.len(), 4);
            assert!(rule.destination.is_none_or(|vip| vip.is_ipv6() == rule.ipv6));
        }
    }

    #[test]
    fn tagged_frames_and_an_unused_ipv6_change_what_rules_there_are() {
        let mut wishes = wishes(Side::Inside, RuleStyle::PortKey);
        (wishes.tags, wishes.ipv6) = (&[false, true], false);
        let kinds: Vec<_> =
            rules(&wishes).iter().map(|rule| (rule.tagged, rule.ipv6, rule.udp)).collect();
        assert_eq!(
            kinds,
            [
                (false, false, false),
                (false, false, true),
                (true, false, false),
                (true, false, true)
            ]
        );
    }
}
