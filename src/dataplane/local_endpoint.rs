//! Whom a real server is to see: the client; or, where it reaches the client without us, an own
//! address and port, so that its replies come back (full NAT, hairpin).

use super::conn::ConnectionTable;
use super::family::Family;
use super::frame::Frame;
use super::interface::Interfaces;
use super::port_choice::PortChoice;
use super::shared::Shared;
use super::stats::WorkerStats;
use super::steering::Steering;
use crate::ids::WorkerId;
use crate::service::{Masquerade, ServerLoads, ServiceTable};
use crate::wire::U16;
use crate::wire::flow_key::FlowKey;

/// What the choice depends on, and what it changes.
pub(super) struct Locals<'s> {
    services: &'s ServiceTable,
    interfaces: &'s Interfaces,
    steering: &'s Steering,
    worker: WorkerId,
    port_choice: &'s mut PortChoice,
}

impl<F: Frame> Shared<F> {
    /// The services, the servers' loads, the counters, and what endpoints are chosen by, each on
    /// its own.
    pub(super) fn locals(&mut self) -> (&ServiceTable, &ServerLoads, &WorkerStats, Locals<'_>) {
        let Self { services, loads, stats, interfaces, steering, worker, port_choice, .. } = self;
        let locals = Locals { services, interfaces, steering, worker: *worker, port_choice };
        (services, loads, stats, locals)
    }
}

impl Locals<'_> {
    /// Whom the server is to see, and the hash of its packets. `None`: the reply tuple is taken.
    pub(super) fn endpoint<A: Family>(
        &mut self,
        table: &ConnectionTable<A>,
        server: (A, U16),
        client: (A, U16),
        protocol: u8,
    ) -> Option<((A, U16), u64)> {
        let reply = |local: (A, U16)| FlowKey {
            source: server.0,
            destination: local.0,
            source_port: server.1,
            destination_port: local.1,
            protocol,
        };
        let free = |key: &FlowKey<A>| {
            let hash = table.hash(key);
            table.find(hash, key).is_none().then_some(hash)
        };
        // They would speak to each other past the director.
        let between = self.interfaces.address_between([client.0, server.0], self.services);
        let Some(own) = between else {
            return free(&reply(client)).map(|hash| (client, hash));
        };
        let goal = table.hash(&reply((own, U16::new(0))));
        let (steering, worker) = (self.steering, self.worker);
        let workers = steering.workers();
        let port =
            self.port_choice.find_own(&Masquerade::DEFAULT_PORTS, workers, goal, |port| {
                let key = reply((own, U16::new(port)));
                // The server's packets must lead to this worker.
                steering.owner(&key, false) == worker && free(&key).is_some()
            })?;
        let local = (own, U16::new(port));
        Some((local, table.hash(&reply(local))))
    }
}
