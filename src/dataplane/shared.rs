//! What both address families of a pipeline share: the services, the next hops, the counters,
//! and the rules that need no connection table.

use std::net::IpAddr;
use std::sync::Arc;

use super::classify::{Glance, Station, glance};
use super::conn::{Connection, Flags};
use super::datagrams::FragmentKey;
use super::failover::{FailoverChannel, Message, Spoken};
use super::family::Family;
use super::frame::{Frame, Outlet};
use super::handover::Handing;
use super::helper::Helpers;
use super::housekeeping::TemplateSweep;
use super::interface::{Interface, Interfaces};
use super::mailbox::{Event, WorkerMailbox};
use super::next_hop::{NextHops, Reachability, Waiting};
use super::own_error::RateLimit;
use super::pipeline::Origin;
use super::port_choice::PortChoice;
use super::removal::Sweep;
use super::stats::{DropReason, TableGauges, WorkerStats};
use super::steering::Steering;
use super::strangers::Strangers;
use super::sync::SyncWalk;
use crate::clock::Tick;
use crate::ids::{InterfaceId, ServerSlot, WorkerId};
use crate::service::{ServerLoad, ServerLoads, ServiceTable};
use crate::wire::address::Address;
use crate::wire::ethernet::Mac;
use crate::wire::flow_key::{Direction, FlowKey, HashSecret};

/// What both address families share.
#[derive(Debug)]
pub(super) struct Shared<F> {
    pub(super) worker: WorkerId,
    /// Of the connection tables' hash.
    pub(super) secret: HashSecret,
    pub(super) interfaces: Arc<Interfaces>,
    pub(super) services: Arc<ServiceTable>,
    pub(super) loads: Arc<ServerLoads>,
    pub(super) stats: Arc<WorkerStats>,
    pub(super) mailbox: WorkerMailbox,
    /// An answer to a command that found the event queue full: it is kept, never lost.
    pub(super) unsent: Option<Event>,
    pub(super) next_hops: NextHops,
    pub(super) waiting: Waiting<F>,
    pub(super) error_limit: RateLimit,
    pub(super) steering: Steering,
    /// How many of the packets of flows that each port receives are other workers'.
    pub(super) strangers: Strangers,
    /// Whether SYNs may have to announce smaller segments.
    pub(super) clamps_mss: bool,
    /// What fits every link, octets.
    pub(super) least_mtu: u16,
    /// Where the next search for a free port begins.
    pub(super) port_choice: PortChoice,
    /// Connections that are looked through after servers were removed.
    pub(super) sweep: Sweep,
    /// Templates that are looked through for those whose time is over.
    pub(super) template_sweep: TemplateSweep,
    /// What reads the text of control connections.
    pub(super) helpers: Helpers,
    /// What is shared with the failover thread, if the director has a peer.
    pub(super) failover: Option<Arc<FailoverChannel>>,
    /// Whether this director is the active one.
    pub(super) is_active: bool,
    /// What the failover thread has had sent.
    pub(super) spoken: Spoken,
    /// Its part of a handover.
    pub(super) handing: Handing,
    /// Connections that are brought to the other director again.
    pub(super) sync_walk: SyncWalk,
    /// A message about connections that found no room, and when.
    pub(super) put_off: Option<(Message, Tick)>,
}

impl<F: Frame> Shared<F> {
    /// The worker that owns a flow, if that is another one.
    #[inline]
    pub(super) fn other_owner<A: Family>(
        &self,
        key: &FlowKey<A>,
        origin: Origin,
    ) -> Option<WorkerId> {
        if origin == Origin::Worker || !self.steering.is_needed() {
            return None;
        }
        let owner = self.owner(key);
        (owner != self.worker).then_some(owner)
    }

