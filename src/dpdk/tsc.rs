//! The time-stamp counter: the cheapest clock there is, read once per poll.

/// The counter now. It grows at [`hz`] and is the same on all cores of a machine that DPDK supports.
#[inline]
pub fn now() -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: every x86-64 processor has the instruction; it only reads.
        unsafe { std::arch::x86_64::_rdtsc() }
    }
    #[cfg(target_arch = "aarch64")]
    {
        let ticks: u64;
        // SAFETY: Linux lets programs read the virtual counter; it only reads.
        unsafe { std::arch::asm!("mrs {0}, cntvct_el0", out(reg) ticks, options(nomem, nostack)) };
        ticks
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    compile_error!("dpdk::tsc::now is not written for this architecture yet");
}

/// Ticks of [`now`] in a second; 0 before [`Eal::init`](super::eal::Eal::init).
#[cfg(feature = "dpdk")]
pub fn hz() -> u64 {
    // SAFETY: reads a number that rte_eal_init sets.
    unsafe { dpdk_sys::rte_get_tsc_hz() }
}
