//! How many connections each real server has, over all workers: what least-connection schedulers
//! decide by. Written when a connection begins, changes between active and inactive, or ends;
//! never on the way of a packet that changes no state.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crossbeam::utils::CachePadded;

use super::Templates;
use crate::clock::Tick;
use crate::ids::{ServerSlot, ServiceId};
use crate::wire::U32;

/// The connections of one real server: active ones in the upper half, inactive ones in the lower,
/// so that one that changes sides does so in one step.
#[derive(Debug, Default)]
pub struct ServerLoad {
    connections: AtomicU64,
    templates: AtomicU32,
}

/// One connection.
const fn one(active: bool) -> u64 {
    if active { 1 << 32 } else { 1 }
}

impl ServerLoad {
    /// A connection begins.
    #[inline]
    pub fn add(&self, active: bool) {
        self.connections.fetch_add(one(active), Relaxed);
    }

    /// A connection ends.
    #[inline]
    pub fn remove(&self, active: bool) {
        self.connections.fetch_sub(one(active), Relaxed);
    }

    /// A connection changes sides.
    #[inline]
    pub fn change(&self, to_active: bool) {
        self.connections.fetch_add(one(to_active).wrapping_sub(one(!to_active)), Relaxed);
    }

    /// Connections that count as active (`ActiveConn`), and those that do not (`InActConn`).
    #[inline]
    pub fn connections(&self) -> (u32, u32) {
        let [active, inactive]: [U32; 2] =
            zerocopy::transmute!(self.connections.load(Relaxed).to_be());
        (active.get(), inactive.get())
    }

    /// A connection template for this server begins.
    #[inline]
    pub fn add_template(&self) {
        self.templates.fetch_add(1, Relaxed);
    }

    /// A connection template for this server ends.
    #[inline]
    pub fn remove_template(&self) {
        self.templates.fetch_sub(1, Relaxed);
    }

    /// Connection templates (`PersistConn`).
    #[inline]
    pub fn templates(&self) -> u32 {
        self.templates.load(Relaxed)
    }

    /// What lc and wlc compare, as IPVS does: an active connection weighs 256 inactive ones.
    #[inline]
    pub fn overhead(&self) -> u64 {
        let (active, inactive) = self.connections();
        (u64::from(active) << 8) + u64::from(inactive)
    }
}

/// The loads of all real servers, by [`ServerSlot`], and the templates that bind clients to them;
/// shared by the workers.
#[derive(Debug)]
pub struct ServerLoads {
    loads: Box<[CachePadded<ServerLoad>]>,
    templates: Templates,
}

impl ServerLoads {
    /// Loads for `capacity` servers, with room for few templates. For tests and measurements.
    pub fn new(capacity: usize) -> Self {
        Self::with_templates(capacity, Templates::new(1024, [1, 2, 3, 4]))
    }

    /// Loads for `capacity` servers.
    pub fn with_templates(capacity: usize, templates: Templates) -> Self {
        Self { loads: (0..capacity).map(|_| CachePadded::default()).collect(), templates }
    }

    /// The templates.
    #[inline]
    pub const fn templates(&self) -> &Templates {
        &self.templates
    }

    /// Clears a few templates from a place on; see [`Templates::sweep`].
    pub fn sweep_templates(
        &self,
        at: (usize, Tick),
        is_wanted: impl Fn(ServiceId, ServerSlot) -> bool,
    ) -> usize {
        self.templates.sweep(self, at, is_wanted)
    }

    /// Forgets templates of a service, or of a server: before its number is given to another, and
    /// when no worker has the old table any more.
    pub fn forget_templates(&self, is_meant: impl Fn(ServiceId, ServerSlot) -> bool) {
        self.templates.forget(self, is_meant);
    }

    /// How many servers there is room for.
    pub fn capacity(&self) -> usize {
        self.loads.len()
    }

    /// The load of one server; `None` beyond the capacity.
    #[inline]
    pub fn of(&self, slot: ServerSlot) -> Option<&ServerLoad> {
        self.loads.get(slot.index()).map(|load| &**load)
    }

    /// As [`ServerLoad::overhead`]; a server without a load is never the least loaded.
    #[inline]
    pub(super) fn overhead(&self, slot: ServerSlot) -> u64 {
        self.of(slot).map_or(u64::MAX, ServerLoad::overhead)
    }
}
