//! Masquerade rules, ready to be asked on a packet's way.

use std::ops::RangeInclusive;

use super::Masquerade;
use crate::wire::address::Address;

/// A rule of one address family.
#[derive(Debug)]
pub struct MasqueradeRule<A> {
    sources: Vec<Prefix<A>>,
    addresses: Vec<A>,
    ports: RangeInclusive<u16>,
}

/// A network.
#[derive(Debug)]
struct Prefix<A> {
    address: A,
    bits: u8,
}

impl<A: Address> Prefix<A> {
    fn contains(&self, address: &A) -> bool {
        let mut bits = usize::from(self.bits);
        for (own, other) in self.address.octets().iter().zip(address.octets()) {
            let compared = bits.min(8);
            let mask = !(0xff_u16 >> compared);
            if u16::from(own ^ other) & mask & 0xff != 0 {
                return false;
            }
            bits -= compared;
        }
        true
    }
}

impl<A: Address> MasqueradeRule<A> {
    /// The part of a rule that is of this family; `None`: there is none.
    pub(super) fn compile(rule: &Masquerade) -> Option<Self> {
        let sources: Vec<_> = rule
            .sources
            .iter()
            .filter_map(|network| {
                let address = A::from_ip(network.trunc().addr())?;
                Some(Prefix { address, bits: network.prefix_len() })
            })
            .collect();
        let addresses: Vec<_> = rule.addresses.iter().copied().filter_map(A::from_ip).collect();
        (!sources.is_empty() && !addresses.is_empty()).then(|| Self {
            sources,
            addresses,
            ports: rule.ports.clone(),
        })
    }

    /// Whether the rule is for this inside host.
    pub fn covers(&self, source: &A) -> bool {
        self.sources.iter().any(|network| network.contains(source))
    }

    /// The external addresses.
    pub fn addresses(&self) -> &[A] {
        &self.addresses
    }

    /// The ports to choose from.
    pub const fn ports(&self) -> &RangeInclusive<u16> {
        &self.ports
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_contains_what_agrees_in_its_first_bits() {
        let network = Prefix { address: [10, 1, 128, 0], bits: 17 };
        assert!(network.contains(&[10, 1, 255, 1]));
        assert!(!network.contains(&[10, 1, 127, 255]));
        assert!(!network.contains(&[11, 1, 128, 0]));
        assert!(Prefix { address: [0; 4], bits: 0 }.contains(&[203, 0, 113, 9]));
        assert!(!Prefix { address: [10, 0, 0, 1], bits: 32 }.contains(&[10, 0, 0, 2]));
    }
}
