//! Counters that an operator has set back to 0 (`ipvsadm -Z`).
//!
//! Workers count on, and metrics with them, for a counter of Prometheus never goes back. What is
//! remembered is what had been counted.

use std::collections::BTreeMap;

use super::api::message::Traffic;
use super::desired::Inventory;
use crate::ids::ServerSlot;

/// What every server had counted when it was last set back.
#[derive(Debug, Default)]
pub(super) struct Zeros(BTreeMap<ServerSlot, Traffic>);

impl Zeros {
    /// Sets the servers of a service, or all, back; `None`: there is no such service.
    pub(super) fn set(
        &mut self,
        inventory: &Inventory,
        service: Option<&str>,
        counted: impl Fn(ServerSlot) -> Traffic,
    ) -> Option<()> {
        let chosen = |name: &str| service.is_none_or(|service| service == name);
        let services = inventory.services.iter().filter(|entry| chosen(&entry.service.name));
        let mut services = services.peekable();
        if service.is_some() && services.peek().is_none() {
            return None;
        }
        for server in services.flat_map(|entry| &entry.servers) {
            self.0.insert(server.slot, counted(server.slot));
        }
        Some(())
    }

    /// What was counted since.
    pub(super) fn since(&self, slot: ServerSlot, counted: Traffic) -> Traffic {
        let zero = self.0.get(&slot).copied().unwrap_or_default();
        Traffic {
            connections: counted.connections.saturating_sub(zero.connections),
            in_packets: counted.in_packets.saturating_sub(zero.in_packets),
            out_packets: counted.out_packets.saturating_sub(zero.out_packets),
            in_octets: counted.in_octets.saturating_sub(zero.in_octets),
            out_octets: counted.out_octets.saturating_sub(zero.out_octets),
        }
    }
}
