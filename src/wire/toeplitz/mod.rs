//! The Toeplitz hash, by which NICs choose a receive queue, and the keys with which both directions
//! of a NAT connection hash alike.
//!
//! Every set bit of the input adds (XOR) the 32 bits of the key that begin at the bit's place. A NIC
//! hashes source address, destination address, source port, destination port, in this order. What
//! both directions share is the outside party's endpoint: the source of what comes from outside, the
//! destination of what comes from inside, and so at other places of the input. [`KeyPair`] gives each
//! side a key of its own that makes up for that.

use super::U16;
use super::address::Address;

/// Octets of a key. NICs that take 40 use the first 40: no endpoint reaches further.
pub const KEY_OCTETS: usize = 52;
/// A key.
pub type Key = [u8; KEY_OCTETS];

/// What a NIC that is told to hash one end of a flow alone does with the other end's fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RssInput {
    /// They are hashed as zeros: every field stays where it is.
    #[default]
    Zeroed,
    /// They are left out: the port follows the address.
    Packed,
}

impl RssInput {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Zeroed => Self::Packed,
            Self::Packed => Self::Zeroed,
        }
    }

    /// The word of the configuration file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Zeroed => "zeroed",
            Self::Packed => "packed",
        }
    }

    /// Where the port of the endpoint stands in the input, in bits.
    pub(crate) const fn port_bit(self, is_v6: bool, end: End) -> usize {
        match (self, is_v6) {
            (Self::Zeroed, false) => 64 + 16 * end as usize,
            (Self::Zeroed, true) => 256 + 16 * end as usize,
            (Self::Packed, false) => 32,
            (Self::Packed, true) => 128,
        }
    }

    /// Where its address stands.
    pub(crate) const fn address_bit(self, is_v6: bool, end: End) -> usize {
        match (self, is_v6) {
            (Self::Zeroed, false) => 32 * end as usize,
            (Self::Zeroed, true) => 128 * end as usize,
            (Self::Packed, _) => 0,
        }
    }
}

/// The end of a packet's flow that is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Of packets from outside.
    Source = 0,
    /// Of packets from inside.
    Destination = 1,
}

/// The keys of the two sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPair {
    outside: Key,
    inside: Key,
    input: RssInput,
}

impl KeyPair {
    /// Keys from two random ones: `outside` but for the few bits that must repeat, and `rest`
    /// wherever nothing is asked of the other key.
    pub fn derive(outside: Key, rest: Key, input: RssInput) -> Self {
        let (mut outside, mut inside) = (outside, rest);
        if input == RssInput::Packed {
            return Self { outside, inside: outside, input };
        }
        for is_v6 in [false, true] {
            let address_bits = if is_v6 { 128 } else { 32 };
            let [from_address, to_address] =
                [End::Source, End::Destination].map(|end| input.address_bit(is_v6, end));
            let [from_port, to_port] =
                [End::Source, End::Destination].map(|end| input.port_bit(is_v6, end));
            // A field of n bits reads n + 31 bits of the key. The two fields of the inside overlap
            // in the key, so what they read there must stand twice in the outside key.
            let address_reads = address_bits + 31;
            let overlap = to_address + address_reads - to_port;
            for bit in 0..overlap {
                let first = get(&outside, from_address + address_reads - overlap + bit);
                set(&mut outside, from_port + bit, first);
            }
            for bit in 0..address_reads {
                set(&mut inside, to_address + bit, get(&outside, from_address + bit));
            }
            for bit in 0..16 + 31 {
                set(&mut inside, to_port + bit, get(&outside, from_port + bit));
            }
        }
        Self { outside, inside, input }
    }

    /// The key of a side, by the end that it hashes.
    pub const fn key(&self, end: End) -> &Key {
        match end {
            End::Source => &self.outside,
            End::Destination => &self.inside,
        }
    }

    /// What the NICs are taken to do.
    pub const fn input(&self) -> RssInput {
        self.input
    }
}

/// Whether a key repeats itself within 32 bits. Addresses and ports that count up together then
/// cancel each other out, most queues stay empty, and who knows the key aims at one of them.
pub fn is_periodic(key: &[u8]) -> bool {
    let bits = key.len() * 8;
    (1..=32).any(|period| (period..bits).all(|bit| get(key, bit) == get(key, bit - period)))
}

