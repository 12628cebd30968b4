//! The 5-tuple of a packet, and its keyed hashes.

use std::fmt;
use std::hash::{Hash, Hasher};

use zerocopy::FromBytes;

use super::U16;
use super::address::{Address, fold_multiply};

/// The 128-bit secret, doubled, of a keyed hash: random at start, so that no one outside can aim
/// at a bucket or at a worker.
pub type HashSecret = [u64; 4];

/// A packet's source, destination and protocol, as they stand in the packet.
///
/// The order and the alignment let it be made, compared and hashed in few words.
#[derive(Clone, Copy, Default, FromBytes)]
#[repr(C, align(8))]
pub struct FlowKey<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Source port, network order.
    pub source_port: U16,
    /// Destination port, network order.
    pub destination_port: U16,
    /// IP protocol number.
    pub protocol: u8,
}

impl<A: Address> PartialEq for FlowKey<A> {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.is(
            (&other.source, &other.destination),
            [other.source_port, other.destination_port],
            other.protocol,
        )
    }
}

impl<A: Address> Eq for FlowKey<A> {}

impl<A: Address> Hash for FlowKey<A> {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        A::words(&self.source, &self.destination).hash(state);
        self.ports_and_protocol().hash(state);
    }
}

impl<A: Address> FlowKey<A> {
    /// Ports and protocol as they lie in memory.
    #[inline]
    fn ports_and_protocol(&self) -> u64 {
        Self::word_of(self.source_port, self.destination_port, self.protocol)
    }

    #[inline]
    fn word_of(source: U16, destination: U16, protocol: u8) -> u64 {
        let ([a, b], [c, d]) = (source.to_bytes(), destination.to_bytes());
        u64::from(u32::from_le_bytes([a, b, c, d])) | u64::from(protocol) << 32
    }

    /// Whether it has these addresses, these ports and this protocol.
    #[inline]
    pub fn is(&self, addresses: (&A, &A), [source, destination]: [U16; 2], protocol: u8) -> bool {
        // The protocol by itself: putting it together with the ports would take longer.
        A::are_same((&self.source, &self.destination), addresses)
            && Self::word_of(self.source_port, self.destination_port, 0)
                == Self::word_of(source, destination, 0)
            && self.protocol == protocol
    }

    /// The 5-tuple with its ends swapped.
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: self.protocol,
        }
    }

    /// The hash of the whole 5-tuple.
    #[inline]
    pub fn hash(&self, secret: &HashSecret) -> u64 {
        let addresses = A::words(&self.source, &self.destination);
        hash_words::<A>(addresses, self.ports_and_protocol(), secret)
    }

    /// A 5-tuple: of the addresses, and of ports and protocol as they stand in the packet.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the hit path; a key that a call returns is copied")]
    pub fn of_words(addresses: A::Words, ports: [u8; 4], protocol: u8) -> Self {
        A::key_of_words(addresses, Self::rest(ports, protocol).to_le())
    }

    #[inline]
    fn rest(ports: [u8; 4], protocol: u8) -> u64 {
        u64::from(u32::from_le_bytes(ports)) | u64::from(protocol) << 32
    }

    /// A 5-tuple and its hash: of the addresses, and of ports and protocol as little-endian
    /// words of what stands in the packet.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the hit path; a key that a call returns is copied")]
    pub fn with_hash(
        addresses: A::Words,
        ports: [u8; 4],
        protocol: u8,
        secret: &HashSecret,
    ) -> (Self, u64) {
        let rest = Self::rest(ports, protocol);
        (A::key_of_words(addresses, rest.to_le()), hash_words::<A>(addresses, rest, secret))
    }
}

#[inline]
fn hash_words<A: Address>(addresses: A::Words, rest: u64, secret: &HashSecret) -> u64 {
    let [_, s1, s2, s3] = *secret;
    let mixed = fold_multiply(A::mix(addresses, secret), rest ^ s1);
    fold_multiply(mixed ^ s2, s3 | 1)
}

impl<A: Address> fmt::Debug for FlowKey<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{} -> {}:{} proto {}",
            self.source.to_ip(),
            self.source_port,
            self.destination.to_ip(),
            self.destination_port,
            self.protocol
        )
    }
}

/// The hash of one endpoint, by which steering finds a flow's worker.
#[inline]
pub fn endpoint_hash<A: Address>(address: &A, port: U16, secret: &HashSecret) -> u64 {
    let port = u64::from(u16::from_le_bytes(port.to_bytes()));
    hash_words::<A>(A::words(address, &A::default()), port, secret)
}

/// Which way a packet of a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Direction {
    /// From the client to the real server.
    Inbound = 0,
    /// From the real server to the client.
    Reply = 1,
}

impl Direction {
    /// The other one.
    #[inline]
    #[must_use]
    pub const fn reversed(self) -> Self {
        match self {
            Self::Inbound => Self::Reply,
            Self::Reply => Self::Inbound,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: HashSecret = [
        0x243f_6a88_85a3_08d3,
        0x1319_8a2e_0370_7344,
        0xa409_3822_299f_31d0,
        0x082e_fa98_ec4e_6c89,
    ];

    fn spread(buckets: usize, hashes: impl Iterator<Item = u64>) -> (usize, usize) {
        let mut counts = vec![0; buckets];
        for hash in hashes {
            counts[usize::try_from(hash % buckets as u64).unwrap()] += 1;
        }
        (*counts.iter().min().unwrap(), *counts.iter().max().unwrap())
    }

    #[test]
    fn endpoints_that_grow_in_lockstep_spread_over_the_workers() {
        // pktgen's range mode raises address and port together.
        let hashes = (0..8000_u16).map(|i| {
            let [high, low] = i.to_be_bytes();
            endpoint_hash(&[198, 18, high, low], U16::new(1024 + i), &SECRET)
        });
        let (min, max) = spread(8, hashes);
        assert!(min > 900 && max < 1100, "{min}..{max}");
    }

    #[test]
    fn ipv6_flows_spread_when_only_the_last_octets_differ() {
        let hashes = (0..8000_u16).map(|i| {
            let mut source = [0; 16];
            source[14..].copy_from_slice(&i.to_be_bytes());
            let key = FlowKey { source, destination: [1; 16], protocol: 6, ..FlowKey::default() };
            key.hash(&SECRET)
        });
        let (min, max) = spread(8, hashes);
        assert!(min > 900 && max < 1100, "{min}..{max}");
    }

    #[test]
    fn the_two_directions_and_protocols_hash_apart() {
        let key = FlowKey {
            source: [10, 0, 0, 1],
            destination: [10, 0, 0, 2],
            source_port: U16::new(1),
            destination_port: U16::new(2),
            protocol: 6,
        };
        let back = FlowKey {
            source: key.destination,
            destination: key.source,
            source_port: key.destination_port,
            destination_port: key.source_port,
            ..key
        };
        assert_ne!(key.hash(&SECRET), back.hash(&SECRET));
        assert_ne!(key.hash(&SECRET), FlowKey { protocol: 17, ..key }.hash(&SECRET));
    }
}
