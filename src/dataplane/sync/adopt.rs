//! What a standby takes over of what the active director tells. That one is right: whatever is in
//! the way of its connections here is over.

use std::sync::Arc;

use super::{End, More, SyncConnection, SyncKind};
use crate::clock::Tick;
use crate::dataplane::admit::take_ways;
use crate::dataplane::conn::{Connection, ConnectionTable, Endpoints, Flags};
use crate::dataplane::family::Family;
use crate::dataplane::frame::Frame;
use crate::dataplane::shared::Shared;
use crate::service::{Ask, FamilyServices, Server, Service, ServiceTable, TemplateKey};
use crate::wire::U16;
use crate::wire::address::Address;
use crate::wire::flow_key::{Direction, FlowKey};

/// A connection of another director, in one address family.
struct Adopted<'c, A> {
    client: (A, U16),
    vip: (A, U16),
    server: (A, U16),
    /// Whom the server sees.
    local: (A, U16),
    more: More,
    come: &'c SyncConnection,
}

fn end<A: Address>((ip, port): End) -> Option<(A, U16)> {
    Some((A::from_ip(ip)?, U16::new(port)))
}

impl<'c, A: Address> Adopted<'c, A> {
    /// `None`: its addresses are not of this family.
    fn of(come: &'c SyncConnection) -> Option<Self> {
        let more = come.more.unwrap_or_default();
        Some(Self {
            client: end(come.client)?,
            vip: end(come.vip)?,
            server: end(come.server)?,
            local: end(more.local.unwrap_or(come.client))?,
            more,
            come,
        })
    }

    /// The 5-tuple of the client's packets.
    const fn key(&self) -> FlowKey<A> {
        FlowKey {
            source: self.client.0,
            destination: self.vip.0,
            source_port: self.client.1,
            destination_port: self.vip.1,
            protocol: self.come.protocol,
        }
    }

    /// Whether a connection that is known here is this one.
    fn is(&self, known: &Connection<A>) -> bool {
        known.server() == self.server && known.local() == self.local
    }
}

/// The service that another director means.
fn service_of<'s, A: Address>(
    services: &'s FamilyServices<A>,
    come: &SyncConnection,
) -> Option<&'s Service<A>> {
    if come.mark != 0 {
        return services.of_mark(come.mark);
    }
    let named = come.more.and_then(|more| more.service).unwrap_or(come.vip);
    let (vip, port) = end(named)?;
    services.find(vip, port, come.protocol)
}

impl<F: Frame> Shared<F> {
    /// Takes over a connection or a template, or what is new of it.
    pub(super) fn take_over<A: Family>(
        &mut self,
        table: &mut ConnectionTable<A>,
        come: &SyncConnection,
        now: Tick,
    ) {
        let is_taken = match come.kind {
            SyncKind::Template => self.take_template::<A>(come, now),
            SyncKind::Connection => self.take_connection(table, come, now),
        };
        if is_taken.is_none() {
            self.stats.not_adopted.increment();
        }
    }

    fn take_connection<A: Family>(
        &mut self,
        table: &mut ConnectionTable<A>,
        come: &SyncConnection,
        now: Tick,
    ) -> Option<()> {
        let adopted = Adopted::<A>::of(come)?;
        let key = adopted.key();
        let Some(found) = table.find(table.hash(&key), &key) else {
            return self.adopt(table, &adopted, now);
        };
        if self.is_active {
            // It came before this director was the active one: what has begun since is newer.
            return Some(());
        }
        let known = table.get_mut(found.id)?;
        if found.direction != Direction::Inbound || !adopted.is(known) {
            self.make_room(table, &key);
            return self.adopt(table, &adopted, now);
        }
        known.last_seen = come.last_seen(now);
        let old = known.state();
        if old != come.state {
            self.change_state(table, found, old, come.state);
        }
        let known = table.get_mut(found.id)?;
        known.timeout_ms = come.timeout_ms;
        if let Some(text) = &adopted.more.text {
            self.resume(known, text);
        }
        table.rearm(found.id);
        Some(())
    }

    /// Ends the connection that has a 5-tuple which another one is to have.
    fn make_room<A: Family>(&mut self, table: &mut ConnectionTable<A>, key: &FlowKey<A>) {
        let found = table.find(table.hash(key), key);
        if let Some(ended) = found.and_then(|found| table.remove(found.id)) {
            self.connection_ends(&ended);
        }
    }

