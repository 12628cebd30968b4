//! Whom a real server is to see: the client; or, where it reaches the client without us, an own
//! address and port, so that its replies come back (full NAT, hairpin).

use super::conn::ConnectionTable;
use super::family::Family;
use super::frame::Frame;
use super::interface::Interfaces;
use super::port_choice::PortChoice;
use super::shared::Shared;
use super::steering::Steering;
use crate::ids::WorkerId;
use crate::service::{Masquerade, Server, ServerLoads, ServiceTable};
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
    /// The services, the servers' loads, and what endpoints are chosen by, each on its own.
    pub(super) fn locals(&mut self) -> (&ServiceTable, &ServerLoads, Locals<'_>) {
        let Self { services, loads, interfaces, steering, worker, port_choice, .. } = self;
        let locals = Locals { services, interfaces, steering, worker: *worker, port_choice };
        (services, loads, locals)
    }
}

impl Locals<'_> {
    /// Whom the server is to see. `None`: the reply tuple is taken.
    pub(super) fn endpoint<A: Family>(
        &mut self,
        table: &ConnectionTable<A>,
        server: &Server<A>,
        client: (A, U16),
        protocol: u8,
    ) -> Option<(A, U16)> {
        let reply = |local: (A, U16)| FlowKey {
            source: server.address,
            destination: local.0,
            source_port: server.port,
            destination_port: local.1,
            protocol,
        };
        let is_free = |key: &FlowKey<A>| table.find(table.hash(key), key).is_none();
        let Some(own) = self.address_between(client.0, server.address) else {
            return is_free(&reply(client)).then_some(client);
        };
        let hash = table.hash(&reply((own, U16::new(0))));
        let (steering, worker) = (self.steering, self.worker);
        let workers = steering.workers();
        let port =
            self.port_choice.find_own(&Masquerade::DEFAULT_PORTS, workers, hash, |port| {
                let key = reply((own, U16::new(port)));
                // The server's packets must lead to this worker.
                steering.owner(&key, false) == worker && is_free(&key)
            })?;
        Some((own, U16::new(port)))
    }

    /// An own address in a network that both are in, if there is one: they would speak to each
    /// other past the director.
    fn address_between<A: Family>(&self, client: A, server: A) -> Option<A> {
        let hosts = [client.to_ip(), server.to_ip()];
        self.interfaces.address_between(hosts, self.services).and_then(A::from_ip)
    }
}
