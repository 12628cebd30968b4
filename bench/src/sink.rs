//! The way out of a measured worker: buffers for each interface, as `dataplane::worker` has them,
//! before a sink that counts and frees, as cheap as a transmit queue can be.

use std::sync::Arc;

use pointsman::dataplane::frame::Outlet;
use pointsman::dataplane::stats::WorkerStats;
use pointsman::dpdk::burst::{Burst, free_all};
use pointsman::dpdk::mbuf::Mbuf;
use pointsman::dpdk::mempool::Mempool;
use pointsman::ids::{InterfaceId, WorkerId};

/// Buffers and counters.
#[derive(Debug)]
pub(crate) struct Sink {
    /// By interface.
    transmit: [Burst; 2],
    discarded: Burst,
    pool: Mempool,
    sent: Arc<WorkerStats>,
}

impl Sink {
    /// Empty buffers.
    pub(crate) fn new(pool: &Mempool) -> Self {
        Self {
            transmit: [Burst::new(), Burst::new()],
            discarded: Burst::new(),
            pool: pool.clone(),
            sent: Arc::new(WorkerStats::new(0)),
        }
    }

    /// Packets that were sent.
    pub(crate) fn transmitted(&self) -> u64 {
        self.sent.transmitted.get()
    }

    /// Sends everything that is in the buffers.
    #[inline]
    pub(crate) fn flush(&mut self) {
        for interface in 0..self.transmit.len() {
            self.flush_interface(interface);
        }
        free_all(&mut self.discarded);
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

    fn hand_over(&mut self, _worker: WorkerId, frame: Mbuf) {
        // There is one worker.
        self.discard(frame);
    }

    #[inline]
    fn discard(&mut self, frame: Mbuf) {
        if self.discarded.is_full() {
            free_all(&mut self.discarded);
        }
        self.discarded.push(frame);
    }
}
