//! Rings that hand packets from one thread to another: one producer, one consumer, no lock.

use std::cell::Cell;
use std::ffi::{c_uint, c_void};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

use super::burst::{self, Burst};
use super::eal::Eal;
use super::error::{Attempt, DpdkError, name};
use super::mempool::ANY_SOCKET;

/// Octets of a ring's name with its final zero (`RTE_RING_NAMESIZE`).
const NAME_OCTETS: usize = 29;
/// Packets that a ring takes at most.
const MAX_CAPACITY: usize = (1 << 31) - 2;

/// A ring for `capacity` packets. `socket` is the NUMA node, `None` for any.
///
/// When both ends are gone, the packets still inside go back to their pools.
pub fn ring(
    eal: &Arc<Eal>,
    ring_name: &str,
    capacity: usize,
    socket: Option<i32>,
) -> Result<(RingProducer, RingConsumer), DpdkError> {
    let c_name = name(ring_name, NAME_OCTETS)?;
    let count = c_uint::try_from(capacity)
        .ok()
        .filter(|_| (1..=MAX_CAPACITY).contains(&capacity))
        .ok_or_else(|| DpdkError::OutOfRange {
            what: "capacity",
            subject: format!("ring {ring_name}"),
            given: capacity,
            min: 1,
            max: MAX_CAPACITY,
        })?;
    let flags = dpdk_sys::RING_F_SP_ENQ | dpdk_sys::RING_F_SC_DEQ | dpdk_sys::RING_F_EXACT_SZ;
    let attempt = Attempt::new("rte_ring_create");
    let socket = socket.unwrap_or(ANY_SOCKET);
    // SAFETY: the name is a C string that DPDK copies; DPDK checks the numbers.
    let raw = unsafe { dpdk_sys::rte_ring_create(c_name.as_ptr(), count, socket, flags) };
    let Some(raw) = NonNull::new(raw) else {
        return Err(attempt.failed(format!("ring {ring_name} of {capacity} packets"), -1));
    };
    let inner = Arc::new(Inner { raw, capacity, _eal: Arc::clone(eal) });
    let producer = RingProducer { inner: Arc::clone(&inner), _one_thread: PhantomData };
    Ok((producer, RingConsumer { inner, _one_thread: PhantomData }))
}

#[derive(Debug)]
struct Inner {
    raw: NonNull<dpdk_sys::rte_ring>,
    capacity: usize,
    _eal: Arc<Eal>,
}

// SAFETY: the ring's two ends may work at the same time from different threads; there is one of each.
unsafe impl Send for Inner {}
// SAFETY: as above; shared access only counts.
unsafe impl Sync for Inner {}

impl Inner {
    #[inline]
    fn len(&self) -> usize {
        // SAFETY: the ring lives as long as `self`; DPDK reads two counters.
        unsafe { dpdk_sys::shim_ring_count(self.raw.as_ptr()) as usize }
    }

    /// Adds packets to `burst`. Only one thread at a time may do so.
    #[inline]
    fn pop_burst(&self, burst: &mut Burst) -> usize {
        let (next, room) = burst::spare(burst);
        // SAFETY: the ring lives as long as `self`, and there is room for `room` pointers.
        let taken =
            unsafe { dpdk_sys::shim_ring_pop(self.raw.as_ptr(), next.cast::<*mut c_void>(), room) };
        let taken = taken as usize;
        // SAFETY: only packets go in, so `taken` packets came out, and they are ours now.
        unsafe { burst::grow(burst, taken) };
        taken
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let mut burst = Burst::new();
        while self.pop_burst(&mut burst) > 0 {
            burst::free_all(&mut burst);
        }
        // SAFETY: both ends are gone, and the ring is empty.
        unsafe { dpdk_sys::rte_ring_free(self.raw.as_ptr()) };
    }
}

/// The end that packets go in by.
#[derive(Debug)]
pub struct RingProducer {
    inner: Arc<Inner>,
    _one_thread: PhantomData<Cell<()>>,
}

impl RingProducer {
    /// Puts in what fits, from the front of `burst`, and leaves the rest there in order. How many
    /// went in.
    #[inline]
    pub fn push_burst(&mut self, burst: &mut Burst) -> usize {
        let count = burst::count(burst);
        let packets = burst::pointers(burst).cast::<*mut c_void>();
        // SAFETY: the ring lives as long as `self`; `packets` are `count` packets that we own;
        // `&mut self` makes this the only producer.
        let taken =
            unsafe { dpdk_sys::shim_ring_push(self.inner.raw.as_ptr(), packets, count) as usize };
        // SAFETY: the ring took these from the front.
        unsafe { burst::forget_front(burst, taken) };
        taken
    }

    /// Packets inside now.
    #[inline]
    pub fn len(&self) -> usize {
        self.inner.len()
    }

    /// Whether nothing is inside.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Packets that the ring takes.
    pub fn capacity(&self) -> usize {
        self.inner.capacity
    }

    /// Whether the other end is gone: what goes in now is freed with the ring.
    pub fn is_abandoned(&self) -> bool {
        Arc::strong_count(&self.inner) < 2
    }
}

/// The end that packets come out by.
#[derive(Debug)]
pub struct RingConsumer {
    inner: Arc<Inner>,
    _one_thread: PhantomData<Cell<()>>,
}

impl RingConsumer {
    /// Adds to `burst` what is inside, as far as there is room. How many came out.
    #[inline]
    pub fn pop_burst(&mut self, burst: &mut Burst) -> usize {
        self.inner.pop_burst(burst)
    }

    /// Packets inside now.
    #[inline]
    pub fn len(&self) -> usize {
        self.inner.len()
    }

    /// Whether nothing is inside.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Packets that the ring takes.
    pub fn capacity(&self) -> usize {
        self.inner.capacity
    }
}
