//! Networks, and sets of addresses that are quick to say no: what new connections ask for.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::address::Address;

/// A network of one family. Whether an address is in it takes an instruction and a comparison.
#[derive(Clone, Copy, Debug)]
pub struct Prefix<A: Address> {
    network: A::Bits,
    mask: A::Bits,
}

impl<A: Address> Prefix<A> {
    /// `None`: it is of the other family.
    pub fn of(network: IpNet) -> Option<Self> {
        let mask = A::from_ip(network.netmask())?.bits();
        Some(Self { network: A::from_ip(network.network())?.bits(), mask })
    }

    /// Whether an address is in it.
    #[inline]
    pub fn contains(&self, address: A) -> bool {
        address.bits() & self.mask == self.network
    }
}

/// The leading bits of an address that a prefix of this length has; all of them where there are
/// not so many.
pub fn mask<A: Address>(length: u8) -> A::Bits {
    let mask = if A::IS_V6 {
        let network = Ipv6Net::new(Ipv6Addr::UNSPECIFIED, length.min(128)).unwrap_or_default();
        A::from_ip(network.netmask().into())
    } else {
        let network = Ipv4Net::new(Ipv4Addr::UNSPECIFIED, length.min(32)).unwrap_or_default();
        A::from_ip(network.netmask().into())
    };
    mask.unwrap_or_default().bits()
}

/// Words of a filter.
const WORDS: usize = 64;

/// Addresses of both families: whether one is certainly not among them. Takes few instructions;
/// with dozens of addresses, one in a hundred others has to be looked for in the real set.
#[derive(Clone, Debug)]
pub struct AddressFilter([u64; WORDS]);

impl Default for AddressFilter {
    fn default() -> Self {
        Self([0; WORDS])
    }
}

impl AddressFilter {
    /// The word and the bit of an address.
    #[inline]
    fn place<A: Address>(address: A) -> (usize, u64) {
        let spread = address.spread();
        #[allow(clippy::cast_possible_truncation, reason = "six bits")]
        let word = (spread >> 58) as usize;
        (word, 1 << (spread >> 52 & 63))
    }

    /// Adds an address.
    pub fn insert<A: Address>(&mut self, address: A) {
        let (word, bit) = Self::place(address);
        if let Some(word) = self.0.get_mut(word) {
            *word |= bit;
        }
    }

    /// `false`: the address was never added.
    #[inline]
    pub fn may_contain<A: Address>(&self, address: A) -> bool {
        let (word, bit) = Self::place(address);
        self.0.get(word).is_none_or(|word| word & bit != 0)
    }
}

impl<A: Address> Extend<A> for AddressFilter {
    fn extend<I: IntoIterator<Item = A>>(&mut self, addresses: I) {
        addresses.into_iter().for_each(|address| self.insert(address));
    }
}

/// A few addresses of one family that are asked for with every packet: a table of which a quarter
/// is full at most, so that an answer nearly always takes one look. Who configures the addresses
/// decides where they lie, nobody else.
#[derive(Clone, Debug)]
pub struct AddressSet<A> {
    /// As many as a power of two; the unspecified address where there is none.
    places: Box<[A]>,
    shift: u32,
}

impl<A: Address> AddressSet<A> {
    /// The place where the search for an address begins.
    #[inline]
    fn first(&self, address: A) -> usize {
        #[allow(clippy::cast_possible_truncation, reason = "a place in memory")]
        let place = (address.spread() >> self.shift) as usize;
        place
    }

    /// Whether an address is among them. The unspecified one never is.
    #[inline]
    pub fn contains(&self, address: A) -> bool {
        let mut place = self.first(address);
        loop {
            match self.places.get(place & (self.places.len() - 1)) {
                Some(other) if *other == A::default() => return false,
                Some(other) if *other == address => return true,
                Some(_) => place += 1,
                None => return false,
            }
        }
    }

    fn insert(&mut self, address: A) {
        let mut place = self.first(address);
        while let Some(other) = self.places.get_mut(place & (self.places.len() - 1)) {
            if *other == A::default() || *other == address {
                *other = address;
                return;
            }
            place += 1;
        }
    }
}

impl<A: Address> FromIterator<A> for AddressSet<A> {
    fn from_iter<I: IntoIterator<Item = A>>(addresses: I) -> Self {
        let addresses: Vec<A> = addresses.into_iter().collect();
        let places = (addresses.len() * 4).next_power_of_two().max(2);
        let shift = u64::BITS - places.trailing_zeros();
        let mut set = Self { places: vec![A::default(); places].into(), shift };
        for address in addresses {
            set.insert(address);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::wire::address::{V4, V6};

    fn is_in<A: Address>(network: IpNet, address: IpAddr) -> bool {
        let prefix = Prefix::<A>::of(network).zip(A::from_ip(address));
        prefix.is_some_and(|(prefix, address)| prefix.contains(address))
    }

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
                let is_in = is_in::<V4>(network, address) || is_in::<V6>(network, address);
                assert_eq!(is_in, network.contains(&address), "{address} in {network}");
            }
        }
    }

    #[test]
    fn a_set_has_what_was_put_in_and_nothing_else() {
        let inside: Vec<V4> = (0..=255).map(|host| [192, 0, 2, host]).collect();
        for count in [0, 1, 2, 3, 40, 256] {
            let set: AddressSet<V4> =
                inside.iter().copied().take(count).cycle().take(300).collect();
            for host in 0..=u16::MAX {
                let [high, low] = host.to_be_bytes();
                let is_in = high == 2 && usize::from(low) < count;
                assert_eq!(set.contains([192, 0, high, low]), is_in, "{host:x} of {count}");
            }
            assert!(!set.contains([0; 4]));
        }
        let set: AddressSet<V6> = (1..=9).map(|host| [host; 16]).chain([[0; 16]]).collect();
        assert!((0..=u8::MAX).all(|host| set.contains([host; 16]) == (1..=9).contains(&host)));
    }

    #[test]
    fn a_mask_has_the_leading_bits() {
        let v4 = |length| V4::of_bits(mask::<V4>(length));
        assert_eq!([v4(0), v4(9), v4(24)], [[0; 4], [255, 128, 0, 0], [255, 255, 255, 0]]);
        assert_eq!([v4(32), v4(128)], [[255; 4]; 2]);
        let v6 = V6::of_bits(mask::<V6>(65));
        assert_eq!(v6, [255, 255, 255, 255, 255, 255, 255, 255, 128, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(V6::of_bits(mask::<V6>(128)), [255; 16]);
    }

    #[test]
    fn a_filter_knows_what_was_added_and_little_else() {
        let mut filter = AddressFilter::default();
        let inside: Vec<V4> = (1..=40).map(|host| [192, 0, 2, host]).collect();
        assert!(inside.iter().all(|address| !filter.may_contain(*address)));
        filter.extend(inside.iter().copied());
        filter.insert([7; 16]);
        assert!(inside.iter().all(|address| filter.may_contain(*address)));
        assert!(filter.may_contain([7; 16]));
        let others = (0..10_000_u16).map(|host| {
            let [high, low] = host.to_be_bytes();
            [198, 18, high, low]
        });
        let mistaken = others.filter(|address| filter.may_contain(*address)).count();
        assert!(mistaken < 300, "{mistaken} of 10000");
    }
}
