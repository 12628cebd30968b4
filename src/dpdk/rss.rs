//! Receive side scaling: what a NIC hashes, with which key, and the table from hash to queue.

use super::error::{Attempt, DpdkError};
use super::port::Port;
use crate::ids::QueueId;

/// Entries of a group of DPDK's table.
const GROUP: usize = dpdk_sys::RTE_ETH_RETA_GROUP_SIZE as usize;

/// The one end of a flow that is hashed: address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashedEnd {
    /// Where packets come from.
    Source,
    /// Where packets go to.
    Destination,
}

impl HashedEnd {
    /// `RTE_ETH_RSS_L3_…_ONLY` and `RTE_ETH_RSS_L4_…_ONLY`.
    pub const fn types(self) -> u64 {
        match self {
            Self::Source => dpdk_sys::SHIM_RSS_SOURCE_ONLY,
            Self::Destination => dpdk_sys::SHIM_RSS_DESTINATION_ONLY,
        }
    }
}

/// What is asked of a port whose packets are spread over several queues.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RssSettings {
    /// The key; empty: the device's own.
    pub key: Vec<u8>,
    /// Hash this end alone; `None`: the whole flow.
    pub only: Option<HashedEnd>,
    /// Do not spread by hash at all.
    pub off: bool,
}

impl Port {
    /// What to say when the device does not grant a wish without which the rest is no use.
    pub fn refuses(&self, wish: &'static str) -> DpdkError {
        DpdkError::NotOffered { port: self.name().to_owned(), wish }
    }

    /// Writes the table from the lower bits of a hash to a queue. The port must run.
    pub fn set_rss_table(&mut self, queues: &[QueueId]) -> Result<(), DpdkError> {
        let control = self.device().control();
        let mut groups = vec![dpdk_sys::rte_eth_rss_reta_entry64::default(); groups(queues.len())];
        for (group, queues) in groups.iter_mut().zip(queues.chunks(GROUP)) {
            for (place, (entry, queue)) in group.reta.iter_mut().zip(queues).enumerate() {
                *entry = queue.0;
                group.mask |= 1 << place;
            }
        }
        let attempt = Attempt::new("rte_eth_dev_rss_reta_update");
        let size = u16::try_from(queues.len()).unwrap_or(u16::MAX);
        // SAFETY: DPDK checks the port and reads as many groups as `size` entries take.
        let code = unsafe {
            dpdk_sys::rte_eth_dev_rss_reta_update(self.id().0, groups.as_mut_ptr(), size)
        };
        drop(control);
        attempt.check(self.name(), code)
    }

    /// The table as the device has it.
    pub fn rss_table(&self) -> Result<Vec<QueueId>, DpdkError> {
        let control = self.device().control();
        let size = self.capabilities().reta_size;
        let mut groups =
            vec![dpdk_sys::rte_eth_rss_reta_entry64::default(); groups(usize::from(size))];
        for group in &mut groups {
            group.mask = u64::MAX;
        }
        let attempt = Attempt::new("rte_eth_dev_rss_reta_query");
        // SAFETY: DPDK checks the port and writes as many groups as `size` entries take.
        let code =
            unsafe { dpdk_sys::rte_eth_dev_rss_reta_query(self.id().0, groups.as_mut_ptr(), size) };
        drop(control);
        attempt.check(self.name(), code)?;
        let entries = groups.iter().flat_map(|group| group.reta).map(QueueId);
        Ok(entries.take(size.into()).collect())
    }
}

/// DPDK's own Toeplitz hash of `input`, for comparisons: it takes a walk over the bits. The key
/// reaches four octets further than the input; both are cut to whole 32-bit words.
pub fn soft_hash(key: &[u8], input: &[u8]) -> u32 {
    let words = |octets: &[u8], read: fn([u8; 4]) -> u32| -> Vec<u32> {
        let (words, _) = octets.as_chunks();
        words.iter().map(|word| read(*word)).collect()
    };
    let mut input = words(input, u32::from_be_bytes);
    let key = words(key, u32::from_ne_bytes);
    input.truncate(key.len().saturating_sub(1));
    let count = u32::try_from(input.len()).unwrap_or(0);
    // SAFETY: DPDK reads `count` words of the input and one more of the key, which both have.
    unsafe { dpdk_sys::shim_softrss(input.as_mut_ptr(), count, key.as_ptr().cast()) }
}

/// Groups that so many entries take.
const fn groups(entries: usize) -> usize {
    entries.div_ceil(GROUP)
}
