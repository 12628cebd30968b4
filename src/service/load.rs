//! How many connections each real server has, over all workers: what least-connection schedulers
//! decide by. Written when a connection begins, changes between active and inactive, or ends;
//! never on the way of a packet that changes no state.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crossbeam::utils::CachePadded;

use crate::ids::ServerSlot;

/// The connections of one real server.
#[derive(Debug, Default)]
pub struct ServerLoad {
    active: AtomicU32,
    inactive: AtomicU32,
}

impl ServerLoad {
    fn side(&self, active: bool) -> &AtomicU32 {
        if active { &self.active } else { &self.inactive }
    }

    /// A connection begins.
    #[inline]
    pub fn add(&self, active: bool) {
        self.side(active).fetch_add(1, Relaxed);
    }

    /// A connection ends.
    #[inline]
    pub fn remove(&self, active: bool) {
        self.side(active).fetch_sub(1, Relaxed);
    }

    /// A connection changes sides.
    #[inline]
    pub fn change(&self, to_active: bool) {
        self.remove(!to_active);
        self.add(to_active);
    }

    /// Connections that count as active (`ActiveConn`).
    #[inline]
    pub fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }

    /// Connections that count as inactive (`InActConn`).
    #[inline]
    pub fn inactive(&self) -> u32 {
        self.inactive.load(Relaxed)
    }

    /// What lc and wlc compare, as IPVS does: an active connection weighs 256 inactive ones.
    #[inline]
    pub fn overhead(&self) -> u64 {
        (u64::from(self.active()) << 8) + u64::from(self.inactive())
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
