//! What the workers' counters say of servers and services.
//!
//! Workers count by slot, and only upwards, as counters of Prometheus must go. What belongs to whom
//! is remembered here: what a slot had counted for another server before, what servers that are
//! gone had counted for their service, and what had been counted when an operator set counters back
//! to 0 (`ipvsadm -Z`), of which metrics know nothing.

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashMap;

use super::api::message::Traffic;
use super::desired::{Inventory, InventoryService};
use crate::ids::ServerSlot;
use crate::service::Listen;

/// What there is to know besides the counters. `counted` is always what the workers have counted
/// for a slot since they run.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// What a slot had counted when its server got it.
    begun: BTreeMap<ServerSlot, Traffic>,
    /// What a server had counted when it was last set back.
    zeros: BTreeMap<ServerSlot, Traffic>,
    services: HashMap<Listen, Account>,
}

/// What a service has counted besides its servers of now.
#[derive(Debug, Default)]
struct Account {
    /// Slots of servers that are gone but may have connections.
    departed: BTreeSet<ServerSlot>,
    /// By servers whose slots have returned.
    carried: Traffic,
    /// When it was last set back.
    zero: Traffic,
}

impl Ledger {
    /// Other services are in force now.
    pub(super) fn adopt(&mut self, old: &Inventory, new: &Inventory) {
        let slots = |entry: &InventoryService| -> BTreeSet<ServerSlot> {
            entry.servers.iter().map(|server| server.slot).collect()
        };
        let of = |entry: &InventoryService| (entry.service.listen, slots(entry));
        let before: HashMap<Listen, BTreeSet<ServerSlot>> = old.services.iter().map(of).collect();
        let after: HashMap<Listen, BTreeSet<ServerSlot>> = new.services.iter().map(of).collect();
        self.services.retain(|listen, _| after.contains_key(listen));
        for (listen, now) in &after {
            let account = self.services.entry(*listen).or_default();
            if let Some(before) = before.get(listen) {
                account.departed.extend(before);
            }
            account.departed.retain(|slot| !now.contains(slot));
        }
    }

    /// Slots that are to be given to others: their connections are gone.
    pub(super) fn returned(
        &mut self,
        slots: &[ServerSlot],
        counted: impl Fn(ServerSlot) -> Traffic,
    ) {
        for slot in slots {
            let total = counted(*slot);
            let own = self.server(*slot, total);
            let mut accounts = self.services.values_mut();
            if let Some(account) = accounts.find(|account| account.departed.contains(slot)) {
                account.departed.remove(slot);
                account.carried = account.carried.plus(own);
            }
            self.begun.insert(*slot, total);
            self.zeros.remove(slot);
        }
    }

    /// What a server has counted.
    pub(super) fn server(&self, slot: ServerSlot, counted: Traffic) -> Traffic {
        counted.since(self.begun.get(&slot).copied().unwrap_or_default())
    }

    /// The same since it was last set back.
    pub(super) fn server_since_zero(&self, slot: ServerSlot, counted: Traffic) -> Traffic {
        let zero = self.zeros.get(&slot).copied().unwrap_or_default();
        self.server(slot, counted).since(zero)
    }

    /// What a service has counted, with servers that are gone.
    pub(super) fn service(
        &self,
        entry: &InventoryService,
        counted: impl Fn(ServerSlot) -> Traffic,
    ) -> Traffic {
        let account = self.services.get(&entry.service.listen);
        let departed = account.into_iter().flat_map(|account| &account.departed).copied();
        let slots = entry.servers.iter().map(|server| server.slot).chain(departed);
        let carried = account.map(|account| account.carried).unwrap_or_default();
        slots.fold(carried, |sum, slot| sum.plus(self.server(slot, counted(slot))))
    }

    /// The same since it was last set back.
    pub(super) fn service_since_zero(
        &self,
        entry: &InventoryService,
        counted: impl Fn(ServerSlot) -> Traffic,
    ) -> Traffic {
        let account = self.services.get(&entry.service.listen);
        let zero = account.map(|account| account.zero).unwrap_or_default();
        self.service(entry, counted).since(zero)
    }

    /// Sets a service and its servers, or all, back; `None`: there is no such service.
    pub(super) fn set_back(
        &mut self,
        inventory: &Inventory,
        service: Option<&str>,
        counted: impl Fn(ServerSlot) -> Traffic,
    ) -> Option<()> {
        let chosen =
            |entry: &&InventoryService| service.is_none_or(|service| service == entry.service.name);
        let chosen: Vec<_> = inventory.services.iter().filter(chosen).collect();
        if service.is_some() && chosen.is_empty() {
            return None;
        }
        for entry in chosen {
            let zero = self.service(entry, &counted);
            self.services.entry(entry.service.listen).or_default().zero = zero;
            for server in &entry.servers {
                let zero = self.server(server.slot, counted(server.slot));
                self.zeros.insert(server.slot, zero);
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::desired::InventoryServer;
    use crate::control::test_config::{config, service};
    use crate::ids::TableVersion;

    fn inventory(slots: &[u16]) -> Inventory {
        let web = service("web", "tcp://192.0.2.1:80", &["10.0.0.1:80"]);
        let server = web.servers[0];
        let servers = slots.iter().map(|slot| InventoryServer {
            server,
            slot: ServerSlot(*slot),
            weight: 1,
            drain: None,
            slow_since: None,
        });
        let services = vec![InventoryService { service: web.clone(), servers: servers.collect() }];
        Inventory { revision: 1, version: TableVersion(1), config: config(), services }
    }

    fn traffic(connections: u64) -> Traffic {
        Traffic { connections, ..Traffic::default() }
    }

    #[test]
    fn a_service_keeps_what_servers_that_are_gone_have_counted_and_their_slots_begin_anew() {
        let (both, one) = (inventory(&[0, 1]), inventory(&[0]));
        let mut ledger = Ledger::default();
        let counted = |slot: ServerSlot| traffic(if slot.0 == 0 { 5 } else { 7 });
        let total = |ledger: &Ledger, of: &Inventory| ledger.service(&of.services[0], counted);
        assert_eq!(total(&ledger, &both), traffic(12));
        ledger.adopt(&both, &one);
        assert_eq!(total(&ledger, &one), traffic(12));
        ledger.returned(&[ServerSlot(1)], counted);
        assert_eq!(total(&ledger, &one), traffic(12));
        // Another server of the service gets the slot.
        ledger.adopt(&one, &both);
        assert_eq!(total(&ledger, &both), traffic(12));
        assert_eq!(ledger.server(ServerSlot(1), traffic(8)), traffic(1));
    }

    #[test]
    fn counters_that_are_set_back_begin_at_0_and_metrics_go_on() {
        let both = inventory(&[0, 1]);
        let mut ledger = Ledger::default();
        assert_eq!(ledger.set_back(&both, Some("wep"), |_| traffic(3)), None);
        ledger.set_back(&both, Some("web"), |_| traffic(3)).unwrap();
        let later = |_| traffic(5);
        assert_eq!(ledger.service_since_zero(&both.services[0], later), traffic(4));
        assert_eq!(ledger.server_since_zero(ServerSlot(1), traffic(5)), traffic(2));
        assert_eq!(ledger.service(&both.services[0], later), traffic(10));
        assert_eq!(ledger.server(ServerSlot(1), traffic(5)), traffic(5));
    }
}
