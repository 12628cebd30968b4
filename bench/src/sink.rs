//! The way out of a measured worker: buffers for each interface and for the other worker, as
//! `dataplane::worker` has them, before a sink that counts and frees, as cheap as a transmit queue
//! can be, and a ring.

use std::sync::Arc;

use pointsman::dataplane::frame::Outlet;
use pointsman::dataplane::stats::WorkerStats;
use pointsman::dpdk::burst::{BURST, Burst, free_all};
use pointsman::dpdk::mbuf::Mbuf;
use pointsman::dpdk::mempool::Mempool;
use pointsman::dpdk::ring::RingProducer;
use pointsman::ids::{InterfaceId, WorkerId};
use pointsman_bench::world::Exit;

/// Buffers and counters.
#[derive(Debug)]
pub(crate) struct Sink {
    /// By interface.
    transmit: [Burst; 2],
    discarded: Burst,
    handed_over: Burst,
    /// To the other worker, if there is one.
    to_owner: Option<RingProducer>,
    pool: Mempool,
    sent: Arc<WorkerStats>,
}

impl Sink {
    /// Empty buffers.
    pub(crate) fn new(pool: &Mempool) -> Self {
        Self {
            transmit: [Burst::new(), Burst::new()],
            discarded: Burst::new(),
            handed_over: Burst::new(),
            to_owner: None,
            pool: pool.clone(),
            sent: Arc::new(WorkerStats::new(0)),
        }
    }

    /// As [`Sink::new`], with another worker that owns flows.
    pub(crate) fn beside(pool: &Mempool, to_owner: RingProducer) -> Self {
        Self { to_owner: Some(to_owner), ..Self::new(pool) }
    }

    /// Whether the ring to the other worker has room for a burst.
    pub(crate) fn has_room(&self) -> bool {
        let room = |ring: &RingProducer| ring.capacity() - ring.len() >= BURST;
        self.to_owner.as_ref().is_none_or(room)
    }

    /// Packets that were sent.
    pub(crate) fn transmitted(&self) -> u64 {
        self.sent.transmitted.get()
    }

    /// Packets that the other worker was given.
    pub(crate) fn handed_out(&self) -> u64 {
        self.sent.handed_out.get()
    }

    #[inline]
    fn flush_interface(&mut self, interface: usize) {
        let Some(burst) = self.transmit.get_mut(interface) else { return };
        if burst.is_empty() {
            return;
        }
        // The worker's counters: octets before and after what the queue takes.
        let octets: usize = burst.iter().map(Mbuf::len).sum();
        self.sent.transmitted.add(burst.len() as u64);
        self.sent.transmitted_octets.add(octets as u64);
        free_all(burst);
    }

    #[inline]
    fn flush_worker(&mut self) {
        if self.handed_over.is_empty() {
            return;
        }
        if let Some(ring) = &mut self.to_owner {
            let taken = ring.push_burst(&mut self.handed_over);
            self.sent.handed_out.add(taken as u64);
        }
        free_all(&mut self.handed_over);
    }
}

impl Exit<Mbuf> for Sink {
    #[inline]
    fn flush(&mut self) {
        for interface in 0..self.transmit.len() {
            self.flush_interface(interface);
        }
        self.flush_worker();
        free_all(&mut self.discarded);
    }
}

impl Outlet<Mbuf> for Sink {
    fn allocate(&mut self) -> Option<Mbuf> {
        self.pool.alloc()
    }

    #[inline]
    fn transmit(&mut self, interface: InterfaceId, frame: Mbuf) {
        let Some(burst) = self.transmit.get_mut(interface.index()) else { return };
        let is_full = burst.remaining_capacity() == 1;
        burst.push(frame);
        if is_full {
            self.flush_interface(interface.index());
        }
    }

    #[inline]
    fn hand_over(&mut self, _worker: WorkerId, frame: Mbuf) {
        if self.handed_over.is_full() {
            self.flush_worker();
        }
        self.handed_over.push(frame);
    }

    #[inline]
    fn discard(&mut self, frame: Mbuf) {
        if self.discarded.is_full() {
            free_all(&mut self.discarded);
        }
        self.discarded.push(frame);
    }
}
