//! Octets multiplied by matrices of bits, sixteen at once, and the products summed: the instructions
//! that processors with GFNI have.
//!
//! A matrix is a word. Its octet r, the lowest first, is the row that gives bit r of the product, the
//! most significant bit first: that bit is the parity of what row and octet have in common.

/// Octets of an input, each in the lane of the matrix that it is multiplied by. A lane has eight octets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct Step {
    /// Which octet of the input, below 16, stands at each place of the two lanes; [`Step::NONE`]: zero.
    pub choice: [u8; 16],
    /// The matrices of the two lanes.
    pub matrices: [u64; 2],
}

impl Step {
    /// In [`choice`](Self::choice): no octet.
    pub const NONE: u8 = 0x80;
}

/// The processor has GFNI.
#[derive(Clone, Copy, Debug)]
pub struct Gfni(());

impl Gfni {
    /// Whether it has.
    pub fn detect() -> Option<Self> {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        {
            let is_there = is_x86_feature_detected!("gfni") && is_x86_feature_detected!("ssse3");
            is_there.then_some(Self(()))
        }
        #[cfg(any(miri, not(target_arch = "x86_64")))]
        {
            None
        }
    }

    /// The sum (XOR) of all products: of both lanes, of all steps. The input comes in words, the octets
    /// of each the lowest first: octets that were just written one by one would have to be waited for.
    #[inline(always)]
    pub fn sum(self, input: [u64; 2], steps: &[Step]) -> u64 {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        {
            use std::arch::x86_64::__m128i;
            let input: __m128i = zerocopy::transmute!(input);
            let mut sum: __m128i = zerocopy::transmute!([0_u64; 2]);
            for step in steps {
                // As text, because compilers before 1.89 have no function for the second instruction.
                // SAFETY: `detect` has seen that the processor knows the instructions. Both fields of
                // the step are read, 16 octets each; a step has 32 and is aligned to 16, so each
                // begins at a multiple of 16, as these instructions need.
                unsafe {
                    std::arch::asm!(
                        "movdqa {chosen}, {input}",
                        "pshufb {chosen}, xmmword ptr [{step}]",
                        "gf2p8affineqb {chosen}, xmmword ptr [{step} + 16], 0",
                        "pxor {sum}, {chosen}",
                        input = in(xmm_reg) input,
                        step = in(reg) step,
                        chosen = out(xmm_reg) _,
                        sum = inout(xmm_reg) sum,
                        options(pure, readonly, nostack, preserves_flags),
                    );
                }
            }
            let [first, second]: [u64; 2] = zerocopy::transmute!(sum);
            first ^ second
        }
        #[cfg(any(miri, not(target_arch = "x86_64")))]
        {
            sum_portable(input, steps)
        }
    }
}

/// The same on any processor, slowly.
pub fn sum_portable(input: [u64; 2], steps: &[Step]) -> u64 {
    let input = input.map(u64::to_le_bytes);
    let input = input.as_flattened();
    let lanes =
        steps.iter().flat_map(|step| step.choice.as_chunks::<8>().0.iter().zip(step.matrices));
    lanes.fold(0, |sum, (choice, matrix)| {
        let chosen = choice.map(|place| input.get(usize::from(place)).copied().unwrap_or(0));
        sum ^ u64::from_le_bytes(chosen.map(|octet| product(matrix, octet)))
    })
}

fn product(matrix: u64, octet: u8) -> u8 {
    matrix.to_le_bytes().iter().fold(0, |bits, row| {
        let is_odd = (row & octet).count_ones() % 2 == 1;
        bits << 1 | u8::from(is_odd)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_step() -> impl Strategy<Value = Step> {
        let place = prop_oneof![4 => 0_u8..16, 1 => Just(Step::NONE)];
        (prop::array::uniform16(place), any::<[u64; 2]>())
            .prop_map(|(choice, matrices)| Step { choice, matrices })
    }

    #[test]
    fn the_identity_gives_every_octet_as_it_is() {
        // Row r takes bit r, the most significant first.
        let identity = u64::from_le_bytes([0x80, 0x40, 0x20, 0x10, 8, 4, 2, 1]);
        for octet in 0..=u8::MAX {
            assert_eq!(product(identity, octet), octet);
        }
    }

    proptest! {
        #[test]
        fn the_instructions_do_what_the_portable_sum_does(
            input in any::<[u64; 2]>(), steps in prop::collection::vec(any_step(), 0..12),
        ) {
            if let Some(gfni) = Gfni::detect() {
                prop_assert_eq!(gfni.sum(input, &steps), sum_portable(input, &steps));
            }
        }
    }

    #[test]
    #[allow(clippy::print_stderr, reason = "says what was not tested")]
    fn a_processor_without_the_instructions_says_so() {
        if Gfni::detect().is_none() {
            eprintln!("this processor has no GFNI: the instructions themselves were NOT tested");
        }
    }
}
