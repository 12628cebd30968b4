//! The two address families behind one trait, so that everything above exists once.

use std::fmt::Debug;
use std::hash::Hash;
use std::net::IpAddr;
use std::ops::BitAnd;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::flow_key::FlowKey;

/// An IPv4 address in network order.
pub type V4 = [u8; 4];
/// An IPv6 address in network order.
pub type V6 = [u8; 16];

/// An IPv4 or IPv6 address as it lies in a packet.
pub trait Address:
    Copy + Eq + Hash + Debug + Default + FromBytes + IntoBytes + Immutable + Send + Sync + 'static
{
    /// Whether this is IPv6.
    const IS_V6: bool;

    /// One address in a word.
    type Bits: Copy + Eq + Debug + Send + Sync + BitAnd<Output = Self::Bits>;

    /// What two addresses fit.
    type Words: Copy + Eq + Hash;

    /// The octets, network order.
    fn octets(&self) -> &[u8];

    /// The standard library's type.
    fn to_ip(self) -> IpAddr;

    /// From the standard library's type; `None` for the other family.
    fn from_ip(ip: IpAddr) -> Option<Self>;

    /// The address in a word, as it lies in memory.
    fn bits(self) -> Self::Bits;

    /// The address that such a word is.
    fn of_bits(bits: Self::Bits) -> Self;

    /// 64 bits, of which the upper ones are spread over neighbouring addresses. Not keyed: for
    /// caches and filters, where whoever aims wins nothing but a longer way.
    fn spread(self) -> u64;

    /// Two addresses in few words, as they lie in memory one after the other.
    fn words(source: &Self, destination: &Self) -> Self::Words;

    /// Whether two pairs of addresses are the same, found out in few words.
    fn are_same(pair: (&Self, &Self), other: (&Self, &Self)) -> bool;

    /// The 5-tuple of two addresses, and of ports and protocol, in few words as they lie in memory.
    fn key_of_words(addresses: Self::Words, ports_and_protocol: u64) -> FlowKey<Self>;

    /// Mixes two addresses into 128 bits: the first half of a keyed hash.
    fn mix(addresses: Self::Words, secret: &[u64; 4]) -> u64;
}

/// 2^64 divided by the golden ratio.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// The halves of a 64 by 64 bit product, combined: the mixing step of a multiplicative hash.
#[inline]
pub(crate) const fn fold_multiply(a: u64, b: u64) -> u64 {
    let product = (a as u128).wrapping_mul(b as u128);
    #[allow(clippy::cast_possible_truncation, reason = "the two halves are what is wanted")]
    let folded = (product as u64) ^ ((product >> 64) as u64);
    folded
}

impl Address for V4 {
    const IS_V6: bool = false;

    type Bits = u32;
    type Words = u64;

    #[inline]
    fn bits(self) -> u32 {
        u32::from_ne_bytes(self)
    }

    #[inline]
    fn of_bits(bits: u32) -> Self {
        bits.to_ne_bytes()
    }

    #[inline]
    fn spread(self) -> u64 {
        u64::from(self.bits()).wrapping_mul(SPREAD)
    }

    #[inline]
    fn words(source: &Self, destination: &Self) -> u64 {
        zerocopy::transmute!([*source, *destination])
    }

    #[inline]
    fn are_same(pair: (&Self, &Self), other: (&Self, &Self)) -> bool {
        Self::words(pair.0, pair.1) == Self::words(other.0, other.1)
    }

    #[inline]
    fn octets(&self) -> &[u8] {
        self
    }

    fn to_ip(self) -> IpAddr {
        IpAddr::from(self)
    }

    fn from_ip(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V4(v4) => Some(v4.octets()),
            IpAddr::V6(_) => None,
        }
    }

    #[inline]
    fn key_of_words(addresses: u64, ports_and_protocol: u64) -> FlowKey<Self> {
        zerocopy::transmute!([addresses, ports_and_protocol])
    }

    #[inline]
    fn mix(addresses: u64, secret: &[u64; 4]) -> u64 {
        let [s0, ..] = *secret;
        addresses ^ s0
    }
}

impl Address for V6 {
    const IS_V6: bool = true;

    type Bits = u128;
    type Words = [u64; 4];

    #[inline]
    fn bits(self) -> u128 {
        u128::from_ne_bytes(self)
    }

    #[inline]
    fn of_bits(bits: u128) -> Self {
        bits.to_ne_bytes()
    }

    #[inline]
    fn spread(self) -> u64 {
        let [low, high]: [u64; 2] = zerocopy::transmute!(self);
        (low ^ high.rotate_left(32)).wrapping_mul(SPREAD)
    }

    #[inline]
    fn words(source: &Self, destination: &Self) -> [u64; 4] {
        zerocopy::transmute!([*source, *destination])
    }

    #[inline]
    fn are_same(pair: (&Self, &Self), other: (&Self, &Self)) -> bool {
        // Each in one wide register, from where it lies; no branch between them.
        let (first, second) = (pair.0 == other.0, pair.1 == other.1);
        first & second
    }

    #[inline]
    fn octets(&self) -> &[u8] {
        self
    }

    fn to_ip(self) -> IpAddr {
        IpAddr::from(self)
    }

    fn from_ip(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V4(_) => None,
            IpAddr::V6(v6) => Some(v6.octets()),
        }
    }

    #[inline]
    fn key_of_words([a, b, c, d]: [u64; 4], ports_and_protocol: u64) -> FlowKey<Self> {
        zerocopy::transmute!([a, b, c, d, ports_and_protocol])
    }

    #[inline]
    fn mix([a, b, c, d]: [u64; 4], secret: &[u64; 4]) -> u64 {
        let [s0, s1, s2, s3] = *secret;
        fold_multiply(a ^ s0, b ^ s1) ^ fold_multiply(c ^ s2, d ^ s3)
    }
}
