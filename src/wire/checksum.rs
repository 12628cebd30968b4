//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Sums are kept in the machine's byte order: ones' complement addition commutes with swapping
//! the octets of every word (RFC 1071 section 2(B)), so a sum of words read as they lie in memory
//! can be written back as it is.

/// Folds a sum of 16-bit words into one word, carries added back (end-around carry).
#[inline]
pub const fn fold(mut sum: u64) -> u16 {
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    #[allow(clippy::cast_possible_truncation, reason = "folded to 16 bits above")]
    let folded = sum as u16;
    folded
}

/// Folds two halves, as [`fold`]: added to its turned self, the upper half gets the carry of the
/// lower one.
#[inline]
const fn fold_halves(sum: u32) -> u16 {
    #[allow(clippy::cast_possible_truncation, reason = "16 bits are left")]
    let folded = (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16;
    folded
}

/// Whether the checksum of an IPv4 header without options is right.
#[inline]
pub fn is_right(header: &[u8; 20]) -> bool {
    let (words, _) = header.as_chunks::<4>();
    // Five words of 32 bits leave the upper half of the sum for their carries.
    let sum: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    is_all_ones(sum)
}

/// Whether a sum folds to all ones: it is a multiple of 65535, but not 0. 65535 times `ONES` is
/// 2^64 - 1, so `k` times 65535 becomes `-k` for `k` up to `ONES`, and nothing else comes there.
#[inline]
const fn is_all_ones(sum: u64) -> bool {
    const ONES: u64 = 0x0001_0001_0001_0001;
    sum.wrapping_mul(ONES) >= ONES.wrapping_neg()
}

/// Sum of the 16-bit words of `octets`, folded and not complemented; an odd last octet is padded
/// with zero.
#[inline]
pub fn sum(octets: &[u8]) -> u16 {
    let (words, rest) = octets.as_chunks::<4>();
    let mut total: u64 = 0;
    for word in words {
        total += u64::from(u32::from_ne_bytes(*word));
    }
    let mut last = [0; 4];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    fold(total + u64::from(u32::from_ne_bytes(last)))
}

/// Sum of the pseudo header of TCP, UDP and ICMPv6 (RFC 9293 section 3.1, RFC 8200 section 8.1):
/// addresses, protocol and upper-layer length.
#[inline]
pub fn pseudo_header(source: &[u8], destination: &[u8], protocol: u8, length: u32) -> u16 {
    let [a, b, c, d] = length.to_be_bytes();
    fold(
        u64::from(sum(source))
            + u64::from(sum(destination))
            + u64::from(sum(&[0, protocol, a, b, c, d])),
    )
}

/// The checksum over `octets` plus already summed parts: what goes into the header field.
#[inline]
pub fn finish(octets: &[u8], parts: u16) -> [u8; 2] {
    (!fold(u64::from(sum(octets)) + u64::from(parts))).to_ne_bytes()
}

/// A change of summed data, to be applied to any checksum over it: RFC 1624's `~m + m'`.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::Immutable,
)]
#[repr(transparent)]
pub struct Delta(u16);

impl Delta {
    /// What decrementing the TTL changes in an IPv4 header: its word falls by 0x0100.
    pub const TTL_DECREMENT: Self = Self(u16::from_ne_bytes([0xfe, 0xff]));

    /// The change from `old` to `new`; both must start at an even offset of the summed data.
    #[inline]
    #[must_use]
    pub fn between(old: &[u8], new: &[u8]) -> Self {
        Self(fold(u64::from(!sum(old)) + u64::from(sum(new))))
    }

