//! Networks as new connections ask for them: whether an address is in one takes two instructions
//! and a comparison, of either family.

use std::net::IpAddr;

use ipnet::IpNet;

/// An address, ready to be compared with networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AddressBits {
    bits: u128,
    is_v6: bool,
}

impl From<IpAddr> for AddressBits {
    #[inline]
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => {
                Self { bits: u128::from(u32::from_ne_bytes(v4.octets())), is_v6: false }
            }
            IpAddr::V6(v6) => Self { bits: u128::from_ne_bytes(v6.octets()), is_v6: true },
        }
    }
}

impl AddressBits {
    /// One of 256 numbers, spread over neighbouring addresses.
    #[inline]
    pub(super) const fn spread(self) -> usize {
        #[allow(clippy::cast_possible_truncation, reason = "the halves are what is wanted")]
        let folded = self.bits as u64 ^ (self.bits >> 64) as u64;
        (folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize
    }
}

/// A network.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prefix {
    network: AddressBits,
    mask: u128,
}

impl Prefix {
    pub(super) fn of(network: IpNet) -> Self {
        let mask = AddressBits::from(network.netmask());
        Self { network: network.network().into(), mask: mask.bits }
    }

    #[inline]
    pub(super) const fn contains(&self, address: AddressBits) -> bool {
        address.bits & self.mask == self.network.bits && address.is_v6 == self.network.is_v6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_in_a_network_where_ipnet_says_so() {
        let networks = [
            "0.0.0.0/0",
            "10.0.0.0/8",
            "10.0.0.7/24",
            "10.0.0.7/32",
            "192.0.2.128/25",
            "::/0",
            "fd00:a::1/64",
            "2001:db8::/31",
            "2001:db8::7/128",
        ];
        let addresses = [
            "0.0.0.0",
            "10.0.0.7",
            "10.0.1.7",
            "11.0.0.7",
            "192.0.2.127",
            "192.0.2.128",
            "::",
            "fd00:a::9",
            "fd00:a:0:1::9",
            "2001:db8::7",
            "2001:db9::8",
            "2001:dba::",
            "::10.0.0.7",
        ];
        for network in networks {
            let network: IpNet = network.parse().unwrap();
            for address in addresses {
                let address: IpAddr = address.parse().unwrap();
                let is_in = Prefix::of(network).contains(address.into());
                assert_eq!(is_in, network.contains(&address), "{address} in {network}");
            }
        }
    }
}