    /// Begins a connection of another director here. `None`: its service or its server is not
    /// known here, or its packets would not come to this worker.
    #[cold]
    fn adopt<A: Family>(
        &mut self,
        table: &mut ConnectionTable<A>,
        adopted: &Adopted<'_, A>,
        now: Tick,
    ) -> Option<()> {
        let services = Arc::clone(&self.services);
        let family = A::services(&services);
        let (mut connection, by_template) = if adopted.more.is_masqueraded {
            (masqueraded(family, adopted)?, false)
        } else {
            let service = service_of(family, adopted.come)?;
            (self.of_service(&services, service, adopted)?, service.persistence.is_some())
        };
        let way = self.next_hops.route(adopted.client.0);
        let hops = self.hops(adopted.server.0, way).ok()?;
        take_ways(self, &mut connection, hops, now);
        if by_template {
            connection.flags = connection.flags.by_template();
        }
        connection.set_state(adopted.come.state);
        connection.timeout_ms = adopted.come.timeout_ms;
        connection.last_seen = adopted.come.last_seen(now);
        let reply = connection.key(Direction::Reply);
        if self.is_active && table.find(table.hash(&reply), &reply).is_some() {
            return None;
        }
        // The reply tuple may be that of one that is over.
        self.make_room(table, &reply);
        if adopted.more.text.is_some() {
            connection.flags = connection.flags.with(Flags::HELPED);
        }
        let id = table.insert(&connection).ok()?;
        if let Some(text) = &adopted.more.text
            && let Some(record) = table.get_mut(id)
        {
            self.resume(record, text);
        }
        self.claim(&connection);
        self.connection_is_adopted(&connection);
        Some(())
    }

    /// A connection through a service.
    fn of_service<A: Family>(
        &self,
        services: &ServiceTable,
        service: &Service<A>,
        adopted: &Adopted<'_, A>,
    ) -> Option<Connection<A>> {
        let Adopted { client, vip, server, local, .. } = *adopted;
        let is_data = adopted.more.service.is_some();
        let is_meant = |known: &&Server<A>| {
            let keeps_port = known.port.get() == 0 && (server.1 == vip.1 || server.1.get() == 0);
            known.address == server.0 && (known.port == server.1 || keeps_port || is_data)
        };
        let known = service.servers().iter().find(is_meant)?;
        if service.is_one_packet(adopted.come.protocol) {
            return None;
        }
        let ends =
            Endpoints { client, service: vip, local, server, protocol: adopted.come.protocol };
        let mut connection = Connection::new(ends);
        let comes_back = if local == client {
            self.interfaces.address_between([client.0, server.0], services).is_none()
        } else {
            self.has_way_back(&connection, adopted.more.text.is_some())
        };
        if !comes_back {
            return None;
        }
        connection.belongs_to(service.id, known.slot);
        if adopted.more.is_outbound {
            connection.flags = connection.flags.with(Flags::OUTBOUND);
        }
        Some(connection)
    }

    /// A client's connections go to this server.
    fn take_template<A: Family>(&self, come: &SyncConnection, now: Tick) -> Option<()> {
        let (client, server) = (end::<A>(come.client)?.0, end::<A>(come.server)?);
        let service = service_of(A::services(&self.services), come)?;
        let persistence = service.persistence.as_ref()?;
        let is_meant = |known: &&Server<A>| {
            let is_port = known.port == server.1 || known.port.get() == 0 || server.1.get() == 0;
            known.address == server.0 && is_port
        };
        let slot = service.servers().iter().find(is_meant)?.slot;
        let key = TemplateKey::new(service.id, client, persistence.mask());
        let timeout_ms = come.timeout_ms.saturating_sub(come.idle_ms);
        let ask = Ask { key, now, timeout_ms, hold_ms: 0 };
        let templates = self.loads.templates();
        if self.is_active {
            // It came before this director was the active one: what the client was given since is newer.
            return templates.adopt_late(&self.loads, &ask, slot).then_some(());
        }
        templates.adopt(&self.loads, &ask, slot).then_some(())
    }
}

/// A connection of an inside host, with an external address and port that are the director's.
fn masqueraded<A: Address>(
    services: &FamilyServices<A>,
    adopted: &Adopted<'_, A>,
) -> Option<Connection<A>> {
    let Adopted { client, vip, server, local, .. } = *adopted;
    let rule = services.masquerade(&server.0)?;
    rule.addresses().contains(&vip.0).then_some(())?;
    let ends = Endpoints { client, service: vip, local, server, protocol: adopted.come.protocol };
    let mut connection = Connection::new(ends);
    connection.flags = connection.flags.with(Flags::OUTBOUND);
    Some(connection)
}
