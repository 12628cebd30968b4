//! Pools of packet buffers.

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::burst::{self, Burst};
use super::eal::Eal;
use super::error::{Attempt, DpdkError, name};
use super::mbuf::Mbuf;

/// Octets of a mempool's name with its final zero (`RTE_MEMPOOL_NAMESIZE` less DPDK's prefixes).
const NAME_OCTETS: usize = 26;
/// `SOCKET_ID_ANY`: memory of any NUMA node.
pub(super) const ANY_SOCKET: i32 = -1;
/// Octets that DPDK keeps free in front of a received packet.
const HEADROOM: usize = dpdk_sys::RTE_PKTMBUF_HEADROOM as usize;

/// A pool of packet buffers; a clone is another handle of the same pool.
///
/// The memory is freed when the last handle is gone and all buffers are back. A pool whose buffers
/// are still out is kept, and with it the EAL if need be: a live [`Mbuf`] never dangles.
#[derive(Clone, Debug)]
pub struct Mempool(Arc<Inner>);

struct Inner {
    raw: NonNull<dpdk_sys::rte_mempool>,
    name: String,
    capacity: u32,
    data_room_octets: u16,
    eal: Arc<Eal>,
}

// SAFETY: DPDK's pools are made for use by many threads at once (multi-producer and -consumer).
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl Mempool {
    /// A pool of `count` buffers that take `data_room_octets` octets of packet each, with the usual
    /// headroom on top. `cache` buffers are kept by each lcore for itself (at most 512, and at most
    /// two thirds of `count`). `socket` is the NUMA node, `None` for any.
    pub fn create(
        eal: &Arc<Eal>,
        pool_name: &str,
        count: u32,
        data_room_octets: u16,
        cache: u32,
        socket: Option<i32>,
    ) -> Result<Self, DpdkError> {
        let c_name = name(pool_name, NAME_OCTETS)?;
        let room = usize::from(data_room_octets) + HEADROOM;
        let room = u16::try_from(room).map_err(|_| DpdkError::OutOfRange {
            what: "data room",
            subject: format!("mempool {pool_name}"),
            given: usize::from(data_room_octets),
            min: 0,
            max: usize::from(u16::MAX) - HEADROOM,
        })?;
        let attempt = Attempt::new("rte_pktmbuf_pool_create");
        let socket = socket.unwrap_or(ANY_SOCKET);
        // SAFETY: the name is a C string that DPDK copies; DPDK checks the numbers.
        let raw = unsafe {
            dpdk_sys::rte_pktmbuf_pool_create(c_name.as_ptr(), count, cache, 0, room, socket)
        };
        let Some(raw) = NonNull::new(raw) else {
            return Err(attempt.failed(format!("mempool {pool_name} of {count} mbufs"), -1));
        };
        let (name, eal) = (pool_name.to_owned(), Arc::clone(eal));
        Ok(Self(Arc::new(Inner { raw, name, capacity: count, data_room_octets, eal })))
    }

    /// The pool's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// How many buffers the pool has.
    pub fn capacity(&self) -> u32 {
        self.0.capacity
    }

    /// Octets of packet that one buffer takes.
    pub fn data_room_octets(&self) -> u16 {
        self.0.data_room_octets
    }

    /// How many buffers are out: with ports, rings and owners of an [`Mbuf`]. Approximate while
    /// others use the pool; it walks the caches of all lcores, so it is not for the packet path.
    pub fn in_use(&self) -> u32 {
        in_use(self.0.raw)
    }

    /// One empty buffer, if there is any left.
    #[inline]
    pub fn alloc(&self) -> Option<Mbuf> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: the pool lives as long as `self`, and there is room for one pointer.
        let code = unsafe { dpdk_sys::shim_alloc_bulk(self.0.raw.as_ptr(), &raw mut raw, 1) };
        if code != 0 {
            return None;
        }
        // SAFETY: DPDK just handed this buffer out, to us alone.
        NonNull::new(raw).map(|raw| unsafe { Mbuf::from_raw(raw) })
    }

    /// Adds `count` empty buffers to `burst`: all of them, or none and `false` if the pool or the
    /// burst has no room for that many.
    #[inline]
    pub fn alloc_bulk(&self, burst: &mut Burst, count: usize) -> bool {
        let (next, room) = burst::spare(burst);
        let wanted = match u32::try_from(count) {
            Ok(wanted) if wanted <= room => wanted,
            _ => return false,
        };
        // SAFETY: the pool lives as long as `self`, and there is room for `wanted` pointers.
        let code = unsafe { dpdk_sys::shim_alloc_bulk(self.0.raw.as_ptr(), next, wanted) };
        if code != 0 {
            return false;
        }
        // SAFETY: DPDK wrote `count` buffers there and handed them to us alone.
        unsafe { burst::grow(burst, count) };
        true
    }

    /// The pool as DPDK takes it. It lives as long as a handle does.
    pub(super) fn raw(&self) -> *mut dpdk_sys::rte_mempool {
        self.0.raw.as_ptr()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let pool = RetiredPool { raw: self.raw };
        // The order matters. A worker's free counts a buffer as returned before it is done with
        // the pool; if that was seen here, the worker was running before, and still is or was
        // joined, which is after its free ended.
        let out = pool.in_use();
        let workers = self.eal.running().load(Ordering::SeqCst);
        if out == 0 && workers == 0 {
            pool.free();
            return;
        }
        if out > 0 {
            tracing::warn!(pool = self.name, mbufs = out, "mempool dropped before its packets");
        }
        self.eal.retire(pool);
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mempool")
            .field("name", &self.name)
            .field("capacity", &self.capacity)
            .field("in_use", &in_use(self.raw))
            .finish_non_exhaustive()
    }
}

/// A pool without a handle: no buffer leaves it any more.
#[derive(Debug)]
pub(super) struct RetiredPool {
    raw: NonNull<dpdk_sys::rte_mempool>,
}

// SAFETY: a pool may be looked at and freed by any thread.
unsafe impl Send for RetiredPool {}

impl RetiredPool {
    /// How many buffers are still out.
    pub(super) fn in_use(&self) -> u32 {
        in_use(self.raw)
    }

    /// Frees the memory. The caller has made sure that all buffers are back.
    pub(super) fn free(self) {
        // SAFETY: no handle and no buffer is left, so nothing points into the pool.
        unsafe { dpdk_sys::rte_mempool_free(self.raw.as_ptr()) };
    }
}

fn in_use(pool: NonNull<dpdk_sys::rte_mempool>) -> u32 {
    // SAFETY: the pool is alive; DPDK reads counters only.
    unsafe { dpdk_sys::rte_mempool_in_use_count(pool.as_ptr()) }
}
