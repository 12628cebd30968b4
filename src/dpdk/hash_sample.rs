//! The first hashes of a NIC, for whoever wants to see whether it hashes as it was told.

use std::sync::Arc;

use arrayvec::ArrayVec;
use crossbeam::queue::ArrayQueue;

use super::mbuf::Mbuf;
use crate::ids::QueueId;

/// Octets of a packet that are kept: Ethernet, a VLAN tag, an IP header and ports.
const OCTETS: usize = 96;
/// Samples of a queue.
const EACH: u16 = 8;
/// Bursts that are looked at before a queue whose packets come without hashes is given up.
const LOOKS: u16 = 4096;
/// Samples of a port that nobody has looked at yet, at most.
const WAITING: usize = 64;

/// A packet's hash by the NIC, and how the packet begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashSample {
    /// The queue that it came by.
    pub queue: QueueId,
    /// What the NIC computed.
    pub hash: u32,
    octets: ArrayVec<u8, OCTETS>,
}

impl HashSample {
    /// A sample of a packet, as far as it is kept.
    pub fn new(queue: QueueId, hash: u32, packet: &[u8]) -> Self {
        Self { queue, hash, octets: packet.iter().copied().take(OCTETS).collect() }
    }

    /// The first octets of the packet, from the Ethernet header on.
    pub fn octets(&self) -> &[u8] {
        &self.octets
    }
}

/// Samples of all queues of a port, which their workers put in.
pub type HashSamples = Arc<ArrayQueue<HashSample>>;

/// Room for the samples of a port.
pub fn hash_samples() -> HashSamples {
    Arc::new(ArrayQueue::new(WAITING))
}

/// Takes samples from the first bursts of a queue.
#[derive(Debug)]
pub(super) struct Sampler {
    samples: HashSamples,
    wanted: u16,
    looks: u16,
}

impl Sampler {
    pub(super) fn new(samples: HashSamples) -> Self {
        Self { samples, wanted: EACH, looks: LOOKS }
    }

    /// One packet of a burst, and whether more are wanted. A worker calls it: nothing allocates,
    /// and what finds no room is not kept.
    pub(super) fn look(&mut self, queue: QueueId, packets: &[Mbuf]) -> bool {
        let mut hashed = packets.iter().filter_map(|packet| Some((packet, packet.rss_hash()?)));
        if let Some((packet, hash)) = hashed.next() {
            // Whoever is not in time for this one sees the next.
            self.samples.push(HashSample::new(queue, hash, packet.octets())).ok();
            self.wanted = self.wanted.saturating_sub(1);
        }
        self.looks = self.looks.saturating_sub(1);
        self.wanted > 0 && self.looks > 0
    }
}