    /// This change and then `other`.
    #[inline]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(fold_halves(self.0 as u32 + other.0 as u32))
    }

    /// The change back.
    #[inline]
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self(!self.0)
    }

    /// The checksum field after the change: `HC' = ~(~HC + ~m + m')`, RFC 1624 equation 3.
    #[inline]
    #[must_use]
    pub const fn apply(self, field: [u8; 2]) -> [u8; 2] {
        self.applied(u16::from_ne_bytes(field)).to_ne_bytes()
    }

    #[inline]
    const fn applied(self, field: u16) -> u16 {
        !fold_halves(!field as u32 + self.0 as u32)
    }

    /// As [`Delta::apply`], and one is taken from the TTL.
    #[inline]
    #[must_use]
    pub const fn apply_and_decrement_ttl(self, field: [u8; 2]) -> [u8; 2] {
        let old = !u16::from_ne_bytes(field);
        let sum = old as u32 + self.0 as u32 + Self::TTL_DECREMENT.0 as u32;
        (!fold_halves(sum)).to_ne_bytes()
    }

    /// As [`Delta::apply`], for UDP: no checksum (zero) stays none, and a computed zero is
    /// written as all ones (RFC 768).
    #[inline]
    #[must_use]
    pub const fn apply_udp(self, field: [u8; 2]) -> [u8; 2] {
        let old = u16::from_ne_bytes(field);
        // As `applied`, with one added before the fold and taken off after it: a multiple of 65535
        // folds to 1, not to all ones, and so the field is all ones where it would be 0.
        let folded = fold_halves(!old as u32 + self.0 as u32 + 1);
        (if old == 0 { 0 } else { folded.wrapping_neg() }).to_ne_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071, written down as slowly as possible: the model.
    fn slow(octets: &[u8]) -> u16 {
        let mut total: u32 = 0;
        for pair in octets.chunks(2) {
            total += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            total = (total & 0xffff) + (total >> 16);
        }
        !(u16::try_from(total).unwrap())
    }

    #[test]
    fn the_example_of_rfc_1071_sums_to_ddf2() {
        let octets = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(sum(&octets).to_ne_bytes(), [0xdd, 0xf2]);
    }

    #[test]
    fn the_example_of_rfc_1624_gives_zero() {
        // Section 4: HC = 0xdd2f, m = 0x5555, m' = 0x3285 gives 0x0000, not 0xffff.
        let delta = Delta::between(&[0x55, 0x55], &[0x32, 0x85]);
        assert_eq!(delta.apply([0xdd, 0x2f]), [0x00, 0x00]);
    }

    #[test]
    fn udp_keeps_no_checksum_and_never_makes_one_zero() {
        let delta = Delta::between(&[0x55, 0x55], &[0x32, 0x85]);
        assert_eq!(delta.apply_udp([0, 0]), [0, 0]);
        assert_eq!(delta.apply_udp([0xdd, 0x2f]), [0xff, 0xff]);
    }

    proptest! {
        #[test]
        fn a_header_is_right_if_its_sum_is_all_ones(
            mut header in prop::array::uniform20(any::<u8>()), is_off_by in -2_i16..=2,
        ) {
            [header[10], header[11]] = [0; 2];
            let right = slow(&header).wrapping_add_signed(is_off_by);
            [header[10], header[11]] = right.to_be_bytes();
            prop_assert_eq!(is_right(&header), sum(&header) == 0xffff);
            prop_assert_eq!(is_right(&header), is_off_by == 0 || sum(&header) == 0xffff);
        }

        #[test]
        fn udp_has_all_ones_where_others_have_zero(
            old in prop_oneof![Just(0), Just(1), Just(0xffff), any::<u16>()],
            delta in prop_oneof![Just(0), Just(1), Just(0xfffe), Just(0xffff), any::<u16>()],
            is_multiple in any::<bool>(),
        ) {
            let delta = Delta(if is_multiple { old } else { delta });
            let expected = match (old, delta.apply(old.to_ne_bytes())) {
                (0, _) => [0, 0],
                (_, [0, 0]) => [0xff, 0xff],
                (_, other) => other,
            };
            prop_assert_eq!(delta.apply_udp(old.to_ne_bytes()), expected);
        }

        #[test]
        fn sums_that_fold_to_all_ones_are_recognised(count in any::<u64>(), off in 0_u64..3) {
            let sum = (count % 0x0001_0001_0001_0001 + 1) * 0xffff;
            for sum in [sum, sum - off, sum.saturating_add(off), count] {
                prop_assert_eq!(is_all_ones(sum), fold(sum) == 0xffff, "{}", sum);
            }
        }

        #[test]
        fn a_fast_sum_is_the_slow_one(octets in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(finish(&octets, 0), slow(&octets).to_be_bytes());
        }

        #[test]
        fn a_delta_gives_what_a_full_recomputation_gives(
            mut octets in prop::collection::vec(any::<u8>(), 40..120),
            at in 0_usize..9,
            new in prop::array::uniform4(any::<u8>()),
        ) {
            octets[39] |= 1; // all-zero data has two representations
            let old = slow(&octets);
            let at = at * 2;
            let delta = Delta::between(&octets[at..at + 4], &new);
            let back = delta.reversed();
            octets[at..at + 4].copy_from_slice(&new);
            let updated = delta.apply(old.to_be_bytes());
            prop_assert_eq!(updated, slow(&octets).to_be_bytes());
            prop_assert_eq!(back.apply(updated), old.to_be_bytes());
        }

        #[test]
        fn decrementing_the_ttl_is_its_constant(
            mut header in prop::array::uniform20(any::<u8>()), ttl in 1_u8..=255,
        ) {
            header[8] = ttl;
            header[10] = 0;
            header[11] = 0;
            let old = slow(&header);
            header[8] -= 1;
            prop_assume!(header.iter().any(|octet| *octet != 0));
            prop_assert_eq!(
                Delta::TTL_DECREMENT.apply(old.to_be_bytes()),
                slow(&header).to_be_bytes()
            );
        }
    }
}
