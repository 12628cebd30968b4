//! How many connections each real server has, over all workers: what least-connection schedulers
//! decide by. Written when a connection begins, changes between active and inactive, or ends;
//! never on the way of a packet that changes no state.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam::utils::CachePadded;

use crate::ids::ServerSlot;
use crate::wire::U32;

/// The connections of one real server: active ones in the upper half, inactive ones in the lower,
/// so that one that changes sides does so in one step.
#[derive(Debug, Default)]
pub struct ServerLoad(AtomicU64);

/// One connection.
const fn one(active: bool) -> u64 {
    if active { 1 << 32 } else { 1 }
}

impl ServerLoad {
    /// A connection begins.
    #[inline]
    pub fn add(&self, active: bool) {
        self.0.fetch_add(one(active), Relaxed);
    }

    /// A connection ends.
    #[inline]
    pub fn remove(&self, active: bool) {
        self.0.fetch_sub(one(active), Relaxed);
    }

    /// A connection changes sides.
    #[inline]
    pub fn change(&self, to_active: bool) {
        self.0.fetch_add(one(to_active).wrapping_sub(one(!to_active)), Relaxed);
    }

    /// Connections that count as active (`ActiveConn`), and those that do not (`InActConn`).
    #[inline]
    pub fn connections(&self) -> (u32, u32) {
        let [active, inactive]: [U32; 2] = zerocopy::transmute!(self.0.load(Relaxed).to_be());
        (active.get(), inactive.get())
    }

    /// What lc and wlc compare, as IPVS does: an active connection weighs 256 inactive ones.
    #[inline]
    pub fn overhead(&self) -> u64 {
        let (active, inactive) = self.connections();
        (u64::from(active) << 8) + u64::from(inactive)
    }
}

/// The loads of all real servers, by [`ServerSlot`]; shared by the workers.
#[derive(Debug)]
pub struct ServerLoads(Box<[CachePadded<ServerLoad>]>);

impl ServerLoads {
    /// Loads for `capacity` servers.
    pub fn new(capacity: usize) -> Self {
        Self((0..capacity).map(|_| CachePadded::default()).collect())
    }

    /// How many servers there is room for.
    pub fn capacity(&self) -> usize {
        self.0.len()
    }

    /// The load of one server; `None` beyond the capacity.
    #[inline]
    pub fn of(&self, slot: ServerSlot) -> Option<&ServerLoad> {
        self.0.get(slot.index()).map(|load| &**load)
    }

    /// As [`ServerLoad::overhead`]; a server without a load is never the least loaded.
    #[inline]
    pub(super) fn overhead(&self, slot: ServerSlot) -> u64 {
        self.of(slot).map_or(u64::MAX, ServerLoad::overhead)
    }
}
