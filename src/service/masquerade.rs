//! Masquerade rules, ready to be asked on a packet's way.

use std::ops::RangeInclusive;

use super::Masquerade;
use crate::wire::address::Address;
use crate::wire::prefix::Prefix;

/// A rule of one address family.
#[derive(Debug)]
pub struct MasqueradeRule<A: Address> {
    sources: Vec<Prefix<A>>,
    addresses: Vec<A>,
    ports: RangeInclusive<u16>,
}

impl<A: Address> MasqueradeRule<A> {
    /// The part of a rule that is of this family; `None`: there is none.
    pub(super) fn compile(rule: &Masquerade) -> Option<Self> {
        let sources: Vec<_> = rule.sources.iter().copied().filter_map(Prefix::of).collect();
        let addresses: Vec<_> = rule.addresses.iter().copied().filter_map(A::from_ip).collect();
        (!sources.is_empty() && !addresses.is_empty()).then(|| Self {
            sources,
            addresses,
            ports: rule.ports.clone(),
        })
    }

    /// Whether the rule is for this inside host.
    pub fn covers(&self, source: &A) -> bool {
        self.sources.iter().any(|network| network.contains(*source))
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
