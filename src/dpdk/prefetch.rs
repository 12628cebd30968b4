//! Hints to the processor: fetch these cache lines, they will be needed soon.

/// Brings the cache line that `value` begins in into all cache levels.
#[inline(always)]
#[expect(clippy::inline_always, reason = "one instruction; a call would cost more than it saves")]
pub fn prefetch_read<T>(value: &T) {
    prefetch_address(std::ptr::from_ref(value).cast());
}

/// Brings the cache line that `slice[index]` begins in into all cache levels; nothing if there is
/// no such element.
#[inline(always)]
#[expect(clippy::inline_always, reason = "one instruction; a call would cost more than it saves")]
pub fn prefetch_slot<T>(slice: &[T], index: usize) {
    if let Some(slot) = slice.get(index) {
        prefetch_read(slot);
    }
}

#[inline(always)]
fn prefetch_address(address: *const i8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: the instruction is a hint; it neither faults nor changes anything.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address) };
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    {
        // SAFETY: the instruction is a hint; it neither faults nor changes anything.
        unsafe {
            std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) address,
                options(nostack, preserves_flags, readonly));
        }
    }
    #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
    {
        let _ = address;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_out_of_range_is_ignored() {
        let slots = [1u64, 2, 3];
        prefetch_slot(&slots, 2);
        prefetch_slot(&slots, 3);
        prefetch_slot(&slots, usize::MAX);
        prefetch_slot::<u64>(&[], 0);
        prefetch_read(&slots);
        assert_eq!(slots, [1, 2, 3]);
    }
}
