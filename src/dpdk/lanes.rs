//! Eight 16-bit numbers compared at once.

/// Which of the numbers are `wanted`: bit 2 i for number i.
#[inline(always)]
#[expect(clippy::inline_always, reason = "four instructions; a call would cost more")]
pub fn equal_lanes(lanes: &[u16; 8], wanted: u16) -> u32 {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        // SAFETY: every x86-64 processor has SSE2.
        unsafe { equal_sse2(lanes, wanted) }
    }
    #[cfg(any(miri, not(target_arch = "x86_64")))]
    {
        equal_portable(lanes, wanted)
    }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
#[target_feature(enable = "sse2")]
fn equal_sse2(lanes: &[u16; 8], wanted: u16) -> u32 {
    use std::arch::x86_64::{_mm_cmpeq_epi16, _mm_movemask_epi8, _mm_set_epi64x, _mm_set1_epi16};
    let [low, high]: [i64; 2] = zerocopy::transmute!(*lanes);
    let equal = _mm_cmpeq_epi16(_mm_set_epi64x(high, low), _mm_set1_epi16(wanted.cast_signed()));
    // Each lane gives two bits.
    _mm_movemask_epi8(equal).cast_unsigned() & 0x5555
}

/// The same on any processor.
#[cfg(any(test, miri, not(target_arch = "x86_64")))]
#[inline]
fn equal_portable(lanes: &[u16; 8], wanted: u16) -> u32 {
    lanes.iter().rev().fold(0, |bits, lane| bits << 2 | u32::from(*lane == wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_is_set_for_each_equal_number_and_for_no_other() {
        let lanes = [1, 0x8000, 0xffff, 1, 0x7fff, 0x8001, 0, 1];
        for wanted in [0, 1, 2, 3, 0x7fff, 0x8000, 0x8001, 0xfffe, 0xffff] {
            let bits = (0..8).filter(|lane| lanes[*lane] == wanted).map(|lane| 1 << (2 * lane));
            let expected = bits.sum::<u32>();
            assert_eq!(equal_lanes(&lanes, wanted), expected, "{wanted:#x}");
            assert_eq!(equal_portable(&lanes, wanted), expected, "{wanted:#x}");
        }
    }
}
