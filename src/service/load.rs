//! How many connections each real server has, over all workers: what least-connection schedulers
//! decide by, and thresholds limit. Written when a connection begins, changes between active and
//! inactive, or ends; never on the way of a packet that changes no state.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use crossbeam::utils::CachePadded;

use super::Templates;
use crate::clock::Tick;
use crate::ids::{ServerSlot, ServiceId};
use crate::wire::U32;

/// The load of one real server.
#[derive(Debug, Default)]
pub struct ServerLoad {
    /// Active connections in the upper half, inactive ones in the lower, so that one that changes
    /// sides does so in one step.
    connections: AtomicU64,
    /// 0: none.
    upper: AtomicU32,
    /// Below so many connections an overloaded server takes new ones again.
    lower: AtomicU32,
    overloaded: AtomicBool,
    templates: AtomicU32,
}

/// One connection.
const fn one(active: bool) -> u64 {
    if active { 1 << 32 } else { 1 }
}

fn halves(connections: u64) -> (u32, u32) {
    let [active, inactive]: [U32; 2] = zerocopy::transmute!(connections.to_be());
    (active.get(), inactive.get())
}

/// Active and inactive ones together.
fn total(connections: u64) -> u32 {
    let (active, inactive) = halves(connections);
    active.saturating_add(inactive)
}

impl ServerLoad {
    /// A connection begins.
    #[inline]
    pub fn add(&self, active: bool) {
        let before = self.connections.fetch_add(one(active), Relaxed);
        let upper = self.upper.load(Relaxed);
        if upper != 0 && total(before).saturating_add(1) >= upper {
            self.overloaded.store(true, Relaxed);
        }
    }

    /// A connection ends.
    #[inline]
    pub fn remove(&self, active: bool) {
        let before = self.connections.fetch_sub(one(active), Relaxed);
        if self.overloaded.load(Relaxed)
            && total(before).saturating_sub(1) < self.lower.load(Relaxed)
        {
            self.overloaded.store(false, Relaxed);
        }
    }

    /// A connection changes sides.
    #[inline]
    pub fn change(&self, to_active: bool) {
        self.connections.fetch_add(one(to_active).wrapping_sub(one(!to_active)), Relaxed);
    }

