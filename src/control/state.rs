//! What the operator wants, and the one door through which it changes.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::ids::{ServerSlot, TableVersion};
use crate::service::{Listen, RealServer, ServiceTable, SlotRegistry, VirtualService};

/// Why a change is refused; nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A server of the table was never given a slot in the counters.
    #[error("server {server} of service {service} has no slot in the counters")]
    NoSlot {
        /// The service.
        service: Listen,
        /// The server.
        server: SocketAddr,
    },
}

/// A change of what the operator wants.
#[derive(Debug)]
pub(super) enum Change {
    /// The services that the director has started with, and the table compiled from them.
    Adopt {
        /// In the order of the file.
        services: Vec<VirtualService>,
        /// What the workers have.
        table: Arc<ServiceTable>,
    },
}

/// The services in force, with the slots of their servers: a snapshot for readers.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    pub(super) version: TableVersion,
    pub(super) services: Vec<InventoryService>,
}

/// A service and its servers in the order of the file.
#[derive(Debug)]
pub(super) struct InventoryService {
    pub(super) service: VirtualService,
    pub(super) servers: Vec<(RealServer, ServerSlot)>,
}

/// What the operator wants. Whatever changes it comes through [`DesiredState::apply`]; so far
/// that is the start alone.
#[derive(Debug)]
pub(super) struct DesiredState {
    slots: SlotRegistry,
    /// Kept until the next version: the workers hold references to the same table.
    table: Arc<ServiceTable>,
    inventory: Arc<Inventory>,
}

impl DesiredState {
    /// Nothing is wanted yet.
    pub(super) fn new(slots: SlotRegistry) -> Self {
        Self { slots, table: Arc::new(ServiceTable::empty()), inventory: Arc::default() }
    }

    /// Makes one change, whole or not at all, and returns what is in force then.
    pub(super) fn apply(&mut self, change: Change) -> Result<Arc<Inventory>, Refused> {
        let Change::Adopt { services, table } = change;
        let services = services.into_iter().map(|service| self.with_slots(service));
        let services = services.collect::<Result<_, _>>()?;
        self.inventory = Arc::new(Inventory { version: table.version(), services });
        self.table = table;
        Ok(Arc::clone(&self.inventory))
    }

    /// The version in force.
    pub(super) fn version(&self) -> TableVersion {
        self.table.version()
    }

    fn with_slots(&self, service: VirtualService) -> Result<InventoryService, Refused> {
        let with_slot = |server: &RealServer| {
            let slot = self.slots.server(service.listen, server.address);
            slot.map(|slot| (*server, slot))
                .ok_or(Refused::NoSlot { service: service.listen, server: server.address })
        };
        let servers = service.servers.iter().map(with_slot).collect::<Result<_, _>>()?;
        Ok(InventoryService { service, servers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::test_config::service;
    use crate::service::Rules;

    #[test]
    fn services_are_adopted_with_the_slots_of_their_servers() {
        let services = vec![service("web", "tcp://192.0.2.1:80", &["10.0.0.1:80", "10.0.0.2:80"])];
        let mut slots = SlotRegistry::new(8);
        let table =
            ServiceTable::compile(TableVersion(1), Rules::of(&services), &mut slots).unwrap();
        let mut state = DesiredState::new(slots);
        let inventory = state.apply(Change::Adopt { services, table: Arc::new(table) }).unwrap();
        assert_eq!(inventory.version, TableVersion(1));
        assert_eq!(state.version(), TableVersion(1));
        let [web] = &inventory.services[..] else { panic!("one service") };
        assert_eq!(web.servers.len(), 2);
        assert_ne!(web.servers[0].1, web.servers[1].1);
    }

    #[test]
    fn a_table_of_other_services_is_refused_and_changes_nothing() {
        let services = vec![service("web", "tcp://192.0.2.1:80", &["10.0.0.1:80"])];
        let mut state = DesiredState::new(SlotRegistry::new(8));
        let table = Arc::new(ServiceTable::empty());
        let refused = state.apply(Change::Adopt { services, table });
        assert!(matches!(refused, Err(Refused::NoSlot { .. })));
        assert_eq!(state.version(), TableVersion(0));
    }
}