fn get(key: &[u8], bit: usize) -> bool {
    key.get(bit / 8).is_some_and(|octet| octet & (0x80 >> (bit % 8)) != 0)
}

fn set(key: &mut [u8], bit: usize, value: bool) {
    if let Some(octet) = key.get_mut(bit / 8) {
        let mask = 0x80 >> (bit % 8);
        *octet = if value { *octet | mask } else { *octet & !mask };
    }
}

/// The 32 bits of the key from `bit` on.
fn window(key: &[u8], bit: usize) -> u32 {
    let octets = (0..5).map(|i| key.get(bit / 8 + i).copied().unwrap_or(0));
    let all = octets.fold(0_u64, |all, octet| all << 8 | u64::from(octet));
    #[allow(clippy::cast_possible_truncation, reason = "the lower half is what is wanted")]
    let window = (all >> (8 - bit % 8)) as u32;
    window
}

/// What one octet at `bit` adds to the hash.
fn octet_hash(key: &[u8], bit: usize, octet: u8) -> u32 {
    (0..8).filter(|i| octet & (0x80 >> i) != 0).fold(0, |hash, i| hash ^ window(key, bit + i))
}

/// What an octet of the input adds to octet o of the hash, counted from the first, as a matrix of bits;
/// `bit` is where the octet is in the input, plus 8 o. Row r, octet r of the word, is the key's bits from
/// `bit` + r on: which bits of the octet bit r of the product, the most significant first, is the parity of.
pub(crate) fn matrix(key: &[u8], bit: usize) -> u64 {
    let row = |row| {
        let [octet, ..] = window(key, bit + row).to_be_bytes();
        octet
    };
    u64::from_le_bytes(std::array::from_fn(row))
}

/// The hash of any input, which must not be longer than the key less four octets.
pub fn hash(key: &[u8], input: &[u8]) -> u32 {
    input
        .iter()
        .enumerate()
        .fold(0, |hash, (place, octet)| hash ^ octet_hash(key, place * 8, *octet))
}

/// What an octet adds to the hash, by its value.
type OctetTable = [u32; 256];

/// The tables of a field of N octets.
struct Field<const N: usize>([OctetTable; N]);

impl<const N: usize> Field<N> {
    /// Of a field that begins at `bit` of the input.
    fn new(key: &Key, bit: usize) -> Self {
        let mut tables = [[0; 256]; N];
        for (place, table) in tables.iter_mut().enumerate() {
            for (octet, entry) in (0..=u8::MAX).zip(table) {
                *entry = octet_hash(key, bit + place * 8, octet);
            }
        }
        Self(tables)
    }

    #[inline]
    fn hash(&self, octets: &[u8]) -> u32 {
        self.0.iter().zip(octets).fold(0, |hash, (table, octet)| {
            hash ^ table.get(usize::from(*octet)).copied().unwrap_or_default()
        })
    }
}

/// The hash of an endpoint as a NIC computes it, by tables: one look an octet.
pub struct EndpointTables {
    v4: (Field<4>, Field<2>),
    v6: (Field<16>, Field<2>),
}

impl EndpointTables {
    /// Of the endpoints at one end of a packet.
    pub fn new(key: &Key, input: RssInput, end: End) -> Self {
        let address = |is_v6| input.address_bit(is_v6, end);
        let port = |is_v6| Field::new(key, input.port_bit(is_v6, end));
        Self {
            v4: (Field::new(key, address(false)), port(false)),
            v6: (Field::new(key, address(true)), port(true)),
        }
    }

    /// The hash of an endpoint.
    #[inline]
    pub fn of<A: Address>(&self, address: &A, port: U16) -> u32 {
        let (octets, port) = (address.octets(), port.to_bytes());
        if A::IS_V6 {
            self.v6.0.hash(octets) ^ self.v6.1.hash(&port)
        } else {
            self.v4.0.hash(octets) ^ self.v4.1.hash(&port)
        }
    }
}

impl std::fmt::Debug for EndpointTables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EndpointTables").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