    /// Connections that count as active (`ActiveConn`), and those that do not (`InActConn`).
    #[inline]
    pub fn connections(&self) -> (u32, u32) {
        halves(self.connections.load(Relaxed))
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

    /// Connection templates (`PersistConn`). They do not count towards the thresholds, as in
    /// IPVS, whose thresholds compare active and inactive connections.
    #[inline]
    pub fn templates(&self) -> u32 {
        self.templates.load(Relaxed)
    }

    /// Whether nothing refers to this server any more.
    pub fn is_idle(&self) -> bool {
        self.connections.load(Relaxed) == 0 && self.templates() == 0
    }

    /// What lc and wlc compare, as IPVS does: an active connection weighs 256 inactive ones.
    #[inline]
    pub fn overhead(&self) -> u64 {
        let (active, inactive) = self.connections();
        (u64::from(active) << 8) + u64::from(inactive)
    }

    /// Whether the connections have reached the upper threshold, and not fallen below the lower
    /// one since.
    #[inline]
    pub fn is_overloaded(&self) -> bool {
        if !self.overloaded.load(Relaxed) {
            return false;
        }
        if total(self.connections.load(Relaxed)) >= self.lower.load(Relaxed) {
            return true;
        }
        // Connections ended on other workers before the one that reached the threshold said so.
        self.overloaded.store(false, Relaxed);
        false
    }

    /// Connections from which on the server takes no new ones (`upper`; 0: no limit), and below
    /// which it takes them again (`lower`; 0: three quarters of `upper`, as in IPVS).
    fn set_thresholds(&self, upper: u32, lower: u32) {
        let three_quarters = upper - upper / 4;
        let before = self.upper.swap(upper, Relaxed);
        self.lower.store(if lower == 0 { three_quarters } else { lower.min(upper) }, Relaxed);
        if upper == 0 || upper > before {
            self.overloaded.store(false, Relaxed);
        }
        if upper != 0 && total(self.connections.load(Relaxed)) >= upper {
            self.overloaded.store(true, Relaxed);
        }
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
        Self::with_templates(
            capacity,
            Templates::new(
                1024,
                [
                    0x9e37_79b9_7f4a_7c15,
                    0xd1b5_4a32_d192_ed03,
                    0x94d0_49bb_1331_11eb,
                    0xbf58_476d_1ce4_e5b9,
                ],
            ),
        )
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

    /// Sets the thresholds of one server: connections from which on it takes no new ones
    /// (`upper`; 0: no limit), and below which it takes them again (`lower`; 0: three quarters of
    /// `upper`, as in IPVS). The control thread does so before it installs the table that has them.
    pub fn set_thresholds(&self, slot: ServerSlot, upper: u32, lower: u32) {
        if let Some(load) = self.of(slot) {
            load.set_thresholds(upper, lower);
        }
    }

    /// As [`ServerLoad::overhead`]; a server without a load is never the least loaded.
    #[inline]
    pub(super) fn overhead(&self, slot: ServerSlot) -> u64 {
        self.of(slot).map_or(u64::MAX, ServerLoad::overhead)
    }

    /// The active connections; a server without a load is never the least loaded.
    #[inline]
    pub(super) fn active(&self, slot: ServerSlot) -> u32 {
        self.of(slot).map_or(u32::MAX, |load| load.connections().0)
    }

    /// As [`ServerLoad::is_overloaded`].
    #[inline]
    pub(super) fn is_overloaded(&self, slot: ServerSlot) -> bool {
        self.of(slot).is_some_and(ServerLoad::is_overloaded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(upper: u32, lower: u32) -> ServerLoads {
        let loads = ServerLoads::new(1);
        loads.set_thresholds(ServerSlot(0), upper, lower);
        loads
    }

    #[test]
    fn a_server_is_overloaded_from_the_upper_threshold_until_it_falls_below_the_lower_one() {
        for (upper, lower, free_below) in [(8, 3, 3), (8, 0, 6), (5, 0, 4), (1, 0, 1), (4, 9, 4)] {
            let loads = limited(upper, lower);
            let load = loads.of(ServerSlot(0)).unwrap();
            for connections in 1..=upper {
                assert!(!load.is_overloaded(), "{connections} of {upper}");
                load.add(connections % 2 == 0);
            }
            for connections in (1..=upper).rev() {
                assert_eq!(load.is_overloaded(), connections >= free_below, "{connections}");
                load.remove(connections % 2 == 0);
            }
            assert!(!load.is_overloaded());
        }
    }

    #[test]
    fn changed_thresholds_hold_at_once() {
        let loads = limited(0, 0);
        let load = loads.of(ServerSlot(0)).unwrap();
        for _ in 0..10 {
            load.add(true);
        }
        assert!(!load.is_overloaded());
        loads.set_thresholds(ServerSlot(0), 10, 0);
        assert!(load.is_overloaded());
        loads.set_thresholds(ServerSlot(0), 11, 0);
        assert!(!load.is_overloaded());
        loads.set_thresholds(ServerSlot(0), 5, 0);
        assert!(load.is_overloaded());
        loads.set_thresholds(ServerSlot(0), 0, 0);
        assert!(!load.is_overloaded());
    }

    #[test]
    fn templates_do_not_count_towards_the_thresholds() {
        let loads = limited(2, 0);
        let load = loads.of(ServerSlot(0)).unwrap();
        for _ in 0..5 {
            load.add_template();
        }
        assert!(!load.is_overloaded());
        assert!(!load.is_idle());
        load.remove_template();
        assert_eq!((load.templates(), load.connections()), (4, (0, 0)));
    }

    #[test]
    fn an_overload_that_was_noted_late_does_not_last() {
        let loads = limited(4, 0);
        let load = loads.of(ServerSlot(0)).unwrap();
        // As if its connections had ended between the count and the note.
        load.overloaded.store(true, Relaxed);
        assert!(!load.is_overloaded());
        for _ in 0..3 {
            load.add(true);
        }
        assert!(!load.is_overloaded());
    }
}
