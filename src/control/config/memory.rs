//! About how much memory a configuration takes: for `pointsman check`, and to refuse what cannot
//! work. The director sizes its pools itself; this is the same sum, from below.

use super::model::Config;

/// A packet buffer beside its data: `rte_mbuf`, headroom, and the mempool's own.
const MBUF_OVERHEAD_OCTETS: u64 = 128 + 128 + 64;
/// The mempool cache of a worker, filled to its flush threshold.
const CACHE_MBUFS: u64 = 768;
/// A connection: its state and its share of the index.
const CONNECTION_OCTETS: u64 = 160;

/// Memory that a configuration takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryNeed {
    /// Packet buffers, stated or estimated.
    pub mbufs: u64,
    /// Octets of them.
    pub packet_octets: u64,
    /// Octets of the connection tables.
    pub connection_octets: u64,
}

impl Config {
    /// About how much memory packet buffers and connection tables take.
    pub fn memory_need(&self) -> MemoryNeed {
        let workers = self.director.workers.len() as u64;
        let rings = u64::from(self.dpdk.rx_descriptors) + u64::from(self.dpdk.tx_descriptors);
        let queues = self.interfaces.iter().map(|interface| {
            interface.queues.map_or(workers, |queues| u64::from(queues).min(workers))
        });
        let estimate = queues.sum::<u64>() * rings + workers * CACHE_MBUFS;
        let mbufs = self.dpdk.mbufs.map_or(estimate, u64::from);
        MemoryNeed {
            mbufs,
            packet_octets: mbufs * (u64::from(self.dpdk.mbuf_octets) + MBUF_OVERHEAD_OCTETS),
            connection_octets: u64::from(self.director.connections) * CONNECTION_OCTETS,
        }
    }
}