    /// The worker that a frame is handed over to as it is: its packet is plain, and of a flow that
    /// another one owns. Who owns it looks at the rest.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "before the hit path; the key stays in registers")]
    pub(super) fn elsewhere(&self, octets: &[u8], station: &Station) -> Option<WorkerId> {
        let owner = match glance(octets, station)? {
            Glance::V4(key) => self.owner(&key),
            Glance::V6(key) => self.owner(&key),
        };
        (owner != self.worker).then_some(owner)
    }

    /// A frame that a port has received goes to its owner.
    #[inline]
    pub(super) fn hand_over(&mut self, owner: WorkerId, frame: F, outlet: &mut impl Outlet<F>) {
        self.strangers.add();
        outlet.hand_over(owner, frame);
    }

    /// The worker that owns a flow.
    #[inline]
    pub(super) fn owner<A: Family>(&self, key: &FlowKey<A>) -> WorkerId {
        // Other own addresses have no connections but those of full NAT, whose port was chosen
        // so that this leads to their worker.
        self.steering.owner(key, A::services(&self.services).was_external(&key.destination))
    }

    /// The worker that sees all fragments of a datagram first.
    pub(super) fn fragment_owner<A: Family>(&self, key: &FragmentKey<A>) -> WorkerId {
        let outside = if self.is_ours(key.destination) { &key.source } else { &key.destination };
        self.steering.fragment_owner(outside, key.identification)
    }

    #[inline]
    pub(super) fn count(&self, slot: ServerSlot, direction: Direction, octets: u16) {
        let counters = self.stats.server(slot).unwrap_or(&self.stats.masquerade);
        match direction {
            Direction::Inbound => {
                counters.in_packets.increment();
                counters.in_octets.add(u64::from(octets));
            }
            Direction::Reply => {
                counters.out_packets.increment();
                counters.out_octets.add(u64::from(octets));
            }
        }
    }

    pub(super) fn gauges<A: Address>(&self) -> &TableGauges {
        if A::IS_V6 { &self.stats.table_v6 } else { &self.stats.table_v4 }
    }

    /// Whether it is the half of a connection that only the server's packets come to: another
    /// director has chosen the port of full NAT that leads them here. The worker of the client's
    /// packets has the other half, with the connection's part in the server's load.
    pub(super) fn is_half<A: Address>(&self, connection: &Connection<A>) -> bool {
        connection.flags.has(Flags::FULL_NAT)
            && self.steering.is_needed()
            && self.steering.owner(&connection.key(Direction::Inbound), true) != self.worker
    }

    /// Whether the packets of a connection by full NAT that another director has begun come to this
    /// director, and those that it is here for to this worker: the client's, the server's or both.
    /// Who reads its text must see both.
    pub(super) fn has_way_back<A: Family>(
        &self,
        connection: &Connection<A>,
        is_read: bool,
    ) -> bool {
        let (request, reply) =
            (connection.key(Direction::Inbound), connection.key(Direction::Reply));
        let owners = self.steering.owners(&request, &reply);
        let is_here = |owner: WorkerId| owner == self.worker;
        self.is_ours(reply.destination)
            && if is_read {
                owners.into_iter().all(is_here)
            } else {
                owners.into_iter().any(is_here)
            }
    }

    /// The load that a connection is a part of.
    pub(super) fn load_of<A: Address>(&self, connection: &Connection<A>) -> Option<&ServerLoad> {
        self.loads.of(connection.slot()).filter(|_| !self.is_half(connection))
    }

    /// Counts a connection that was decided on: the schedulers must know of it, and its neighbours
    /// must not be replaced.
    #[inline]
    pub(super) fn claim<A: Address>(&mut self, connection: &Connection<A>) {
        if let Some(load) = self.load_of(connection) {
            load.add(connection.state().is_active());
        }
        self.next_hops.acquire(connection.path.to_server);
        self.next_hops.acquire(connection.path.to_client);
    }

