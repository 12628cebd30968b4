//! How much memory a configuration takes: for `pointsman check`, and for the director, which
//! sizes its pool of packet buffers by it.

use super::model::Config;

/// A packet buffer beside its data: `rte_mbuf`, headroom, and the mempool's own.
const MBUF_OVERHEAD_OCTETS: u64 = 128 + 128 + 64;
/// Buffers that a worker can have in its hands beside those in its queues: the mempool's cache,
/// bursts, buffers before queues, packets that wait for a neighbour (1024) and fragments that wait
/// for their first one (1024 of each family).
const WORKER_MBUFS: u64 = 4096;
/// Packets that a ring between two workers takes.
pub const RING: u32 = 1024;
/// Most buffers that are made for rings: they are never all full.
const RING_MBUFS: u64 = 65_536;
/// Fewest buffers of a pool.
const LEAST_MBUFS: u64 = 8192;
/// A connection: its state and its share of the index.
const CONNECTION_OCTETS: u64 = 160;
/// A connection template.
const TEMPLATE_OCTETS: u64 = 32;

/// Memory that a configuration takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryNeed {
    /// Packet buffers: as stated, or as many as queues, rings and workers can hold at once, as
    /// 2^n - 1, which a mempool stores best.
    pub mbufs: u64,
    /// Octets of them.
    pub packet_octets: u64,
    /// Octets of the connection tables and templates.
    pub connection_octets: u64,
}

impl Config {
    /// How much memory packet buffers and connection tables take.
    pub fn memory_need(&self) -> MemoryNeed {
        let workers = self.director.workers.len() as u64;
        let rings = u64::from(self.dpdk.rx_descriptors) + u64::from(self.dpdk.tx_descriptors);
        let queues = self
            .ports()
            .into_iter()
            .map(|port| port.queues().map_or(workers, |queues| u64::from(queues).min(workers)));
        let between = (workers * workers.saturating_sub(1) * u64::from(RING)).min(RING_MBUFS);
        let needed = queues.sum::<u64>() * rings + between + workers * WORKER_MBUFS;
        let needed = needed.next_power_of_two().max(LEAST_MBUFS) - 1;
        let mbufs = self.dpdk.mbufs.map_or(needed, u64::from);
        MemoryNeed {
            mbufs,
            packet_octets: mbufs * (u64::from(self.dpdk.mbuf_octets) + MBUF_OVERHEAD_OCTETS),
            connection_octets: u64::from(self.director.connections) * CONNECTION_OCTETS
                + u64::from(self.director.persistence_templates.next_power_of_two())
                    * TEMPLATE_OCTETS,
        }
    }
}
