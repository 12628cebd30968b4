//! A burst: the packets of one poll.

use arrayvec::ArrayVec;

use super::mbuf::Mbuf;

/// Packets of one burst at most.
pub const BURST: usize = 64;

/// Up to [`BURST`] packets, on the stack.
pub type Burst = ArrayVec<Mbuf, BURST>;

/// `BURST` for DPDK's counts.
#[expect(clippy::cast_possible_truncation, reason = "64")]
const BURST_U32: u32 = BURST as u32;
const _: () = assert!(BURST <= u16::MAX as usize);

/// Gives all packets of `burst` back to their pools in one call.
#[inline]
pub fn free_all(burst: &mut Burst) {
    let count = count(burst);
    if count == 0 {
        return;
    }
    let packets = pointers(burst);
    // SAFETY: no packets remain in the burst, so no one drops them again.
    unsafe { burst.set_len(0) };
    // SAFETY: `packets` has `count` packets that the burst owned until now.
    unsafe { dpdk_sys::shim_free_bulk(packets, count) };
}

/// How many packets `burst` holds, as DPDK counts.
#[inline]
pub(super) fn count(burst: &Burst) -> u32 {
    u32::try_from(burst.len()).unwrap_or(BURST_U32)
}

/// The packets of `burst` as DPDK takes them: `Mbuf` is a transparent `NonNull<rte_mbuf>`.
#[inline]
pub(super) fn pointers(burst: &mut Burst) -> *mut *mut dpdk_sys::rte_mbuf {
    burst.as_mut_ptr().cast()
}

/// Where the next packet of `burst` goes, and for how many there is room.
#[inline]
pub(super) fn spare(burst: &mut Burst) -> (*mut *mut dpdk_sys::rte_mbuf, u32) {
    let len = burst.len();
    let room = BURST_U32 - count(burst);
    // SAFETY: `len` is at most the capacity, so this stays within the array or one past it.
    let next = unsafe { burst.as_mut_ptr().add(len) };
    (next.cast(), room)
}

/// Makes the `added` packets that DPDK wrote to [`spare`] part of the burst.
///
/// # Safety
/// DPDK wrote that many packets there, handed them over, and there was room for them.
#[inline]
pub(super) unsafe fn grow(burst: &mut Burst, added: usize) {
    let len = burst.len() + added;
    // SAFETY: the caller says that these packets are there and owned.
    unsafe { burst.set_len(len) };
}

/// Forgets the first `taken` packets, which DPDK owns now, and moves the others to the front.
///
/// # Safety
/// DPDK took exactly that many packets from the front of this burst.
#[inline]
pub(super) unsafe fn forget_front(burst: &mut Burst, taken: usize) {
    let start = burst.as_mut_ptr();
    let rest = burst.len() - taken;
    // SAFETY: nothing is read as an owner while the packets move.
    unsafe { burst.set_len(0) };
    if rest > 0 {
        // SAFETY: `taken` is at most the old length.
        let from = unsafe { start.add(taken) };
        // SAFETY: `rest` packets lie there, and the front has room for them; they may overlap.
        unsafe { std::ptr::copy(from, start, rest) };
    }
    // SAFETY: `rest` packets lie at the front, each owned once.
    unsafe { burst.set_len(rest) };
}