    /// The connection that was claimed does not begin.
    pub(super) fn give_up<A: Address>(&mut self, connection: &Connection<A>) {
        if let Some(load) = self.loads.of(connection.slot()) {
            load.remove(connection.state().is_active());
        }
        self.next_hops.release(connection.path.to_server);
        self.next_hops.release(connection.path.to_client);
    }

    /// Counts a connection that was claimed and just inserted.
    pub(super) fn connection_begins<A: Family>(&self, connection: &Connection<A>) {
        let state = connection.state();
        if let Some(server) = self.stats.server(connection.slot()) {
            server.connections.increment();
        } else {
            self.stats.masquerade.connections.increment();
            self.stats.masqueraded.increment();
        }
        let gauges = self.gauges::<A>();
        gauges.used.increment();
        gauges.states.of(state).increment();
        self.synchronise(connection);
    }

    /// Counts a connection of another director that was claimed and just inserted.
    pub(super) fn connection_is_adopted<A: Address>(&self, connection: &Connection<A>) {
        let gauges = self.gauges::<A>();
        gauges.used.increment();
        gauges.states.of(connection.state()).increment();
        if self.is_half(connection) {
            return self.stats.halves.increment();
        }
        self.stats.adopted.increment();
        if self.loads.of(connection.slot()).is_none() {
            self.stats.masqueraded.increment();
        }
    }

    /// Counts a connection that was just removed.
    pub(super) fn connection_ends<A: Address>(&mut self, connection: &Connection<A>) {
        let state = connection.state();
        let is_half = self.is_half(connection);
        match self.loads.of(connection.slot()) {
            _ if is_half => self.stats.halves.decrement(),
            Some(load) => load.remove(state.is_active()),
            None => self.stats.masqueraded.decrement(),
        }
        let gauges = self.gauges::<A>();
        gauges.used.decrement();
        gauges.expired.increment();
        gauges.states.of(state).decrement();
        self.next_hops.release(connection.path.to_server);
        self.next_hops.release(connection.path.to_client);
        if connection.helper != 0 {
            self.helped_ends(connection);
        }
        if !is_half {
            self.tell_end(connection);
        }
    }

    /// Whether ARP, ND and echo on an interface are answered for an address.
    pub(super) fn answers(&self, interface: &Interface, address: IpAddr) -> bool {
        self.interfaces.answers(interface, address, &self.services, self.is_active)
    }

    /// Whether the director is a host for an address of ours: for one that moves it need not be.
    #[cold]
    pub(super) fn accepts(&self, address: IpAddr) -> bool {
        let Some(channel) = &self.failover else { return true };
        channel.hearing.accepts || self.interfaces.iter().any(|link| link.keeps(address))
    }

    /// Whether an address is a VIP, one that masquerades appear with, or one of the director's
    /// own, floating ones included.
    #[inline]
    pub(super) fn is_ours<A: Family>(&self, address: A) -> bool {
        A::services(&self.services).is_external(&address) || self.interfaces.own(address)
    }

    /// Drops a frame for a reason.
    #[inline]
    pub(super) fn drop(&self, frame: F, reason: DropReason, outlet: &mut impl Outlet<F>) {
        self.stats.dropped.count(reason);
        outlet.discard(frame);
    }

    /// Tells the control thread of a neighbour: of any that the packet proves to deal with us
    /// (`may_create`), else only of those that are in use.
    pub(super) fn neighbor_seen(
        &self,
        interface: InterfaceId,
        address: IpAddr,
        mac: Mac,
        may_create: bool,
    ) {
        let known = self.next_hops.find(interface, address).and_then(|id| self.next_hops.get(id));
        let is_news = known.is_some_and(|entry| {
            entry.reachability != Reachability::Reachable || !entry.link.starts_with(&[mac])
        });
        if (may_create || is_news)
            && self
                .mailbox
                .post(Event::NeighborSeen { interface, address, mac, answer: may_create })
                .is_err()
        {
            self.stats.events_lost.increment();
        }
    }
}
