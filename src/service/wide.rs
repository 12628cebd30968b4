//! Services of many ports, which the index of single ports does not know.

use hashbrown::HashMap;

use super::PortRange;
use crate::wire::U16;
use crate::wire::address::Address;

type Map<K, V> = HashMap<K, V, ahash::RandomState>;

/// The services of one VIP and protocol that have more ports than one.
#[derive(Debug, Default)]
struct Ports {
    /// By their first ports; no two have a port in common.
    ranges: Vec<(PortRange, u32)>,
    /// What takes all other ports.
    all: Option<u32>,
}

/// Places of services in the list of all, by VIP, protocol and port.
#[derive(Debug, Default)]
pub(super) struct WideServices<A: Address>(Map<(A, u8), Ports>);

impl<A: Address> WideServices<A> {
    /// Whether there are none: what the index does not know is no service's then.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The service of a range of ports.
    #[cold]
    pub(super) fn range(&self, vip: A, port: U16, protocol: u8) -> Option<u32> {
        let ranges = &self.0.get(&(vip, protocol))?.ranges;
        let after = ranges.partition_point(|(range, _)| range.first() <= port.get());
        let (range, place) = ranges.get(after.checked_sub(1)?)?;
        range.contains(port.get()).then_some(*place)
    }

    /// The service of a range of ports, or else of all.
    #[cold]
    pub(super) fn find(&self, vip: A, port: U16, protocol: u8) -> Option<u32> {
        let all = || self.0.get(&(vip, protocol))?.all;
        self.range(vip, port, protocol).or_else(all)
    }

    /// Adds a service; gives the place of one that has some of the ports.
    pub(super) fn add(
        &mut self,
        (vip, protocol): (A, u8),
        range: PortRange,
        place: u32,
    ) -> Option<u32> {
        let ports = self.0.entry((vip, protocol)).or_default();
        if range.is_all() {
            return ports.all.replace(place);
        }
        let taken = ports.ranges.iter().find(|(other, _)| other.meets(range)).map(|(_, at)| *at);
        let after = ports.ranges.partition_point(|(other, _)| other.first() < range.first());
        ports.ranges.insert(after, (range, place));
        taken
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VIP: [u8; 4] = [192, 0, 2, 100];

    proptest! {
        #[test]
        fn a_port_is_found_where_a_search_through_all_finds_it(
            ends in proptest::collection::vec((1..300_u16, 1..20_u16), 0..12),
            has_all: bool,
        ) {
            let mut wide = WideServices::default();
            let mut ranges: Vec<(PortRange, u32)> = Vec::new();
            for (place, (first, length)) in (0..).zip(ends) {
                let range = PortRange::new(first, first + length).unwrap();
                if ranges.iter().any(|(other, _)| other.meets(range)) {
                    continue;
                }
                prop_assert_eq!(wide.add((VIP, 6), range, place), None);
                ranges.push((range, place));
            }
            let all = has_all.then_some(99);
            if has_all {
                prop_assert_eq!(wide.add((VIP, 6), PortRange::ALL, 99), None);
            }
            for port in 1..330 {
                let range = ranges.iter().find(|(range, _)| range.contains(port));
                let range = range.map(|(_, place)| *place);
                prop_assert_eq!(wide.range(VIP, U16::new(port), 6), range);
                prop_assert_eq!(wide.find(VIP, U16::new(port), 6), range.or(all));
                prop_assert_eq!(wide.find(VIP, U16::new(port), 17), None);
            }
        }
    }

    #[test]
    fn who_has_a_port_already_is_told() {
        let mut wide = WideServices::default();
        let range = |first, last| PortRange::new(first, last).unwrap();
        assert_eq!(wide.add((VIP, 6), range(10, 20), 1), None);
        assert_eq!(wide.add((VIP, 6), range(20, 30), 2), Some(1));
        assert_eq!(wide.add((VIP, 17), range(20, 30), 3), None);
        assert_eq!(wide.add((VIP, 6), PortRange::ALL, 4), None);
        assert_eq!(wide.add((VIP, 6), PortRange::ALL, 5), Some(4));
    }
}
