//! The hashes of clients and servers that schedulers choose by.

use crate::wire::U16;
use crate::wire::address::{Address, fold_multiply};

/// The kernel's 32-bit golden ratio (`hash_32`).
const GOLDEN_RATIO: u32 = 0x61c8_8647;

/// What IPVS hashes of an address: IPv4 as a number; the four words of IPv6, one upon the other.
#[inline]
pub(super) fn folded<A: Address>(address: &A) -> u32 {
    let (words, _) = address.octets().as_chunks::<4>();
    words.iter().fold(0, |folded, word| folded ^ u32::from_be_bytes(*word))
}

/// An address and port as IPVS adds them up before it hashes them.
#[inline]
pub(super) fn added<A: Address>(address: &A, port: U16) -> u32 {
    folded(address).wrapping_add(u32::from(port.get()))
}

/// The kernel's multiplicative hash, of which the uppermost eight bits count.
#[inline]
pub(super) fn multiplicative(value: u32) -> usize {
    (value.wrapping_mul(GOLDEN_RATIO) >> 24) as usize
}

/// SipHash-1-3 of four octets, the lower half: the kernel's `hsiphash` on 64-bit machines, with
/// the two halves of the key the same, as in IPVS.
#[inline]
pub(super) fn siphash(value: u32, key: u64) -> u32 {
    let mut state = Sip([
        0x736f_6d65_7073_6575 ^ key,
        0x646f_7261_6e64_6f6d ^ key,
        0x6c79_6765_6e65_7261 ^ key,
        0x7465_6462_7974_6573 ^ key,
    ]);
    let message = 4 << 56 | u64::from(value);
    state.0[3] ^= message;
    state.round();
    state.0[0] ^= message;
    state.0[2] ^= 0xff;
    for _ in 0..3 {
        state.round();
    }
    let [a, b, c, d] = state.0;
    #[allow(clippy::cast_possible_truncation, reason = "the lower half is what is wanted")]
    let hash = (a ^ b ^ c ^ d) as u32;
    hash
}

struct Sip([u64; 4]);

impl Sip {
    #[inline]
    fn round(&mut self) {
        let [a, b, c, d] = &mut self.0;
        *a = a.wrapping_add(*b);
        *b = b.rotate_left(13) ^ *a;
        *a = a.rotate_left(32);
        *c = c.wrapping_add(*d);
        *d = d.rotate_left(16) ^ *c;
        *a = a.wrapping_add(*d);
        *d = d.rotate_left(21) ^ *a;
        *c = c.wrapping_add(*b);
        *b = b.rotate_left(17) ^ *c;
        *c = c.rotate_left(32);
    }
}

/// 64 bits of an address, a port, and a number that sets hashes of the same apart. The same on
/// every director.
#[inline]
pub(super) fn mixed<A: Address>(address: &A, port: U16, number: u64) -> u64 {
    const SALT: [u64; 3] = [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb];
    let [low, high] = halves(address);
    let address = fold_multiply(low ^ SALT[0], high ^ SALT[1]);
    fold_multiply(address ^ u64::from(port.get()) << 48 ^ SALT[2], SALT[1] ^ number)
}

/// An address as two words; of IPv4, the second is 0.
#[inline]
pub(super) fn halves<A: Address>(address: &A) -> [u64; 2] {
    let mut whole = [0_u8; 16];
    for (to, octet) in whole.iter_mut().zip(address.octets()) {
        *to = *octet;
    }
    zerocopy::transmute!(whole)
}
